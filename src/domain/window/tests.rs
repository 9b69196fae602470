//! Windows against a calendar that was looked up, and against a walk from minute to minute.

use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::*;

fn rule(text: &str) -> Rule {
    let mut parts = text.split(" | ");
    let (schedule, minutes) = (parts.next().unwrap(), parts.next().unwrap());
    let zone = parts.next().unwrap();
    let minutes = minutes.parse().unwrap();
    Rule::new(schedule, SignedDuration::from_mins(minutes), zone, None).unwrap()
}

fn window(name: &str, allow: &[&str], deny: &[&str]) -> Window {
    let rules = |texts: &[&str]| texts.iter().map(|text| rule(text)).collect();
    Window { name: name.to_owned(), allow: rules(allow), deny: rules(deny) }
}

fn calendar(windows: &[Window]) -> Calendar {
    Calendar::new(windows.to_vec(), None)
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// Prints the next openings, in a time zone.
fn check(calendar: &Calendar, from: &str, count: usize, zone: &str, expected: Expect) {
    let zone = TimeZoneDatabase::bundled().get(zone).unwrap();
    let shown = |at: Timestamp| at.to_zoned(zone.clone()).strftime("%a %F %H:%M%:z").to_string();
    let lines: Vec<String> = calendar
        .next(at(from), count)
        .into_iter()
        .map(|Opening { start, end, shift }| {
            let shift = shift.map_or(String::new(), |shift| format!("  ({shift})"));
            let end = end.map_or("no end in sight".to_owned(), shown);
            format!("{} → {end}{shift}\n", shown(start))
        })
        .collect();
    expected.assert_eq(&lines.concat());
}

#[test]
fn saturdays_with_a_frozen_christmas() {
    let nights = window(
        "nights",
        &["0 22 * * 6 | 240 | Europe/Berlin"],
        &["0 0 20 12 * | 10080 | Europe/Berlin"],
    );
    check(
        &calendar(&[nights]),
        "2026-11-25T08:00:00Z",
        6,
        "Europe/Berlin",
        expect![[r#"
            Sat 2026-11-28 22:00+01:00 → Sun 2026-11-29 02:00+01:00
            Sat 2026-12-05 22:00+01:00 → Sun 2026-12-06 02:00+01:00
            Sat 2026-12-12 22:00+01:00 → Sun 2026-12-13 02:00+01:00
            Sat 2026-12-19 22:00+01:00 → Sun 2026-12-20 00:00+01:00
            Sun 2026-12-27 00:00+01:00 → Sun 2026-12-27 02:00+01:00
            Sat 2027-01-02 22:00+01:00 → Sun 2027-01-03 02:00+01:00
        "#]],
    );
}

#[test]
fn a_start_in_the_hour_that_is_skipped_is_the_first_instant_after_it() {
    let early = window("early", &["30 2 * * * | 60 | Europe/Berlin"], &[]);
    check(
        &calendar(&[early]),
        "2026-03-28T12:00:00Z",
        2,
        "Europe/Berlin",
        expect![[r#"
            Sun 2026-03-29 03:00+02:00 → Sun 2026-03-29 04:00+02:00  (the clock skips this time; it starts right after)
            Mon 2026-03-30 02:30+02:00 → Mon 2026-03-30 03:30+02:00
        "#]],
    );
}

#[test]
fn a_start_that_comes_twice_counts_the_first_time_and_lasts_as_long_as_ever() {
    let early = window("early", &["30 2 * * * | 120 | Europe/Berlin"], &[]);
    check(
        &calendar(&[early]),
        "2026-10-24T12:00:00Z",
        2,
        "Europe/Berlin",
        expect![[r#"
            Sun 2026-10-25 02:30+02:00 → Sun 2026-10-25 03:30+01:00  (this time comes twice; the first counts)
            Mon 2026-10-26 02:30+01:00 → Mon 2026-10-26 04:30+01:00
        "#]],
    );
}

#[test]
fn all_windows_must_agree_and_only_denials_leave_the_rest_open() {
    let nights = window("nights", &["0 22 * * * | 480 | Europe/Berlin"], &[]);
    let backups = window("backups", &[], &["0 1 * * * | 90 | Europe/Berlin"]);
    check(
        &calendar(&[nights, backups.clone()]),
        "2026-11-25T12:00:00Z",
        3,
        "Europe/Berlin",
        expect![[r#"
            Wed 2026-11-25 22:00+01:00 → Thu 2026-11-26 01:00+01:00
            Thu 2026-11-26 02:30+01:00 → Thu 2026-11-26 06:00+01:00
            Thu 2026-11-26 22:00+01:00 → Fri 2026-11-27 01:00+01:00
        "#]],
    );
    let gate = calendar(&[backups]).at(at("2026-11-25T23:59:59Z"));
    assert_eq!(gate, Gate::Open { until: Some(at("2026-11-26T00:00:00Z")) });
}

#[test]
fn the_gate_says_until_when_and_what_closes_it() {
    let weekend = window("weekend", &["0 0 * * 6 | 2880 | Etc/UTC"], &[]);
    let calendar = calendar(&[weekend]);
    let saturday = at("2026-11-28T00:00:00Z");
    let closed = Gate::Closed { opens: Some(saturday), by: "weekend".to_owned() };
    assert_eq!(calendar.at(at("2026-11-27T23:59:59Z")), closed);
    let open = Gate::Open { until: Some(at("2026-11-30T00:00:00Z")) };
    assert_eq!(calendar.at(saturday), open);
    assert_eq!(calendar.at(at("2026-11-29T23:59:59Z")), open);
    let day = SignedDuration::from_hours(24);
    assert_eq!(calendar.fits(at("2026-11-28T12:00:00Z"), day), Some(at("2026-11-28T12:00:00Z")));
    assert_eq!(calendar.fits(at("2026-11-29T12:00:00Z"), day), Some(at("2026-12-05T00:00:00Z")));
    assert_eq!(calendar.fits(saturday, day * 3), None);
    let why = "the window `weekend` is not there".to_owned();
    let broken = Calendar::new(calendar.windows().to_vec(), Some(why.clone()));
    assert_eq!(broken.at(saturday), Gate::Closed { opens: None, by: why });
    assert_eq!(Calendar::default().at(saturday), Gate::Open { until: None });
    assert_eq!(Calendar::default().fits(saturday, day * 900), Some(saturday));
}

#[test]
fn what_comes_once_a_year_or_every_minute_is_answered() {
    let yearly = window("yearly", &["0 3 29 2 * | 60 | Etc/UTC"], &[]);
    let leap = calendar(&[yearly]);
    assert_eq!(leap.next(at("2027-03-01T00:00:00Z"), 1).len(), 1);
    // Two years ahead is out of sight.
    assert_eq!(leap.next(at("2026-03-01T00:00:00Z"), 1), []);
    let always = calendar(&[window("always", &["* * * * * | 10080 | Etc/UTC"], &[])]);
    assert_eq!(always.at(at("2026-03-01T00:00:00Z")), Gate::Open { until: None });
}

#[test]
fn rules_that_cannot_be_used_are_refused() {
    let hour = SignedDuration::from_hours(1);
    let refused = |schedule: &str, duration, zone: &str| {
        Rule::new(schedule, duration, zone, None).unwrap_err().to_string()
    };
    expect![[r#"
        the schedule is no cron expression of five fields (minute hour day month weekday): Invalid pattern: Pattern must have 5 fields when seconds are disallowed.
        the schedule is no cron expression of five fields (minute hour day month weekday): Component error: Number out of bounds.
        the schedule never comes: look at day and month
        the time zone is not in the IANA database, which has names such as `Europe/Berlin`
        the duration must be more than nothing and at most seven days
        the duration must be more than nothing and at most seven days
    "#]]
    .assert_eq(&format!(
        "{}\n{}\n{}\n{}\n{}\n{}\n",
        refused("0 0 0 * * *", hour, "Etc/UTC"),
        refused("61 0 * * *", hour, "Etc/UTC"),
        refused("30 2 30 2 *", hour, "Etc/UTC"),
        refused("0 0 * * *", hour, "Europe/Atlantis"),
        refused("0 0 * * *", SignedDuration::ZERO, "Etc/UTC"),
        refused("0 0 * * *", hour * 169, "Etc/UTC"),
    ));
}

const ZONES: [&str; 6] = [
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "Asia/Kolkata",
    "Pacific/Apia",
    "America/Sao_Paulo",
];

/// A schedule with its fields as plain numbers, so that a walk can tell whether a local minute is one of its starts.
#[derive(Clone, Debug)]
struct Simple {
    minute: i8,
    hour: i8,
    weekday: Option<i8>,
    duration_min: i64,
    zone: usize,
}

impl Simple {
    fn rule(&self) -> Rule {
        let day = self.weekday.map_or("*".to_owned(), |day| day.to_string());
        let schedule = format!("{} {} * * {day}", self.minute, self.hour);
        let duration = SignedDuration::from_mins(self.duration_min);
        Rule::new(&schedule, duration, ZONES[self.zone], None).unwrap()
    }

    /// Tells whether an instant is within an occurrence, by a walk over the minutes before it on the zone's own clock.
    fn open(&self, at: Timestamp) -> bool {
        let zone = TimeZoneDatabase::bundled().get(ZONES[self.zone]).unwrap();
        let mut back = at;
        let stop = at - SignedDuration::from_mins(self.duration_min);
        let mut before = zone.to_datetime(back);
        while back > stop {
            let earlier = back - SignedDuration::from_mins(1);
            let local = zone.to_datetime(earlier);
            // The clock shows `before` at `back`. It started if the schedule's minute was shown for the first time, or skipped.
            let jump = before.duration_since(local) > SignedDuration::from_mins(1);
            let skipped = jump && self.between(local, before);
            if skipped || (self.shows(before) && Self::first_time(&zone, before, back)) {
                return true;
            }
            (back, before) = (earlier, local);
        }
        false
    }

    fn shows(&self, local: DateTime) -> bool {
        let day = local.weekday().to_sunday_zero_offset();
        local.minute() == self.minute
            && local.hour() == self.hour
            && self.weekday.is_none_or(|weekday| weekday == day)
    }

    fn between(&self, from: DateTime, to: DateTime) -> bool {
        let mut at = from;
        loop {
            at = at.checked_add(SignedDuration::from_mins(1)).unwrap();
            if at >= to {
                return false;
            }
            if self.shows(at) {
                return true;
            }
        }
    }

    fn first_time(zone: &TimeZone, local: DateTime, at: Timestamp) -> bool {
        let earlier = zone.to_ambiguous_timestamp(local).earlier().unwrap();
        earlier == at
    }
}

fn simple() -> impl Strategy<Value = Simple> {
    let day = prop::option::of(0..7_i8);
    (0..60_i8, 0..24_i8, day, 1..600_i64, 0..ZONES.len()).prop_map(
        |(minute, hour, weekday, duration_min, zone)| Simple {
            minute,
            hour,
            weekday,
            duration_min,
            zone,
        },
    )
}

/// Minutes of some years; half of them near a change of a clock.
fn minute() -> impl Strategy<Value = Timestamp> {
    let changes = [
        "2026-03-29T01:00:00Z",
        "2026-10-25T01:00:00Z",
        "2026-03-08T07:00:00Z",
        "2026-11-01T06:00:00Z",
        "2026-04-04T15:00:00Z",
        "2026-10-03T15:30:00Z",
        "2011-12-30T10:00:00Z",
        "2018-11-04T03:00:00Z",
    ];
    let near = (0..changes.len(), -900..900_i64).prop_map(move |(change, minutes)| {
        at(changes[change]) + SignedDuration::from_mins(minutes)
    });
    let any = (0..2_000_000_i64)
        .prop_map(|minutes| at("2025-01-01T00:00:00Z") + SignedDuration::from_mins(minutes));
    prop_oneof![near, any]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn a_walk_from_minute_to_minute_says_the_same(
        allow in prop::collection::vec(simple(), 0..3),
        deny in prop::collection::vec(simple(), 0..2),
        now in minute(),
    ) {
        let rules = |list: &[Simple]| list.iter().map(Simple::rule).collect();
        let window = Window { name: "w".to_owned(), allow: rules(&allow), deny: rules(&deny) };
        let calendar = calendar(&[window]);
        let open = |at| (allow.is_empty() || allow.iter().any(|rule| rule.open(at)))
            && !deny.iter().any(|rule| rule.open(at));
        match calendar.at(now) {
            Gate::Open { until } => {
                prop_assert!(open(now), "open at {}", now);
                if let Some(until) = until {
                    prop_assert!(!open(until), "still open at {}", until);
                    prop_assert!(open(until - SignedDuration::from_mins(1)));
                }
            }
            Gate::Closed { opens, .. } => {
                prop_assert!(!open(now), "closed at {}", now);
                let Some(opens) = opens else {
                    // A denial may cover every opening for good.
                    prop_assert!(!deny.is_empty(), "every schedule comes within a week");
                    return Ok(());
                };
                prop_assert!(open(opens), "closed at {}", opens);
                prop_assert!(!open(opens - SignedDuration::from_mins(1)));
            }
        }
    }
}
