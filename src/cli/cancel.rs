//! `ferry cancel`: names VMs in the `cancel` of the plan's `Migration`.

use anyhow::bail;

use crate::cli::worktree::{EditFlags, Plans, did_you_mean};
use crate::cli::{Exit, Global, tell};
use crate::manifest::edit::with_cancel;

/// Cancels the VMs of a plan, or one of them: edits the Migration in the work tree and prints the diff
///
/// A canceled VM is undone, unless it was started on the target already.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  ferry cancel web/db-01 --repo ~/vms --commit\n\nExit codes: 0 written or canceled already, 1 error, 64 wrong usage"
)]
pub(super) struct Arguments {
    /// The plan, or one VM of it
    #[arg(value_name = "PLAN[/VM]")]
    what: String,
    /// The Migration; the plan's last one where left out
    #[arg(long, value_name = "NAME")]
    migration: Option<String>,
    #[command(flatten)]
    edit: EditFlags,
}

/// Runs the command.
pub(super) fn run(global: &Global, arguments: Arguments) -> anyhow::Result<Exit> {
    let Arguments { what, migration, edit } = arguments;
    let (plan, vm) = match what.split_once('/') {
        Some((plan, vm)) => (plan, Some(vm)),
        None => (what.as_str(), None),
    };
    let plans = Plans::open(global, &edit)?;
    let (_, outline) = plans.plan(plan)?;
    let vms = match vm {
        None => outline.vms.clone(),
        Some(vm) if outline.vms.iter().any(|known| known == vm) => vec![vm.to_owned()],
        Some(vm) => {
            let names: Vec<_> = outline.vms.iter().map(String::as_str).collect();
            bail!("the plan `{plan}` has no VM `{vm}`{}", did_you_mean(vm, &names));
        }
    };
    let (file, name) = plans.migration(plan, migration.as_deref())?;
    let text = with_cancel(&file.text, name, &vms)?;
    if text == file.text {
        tell(&format!("`{name}` cancels that already"));
        return Ok(Exit::Done);
    }
    plans.write(&edit, file, &text, &format!("cancel {what} ({name})"))?;
    Ok(Exit::Done)
}
