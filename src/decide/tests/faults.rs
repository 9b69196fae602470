//! What fails, hangs and stalls, and what ends that.

use expect_test::expect;

use super::*;

#[test]
fn a_failure_after_the_power_off_brings_the_source_back() {
    let mut bench = Bench::running();
    bench.shut_down().settle();
    bench.fact(disks());
    check(bench.settle(), expect!["db do StartWorker (begun)"]);
    bench.fact(Fact::Tried(fault(Disposition::Stall(Mend::Person))));
    check(
        bench.settle(),
        expect![[r#"
        db UndoBegan
        db PowerOnIntended
        db do PowerOn (begun)"#]],
    );
    bench.vms[0].power = Power::On;
    bench.fact(Fact::SourceOn);
    check(
        bench.settle(),
        expect![[r#"
        db RemovalIntended
        db do Remove (begun)"#]],
    );
    bench.fact(Fact::AreaRemoved);
    check(bench.settle(), expect!["db do Release (begun)"]);
    bench.fact(Fact::ClaimReleased);
    check(
        bench.settle(),
        expect![[r#"
        db Undone
        db rests Failed(Fault { text: "it broke", remedy: "mend it", disposition: Stall(Person) })"#]],
    );
    // Only a commit begins it again: time does not, an edit of the entry does, a new Migration does.
    check(
        bench.later(86_400).settle(),
        expect![[
            r#"db rests Failed(Fault { text: "it broke", remedy: "mend it", disposition: Stall(Person) })"#
        ]],
    );
    bench.timeout_s = 700;
    check(
        bench.settle(),
        expect![[r#"
        db Began
        db ClaimIntended
        db do Claim (cleared)"#]],
    );
}

#[test]
fn a_worker_that_hangs_is_ended() {
    let mut bench = Bench::ova(&["web01"]);
    bench.settle();
    bench.fact(Fact::PowerRemembered { power: Power::Off });
    bench.settle();
    bench.fact(disks());
    bench.worker = Some(WorkerState::Silent);
    check(bench.settle(), expect!["web01 do EndWorker (begun)"]);
}

#[test]
fn a_stall_ends_when_what_it_names_is_mended() {
    let mut bench = Bench::ova(&["web01"]);
    bench.settle();
    bench.fact(Fact::PowerRemembered { power: Power::Off });
    bench.settle();
    let full = fault(Disposition::Stall(Mend::Space(Bytes::mib(200))));
    bench.fact(Fact::Tried(full));
    check(
        bench.settle(),
        expect![[r#"
        web01 Stalled
        web01 waits Stalled(Fault { text: "it broke", remedy: "mend it", disposition: Stall(Space(Bytes(209715200))) })"#]],
    );
    bench.target.free = Bytes::mib(300);
    check(
        bench.later(301).settle(),
        expect![[r#"
        web01 Resumed
        web01 do CreateDisks (cleared)"#]],
    );
}

#[test]
fn a_passing_fault_is_tried_again_a_bounded_number_of_times() {
    let mut bench = Bench::ova(&["web01"]);
    bench.settle();
    let mut lines = Vec::new();
    for _ in 0..5 {
        bench.fact(Fact::Tried(fault(Disposition::Retry)));
        lines.push(bench.settle().replace("disposition: Retry", ".."));
        bench.later(120);
    }
    check(
        lines.join("\n"),
        expect![[r#"
        web01 waits Retry { at: 2026-11-25T12:00:05Z, fault: Fault { text: "it broke", remedy: "mend it", .. } }
        web01 waits Retry { at: 2026-11-25T12:02:10Z, fault: Fault { text: "it broke", remedy: "mend it", .. } }
        web01 waits Retry { at: 2026-11-25T12:04:20Z, fault: Fault { text: "it broke", remedy: "mend it", .. } }
        web01 waits Retry { at: 2026-11-25T12:06:40Z, fault: Fault { text: "it broke", remedy: "mend it", .. } }
        web01 Stalled
        web01 waits Stalled(Fault { text: "it broke", remedy: "mend it", .. })"#]],
    );
}

/// What was given up before its disks were known is no copy, although the area stands there.
#[test]
fn an_area_that_was_given_up_while_it_was_made_is_never_gone_on_with() {
    let mut bench = Bench::ova(&["web01"]);
    bench.settle();
    bench.fact(Fact::PowerRemembered { power: Power::Off });
    bench.settle();
    assert!(bench.again().starts_with("web01 RemovalIntended"));
}
