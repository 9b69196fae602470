//! Ways to harm that were found by reading the code as an adversary, each closed.

use expect_test::expect;

use super::*;

fn abandon(bench: &mut Bench, why: Abandon) {
    bench.fact(Fact::UndoBegan { why }).fact(Fact::Undone);
}

/// A VM that is off, and whose disks are made.
fn copying() -> Bench {
    let mut bench = Bench::ova(&["web01"]);
    bench.settle();
    bench.fact(Fact::PowerRemembered { power: Power::Off });
    bench.settle();
    bench.fact(disks());
    bench
}

/// Another Migration comes, and finds the areas of earlier attempts.
fn over_what_stands(bench: &mut Bench) {
    bench.request("m2");
    bench.settle();
    bench.target.areas = bench.progress.areas().cloned().collect();
    bench.fact(Fact::PowerRemembered { power: Power::Off });
}

#[test]
fn a_finished_vm_stays_finished_whatever_became_of_a_later_attempt() {
    let mut bench = copying();
    let root = "r".to_owned();
    bench.fact(Fact::DiskCopied { disk: DiskKey::new("disk1"), written: Bytes::mib(1), root });
    for fact in [Fact::CreateIntended, Fact::VmCreated, Fact::MarkedMigrated, Fact::Completed] {
        bench.fact(fact);
    }
    let again = bench.request("m2");
    again.again.insert(VmName::new("web01"));
    bench.settle();
    abandon(&mut bench, Abandon::MigrationGone);
    // The migration that asked for it again is gone, and the first one counts again; or a third one comes.
    bench.requests.truncate(1);
    check(bench.settle(), expect!["web01 rests Completed"]);
    bench.request("m3");
    check(bench.settle(), expect!["web01 rests Completed"]);
}

#[test]
fn an_old_intent_to_cut_power_asks_the_gate_again() {
    let mut bench = Bench::running();
    bench.force = true;
    bench.settle();
    bench.fact(Fact::Claimed).fact(Fact::PowerRemembered { power: Power::On });
    bench.settle();
    let deadline = bench.now;
    bench.fact(Fact::ShutdownRequested { deadline }).fact(Fact::ForceIntended);
    check(bench.settle(), expect!["db do PowerOff (begun)"]);
    bench.brake = Brake::Held;
    check(bench.settle(), expect!["db waits ShuttingDown { deadline: 2026-11-25T12:00:00Z }"]);
}

#[test]
fn a_vm_that_somebody_turned_off_while_it_waited_is_not_started_on_the_target() {
    let mut bench = Bench::running();
    bench.settle();
    bench.bars = vec!["git cannot be reached".to_owned()];
    bench.fact(Fact::Claimed).fact(Fact::PowerRemembered { power: Power::On });
    check(bench.settle(), expect![[r#"db waits PowerOffBarred("git cannot be reached")"#]]);
    (bench.vms[0].power, bench.bars) = (Power::Off, Vec::new());
    check(bench.settle(), expect!["db do RememberPower (cleared)"]);
    bench.fact(Fact::PowerRemembered { power: Power::Off });
    check(
        bench.settle(),
        expect![[r#"
        db AreaIntended
        db do CreateDisks (cleared)"#]],
    );
}

#[test]
fn what_was_kept_is_gone_on_with_only_where_it_stands_and_is_not_known_to_be_bad() {
    for (stands, compared, expected) in [
        (
            true,
            true,
            expect![[r#"
            web01 AreaAdopted
            web01 do StartWorker (cleared)"#]],
        ),
        (
            false,
            true,
            expect![[r#"
            web01 RemovalIntended
            web01 do Remove (begun)"#]],
        ),
        (
            true,
            false,
            expect![[r#"
            web01 RemovalIntended
            web01 do Remove (begun)"#]],
        ),
    ] {
        let mut bench = Bench::ova(&["web01"]);
        bench.verify = Verify::Changed;
        bench.settle();
        bench.fact(Fact::PowerRemembered { power: Power::Off });
        bench.settle();
        bench.fact(disks());
        if !compared {
            let root = "r".to_owned();
            let disk = DiskKey::new("disk1");
            bench.fact(Fact::DiskCopied { disk, written: Bytes::mib(1), root });
        }
        abandon(&mut bench, Abandon::MigrationGone);
        bench.requests.clear();
        bench.request("m2");
        bench.settle();
        if stands {
            bench.target.areas = bench.progress.areas().cloned().collect();
        }
        bench.fact(Fact::PowerRemembered { power: Power::Off });
        check(bench.settle(), expected);
    }
}

#[test]
fn a_copy_in_another_format_goes_first_and_one_on_its_way_ends_as_it_began() {
    let mut bench = copying();
    bench.format = ImageFormat::Qcow2;
    check(bench.settle(), expect!["web01 do StartWorker (cleared)"]);
    let run = bench.progress.attempts().last().unwrap();
    assert_eq!(run.begun.instructions().desired.target_site, Site::folder("/vms"));
    abandon(&mut bench, Abandon::MigrationGone);
    bench.requests.clear();
    over_what_stands(&mut bench);
    check(
        bench.settle(),
        expect![[r#"
            web01 RemovalIntended
            web01 do Remove (begun)"#]],
    );
    bench.fact(Fact::AreaRemoved);
    bench.target.areas.clear();
    check(
        bench.settle(),
        expect![[r#"
            web01 AreaIntended
            web01 do CreateDisks (cleared)"#]],
    );
}

#[test]
fn what_cannot_be_read_takes_nothing_back() {
    let mut bench = copying();
    bench.wanted = false;
    check(bench.settle(), expect!["web01 do StartWorker (cleared)"]);
    bench.wanted = true;
    bench.requests.clear();
    check(
        bench.settle(),
        expect![[r#"
        web01 UndoBegan
        web01 Undone
        web01 rests NoMigration"#]],
    );
    // The same name never runs again by itself; another one goes on from the partial disks.
    bench.request("m1");
    check(bench.settle(), expect!["web01 rests Withdrawn"]);
    over_what_stands(&mut bench);
    check(
        bench.settle(),
        expect![[r#"
        web01 AreaAdopted
        web01 do StartWorker (cleared)"#]],
    );
}
