//! `ferry hold`: the emergency brake.

use crate::adapter::store::hold::HoldFile;
use crate::cli::settings::{Flags, Settings};
use crate::cli::{Exit, Global, answer, explained};
use crate::domain::text::visible;

/// Stops everything that moves forward, or lets it go on; shows the state without an argument
///
/// A VM past its power-off is finished or rolled back. Works beside a running `ferry run`, needs neither git nor the lock.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  ferry hold on --reason 'power works in hall 2'\n\nExit codes: 0 done, 1 error, 64 wrong usage"
)]
pub(super) struct Arguments {
    /// What to do; nothing shows the state
    #[arg(value_enum)]
    switch: Option<Switch>,
    /// Why, for whoever asks
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    #[command(flatten)]
    flags: Flags,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Switch {
    /// Stop.
    On,
    /// Go on.
    Off,
}

/// Runs the command.
pub(super) fn run(global: &Global, arguments: Arguments) -> anyhow::Result<Exit> {
    let Arguments { switch, reason, flags } = arguments;
    let settings = Settings::resolve(global, &flags)?;
    let brake = HoldFile::new(&settings.state_dir);
    match switch {
        Some(Switch::On) => brake.engage(&reason).map_err(explained)?,
        Some(Switch::Off) => {
            brake.release().map_err(explained)?;
        }
        None => {}
    }
    let place = settings.state_dir.display();
    let state = match brake.held_by().map_err(explained)? {
        None => format!("off: {place} moves forward\n"),
        Some(reason) if reason.is_empty() => format!("on: nothing new begins in {place}\n"),
        Some(reason) => {
            let reason = visible(&reason);
            format!("on: nothing new begins in {place} ({reason})\n")
        }
    };
    answer(&state);
    Ok(Exit::Done)
}
