//! Scripts: what is wanted, seen and done, and what is decided then.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use expect_test::{Expect, expect};
use jiff::{SignedDuration, Timestamp};

use crate::decide::{CutoverLimits, Decision, Input, Limits, Standing, Warrant, decide};
use crate::desired::{Desired, PlanWanted, Request, Selector, Site, VmWanted, Wanted};
use crate::domain::id::{
    CommitId, Digest, DiskKey, JournalId, MigrationName, PlanName, ProviderName, RunId, SourceVm,
    TargetName, VmKey, VmName,
};
use crate::domain::unit::Bytes;
use crate::domain::vm::{Checksum, Claim, Disk, DiskFormat, Power, SourceDisk, TargetDisk, Vm};
use crate::domain::window::Calendar;
use crate::journal::phase::name_of;
use crate::journal::progress::Progress;
use crate::journal::record::{Abandon, Checkpoint, Disposition, Entry, Fact, Fault, Mend};
use crate::manifest::diagnostic::Place;
use crate::manifest::document::{ImageFormat, OnFailure, PlanType, TargetPowerState, Verify};
use crate::observed::{Brake, Gap, Observed, Seen, SourceState, TargetState, WorkerState};
use crate::policy::{Cleared, Outcome, Verdict, sample};

/// A world of one plan, `web`, from which everything that `decide` reads is made anew for each decision.
struct Bench {
    vms: Vec<Vm>,
    target: TargetState,
    target_gap: Option<Gap>,
    requests: Vec<Request>,
    wanted: bool,
    timeout_s: u32,
    force: bool,
    worker: Option<WorkerState>,
    brake: Brake,
    bars: Vec<String>,
    clock_off: SignedDuration,
    slots: usize,
    verify: Verify,
    format: ImageFormat,
    convert: bool,
    blocked: Option<&'static str>,
    cutover: CutoverLimits,
    calendar: Arc<Calendar>,
    closed: Vec<String>,
    progress: Progress,
    now: Timestamp,
}

fn vm(name: &str, power: Power, claim: Claim) -> Vm {
    let id = match claim {
        Claim::Impossible => SourceVm::Ova { archive: "a".into(), system: name.into() },
        _ => SourceVm::Vsphere { server: "vc".into(), vm: name.into() },
    };
    let disk = Disk {
        key: DiskKey::new("disk1"),
        capacity: Bytes::mib(8),
        stored: Some(Bytes::mib(4)),
        format: DiskFormat::StreamOptimized,
        checksum: Checksum::Absent,
        source: SourceDisk(name.into()),
    };
    Vm {
        id,
        name: name.into(),
        path: name.into(),
        power,
        disks: vec![disk],
        nics: Vec::new(),
        claim,
        ..sample::vm(name)
    }
}

fn place() -> Place {
    Place { file: "web.yaml".into(), line: 1, column: 1 }
}

fn key(name: &str) -> VmKey {
    VmKey { plan: PlanName::new("web"), vm: VmName::new(name) }
}

impl Bench {
    fn new(vms: Vec<Vm>) -> Self {
        let mut bench = Self {
            vms,
            target: TargetState { free: Bytes::mib(100), starts: true, ..TargetState::default() },
            target_gap: None,
            requests: Vec::new(),
            wanted: true,
            timeout_s: 600,
            force: false,
            worker: None,
            brake: Brake::Released,
            bars: Vec::new(),
            clock_off: SignedDuration::ZERO,
            slots: 20,
            verify: Verify::None,
            format: ImageFormat::Raw,
            convert: false,
            blocked: None,
            cutover: CutoverLimits { require_window: false, ..CutoverLimits::default() },
            calendar: Arc::default(),
            closed: Vec::new(),
            progress: Progress::new(JournalId::new("j")),
            now: "2026-11-25T12:00:00Z".parse().unwrap(),
        };
        bench.request("m1");
        bench
    }

    fn ova(names: &[&str]) -> Self {
        Self::new(names.iter().map(|name| vm(name, Power::Off, Claim::Impossible)).collect())
    }

    fn running() -> Self {
        Self::new(vec![vm("db", Power::On, Claim::Free)])
    }

    fn request(&mut self, name: &str) -> &mut Request {
        self.requests.push(Request {
            name: MigrationName::new(name),
            plan: PlanName::new("web"),
            cancel: BTreeSet::new(),
            again: BTreeSet::new(),
            cutover: None,
            vm_cutover: BTreeMap::new(),
            digest: Digest::new(name),
            place: place(),
        });
        self.requests.last_mut().unwrap()
    }

