use expect_test::expect;

use super::*;

/// A repository with one mistake of each sort, over several files.
fn bad() -> Files {
    let file = |path: &str, text: &str| (path.to_owned(), text.as_bytes().to_vec());
    let head = "apiVersion: ferry.dev/v1alpha1\n";
    let providers = format!(
        "{head}kind: Provider\nmetadata: {{ name: archive }}\nspec: {{ type: ova, ova: {{ path: /srv/ova }} }}\n\
         ---\n{head}kind: Provider\nmetadata: {{ name: rack }}\nspec: {{ type: local, local: {{ path: /srv/vms }} }}\n\
         ---\n{head}kind: Provider\nmetadata: {{ name: rack }}\nspec: {{ type: local, local: {{ path: /srv/two }} }}\n\
         ---\n{head}kind: Provider\nmetadata: {{ name: vc }}\nspec:\n  type: vsphere\n  password: hunter2\n"
    );
    let plan = |name: &str, rest: &str| {
        format!("---\n{head}kind: Plan\nmetadata: {{ name: {name} }}\nspec:\n{rest}\n")
    };
    let plans = [
        plan(
            "one",
            "  provider: { source: archiv, destination: rack }\n  vms: [{ name: a }, { name: a }]",
        ),
        plan(
            "two",
            "  provider: { source: rack, destination: archive }\n  skipGuestConversion: true\n  type: warm\n  vms: [{ name: 'ä' }]",
        ),
        plan(
            "three",
            "  provider: { source: vc, destination: rack }\n  skipGuestConversion: true\n  map: { network: nets }\n  vms:\n  - { name: b, hooks: [{ hook: h, step: PreHook }] }\n  - { name: c }",
        ),
        plan(
            "four",
            "  provider: { source: archive, destination: rack }\n  skipGuestConversion: true\n  vms: [{ name: Web 01 }]",
        ),
        plan(
            "five",
            "  provider: { source: archive, destination: rack }\n  skipGuestConversion: true\n  vms: [{ id: x, targetName: web-01 }]",
        ),
    ];
    let nets = format!(
        "{head}kind: NetworkMapping\nmetadata: {{ name: nets }}\nspec:\n  provider: {{ source: archive, destination: rack }}\n  \
         map:\n  - {{ source: {{ name: n }}, destination: {{ type: pod }} }}\n  - {{ source: {{ name: n }}, destination: {{ type: ignored }} }}\n"
    );
    let migrations = format!(
        "{head}kind: Migration\nmetadata: {{ name: m1 }}\nspec: {{ plan: four, cancel: [web 01], again: [web 01] }}\n\
         ---\n{head}kind: Migration\nmetadata: {{ name: m2 }}\nspec: {{ plan: four }}\n\
         ---\n{head}kind: Migration\nmetadata: {{ name: m3 }}\nspec: {{ plan: fou }}\n"
    );
    Files {
        files: vec![
            file("a/providers.yaml", &providers),
            file("b/nets.yaml", &nets),
            file("b/plans.yaml", &plans.concat()),
            file("c/broken.yml", "kind: CutoverWindow\npassword: \"s3cret\nspec: [\n"),
            file("c/migrations.yml", &migrations),
            ("d.yaml".to_owned(), b"\xff\xfe".to_vec()),
        ],
        refused: vec![("link.yaml".to_owned(), "it is a symbolic link".to_owned())],
    }
}

