use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::*;
use crate::desired;

/// Manifests that are good, one of each kind.
pub(crate) const GOOD: &str = "\
apiVersion: ferry.dev/v1alpha1
kind: Provider
metadata: { name: archive }
spec: { type: ova, ova: { path: /srv/ova } }
---
apiVersion: ferry.dev/v1alpha1
kind: Provider
metadata: { name: rack, labels: { tier: \"1\" } }
spec: { type: local, local: { path: /srv/vms } }
---
apiVersion: ferry.dev/v1alpha1
kind: NetworkMapping
metadata: { name: nets }
spec:
  provider: { source: archive, destination: rack }
  map:
    - { source: { name: VM Network }, destination: { type: pod } }
    - { source: { name: DMZ }, destination: { type: multus, name: dmz } }
---
apiVersion: ferry.dev/v1alpha1
kind: StorageMapping
metadata: { name: disks }
spec:
  provider: { source: archive, destination: rack }
  map: []
---
apiVersion: ferry.dev/v1alpha1
kind: Plan
metadata: { name: web }
spec:
  description: The web servers.
  provider: { source: archive, destination: rack }
  map: { network: nets, storage: disks }
  skipGuestConversion: true
  shutdown: { timeout: 1h 30m }
  vms:
    - name: Web 01
    - id: ova:ab/db
      targetName: db
      targetPowerState: \"on\"
---
apiVersion: ferry.dev/v1alpha1
kind: Migration
metadata: { name: web-1 }
spec: { plan: web, again: [Web 01] }
";

fn lines(findings: &[Finding]) -> String {
    findings.iter().map(|finding| finding.to_string() + "\n").collect()
}

fn check(text: &str, expected: Expect) {
    let file = parse_file("p.yaml", text.as_bytes(), &Limits::default());
    expected.assert_eq(&lines(&file.findings));
    assert!(!file.whole() || file.findings.is_empty() || !file.documents.is_empty());
}

#[test]
fn good_manifests_have_no_findings_and_know_their_places() {
    let file = parse_file("p.yaml", GOOD.as_bytes(), &Limits::default());
    assert_eq!(lines(&file.findings), "");
    assert!(file.whole() && !file.mentions_windows);
    let places: Vec<String> = file
        .documents
        .iter()
        .map(|document| format!("{} {}", document.name, document.place_of("/spec/vms/1/id")))
        .collect();
    expect![[r#"
        [
            "archive p.yaml:4:7",
            "rack p.yaml:9:7",
            "nets p.yaml:15:3",
            "disks p.yaml:24:3",
            "web p.yaml:38:11",
            "web-1 p.yaml:45:7",
        ]
    "#]]
    .assert_debug_eq(&places);
}

#[test]
fn line_ends_marks_and_empty_documents_change_nothing() {
    let plain = parse_file("p.yaml", GOOD.as_bytes(), &Limits::default());
    let windows = format!("\u{feff}{}", GOOD.replace('\n', "\r\n"));
    let empty = format!("---\n---\n# nothing\n---\n{GOOD}---\n...\n");
    for text in [windows, empty] {
        let file = parse_file("p.yaml", text.as_bytes(), &Limits::default());
        assert_eq!(lines(&file.findings), "");
        let specs = |file: &ParsedFile| -> Vec<_> {
            file.documents.iter().map(|document| document.spec.clone()).collect()
        };
        assert_eq!(specs(&file), specs(&plain));
    }
    assert!(parse_file("p.yaml", b"", &Limits::default()).whole());
}

#[test]
fn a_digest_is_that_of_the_document_alone() {
    let digests = |text: &str| -> Vec<String> {
        let file = parse_file("p.yaml", text.as_bytes(), &Limits::default());
        file.documents.iter().map(|document| document.digest.clone()).collect()
    };
    let before = digests(GOOD);
    let after = digests(&GOOD.replace("path: /srv/ova", "path: /srv/other"));
    assert_ne!(before.first(), after.first());
    assert_eq!(before.get(1..), after.get(1..));
}

#[test]
fn what_yaml_can_do_wrong() {
    check(
        "kind: [1, 2\nname: x\n",
        expect![[r#"
        p.yaml:2:5: this is no YAML: illegal placement of ':' indicator [FY0106] … hint: look at the indentation, the quotes and the brackets here and just above
    "#]],
    );
    check(
        "a: 1\na: 2\n",
        expect![[r#"
            p.yaml:1:1: `apiVersion` is missing [FY0202] … hint: write `apiVersion: ferry.dev/v1alpha1`
            p.yaml:1:1: `kind` is missing [FY0203] … hint: one of `Provider`, `NetworkMapping`, `StorageMapping`, `Plan`, `Migration`, `CutoverWindow`, `Policy`, `Host`, `Provisioner`, `Hook`
            p.yaml:2:1: the key `a` stands already on line 1 [FY0107] … hint: remove one of the two
        "#]],
    );
    check(
        "a: &x 1\nb: *x\nc: *y\nd: !!str 5\n? [a, b]\n: 1\ne: .inf\n",
        expect![[r#"
            p.yaml:1:1: `apiVersion` is missing [FY0202] … hint: write `apiVersion: ferry.dev/v1alpha1`
            p.yaml:1:1: `kind` is missing [FY0203] … hint: one of `Provider`, `NetworkMapping`, `StorageMapping`, `Plan`, `Migration`, `CutoverWindow`, `Policy`, `Host`, `Provisioner`, `Hook`
            p.yaml:1:7: anchors and aliases (`&name`, `*name`) are not read [FY0108] … hint: write the value out
            p.yaml:2:4: anchors and aliases (`&name`, `*name`) are not read [FY0108] … hint: write the value out
            p.yaml:3:4: anchors and aliases (`&name`, `*name`) are not read [FY0108] … hint: write the value out
            p.yaml:4:10: tags (`!name`) are not read [FY0109] … hint: remove it; write text that looks like a number in quotes
            p.yaml:5:3: a list or a mapping cannot be a key [FY0110] … hint: put quotes around text that holds `[` or `{`
            p.yaml:7:4: `.inf` is no number with a finite value [FY0111] … hint: put quotes around text
        "#]],
    );
    check(
        "- a\n",
        expect![[r#"
        p.yaml:1:1: the document is a list, not a mapping [FY0201] … hint: start with `apiVersion: ferry.dev/v1alpha1` and `kind:`
    "#]],
    );
    check(
        "just text\n",
        expect![[r#"
        p.yaml:1:1: the document is text, not a mapping [FY0201] … hint: start with `apiVersion: ferry.dev/v1alpha1` and `kind:`
    "#]],
    );
    check(
        &format!("a: {}", "[".repeat(60)),
        expect![[r#"
        p.yaml:1:63: this is no YAML: unclosed bracket '[' [FY0106] … hint: look at the indentation, the quotes and the brackets here and just above
    "#]],
    );
    check(
        "a: \"\u{1b}[31m\"\n\u{202e}: 1\n",
        expect![[r#"
        p.yaml:1:5: this is no YAML: unexpected character: `\u{1b}' [FY0106] … hint: look at the indentation, the quotes and the brackets here and just above
    "#]],
    );
}

#[test]
fn a_file_that_is_no_text_is_a_finding() {
    let file = parse_file("p.yaml", b"a: 1\nb\xc3\xa4\xff: 2\n", &Limits::default());
    expect![[r#"
        p.yaml:2:3: the file is not UTF-8 from here on [FY0101] … hint: save the file as UTF-8
    "#]]
    .assert_eq(&lines(&file.findings));
    assert!(!file.parses && !file.mentions_windows);
    let utf16: Vec<u8> =
        "kind: CutoverWindow\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let mut marked = vec![0xff, 0xfe];
    marked.extend(utf16);
    assert!(parse_file("p.yaml", &marked, &Limits::default()).mentions_windows);
}

#[test]
fn limits_are_findings() {
    let small = Limits { bytes: 2000, documents: 2, depth: 4, nodes: 20 };
    let of = |text: &str| {
        let file = parse_file("p.yaml", text.as_bytes(), &small);
        assert!(!file.parses);
        lines(&file.findings)
    };
    let text = [
        of(&"x".repeat(2001)),
        of("--- \n---\n---\n---\n"),
        of("a: {b: {c: {d: {e: 1}}}}\n"),
        of(&format!("[{}]", "1,".repeat(30))),
        of("a: [\n---\nb: [\n---\nc: [\n---\nd: [\n"),
    ]
    .concat();
    expect![[r#"
        p.yaml: the file holds 2001 bytes, more than the 2000 that are read [FY0102] … hint: split it into several files
        p.yaml:3:1: the file holds more than 2 documents; the rest is not read [FY0103] … hint: split it into several files
        p.yaml:1:16: the document is nested more than 4 levels deep [FY0104] … hint: look for brackets that are not meant
        p.yaml:1:38: the file holds more than 20 keys and values; the rest is not read [FY0105] … hint: split it into several files
        p.yaml:1:4: this is no YAML: unclosed bracket '[' [FY0106] … hint: look at the indentation, the quotes and the brackets here and just above
        p.yaml:3:4: this is no YAML: unclosed bracket '[' [FY0106] … hint: look at the indentation, the quotes and the brackets here and just above
    "#]].assert_eq(&text);
    let many = "a: &x 1\n".to_owned() + &"---\na: &x 1\n".repeat(600);
    let file = parse_file("p.yaml", many.as_bytes(), &Limits::default());
    assert_eq!(file.findings.len(), FINDINGS_MAX + 1);
}

#[test]
#[expect(clippy::too_many_lines, reason = "most of it is the texts that are expected")]
fn what_a_document_can_say_wrong() {
    check(
        "kind: Plan\n",
        expect![[r#"
        p.yaml:1:1: `apiVersion` is missing [FY0202] … hint: write `apiVersion: ferry.dev/v1alpha1`
    "#]],
    );
    check(
        "apiVersion: ferry.dev/v1\nspec: {}\n",
        expect![[r#"
            p.yaml:1:1: `kind` is missing [FY0203] … hint: one of `Provider`, `NetworkMapping`, `StorageMapping`, `Plan`, `Migration`, `CutoverWindow`, `Policy`, `Host`, `Provisioner`, `Hook`
            p.yaml:1:13: `ferry.dev/v1` is not a version that is read [FY0202] … hint: write `apiVersion: ferry.dev/v1alpha1`
        "#]],
    );
    check(
        "apiVersion: ferry.dev/v1alpha1\nkind: Plam\n",
        expect![[r#"
        p.yaml:2:7: the kind `Plam` is not known [FY0204] … hint: did you mean `Plan`?
    "#]],
    );
    check(
        "apiVersion: ferry.dev/v1alpha1\nkind: CutoverWindow\n",
        expect![[r#"
            p.yaml:1:1: the field `metadata` is missing in the document [FY0206] … hint: `ferry explain CutoverWindow` says what belongs here
            p.yaml:1:1: the field `spec` is missing in the document [FY0206] … hint: `ferry explain CutoverWindow` says what belongs here
        "#]],
    );
    check(
        "apiVersion: forklift.konveyor.io/v1beta1\nkind: Plan\n",
        expect![[r#"
        p.yaml:1:13: documents of `forklift.konveyor.io/v1beta1` are not supported yet [FY0301] … hint: write the same as `apiVersion: ferry.dev/v1alpha1`; `ferry explain Plan` shows the fields
    "#]],
    );
    let head = "apiVersion: ferry.dev/v1alpha1\nmetadata: { name: x }\n";
    let provider = format!("{head}kind: Provider\n");
    check(
        &format!("{provider}spec: {{ type: vsphere, url: https://vc, password: hunter2 }}\n"),
        expect![[r#"
            p.yaml:4:1: the field `credentials` is missing in `spec` [FY0206] … hint: `ferry explain Provider` says what belongs here
            p.yaml:4:41: the field `password` holds a secret, which must not stand in git [FY0211] … hint: change the secret where it is used, and keep the new one in the controller's settings
        "#]],
    );
    check(
        &format!("{provider}spec: {{ type: ovaa, ova: {{ path: 7 }} }}\n"),
        expect![[r#"
            p.yaml:4:15: `spec.type` cannot be `ovaa`: one of `ova`, `local`, `vsphere`, `kubevirt` [FY0208] … hint: did you mean `ova`?
            p.yaml:4:34: `spec.ova.path` is a number, expected text [FY0207] … hint: put quotes around it
        "#]],
    );
    check(
        &format!("{provider}spec: {{ type: local, local: {{ path: x, diskFormat: qcow }} }}\n"),
        expect![[r#"
            p.yaml:4:52: `spec.local.diskFormat` cannot be `qcow`: one of `raw`, `qcow2` [FY0208] … hint: did you mean `qcow2`?
        "#]],
    );
    check(
        &format!(
            "{provider}spec: {{ type: local, local: {{ path: x, diskFormat: vmdk, format: raw }} }}\n"
        ),
        expect![[r#"
            p.yaml:4:52: `spec.local.diskFormat` cannot be `vmdk`: one of `raw`, `qcow2` [FY0208] … hint: `ferry explain Provider.local.diskFormat` says what belongs here
            p.yaml:4:58: the field `format` is not known in `spec.local` [FY0205] … hint: fields here: `path`, `diskFormat`
        "#]],
    );
    check(
        &format!("{provider}spec: {{ type: ova, local: {{ path: x }} }}\n"),
        expect![[r#"
            p.yaml:4:1: the field `ova` is missing in `spec` [FY0206] … hint: `ferry explain Provider` says what belongs here
            p.yaml:4:20: `spec.local` does not go with this `type` [FY0210] … hint: remove it, or choose another `type`
        "#]],
    );
    check(
        &format!("{provider}spec:\n  type: ova\n  ova: {{ pth: x, path: '' }}\n"),
        expect![[r#"
            p.yaml:6:10: the field `pth` is not known in `spec.ova` [FY0205] … hint: did you mean `path`?
            p.yaml:6:24: `spec.ova.path` is empty [FY0209] … hint: `ferry explain Provider.ova.path` says what belongs here
        "#]],
    );
    check(
        &format!("{provider}spec:\n"),
        expect![[r#"
            p.yaml:4:5: `spec` is nothing, expected a mapping [FY0207] … hint: `ferry explain Provider` says what belongs here
        "#]],
    );
    let network = format!("{head}kind: NetworkMapping\n");
    check(
        &format!(
            "{network}spec:\n  provider: {{ source: a, destination: b, url: 'https://u:pw@h/' }}\n  map:\n  \
             - {{ source: {{ name: a }}, destination: {{ type: multus }} }}\n  \
             - {{ source: {{ id: a }}, destination: {{ type: pod, name: x }} }}\n"
        ),
        expect![[r#"
            p.yaml:5:42: the field `url` holds a secret, which must not stand in git [FY0211] … hint: change the secret where it is used, and keep the new one in the controller's settings
            p.yaml:7:28: the field `name` is missing in `spec.map[0].destination` [FY0206] … hint: `ferry explain NetworkMapping.map.destination` says what belongs here
            p.yaml:8:17: the field `id` is not supported yet [FY0302] … hint: remove it
            p.yaml:8:52: `spec.map[1].destination.name` does not go with this `type` [FY0210] … hint: remove it, or choose another `type`
        "#]],
    );
    let plan = format!("{head}kind: Plan\nspec:\n  provider: {{ source: a, destination: b }}\n");
    check(
        &format!(
            "{plan}  type: hot\n  targetPowerstate: on\n  wave: 1\n  shutdown: {{ timeout: 10 min }}\n  \
             onFailure: true\n  vms:\n  - name: a\n    id: b\n  - {{}}\n  - uuid: x\n  - name: 12\n  \
             - name: c\n    targetName: Web_01\n    targetPowerState: up\n    hooks: [{{ hook: h, step: PreHook }}]\n"
        ),
        expect![[r#"
            p.yaml:6:9: `spec.type` cannot be `hot`: one of `cold`, `warm` [FY0208] … hint: `ferry explain Plan.type` says what belongs here
            p.yaml:7:3: the field `targetPowerstate` is not known in `spec` [FY0205] … hint: did you mean `targetPowerState`?
            p.yaml:8:3: the field `wave` is not supported yet [FY0302] … hint: remove it
            p.yaml:9:24: `spec.shutdown.timeout` is not written as a time such as `10m` or `1h 30m` [FY0209] … hint: `ferry explain Plan.shutdown.timeout` says what belongs here
            p.yaml:10:14: `spec.onFailure` cannot be a truth value: one of `keep`, `delete` [FY0208] … hint: `ferry explain Plan.onFailure` says what belongs here
            p.yaml:12:5: `spec.vms[0]` needs exactly one of `name`, `id`, `uuid` [FY0210] … hint: `ferry explain Plan.vms` says what belongs here
            p.yaml:14:5: `spec.vms[1]` needs exactly one of `name`, `id`, `uuid` [FY0210] … hint: `ferry explain Plan.vms` says what belongs here
            p.yaml:16:11: `spec.vms[3].name` is a number, expected text [FY0207] … hint: put quotes around it
            p.yaml:18:17: `spec.vms[4].targetName` is not written as an RFC 1123 label: lower-case letters, digits and `-`, with a letter or digit at both ends [FY0209] … hint: `ferry explain Plan.vms.targetName` says what belongs here
            p.yaml:19:23: `spec.vms[4].targetPowerState` cannot be `up`: one of `auto`, `on`, `off` [FY0208] … hint: `ferry explain Plan.vms.targetPowerState` says what belongs here
            p.yaml:20:5: the field `hooks` is not supported yet [FY0302] … hint: remove it
        "#]],
    );
    check(
        &format!("{plan}  vms: many\n  labels: {{ a: 1 }}\n"),
        expect![[r#"
            p.yaml:6:8: `spec.vms` is text, expected a list [FY0207] … hint: `ferry explain Plan.vms` says what belongs here
            p.yaml:7:3: the field `labels` is not known in `spec` [FY0205] … hint: fields here: `description`, `provider`, `map`, `type`, `vms`, `targetPowerState`, `skipGuestConversion`, `window`, `shutdown`, `verify`, `onFailure`, `archived`, `select`, `hooks`, `targetNamespace`, `preserveStaticIPs`, `migrateSharedDisks`, `pvcNameTemplate`, `volumeNameTemplate`, `networkNameTemplate`, `targetLabels`, `targetNodeSelector`, `targetAffinity`, `precopy`, `fence`, `wave`, `dependsOn`
        "#]],
    );
    check(
        &format!("{head}kind: Migration\nspec: {{ plan: x, cancel: a, cutover: now }}\n"),
        expect![[r#"
            p.yaml:4:26: `spec.cancel` is text, expected a list [FY0207] … hint: `ferry explain Migration.cancel` says what belongs here
        "#]],
    );
}

#[test]
fn one_broken_document_hides_no_other() {
    let text = format!("a: [\n---\n{GOOD}---\n\"\n");
    let file = parse_file("p.yaml", text.as_bytes(), &Limits::default());
    assert_eq!(file.documents.len(), 6);
    assert!(!file.parses);
    expect![[r#"
        p.yaml:1:4: this is no YAML: unclosed bracket '[' [FY0106] … hint: look at the indentation, the quotes and the brackets here and just above
        p.yaml:49:1: this is no YAML: unclosed quote [FY0106] … hint: look at the indentation, the quotes and the brackets here and just above
    "#]].assert_eq(&lines(&file.findings));
}

#[test]
fn a_window_is_noticed_however_broken() {
    let speaks =
        |text: &str| parse_file("w.yaml", text.as_bytes(), &Limits::default()).mentions_windows;
    assert!(speaks("kind: CutoverWindow\nspec: [\n"));
    assert!(speaks("{kind: cutoverwindow"));
    assert!(speaks("apiVersion: ferry.dev/v1alpha1\nkind: \"\\x43utoverWindow\"\n"));
    assert!(speaks("apiVersion: ferry.dev/v1alpha1\nkind: CutoverWindw\n"));
    assert!(!speaks(GOOD));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn nothing_makes_it_panic(
        edits in prop::collection::vec((0..GOOD.len(), 0..12_usize, "[-:#&*!?|>'\"%@`{}\\[\\],\\n\\t ~a0\u{85}\u{feff}é]{0,6}"), 1..12),
    ) {
        let mut bytes = GOOD.as_bytes().to_vec();
        for (at, length, text) in edits {
            let at = at.min(bytes.len());
            let end = (at + length).min(bytes.len());
            bytes.splice(at..end, text.into_bytes());
        }
        let file = parse_file("p.yaml", &bytes, &Limits::default());
        prop_assert!(file.parses || !file.findings.is_empty());
        for finding in &file.findings {
            prop_assert!(!finding.text.chars().any(char::is_control));
            prop_assert!(finding.text.chars().count() < 600, "{}", finding.text);
        }
        let wanted = desired::load(&[desired::FileVersions { now: &file, last_good: None }]);
        prop_assert!(wanted.findings.len() >= file.findings.len().min(1));
    }
}
