use std::sync::Arc;

use expect_test::expect;

use std::fmt::Write as _;

use super::*;
use crate::decide::{CutoverLimits, Rest, Stand, Standing, Wait};
use crate::domain::id::{
    Digest, DiskKey, JournalId, MigrationName, PlanName, RunId, Token, VmName,
};
use crate::domain::vm::{Checksum, TargetDisk};
use crate::journal::record::{
    Abandon, Checkpoint, Disposition, Entry, Fact, Fault, Instructions, Mend, RECORD_VERSION,
    Record,
};
use crate::manifest::diagnostic::Severity;
use crate::observed::Observed;
use crate::policy::sample::{at, clear, desired, first, place, seen, vm, wanted, world};

/// What a hostile name may hold: a terminal escape, a reversal of the reading direction, Markdown, HTML, a new line.
pub(crate) const CANARY: &str = "w\u{1b}[2J\u{202e}|<b>@all\n[x](http://e)";

/// Folds facts of one attempt per VM, one second apart.
pub(crate) fn progress(runs: &[(&str, &[Fact])]) -> Progress {
    every(1, runs)
}

/// The same with so many seconds between them.
fn every(seconds: i64, runs: &[(&str, &[Fact])]) -> Progress {
    let mut records = Vec::new();
    for (name, facts) in runs {
        let vm = vm(name);
        let run = RunId { vm: vm.id.clone(), migration: MigrationName::new("go"), attempt: 1 };
        let instructions = Instructions {
            desired: Arc::new(desired("web", name)),
            vm: Arc::new(vm),
            target_name: crate::desired::target_name(name).unwrap(),
            digest: Digest::new("d1"),
            commit: CommitId::new("c0ffee"),
        };
        let began = Fact::Began(Box::new(instructions));
        for fact in std::iter::once(&began).chain(*facts) {
            let second = seconds * i64::try_from(records.len()).unwrap();
            let entry = Entry::Run { run: run.clone(), fact: fact.clone() };
            records.push(Record { version: RECORD_VERSION, at: at(second), entry });
        }
    }
    Progress::fold(JournalId::new("j"), &records).unwrap()
}

/// The facts up to the middle of a copy.
pub(crate) fn copying() -> Vec<Fact> {
    let (disk, target) = (DiskKey::new("vmdisk1"), TargetDisk("/srv/vms/x/disk0".into()));
    vec![
        Fact::Unclaimable,
        Fact::PowerRemembered { power: Power::Off },
        Fact::AreaIntended { token: Token::new("area") },
        Fact::DisksCreated { disks: vec![(disk.clone(), target)] },
        Fact::Checkpointed(Checkpoint {
            disk,
            resume: "r".into(),
            read: Bytes::mib(100),
            done: Bytes::mib(512),
            written: Bytes::mib(90),
        }),
    ]
}

/// The facts up to the end.
pub(crate) fn completed() -> Vec<Fact> {
    let disk = DiskKey::new("vmdisk1");
    let mut facts = copying();
    let root = "beef".repeat(16);
    facts.extend([
        Fact::DiskCopied { disk: disk.clone(), written: Bytes::mib(280), root },
        Fact::DiskVerified { disk },
        Fact::CreateIntended,
        Fact::VmCreated,
        Fact::MarkedMigrated,
        Fact::Completed,
    ]);
    facts
}

/// The facts of an attempt that is being undone.
pub(crate) fn undoing() -> Vec<Fact> {
    let mut facts = copying();
    facts.push(Fact::UndoBegan { why: Abandon::Canceled });
    facts
}

pub(crate) fn fault() -> Fault {
    Fault {
        text: "the disk cannot be read".into(),
        remedy: "Mount it".into(),
        disposition: Disposition::Stall(Mend::Person),
    }
}

pub(crate) fn stand(name: &str, state: Standing) -> Stand {
    let key = VmKey { plan: PlanName::new("web"), vm: VmName::new(name) };
    Stand { key, vm: None, migration: Some(MigrationName::new("go")), state }
}

/// Each kind of row once.
pub(crate) struct Scene {
    pub(crate) instance: Instance,
    pub(crate) commit: CommitId,
    pub(crate) wanted: Wanted,
    pub(crate) verdicts: Vec<Verdict>,
    pub(crate) progress: Progress,
    pub(crate) stands: Vec<Stand>,
    pub(crate) held: Option<&'static str>,
}

