//! `ferry diff`: what `run` would do.

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::cli::machine::{Machine, config, progress, watched};
use crate::cli::settings::{Flags, Settings};
use crate::cli::{Exit, Global, answer, inventory, width};
use crate::collect::collect;
use crate::collect::recorded::Recorded;
use crate::controller::chain::{Assessment, Chain};
use crate::controller::read::{Reader, Reading};
use crate::controller::sites;
use crate::desired::Wanted;
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
  ferry diff --repo . main..add-web --inventory inventory.json    in a pipeline, offline

Exit codes:
  0   nothing is left to do
  1   an error
  2   something is left to do, now or at its time
  3   something is blocked by a finding
  64  wrong usage")]
pub(super) struct Arguments {
    /// `BASE..HEAD`, or `BASE` for BASE and the watched branch; without it the journal and the watched branch.
    range: Option<String>,
    /// What sources and targets hold, as `ferry inventory export` wrote it: nothing is looked at, and the time is that of the
    /// record.
    #[arg(long, value_name = "FILE")]
    inventory: Option<PathBuf>,
    /// How much Markdown is printed at most, in characters; what does not fit is counted.
    #[arg(long, value_name = "N", default_value_t = MARKDOWN_MAX, value_parser = at_least_1000)]
    max_chars: usize,
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
    let Arguments { range, inventory, max_chars, flags, output, fail_on } = arguments;
    let settings = Settings::resolve(global, &flags)?;
    let recorded = inventory.as_deref().map(inventory::read).transpose()?;
    let preview = look(&settings, range.as_deref(), recorded.as_ref())?;
    answer(&match output {
        Output::Text => preview.text(width()),
        Output::Markdown => preview.markdown(max_chars),
        Output::Json => preview.json(),
    });
    Ok(match fail_on {
        FailOn::Never => Exit::Done,
        FailOn::Blocked | FailOn::Changes if preview.blocked() => Exit::Blocked,
        FailOn::Changes if preview.changes() => Exit::Changes,
        FailOn::Blocked | FailOn::Changes => Exit::Done,
    })
}

/// Makes the preview of a range, or of the watched branch; of a recorded inventory, where there is one.
pub(super) fn look(
    settings: &Settings,
    range: Option<&str>,
    recorded: Option<&Recorded>,
) -> anyhow::Result<Preview> {
    let machine = Machine::looking(settings)?;
    let progress = progress(settings)?;
    let mut reader = Reader::new(config(settings).manifests);
    let (base, head) = match range.map(|range| range.split_once("..").unwrap_or((range, ""))) {
        Some((base, head)) => (Some(base), head),
        None => (None, ""),
    };
    let mut read = |revision: &str| -> anyhow::Result<Reading> {
        let commit = match revision {
            "" => watched(&machine.repo)?,
            revision => machine.repo.resolve(revision)?,
        };
        Ok(reader.read(&machine.repo, &commit, &progress)?.0)
    };
    // Offline the base is what is trusted: a pipeline has no other branch.
    let trusted = match (base, recorded) {
        (Some(base), Some(_)) => read(base)?,
        _ => read("")?,
    };
    let looked = |reading: &Reading| sites(Some(&reading.wanted), &progress);
    let (observed, now) = match recorded {
        Some(recorded) => (recorded.observed(&looked(&trusted)), recorded.taken),
        None => {
            let now = machine.clock.now();
            (collect(&machine.world(), &looked(&trusted), false), now)
        }
    };
    let mut judge = recorded.map(|recorded| Chain::recalling(&recorded.said)).unwrap_or_default();
    let mut show = |reading: &Reading| {
        let mut observed = observed.clone();
        untrusted(&trusted, reading, &mut observed, now);
        chain(&mut judge, settings, reading, &observed, &progress, now)
    };
    let Some(base) = base else { return Ok(show(&trusted)) };
    let (base, head) = (read(base)?, read(head)?);
    let before = show(&base);
    let mut preview = show(&head).since(&before);
    preview.after_merge = changed_trust(&base, &head);
    Ok(preview)
}

/// Lists what a commit changes of what is trusted: it counts once it is merged, and nothing is looked at on its word before.
fn changed_trust(base: &Reading, head: &Reading) -> Vec<String> {
    let (base, head) = (&base.wanted, &head.wanted);
    let mut changed = Vec::new();
    let mut differs =
        |kind: &str, name: String, before: bool, after: bool, same: bool| match (before, after) {
            (true, true) if same => {}
            (true, true) => changed.push(format!("{kind} `{name}` changes")),
            (false, _) => changed.push(format!("{kind} `{name}` is new")),
            (_, false) => changed.push(format!("{kind} `{name}` goes")),
        };
    let names: BTreeSet<_> = base.providers.keys().chain(head.providers.keys()).collect();
    for name in names {
        let (one, other) = (base.providers.get(name), head.providers.get(name));
        differs("Provider", name.to_string(), one.is_some(), other.is_some(), one == other);
    }
    let names: BTreeSet<_> = base.windows.keys().chain(head.windows.keys()).collect();
    for name in names {
        let (one, other) = (base.windows.get(name), head.windows.get(name));
        differs("CutoverWindow", name.clone(), one.is_some(), other.is_some(), one == other);
    }
    // Where they stand in a file does not matter.
    let said = |wanted: &Wanted| {
        let weights = wanted.weights.iter().map(|w| format!("{} {}", w.concern, w.severity));
        let waivers = wanted.waivers.iter();
        let waivers = waivers.map(|w| format!("{} {} {} {}", w.concern, w.vm, w.expires, w.reason));
        weights.chain(waivers).collect::<BTreeSet<String>>()
    };
    if said(base) != said(head) {
        changed.push("Policy: what concerns weigh, or who answers for them, changes".to_owned());
    }
    changed
}

fn at_least_1000(text: &str) -> Result<usize, String> {
    let count = text.parse().map_err(|_| "expected a number".to_owned())?;
    if count < 1000 {
        Err("a comment of less than 1000 characters says nothing".to_owned())
    } else {
        Ok(count)
    }
}

/// Runs the pure chain once.
fn chain(
    judge: &mut Chain,
    settings: &Settings,
    reading: &Reading,
    observed: &Observed,
    progress: &Progress,
    now: jiff::Timestamp,
) -> Preview {
    let busy = BTreeSet::new();
    let limits = config(settings).limits;
    let (decision, verdicts) = judge.assess(&Assessment {
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
        stands: &decision.stands,
        held: None,
        cutover: limits.cutover,
        now,
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
