use expect_test::expect;

use super::*;
use crate::decide::{Rest, Stand, Standing, Wait};
use crate::domain::id::{
    Digest, DiskKey, JournalId, MigrationName, PlanName, RunId, Token, VmName,
};
use crate::domain::vm::{Checksum, TargetDisk};
use crate::journal::record::{
    Abandon, Checkpoint, Disposition, Entry, Fact, Fault, Instructions, Mend, RECORD_VERSION,
    Record,
};
use crate::manifest::diagnostic::Severity;
use crate::policy::sample::{at, clear, desired, place, source, vm, wanted, world};

/// What a hostile name may hold: a terminal escape, a reversal of the reading direction, Markdown, HTML, a new line.
pub(crate) const CANARY: &str = "w\u{1b}[2J\u{202e}|<b>@all\n[x](http://e)";

/// Folds facts of one attempt per VM, one second apart.
pub(crate) fn progress(runs: &[(&str, &[Fact])]) -> Progress {
    let mut records = Vec::new();
    for (name, facts) in runs {
        let vm = vm(name);
        let run = RunId { vm: vm.id.clone(), migration: MigrationName::new("go"), attempt: 1 };
        let instructions = Instructions {
            desired: desired("web", name),
            vm,
            target_name: crate::policy::target_name(name).unwrap(),
            digest: Digest::new("d1"),
            commit: CommitId::new("c0ffee"),
        };
        let began = Fact::Began(Box::new(instructions));
        for fact in std::iter::once(&began).chain(*facts) {
            let second = i64::try_from(records.len()).unwrap();
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
    pub(crate) decision: Decision,
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
        let vms = &mut source(&mut observed).vms;
        vms[1].power = Power::On;
        vms[1].disks[0].checksum = Checksum::Absent;
        vms[1].firmware = None;
        vms[2].disks[0].capacity = Bytes::mib(4 << 20);
        vms[2].disks[0].stored = None;
        vms[8].nics[0].network = CANARY.into();
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
            decision: Decision { stands, ..Decision::default() },
            held: None,
        }
    }

    pub(crate) fn input(&self) -> Input<'_> {
        let Self { instance, commit, wanted, verdicts, progress, decision, held } = self;
        Input { instance, commit, wanted, verdicts, progress, decision, held: *held }
    }
}

