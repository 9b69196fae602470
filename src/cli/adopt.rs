//! `ferry adopt`: a person accepts a commit that is held, or takes over a repository with an empty journal.

use std::io::{BufRead, IsTerminal};

use anyhow::bail;

use crate::adapter::clock::SystemClock;
use crate::adapter::store::StateDir;
use crate::cli::machine::watched;
use crate::cli::settings::{Flags, Settings};
use crate::cli::{Exit, Global, answer, explained, tell};
use crate::journal::record::{Entry, RepoFact};
use crate::port::{Ancestry, Clock, JournalStore, PlanRepo};

/// Accepts a commit that is held, or takes over a repository with an empty journal
///
/// The controller holds when the branch was rewound, many Migrations vanished at once, or reports of this instance exist
/// that its journal knows nothing of. No `ferry run` may hold the state folder meanwhile.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  ferry adopt --repo /srv/vms.git --yes\n\nExit codes: 0 adopted, 1 error or not confirmed, 64 wrong usage"
)]
pub(super) struct Arguments {
    /// The commit; the watched branch's where left out
    #[arg(value_name = "COMMIT")]
    commit: Option<String>,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    flags: Flags,
}

/// Runs the command.
pub(super) fn run(global: &Global, arguments: Arguments) -> anyhow::Result<Exit> {
    let Arguments { commit, yes, flags } = arguments;
    let settings = Settings::resolve(global, &flags)?;
    let repo = settings.open_repo()?;
    let head = watched(&repo)?;
    let commit = match commit {
        Some(revision) => repo.resolve(&revision).map_err(explained)?,
        None => head.clone(),
    };
    if repo.ancestry(&commit, &head).map_err(explained)? == Ancestry::Rewound {
        bail!(
            "{commit} is not on the branch `{}`, so nothing would follow from it",
            settings.branch
        );
    }
    let state = StateDir::open(&settings.state_dir, &settings.instance, SystemClock::start().now())
        .map_err(explained)?;
    let mut journal = state.journal().map_err(explained)?;
    let known = journal.read().map_err(explained)?.len();
    tell(&format!(
        "Commit {commit} of `{}` becomes what people want, for the instance `{}` with the journal in {} ({known} records).\nWhat its manifests no longer name is no longer managed; what they name may begin at the next `ferry run`.",
        settings.branch,
        settings.instance,
        settings.state_dir.display(),
    ));
    if !yes && !confirmed()? {
        bail!("not adopted");
    }
    let entry = Entry::Repo(RepoFact::Adopted { commit: commit.clone() });
    journal.append(SystemClock::start().now(), &[entry]).map_err(explained)?;
    answer(&format!("adopted {commit}\n"));
    Ok(Exit::Done)
}

pub(super) fn confirmed() -> anyhow::Result<bool> {
    if !std::io::stdin().is_terminal() {
        bail!("this must be confirmed … hint: give `--yes`");
    }
    tell("Type `yes` to go on:");
    let mut typed = String::new();
    std::io::stdin().lock().read_line(&mut typed)?;
    Ok(typed.trim() == "yes")
}
