//! `ferry window`: when cutover windows are open, as instants.

use std::fmt::Write as _;

use anyhow::{Context, bail};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;

use crate::cli::machine::{config, progress, watched};
use crate::cli::settings::{Flags, Settings};
use crate::cli::worktree::did_you_mean;
use crate::cli::{Exit, Global, answer, width};
use crate::controller::read::Reader;
use crate::desired::Wanted;
use crate::domain::id::PlanName;
use crate::domain::text::visible;
use crate::domain::unit::lasting;
use crate::domain::window::{Calendar, Gate, Opening};
use crate::port::Clock;
use crate::preview::{bare, trimmed};

/// Shows when cutover windows are open, in local time and in UTC
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ferry window list                   the windows, and their next openings
  ferry window list --plan web        all windows that bound the plan web, joined
  ferry window next --plan web        when VMs of web may be taken down

Exit codes: 0 done, 1 error, 64 wrong usage")]
pub(super) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Lists openings, those that a change of the clock moves marked
    List(Options),
    /// Says whether it is open now, until when, and when it opens next
    Next(Options),
}

#[derive(Debug, clap::Args)]
struct Options {
    /// Only what bounds this plan, all its windows joined
    #[arg(long, value_name = "PLAN")]
    plan: Option<String>,
    /// How many openings of each
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=100))]
    count: u8,
    /// How to print
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
    #[command(flatten)]
    flags: Flags,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// A window, or what bounds a plan.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    name: String,
    open: bool,
    until: Option<Timestamp>,
    opens: Option<Timestamp>,
    closed_by: Option<String>,
    zone: String,
    openings: Vec<Span>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Span {
    start: Timestamp,
    end: Option<Timestamp>,
    clock_change: Option<String>,
}

/// Runs the command.
pub(super) fn run(global: &Global, arguments: Arguments) -> anyhow::Result<Exit> {
    let (options, all) = match arguments.what {
        What::List(options) => (options, true),
        What::Next(options) => (options, false),
    };
    let Options { plan, count, output, flags } = options;
    let settings = Settings::resolve(global, &flags)?;
    let repo = settings.open_repo()?;
    let head = watched(&repo)?;
    let mut reader = Reader::new(config(&settings).manifests);
    let wanted = reader.read(&repo, &head, &progress(&settings)?)?.0.wanted;
    let now = crate::adapter::clock::SystemClock::start().now();
    let count = if all { usize::from(count) } else { 1 };
    let rows = rows(&wanted, plan.as_deref(), now, count)?;
    answer(&match output {
        Output::Json => {
            let all = serde_json::json!({ "windows": rows, "closed": wanted.closed });
            serde_json::to_string_pretty(&all).context("cannot print the windows")? + "\n"
        }
        Output::Text => text(&rows, &wanted.closed, all),
    });
    Ok(Exit::Done)
}

fn rows(
    wanted: &Wanted,
    plan: Option<&str>,
    now: Timestamp,
    count: usize,
) -> anyhow::Result<Vec<Row>> {
    let Some(plan) = plan else {
        let of = |window: &crate::domain::window::Window| {
            row(&window.name, &Calendar::new(vec![window.clone()], None), now, count)
        };
        return Ok(wanted.windows.values().map(of).collect());
    };
    let Some(found) = wanted.plans.get(&PlanName::new(plan)) else {
        let names: Vec<_> = wanted.plans.keys().map(PlanName::as_str).collect();
        bail!("there is no Plan `{plan}`{}", did_you_mean(plan, &names));
    };
    Ok(vec![row(plan, &found.calendar, now, count)])
}

fn row(name: &str, calendar: &Calendar, now: Timestamp, count: usize) -> Row {
    let mut rules =
        calendar.windows().iter().flat_map(|window| window.allow.iter().chain(&window.deny));
    let zone = rules.find_map(|rule| rule.zone().iana_name()).unwrap_or("UTC").to_owned();
    let openings = calendar.next(now, count).into_iter().map(|Opening { start, end, shift }| {
        Span { start, end, clock_change: shift.map(|shift| shift.to_string()) }
    });
    let (open, until, opens, closed_by) = match calendar.at(now) {
        Gate::Open { until } => (true, until, None, None),
        Gate::Closed { opens, by } => (false, None, opens, Some(by)),
    };
    let openings = openings.collect();
    Row { name: name.to_owned(), open, until, opens, closed_by, zone, openings }
}

fn text(rows: &[Row], closed: &[String], all: bool) -> String {
    let mut out = String::new();
    for why in closed {
        let _ = writeln!(out, "all closed: {}", visible(why));
    }
    if rows.is_empty() {
        out.push_str("there are no windows: a plan without one is not bounded\n");
    }
    for row in rows {
        let name = visible(&row.name);
        let state = match (&row.until, &row.opens, &row.closed_by) {
            (Some(until), _, _) => format!("open until {}", shown(*until, &row.zone)),
            (None, Some(opens), _) => format!("closed, opens {}", shown(*opens, &row.zone)),
            (None, None, Some(by)) if *by != row.name => format!("closed: {}", visible(by)),
            (None, None, Some(_)) => "closed, and no opening is in sight".to_owned(),
            (None, None, None) => "open, and no end is in sight".to_owned(),
        };
        let _ = writeln!(out, "{name}: {state}");
        if all && !row.openings.is_empty() {
            out.push_str(&table(row));
        }
    }
    out
}

fn table(row: &Row) -> String {
    let mut table = bare(width());
    table.set_header(["", "opens", "closes", "UTC", "for", ""]);
    for Span { start, end, clock_change } in &row.openings {
        let end_shown = end.map_or_else(String::new, |end| local(end, &row.zone));
        let lasts = end.map_or_else(String::new, |end| lasting(end.duration_since(*start)));
        table.add_row([
            "",
            &local(*start, &row.zone),
            &end_shown,
            &start.strftime("%F %H:%MZ").to_string(),
            &lasts,
            clock_change.as_deref().unwrap_or_default(),
        ]);
    }
    trimmed(&mut table)
}

/// Shows an instant in a zone and in UTC.
fn shown(at: Timestamp, zone: &str) -> String {
    format!("{} ({})", local(at, zone), at.strftime("%H:%MZ"))
}

fn local(at: Timestamp, zone: &str) -> String {
    let found = jiff::tz::TimeZoneDatabase::bundled().get(zone).unwrap_or(TimeZone::UTC);
    at.to_zoned(found).strftime("%a %F %H:%M %Z").to_string()
}
