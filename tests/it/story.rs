//! The story of a pull request, as a transcript: a branch with a plan is checked and previewed offline, merged, run, reported.

use std::process::Command;

use expect_test::expect;

use crate::sandbox::Sandbox;
use crate::shop::{archive_of, system};

/// A desk of `ferry init`, on which people work with git.
struct Desk {
    sandbox: Sandbox,
    transcript: String,
}

impl Desk {
    fn new() -> Self {
        let sandbox = Sandbox::new();
        sandbox.ferry(["init", "vms"]).expect(0);
        archive_of(
            &sandbox.path("vms/ova"),
            "shop",
            vec![system("web-01", 4 << 20), system("db-01", 4 << 20)],
        );
        Self { sandbox, transcript: String::new() }
    }

    /// Runs git in the repository of plans, as a person would.
    fn git(&mut self, arguments: &[&str]) {
        let mut command = Command::new("git");
        command.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", self.sandbox.path("home"));
        command.args(["-c", "user.name=P", "-c", "user.email=p@example.org"]);
        let ran = command.arg("-C").arg(self.sandbox.path("vms/plans")).args(arguments).output();
        let ran = ran.unwrap();
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        self.transcript.push_str(&format!("$ git {}\n", arguments.join(" ")));
    }

    /// Runs a command and notes what it answers.
    fn ferry(&mut self, arguments: &[&str], code: i32) {
        let config = self.sandbox.path("vms/ferry.yaml").display().to_string();
        let own = ["--config", config.as_str()];
        let ran = self.sandbox.ferry(arguments.iter().chain(&own)).expect(code);
        let end = if code == 0 { String::new() } else { format!("[exit {code}]\n") };
        self.transcript.push_str(&format!("$ ferry {}\n{}{end}", arguments.join(" "), ran.stdout));
    }

    /// Returns the transcript, without what differs between runs.
    fn told(&self) -> String {
        let root = self.sandbox.path("").display().to_string();
        let text = self.transcript.replace(root.trim_end_matches('/'), "DESK");
        let taken_out = [
            (r"\d{4}-\d\d-\d\dT[0-9:.]+Z", "TIME"),
            (r"commit [0-9a-f]{12}\b", "commit SHORT"),
            (r"commit [0-9a-f]{40}\b", "commit HASH"),
            (r"\| [0-9a-f]{12} \|", "| DIGEST |"),
            (r"(?m) [0-9a-f]{8}$", " DIGEST"),
            (r"(< )?\d+\.\d s\b", "SOME s"),
            // Of a second and more, too; an estimate (`≈ 2 s`) is reckoned and stays.
            (r"([^≈ ] +)\d+ s\b", "${1}SOME s"),
            (r"[0-9.]+ GiB free", "ROOM free"),
            (r"(\S) {2,}", "$1  "),
        ];
        let text = taken_out.iter().fold(text, |text, (pattern, word)| {
            regex::Regex::new(pattern).unwrap().replace_all(&text, *word).into_owned()
        });
        text.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
    }
}

const PLAN: &str = "\
apiVersion: ferry.dev/v1alpha1
kind: Plan
metadata: { name: shop }
spec:
  provider: { source: archive, destination: local }
  map: { network: networks }
  skipGuestConversion: true
  vms: [{ name: web-01 }, { name: db-01, targetPowerstate: 'off' }]
---
apiVersion: ferry.dev/v1alpha1
kind: Migration
metadata: { name: shop-1 }
spec: { plan: shop }
";

