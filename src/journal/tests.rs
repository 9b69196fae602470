//! Every phase against every fact, and the fold of a journal.

use std::collections::BTreeMap;

use expect_test::expect;
use jiff::Timestamp;
use proptest::prelude::*;

use crate::desired::{Desired, Selector, Site};
use crate::domain::id::{
    CommitId, Digest, DiskKey, JournalId, MigrationName, PlanName, ProviderName, RunId, SourceVm,
    TargetName, Token, VmKey, VmName,
};
use crate::domain::unit::Bytes;
use crate::domain::vm::{Claim, Hosted, Power, TargetDisk, Vm};
use crate::journal::phase::name_of;
use crate::journal::progress::{FoldError, Progress};
use crate::journal::record::{
    Abandon, Checkpoint, Disposition, Entry, Fact, Fault, Instructions, Mend, RECORD_VERSION,
    Record,
};
use crate::manifest::diagnostic::Place;
use crate::manifest::document::{OnFailure, PlanType, TargetPowerState, Verify};

fn instructions(converts: bool) -> Instructions {
    let key = VmKey { plan: PlanName::new("p"), vm: VmName::new("v") };
    let desired = Desired {
        key,
        place: Place { file: "p.yaml".into(), line: 1, column: 1 },
        source: ProviderName::new("s"),
        source_site: Site::Ova { path: "/o".into() },
        selector: Selector::Name("v".into()),
        target: ProviderName::new("t"),
        target_site: Site::folder("/t"),
        target_name: None,
        kind: PlanType::Cold,
        networks: Some(std::sync::Arc::default()),
        power: TargetPowerState::On,
        skip_guest_conversion: !converts,
        shutdown_timeout_s: 600,
        shutdown_force: true,
        verify: Verify::Full,
        on_failure: OnFailure::Delete,
    };
    let vm = Vm {
        id: run().vm,
        name: "v".into(),
        path: "v".into(),
        power: Power::On,
        firmware: None,
        secure_boot: false,
        tpm: false,
        cpus: None,
        cores_per_socket: None,
        memory: None,
        os: None,
        disks: Vec::new(),
        nics: Vec::new(),
        claim: Claim::Free,
        hosted: Hosted::default(),
    };
    let (target_name, digest) = (TargetName::new("v"), Digest::new("d"));
    let (desired, vm) = (std::sync::Arc::new(desired), std::sync::Arc::new(vm));
    Instructions { desired, vm, target_name, digest, commit: CommitId::new("c") }
}

fn run() -> RunId {
    let vm = SourceVm::Vsphere { server: "s".into(), vm: "v".into() };
    RunId { vm, migration: MigrationName::new("m"), attempt: 1 }
}

fn facts() -> Vec<Fact> {
    let token = Token::derive(&JournalId::new("j"), &run(), "x");
    let disk = DiskKey::new("d");
    let fault = Fault {
        text: "it broke".into(),
        remedy: "mend it".into(),
        disposition: Disposition::Stall(Mend::Person),
    };
    vec![
        Fact::Began(Box::new(instructions(false))),
        Fact::Began(Box::new(instructions(true))),
        Fact::ClaimIntended { token: token.clone() },
        Fact::Claimed,
        Fact::Unclaimable,
        Fact::PowerRemembered { power: Power::On },
        Fact::PowerOffIntended { token: token.clone() },
        Fact::ShutdownRequested { deadline: Timestamp::UNIX_EPOCH },
        Fact::ForceIntended,
        Fact::SourceOff,
        Fact::AreaIntended { token: token.clone() },
        Fact::DisksCreated { disks: vec![(disk.clone(), TargetDisk("t".into()))] },
        Fact::AreaAdopted { area: token.clone(), disks: Vec::new() },
        Fact::Checkpointed(Checkpoint {
            disk: disk.clone(),
            resume: "r".into(),
            read: Bytes(1),
            done: Bytes(1),
            written: Bytes(1),
        }),
        Fact::DiskCopied { disk: disk.clone(), written: Bytes(1), root: "r".into() },
        Fact::DiskVerified { disk: disk.clone() },
        Fact::ConversionIntended,
        Fact::Converted { warnings: Vec::new() },
        Fact::DiskCommitted { disk: disk.clone() },
        Fact::CreateIntended,
        Fact::VmCreated,
        Fact::NotStarted,
        Fact::StartIntended { token: token.clone() },
        Fact::Started,
        Fact::MarkedMigrated,
        Fact::Completed,
        Fact::UndoBegan { why: Abandon::Canceled },
        Fact::RemovalIntended,
        Fact::AreaRemoved,
        Fact::PowerOnIntended { token },
        Fact::SourceOn,
        Fact::ClaimReleased,
        Fact::Undone,
        Fact::Tried(fault.clone()),
        Fact::Stalled(fault),
        Fact::Resumed { why: "w".into() },
    ]
}

