//! Cutover windows: when VMs may be taken down. The one evaluator, for the controller, the preview and the command line.
//!
//! # Guarantees
//!
//! A rule is a cron schedule in a time zone and a duration. Each of its starts is one instant: a start that falls into the
//! hour that a clock skips is the first instant after that hour, one that comes twice counts the first time, and both are
//! [told](Shift). Durations are elapsed time. All windows of a [`Calendar`] must agree; within one a denial wins, and without
//! an allowing rule it is open unless denied. Time zones come from the IANA database that is built in, so that a preview says
//! the same on every machine.
//!
//! # Assumptions
//!
//! Nobody plans further than [`HORIZON`] ahead: what opens only after that is said never to open.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone, TimeZoneDatabase};
use jiff::{SignedDuration, Timestamp};

use crate::domain::text::visible;

/// The longest that one occurrence may last.
pub const DURATION_MAX: SignedDuration = SignedDuration::from_hours(7 * 24);

/// How far ahead is looked: a yearly window and some.
pub const HORIZON: SignedDuration = SignedDuration::from_hours(400 * 24);

/// How far ahead is looked first: most windows open within a week. What is open at its end has no end in sight.
const NEAR: SignedDuration = SignedDuration::from_hours(8 * 24);

/// How many starts of one rule are looked at for one question: those of each minute of two weeks. A rule that starts more
/// often than every half hour is looked at less far than [`HORIZON`].
const STARTS_MAX: usize = 20_160;

/// A day of UTC.
const DAY: SignedDuration = SignedDuration::from_hours(24);

/// Why a rule cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// The schedule is no cron expression of five fields.
    #[error(
        "the schedule is no cron expression of five fields (minute hour day month weekday): {0}"
    )]
    Schedule(String),
    /// The schedule never comes.
    #[error("the schedule never comes: look at day and month")]
    Never,
    /// The time zone is not in the IANA database.
    #[error("the time zone is not in the IANA database, which has names such as `Europe/Berlin`")]
    Zone,
    /// The duration is nothing, or too long.
    #[error("the duration must be more than nothing and at most seven days")]
    Duration,
}

/// A cron schedule in a time zone with a duration.
#[derive(Clone, Debug)]
pub struct Rule {
    schedule: String,
    cron: Cron,
    zone: TimeZone,
    duration: SignedDuration,
    description: Option<String>,
}

impl PartialEq for Rule {
    fn eq(&self, other: &Self) -> bool {
        let Self { schedule, cron: _, zone, duration, description } = self;
        *schedule == other.schedule
            && *zone == other.zone
            && *duration == other.duration
            && *description == other.description
    }
}

/// How a start was moved by a change of the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shift {
    /// The clock skips that time: the start is the first instant after it.
    Skipped,
    /// That time comes twice: the first counts.
    Repeated,
}

impl fmt::Display for Shift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Skipped => "the clock skips this time; it starts right after",
            Self::Repeated => "this time comes twice; the first counts",
        })
    }
}

/// One occurrence of a rule, its end excluded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Occurrence {
    /// Its first instant.
    pub start: Timestamp,
    /// The first instant after it.
    pub end: Timestamp,
    /// Whether a change of the clock moved it.
    pub shift: Option<Shift>,
}

impl Rule {
    /// Reads a rule.
    pub fn new(
        schedule: &str,
        duration: SignedDuration,
        zone: &str,
        description: Option<String>,
    ) -> Result<Self, RuleError> {
        let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed);
        let cron = parser.build().parse(schedule);
        let cron =
            cron.map_err(|error| RuleError::Schedule(visible(&error.to_string()).into_owned()))?;
        let zone = TimeZoneDatabase::bundled().get(zone).map_err(|_| RuleError::Zone)?;
        if duration <= SignedDuration::ZERO || duration > DURATION_MAX {
            return Err(RuleError::Duration);
        }
        // A leap year has every date that there is.
        let comes = cron.find_next_occurrence(&DateTime::constant(2028, 1, 1, 0, 0, 0, 0), true);
        comes.map_err(|_| RuleError::Never)?;
        Ok(Self { schedule: schedule.to_owned(), cron, zone, duration, description })
    }

    /// Returns the schedule as it was written.
    pub fn schedule(&self) -> &str {
        &self.schedule
    }

    /// Returns the time zone.
    pub fn zone(&self) -> &TimeZone {
        &self.zone
    }

    /// Returns how long one occurrence lasts.
    pub fn duration(&self) -> SignedDuration {
        self.duration
    }

    /// Returns what it is for.
    pub fn description(&self) -> Option<&str> {
        self.description.as_deref()
    }

    /// Lists the occurrences that touch a span of time, in order, with the instant up to which the list is whole.
    pub fn occurrences(&self, from: Timestamp, to: Timestamp) -> (Vec<Occurrence>, Timestamp) {
        let mut found: Vec<Occurrence> = Vec::new();
        // Local times of an instant lie within a day of it, changes of the clock included.
        let first = minus(minus(from, self.duration), SignedDuration::from_hours(26));
        let first = self.zone.to_datetime(first);
        for (count, local) in self.cron.iter_from(first, croner::Direction::Forward).enumerate() {
            let (start, shift) = self.instant(local);
            if start >= to {
                break;
            }
            if count >= STARTS_MAX {
                return (found, start);
            }
            let end = plus(start, self.duration);
            if end > from && found.last().is_none_or(|last| last.start < start) {
                found.push(Occurrence { start, end, shift });
            }
        }
        (found, to)
    }

    /// Returns the instant of a local time, and how it was moved.
    fn instant(&self, local: DateTime) -> (Timestamp, Option<Shift>) {
        let at = |offset: jiff::tz::Offset| {
            offset.to_timestamp(local).unwrap_or(if local.year() < 0 {
                Timestamp::MIN
            } else {
                Timestamp::MAX
            })
        };
        match self.zone.to_ambiguous_timestamp(local).offset() {
            AmbiguousOffset::Unambiguous { offset } => (at(offset), None),
            AmbiguousOffset::Fold { before, after: _ } => (at(before), Some(Shift::Repeated)),
            AmbiguousOffset::Gap { before: _, after } => {
                // With the offset that holds afterwards it would be before the change.
                let change = self.zone.following(at(after)).next();
                let start = change.map_or_else(|| at(after), |change| change.timestamp());
                (start, Some(Shift::Skipped))
            }
        }
    }
}