impl Scene {
    pub(crate) fn new() -> Self {
        let names =
            ["new", "db", "big", "moving", "done", "gone", "broken", "idle", "lost", CANARY];
        let mut wanted = wanted(&[("web", &names)]);
        wanted.findings.push(Finding {
            code: "FY0100".into(),
            severity: Severity::Warning,
            place: place(3),
            text: format!("`colour` is no field of a Plan, {CANARY}"),
            hint: Some("did you mean `color`?".into()),
        });
        let mut observed = world(names[..9].iter().map(|name| vm(name)).collect());
        let vm = seen(&mut observed, 1);
        vm.power = Power::On;
        vm.disks[0].checksum = Checksum::Absent;
        vm.firmware = None;
        let disk = &mut seen(&mut observed, 2).disks[0];
        disk.capacity = Bytes::mib(4 << 20);
        disk.stored = None;
        seen(&mut observed, 8).nics[0].network = CANARY.into();
        let verdicts = clear(&wanted, &observed);
        let wait = Standing::Waiting;
        let stands = vec![
            stand("new", Standing::Acting("begins")),
            stand("db", wait(Wait::Slot { moving: 3 })),
            stand("big", wait(Wait::Space { needed: Bytes::mib(4 << 20), free: Bytes::mib(7) })),
            stand("moving", wait(Wait::Copying)),
            stand("done", Standing::Resting(Rest::Completed)),
            stand("gone", Standing::Acting("is undone")),
            stand("broken", wait(Wait::Stalled(fault()))),
            stand("idle", Standing::Resting(Rest::NoMigration)),
            stand("lost", wait(Wait::Blocked)),
            stand(CANARY, wait(Wait::Blocked)),
        ];
        let progress = progress(&[
            ("moving", &copying()),
            ("done", &completed()),
            ("gone", &undoing()),
            ("broken", &copying()),
        ]);
        Self {
            instance: Instance::new("prod"),
            commit: CommitId::new("0123456789abcdef0123456789abcdef01234567"),
            wanted,
            verdicts,
            progress,
            stands,
            held: None,
        }
    }

    pub(crate) fn input(&self) -> Input<'_> {
        let Self { instance, commit, wanted, verdicts, progress, stands, held } = self;
        Input {
            instance,
            commit,
            wanted,
            verdicts,
            progress,
            stands,
            held: *held,
            cutover: CutoverLimits::default(),
            now: "2026-11-25T12:00:00Z".parse().unwrap(),
        }
    }
}

