use std::fmt::Write as _;

use expect_test::{Expect, expect};

use super::*;
use crate::manifest::parse::{Limits, ParsedFile, parse_file};

const HEAD: &str = "---\napiVersion: ferry.dev/v1alpha1\n";

fn provider(name: &str, rest: &str) -> String {
    format!("{HEAD}kind: Provider\nmetadata: {{ name: {name} }}\nspec: {{ {rest} }}\n")
}

fn sites() -> String {
    provider("src", "type: ova, ova: { path: /o }")
        + &provider("dst", "type: local, local: { path: /v }")
}

fn plan(name: &str, vms: &str) -> String {
    format!(
        "{HEAD}kind: Plan\nmetadata: {{ name: {name} }}\nspec:\n  provider: {{ source: src, destination: dst }}\n  \
         skipGuestConversion: true\n  vms: [{vms}]\n"
    )
}

fn migration(name: &str, rest: &str) -> String {
    format!("{HEAD}kind: Migration\nmetadata: {{ name: {name} }}\nspec: {{ {rest} }}\n")
}

fn parse(name: &str, text: &str) -> ParsedFile {
    parse_file(name, text.as_bytes(), &Limits::default())
}

fn now(file: &ParsedFile) -> FileVersions<'_> {
    FileVersions { now: file, last_good: None }
}

/// Shows each entry with what blocks it, each request, and how many findings there are in all.
fn show(wanted: &Wanted) -> String {
    let mut out = String::new();
    for vm in wanted.plans.values().flat_map(|plan| &plan.vms) {
        let codes: Vec<&str> = vm.findings.iter().map(|finding| finding.code.as_str()).collect();
        let called = vm.desired.as_ref().map(|desired| &desired.target_name);
        let called = match called {
            None => "unclear",
            Some(None) => "named later",
            Some(Some(name)) => name.as_str(),
        };
        let _ = writeln!(out, "{} -> {called} {codes:?}", vm.key);
    }
    for Request { name, plan, cancel, again, cutover: _, vm_cutover: _, digest: _, place: _ } in
        &wanted.requests
    {
        let list = |names: &BTreeSet<VmName>| {
            names.iter().map(VmName::as_str).collect::<Vec<_>>().join(",")
        };
        let _ =
            writeln!(out, "{name} runs {plan} cancel=[{}] again=[{}]", list(cancel), list(again));
    }
    let _ = writeln!(out, "{} findings", wanted.findings.len());
    out
}

fn check(text: &str, expected: Expect) {
    let file = parse("p.yaml", text);
    expected.assert_eq(&show(&load(&[now(&file)])));
}

#[test]
fn a_target_of_raw_disks_is_written_as_before_there_were_others() {
    let written = r#"{"local":{"path":"/v"}}"#;
    assert_eq!(serde_json::to_string(&Site::folder("/v")).unwrap(), written);
    assert_eq!(serde_json::from_str::<Site>(written).unwrap(), Site::folder("/v"));
    let other = Site::Local { path: "/v".into(), disk_format: ImageFormat::Qcow2 };
    let written = r#"{"local":{"path":"/v","diskFormat":"qcow2"}}"#;
    assert_eq!(serde_json::to_string(&other).unwrap(), written);
    assert_eq!(serde_json::from_str::<Site>(written).unwrap(), other);
}

#[test]
fn a_format_is_taken_and_makes_no_room_for_a_second_vm_of_a_name() {
    let text = sites()
        + &provider("other", "type: local, local: { path: /v, diskFormat: qcow2 }")
        + &plan("p", "{ name: web }")
        + &plan("q", "{ name: web }").replace("destination: dst", "destination: other");
    let file = parse("p.yaml", &text);
    let wanted = load(&[now(&file)]);
    let site = |plan| wanted.plans[&PlanName::new(plan)].vms[0].desired.clone().unwrap();
    assert_eq!(site("p").target_site, Site::folder("/v"));
    let disk_format = ImageFormat::Qcow2;
    assert_eq!(site("q").target_site, Site::Local { path: "/v".into(), disk_format });
    let said: Vec<_> = wanted.findings.iter().map(|finding| finding.text.as_str()).collect();
    assert!(said.len() == 2 && said.iter().all(|text| text.contains("web")), "{said:?}");
}