    fn desired(&self, vm: &Vm) -> Desired {
        Desired {
            key: key(&vm.name),
            place: place(),
            source: ProviderName::new("vc"),
            source_site: Site::Ova { path: "/ova".into() },
            selector: Selector::Name(vm.name.clone()),
            target: ProviderName::new("kvm"),
            target_site: Site::Local { path: "/vms".into(), disk_format: self.format },
            target_name: None,
            kind: PlanType::Cold,
            networks: Some(Arc::default()),
            power: TargetPowerState::Auto,
            skip_guest_conversion: !self.convert,
            shutdown_timeout_s: self.timeout_s,
            shutdown_force: self.force,
            verify: self.verify,
            on_failure: OnFailure::Keep,
        }
    }

    fn verdict(&self, vm: &Vm) -> Verdict {
        let desired = self.desired(vm);
        let digest = Digest::new("d");
        let name = TargetName::new(vm.name.clone());
        let cleared = Cleared::for_tests(desired, vm.clone(), name, digest.clone());
        let outcome = match self.blocked {
            Some(blocked) if blocked == vm.name => Outcome::Blocked,
            Some(_) | None => Outcome::Cleared(Box::new(cleared)),
        };
        Verdict {
            key: key(&vm.name),
            vm: Some(vm.id.clone()),
            digest: Some(digest),
            findings: Vec::new(),
            outcome,
        }
    }

    fn decide(&self) -> Decision {
        let entries = self.vms.iter().map(|vm| VmWanted {
            key: key(&vm.name),
            place: place(),
            entry: Digest::new(vm.name.clone()),
            desired: Some(Arc::new(self.desired(vm))),
            findings: Vec::new(),
        });
        let plan = PlanWanted {
            description: None,
            source: "vc".into(),
            target: "kvm".into(),
            kind: PlanType::Cold,
            archived: false,
            calendar: self.calendar.clone(),
            place: place(),
            vms: entries.collect(),
        };
        let wanted = Wanted {
            plans: BTreeMap::from([(PlanName::new("web"), Arc::new(plan))]),
            requests: self.requests.clone(),
            closed: self.closed.clone(),
            ..Wanted::default()
        };
        let source = SourceState {
            vms: self.vms.iter().cloned().map(Arc::new).collect(),
            gaps: Vec::new(),
            clock: Some(self.now.checked_add(self.clock_off).unwrap()),
        };
        let mut observed = Observed {
            brake: self.brake,
            power_off_bars: self.bars.clone(),
            ..Observed::default()
        };
        observed.sources.insert(ProviderName::new("vc"), Seen { at: self.now, state: Ok(source) });
        let state = self.target_gap.clone().map_or_else(|| Ok(self.target.clone()), Err);
        let seen = Seen { at: self.now, state };
        observed.targets.insert(ProviderName::new("kvm"), seen);
        if let Some(state) = &self.worker {
            let runs = self.progress.moving().map(|run| run.begun.run().clone());
            observed.workers = runs.map(|run| (run, state.clone())).collect();
        }
        let verdicts: Vec<Verdict> = self.vms.iter().map(|vm| self.verdict(vm)).collect();
        let begun = verdicts.iter().filter_map(|v| Some((v.vm.clone()?, v.clone()))).collect();
        decide(&Input {
            wanted: self.wanted.then_some(&wanted),
            verdicts: &verdicts,
            begun: &begun,
            observed: &observed,
            progress: &self.progress,
            busy: &BTreeSet::new(),
            commit: &CommitId::new("c1"),
            limits: Limits { vms_in_flight: self.slots, converting: 1, cutover: self.cutover },
            now: self.now,
        })
    }

