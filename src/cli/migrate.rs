//! `ferry migrate`: adds the `Migration` that runs a plan.

use crate::cli::worktree::{EditFlags, Plans};
use crate::cli::{Exit, Global};
use crate::manifest::edit::{next_migration_name, number_of, with_migration};

/// Adds a Migration for a plan to the work tree and prints the diff
///
/// It stands beside the plan's last Migration, else beside the plan, and runs once it is on the watched branch.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  ferry migrate web --repo ~/vms --commit\n  ferry migrate web --push        commit it, and push that commit\n\nExit codes: 0 written, 1 error, 64 wrong usage"
)]
pub(super) struct Arguments {
    /// The plan
    #[arg(value_name = "PLAN")]
    plan: String,
    #[command(flatten)]
    edit: EditFlags,
}

/// Runs the command.
pub(super) fn run(global: &Global, arguments: Arguments) -> anyhow::Result<Exit> {
    let Arguments { plan, edit } = arguments;
    let plans = Plans::open(global, &edit)?;
    let (plan_file, _) = plans.plan(&plan)?;
    let names = plans.documents().filter(|(_, document)| document.kind == "Migration");
    let name = next_migration_name(&plan, names.map(|(_, document)| document.name.as_str()));
    let migrations = plans.migrations(&plan);
    let last = migrations.iter().max_by_key(|(_, found)| number_of(&plan, &found.name));
    let file = last.map_or(plan_file, |(file, _)| file);
    let text = with_migration(&file.text, &name, &plan)?;
    plans.write(&edit, file, &text, &format!("migrate {plan} ({name})"))?;
    Ok(Exit::Done)
}