#[test]
fn all_mistakes_are_found_in_one_run() {
    let files = bad();
    let findings = judge(&files, &Limits::default());
    let lines: String = findings.iter().map(|finding| finding.to_string() + "\n").collect();
    expect![[r#"
        a/providers.yaml:8:19: another Provider is called `rack` as well: a/providers.yaml:13:19 [FY0401] … hint: rename or remove one
        a/providers.yaml:13:19: another Provider is called `rack` as well: a/providers.yaml:8:19 [FY0401] … hint: rename or remove one
        a/providers.yaml:19:1: the field `credentials` is missing in `spec` [FY0206] … hint: `ferry explain Provider` says what belongs here
        a/providers.yaml:19:1: the field `url` is missing in `spec` [FY0206] … hint: `ferry explain Provider` says what belongs here
        a/providers.yaml:21:3: the field `password` holds a secret, which must not stand in git [FY0211] … hint: change the secret where it is used, and keep the new one in the controller's settings
        b/nets.yaml:8:23: a second entry for one network: `n` is not supported yet [FY0303] … hint: leave one entry for each network of the source
        b/plans.yaml:6:23: no Provider is called `archiv` [FY0402] … hint: did you mean `archive`?
        b/plans.yaml:7:9: the VM `a` stands in this plan twice: b/plans.yaml:7:22 [FY0406] … hint: remove one entry
        b/plans.yaml:7:22: the VM `a` stands in this plan twice: b/plans.yaml:7:9 [FY0406] … hint: remove one entry
        b/plans.yaml:13:23: the Provider `rack` is a target, not a source [FY0404] … hint: name a Provider with `type: ova`
        b/plans.yaml:13:42: the Provider `archive` is a source, not a target [FY0404] … hint: name a Provider with `type: local`
        b/plans.yaml:15:9: `type`: `warm` is not supported yet [FY0303] … hint: write `type: cold`
        b/plans.yaml:16:9: no name for the target can be made of `ä` [FY0408] … hint: write `targetName`
        b/plans.yaml:22:23: the Provider `vc` is broken: a/providers.yaml:15:1 [FY0403] … hint: mend it there
        b/plans.yaml:24:19: the NetworkMapping `nets` maps from `archive` to `rack` [FY0405] … hint: plan and mapping must name the same two providers
        b/plans.yaml:26:16: the field `hooks` is not supported yet [FY0302] … hint: remove it
        b/plans.yaml:35:9: `five/x` would be called `web-01` on the same target: b/plans.yaml:43:9 [FY0407] … hint: give one of them a `targetName`
        b/plans.yaml:43:9: `four/Web 01` would be called `web-01` on the same target: b/plans.yaml:35:9 [FY0407] … hint: give one of them a `targetName`
        c/broken.yml:2:11: this is no YAML: unclosed quote [FY0106] … hint: look at the indentation, the quotes and the brackets here and just above
        c/migrations.yml:4:15: 2 migrations run the plan `four`, one after another [FY0409]
        c/migrations.yml:4:30: the plan `four` has no VM `web 01` [FY0410] … hint: did you mean `Web 01`?
        c/migrations.yml:4:47: the plan `four` has no VM `web 01` [FY0410] … hint: did you mean `Web 01`?
        c/migrations.yml:4:47: the VM `web 01` is canceled and repeated; it is canceled [FY0411] … hint: take it out of one list
        c/migrations.yml:9:15: 2 migrations run the plan `four`, one after another [FY0409]
        c/migrations.yml:14:15: no Plan is called `fou` [FY0402] … hint: did you mean `four`?
        d.yaml:1:1: the file is not UTF-8 from here on [FY0101] … hint: save the file as UTF-8
        link.yaml: not read: it is a symbolic link [FY0113] … hint: put the manifest itself there, as a regular file
    "#]].assert_eq(&lines);
}

#[test]
#[expect(clippy::too_many_lines, reason = "most of it is the text that is expected")]
fn findings_are_shown_at_their_lines_and_secrets_never() {
    let files = bad();
    let findings = judge(&files, &Limits::default());
    let shown = text(&files, &findings, &Renderer::plain());
    expect![[r#"
        error[FY0401]: another Provider is called `rack` as well: a/providers.yaml:13:19
         --> a/providers.yaml:8:19
          |
        8 | metadata: { name: rack }
          |                   ^^^^
          |
          = help: rename or remove one

        error[FY0401]: another Provider is called `rack` as well: a/providers.yaml:8:19
          --> a/providers.yaml:13:19
           |
        13 | metadata: { name: rack }
           |                   ^^^^
           |
           = help: rename or remove one

        error[FY0206]: the field `credentials` is missing in `spec`
          --> a/providers.yaml:19:1
           |
        19 | spec:
           | ^^^^
           |
           = help: `ferry explain Provider` says what belongs here

        error[FY0206]: the field `url` is missing in `spec`
          --> a/providers.yaml:19:1
           |
        19 | spec:
           | ^^^^
           |
           = help: `ferry explain Provider` says what belongs here

        error[FY0211]: the field `password` holds a secret, which must not stand in git
          --> a/providers.yaml:21:3
           |
        21 |   password: *******
           |   ^^^^^^^^
           |
           = help: change the secret where it is used, and keep the new one in the controller's settings

        error[FY0303]: a second entry for one network: `n` is not supported yet
         --> b/nets.yaml:8:23
          |
        8 |   - { source: { name: n }, destination: { type: ignored } }
          |                       ^
          |
          = help: leave one entry for each network of the source

        error[FY0402]: no Provider is called `archiv`
         --> b/plans.yaml:6:23
          |
        6 |   provider: { source: archiv, destination: rack }
          |                       ^^^^^^
          |
          = help: did you mean `archive`?

        error[FY0406]: the VM `a` stands in this plan twice: b/plans.yaml:7:22
         --> b/plans.yaml:7:9
          |
        7 |   vms: [{ name: a }, { name: a }]
          |         ^
          |
          = help: remove one entry

        error[FY0406]: the VM `a` stands in this plan twice: b/plans.yaml:7:9
         --> b/plans.yaml:7:22
          |
        7 |   vms: [{ name: a }, { name: a }]
          |                      ^
          |
          = help: remove one entry

        error[FY0404]: the Provider `rack` is a target, not a source
          --> b/plans.yaml:13:23
           |
        13 |   provider: { source: rack, destination: archive }
           |                       ^^^^
           |
           = help: name a Provider with `type: ova`

        error[FY0404]: the Provider `archive` is a source, not a target
          --> b/plans.yaml:13:42
           |
        13 |   provider: { source: rack, destination: archive }
           |                                          ^^^^^^^
           |
           = help: name a Provider with `type: local`

        error[FY0303]: `type`: `warm` is not supported yet
          --> b/plans.yaml:15:9
           |
        15 |   type: warm
           |         ^^^^
           |
           = help: write `type: cold`

        error[FY0408]: no name for the target can be made of `ä`
          --> b/plans.yaml:16:9
           |
        16 |   vms: [{ name: 'ä' }]
           |         ^
           |
           = help: write `targetName`

        error[FY0403]: the Provider `vc` is broken: a/providers.yaml:15:1
          --> b/plans.yaml:22:23
           |
        22 |   provider: { source: vc, destination: rack }
           |                       ^^
           |
           = help: mend it there

        error[FY0405]: the NetworkMapping `nets` maps from `archive` to `rack`
          --> b/plans.yaml:24:19
           |
        24 |   map: { network: nets }
           |                   ^^^^
           |
           = help: plan and mapping must name the same two providers

        error[FY0302]: the field `hooks` is not supported yet
          --> b/plans.yaml:26:16
           |
        26 |   - { name: b, hooks: [{ hook: h, step: PreHook }] }
           |                ^^^^^
           |
           = help: remove it

        error[FY0407]: `five/x` would be called `web-01` on the same target: b/plans.yaml:43:9
          --> b/plans.yaml:35:9
           |
        35 |   vms: [{ name: Web 01 }]
           |         ^
           |
           = help: give one of them a `targetName`

        error[FY0407]: `four/Web 01` would be called `web-01` on the same target: b/plans.yaml:35:9
          --> b/plans.yaml:43:9
           |
        43 |   vms: [{ id: x, targetName: web-01 }]
           |         ^
           |
           = help: give one of them a `targetName`

        error[FY0106]: this is no YAML: unclosed quote
         --> c/broken.yml:2:11
          |
        2 | password: *******
          |           ^^^^^^^
          |
          = help: look at the indentation, the quotes and the brackets here and just above

        info[FY0409]: 2 migrations run the plan `four`, one after another
         --> c/migrations.yml:4:15
          |
        4 | spec: { plan: four, cancel: [web 01], again: [web 01] }
          |               ^^^^

        error[FY0410]: the plan `four` has no VM `web 01`
         --> c/migrations.yml:4:30
          |
        4 | spec: { plan: four, cancel: [web 01], again: [web 01] }
          |                              ^^^
          |
          = help: did you mean `Web 01`?

        error[FY0410]: the plan `four` has no VM `web 01`
         --> c/migrations.yml:4:47
          |
        4 | spec: { plan: four, cancel: [web 01], again: [web 01] }
          |                                               ^^^
          |
          = help: did you mean `Web 01`?

        error[FY0411]: the VM `web 01` is canceled and repeated; it is canceled
         --> c/migrations.yml:4:47
          |
        4 | spec: { plan: four, cancel: [web 01], again: [web 01] }
          |                                               ^^^
          |
          = help: take it out of one list

        info[FY0409]: 2 migrations run the plan `four`, one after another
         --> c/migrations.yml:9:15
          |
        9 | spec: { plan: four }
          |               ^^^^

        error[FY0402]: no Plan is called `fou`
          --> c/migrations.yml:14:15
           |
        14 | spec: { plan: fou }
           |               ^^^
           |
           = help: did you mean `four`?

        error[FY0101]: the file is not UTF-8 from here on
         --> d.yaml:1:1
          |
        1 | ��
          | ^^
          |
          = help: save the file as UTF-8

        error[FY0113]: not read: it is a symbolic link
        --> link.yaml
         = help: put the manifest itself there, as a regular file

        6 files checked: 25 critical, 0 warnings, 2 for information
    "#]].assert_eq(&shown);
    let styled = text(&files, &findings, &Renderer::styled());
    for output in [shown, styled, json(&files, &findings), github(&findings)] {
        assert!(!output.contains("hunter2") && !output.contains("s3cret"), "{output}");
    }
}

#[test]
fn other_programs_read_the_findings() {
    let files = Files {
        files: vec![("a,b:c.yaml".to_owned(), b"a: 1\n\"50%\": 1\na: 2\n".to_vec())],
        refused: Vec::new(),
    };
    let findings = judge(&files, &Limits::default());
    expect![[r#"
        ::error file=a%2Cb%3Ac.yaml,line=1,col=1,title=FY0202::`apiVersion` is missing (hint: write `apiVersion: ferry.dev/v1alpha1`)
        ::error file=a%2Cb%3Ac.yaml,line=1,col=1,title=FY0203::`kind` is missing (hint: one of `Provider`, `NetworkMapping`, `StorageMapping`, `Plan`, `Migration`, `CutoverWindow`, `Policy`, `Host`, `Provisioner`, `Hook`)
        ::error file=a%2Cb%3Ac.yaml,line=3,col=1,title=FY0107::the key `a` stands already on line 1 (hint: remove one of the two)
    "#]].assert_eq(&github(&findings));
    let value: serde_json::Value = serde_json::from_str(&json(&files, &findings)).unwrap();
    assert_eq!(value["critical"], 3);
    assert_eq!(value["findings"][2]["place"]["line"], 3);
}

#[test]
fn secrets_are_blotted_out_and_columns_stay() {
    let lines = [
        "password: hunter2 # x",
        "  - { \"api-key\": a, b: c }",
        "url: https://user:pw@host/path",
        "name: web-01",
        "clientSecret : \t'x y'",
    ];
    expect![[r#"
        password: ******* * *
          - { "api-key": ** ** * *
        url: https:*******************
        name: web-01
        clientSecret : 	** **
    "#]]
    .assert_eq(&lines.map(|line| without_secret(line) + "\n").concat());
}

#[test]
fn a_folder_is_read_and_links_are_refused() {
    let folder_path = tempfile::tempdir().unwrap();
    let root = folder_path.path();
    std::fs::create_dir_all(root.join("b/c")).unwrap();
    std::fs::create_dir_all(root.join(".git")).unwrap();
    for name in ["b/c/x.yml", "a.yaml", "README.md", ".git/y.yaml"] {
        std::fs::write(root.join(name), "a: 1\n").unwrap();
    }
    std::os::unix::fs::symlink("a.yaml", root.join("link.yaml")).unwrap();
    let files = folder(root, &Limits { bytes: 2, ..Limits::default() }).unwrap();
    let paths: Vec<&str> = files.files.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!(paths, ["a.yaml", "b/c/x.yml"]);
    assert!(files.files.iter().all(|(_, bytes)| bytes.len() == 3));
    assert_eq!(files.refused, [("link.yaml".to_owned(), "it is a symbolic link".to_owned())]);
    assert!(folder(&root.join("missing"), &Limits::default()).is_err());
}