#[expect(clippy::too_many_lines, reason = "a story is read from its beginning to its end")]
#[test]
fn a_pull_request_from_its_branch_to_the_report() {
    let mut desk = Desk::new();
    desk.git(&["rm", "-q", "plan.yaml", "migration.yaml"]);
    desk.git(&["commit", "-qm", "only providers and networks"]);
    desk.ferry(&["inventory", "refresh"], 0);
    let inventory = desk.sandbox.path("inventory.json").display().to_string();
    desk.ferry(&["inventory", "export", &inventory], 0);
    desk.git(&["checkout", "-qb", "move-the-shop"]);
    desk.sandbox.write("vms/plans/shop.yaml", PLAN);
    desk.ferry(&["check", "vms/plans"], 1);
    let mended = PLAN.replace("targetPowerstate", "targetPowerState");
    desk.sandbox.write("vms/plans/shop.yaml", mended);
    desk.ferry(&["check", "vms/plans"], 0);
    desk.git(&["add", "shop.yaml"]);
    desk.git(&["commit", "-qm", "move the shop"]);
    // The pipeline has no archive: only what was recorded.
    let hidden = desk.sandbox.path("vms/ova-hidden");
    std::fs::rename(desk.sandbox.path("vms/ova"), &hidden).unwrap();
    let pipeline =
        ["diff", "main..move-the-shop", "--inventory", &inventory, "--output", "markdown"];
    desk.ferry(&pipeline, 2);
    std::fs::rename(&hidden, desk.sandbox.path("vms/ova")).unwrap();
    desk.git(&["checkout", "-q", "main"]);
    desk.git(&["merge", "-q", "move-the-shop"]);
    desk.ferry(&["run", "--once"], 0);
    desk.ferry(&["status"], 0);
    desk.ferry(&["diff"], 0);
    expect![[r#"
        $ git rm -q plan.yaml migration.yaml
        $ git commit -qm only providers and networks
        $ ferry inventory refresh
        source archive: 2 VMs
        target local: ROOM free
        $ ferry inventory export DESK/inventory.json
        $ git checkout -qb move-the-shop
        $ ferry check vms/plans
        error[FY0205]: the field `targetPowerstate` is not known in `spec.vms[1]`
          ╭▸ shop.yaml:8:42
          │
        8 │  vms: [{ name: web-01 }, { name: db-01, targetPowerstate: 'off' }]
          │  ━━━━━━━━━━━━━━━━
          │
          ╰ help: did you mean `targetPowerState`?

        error[FY0403]: the Plan `shop` is broken: shop.yaml:1:1
           ╭▸ shop.yaml:13:15
           │
        13 │ spec: { plan: shop }
           │  ━━━━
           │
           ╰ help: mend it there

        3 files checked: 2 critical, 0 warnings, 0 for information
        [exit 1]
        $ ferry check vms/plans
        3 files checked: 0 critical, 0 warnings, 0 for information
        $ git add shop.yaml
        $ git commit -qm move the shop
        $ ferry diff main..move-the-shop --inventory DESK/inventory.json --output markdown
        **Plan: 2 migrate (commit SHORT, instance main)**

        Data: 1.1 MiB to copy (8.0 MiB provisioned) · ≈ 2 s one after another (default 110.0 MiB/s)

        | | VM | what | copy | target | estimate | cutover | risk | why | digest |
        |---|---|---|---|---|---|---|---|---|---|
        | `+` | shop/web-01 | migrate cold | 589.0 KiB of 4.0 MiB | local/web-01 | ≈ 1 s |  | low |  | DIGEST |
        | `+` | shop/db-01 | migrate cold | 589.0 KiB of 4.0 MiB | local/db-01 | ≈ 1 s |  | low |  | DIGEST |
        [exit 2]
        $ git checkout -q main
        $ git merge -q move-the-shop
        $ ferry run --once
        $ ferry status
        status  VM  step  copied  time  waits for
        ✓ Completed  shop/web-01  4.0 MiB  SOME s
        ✓ Completed  shop/db-01  4.0 MiB  SOME s

        2 of 2 migrated
        $ ferry diff
        Plan: 0 migrate · 2 unchanged (commit SHORT, instance main)
        Data: nothing to copy

           VM  what  copy  target  estimate  risk  why  digest
        =  shop/web-01  migrated  local/web-01  DIGEST
        =  shop/db-01  migrated  local/db-01  DIGEST
        = nothing to do
    "#]].assert_eq(&desk.told());
}