#[test]
fn a_terminal_gets_a_table_that_fits() {
    let scene = Scene::new();
    let preview = preview(&scene.input());
    expect![[r#"
        Plan: 3 migrate · 1 go on · 1 undone · 3 BLOCKED · 2 unchanged (commit 0123456789ab, instance prod)
        Data: 4.0 TiB to copy (4.0 TiB provisioned) · ≈ 10 h 35 m at 110.0 MiB/s (default), one after another
        ! Warning: plans/web.yaml:3:5: `colour` is no field of a Plan, w\u{1b}[2J\u{202e}|<b>@all\n[x](http://e)
        [FY0100] … hint: did you mean `color`?

           VM                 what               copy          target       estimate     why                digest
        +  web/new            migrate cold       300.0 MiB of  rack/new     ≈ 3 s                           20ea9c84
                                                 1.0 GiB
        +  web/db             migrate cold,      300.0 MiB of  rack/db      ≈ 3 s        all places for     ddc3032d
                              powers it off,     1.0 GiB                                 VMs that move are
                              starts it on the                                           taken; the source
                              target                                                     does not say
                                                                                         whether it boots
                                                                                         by BIOS or UEFI
        +  web/big            migrate cold       4.0 TiB       rack/big     ≈ 10 h 35 m  the target has no  89ef2e51
                                                                                         room for 4.0 TiB
        ~  web/moving         go on (Copying)    300.0 MiB of  rack/moving                                  d8b5b86f
                                                 1.0 GiB
        =  web/done           migrated                         rack/done                                    866b02e7
        -  web/gone           undo                             rack/gone                                    b72f5755
        !  web/broken         blocked            300.0 MiB of  rack/broken               the disk cannot    8e17192c
                                                 1.0 GiB                                 be read
        =  web/idle           no Migration runs                rack/idle                                    6e6cfe3e
                              its plan
        !  web/lost           blocked                          rack                      network `w\u{1b}[  8864440c
                                                                                         2J\u{202e}|<b>@al
                                                                                         l\n[x](http://e)`
                                                                                         is not mapped
        !  web/w\u{1b}[2J\u{  blocked                          rack                      `archive` holds
           202e}|<b>@all\n[x                                                             no VM `w\u{1b}[2J
           ](http://e)                                                                   \u{202e}|<b>@all\
                                                                                         n[x](http://e)`
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

        Data: 4.0 TiB to copy (4.0 TiB provisioned) · ≈ 10 h 35 m at 110.0 MiB/s (default), one after another

        - Warning: plans/web.yaml:3:5: \`colour\` is no field of a Plan, w\\u{1b}\[2J\\u{202e}\|&lt;b&gt;@&#8203;all\\n\[x\](http:&#8203;//e) \[FY0100\] … hint: did you mean \`color\`?

        | | VM | what | copy | target | estimate | why | digest |
        |---|---|---|---|---|---|---|---|
        | `!` | web/broken | blocked | 300.0 MiB of 1.0 GiB | rack/broken |  | the disk cannot be read | 8e17192cc227 |
        | `!` | web/lost | blocked |  | rack |  | network \`w\\u{1b}\[2J\\u{202e}\|&lt;b&gt;@&#8203;all\\n\[x\](http:&#8203;//e)\` is not mapped | 8864440cd461 |
        | `!` | web/w\\u{1b}\[2J\\u{202e}\|&lt;b&gt;@&#8203;all\\n\[x\](http:&#8203;//e) | blocked |  | rack |  | \`archive\` holds no VM \`w\\u{1b}\[2J\\u{202e}\|&lt;b&gt;@&#8203;all\\n\[x\](http:&#8203;//e)\` |  |
        | `-` | web/gone | undo |  | rack/gone |  |  | b72f575552d2 |
        | `+` | web/new | migrate cold | 300.0 MiB of 1.0 GiB | rack/new | ≈ 3 s |  | 20ea9c8454d5 |
        | `+` | web/db | migrate cold, powers it off, starts it on the target | 300.0 MiB of 1.0 GiB | rack/db | ≈ 3 s | all places for VMs that move are taken; the source does not say whether it boots by BIOS or UEFI | ddc3032d9d2c |
        | `+` | web/big | migrate cold | 4.0 TiB | rack/big | ≈ 10 h 35 m | the target has no room for 4.0 TiB | 89ef2e51e6ce |
        | `~` | web/moving | go on (Copying) | 300.0 MiB of 1.0 GiB | rack/moving |  |  | d8b5b86fcb5f |
        | `=` | web/done | migrated |  | rack/done |  |  | 866b02e75beb |
        | `=` | web/idle | no Migration runs its plan |  | rack/idle |  |  | 6e6cfe3e4034 |
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
    let preview = preview(&scene.input());
    let json: serde_json::Value = serde_json::from_str(&preview.json()).unwrap();
    assert_eq!(json["format_version"], 1);
    assert_eq!((&json["applyable"], &json["errored"]), (&false.into(), &false.into()));
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
            "stored": 314572800
          },
          "target": {
            "provider": "rack",
            "name": "db"
          },
          "estimate": {
            "seconds": 3,
            "basis": "default 110.0 MiB/s"
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
          "digest": "ddc3032d9d2cbdff95cecce97b95abd5"
        }"#]].assert_eq(&serde_json::to_string_pretty(&json["vms"][1]).unwrap());
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
        assert_eq!(cells(line), 9, "{line}");
    }
}

#[test]
fn the_end_tells_changes_from_blocks() {
    let mut scene = Scene::new();
    let all = preview(&scene.input());
    assert!(all.changes() && all.blocked() && !all.applyable && all.complete);
    scene.decision.stands.truncate(4);
    let changes = preview(&scene.input());
    assert!(changes.changes() && !changes.blocked() && changes.applyable);
    scene.decision.stands = vec![
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
    scene.decision.stands = vec![stand("new", Standing::Waiting(Wait::Unknown(gap)))];
    let unknown = preview(&scene.input());
    assert!(unknown.changes() && !unknown.complete && !unknown.applyable && !unknown.blocked());
    scene.decision.stands = vec![stand("lost", Standing::Resting(Rest::NoMigration))];
    assert!(preview(&scene.input()).blocked());
    scene.decision.stands = vec![stand("new", Standing::Resting(Rest::Failed(fault())))];
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
    scene.decision.stands = (0..21)
        .map(|number| stand(&format!("vm-{number}"), Standing::Resting(Rest::Completed)))
        .collect();
    let preview = preview(&scene.input());
    assert!(!preview.text(80).contains("vm-1") && preview.text(80).contains("21 unchanged"));
    assert_eq!(preview.vms.len(), 21);
}
