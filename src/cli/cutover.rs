//! `ferry cutover`: writes when a plan's VMs are cut over into its `Migration`.

use anyhow::bail;
use jiff::Timestamp;

use crate::cli::worktree::{EditFlags, Plans, did_you_mean};
use crate::cli::{Exit, Global, tell};
use crate::manifest::edit::with_cutover;

/// Sets when the VMs of a plan, or one of them, are cut over: edits the Migration in the work tree and prints the diff
///
/// A time that has passed is never caught up with; `never` postpones until another time is written.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ferry cutover web --at 2026-11-28T22:00:00+01:00 --commit
  ferry cutover web/db-01 --at now --repo ~/vms
  ferry cutover web --at never

Exit codes: 0 written, or it says so already, 1 error, 64 wrong usage")]
pub(super) struct Arguments {
    /// The plan, or one VM of it
    #[arg(value_name = "PLAN[/VM]")]
    what: String,
    /// A time with its offset, `now` or `never`
    #[arg(long, value_name = "TIME", default_value = "now", value_parser = time)]
    at: String,
    /// The Migration; the plan's last one where left out
    #[arg(long, value_name = "NAME")]
    migration: Option<String>,
    #[command(flatten)]
    edit: EditFlags,
}

/// Runs the command.
pub(super) fn run(global: &Global, arguments: Arguments) -> anyhow::Result<Exit> {
    let Arguments { what, at, migration, edit } = arguments;
    let (plan, vm) = match what.split_once('/') {
        Some((plan, vm)) => (plan, Some(vm)),
        None => (what.as_str(), None),
    };
    let plans = Plans::open(global, &edit)?;
    let (_, outline) = plans.plan(plan)?;
    if let Some(vm) = vm
        && !outline.vms.iter().any(|known| known == vm)
    {
        let names: Vec<_> = outline.vms.iter().map(String::as_str).collect();
        bail!("the plan `{plan}` has no VM `{vm}`{}", did_you_mean(vm, &names));
    }
    let (file, name) = plans.migration(plan, migration.as_deref())?;
    let text = with_cutover(&file.text, name, vm, &at)?;
    if text == file.text {
        tell(&format!("`{name}` says that already"));
        return Ok(Exit::Done);
    }
    plans.write(&edit, file, &text, &format!("cut over {what} at {at} ({name})"))?;
    Ok(Exit::Done)
}

/// Reads a time as manifests have it: to the second, with an offset.
fn time(text: &str) -> Result<String, String> {
    if matches!(text, "now" | "never") {
        return Ok(text.to_owned());
    }
    let expected =
        "expected `now`, `never`, or a time with its offset such as `2026-11-28T22:00:00+01:00`";
    if text.parse::<Timestamp>().is_err() || !text.is_ascii() {
        return Err(expected.to_owned());
    }
    // What the library reads and a manifest does not have: a blank for the `T`, no seconds, fractions.
    let shape = text.as_bytes();
    let plain = shape.get(10) == Some(&b'T') && matches!(shape.get(19), Some(b'Z' | b'+' | b'-'));
    if plain && matches!(shape.len(), 20 | 25) {
        Ok(text.to_owned())
    } else {
        Err(expected.to_owned())
    }
}