/// A window with its name.
#[derive(Clone, Debug, PartialEq)]
pub struct Window {
    /// Names it.
    pub name: String,
    /// When it is open; empty for always.
    pub allow: Vec<Rule>,
    /// When it is closed whatever `allow` says.
    pub deny: Vec<Rule>,
}

/// All windows that bound a plan: each must be open.
#[derive(Debug, Default)]
pub struct Calendar {
    windows: Vec<Window>,
    closed: Option<String>,
    /// What was found from the start of a day on, near and far: most questions of a day have the same answer.
    memo: Mutex<[Memo; 2]>,
}

/// A look and the start of the day that it was taken for.
type Memo = Option<(Timestamp, Arc<Look>)>;

impl PartialEq for Calendar {
    fn eq(&self, other: &Self) -> bool {
        let Self { windows, closed, memo: _ } = self;
        *windows == other.windows && *closed == other.closed
    }
}

/// Whether VMs may be taken down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gate {
    /// Yes.
    Open {
        /// Until then; `None` where no end is in sight.
        until: Option<Timestamp>,
    },
    /// No.
    Closed {
        /// When it opens next; `None` where that is not in sight.
        opens: Option<Timestamp>,
        /// Which window closes it, or why.
        by: String,
    },
}

/// A span in which all windows are open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opening {
    /// Its first instant; the instant that was asked from where it is open already.
    pub start: Timestamp,
    /// The first instant after it; `None` where no end is in sight.
    pub end: Option<Timestamp>,
    /// Whether a change of the clock moved its start.
    pub shift: Option<Shift>,
}

impl Calendar {
    /// Joins windows; with a reason it is closed whatever they say, since one of them cannot be made out.
    pub fn new(windows: Vec<Window>, closed: Option<String>) -> Self {
        Self { windows, closed, memo: Mutex::default() }
    }

    /// Returns the windows.
    pub fn windows(&self) -> &[Window] {
        &self.windows
    }

    /// Returns why it is closed whatever the windows say.
    pub fn closed(&self) -> Option<&str> {
        self.closed.as_deref()
    }

    /// Tells whether it bounds nothing.
    pub fn is_empty(&self) -> bool {
        self.windows.is_empty() && self.closed.is_none()
    }

    /// Tells whether VMs may be taken down at an instant.
    pub fn at(&self, now: Timestamp) -> Gate {
        if let Some(why) = &self.closed {
            return Gate::Closed { opens: None, by: why.clone() };
        }
        let look = self.look(now, |look| look.from(now).next().is_some());
        match look.from(now).next() {
            Some((start, end)) if start <= now => Gate::Open { until: look.end(end) },
            first => Gate::Closed { opens: first.map(|(start, _)| start), by: self.closer(now) },
        }
    }

    /// Tells when something that takes so long may begin: now, or at the start of the first opening that holds it.
    pub fn fits(&self, now: Timestamp, takes: SignedDuration) -> Option<Timestamp> {
        if self.closed.is_some() {
            return None;
        }
        if self.windows.is_empty() {
            return Some(now);
        }
        let holds = |(start, end): &Span| end.duration_since(*start) >= takes;
        let look = self.look(now, |look| look.from(now).any(|span| holds(&span)));
        look.from(now).find(holds).map(|(start, _)| start)
    }

    /// Lists the next openings.
    pub fn next(&self, now: Timestamp, count: usize) -> Vec<Opening> {
        if self.closed.is_some() {
            return Vec::new();
        }
        let look = self.look(now, |look| look.from(now).count() > count);
        // What reaches the end of the look is told only where it is open already.
        let known = look.from(now).filter(|(start, end)| look.end(*end).is_some() || *start <= now);
        let shift =
            |start| look.shifts.iter().find(|(at, _)| *at == start).map(|(_, shift)| *shift);
        known
            .take(count)
            .map(|(start, end)| Opening { start, end: look.end(end), shift: shift(start) })
            .collect()
    }