    /// Decides and notes until nothing is left to note; returns what was noted, what is to be done and what waits.
    fn settle(&mut self) -> String {
        let mut lines = Vec::new();
        for _ in 0..16 {
            let decision = self.decide();
            for entry in &decision.notes {
                self.progress.apply(self.now, entry).unwrap();
                match entry {
                    Entry::Run { run, fact } => {
                        lines.push(format!("{} {}", vm_of(run), name_of(fact)));
                    }
                    Entry::Repo(_) => {}
                }
            }
            if !decision.notes.is_empty() {
                continue;
            }
            for action in &decision.actions {
                let why = match action.warrant {
                    Warrant::Cleared(_) => "cleared",
                    Warrant::Begun(_) => "begun",
                };
                let effect = format!("{:?}", action.effect);
                let effect = effect.split(' ').next().unwrap();
                lines.push(format!("{} do {effect} ({why})", vm_of(&action.run)));
            }
            for stand in &decision.stands {
                match &stand.state {
                    Standing::Acting(_) => {}
                    Standing::Waiting(wait) => {
                        lines.push(format!("{} waits {wait:?}", stand.key.vm));
                    }
                    Standing::Resting(rest) => {
                        lines.push(format!("{} rests {rest:?}", stand.key.vm));
                    }
                }
            }
            return lines.join("\n");
        }
        "never settles".to_owned()
    }

    /// Folds a fact of the only attempt that moves.
    fn fact(&mut self, fact: Fact) -> &mut Self {
        let run = self.progress.moving().next().unwrap().begun.run().clone();
        self.progress.apply(self.now, &Entry::Run { run, fact }).unwrap();
        self
    }

    fn later(&mut self, seconds: i64) -> &mut Self {
        self.now = self.now.checked_add(SignedDuration::from_secs(seconds)).unwrap();
        self
    }

    /// Gives up the only attempt, whose area stands, begins another, and returns what that does with the area.
    fn again(&mut self) -> String {
        let area = self.progress.moving().next().unwrap().area().unwrap().clone();
        self.target.areas.insert(area);
        self.fact(Fact::UndoBegan { why: Abandon::Canceled }).fact(Fact::Undone);
        self.request("m2");
        self.settle();
        self.fact(Fact::PowerRemembered { power: Power::Off });
        self.settle()
    }

    /// Brings the only VM, which runs, to where it is off and nothing is on the target yet.
    fn shut_down(&mut self) -> &mut Self {
        let deadline = self.now.checked_add(SignedDuration::from_mins(10)).unwrap();
        self.settle();
        self.fact(Fact::Claimed).fact(Fact::PowerRemembered { power: Power::On });
        self.settle();
        self.fact(Fact::ShutdownRequested { deadline }).fact(Fact::SourceOff);
        self.vms[0].power = Power::Off;
        self
    }
}

fn vm_of(run: &RunId) -> &str {
    match &run.vm {
        SourceVm::Vsphere { vm, .. } => vm,
        SourceVm::Ova { system, .. } => system,
    }
}

fn disks() -> Fact {
    Fact::DisksCreated { disks: vec![(DiskKey::new("disk1"), TargetDisk("t".into()))] }
}

fn fault(disposition: Disposition) -> Fault {
    Fault { text: "it broke".into(), remedy: "mend it".into(), disposition }
}

#[expect(clippy::needless_pass_by_value, reason = "an expectation is written where it is used")]
fn check(actual: String, expected: Expect) {
    expected.assert_eq(&actual);
}