#[test]
fn defaults_are_filled_in_and_overrides_count() {
    let file = parse(
        "p.yaml",
        &(sites()
            + &plan(
                "p",
                "{ name: Web 01 }, { id: 'ova:x/y', targetName: z, targetPowerState: off }, { name: a.ova/B }",
            )),
    );
    let wanted = load(&[now(&file)]);
    assert_eq!(wanted.findings, []);
    let vms = &wanted.plans[&PlanName::new("p")].vms;
    let desired: Vec<&Desired> = vms.iter().map(|vm| vm.desired.as_deref().unwrap()).collect();
    assert_eq!(desired[0].target_name, Some(TargetName::new("web-01")));
    assert_eq!(desired[1].target_name, Some(TargetName::new("z")));
    assert_eq!(desired[2].target_name, None);
    assert_eq!(desired[0].power, TargetPowerState::Auto);
    assert_eq!(desired[1].power, TargetPowerState::Off);
    assert_eq!(desired[1].selector, Selector::Id("ova:x/y".to_owned()));
    assert_eq!(desired[0].source_site, Site::Ova { path: "/o".into() });
    assert_eq!((desired[0].shutdown_timeout_s, desired[0].networks.clone()), (600, None));
}

#[test]
fn an_entry_has_the_digest_of_its_own_fields() {
    let digests = |vms: &str| -> Vec<Digest> {
        let file = parse("p.yaml", &(sites() + &plan("p", vms)));
        let wanted = load(&[now(&file)]);
        wanted.plans.values().flat_map(|plan| &plan.vms).map(|vm| vm.entry.clone()).collect()
    };
    let before = digests("{ name: a }, { name: b }");
    assert_eq!(before, digests("{ name: a }, # words\n    { 'name': \"b\" }"));
    let after = digests("{ name: a }, { name: b, targetName: c }");
    assert_eq!(before[0], after[0]);
    assert_ne!(before[1], after[1]);
}