#[test]
fn what_the_target_does_not_start_is_said_beforehand() {
    let wanted = wanted(&[("web", &["db"])]);
    let mut observed = world(vec![vm("db")]);
    seen(&mut observed, 0).power = Power::On;
    let told = |observed: &Observed| {
        let verdict = clear(&wanted, observed).remove(0);
        let (stand, desired) = (stand("db", Standing::Acting("begins")), desired("web", "db"));
        let vm = observed.sources.values().next().unwrap().state.as_ref().unwrap().vms[0].clone();
        let (actions, words) =
            what(Change::Start, &stand, Some(&*vm), Some(&desired), None, Some(&verdict));
        let hints: Vec<_> = verdict.findings.iter().filter_map(|it| it.hint.clone()).collect();
        format!("{}: {words}\n{}", actions.join(" "), hints.join("\n"))
    };
    expect![[r#"
        shut-down copy verify create start: migrate cold, powers it off, starts it on the target
    "#]]
    .assert_eq(&told(&observed));
    observed.targets.values_mut().for_each(|seen| seen.state.as_mut().unwrap().starts = false);
    expect![[r#"
        shut-down copy verify create: migrate cold, powers it off, does not start it: the target starts nothing
        Start it by hand afterwards, `virsh -c qemu:///system create /srv/vms/db/domain.xml`; or set `libvirt.uri`"#]].assert_eq(&told(&observed));
}

#[test]
fn a_terminal_gets_a_table_that_fits() {
    let scene = Scene::new();
    let preview = preview(&scene.input());
    expect![[r#"
        Plan: 3 migrate · 1 go on · 1 undone · 3 BLOCKED · 2 unchanged (commit 0123456789ab, instance prod)
        Data: 4.0 TiB to copy (4.0 TiB provisioned) · ≈ 10 h 35 m one after another (default 110.0 MiB/s)
        ! Warning: plans/web.yaml:3:5: `colour` is no field of a Plan, w\u{1b}[2J\u{202e}|<b>@all\n[x](http://e)
        [FY0100] … hint: did you mean `color`?

           VM              what            copy            target       estimate     risk    why            digest
        +  web/new         migrate cold    300.0 MiB of    rack/new     ≈ 3 s        low                    7f19ea01
                                           1.0 GiB
        +  web/db          migrate cold,   300.0 MiB of    rack/db      ≈ 3 s        medium  all places     ac7da45d
                           powers it off,  1.0 GiB                                           for VMs that
                           starts it on                                                      move are
                           the target                                                        taken; the
                                                                                             source does
                                                                                             not say
                                                                                             whether it
                                                                                             boots by BIOS
                                                                                             or UEFI
        +  web/big         migrate cold    4.0 TiB         rack/big     ≈ 10 h 35 m  low     the target     f6d7921c
                                                                                             has no room
                                                                                             for 4.0 TiB
        ~  web/moving      go on           300.0 MiB of    rack/moving                                      7f6bb5c1
                           (Copying)       1.0 GiB
        =  web/done        migrated                        rack/done                                        081946d7
        -  web/gone        undo                            rack/gone                                        a021bf77
        !  web/broken      blocked         300.0 MiB of    rack/broken                       the disk       afe8c85f
                                           1.0 GiB                                           cannot be
                                                                                             read
        =  web/idle        no Migration                    rack/idle                                        48eb01d4
                           runs its plan
        !  web/lost        blocked                         rack                              network `w\u{  3f26545c
                                                                                             1b}[2J\u{202e
                                                                                             }|<b>@all\n[x
                                                                                             ](http://e)`
                                                                                             is not mapped
        !  web/w\u{1b}[2J  blocked                         rack                              `archive`
           \u{202e}|<b>@a                                                                    holds no VM
           ll\n[x](http:/                                                                    `w\u{1b}[2J\u
           /e)                                                                               {202e}|<b>@al
                                                                                             l\n[x](http:/
                                                                                             /e)`
        ! blocked · - undo and stop managing · + start a migration · ~ go on · = nothing to do

        + web/db
          Warning: plans/web.yaml:12:5: the source does not say whether it boots by BIOS or UEFI
          [vm.firmware.unknown] … hint: Start the VM on the target once and look; if it does not boot, set the
          firmware in its domain file
          Information: plans/web.yaml:12:5: disk `vmdisk1` has no checksum [ova.disk.checksum.absent] … hint: Export
          the VM with a manifest file (`.mf`)

        ! web/lost
          Critical: plans/web.yaml:12:5: network `w\u{1b}[2J\u{202e}|<b>@all\n[x](http://e)` is not mapped
          [plan.network.unmapped] … hint: Add an entry for the network to the NetworkMapping (`type: ignored` leaves
          the card out)

        ! web/w\u{1b}[2J\u{202e}|<b>@all\n[x](http://e)
          Critical: plans/web.yaml:12:5: `archive` holds no VM `w\u{1b}[2J\u{202e}|<b>@all\n[x](http://e)`
          [source.vm.absent] … hint: The source holds `new`, `db`, `big`, `moving`, `done` and 4 more
    "#]].assert_eq(&preview.text(110));
    for width in [40, 60, 80, 200] {
        let text = preview.text(width);
        let longest = text.lines().map(|line| line.chars().count()).max().unwrap();
        assert!(longest <= usize::from(width), "{width}: {longest}\n{text}");
    }
}

#[test]
fn a_comment_has_what_blocks_first_and_is_cut_between_rows() {
    let scene = Scene::new();
    let preview = preview(&scene.input());
    let whole = preview.markdown(100_000);
    expect![[r#"
        **Plan: 3 migrate · 1 go on · 1 undone · 3 BLOCKED · 2 unchanged (commit 0123456789ab, instance prod)**

        Data: 4.0 TiB to copy (4.0 TiB provisioned) · ≈ 10 h 35 m one after another (default 110.0 MiB/s)

        - Warning: plans/web.yaml:3:5: \`colour\` is no field of a Plan, w\\u{1b}\[2J\\u{202e}\|&lt;b&gt;@&#8203;all\\n\[x\](http:&#8203;//e) \[FY0100\] … hint: did you mean \`color\`?

        | | VM | what | copy | target | estimate | cutover | risk | why | digest |
        |---|---|---|---|---|---|---|---|---|---|
        | `!` | web/broken | blocked | 300.0 MiB of 1.0 GiB | rack/broken |  |  |  | the disk cannot be read | afe8c85f5f70 |
        | `!` | web/lost | blocked |  | rack |  |  |  | network \`w\\u{1b}\[2J\\u{202e}\|&lt;b&gt;@&#8203;all\\n\[x\](http:&#8203;//e)\` is not mapped | 3f26545c3f60 |
        | `!` | web/w\\u{1b}\[2J\\u{202e}\|&lt;b&gt;@&#8203;all\\n\[x\](http:&#8203;//e) | blocked |  | rack |  |  |  | \`archive\` holds no VM \`w\\u{1b}\[2J\\u{202e}\|&lt;b&gt;@&#8203;all\\n\[x\](http:&#8203;//e)\` |  |
        | `-` | web/gone | undo |  | rack/gone |  |  |  |  | a021bf77e256 |
        | `+` | web/new | migrate cold | 300.0 MiB of 1.0 GiB | rack/new | ≈ 3 s |  | low |  | 7f19ea016df8 |
        | `+` | web/db | migrate cold, powers it off, starts it on the target | 300.0 MiB of 1.0 GiB | rack/db | ≈ 3 s |  | medium | all places for VMs that move are taken; the source does not say whether it boots by BIOS or UEFI | ac7da45d43aa |
        | `+` | web/big | migrate cold | 4.0 TiB | rack/big | ≈ 10 h 35 m |  | low | the target has no room for 4.0 TiB | f6d7921c40b8 |
        | `~` | web/moving | go on (Copying) | 300.0 MiB of 1.0 GiB | rack/moving |  |  |  |  | 7f6bb5c13543 |
        | `=` | web/done | migrated |  | rack/done |  |  |  |  | 081946d7d750 |
        | `=` | web/idle | no Migration runs its plan |  | rack/idle |  |  |  |  | 48eb01d42ab0 |
    "#]].assert_eq(&whole);
    let rows = |text: &str| text.lines().filter(|line| line.starts_with("| `")).count();
    let all = rows(&whole);
    let mut before = 0;
    for limit in 0..=whole.chars().count() + 60 {
        let cut = preview.markdown(limit);
        assert!(cut.chars().count() <= limit, "{limit}");
        for line in cut.lines().filter(|line| line.starts_with('|')) {
            assert!(whole.contains(line) && line.ends_with('|'));
        }
        assert!(rows(&cut) >= before || cut.contains("left out"), "{limit}");
        if cut.contains("left out") {
            let left = all - rows(&cut) + usize::from(!cut.contains("\n- "));
            assert!(cut.contains(&format!("\n{left} more left out")), "{limit}: {cut}");
        }
        before = rows(&cut);
    }
    assert_eq!(before, all);
}

#[test]
fn machines_get_every_field() {
    let scene = Scene::new();
    let json: serde_json::Value = serde_json::from_str(&preview(&scene.input()).json()).unwrap();
    expect![[r#"
        {
          "change": "start",
          "symbol": "+",
          "key": {
            "plan": "web",
            "vm": "db"
          },
          "source_vm": "ova:00003dde/db",
          "actions": [
            "shut-down",
            "copy",
            "verify",
            "create",
            "start"
          ],
          "what": "migrate cold, powers it off, starts it on the target",
          "wait": "all places for VMs that move are taken",
          "bytes": {
            "provisioned": 1073741824,
            "stored": 314572800,
            "to_copy": 314572800
          },
          "target": {
            "provider": "rack",
            "name": "db"
          },
          "schedule": null,
          "estimate": {
            "seconds": 3,
            "basis": "default 110.0 MiB/s"
          },
          "risk": {
            "level": "medium",
            "factors": [
              {
                "level": "medium",
                "text": "vm.firmware.unknown"
              }
            ]
          },
          "findings": [
            {
              "code": "vm.firmware.unknown",
              "severity": "Warning",
              "place": {
                "file": "plans/web.yaml",
                "line": 12,
                "column": 5
              },
              "text": "the source does not say whether it boots by BIOS or UEFI",
              "hint": "Start the VM on the target once and look; if it does not boot, set the firmware in its domain file"
            },
            {
              "code": "ova.disk.checksum.absent",
              "severity": "Information",
              "place": {
                "file": "plans/web.yaml",
                "line": 12,
                "column": 5
              },
              "text": "disk `vmdisk1` has no checksum",
              "hint": "Export the VM with a manifest file (`.mf`)"
            }
          ],
          "digest": "ac7da45d43aa78ac747b139030dbb9e5",
          "changed": []
        }"#]].assert_eq(&serde_json::to_string_pretty(&json["vms"][1]).unwrap());
}

#[test]
fn the_schema_describes_what_machines_get() {
    let validator = jsonschema::draft202012::new(&schema()).unwrap();
    let value = serde_json::to_value(preview(&Scene::new().input())).unwrap();
    let errors: Vec<String> =
        validator.iter_errors(&value).map(|error| error.to_string()).collect();
    assert_eq!(errors, Vec::<String>::new());
    assert_eq!((&value["applyable"], &value["errored"]), (&false.into(), &false.into()));
    let other = serde_json::json!({ "format_version": FORMAT_VERSION + 1 });
    assert!(!validator.is_valid(&other));
}

#[test]
fn nothing_hostile_comes_through_any_form() {
    let scene = Scene::new();
    let preview = preview(&scene.input());
    for text in [preview.text(300), preview.markdown(100_000), preview.json()] {
        assert!(!text.contains(['\u{1b}', '\u{202e}']), "{text}");
        assert!(text.contains("u{1b}"), "the canary must be in it to prove anything: {text}");
    }
    let comment = preview.markdown(100_000);
    assert!(!comment.contains("<b>") && !comment.contains("@all"));
    assert!(!comment.replace("\\]", "").contains("]("));
    let cells = |line: &str| line.replace("\\|", "").matches('|').count();
    for line in comment.lines().filter(|line| line.starts_with("| `")) {
        assert_eq!(cells(line), 11, "{line}");
    }
}

#[test]
fn the_end_tells_changes_from_blocks() {
    let mut scene = Scene::new();
    let all = preview(&scene.input());
    assert!(all.changes() && all.blocked() && !all.applyable && all.complete);
    scene.stands.truncate(4);
    let changes = preview(&scene.input());
    assert!(changes.changes() && !changes.blocked() && changes.applyable);
    scene.stands = vec![
        stand("done", Standing::Resting(Rest::Completed)),
        stand("idle", Standing::Resting(Rest::NoMigration)),
    ];
    let nothing = preview(&scene.input());
    assert!(!nothing.changes() && !nothing.blocked() && !nothing.applyable);
    scene.wanted.findings[0].severity = Severity::Critical;
    let errored = preview(&scene.input());
    assert!(errored.errored && errored.blocked());
    scene.wanted.findings.clear();
    let gap = crate::observed::Gap { reason: "cut".into(), remedy: "again".into() };
    scene.stands = vec![stand("new", Standing::Waiting(Wait::Unknown(gap)))];
    let unknown = preview(&scene.input());
    assert!(unknown.changes() && !unknown.complete && !unknown.applyable && !unknown.blocked());
    scene.stands = vec![stand("lost", Standing::Resting(Rest::NoMigration))];
    assert!(preview(&scene.input()).blocked());
    scene.stands = vec![stand("new", Standing::Resting(Rest::Failed(fault())))];
    assert!(preview(&scene.input()).blocked());
}

#[test]
fn the_same_inputs_give_the_same_bytes() {
    let forms = || {
        let scene = Scene::new();
        let preview = preview(&scene.input());
        (preview.text(100), preview.markdown(60_000), preview.json())
    };
    assert_eq!(forms(), forms());
}

#[test]
fn many_that_need_nothing_are_counted_not_listed() {
    let mut scene = Scene::new();
    scene.stands = (0..21)
        .map(|number| stand(&format!("vm-{number}"), Standing::Resting(Rest::Completed)))
        .collect();
    let preview = preview(&scene.input());
    assert!(!preview.text(80).contains("vm-1") && preview.text(80).contains("21 unchanged"));
    assert_eq!(preview.vms.len(), 21);
}

#[test]
fn a_time_that_its_window_does_not_hold_is_blocked_while_it_can_still_be_changed() {
    use crate::desired::{Cutover, Request};
    use crate::domain::id::MigrationName;
    use crate::domain::window::{Calendar, Rule, Window};

    let told = |time: &str| {
        let mut scene = Scene::new();
        let hours = jiff::SignedDuration::from_hours(4);
        let rule = Rule::new("0 22 * * *", hours, "Europe/Berlin", None).unwrap();
        let window = Window { name: "nights".into(), allow: vec![rule], deny: Vec::new() };
        first(&mut scene.wanted).calendar = Arc::new(Calendar::new(vec![window], None));
        let at = time.parse().unwrap();
        let mut stand = stand("new", Standing::Waiting(Wait::Cutover { at }));
        stand.migration = Some(MigrationName::new("m"));
        scene.wanted.requests.push(Request {
            name: MigrationName::new("m"),
            plan: stand.key.plan.clone(),
            cancel: std::collections::BTreeSet::new(),
            again: std::collections::BTreeSet::new(),
            cutover: Some(Cutover::At(at)),
            vm_cutover: std::collections::BTreeMap::new(),
            digest: Digest::new("d"),
            place: place(1),
        });
        scene.stands = vec![stand];
        let preview = preview(&scene.input());
        let row = &preview.vms[0];
        format!("{} {}\n", row.symbol, row.schedule.as_ref().unwrap().words())
    };
    expect![[r#"
        >> Sat 2026-11-28 22:30 CET (21:30Z), until 02:00, 3 h 14 m slack
        ! Sun 2026-11-29 01:50 CET (00:50Z), until 02:00 ✗ does not fit
        ! Sat 2026-11-28 12:00 CET (11:00Z), until 02:00 ✗ does not fit
    "#]]
    .assert_eq(
        &["2026-11-28T22:30:00+01:00", "2026-11-29T01:50:00+01:00", "2026-11-28T12:00:00+01:00"]
            .map(told)
            .concat(),
    );
}

#[test]
fn a_risk_is_that_of_its_gravest_factor() {
    use crate::desired::{WaiverWanted, WeightWanted};
    use crate::policy::sample::wish;

    let mut scene = Scene::new();
    let risks = |scene: &Scene| {
        let mut text = String::new();
        for row in preview(&scene.input()).vms.into_iter().take(3) {
            let Risk { level, factors } = row.risk.unwrap();
            let texts: Vec<String> = factors.into_iter().map(|factor| factor.text).collect();
            writeln!(text, "{}: {level:?} {texts:?}", row.key).unwrap();
        }
        text
    };
    expect![[r#"
        web/new: Low []
        web/db: Medium ["vm.firmware.unknown"]
        web/big: Low []
    "#]]
    .assert_eq(&risks(&scene));
    let waiver = |concern: &str| WaiverWanted {
        concern: concern.to_owned(),
        vm: "db".to_owned(),
        reason: "known".to_owned(),
        expires: "2026-12-31".parse().unwrap(),
        place: place(1),
    };
    scene.wanted.waivers.push(waiver("vm.firmware.unknown"));
    scene.wanted.weights.push(WeightWanted {
        concern: "vm.firmware.unknown".to_owned(),
        severity: Severity::Critical,
        place: place(1),
    });
    for vm in &mut first(&mut scene.wanted).vms {
        let wish = wish(vm);
        (wish.shutdown_force, wish.verify) = (true, Verify::None);
    }
    let mut observed = world(["new", "db", "big"].map(vm).to_vec());
    seen(&mut observed, 1).power = Power::On;
    seen(&mut observed, 1).firmware = None;
    scene.verdicts = clear(&scene.wanted, &observed);
    expect![[r#"
        web/new: Medium ["the copy is not read again"]
        web/db: High ["power is cut where its guest does not shut down in time", "vm.firmware.unknown is waived", "the copy is not read again"]
        web/big: Medium ["the copy is not read again"]
    "#]].assert_eq(&risks(&scene));
}

#[test]
fn an_estimate_is_reckoned_from_the_last_copies_of_the_source() {
    let mut scene = Scene::new();
    // 300 MiB took three spans of a minute: from the disks to the last comparison.
    scene.progress = every(60, &[("done", &completed())]);
    let preview = preview(&scene.input());
    let estimate = preview.vms[0].estimate.as_ref().unwrap();
    let told = format!("{} s: {}", estimate.seconds, estimate.basis);
    expect!["181 s: last VM of this source, 1.6 MiB/s"].assert_eq(&told);
    assert_eq!(scene.progress.newest().next().unwrap().pace, Pace::ASSUMED);
}

#[test]
fn what_is_copied_is_the_same_for_a_preview_and_for_a_decision() {
    let mut vm = vm("web");
    let unknown = crate::domain::vm::Disk { stored: None, ..vm.disks[0].clone() };
    vm.disks.push(unknown);
    let sizes = Sizes::of(&vm);
    assert_eq!((sizes.stored, sizes.provisioned), (None, Bytes::mib(2048)));
    assert_eq!(sizes.to_copy, Bytes::mib(300 + 1024));
}
