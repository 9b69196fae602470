//! Each repository of `sample-plans` in the simulated world, by the clock of that world: as far as it moves by itself, with the
//! invariants held after every pass.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use expect_test::{Expect, expect};
use jiff::SignedDuration;

use super::campaign::{config, step};
use crate::controller::{Controller, Pass};
use crate::decide::{Rest, Standing};
use crate::desired::{Cutover, FileVersions, Request, Selector, VmWanted, Wanted, load};
use crate::manifest::parse::{Limits, parse_file};
use crate::sim::{
    CutoverIntent, FaultPlan, Intent, MigrationIntent, SOURCE_PATH, SimVmSpec, SimWorld,
    TARGET_PATH, invariant,
};

/// More passes than any sample needs.
const PASSES_MAX: usize = 1_000;
/// How long the world waits between two passes.
const PAUSE: SignedDuration = SignedDuration::from_secs(45);

/// Reads a sample, with the folders of the simulated world in place of its own.
fn files(sample: &str) -> BTreeMap<String, Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("sample-plans").join(sample);
    let mut files = BTreeMap::new();
    let mut open = vec![root.clone()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "yaml") {
                let text = std::fs::read_to_string(&path).unwrap();
                let text = text.replace("/srv/ferry/ova", SOURCE_PATH);
                let text = text.replace("/srv/ferry/vms", TARGET_PATH);
                let name = path.strip_prefix(&root).unwrap().display().to_string();
                files.insert(name, text.into_bytes());
            }
        }
    }
    files
}

fn wanted(files: &BTreeMap<String, Vec<u8>>) -> Wanted {
    let parse = |(name, bytes): (&String, &Vec<u8>)| parse_file(name, bytes, &Limits::default());
    let parsed: Vec<_> = files.iter().map(parse).collect();
    let versions: Vec<_> = parsed.iter().map(|now| FileVersions { now, last_good: None }).collect();
    load(&versions)
}

/// What a sample really asks for.
fn intent(wanted: &Wanted) -> Intent {
    let asked = |request: &Request| {
        let vms = wanted.plans[&request.plan].vms.iter().map(|vm| vm.key.vm.clone());
        let cutover = match request.cutover {
            None => CutoverIntent::AtOnce,
            Some(Cutover::Now) => CutoverIntent::Now,
            Some(Cutover::Never) => CutoverIntent::Never,
            Some(Cutover::At(at)) => CutoverIntent::At(at),
        };
        let movable = vms.clone().collect();
        let asked =
            MigrationIntent { listed: Some(vms.collect()), movable, cutover, open_min: None };
        (request.name.clone(), asked)
    };
    Intent { migrations: wanted.requests.iter().map(asked).collect(), ..Intent::default() }
}

/// A VM for an entry. One that is named by its place in an archive has that for its name here, where each VM has an archive of
/// its own.
fn archive(entry: &VmWanted) -> SimVmSpec {
    let (Selector::Name(name) | Selector::Id(name)) =
        &entry.desired.as_ref().expect("a sample has no findings").selector;
    SimVmSpec::archive(name, &[&[1, 0, 2, 3]])
}

/// Plays a sample until nothing moves and no time is left to wait for, and says what became of each VM and when.
fn play(sample: &str, expected: Expect) {
    let files = files(sample);
    let wanted = wanted(&files);
    assert_eq!(wanted.findings, [], "{sample}");
    let vms: Vec<SimVmSpec> =
        wanted.plans.values().flat_map(|plan| plan.vms.iter().map(archive)).collect();
    let world = SimWorld::new(&vms, FaultPlan::default());
    world.commit(files, intent(&wanted));
    let mut journal = world.journal();
    let mut controller = Controller::new(world.ports(), &mut journal, config()).unwrap();
    for _ in 0..PASSES_MAX {
        world.advance(PAUSE);
        world.tick_workers(usize::MAX);
        let pass = step(&world, &mut controller).unwrap().expect("nothing kills this controller");
        invariant::check(&world, controller.progress()).unwrap();
        match pass.wake {
            _ if pass.active() => {}
            Some(wake) => world.advance(wake.duration_since(world.ports().clock.now())),
            None => return expected.assert_eq(&became(&controller, &pass)),
        }
    }
    panic!("{sample} does not come to rest");
}

fn became(controller: &Controller<'_>, pass: &Pass) -> String {
    let mut text = String::new();
    for stand in &pass.stands {
        let run = stand.vm.as_ref().and_then(|vm| controller.progress().runs(vm).last());
        let at = run.map(|run| run.began_at.strftime(", begun %F %a %H:%M UTC").to_string());
        let state = match &stand.state {
            Standing::Resting(Rest::Completed) => "migrated".to_owned(),
            Standing::Resting(rest) => format!("{rest:?}"),
            Standing::Waiting(wait) => format!("waits: {wait:?}"),
            Standing::Acting(what) => (*what).to_owned(),
        };
        writeln!(text, "{}: {state}{}", stand.key, at.unwrap_or_default()).unwrap();
    }
    text
}

#[test]
fn a_single_archive() {
    play(
        "single-ova",
        expect![[r#"
        first/web-01: migrated, begun 2026-01-05 Mon 00:00 UTC
    "#]],
    );
}

#[test]
fn a_batch() {
    play(
        "ova-batch",
        expect![[r#"
        databases/db-01: migrated, begun 2026-01-05 Mon 00:00 UTC
        databases/db-02: migrated, begun 2026-01-05 Mon 00:00 UTC
        web/web.ova/web-01: NoMigration
        web/web.ova/web-02: NoMigration
    "#]],
    );
}

#[test]
fn several_systems_of_one_archive() {
    play(
        "several-systems",
        expect![[r#"
        erp/erp.ova/db: migrated, begun 2026-01-05 Mon 00:00 UTC
        erp/erp.ova/app: migrated, begun 2026-01-05 Mon 00:00 UTC
        erp/erp.ova/web: migrated, begun 2026-01-05 Mon 00:00 UTC
    "#]],
    );
}

#[test]
fn a_policy_with_a_waiver() {
    play(
        "policy-and-waiver",
        expect![[r#"
        legacy/build-01: migrated, begun 2026-01-05 Mon 00:00 UTC
        legacy/build-02: migrated, begun 2026-01-05 Mon 00:00 UTC
    "#]],
    );
}

#[test]
fn tenants_with_folders_of_their_own() {
    play(
        "multi-tenant",
        expect![[r#"
        payments-ledger/ledger-01: migrated, begun 2026-01-11 Sun 04:00 UTC
        shop-front/front-01: migrated, begun 2026-01-05 Mon 00:00 UTC
        shop-front/front-02: migrated, begun 2026-01-05 Mon 00:00 UTC
    "#]],
    );
}

#[test]
fn windows_and_times() {
    play(
        "windows-and-cutovers",
        expect![[r#"
        shop/shop-db: migrated, begun 2027-01-09 Sat 21:00 UTC
        shop/shop-web: waits: Postponed
    "#]],
    );
}
