//! When a VM is taken down: the time that its `Migration` names, and the opening of its windows that holds it.

use jiff::tz::{TimeZone, TimeZoneDatabase};
use jiff::{SignedDuration, Timestamp};
use schemars::JsonSchema;
use serde::Serialize;

use crate::decide::Stand;
use crate::desired::{Cutover, Desired, PlanWanted};
use crate::domain::unit::{Bytes, lasting};
use crate::journal::pace::down_for;
use crate::preview::Input;

/// How far ahead an opening is looked for around a time that was set: the nearest ones only.
const OPENINGS: usize = 2;

/// When a VM is taken down, as far as it is bounded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Schedule {
    /// The time that its `Migration` names; `None` as soon as it can be.
    pub at: Option<Timestamp>,
    /// The opening in which that falls, or the next one; `None` where no window bounds it, or none opens any more.
    pub window: Option<Opening>,
    /// Whether it holds the copy and what is kept for undoing.
    pub fits: bool,
    /// The zone in which the windows are written; `UTC` without one.
    pub zone: String,
}

/// A span in which all windows of a plan are open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Opening {
    /// The windows' names.
    pub windows: Vec<String>,
    /// Its first instant; the present one where it is open already.
    pub start: Timestamp,
    /// The first instant after it; `None` where no end is in sight.
    pub end: Option<Timestamp>,
    /// How long it stays open after the VM is through, in seconds; negative where it is too short.
    pub slack_seconds: Option<i64>,
    /// What a change of the clock does to its start.
    pub clock_change: Option<String>,
}

impl Schedule {
    /// Works out when an entry is taken down; `None` where nothing bounds it.
    pub(super) fn of(
        input: &Input<'_>,
        stand: &Stand,
        desired: &Desired,
        bytes: Bytes,
    ) -> Option<Self> {
        let plan = input.wanted.plans.get(&stand.key.plan)?;
        let migration = stand.migration.as_ref()?;
        let request = input.wanted.requests.iter().find(|request| request.name == *migration)?;
        let at = match request.cutover_of(&stand.key.vm) {
            Some(Cutover::Never) => return None,
            Some(Cutover::At(at)) => Some(at),
            Some(Cutover::Now) => {
                Some(input.progress.now_seen(migration, &request.digest).unwrap_or(input.now))
            }
            None if input.progress.was_timed(migration, &stand.key.vm) => return None,
            None => None,
        };
        if at.is_none() && plan.calendar.is_empty() {
            return None;
        }
        let from = at.unwrap_or(input.now).max(input.now);
        let takes = down_for(bytes, desired, false).saturating_add(input.cutover.rollback_reserve);
        let window = opening(plan, from, takes);
        let slack = |window: &Opening| window.slack_seconds.is_none_or(|slack| slack >= 0);
        let inside = |window: &Opening| at.is_none() || window.start <= from;
        let fits = match &window {
            Some(window) => slack(window) && inside(window),
            None => plan.calendar.is_empty(),
        };
        Some(Self { at, window, fits, zone: zone(plan) })
    }

    /// Says it in one line: local time and UTC, the end of the window and what is left of it.
    pub(super) fn words(&self) -> String {
        let Self { at, window, fits, zone } = self;
        let Some(start) = at.or(window.as_ref().map(|window| window.start)) else {
            return "✗ no window opens".to_owned();
        };
        let zone = TimeZoneDatabase::bundled().get(zone).unwrap_or(TimeZone::UTC);
        let day = start.to_zoned(zone.clone());
        let mut words = day.strftime("%a %F %H:%M %Z").to_string();
        if day.offset().seconds() != 0 {
            words.push_str(&start.strftime(" (%H:%MZ)").to_string());
        }
        if let Some(Opening { end, slack_seconds, clock_change, .. }) = window {
            if let Some(end) = end {
                let end = end.to_zoned(zone);
                let near = end.duration_since(&day) < SignedDuration::from_hours(24);
                let shape = if near { "%H:%M" } else { "%a %F %H:%M" };
                words.push_str(&format!(", until {}", end.strftime(shape)));
            }
            if let Some(slack) = slack_seconds.filter(|_| *fits) {
                words.push_str(&format!(", {} slack", lasting(SignedDuration::from_secs(slack))));
            }
            if let Some(change) = clock_change {
                words.push_str(&format!(" ({change})"));
            }
        }
        match (fits, window) {
            (true, _) => {}
            (false, Some(_)) => words.push_str(" ✗ does not fit"),
            (false, None) => words.push_str(" ✗ no window opens"),
        }
        words
    }
}

/// Finds the opening that holds an instant, or the next one.
fn opening(plan: &PlanWanted, from: Timestamp, takes: SignedDuration) -> Option<Opening> {
    if plan.calendar.is_empty() {
        return None;
    }
    let openings = plan.calendar.next(from, OPENINGS);
    let first = openings.first()?;
    let slack = first.end.map(|end| (end.duration_since(first.start) - takes).as_secs());
    Some(Opening {
        windows: plan.calendar.windows().iter().map(|window| window.name.clone()).collect(),
        start: first.start,
        end: first.end,
        slack_seconds: slack,
        clock_change: first.shift.map(|shift| shift.to_string()),
    })
}

/// Names the zone in which a plan's windows are written.
fn zone(plan: &PlanWanted) -> String {
    let mut rules =
        plan.calendar.windows().iter().flat_map(|window| window.allow.iter().chain(&window.deny));
    rules.find_map(|rule| rule.zone().iana_name()).unwrap_or("UTC").to_owned()
}