#[test]
fn a_broken_thing_blocks_those_who_use_it_and_nobody_else() {
    let other = plan("other", "{ name: c }").replace("destination: dst", "destination: bad");
    let text = sites()
        + &provider("bad", "type: local, local: { path: /w }, tls: { ca: x }")
        + &plan("good", "{ name: a }, { name: b, hooks: [{ hook: h, step: PreHook }] }")
        + &other
        + &plan("whole", "{ name: d }, { name: e }").replace("vms:", "wave: 1\n  vms:");
    check(
        &text,
        expect![[r#"
            good/a -> a []
            good/b -> b ["FY0302"]
            other/c -> c []
            whole/d -> d ["FY0302"]
            whole/e -> e ["FY0302"]
            2 findings
        "#]],
    );
}

#[test]
fn references_lead_somewhere() {
    let map = |name: &str, pair: &str, source: &str| {
        format!(
            "{HEAD}kind: NetworkMapping\nmetadata: {{ name: {name} }}\nspec:\n  provider: {pair}\n  \
             map: [{{ source: {{ name: {source} }}, destination: {{ type: pod }} }}]\n"
        )
    };
    let pair = "{ source: src, destination: dst }";
    let with = |name: &str, vm: &str, network: &str| {
        plan(name, &format!("{{ name: {vm} }}"))
            .replace("vms:", &format!("map: {{ network: {network} }}\n  vms:"))
    };
    let text = sites()
        + &map("nets", pair, "n")
        + &map("turned", "{ source: dst, destination: src }", "n")
        + &map("wrong", pair, "1")
        + &with("a", "a", "nets")
        + &with("b", "b", "net")
        + &with("c", "c", "turned")
        + &with("d", "d", "wrong")
        + &migration("m", "plan: z");
    check(
        &text,
        expect![[r#"
        a/a -> a []
        b/b -> b ["FY0402"]
        c/c -> c ["FY0405"]
        d/d -> d ["FY0207", "FY0403"]
        m runs z cancel=[] again=[]
        7 findings
    "#]],
    );
}

#[test]
fn names_are_unique() {
    let text = sites()
        + &plan("a", "{ name: x }, { name: x, targetName: y }, { id: x }, { name: X }")
        + &plan("a", "{ name: q }")
        + &plan("b", "{ name: other, targetName: x }, { name: fine }")
        + &plan("old", "{ name: fine }").replace("vms:", "archived: true\n  vms:")
        + &migration("m", "plan: b")
        + &migration("m", "plan: b");
    check(
        &text,
        expect![[r#"
        a/x -> x ["FY0401", "FY0406", "FY0406", "FY0407"]
        a/X -> x ["FY0401", "FY0407"]
        b/other -> x ["FY0407", "FY0401"]
        b/fine -> fine ["FY0401"]
        old/fine -> fine []
        m runs b cancel=[] again=[]
        11 findings
    "#]],
    );
}

#[test]
fn what_is_not_supported_yet_blocks() {
    let text = sites()
        + &plan("warm", "{ name: a }").replace("vms:", "type: warm\n  vms:")
        + &plan("timed", "{ name: c }")
        + &migration("m", "plan: timed, rollback: [c]");
    check(
        &text,
        expect![[r#"
            timed/c -> c ["FY0302"]
            warm/a -> a ["FY0303"]
            m runs timed cancel=[] again=[]
            2 findings
        "#]],
    );
}

/// One document of each kind with every field that is honoured, set to something.
const ALL_FIELDS: &str = r#"
- kind: Provider
  metadata: { name: src }
  spec: { type: ova, ova: { path: /o } }
- kind: Provider
  metadata: { name: dst }
  spec: { type: local, local: { path: /v } }
- kind: NetworkMapping
  metadata: { name: nets }
  spec:
    provider: { source: src, destination: dst }
    map:
      - { source: { name: one }, destination: { type: pod } }
      - { source: { name: two }, destination: { type: multus, name: bridge } }
- kind: StorageMapping
  metadata: { name: disks }
  spec:
    provider: { source: src, destination: dst }
    map: []
- kind: CutoverWindow
  metadata: { name: night }
  spec:
    allow: [{ schedule: 0 22 * * 6, duration: 4h, timeZone: Europe/Berlin, description: d }]
    deny: [{ schedule: 0 0 24 12 *, duration: 100h, timeZone: UTC, description: d }]
- kind: CutoverWindow
  metadata: { name: freeze }
  spec:
    deny: [{ schedule: 0 0 1 1 *, duration: 24h, timeZone: UTC }]
    selector: { matchLabels: { tier: gold } }
- kind: Policy
  metadata: { name: risks }
  spec:
    severity: [{ concern: vm.firmware-unknown, category: Critical }]
    waivers: [{ concern: vm.firmware-unknown, vm: p/a, reason: r, expires: "2027-12-31" }]
- kind: Plan
  metadata: { name: p, labels: { tier: gold } }
  spec:
    description: d
    provider: { source: src, destination: dst }
    map: { network: nets, storage: disks }
    type: cold
    targetPowerState: "on"
    skipGuestConversion: true
    window: night
    shutdown: { timeout: 20m, force: true }
    verify: full
    onFailure: delete
    archived: false
    vms:
      - { name: a, targetName: aa, targetPowerState: "off" }
      - { id: "ova:h/s" }
- kind: Migration
  metadata: { name: m }
  spec:
    plan: p
    cutover: 2027-11-28T22:00:00+01:00
    vmCutover: [{ vm: a, cutover: now }]
    cancel: [a]
    again: [ova:h/s]
"#;

/// Lists the values that have none inside.
fn leaves(value: &serde_json::Value, pointer: String, out: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(fields) => {
            fields.iter().for_each(|(name, value)| leaves(value, format!("{pointer}/{name}"), out));
        }
        serde_json::Value::Array(items) if !items.is_empty() => {
            let items = items.iter().enumerate();
            items.for_each(|(at, value)| leaves(value, format!("{pointer}/{at}"), out));
        }
        _ => out.push(pointer),
    }
}

/// Safety rule 7: each field that is honoured changes what is wanted, or is found. The values are those that some field
/// can have; one that changes nothing in any of them is ignored.
#[test]
fn nothing_that_is_written_is_ignored() {
    let documents: Vec<serde_json::Value> = serde_yaml::from_str(ALL_FIELDS).unwrap();
    let read = |documents: &[serde_json::Value]| {
        let texts = documents.iter().map(|document| {
            let mut document = document.clone();
            document["apiVersion"] = "ferry.dev/v1alpha1".into();
            document.to_string()
        });
        let text = texts.collect::<Vec<_>>().join("\n---\n");
        let file = parse("all.yaml", &text);
        let mut wanted = load(&[now(&file)]);
        let findings = std::mem::take(&mut wanted.findings).len();
        (wanted, findings, file.whole())
    };
    let (whole, findings, readable) = read(&documents);
    assert_eq!((findings, readable), (0, true), "{whole:?}");
    let others = [
        "x",
        "1h",
        "ignored",
        "Warning",
        "warm",
        "auto",
        "none",
        "keep",
        "never",
        "local",
        "UTC",
        "0 1 * * *",
        "2028-12-31",
    ];
    let others = others.map(serde_json::Value::from).into_iter();
    let others: Vec<_> =
        others.chain([true.into(), false.into(), serde_json::json!(["a"])]).collect();
    for (at, document) in documents.iter().enumerate() {
        let mut pointers = Vec::new();
        leaves(&document["spec"], "/spec".to_owned(), &mut pointers);
        // It stays empty: whatever else stands there is found.
        pointers.retain(|pointer| document["kind"] != "StorageMapping" || pointer != "/spec/map");
        // Another type of these needs other fields.
        let owner = |pointer: &str| document.pointer(pointer.strip_suffix("/type")?);
        pointers
            .retain(|pointer| owner(pointer).is_none_or(|it| it.as_object().unwrap().len() != 2));
        for pointer in pointers {
            let matters = others.iter().any(|other| {
                let mut changed = documents.clone();
                *changed[at].pointer_mut(&pointer).unwrap() = other.clone();
                let (wanted, findings, readable) = read(&changed);
                readable && (findings > 0 || wanted != whole)
            });
            assert!(matters, "{pointer} of {} is ignored", document["kind"]);
        }
    }
}

#[test]
fn migrations_name_what_their_plan_has() {
    let text = sites()
        + &plan("p", "{ name: a }, { name: b }")
        + &migration("m1", "plan: p, cancel: [a, c], again: [b, a]")
        + &migration("m2", "plan: p");
    check(
        &text,
        expect![[r#"
        p/a -> a []
        p/b -> b []
        m1 runs p cancel=[a,c] again=[b]
        m2 runs p cancel=[] again=[]
        4 findings
    "#]],
    );
}

#[test]
fn a_file_that_is_not_whole_keeps_its_last_good_documents_and_starts_nothing() {
    let shared = parse("sites.yaml", &sites());
    let good = parse("p.yaml", &(plan("p", "{ name: a }") + &migration("m", "plan: p")));
    assert!(good.whole());
    let load_over = |text: &str, last_good: Option<&ParsedFile>| {
        let now_broken = parse("p.yaml", text);
        assert!(!now_broken.whole());
        show(&load(&[now(&shared), FileVersions { now: &now_broken, last_good }]))
    };
    // The text breaks off after another plan was written.
    let cut = plan("p", "{ name: b }")
        + &plan("q", "{ name: c }")
        + &migration("n", "plan: q")
        + "---\n[\n";
    expect![[r#"
        p/a -> a ["FY0412"]
        q/c -> c ["FY0412"]
        m runs p cancel=[] again=[]
        1 findings
    "#]]
    .assert_eq(&load_over(&cut, Some(&good)));
    // The migration has a slip of the pen: what it runs is not withdrawn.
    let slip = plan("p", "{ name: a }") + &migration("m", "plan: p, cancle: [a]");
    expect![[r#"
        p/a -> a ["FY0412"]
        m runs p cancel=[] again=[]
        1 findings
    "#]]
    .assert_eq(&load_over(&slip, Some(&good)));
    // A file that never was good is shown, and starts nothing.
    expect![[r#"
        p/b -> b ["FY0412"]
        q/c -> c ["FY0412"]
        1 findings
    "#]]
    .assert_eq(&load_over(&cut, None));
    // The file is whole again without the migration: now it is gone.
    let without = parse("p.yaml", &plan("p", "{ name: a }"));
    let versions = [now(&shared), FileVersions { now: &without, last_good: Some(&good) }];
    assert_eq!(load(&versions).requests, []);
}

#[test]
fn a_name_becomes_a_label() {
    let of = |name: &str| target_name(name).map(|name| name.as_str().to_owned());
    assert_eq!(of("Web Server_01 (old)").as_deref(), Some("web-server-01-old"));
    assert_eq!(of("--a--").as_deref(), Some("a"));
    assert_eq!(of(&"ab ".repeat(40)).map(|name| name.len()), Some(62));
    assert_eq!(of("äöü"), None);
    for name in ["Web 01", &"x".repeat(100), &"a-".repeat(50), "é1é"] {
        assert!(crate::manifest::document::is_label(&of(name).unwrap()), "{name}");
    }
}

#[test]
fn ten_thousand_vms_are_linear() {
    let count = |plans: usize| {
        let mut files = vec![parse("sites.yaml", &sites())];
        for number in 0..plans {
            let vms: Vec<String> =
                (0..10).map(|vm| format!("{{ name: vm-{number}-{vm} }}")).collect();
            let name = format!("p{number}");
            let text = plan(&name, &vms.join(", ")) + &migration(&name, &format!("plan: {name}"));
            files.push(parse(&format!("{name}.yaml"), &text));
        }
        let versions: Vec<_> = files.iter().map(now).collect();
        let wanted = load(&versions);
        assert_eq!(wanted.findings, []);
        wanted.plans.values().map(|plan| plan.vms.len()).sum::<usize>()
    };
    assert_eq!(count(1000), 10_000);
}
