//! Each invariant holds in a world where all went well, and bites in one that was broken by hand.

use std::sync::Arc;

use jiff::SignedDuration;

use super::super::{FaultPlan, Intent, MigrationIntent, SOURCE_PATH, SimVmSpec, TARGET_PATH};
use super::*;
use crate::copy::tree::LEAF_BYTES;
use crate::desired::{Desired, Network, Selector, Site};
use crate::domain::id::{Digest, MigrationName, PlanName, ProviderName, TargetName, VmKey};
use crate::domain::unit::Bytes;
use crate::journal::record::{Checkpoint, Instructions, RECORD_VERSION, Record};
use crate::manifest::diagnostic::Place;
use crate::manifest::document::{NetworkType, OnFailure, PlanType, TargetPowerState, Verify};
use crate::port::{Blueprint, Source, Target};

/// One running VM, its journal, and the steps of its migration one by one.
struct Bench {
    world: SimWorld,
    run: RunId,
    name: TargetName,
    area: Token,
}

impl Bench {
    fn new() -> Self {
        let spec = SimVmSpec::powered("web", &[&[1, 2, 3, 4]]);
        let world = SimWorld::new(std::slice::from_ref(&spec), FaultPlan::default());
        let run = RunId { vm: spec.id(), migration: MigrationName::new("m"), attempt: 1 };
        let bench = Self { world, run, name: TargetName::new("web"), area: Token::new("area") };
        let vms: BTreeSet<VmName> = [VmName::new("web")].into();
        let asked = MigrationIntent {
            listed: Some(vms.clone()),
            movable: vms,
            ..MigrationIntent::default()
        };
        bench.accept(bench.commit(Intent {
            migrations: [(bench.run.migration.clone(), asked)].into(),
            ..Intent::default()
        }));
        bench
    }

    fn commit(&self, intent: Intent) -> CommitId {
        self.world.commit([("m.yaml".to_owned(), b"m".to_vec())].into(), intent)
    }

    fn accept(&self, commit: CommitId) {
        self.append(Entry::Repo(RepoFact::Accepted { commit }));
    }

    fn append(&self, entry: Entry) {
        let mut state = self.world.lock();
        let record = Record { version: RECORD_VERSION, at: state.now, entry };
        state.records.push(record);
    }

    fn fact(&self, fact: Fact) {
        self.append(Entry::Run { run: self.run.clone(), fact });
    }

    fn source() -> Site {
        Site::Ova { path: SOURCE_PATH.into() }
    }

    fn target() -> Site {
        Site::folder(TARGET_PATH)
    }

    fn vm(&self) -> crate::domain::vm::Vm {
        Source::look(&self.world, &Self::source(), &self.run.vm).unwrap().unwrap()
    }

    fn began(&self) {
        let desired = Desired {
            key: VmKey { plan: PlanName::new("p"), vm: VmName::new("web") },
            place: Place { file: "p.yaml".into(), line: 1, column: 1 },
            source: ProviderName::new("source"),
            source_site: Self::source(),
            selector: Selector::Name("web".into()),
            target: ProviderName::new("target"),
            target_site: Self::target(),
            target_name: None,
            kind: PlanType::Cold,
            networks: Some(Arc::new(
                [("VM Network".into(), Network { kind: NetworkType::Pod, name: None })].into(),
            )),
            power: TargetPowerState::Auto,
            skip_guest_conversion: true,
            shutdown_timeout_s: 60,
            shutdown_force: false,
            verify: Verify::None,
            on_failure: OnFailure::Keep,
        };
        self.fact(Fact::Began(Box::new(Instructions {
            desired: Arc::new(desired),
            vm: Arc::new(self.vm()),
            target_name: self.name.clone(),
            digest: Digest::new("d"),
            commit: CommitId::new("c"),
        })));
    }

    fn claimed(&self) {
        let token = Token::new("claim");
        self.fact(Fact::ClaimIntended { token: token.clone() });
        self.world.claim(&Self::source(), &self.run.vm, &token).unwrap();
        self.fact(Fact::Claimed);
    }

    fn off(&self) {
        self.fact(Fact::PowerRemembered { power: Power::On });
        self.fact(Fact::PowerOffIntended { token: Token::new("shutdown") });
        self.world.shut_down(&Self::source(), &self.run.vm).unwrap();
        self.world.advance(SignedDuration::from_secs(60));
        self.fact(Fact::SourceOff);
    }

