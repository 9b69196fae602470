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
    for Request { name, plan, cancel, again, digest: _, place: _ } in &wanted.requests {
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
    assert_eq!(wanted, resolve(&file.documents));
    let vms = &wanted.plans[&PlanName::new("p")].vms;
    let desired: Vec<&Desired> = vms.iter().map(|vm| vm.desired.as_ref().unwrap()).collect();
    assert_eq!(desired[0].target_name, Some(TargetName::new("web-01")));
    assert_eq!(desired[1].target_name, Some(TargetName::new("z")));
    assert_eq!(desired[2].target_name, None);
    assert_eq!(desired[0].power, TargetPowerState::Auto);
    assert_eq!(desired[1].power, TargetPowerState::Off);
    assert_eq!(desired[1].selector, Selector::Id("ova:x/y".to_owned()));
    assert_eq!(desired[0].source_site, Site::Ova { path: "/o".to_owned() });
    assert_eq!((desired[0].shutdown_timeout_s, desired[0].networks.clone()), (600, None));
}

#[test]
fn an_entry_has_the_digest_of_its_own_fields() {
    let digests = |vms: &str| -> Vec<Digest> {
        let file = parse("p.yaml", &(sites() + &plan("p", vms)));
        let wanted = load(&[now(&file)]);
        wanted.plans.into_values().flat_map(|plan| plan.vms).map(|vm| vm.entry).collect()
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
        + &plan("good", "{ name: a }, { name: b, hooks: [] }")
        + &other
        + &plan("whole", "{ name: d }, { name: e }").replace("vms:", "window: night\n  vms:");
    check(
        &text,
        expect![[r#"
        good/a -> a []
        good/b -> b ["FY0302"]
        other/c -> c ["FY0302"]
        whole/d -> d ["FY0302"]
        whole/e -> e ["FY0302"]
        3 findings
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
        + &plan("converted", "{ name: b }").replace("skipGuestConversion: true", "verify: full")
        + &plan("timed", "{ name: c }")
        + &migration("m", "plan: timed, cutover: now");
    check(
        &text,
        expect![[r#"
        converted/b -> b ["FY0303"]
        timed/c -> c ["FY0302"]
        warm/a -> a ["FY0303"]
        m runs timed cancel=[] again=[]
        3 findings
    "#]],
    );
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
