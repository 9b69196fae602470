//! Every code of a finding has an example that yields it and nothing else, and one run over all of them finds all.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use expect_test::expect_file;
use ferry::manifest::code::Code;

use crate::sandbox::Sandbox;

const HEAD: &str = "apiVersion: ferry.dev/v1alpha1\n";

fn document(kind: &str, name: &str, spec: &str) -> String {
    format!("{HEAD}kind: {kind}\nmetadata: {{ name: {name} }}\nspec: {spec}\n")
}

fn joined(documents: &[String]) -> String {
    documents.join("---\n")
}

/// Good providers, a mapping and a plan of one VM, named after a prefix so that many stand in one folder.
fn good(prefix: &str) -> Vec<String> {
    vec![
        document("Provider", &format!("{prefix}-src"), "{ type: ova, ova: { path: /o } }"),
        document(
            "Provider",
            &format!("{prefix}-dst"),
            &format!("{{ type: local, local: {{ path: /{prefix} }} }}"),
        ),
    ]
}

fn plan_of(prefix: &str, rest: &str) -> String {
    let spec = format!(
        "\n  provider: {{ source: {prefix}-src, destination: {prefix}-dst }}\n  skipGuestConversion: true\n{rest}"
    );
    document("Plan", &format!("{prefix}-plan"), &spec)
}

/// Good documents with one more.
fn beside(prefix: &str, more: &[String]) -> String {
    joined(&[good(prefix), more.to_vec()].concat())
}

/// Returns the files of a code's example, by name.
#[expect(clippy::too_many_lines, reason = "one arm for each code")]
fn example(code: Code, at: &str) -> Vec<(String, Vec<u8>)> {
    let one = |text: String| vec![(format!("{at}.yaml"), text.into_bytes())];
    let plan = |rest: &str| plan_of(at, rest);
    let vm = "  vms: [{ name: a }]";
    let migration = |rest: &str| {
        document("Migration", &format!("{at}-m"), &format!("{{ plan: {at}-plan, {rest} }}"))
    };
    let provider = |spec: &str| document("Provider", &format!("{at}-p"), spec);
    let window = |rule: &str| {
        document("CutoverWindow", &format!("{at}-w"), &format!("{{ allow: [{rule}] }}"))
    };
    let policy = |spec: &str| document("Policy", &format!("{at}-q"), spec);
    let waiver = |concern: &str, vm: &str, day: &str| {
        policy(&format!(
            "{{ waivers: [{{ concern: {concern}, vm: {vm}, reason: r, expires: {day:?} }}] }}"
        ))
    };
    let ova = "{ type: ova, ova: { path: /o } }";
    match code {
        Code::NotUtf8 => vec![(format!("{at}.yaml"), b"a: \xff\n".to_vec())],
        Code::TooLarge => one("#".repeat((1 << 20) + 1)),
        Code::TooManyDocuments => {
            one(format!("{}{}", "---\n# nothing\n".repeat(1001), provider(ova)))
        }
        Code::TooDeep => one(format!("{}: {}{}\n", "a", "[".repeat(40), "]".repeat(40))),
        Code::TooManyNodes => one(format!("a: [{}]\n", "1,".repeat(250_001))),
        Code::Syntax => one("a: [b\n".to_owned()),
        Code::DuplicateKey => one(provider("{ type: ova, type: ova, ova: { path: /o } }")),
        Code::Anchor => one(provider("&x { type: ova, ova: { path: /o } }")),
        Code::Tag => one(provider("{ type: !!str ova, ova: { path: /o } }")),
        Code::Key => {
            one(format!("{}  ? [a]\n  : b\n", provider("\n  type: ova\n  ova: { path: /o }")))
        }
        Code::Number => one(provider("{ type: ova, ova: { path: .inf } }")),
        Code::TooManyFindings => {
            let fields: String = (0..501).fold(String::new(), |all, n| format!("{all}, f{n}: 1"));
            one(provider(&format!("{{ type: ova, ova: {{ path: /o }}{fields} }}")))
        }
        // Made as a symbolic link.
        Code::Refused => Vec::new(),
        Code::Root => one("- a\n".to_owned()),
        Code::ApiVersion => one(provider(ova).replace("v1alpha1", "v2")),
        Code::KindMissing => one(format!("{HEAD}metadata: {{ name: {at} }}\nspec: {{}}\n")),
        Code::KindUnknown => one(document("Plane", at, "{}")),
        Code::FieldUnknown => one(provider("{ type: ova, ova: { path: /o }, colour: red }")),
        Code::FieldMissing => one(provider("{ ova: { path: /o } }")),
        Code::Type => one(provider("{ type: ova, ova: { path: 5 } }")),
        Code::Choice => one(provider("{ type: tape, ova: { path: /o } }")),
        Code::Format => one(document("Provider", "Not_A_Label", ova)),
        Code::Together => one(provider("{ type: ova, ova: { path: /o }, local: { path: /l } }")),
        Code::Secret => one(provider("{ type: ova, ova: { path: /o }, password: x }")),
        // Schema and types agree, which a property test holds them to: no document yields it.
        Code::Unreadable => Vec::new(),
        Code::KindUnsupported => one(document("Hook", at, "{}")),
        Code::FieldUnsupported => one(beside(at, &[plan(&format!("{vm}\n  wave: 1"))])),
        Code::ValueUnsupported => one(beside(at, &[plan(&format!("{vm}\n  type: warm"))])),
        Code::NameTwice => one(joined(&[provider(ova), provider(ova)])),
        Code::RefUnknown => one(beside(at, &[plan(&format!("{vm}\n  map: {{ network: none }}"))])),
        Code::RefBroken => one(beside(
            at,
            &[
                document("NetworkMapping", &format!("{at}-n"), "{ map: [] }"),
                plan(&format!("{vm}\n  map: {{ network: {at}-n }}")),
            ],
        )),
        Code::Role => one(beside(
            at,
            &[plan(vm).replace(
                &format!("source: {at}-src, destination: {at}-dst"),
                &format!("source: {at}-dst, destination: {at}-dst"),
            )],
        )),
        Code::PairDiffers => one(beside(
            at,
            &[
                provider(ova),
                document(
                    "NetworkMapping",
                    &format!("{at}-n"),
                    &format!(
                        "{{ provider: {{ source: {at}-p, destination: {at}-dst }}, map: [] }}"
                    ),
                ),
                plan(&format!("{vm}\n  map: {{ network: {at}-n }}")),
            ],
        )),
        Code::VmTwice => one(beside(at, &[plan("  vms: [{ name: a }, { name: a }]")])),
        Code::TargetNameTaken => one(beside(at, &[plan("  vms: [{ name: a }, { name: A }]")])),
        Code::TargetNameMissing => one(beside(at, &[plan("  vms: [{ name: '...' }]")])),
        Code::SeveralMigrations => one(beside(
            at,
            &[
                plan(vm),
                migration("cancel: []"),
                migration("again: []").replace(&format!("{at}-m"), &format!("{at}-o")),
            ],
        )),
        Code::VmUnknown => one(beside(at, &[plan(vm), migration("cancel: [z]")])),
        Code::CancelAndAgain => one(beside(at, &[plan(vm), migration("cancel: [a], again: [a]")])),
        // Needs an earlier version of the file, which a folder does not have.
        Code::FileBroken => Vec::new(),
        Code::WindowRule => {
            one(window("{ schedule: '0 0 30 2 *', duration: 1h, timeZone: Etc/UTC }"))
        }
        Code::CutoverTime => {
            one(beside(at, &[plan(vm), migration("cutover: '2026-02-30T00:00:00Z'")]))
        }
        Code::Expiry => {
            one(beside(at, &[plan(vm), waiver("guest.legacy_windows", "a", "2026-02-30")]))
        }
        Code::ConcernUnknown => {
            one(beside(at, &[plan(vm), waiver("guest.legacy", "a", "2126-01-01")]))
        }
        Code::Unwaivable => {
            one(beside(at, &[plan(vm), waiver("vm.disks.none", "a", "2126-01-01")]))
        }
        Code::WaiverUnused => {
            one(beside(at, &[plan(vm), waiver("guest.legacy_windows", "zz", "2126-01-01")]))
        }
    }
}

