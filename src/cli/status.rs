//! `ferry status`: where every VM stands.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::mpsc::channel;
use std::time::Duration;

use owo_colors::OwoColorize as _;

use crate::cli::machine::{Machine, config, progress, watched};
use crate::cli::settings::{Flags, Settings};
use crate::cli::{Exit, Global, answer, explained, signals, width};
use crate::collect::collect;
use crate::controller::accept::{Acceptance, Followed};
use crate::controller::chain::{Assessment, Chain};
use crate::controller::read::{Reader, Reading};
use crate::controller::sites;
use crate::domain::id::{PlanName, VmName};
use crate::journal::progress::Progress;
use crate::port::{Clock, PlanRepo};
use crate::preview::Input;
use crate::status::document::Word;
use crate::status::{Overview, Why};

/// How often `--watch` looks again.
const WATCH_EVERY: Duration = Duration::from_secs(2);

/// Goes to the upper left corner of a terminal. What stays the same is written over itself, so that nothing flickers.
const HOME: &str = "\x1b[H";

/// Ends a line, and clears what was longer there.
const LINE_END: &str = "\x1b[K\n";

/// Clears everything below.
const BELOW: &str = "\x1b[J";

/// Shows plans, VMs, their steps, their disks and what each waits for.
///
/// It reads the journal beside a running `ferry run`, and looks at the repository, the sources and the targets itself, without
/// writing anything. With `--repo` it prints the report that a controller committed to that repository.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ferry status --config prod/ferry.yaml
  ferry status --config prod/ferry.yaml shop/web01 --why
  ferry status --repo /srv/git/vms.git --instance prod

Exit codes:
  0   done
  1   an error, or nothing of that name
  64  wrong usage")]
pub(super) struct Arguments {
    /// One plan, or one VM of it.
    #[arg(value_name = "PLAN[/VM]")]
    what: Option<String>,
    #[command(flatten)]
    flags: Flags,
    /// Looks again and again until it is interrupted.
    #[arg(long)]
    watch: bool,
    /// Shows steps, disks, findings and what to do as well.
    #[arg(long)]
    why: bool,
    /// How it is printed.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
enum Output {
    /// For a terminal.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// Prints the overview, once or again and again.
pub(super) fn run(arguments: Arguments, global: &Global) -> anyhow::Result<Exit> {
    let Arguments { what, flags, watch, why, output } = arguments;
    let settings = Settings::resolve(global, &flags)?;
    let why = if why { Why::Told } else { Why::Brief };
    let committed = flags.repo.is_some();
    let show = || -> anyhow::Result<(bool, String)> {
        let mut overview = if committed { committed_of(&settings)? } else { live(&settings)? };
        if let Some(what) = &what {
            let (plan, vm) =
                what.split_once('/').map_or((what.as_str(), None), |(plan, vm)| (plan, Some(vm)));
            overview = overview.only(&PlanName::new(plan), vm.map(VmName::new).as_ref());
        }
        let text = match output {
            Output::Text => painted(&overview.text(width(), why)),
            Output::Json => overview.json(),
        };
        Ok((overview.is_empty(), text))
    };
    if watch {
        let (stop, stopped) = channel();
        signals::watch(move || {
            let _ = stop.send(());
        })?;
        loop {
            answer(&format!("{HOME}{}{BELOW}", show()?.1.replace('\n', LINE_END)));
            if stopped.recv_timeout(WATCH_EVERY).is_ok() {
                return Ok(Exit::Done);
            }
        }
    }
    let (empty, text) = show()?;
    answer(&text);
    if let Some(what) = what.filter(|_| empty) {
        anyhow::bail!("nothing is called {what} … hint: `ferry status` without a name lists all");
    }
    Ok(Exit::Done)
}

/// Reads the report that was committed.
fn committed_of(settings: &Settings) -> anyhow::Result<Overview> {
    let repo = settings.open_repo()?;
    let files = repo.report(settings.instance.as_str())?;
    anyhow::ensure!(
        !files.is_empty(),
        "{} holds no report of `{}` … hint: name the controller with `--instance`",
        settings.status_branch,
        settings.instance
    );
    Ok(Overview::committed(&files)?)
}

/// Reads the journal, and judges and decides as `run` would now.
fn live(settings: &Settings) -> anyhow::Result<Overview> {
    let machine = Machine::looking(settings)?;
    let progress = progress(settings)?;
    let config = config(settings);
    let (reading, held) = counting(settings, &machine, &progress)?;
    let observed = collect(&machine.world(), &sites(Some(&reading.wanted), &progress), false);
    // Which actions a running `ferry run` has under way is not journaled, and would hide what a VM waits for.
    let busy = BTreeSet::new();
    let (decision, verdicts) = Chain::default().assess(&Assessment {
        reading: Some(&reading),
        observed: &observed,
        progress: &progress,
        busy: &busy,
        limits: config.limits,
        now: machine.clock.now(),
    });
    let input = Input {
        instance: &settings.instance,
        commit: &reading.commit,
        wanted: &reading.wanted,
        verdicts: &verdicts,
        progress: &progress,
        stands: &decision.stands,
        held: held.as_deref(),
        cutover: config.limits.cutover,
        now: machine.clock.now(),
    };
    Ok(Overview::live(&input, machine.clock.now()))
}

/// Reads the commit that counts, or would with the next pass; says why a newer one does not.
fn counting(
    settings: &Settings,
    machine: &Machine,
    progress: &Progress,
) -> anyhow::Result<(Reading, Option<String>)> {
    let mut reader = Reader::new(config(settings).manifests);
    let repo = &machine.repo;
    let found = reader.follow(repo, progress, None, &settings.instance).map_err(explained)?;
    let held = match found {
        Acceptance::Follow(Followed { reading, facts: _ }) => return Ok((reading, None)),
        Acceptance::Hold { instead: Some(followed), reason } => {
            return Ok((followed.reading, Some(reason)));
        }
        Acceptance::Hold { instead: None, reason } => Some(reason),
        Acceptance::Same => None,
    };
    let head = watched(repo)?;
    Ok((reader.read(repo, &head, progress)?.0, held))
}

/// Colours the words at the beginnings of rows. What is no terminal gets none: [`answer`] takes them away.
fn painted(text: &str) -> String {
    let mut painted = String::with_capacity(text.len() + 256);
    for line in text.lines() {
        let words = Word::ALL.map(|word| (word, format!("{} {}", word.symbol(), word.as_str())));
        match words.iter().find_map(|(word, begin)| Some((word, begin, line.strip_prefix(begin)?)))
        {
            Some((word, begin, rest)) => {
                let style = style(*word);
                let _ = writeln!(painted, "{}{rest}", begin.style(style));
            }
            None => {
                let _ = writeln!(painted, "{line}");
            }
        }
    }
    painted
}

fn style(word: Word) -> owo_colors::Style {
    let style = owo_colors::Style::new();
    match word {
        Word::Completed => style.green(),
        Word::Running => style.cyan(),
        Word::Ready => style,
        Word::NotReady => style.yellow(),
        Word::Failed => style.red().bold(),
        Word::Canceled | Word::Archived => style.dimmed(),
    }
}
