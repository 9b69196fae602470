//! Times in git, windows, and what becomes of both when the clock goes on.

use expect_test::expect;

use super::*;
use crate::desired::Cutover;
use crate::domain::id::Token;
use crate::domain::window::{Rule, Window};
use crate::journal::record::RepoFact;

/// From 22:00 to 02:00 UTC, every night.
fn nights() -> Arc<Calendar> {
    let rule = Rule::new("0 22 * * *", SignedDuration::from_hours(4), "Etc/UTC", None).unwrap();
    let window = Window { name: "nights".to_owned(), allow: vec![rule], deny: Vec::new() };
    Arc::new(Calendar::new(vec![window], None))
}

fn at(text: &str) -> Timestamp {
    format!("2026-11-25T{text}:00Z").parse().unwrap()
}

/// Sets the clock, decides and tells the time with it.
fn told(bench: &mut Bench, time: &str) -> String {
    bench.now = at(time);
    format!("{time} {}", bench.settle())
}

fn story(bench: &mut Bench, times: &[&str]) -> String {
    times.iter().map(|time| told(bench, time) + "\n").collect()
}

#[test]
fn a_cold_migration_begins_at_its_time() {
    let mut bench = Bench::ova(&["web01", "web02"]);
    bench.requests[0].cutover = Some(Cutover::At(at("14:00")));
    bench.requests[0].vm_cutover.insert(VmName::new("web02"), Cutover::At(at("15:00")));
    check(
        story(&mut bench, &["12:00", "13:59", "14:05", "15:15"]),
        expect![[r#"
            12:00 web01 waits Cutover { at: 2026-11-25T14:00:00Z }
            web02 waits Cutover { at: 2026-11-25T15:00:00Z }
            13:59 web01 waits Cutover { at: 2026-11-25T14:00:00Z }
            web02 waits Cutover { at: 2026-11-25T15:00:00Z }
            14:05 web01 Began
            web01 Unclaimable
            web01 do RememberPower (cleared)
            web02 waits Cutover { at: 2026-11-25T15:00:00Z }
            15:15 web02 Began
            web02 Unclaimable
            web01 do RememberPower (cleared)
            web02 do RememberPower (cleared)
        "#]],
    );
}

#[test]
fn a_time_that_passed_is_never_caught_up_with() {
    let mut bench = Bench::ova(&["web01"]);
    bench.requests[0].cutover = Some(Cutover::At(at("12:00")));
    check(
        story(&mut bench, &["12:16", "12:17"]),
        expect![[r#"
            12:16 web01 waits CutoverMissed { at: 2026-11-25T12:00:00Z, why: "it was more than 15 m 0 s past when it could have begun" }
            12:17 web01 waits CutoverMissed { at: 2026-11-25T12:00:00Z, why: "it was more than 15 m 0 s past when it could have begun" }
        "#]],
    );
    // Only another time counts.
    bench.requests[0].cutover = Some(Cutover::At(at("12:20")));
    check(
        story(&mut bench, &["12:18", "12:20"]),
        expect![[r#"
            12:18 web01 waits Cutover { at: 2026-11-25T12:20:00Z }
            12:20 web01 Began
            web01 Unclaimable
            web01 do RememberPower (cleared)
        "#]],
    );
}

#[test]
fn what_was_due_in_time_stays_due_while_it_waits_for_a_place() {
    let mut bench = Bench::ova(&["web01", "web02"]);
    bench.slots = 1;
    bench.requests[0].cutover = Some(Cutover::At(at("12:00")));
    check(
        told(&mut bench, "12:10"),
        expect![[r#"
        12:10 web01 Began
        web01 Unclaimable
        web01 do RememberPower (cleared)
        web02 waits Slot { moving: 1 }"#]],
    );
    bench.slots = 2;
    // Long past its time, and after any outage.
    check(
        told(&mut bench, "18:00"),
        expect![[r#"
        18:00 web02 Began
        web02 Unclaimable
        web01 do RememberPower (cleared)
        web02 do RememberPower (cleared)"#]],
    );
}

#[test]
fn due_ends_with_the_window() {
    let mut bench = Bench::ova(&["web01", "web02"]);
    (bench.slots, bench.calendar) = (1, nights());
    bench.requests[0].cutover = Some(Cutover::At(at("22:30")));
    check(
        told(&mut bench, "22:30"),
        expect![[r#"
        22:30 web01 Began
        web01 Unclaimable
        web01 do RememberPower (cleared)
        web02 waits Slot { moving: 1 }"#]],
    );
    bench.slots = 2;
    bench.now = "2026-11-26T02:00:00Z".parse().unwrap();
    check(
        bench.settle(),
        expect![[r#"
        web01 do RememberPower (cleared)
        web02 waits CutoverMissed { at: 2026-11-25T22:30:00Z, why: "the window `nights` closed before it could begin" }"#]],
    );
}

#[test]
fn a_window_is_waited_for_and_must_hold_the_copy_with_the_reserve() {
    let mut bench = Bench::ova(&["web01"]);
    bench.calendar = nights();
    check(
        story(&mut bench, &["12:00", "21:59", "22:00"]),
        expect![[r#"
            12:00 web01 waits Window { by: "nights", opens: Some(2026-11-25T22:00:00Z) }
            21:59 web01 waits Window { by: "nights", opens: Some(2026-11-25T22:00:00Z) }
            22:00 web01 Began
            web01 Unclaimable
            web01 do RememberPower (cleared)
        "#]],
    );
    let mut late = Bench::ova(&["web01"]);
    late.calendar = nights();
    late.now = "2026-11-26T01:46:00Z".parse().unwrap();
    check(
        late.settle(),
        expect![[
            r#"web01 waits Window { by: "15 m 1 s do not fit before the window closes", opens: Some(2026-11-26T22:00:00Z) }"#
        ]],
    );
}

#[test]
fn now_is_valid_once_for_its_version_of_the_document() {
    let mut bench = Bench::ova(&["web01"]);
    bench.calendar = nights();
    bench.requests[0].cutover = Some(Cutover::Now);
    check(
        story(&mut bench, &["12:00", "12:20", "22:00"]),
        expect![[r#"
            12:00 web01 waits Window { by: "nights", opens: Some(2026-11-25T22:00:00Z) }
            12:20 web01 waits CutoverMissed { at: 2026-11-25T12:00:00Z, why: "it was more than 15 m 0 s past when it could have begun" }
            22:00 web01 waits CutoverMissed { at: 2026-11-25T12:00:00Z, why: "it was more than 15 m 0 s past when it could have begun" }
        "#]],
    );
    bench.requests[0].digest = Digest::new("edited");
    check(
        told(&mut bench, "22:01"),
        expect![[r#"
        22:01 web01 Began
        web01 Unclaimable
        web01 do RememberPower (cleared)"#]],
    );
}

#[test]
fn a_time_that_is_taken_away_postpones() {
    let mut bench = Bench::ova(&["web01"]);
    bench.requests[0].cutover = Some(Cutover::At(at("14:00")));
    check(
        told(&mut bench, "12:00"),
        expect!["12:00 web01 waits Cutover { at: 2026-11-25T14:00:00Z }"],
    );
    bench.requests[0].cutover = None;
    check(told(&mut bench, "14:00"), expect!["14:00 web01 waits Postponed"]);
    bench.requests[0].cutover = Some(Cutover::Never);
    check(told(&mut bench, "14:01"), expect!["14:01 web01 waits Postponed"]);
    bench.requests[0].cutover = Some(Cutover::At(at("14:02")));
    check(
        told(&mut bench, "14:02"),
        expect![[r#"
        14:02 web01 Began
        web01 Unclaimable
        web01 do RememberPower (cleared)"#]],
    );
}

#[test]
fn windows_fail_closed() {
    let mut bench = Bench::ova(&["web01"]);
    bench.calendar = Arc::new(Calendar::new(Vec::new(), Some("it is not there".to_owned())));
    check(
        told(&mut bench, "12:00"),
        expect![[r#"12:00 web01 waits Window { by: "it is not there", opens: None }"#]],
    );
    bench.calendar = Arc::default();
    bench.closed = vec!["w.yaml is broken".to_owned()];
    check(
        told(&mut bench, "12:00"),
        expect![[r#"12:00 web01 waits Window { by: "w.yaml is broken", opens: None }"#]],
    );
    // A source that keeps power needs a window, unless the settings say otherwise.
    let mut running = Bench::running();
    running.cutover.require_window = true;
    check(
        told(&mut running, "12:00"),
        expect![[
            r#"12:00 db waits Window { by: "no CutoverWindow bounds its plan, and `cutover.requireWindow` asks for one", opens: None }"#
        ]],
    );
}

#[test]
fn a_power_off_asks_the_window_again_and_the_time() {
    let mut bench = Bench::running();
    bench.calendar = nights();
    bench.now = at("22:00");
    bench.settle();
    bench.fact(Fact::Claimed).fact(Fact::PowerRemembered { power: Power::On });
    bench.now = "2026-11-26T01:50:00Z".parse().unwrap();
    check(
        bench.settle(),
        expect![[
            r#"db waits Window { by: "15 m 1 s do not fit before the window closes", opens: Some(2026-11-26T22:00:00Z) }"#
        ]],
    );
    bench.now = "2026-11-26T22:00:00Z".parse().unwrap();
    bench.requests[0].cutover = Some(Cutover::At("2026-11-26T23:00:00Z".parse().unwrap()));
    check(bench.settle(), expect!["db waits Cutover { at: 2026-11-26T23:00:00Z }"]);
}

#[test]
fn a_window_that_closes_on_a_vm_that_is_off_rolls_it_back_unless_the_rest_is_short() {
    for (gibibytes, expected) in [
        (
            1,
            expect![[r#"
        db AreaIntended
        db do CreateDisks (begun)"#]],
        ),
        (
            900,
            expect![[r#"
        db UndoBegan
        db PowerOnIntended
        db do PowerOn (begun)"#]],
        ),
    ] {
        let mut bench = Bench::running();
        bench.vms[0].disks[0].stored = Some(Bytes::mib(gibibytes << 10));
        bench.target.free = Bytes::mib(1 << 30);
        bench.shut_down();
        bench.calendar = nights();
        bench.now = "2026-11-26T02:00:00Z".parse().unwrap();
        check(bench.settle(), expected);
    }
}

#[test]
fn a_time_that_an_attempt_used_up_does_not_begin_another() {
    let mut bench = Bench::running();
    bench.requests[0].cutover = Some(Cutover::At(at("12:00")));
    bench.now = at("12:00");
    bench.shut_down();
    let why = Abandon::Failed(fault(Disposition::Stall(Mend::Person)));
    bench.fact(Fact::UndoBegan { why });
    bench.fact(Fact::PowerOnIntended { token: Token::new("t") }).fact(Fact::SourceOn);
    bench.fact(Fact::ClaimReleased).fact(Fact::Undone);
    bench.vms[0].power = Power::On;
    // The entry was edited: it may try again, but not at a time that was used.
    bench.force = true;
    check(
        told(&mut bench, "12:05"),
        expect![[
            r#"12:05 db waits CutoverMissed { at: 2026-11-25T12:00:00Z, why: "the attempt that it began failed and was undone" }"#
        ]],
    );
    let accepted = RepoFact::Accepted { commit: CommitId::new("c2") };
    bench.progress.apply(bench.now, &Entry::Repo(accepted)).unwrap();
    bench.requests[0].cutover = Some(Cutover::At(at("12:06")));
    check(
        told(&mut bench, "12:06"),
        expect![[r#"
        12:06 db Began
        db ClaimIntended
        db do Claim (cleared)"#]],
    );
}