    /// Makes the disks and copies what the source holds now, durable.
    fn copied(&self) {
        self.fact(Fact::AreaIntended { token: self.area.clone() });
        let (area, name) = (&self.area, &self.name);
        let disks = self.world.create_disks(&Self::target(), area, name, &self.vm()).unwrap();
        self.fact(Fact::DisksCreated { disks });
        let mut state = self.world.lock();
        let content = state.vms[0].disks[0].clone();
        for (leaf, byte) in (0_u64..).zip(&content) {
            let bytes = vec![*byte; super::super::disk::size(LEAF_BYTES)];
            let disk = state.target.disks.values_mut().next().unwrap();
            disk.write(leaf * LEAF_BYTES, &bytes).unwrap();
            disk.sync();
        }
    }

    fn checkpointed(&self) {
        self.fact(Fact::Checkpointed(Checkpoint {
            disk: super::super::source::disk_key(0),
            resume: "leaf:2".into(),
            read: Bytes(2 * LEAF_BYTES),
            done: Bytes(2 * LEAF_BYTES),
            written: Bytes(2 * LEAF_BYTES),
        }));
    }

    fn created(&self) {
        let (written, root) = (Bytes(4 * LEAF_BYTES), "root".to_owned());
        let disk = super::super::source::disk_key(0);
        self.fact(Fact::DiskCopied { disk, written, root });
        self.fact(Fact::CreateIntended);
        let vm = self.vm();
        let blueprint = Blueprint { name: &self.name, vm: &vm, nics: vec![] };
        self.world.create_vm(&Self::target(), &self.area, &blueprint).unwrap();
        self.fact(Fact::VmCreated);
    }

    fn started(&self) {
        self.fact(Fact::StartIntended { token: Token::new("start") });
        self.world.start(&Self::target(), &self.area, &self.name).unwrap();
        self.fact(Fact::Started);
    }

    fn completed(&self) {
        self.world.mark_migrated(&Self::source(), &self.run.vm, &Token::new("claim")).unwrap();
        self.fact(Fact::MarkedMigrated);
        self.fact(Fact::Completed);
    }

    /// Gives up and undoes all.
    fn undone(&self, why: Abandon) {
        self.fact(Fact::UndoBegan { why });
        self.fact(Fact::PowerOnIntended { token: Token::new("power-on") });
        self.world.power_on(&Self::source(), &self.run.vm).unwrap();
        self.fact(Fact::SourceOn);
        self.fact(Fact::RemovalIntended);
        self.world.remove(&Self::target(), &self.area, &self.name).unwrap();
        self.fact(Fact::AreaRemoved);
        self.world.release(&Self::source(), &self.run.vm, &Token::new("claim")).unwrap();
        self.fact(Fact::ClaimReleased);
        self.fact(Fact::Undone);
    }

    fn check(&self) -> Result<(), String> {
        check(&self.world, &self.world.progress()?)
    }

    fn broken(&self, invariant: Invariant) -> String {
        invariant(&self.world, &self.world.progress().unwrap()).unwrap_err()
    }
}

/// Goes through a migration until before a step.
fn until(steps: &[fn(&Bench)]) -> Bench {
    let bench = Bench::new();
    for step in steps {
        step(&bench);
        assert_eq!(bench.check(), Ok(()));
    }
    bench
}

const COPY: [fn(&Bench); 5] =
    [Bench::began, Bench::claimed, Bench::off, Bench::copied, Bench::checkpointed];

#[test]
fn all_hold_where_all_goes_well() {
    let bench = until(&COPY);
    for step in [Bench::created, Bench::started, Bench::completed] {
        step(&bench);
        assert_eq!(bench.check(), Ok(()));
    }
    let bench = until(&COPY);
    let said = Fact::Tried(crate::port::PortError::passing("x", "y").fault);
    bench.fact(said);
    bench.undone(Abandon::Superseded);
    assert_eq!(bench.check(), Ok(()));
}

#[test]
fn a_target_with_another_leaf_is_found() {
    let bench = until(&COPY);
    bench.created();
    bench.started();
    let mut state = bench.world.lock();
    let disk = state.target.disks.values_mut().next().unwrap();
    disk.write(LEAF_BYTES, &[9]).unwrap();
    disk.sync();
    drop(state);
    let why = bench.broken(invariant_target_equals_source);
    assert_eq!(why, "web: sim:area/disk-0: leaf 1 differs");
}