/// Codes that no folder of files yields: one is a defect, one needs the history of a repository.
const WITHOUT: [Code; 2] = [Code::Unreadable, Code::FileBroken];

/// Writes an example below a folder.
fn write(sandbox: &Sandbox, folder: &str, code: Code) {
    let at = code.as_str().to_lowercase();
    if code == Code::Refused {
        let link = sandbox.write(&format!("{folder}/{at}.txt"), "").with_extension("yaml");
        std::os::unix::fs::symlink("/etc/passwd", link).unwrap();
        return;
    }
    for (name, bytes) in example(code, &at) {
        sandbox.write(&format!("{folder}/{name}"), bytes);
    }
}

/// Checks a folder; returns each finding as it is told, by its code.
fn found(sandbox: &Sandbox, folder: &str) -> BTreeMap<String, Vec<String>> {
    let ran = sandbox.ferry(["check", folder, "--output", "json"]);
    let json: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for finding in json["findings"].as_array().unwrap() {
        let text = |name: &str| finding[name].as_str().unwrap_or_default().to_owned();
        let place = &finding["place"];
        let at =
            format!("{}:{}:{}", place["file"].as_str().unwrap(), place["line"], place["column"]);
        let told = format!("{} {at}: {} … {}", text("severity"), text("text"), text("hint"));
        found.entry(text("code")).or_default().push(told);
    }
    found
}

#[test]
fn every_code_has_an_example_that_yields_it_and_is_told_with_place_cause_and_remedy() {
    let sandbox = Sandbox::new();
    let mut told = String::new();
    for code in Code::ALL.iter().filter(|code| !WITHOUT.contains(code)) {
        let folder = format!("one-{code}");
        write(&sandbox, &folder, *code);
        let mut found = found(&sandbox, &folder);
        let own = found.remove(code.as_str()).unwrap_or_default();
        assert!(!own.is_empty(), "{code}: {found:?}");
        // What is broken comes with the finding that breaks it, and too many come with many.
        let beside: Vec<&String> = found.keys().collect();
        assert!(
            beside.is_empty() || matches!(code, Code::RefBroken | Code::TooManyFindings),
            "{code} and {beside:?}"
        );
        let _ = writeln!(told, "{code}  {}\n        {}", code.title(), own[0]);
    }
    expect_file!["codes.txt"].assert_eq(&told);
}

#[test]
fn one_run_over_all_examples_finds_every_code() {
    let sandbox = Sandbox::new();
    let expected: BTreeSet<&str> =
        Code::ALL.iter().filter(|code| !WITHOUT.contains(code)).map(|code| code.as_str()).collect();
    for code in Code::ALL {
        write(&sandbox, "all", *code);
    }
    assert_eq!(sandbox.ferry(["check", "all"]).code, Some(1));
    let found = found(&sandbox, "all");
    let missing: Vec<&&str> = expected.iter().filter(|code| !found.contains_key(**code)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn every_code_has_a_page() {
    let sandbox = Sandbox::new();
    for code in Code::ALL {
        let page = sandbox.ferry(["explain", code.as_str()]).expect(0).stdout;
        assert!(page.starts_with(&format!("{code}: {}", code.title())), "{page}");
        assert!(page.contains(code.page()), "{page}");
    }
}