fn apply(progress: &Progress, fact: &Fact) -> Option<Progress> {
    let mut progress = progress.clone();
    let entry = Entry::Run { run: run(), fact: fact.clone() };
    progress.apply(Timestamp::UNIX_EPOCH, &entry).ok().map(|()| progress)
}

fn phase(progress: &Progress) -> &'static str {
    progress.runs(&run().vm).last().map_or("-", |run| run.phase.name())
}

/// Walks every fact from everything that can be reached, and prints which ones each phase lets follow. A new fact or phase
/// changes the table, so that somebody has to look at it.
#[test]
fn every_pair_of_phase_and_fact() {
    let mut allowed: BTreeMap<&str, BTreeMap<String, &str>> = BTreeMap::new();
    let mut open = vec![Progress::new(JournalId::new("j"))];
    let mut known = vec![Vec::new()];
    while let Some(progress) = open.pop() {
        for fact in facts() {
            let Some(next) = apply(&progress, &fact) else { continue };
            allowed.entry(phase(&progress)).or_default().insert(name_of(&fact), phase(&next));
            let attempts = next.runs(&run().vm).len();
            let troubles = next.runs(&run().vm).last().and_then(|run| run.trouble.as_ref());
            let fresh = troubles.is_none_or(|trouble| trouble.failures < 2);
            let runs = next.runs(&run().vm);
            if attempts < 2 && fresh && !known.iter().any(|known| known == runs) {
                known.push(runs.to_vec());
                open.push(next);
            }
        }
    }
    let lines = allowed.iter().map(|(phase, facts)| {
        let facts = facts.iter().filter(|(fact, _)| {
            // Trouble follows everywhere but at the end, and leaves the phase as it is.
            !["Tried", "Stalled", "Resumed"].contains(&fact.as_str())
        });
        let facts: Vec<String> = facts
            .map(|(fact, to)| if to == phase { fact.clone() } else { format!("{fact}>{to}") })
            .collect();
        format!("{phase}: {}\n", facts.join(" "))
    });
    expect![[r#"
        -: Began>Begun
        Begun: ClaimIntended>Claiming Unclaimable>Claimed UndoBegan>Undoing
        Claimed: PowerRemembered>On UndoBegan>Undoing
        Claiming: Claimed>Claimed UndoBegan>Undoing
        Converted: CreateIntended>Creating UndoBegan>Undoing
        Converting: Converted DiskCommitted>Converted UndoBegan>Undoing
        Copied: ConversionIntended>Converting CreateIntended>Creating UndoBegan>Undoing
        Copying: Checkpointed DiskCopied DiskVerified>Copied UndoBegan>Undoing
        Created: NotStarted>Settling StartIntended>Starting UndoBegan>Undoing
        Creating: UndoBegan>Undoing VmCreated>Created
        Off: AreaIntended>Preparing UndoBegan>Undoing
        On: PowerOffIntended>ShuttingDown PowerRemembered UndoBegan>Undoing
        Preparing: DisksCreated>Copying UndoBegan>Undoing
        Settling: Completed>Completed MarkedMigrated
        ShuttingDown: ForceIntended ShutdownRequested SourceOff>Off UndoBegan>Undoing
        Starting: Started>Settling
        Undoing: AreaRemoved ClaimReleased PowerOnIntended RemovalIntended SourceOn Undone>Undone
    "#]]
    .assert_eq(&lines.collect::<String>());
}

#[test]
fn a_journal_of_a_newer_binary_is_refused() {
    let entry = Entry::Run { run: run(), fact: Fact::Began(Box::new(instructions(false))) };
    let record = Record { version: RECORD_VERSION + 1, at: Timestamp::UNIX_EPOCH, entry };
    let folded = Progress::fold(JournalId::new("j"), [&record]);
    assert!(matches!(folded, Err(FoldError::Newer { found }) if found == RECORD_VERSION + 1));
}

proptest! {
    /// Whatever facts come in whatever order: those that follow give the same, folded one by one or from zero.
    #[test]
    fn fold_step_by_step_equals_fold_from_zero(picks in prop::collection::vec(0..32_usize, 0..60)) {
        let facts = facts();
        let mut progress = Progress::new(JournalId::new("j"));
        let mut records = Vec::new();
        for pick in picks {
            let fact = facts[pick % facts.len()].clone();
            let entry = Entry::Run { run: run(), fact };
            let before = progress.clone();
            if progress.apply(Timestamp::UNIX_EPOCH, &entry).is_ok() {
                let at = Timestamp::UNIX_EPOCH;
                records.push(Record { version: RECORD_VERSION, at, entry });
            } else {
                // A refused fact changes nothing that is looked at.
                prop_assert_eq!(
                    before.runs(&run().vm).last().map(|run| &run.phase),
                    progress.runs(&run().vm).last().map(|run| &run.phase)
                );
            }
        }
        let folded = Progress::fold(JournalId::new("j"), &records).unwrap();
        prop_assert_eq!(folded.runs(&run().vm), progress.runs(&run().vm));
    }
}