#[test]
fn an_ova_goes_all_the_way() {
    let mut bench = Bench::ova(&["web01"]);
    check(
        bench.settle(),
        expect![[r#"
        web01 Began
        web01 Unclaimable
        web01 do RememberPower (cleared)"#]],
    );
    bench.fact(Fact::PowerRemembered { power: Power::Off });
    check(
        bench.settle(),
        expect![[r#"
        web01 AreaIntended
        web01 do CreateDisks (cleared)"#]],
    );
    bench.fact(disks());
    check(bench.settle(), expect!["web01 do StartWorker (cleared)"]);
    bench.worker = Some(WorkerState::Running);
    check(bench.settle(), expect!["web01 waits Copying"]);
    let (disk, root) = (DiskKey::new("disk1"), "r".to_owned());
    bench.fact(Fact::DiskCopied { disk, written: Bytes::mib(2), root });
    check(bench.settle(), expect!["web01 waits Copying"]);
    bench.worker = None;
    check(bench.settle(), expect!["web01 do ConfirmCopy (cleared)"]);
    bench.fact(Fact::CreateIntended);
    check(bench.settle(), expect!["web01 do CreateVm (cleared)"]);
    bench.fact(Fact::VmCreated);
    check(
        bench.settle(),
        expect![[r#"
        web01 MarkedMigrated
        web01 Completed
        web01 rests Completed"#]],
    );
}

#[test]
fn where_the_target_starts_nothing_a_vm_is_left_off_and_migrated() {
    let mut bench = Bench::running();
    bench.settle();
    bench.fact(Fact::Claimed).fact(Fact::PowerRemembered { power: Power::On });
    bench.settle();
    bench.fact(Fact::SourceOff);
    bench.settle();
    let (disk, root) = (DiskKey::new("disk1"), "r".to_owned());
    bench.fact(disks()).fact(Fact::DiskCopied { disk, written: Bytes::mib(2), root });
    bench.fact(Fact::CreateIntended).fact(Fact::VmCreated);
    check(bench.settle(), expect!["db do ConfirmStart (begun)"]);
    // A target that was not seen lately may start it, and may not.
    bench.target_gap = Some(Gap { reason: "it is away".into(), remedy: "wait".into() });
    check(
        bench.settle(),
        expect![[r#"db waits Unknown(Gap { reason: "it is away", remedy: "wait" })"#]],
    );
    (bench.target_gap, bench.target.starts) = (None, false);
    check(
        bench.settle(),
        expect![[r#"
        db NotStarted
        db do Mark (begun)"#]],
    );
    bench.fact(Fact::MarkedMigrated);
    check(
        bench.settle(),
        expect![[r#"
        db Completed
        db rests Completed"#]],
    );
}

#[test]
fn a_guest_shutdown_cannot_be_recalled() {
    let mut bench = Bench::running();
    check(
        bench.settle(),
        expect![[r#"
        db Began
        db ClaimIntended
        db do Claim (cleared)"#]],
    );
    bench.fact(Fact::Claimed).fact(Fact::PowerRemembered { power: Power::On });
    check(
        bench.settle(),
        expect![[r#"
        db PowerOffIntended
        db do ShutDown (begun)"#]],
    );
    let deadline = bench.now.checked_add(SignedDuration::from_mins(10)).unwrap();
    bench.fact(Fact::ShutdownRequested { deadline });
    check(
        bench.later(30).settle(),
        expect!["db waits ShuttingDown { deadline: 2026-11-25T12:10:00Z }"],
    );
    check(
        bench.later(3600).settle(),
        expect!["db waits ShuttingDown { deadline: 2026-11-25T12:10:00Z }"],
    );
    bench.vms[0].power = Power::Off;
    check(bench.settle(), expect!["db do AwaitOff (begun)"]);
}

#[test]
fn power_is_cut_after_the_deadline_only_where_the_plan_says_so() {
    let mut bench = Bench::running();
    bench.force = true;
    bench.settle();
    bench.fact(Fact::Claimed).fact(Fact::PowerRemembered { power: Power::On });
    bench.settle();
    let deadline = bench.now.checked_add(SignedDuration::from_mins(10)).unwrap();
    bench.fact(Fact::ShutdownRequested { deadline });
    check(
        bench.later(599).settle(),
        expect!["db waits ShuttingDown { deadline: 2026-11-25T12:10:00Z }"],
    );
    check(
        bench.later(1).settle(),
        expect![[r#"
        db ForceIntended
        db do PowerOff (begun)"#]],
    );
}

#[test]
fn one_gate_stands_before_every_power_off() {
    let gate = |close: fn(&mut Bench)| {
        let mut bench = Bench::running();
        bench.settle();
        bench.fact(Fact::Claimed).fact(Fact::PowerRemembered { power: Power::On });
        close(&mut bench);
        bench.settle()
    };
    check(gate(|bench| bench.brake = Brake::Held), expect!["db waits Brake"]);
    check(gate(|bench| bench.brake = Brake::Stopping), expect!["db waits Brake"]);
    check(
        gate(|bench| bench.bars.push("no window".into())),
        expect![[r#"db waits PowerOffBarred("no window")"#]],
    );
    check(
        gate(|bench| bench.clock_off = SignedDuration::from_secs(61)),
        expect![[
            r#"db waits PowerOffBarred("the clock of vc is more than 60 s away from this machine's")"#
        ]],
    );
    check(
        gate(|bench| bench.wanted = false),
        expect![[r#"db waits PowerOffBarred("no commit of the watched branch could be read")"#]],
    );
}

#[test]
fn a_vm_past_its_power_off_finishes_under_the_brake() {
    let mut bench = Bench::running();
    bench.shut_down();
    bench.brake = Brake::Held;
    check(
        bench.settle(),
        expect![[r#"
        db AreaIntended
        db do CreateDisks (begun)"#]],
    );
    bench.fact(disks());
    bench.brake = Brake::Stopping;
    check(bench.settle(), expect!["db waits Brake"]);
    bench.worker = Some(WorkerState::Running);
    check(bench.settle(), expect!["db do StopWorker (begun)"]);
}

#[test]
fn a_canceled_vm_keeps_watching_a_shutdown_that_is_under_way() {
    let mut bench = Bench::running();
    bench.settle();
    bench.fact(Fact::Claimed).fact(Fact::PowerRemembered { power: Power::On });
    bench.settle();
    let deadline = bench.now.checked_add(SignedDuration::from_mins(10)).unwrap();
    bench.fact(Fact::ShutdownRequested { deadline });
    bench.requests[0].cancel.insert(VmName::new("db"));
    check(
        bench.settle(),
        expect![[r#"
        db UndoBegan
        db PowerOnIntended
        db waits ShuttingDown { deadline: 2026-11-25T12:20:00Z }"#]],
    );
    bench.vms[0].power = Power::Off;
    check(bench.settle(), expect!["db do PowerOn (begun)"]);
}

#[test]
fn a_pinned_name_never_comes_to_mean_another_vm() {
    let mut bench = Bench::ova(&["web01"]);
    bench.brake = Brake::Held;
    check(bench.settle(), expect!["web01 waits Brake"]);
    bench.brake = Brake::Released;
    bench.vms[0].id = SourceVm::Ova { archive: "other".into(), system: "web01".into() };
    check(
        bench.settle(),
        expect![[r#"web01 waits Pinned { pinned: Ova { archive: "a", system: "web01" } }"#]],
    );
    bench.request("m2");
    assert!(bench.settle().starts_with("web01 Began"));
}

#[test]
fn places_and_room_are_bounded() {
    let mut bench = Bench::ova(&["web01", "web02", "web03"]);
    bench.slots = 1;
    bench.target.free = Bytes::mib(100);
    let lines = bench.settle();
    assert!(lines.contains("web02 waits Slot { moving: 1 }"), "{lines}");
    let mut bench = Bench::ova(&["web01", "web02"]);
    bench.target.free = Bytes::mib(7);
    let lines = bench.settle();
    assert!(
        lines.contains("web02 waits Space { needed: Bytes(4194304), free: Bytes(3145728) }"),
        "{lines}"
    );
}

#[test]
fn a_finished_vm_is_migrated_again_only_where_a_migration_says_so() {
    let mut bench = Bench::ova(&["web01"]);
    bench.settle();
    bench.fact(Fact::PowerRemembered { power: Power::Off });
    bench.settle();
    let (disk, root) = (DiskKey::new("disk1"), "r".to_owned());
    bench.fact(disks()).fact(Fact::DiskCopied { disk, written: Bytes::mib(2), root });
    bench.fact(Fact::CreateIntended).fact(Fact::VmCreated);
    bench.settle();
    bench.request("m2");
    check(bench.settle(), expect!["web01 rests Completed"]);
    bench.request("m3").again.insert(VmName::new("web01"));
    assert!(bench.settle().starts_with("web01 Began"));
}

#[test]
fn somebody_elses_mark_waits_for_a_person() {
    let mut bench = Bench::running();
    bench.vms[0].claim = Claim::Held("of another journal".into());
    check(bench.settle(), expect![[r#"db waits Claimed("of another journal")"#]]);
}

#[test]
fn a_checkpoint_never_goes_back() {
    let mut bench = Bench::ova(&["web01"]);
    bench.settle();
    bench.fact(Fact::PowerRemembered { power: Power::Off });
    bench.settle();
    bench.fact(disks());
    let at = |read: u64| {
        Fact::Checkpointed(Checkpoint {
            disk: DiskKey::new("disk1"),
            resume: read.to_string(),
            read: Bytes(read),
            done: Bytes(read),
            written: Bytes(read),
        })
    };
    bench.fact(at(2));
    let run = bench.progress.moving().next().unwrap().begun.run().clone();
    assert!(bench.progress.admits(bench.now, &run, &at(1)).is_err());
    assert!(bench.progress.admits(bench.now, &run, &at(3)).is_ok());
}

mod audit;
mod convert;
mod cutover;
mod faults;