#[test]
fn a_target_that_was_never_durable_is_found() {
    let bench = until(&COPY);
    bench.created();
    bench.started();
    let mut state = bench.world.lock();
    let content = state.vms[0].disks[0].clone();
    let mut disk = super::super::disk::SimDisk::new(4 * LEAF_BYTES);
    for (leaf, byte) in (0_u64..).zip(&content) {
        let bytes = vec![*byte; super::super::disk::size(LEAF_BYTES)];
        disk.write(leaf * LEAF_BYTES, &bytes).unwrap();
    }
    *state.target.disks.values_mut().next().unwrap() = disk;
    drop(state);
    let why = bench.broken(invariant_target_equals_source);
    assert_eq!(why, "web: sim:area/disk-0: leaf 0 differs");
}

#[test]
fn a_start_beside_a_running_source_is_found() {
    let bench = until(&COPY);
    bench.created();
    bench.world.person_powers_on("web");
    bench.started();
    let why = bench.broken(invariant_never_on_at_both_ends);
    assert!(why.ends_with("was started on the target while its source ran"), "{why}");
}

#[test]
fn a_source_powered_on_beside_a_running_target_is_found() {
    let bench = until(&COPY);
    bench.created();
    bench.started();
    bench.world.power_on(&Bench::source(), &bench.run.vm).unwrap();
    let why = bench.broken(invariant_never_on_at_both_ends);
    assert!(why.ends_with("was powered on while it ran on the target"), "{why}");
    let why = bench.broken(invariant_intent_before_effect);
    assert!(why.ends_with("was went on without an intent"), "{why}");
}

#[test]
fn what_happens_twice_is_found() {
    let bench = until(&COPY);
    let again = bench
        .world
        .lock()
        .deeds
        .iter()
        .rfind(|deed| matches!(deed.what, What::DisksCreated { .. }))
        .cloned()
        .unwrap();
    bench.world.lock().deeds.push(again);
    assert_eq!(bench.broken(invariant_nothing_twice), "area was disks created twice");
}

#[test]
fn one_area_is_removed_once_and_a_second_one_may_be_removed_after_it() {
    let bench = until(&COPY);
    let progress = bench.world.progress().unwrap();
    bench.fact(Fact::RemovalIntended);
    bench.fact(Fact::AreaRemoved);
    bench.fact(Fact::RemovalIntended);
    invariant_nothing_twice(&bench.world, &progress).unwrap();
    bench.fact(Fact::RemovalIntended);
    let why = invariant_nothing_twice(&bench.world, &progress).unwrap_err();
    assert!(why.ends_with("intended RemovalIntended twice"), "{why}");
}

#[test]
fn a_second_shutdown_in_one_attempt_is_found() {
    let bench = until(&COPY);
    let world = &bench.world;
    world.power_on(&Bench::source(), &bench.run.vm).unwrap();
    world.power_off(&Bench::source(), &bench.run.vm).unwrap();
    let why = bench.broken(invariant_nothing_twice);
    assert!(why.ends_with("took its source down twice"), "{why}");
}

#[test]
fn a_token_that_is_used_again_is_found() {
    let bench = until(&COPY);
    bench.created();
    bench.fact(Fact::StartIntended { token: Token::new("shutdown") });
    let why = bench.broken(invariant_nothing_twice);
    assert!(why.ends_with("took a token that was taken for StartIntended"), "{why}");
}

#[test]
fn a_checkpoint_over_what_is_not_durable_is_found() {
    let bench = until(&COPY);
    let mut state = bench.world.lock();
    let disk = state.target.disks.values_mut().next().unwrap();
    *disk = super::super::disk::SimDisk::new(4 * LEAF_BYTES);
    drop(state);
    let why = bench.broken(invariant_no_checkpoint_before_durability);
    assert_eq!(why, "sim:area/disk-0 has a checkpoint and leaf 0 differs");
    let bench = until(&COPY);
    bench.world.lock().slip("a checkpoint came first".into());
    let why = bench.broken(invariant_no_checkpoint_before_durability);
    assert!(why.ends_with("a checkpoint came first"), "{why}");
}

