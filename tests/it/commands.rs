//! The story of a person with every command, from `ferry init` to the last report: exit codes, and what the answers say.

use std::fs;
use std::path::PathBuf;

use expect_test::{Expect, expect};
use serde_json::Value;

use crate::sandbox::{Ran, Sandbox};
use crate::shop::{archive_of, system};

/// A desk with what `ferry init` made, and an archive for its plan.
struct Desk {
    sandbox: Sandbox,
}

impl Desk {
    fn new() -> Self {
        let sandbox = Sandbox::new();
        let ran = sandbox.ferry(["init", "vms"]).expect(0);
        assert!(ran.stdout.starts_with("ferry run --config vms/ferry.yaml\n"), "{}", ran.stdout);
        archive_of(&sandbox.path("vms/ova"), "web-01", vec![system("web-01", 16 << 20)]);
        sandbox.write("home/.gitconfig", "[user]\n\tname = P\n\temail = p@example.org\n");
        Self { sandbox }
    }

    /// Runs a command with the settings that `init` made.
    fn ferry(&self, arguments: &[&str]) -> Ran {
        self.sandbox.ferry(arguments.iter().chain(&["--config", "vms/ferry.yaml"]))
    }

    fn plan(&self) -> PathBuf {
        self.sandbox.path("vms/plans/plan.yaml")
    }

    /// Compares an answer, with what differs between runs taken out: the folder, commits, digests, times.
    #[track_caller]
    fn compare(&self, text: &str, expected: Expect) {
        let root = self.sandbox.path("").display().to_string();
        let text = text.replace(root.trim_end_matches('/'), "DESK");
        let taken_out = [
            (r"\d{4}-\d\d-\d\dT[0-9:.]+Z", "TIME"),
            (r"\b[0-9a-f]{32,64}\b", "HASH"),
            (r"commit [0-9a-f]{12}\b", "commit SHORT"),
            (r"committed as [0-9a-f]{12}\b", "committed as SHORT"),
            (r"\b[0-9a-f]{8}\b", "DIGEST"),
            // How long things take, and how wide a column is for it.
            (r"(< )?\d+\.\d s\b", "SOME s"),
            // Of a second and more, too; an estimate (`≈ 2 s`) is reckoned and stays.
            (r"([^≈ ] +)\d+ s\b", "${1}SOME s"),
            (r"(\S) {2,}", "$1  "),
        ];
        let text = taken_out.iter().fold(text, |text, (pattern, word)| {
            regex::Regex::new(pattern).unwrap().replace_all(&text, *word).into_owned()
        });
        let text: String = text.lines().map(|line| line.trim_end().to_owned() + "\n").collect();
        expected.assert_eq(&text);
    }
}

