//! `ferry diff`: what `run` would do.

use std::collections::BTreeSet;

use crate::cli::machine::{Machine, config, progress};
use crate::cli::settings::{Flags, Settings};
use crate::cli::{Exit, Global, answer, width};
use crate::collect::collect;
use crate::controller::chain::{Assessment, Chain};
use crate::controller::read::{Reader, Reading};
use crate::controller::sites;
use crate::domain::id::CommitId;
use crate::journal::progress::Progress;
use crate::observed::{Gap, Observed, Seen};
use crate::port::{Clock, PlanRepo};
use crate::preview::{Input, Preview, preview};

/// How much Markdown is printed: what a comment of the smallest limit in wide use holds, with room for a heading.
const MARKDOWN_MAX: usize = 60_000;

/// Shows what `run` would do, and does nothing.
///
/// Without a range it compares the watched branch with the journal. With `BASE..HEAD` it shows what changes when HEAD is
/// merged: HEAD is read as data, and what it changes about providers counts only after the merge.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ferry diff --config prod/ferry.yaml
  ferry diff --config prod/ferry.yaml main..add-web --output markdown

Exit codes:
  0   nothing is left to do
  1   an error
  2   something is left to do, now or at its time
  3   something is blocked by a finding
  64  wrong usage")]
pub(super) struct Arguments {
    /// `BASE..HEAD`, or `BASE` for BASE and the watched branch; without it the journal and the watched branch.
    range: Option<String>,
    #[command(flatten)]
    flags: Flags,
    /// How it is printed.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
    /// What is answered with an exit code other than 0.
    #[arg(long, value_enum, default_value_t)]
    fail_on: FailOn,
}

#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
enum Output {
    /// For a terminal.
    #[default]
    Text,
    /// For a comment.
    Markdown,
    /// For programs.
    Json,
}

#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
enum FailOn {
    /// Exit 2 where something is left to do, 3 where something is blocked.
    #[default]
    Changes,
    /// Exit 3 where something is blocked, else 0.
    Blocked,
    /// Exit 0.
    Never,
}

/// Prints the preview.
pub(super) fn run(arguments: Arguments, global: &Global) -> anyhow::Result<Exit> {
    let Arguments { range, flags, output, fail_on } = arguments;
    let settings = Settings::resolve(global, &flags)?;
    let preview = look(&settings, range.as_deref())?;
    answer(&match output {
        Output::Text => preview.text(width()),
        Output::Markdown => preview.markdown(MARKDOWN_MAX),
        Output::Json => preview.json(),
    });
    Ok(match fail_on {
        FailOn::Never => Exit::Done,
        FailOn::Blocked | FailOn::Changes if preview.blocked() => Exit::Blocked,
        FailOn::Changes if preview.changes() => Exit::Changes,
        FailOn::Blocked | FailOn::Changes => Exit::Done,
    })
}

/// Makes the preview of a range, or of the watched branch.
pub(super) fn look(settings: &Settings, range: Option<&str>) -> anyhow::Result<Preview> {
    let machine = Machine::looking(settings)?;
    let progress = progress(settings)?;
    let mut reader = Reader::new(config(settings).manifests);
    let watched = match machine.repo.head()? {
        Some(head) => reader.read(&machine.repo, &head, &progress)?.0,
        None => anyhow::bail!(
            "the branch {} does not exist … hint: push a first commit to it, or name another one with `--branch`",
            settings.branch
        ),
    };
    let mut observed = collect(&machine.world(), &sites(Some(&watched.wanted), &progress), false);
    let mut show = |reading: &Reading| {
        untrusted(&watched, reading, &mut observed, machine.clock.now());
        chain(settings, reading, &observed, &progress, machine.clock.now())
    };
    let Some(range) = range else { return Ok(show(&watched)) };
    let (base, head) = range.split_once("..").unwrap_or((range, ""));
    let mut read = |revision: &str| -> anyhow::Result<Reading> {
        let commit = if revision.is_empty() {
            watched.commit.clone()
        } else {
            machine.repo.resolve(revision)?
        };
        Ok(reader.read(&machine.repo, &commit, &progress)?.0)
    };
    let (base, head) = (read(base)?, read(head)?);
    let before = show(&base);
    Ok(show(&head).since(&before))
}

/// Runs the pure chain once.
fn chain(
    settings: &Settings,
    reading: &Reading,
    observed: &Observed,
    progress: &Progress,
    now: jiff::Timestamp,
) -> Preview {
    let busy = BTreeSet::new();
    let limits = config(settings).limits;
    let (decision, verdicts) = Chain::default().assess(&Assessment {
        reading: Some(reading),
        observed,
        progress,
        busy: &busy,
        limits,
        now,
    });
    preview(&Input {
        instance: &settings.instance,
        commit: &reading.commit,
        wanted: &reading.wanted,
        verdicts: &verdicts,
        progress,
        decision: &decision,
        held: None,
    })
}

/// What another commit says about providers counts after the merge: nothing is looked at on its word.
fn untrusted(watched: &Reading, other: &Reading, observed: &mut Observed, now: jiff::Timestamp) {
    for (name, site) in &other.wanted.providers {
        if watched.wanted.providers.get(name) == Some(site) {
            continue;
        }
        let reason = format!(
            "{name} is looked at after the merge: {} changes or adds it",
            short(&other.commit)
        );
        let gap = Gap { reason, remedy: "review the provider, then merge".to_owned() };
        if site.holds_sources() {
            observed.sources.insert(name.clone(), Seen { at: now, state: Err(gap) });
        } else {
            observed.targets.insert(name.clone(), Seen { at: now, state: Err(gap) });
        }
    }
}

fn short(commit: &CommitId) -> &str {
    commit.as_str().get(..10).unwrap_or(commit.as_str())
}