#[test]
fn a_belief_that_the_journal_does_not_hold_is_found() {
    let bench = until(&COPY);
    let before = bench.world.progress().unwrap();
    bench.created();
    let why = invariant_fold_is_stepwise(&bench.world, &before).unwrap_err();
    assert!(why.ends_with(r#"is ["Created"] by the journal, ["Copying"] is believed"#), "{why}");
    bench.accept(CommitId::new("other"));
    let before = bench.world.progress().unwrap();
    bench.accept(CommitId::new("another"));
    assert!(invariant_fold_is_stepwise(&bench.world, &before).is_err());
}

#[test]
fn a_vm_that_no_commit_moves_is_found() {
    let bench = Bench::new();
    for commit in bench.world.lock().repo.commits.values_mut() {
        commit.intent.migrations.values_mut().for_each(|asked| asked.movable.clear());
    }
    bench.began();
    let why = bench.broken(invariant_nothing_unvalidated_moves);
    assert!(why.ends_with("began, and no commit lets m move web"), "{why}");
}

#[test]
fn an_undo_that_nobody_asked_for_is_found() {
    let gone = || Abandon::MigrationGone;
    let bench = until(&COPY);
    bench.undone(gone());
    let why = bench.broken(invariant_absence_never_acts);
    assert!(why.ends_with("was given up (MigrationGone), and no commit says so"), "{why}");
    let bench = until(&COPY);
    bench.undone(Abandon::Canceled);
    assert!(bench.check().is_err());
    let bench = until(&COPY);
    bench.accept(bench.commit(Intent::default()));
    bench.undone(gone());
    assert_eq!(bench.check(), Ok(()));
}

#[test]
fn following_a_rewound_or_emptied_branch_is_found() {
    let bench = Bench::new();
    let first = bench.world.lock().repo.head.clone().unwrap();
    bench.accept(bench.commit(Intent::default()));
    assert_eq!(bench.check(), Ok(()));
    bench.accept(first.clone());
    let why = bench.broken(invariant_absence_never_acts);
    assert!(why.ends_with("was followed, and the branch was rewound"), "{why}");
    let bench = Bench::new();
    bench.accept(bench.world.commit([].into(), Intent::default()));
    let why = bench.broken(invariant_absence_never_acts);
    assert!(why.ends_with("was followed, and the path was emptied"), "{why}");
    bench.world.lock().records.pop();
    bench.world.adopt();
    assert_eq!(bench.check(), Ok(()));
}

#[test]
fn an_undone_attempt_that_left_its_source_is_found() {
    let bench = until(&COPY);
    bench.undone(Abandon::Superseded);
    bench.world.shut_down(&Bench::source(), &bench.run.vm).unwrap();
    bench.world.advance(SignedDuration::from_secs(60));
    let why = bench.broken(invariant_source_restored);
    assert!(why.ends_with("is undone and left its source off"), "{why}");
    let bench = until(&COPY);
    bench.undone(Abandon::Superseded);
    bench.world.person_powers_off("web");
    assert_eq!(bench.check(), Ok(()));
    bench.world.claim(&Bench::source(), &bench.run.vm, &Token::new("claim")).unwrap();
    let why = bench.broken(invariant_source_restored);
    assert!(why.ends_with("is undone and its mark stands"), "{why}");
}

#[test]
fn the_mark_of_a_vm_that_was_gone_goes_with_it() {
    let gone = until(&COPY[..2]);
    gone.world.vm_present("web", false);
    gone.fact(Fact::UndoBegan { why: Abandon::Superseded });
    gone.fact(Fact::ClaimReleased);
    gone.fact(Fact::Undone);
    gone.world.vm_present("web", true);
    assert_eq!(gone.check(), Ok(()));
    let there = until(&COPY[..2]);
    there.world.vm_present("web", false);
    there.fact(Fact::UndoBegan { why: Abandon::Superseded });
    there.world.vm_present("web", true);
    there.fact(Fact::ClaimReleased);
    there.fact(Fact::Undone);
    let why = there.broken(invariant_source_restored);
    assert!(why.ends_with("is undone and its mark stands"), "{why}");
}

#[test]
fn what_an_attempt_leaves_behind_is_found() {
    let bench = until(&COPY);
    let area = bench.world.lock().target.areas.first_key_value().unwrap().1.clone();
    bench.undone(Abandon::Superseded);
    bench.world.lock().target.areas.insert(bench.area.clone(), area);
    let why = bench.broken(invariant_no_leftovers);
    assert!(why.ends_with("stands on the target, and nobody cares"), "{why}");
    let bench = until(&COPY);
    bench.created();
    bench.started();
    bench.fact(Fact::MarkedMigrated);
    bench.fact(Fact::Completed);
    let why = bench.broken(invariant_no_leftovers);
    assert!(why.ends_with("is over and its mark stands"), "{why}");
}
