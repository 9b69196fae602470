//! `ferry run`: the reconciler.

use tokio::sync::mpsc::unbounded_channel;

use crate::adapter::store::StateDir;
use crate::cli::live::Live;
use crate::cli::machine::{Machine, config};
use crate::cli::settings::{Flags, Settings};
use crate::cli::{Exit, Global, explained, signals, tell, watched};
use crate::controller::run::{Event, Until, run as serve};
use crate::controller::{Controller, Pass};
use crate::decide::{Rest, Standing, Wait};
use crate::manifest::diagnostic::Finding;

/// Watches the repository and migrates what its plans ask for.
///
/// Reads the watched branch, looks at sources and targets, validates every VM, copies disks in worker processes, makes the
/// VMs and commits a report to the status branch. It may be killed at any moment: the next run goes on from its journal.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ferry run --config prod/ferry.yaml          watches until it is told to stop
  ferry run --config prod/ferry.yaml --once   works until nothing is left to do now

Exit codes:
  0    --once: nothing is left to do · stopped by a signal that was waited for
  1    an error · --once: a VM failed or stalled
  3    --once: nothing is left but what is blocked
  64   wrong usage
  130  interrupted a second time")]
pub(super) struct Arguments {
    #[command(flatten)]
    flags: Flags,
    /// Works until nothing is left to do now, and exits.
    #[arg(long)]
    once: bool,
}

/// Runs the loop.
pub(super) fn run(arguments: Arguments, global: &Global) -> anyhow::Result<Exit> {
    let Arguments { flags, once } = arguments;
    let settings = Settings::resolve(global, &flags)?;
    let until = if once { Until::Idle } else { Until::Stopped };
    let exit = reconcile(&settings, until)?;
    Ok(if once { exit } else { Exit::Done })
}

/// Runs the loop under settings, and tells how `--once` ends.
pub(super) fn reconcile(settings: &Settings, until: Until) -> anyhow::Result<Exit> {
    let (sender, receiver) = unbounded_channel();
    let heard = sender.clone();
    // Nobody listens any more once the loop has ended.
    let waker = move || drop(heard.send(Event::Heard));
    let machine = Machine::new(settings, Box::new(waker))?;
    let world = machine.world();
    let state = StateDir::open(&settings.state_dir, &settings.instance, world.clock.now());
    let state = state.map_err(explained)?;
    let mut journal = state.journal().map_err(explained)?;
    state.reserve().map_err(explained)?;
    let look = sender.clone();
    let watch = match until {
        Until::Stopped => {
            let changed = sender.clone();
            machine.watch_sources(move || drop(changed.send(Event::Look)));
            let watch = machine.repo.watch(move || drop(look.send(Event::Look)));
            Some(watch.map_err(|error| anyhow::anyhow!("cannot watch the repository: {error}"))?)
        }
        Until::Idle => None,
    };
    let stop = sender.clone();
    signals::watch(move || drop(stop.send(Event::Stop)))?;
    let config = config(settings);
    let bounds = config.copy.clone();
    let mut controller = Controller::new(world, &mut journal, config)?;
    let mut live = Live::new(watched());
    let pass = serve(&mut controller, &world, &bounds, (sender, receiver), until, &mut live)?;
    drop(watch);
    if until == Until::Idle {
        tell(&live.summary(&pass, controller.now()));
    }
    // What cannot be read was told when it was found.
    if let Some(error) = pass.report_error.as_ref().filter(|_| pass.unread.is_none()) {
        tell(&format!("error: {error}"));
    }
    // A broken manifest may name VMs that nobody sees: that they did not move is no success.
    let broken = controller.wanted().is_some_and(|all| all.findings.iter().any(Finding::blocks));
    Ok(exit(&pass, broken))
}

fn exit(pass: &Pass, broken: bool) -> Exit {
    if pass.unread.is_some() || pass.report_error.is_some() {
        return Exit::Failed;
    }
    let mut exit = if pass.held.is_some() || broken { Exit::Blocked } else { Exit::Done };
    for stand in &pass.stands {
        match &stand.state {
            Standing::Waiting(Wait::Stalled(_)) | Standing::Resting(Rest::Failed(_)) => {
                return Exit::Failed;
            }
            // Its time is known: nothing is left to do now.
            Standing::Waiting(
                Wait::Cutover { .. } | Wait::Postponed | Wait::Window { opens: Some(_), .. },
            ) => {}
            Standing::Waiting(_) => exit = Exit::Blocked,
            Standing::Acting(_) | Standing::Resting(_) => {}
        }
    }
    exit
}