#[test]
fn from_init_to_the_report() {
    let desk = Desk::new();
    let checked = desk.sandbox.ferry(["check", "vms/plans"]).expect(0);
    assert_eq!(checked.stdout, "4 files checked: 0 critical, 0 warnings, 0 for information\n");
    desk.sandbox.ferry(["check", "vms/plans", "--rev", "main"]).expect(0);
    let preview = desk.ferry(&["diff"]).expect(2);
    desk.compare(
        &preview.stdout,
        expect![[r#"
        Plan: 1 migrate (commit SHORT, instance main)
        Data: 2.0 MiB to copy (16.0 MiB provisioned) · ≈ 1 s one after another (default 110.0 MiB/s)

           VM  what  copy  target  estimate  risk  why  digest
        +  first/web-01  migrate cold  2.0 MiB of 16.0 MiB  local/web-01  ≈ 1 s  low  DIGEST
        + start a migration
    "#]],
    );
    desk.ferry(&["diff", "--fail-on", "never"]).expect(0);
    desk.ferry(&["verify", "first"]).expect(1);
    desk.ferry(&["run", "--once"]).expect(0);
    desk.compare(
        &desk.ferry(&["diff"]).expect(0).stdout,
        expect![[r#"
            Plan: 0 migrate · 1 unchanged (commit SHORT, instance main)
            Data: nothing to copy

               VM  what  copy  target  estimate  risk  why  digest
            =  first/web-01  migrated  local/web-01  DIGEST
            = nothing to do
        "#]],
    );
    desk.compare(
        &desk.ferry(&["status"]).expect(0).stdout,
        expect![[r#"
            status  VM  step  copied  time  waits for
            ✓ Completed  first/web-01  16.0 MiB  SOME s
        "#]],
    );
    desk.compare(
        &desk.ferry(&["status", "first/web-01", "--why"]).expect(0).stdout,
        expect![[r#"
            status  VM  step  copied  time  waits for
            ✓ Completed  first/web-01  16.0 MiB  SOME s

            ✓ Completed first/web-01
              result: migrated to web-01 in SOME s, 4.0 MiB written
              ✓ Initialize  SOME s
              ✓ DiskTransfer  SOME s
              ✓ Cutover  SOME s
              ✓ Verify  done
              · ImageConversion  not needed
              ✓ VirtualMachineCreation SOME s
              disk vmdisk1: copied, 4.0 MiB of 16.0 MiB written, compared
              copy: estimated ≈ 1 s (default 110.0 MiB/s), took SOME s with comparing
        "#]],
    );
    let report = desk.ferry(&["status", "--repo", "vms/plans"]).expect(0).stdout;
    desk.compare(
        &report,
        expect![[r#"
            status  VM  step  copied  time  waits for
            ✓ Completed  first/web-01  16.0 MiB  SOME s
        "#]],
    );
    let nothing = desk.ferry(&["status", "nothing"]).expect(1);
    assert!(nothing.stderr.contains("nothing is called nothing"), "{}", nothing.stderr);
    // Nothing is left to do, and nothing is committed.
    let plans = desk.sandbox.plans("vms/plans");
    let (head, reported) = (plans.head(), plans.tip("ferry/status"));
    desk.ferry(&["run", "--once"]).expect(0);
    assert_eq!((plans.head(), plans.tip("ferry/status")), (head, reported));
}

#[test]
fn check_shows_what_is_wrong_where_it_stands() {
    let desk = Desk::new();
    let plan = fs::read_to_string(desk.plan()).unwrap();
    fs::write(desk.plan(), plan.replace("network: networks", "network: netwroks")).unwrap();
    let checked = desk.sandbox.ferry(["check", "vms/plans"]).expect(1);
    desk.compare(
        &checked.stdout,
        expect![[r#"
            error[FY0402]: no NetworkMapping is called `netwroks`
               ╭▸ plan.yaml:11:14
               │
            11 │  network: netwroks
               │  ━━━━━━━━
               │
               ╰ help: did you mean `networks`?

            4 files checked: 1 critical, 0 warnings, 0 for information
        "#]],
    );
    let github = desk.sandbox.ferry(["check", "vms/plans", "--output", "github"]).expect(1);
    assert!(github.stdout.starts_with("::error file=plan.yaml,line="), "{}", github.stdout);
    let json = desk.sandbox.ferry(["check", "vms/plans", "--output", "json"]).expect(1).stdout;
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["critical"], 1, "{json}");
    // What is committed is whole.
    desk.sandbox.ferry(["check", "vms/plans", "--rev", "HEAD"]).expect(0);
    desk.sandbox.ferry(["check", "nowhere"]).expect(1);
}

#[test]
fn verify_finds_a_byte_that_differs() {
    let desk = Desk::new();
    desk.ferry(&["run", "--once"]).expect(0);
    let verified = desk.ferry(&["verify", "first"]).expect(0).stdout;
    assert!(verified.starts_with("first/web-01  vmdisk1  as copied  "), "{verified}");
    let disk = desk.sandbox.path("vms/vms/web-01/disk-0.raw");
    let mut bytes = fs::read(&disk).unwrap();
    bytes[5_000_000] ^= 1;
    fs::write(&disk, &bytes).unwrap();
    let differs = desk.ferry(&["verify", "first/web-01"]).expect(1).stdout;
    desk.compare(&differs, expect![[r#"
        first/web-01  vmdisk1  disk vmdisk1 reads differently from what was copied, within the 65536 bytes at byte 4980736 … hint: check the target's storage, then begin again
    "#]]);
    bytes[5_000_000] ^= 1;
    fs::write(&disk, &bytes).unwrap();
    desk.ferry(&["verify", "first/web-01"]).expect(0);
    desk.ferry(&["verify", "first/web-02"]).expect(1);
}

#[test]
fn migrate_and_cancel_write_manifests_show_and_commit_them() {
    let desk = Desk::new();
    let plans = desk.sandbox.plans("vms/plans");
    let head = plans.head();
    let shown = desk.ferry(&["cancel", "first/web-01"]).expect(0);
    desk.compare(
        &shown.stdout,
        expect![[r#"
            --- a/migration.yaml
            +++ b/migration.yaml
            @@ -5,3 +5,5 @@
               name: first-1
             spec:
               plan: first
            +  cancel:
            +  - web-01
        "#]],
    );
    assert_eq!(plans.head(), head);
    assert!(shown.stderr.contains("written, not committed"), "{}", shown.stderr);
    // Not what is in the work tree counts, but what is committed: it would move.
    desk.ferry(&["diff"]).expect(2);
    let canceled = desk.ferry(&["cancel", "first/web-01"]).expect(0);
    assert!(canceled.stderr.contains("`first-1` cancels that already"), "{}", canceled.stderr);
    fs::write(
        desk.sandbox.path("vms/plans/migration.yaml"),
        plans.files("main")["migration.yaml"].clone(),
    )
    .unwrap();
    let committed = desk.ferry(&["cancel", "first/web-01", "--commit"]).expect(0);
    desk.compare(
        &committed.stderr,
        expect![[r#"
        committed as SHORT on `main`
    "#]],
    );
    desk.ferry(&["run", "--once"]).expect(0);
    assert!(!desk.sandbox.path("vms/vms/web-01").exists());
    let status = desk.ferry(&["status"]).expect(0).stdout;
    assert!(status.contains("Canceled"), "{status}");
    let added = desk.ferry(&["migrate", "first", "--commit"]).expect(0);
    desk.compare(
        &added.stdout,
        expect![[r#"
        --- a/migration.yaml
        +++ b/migration.yaml
        @@ -7,3 +7,9 @@
           plan: first
           cancel:
             - web-01
        +---
        +apiVersion: ferry.dev/v1alpha1
        +kind: Migration
        +metadata: { name: first-2 }
        +spec:
        +  plan: first
    "#]],
    );
    desk.ferry(&["run", "--once"]).expect(0);
    desk.ferry(&["verify", "first"]).expect(0);
    let unknown = desk.ferry(&["migrate", "fisrt"]).expect(1);
    assert!(unknown.stderr.contains("did you mean `first`?"), "{}", unknown.stderr);
}

#[test]
fn doctor_says_what_is_well_and_where_settings_come_from() {
    let desk = Desk::new();
    let text = desk.ferry(&["doctor"]).expect(0).stdout;
    for words in
        ["repository", "state folder", "free space", "allowPaths", "Settings", "ferry.yaml:"]
    {
        assert!(text.contains(words), "{words} is missing:\n{text}");
    }
    let json: Value =
        serde_json::from_str(&desk.ferry(&["doctor", "--output", "json"]).expect(0).stdout)
            .unwrap();
    let checks = json["checks"].as_array().unwrap();
    assert!(checks.iter().all(|check| check["verdict"] != "fails"), "{json}");
    fs::remove_dir(desk.sandbox.path("vms/vms")).unwrap();
    let text = desk.ferry(&["doctor"]).expect(1).stdout;
    assert!(text.contains("FAILS") && text.contains("fix: make it: `mkdir -p"), "{text}");
}

#[test]
fn explain_knows_kinds_fields_codes_and_concerns() {
    let sandbox = Sandbox::new();
    let explain = |subject: &str| sandbox.ferry(["explain", subject]).expect(0).stdout;
    assert!(explain("Plan").starts_with("KIND:     Plan\n"));
    assert!(explain("Plan.vms").contains("FIELD:    vms <list of fields>\n"));
    assert!(explain("FY0412").starts_with("FY0412: The entry stands in a file that is broken"));
    for concern in ferry::policy::concerns() {
        assert!(explain(&concern.id).contains(&concern.remedy), "{}", concern.id);
    }
    expect![[r#"
        ova.disk.checksum.absent: Disk without a checksum

        For information: the VM moves.

        The archive states no checksum of the disk, so nobody can tell whether it is as it was exported.

        What to do: Export the VM with a manifest file (`.mf`).
    "#]].assert_eq(&explain("ova.disk.checksum.absent"));
    let all = sandbox.ferry(["explain"]).expect(0).stdout;
    assert!(all.contains("FY0412") && all.contains("vm.disks.none"), "{all}");
    let unknown = sandbox.ferry(["explain", "vm.disk.none"]).expect(1).stderr;
    assert!(unknown.contains("did you mean `vm.disks.none`?"), "{unknown}");
}

#[test]
fn the_schemas_that_are_written_are_those_that_are_committed() {
    let sandbox = Sandbox::new();
    sandbox.ferry(["schema", "--write", "schemas"]).expect(0);
    let folder = |path: PathBuf| -> std::collections::BTreeMap<_, _> {
        let entries = fs::read_dir(path).unwrap().map(|entry| entry.unwrap());
        entries
            .map(|entry| (entry.file_name(), fs::read_to_string(entry.path()).unwrap()))
            .collect()
    };
    let committed = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("schemas");
    assert_eq!(folder(sandbox.path("schemas")), folder(committed));
    let plan = sandbox.ferry(["schema", "Plan"]).expect(0).stdout;
    assert!(serde_json::from_str::<Value>(&plan).unwrap().is_object());
}

/// Lists the commands that the help shows.
fn commands(sandbox: &Sandbox) -> Vec<String> {
    let help = sandbox.ferry(["--help"]).expect(0).stdout;
    let list = help.split("Commands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    let names = list.lines().filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
    names.filter(|name| !name.is_empty() && *name != "help").map(ToOwned::to_owned).collect()
}

#[test]
fn every_command_has_an_example_and_its_exit_codes_and_is_completed() {
    let sandbox = Sandbox::new();
    let commands = commands(&sandbox);
    assert!(commands.len() >= 15, "{commands:?}");
    for command in &commands {
        let help = sandbox.ferry([command.as_str(), "--help"]).expect(0).stdout;
        for words in [format!("\n  ferry {command}"), "Exit codes:".into(), "64".into()] {
            assert!(help.contains(&words), "`ferry {command} --help` lacks {words:?}:\n{help}");
        }
        let wrong = sandbox.ferry([command.as_str(), "--no-such-flag"]).expect(64);
        assert!(wrong.stdout.is_empty() && wrong.stderr.contains("--no-such-flag"), "{wrong:?}");
    }
    for shell in ["bash", "zsh", "fish"] {
        let script = sandbox.ferry(["completions", shell]).expect(0).stdout;
        for command in &commands {
            assert!(script.contains(command), "{shell} does not complete {command}");
        }
    }
    sandbox.ferry(["completions", "csh"]).expect(64);
    sandbox.ferry([""; 0]).expect(64);
}

#[test]
fn the_demo_ends_well_and_goes_on_with_nothing_to_do() {
    let sandbox = Sandbox::new();
    let begun = std::time::Instant::now();
    let shown = sandbox.ferry(["demo", "--dir", "demo"]).expect(0).stdout;
    let took = begun.elapsed();
    assert!(took < std::time::Duration::from_mins(1), "the demo took {took:?}");
    for words in ["The preview", "The report", "<domain type=", "Next", "ferry verify --config"] {
        assert!(shown.contains(words), "{words} is missing:\n{shown}");
    }
    let plans = sandbox.plans("demo/plans");
    let disk = sandbox.path("demo/vms/web-01/disk-0.raw");
    let before = (plans.tip("ferry/status"), fs::metadata(&disk).unwrap().modified().unwrap());
    let again = sandbox.ferry(["demo", "--dir", "demo", "--keep"]).expect(0).stdout;
    assert!(again.contains("nothing to do"), "{again}");
    let after = (plans.tip("ferry/status"), fs::metadata(&disk).unwrap().modified().unwrap());
    assert_eq!(after, before);
    // What no demo made is left alone.
    let theirs = sandbox.write("theirs/a.txt", "a");
    sandbox.ferry(["demo", "--dir", "theirs"]).expect(1);
    assert_eq!(fs::read_to_string(theirs).unwrap(), "a");
}