    /// Looks near, and as far as anybody plans where that does not answer.
    fn look(&self, now: Timestamp, answers: impl Fn(&Look) -> bool) -> Arc<Look> {
        let day = now.as_second() - now.as_second().rem_euclid(DAY.as_secs());
        let day = Timestamp::from_second(day).unwrap_or(now);
        let mut memo = self.memo.lock().unwrap_or_else(PoisonError::into_inner);
        let [near, far] = &mut *memo;
        let of = |memo: &mut Memo, ahead| match memo {
            Some((known, look)) if *known == day => look.clone(),
            _ => {
                let look = Arc::new(self.between(day, plus(day, ahead)));
                *memo = Some((day, look.clone()));
                look
            }
        };
        let look = of(near, NEAR);
        if answers(&look) { look } else { of(far, HORIZON) }
    }

    /// Finds the spans between two instants in which every window is open.
    fn between(&self, from: Timestamp, to: Timestamp) -> Look {
        let mut look = Look { spans: vec![(from, to)], whole: to, shifts: Vec::new() };
        for Window { name: _, allow, deny } in &self.windows {
            let allowed = union(allow, from, to, &mut look);
            if !allow.is_empty() {
                look.spans = common(&look.spans, &allowed);
            }
            let denied = union(deny, from, to, &mut look);
            look.spans = without(&look.spans, &denied);
        }
        look.spans.retain(|(start, _)| *start < look.whole);
        look
    }

    /// Names the first window that is closed at an instant.
    fn closer(&self, now: Timestamp) -> String {
        let alone = |window: &Window| Self::new(vec![window.clone()], None);
        let shut = |window: &&Window| {
            let just = alone(window).between(now, plus(now, SignedDuration::from_nanos(1)));
            just.spans.is_empty()
        };
        self.windows.iter().find(shut).map(|window| window.name.clone()).unwrap_or_default()
    }
}

type Span = (Timestamp, Timestamp);

/// What was found between two instants.
#[derive(Debug)]
struct Look {
    /// In order, without overlaps.
    spans: Vec<Span>,
    /// Up to where it is known: what ends there may go on.
    whole: Timestamp,
    /// The starts that a change of the clock moved.
    shifts: Vec<(Timestamp, Shift)>,
}

impl Look {
    /// Lists what is open from an instant on.
    fn from(&self, now: Timestamp) -> impl Iterator<Item = Span> {
        let first = self.spans.partition_point(|(_, end)| *end <= now);
        self.spans.iter().skip(first).map(move |(start, end)| ((*start).max(now), *end))
    }

    /// Returns an end, unless it is only where the look ends.
    fn end(&self, end: Timestamp) -> Option<Timestamp> {
        (end < self.whole).then_some(end)
    }
}

/// Unites the occurrences of rules within a span of time.
fn union(rules: &[Rule], from: Timestamp, to: Timestamp, look: &mut Look) -> Vec<Span> {
    let mut all: Vec<Span> = Vec::new();
    for rule in rules {
        let (occurrences, until) = rule.occurrences(from, to);
        look.whole = look.whole.min(until);
        for Occurrence { start, end, shift } in occurrences {
            all.push((start.max(from), end.min(to)));
            look.shifts.extend(shift.map(|shift| (start, shift)));
        }
    }
    all.sort_unstable();
    let mut united: Vec<Span> = Vec::new();
    for (start, end) in all {
        match united.last_mut() {
            Some((_, last)) if start <= *last => *last = (*last).max(end),
            _ => united.push((start, end)),
        }
    }
    united
}

/// Returns what two lists of spans share. Both are in order and do not overlap.
fn common(one: &[Span], other: &[Span]) -> Vec<Span> {
    let mut shared = Vec::new();
    let (mut at, mut beside) = (0, 0);
    while let (Some((start, end)), Some((from, to))) = (one.get(at), other.get(beside)) {
        let (first, last) = ((*start).max(*from), (*end).min(*to));
        if first < last {
            shared.push((first, last));
        }
        if end < to { at += 1 } else { beside += 1 }
    }
    shared
}

/// Takes spans away from others. Both are in order and do not overlap.
fn without(open: &[Span], denied: &[Span]) -> Vec<Span> {
    let mut left = Vec::new();
    for (mut start, end) in open.iter().copied() {
        for (from, to) in denied.iter().copied() {
            if to <= start || from >= end {
                continue;
            }
            if from > start {
                left.push((start, from));
            }
            start = start.max(to);
        }
        if start < end {
            left.push((start, end));
        }
    }
    left
}

fn plus(at: Timestamp, by: SignedDuration) -> Timestamp {
    at.saturating_add(by).unwrap_or(Timestamp::MAX)
}

fn minus(at: Timestamp, by: SignedDuration) -> Timestamp {
    at.saturating_sub(by).unwrap_or(Timestamp::MIN)
}

#[cfg(test)]
mod tests;
