//! The command line: arguments, settings, exit codes; one file per command.

mod adopt;
mod cancel;
pub mod check;
mod claim;
mod completions;
mod copy;
mod cutover;
mod demo;
mod diff;
mod doctor;
pub mod explain;
mod hold;
pub mod init;
mod inventory;
mod live;
mod log;
mod machine;
mod migrate;
mod run;
pub mod schema;
pub mod settings;
mod signals;
mod sim;
mod status;
mod verify;
mod window;
mod worker;
mod worktree;

#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

/// How a command ends. `--help` of each command lists those that it returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done, or nothing to do.
    Done,
    /// An error; `check`: a finding that blocks; `run --once`: a VM failed or stalled.
    Failed,
    /// `diff`: something is left to do.
    Changes,
    /// Blocked by a finding.
    Blocked,
    /// Wrong usage.
    Usage,
    /// Interrupted.
    Interrupted,
}

impl Exit {
    /// Returns the code that the operating system is given.
    pub const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Changes => 2,
            Self::Blocked => 3,
            Self::Usage => 64,
            Self::Interrupted => 130,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Moves virtual machines from VMware vSphere and OVA files, driven by a git repository.
#[derive(Debug, Parser)]
#[command(name = "ferry", version, propagate_version = true)]
struct Arguments {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What every command accepts.
#[derive(Debug, Default, clap::Args)]
pub struct Global {
    /// The settings file; else `/etc/ferry/ferry.yaml`, else the XDG config folder.
    #[arg(long, global = true, env = "FERRY_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// What is logged.
    #[command(flatten)]
    pub log: log::LogFlags,
}

#[derive(Debug, Subcommand)]
enum Command {
    Demo(demo::Arguments),
    Init(init::Init),
    Check(check::Check),
    Diff(diff::Arguments),
    Inventory(inventory::Arguments),
    Migrate(migrate::Arguments),
    Cutover(cutover::Arguments),
    Cancel(cancel::Arguments),
    Window(window::Arguments),
    Run(run::Arguments),
    Status(status::Arguments),
    Copy(copy::Arguments),
    Verify(verify::Arguments),
    Hold(hold::Arguments),
    Claim(claim::Arguments),
    Adopt(adopt::Arguments),
    Doctor(doctor::Arguments),
    Sim(sim::Arguments),
    Explain(explain::Explain),
    Schema(schema::Schema),
    Completions(completions::Completions),
    #[command(hide = true)]
    Worker(worker::Arguments),
}

/// Parses the arguments, runs the command and prints its error, once, with its chain of causes.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> Exit {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Done };
        }
    };
    match run(arguments) {
        Ok(exit) => exit,
        Err(error) => {
            let _ = writeln!(anstream::stderr(), "error: {error:#}");
            Exit::Failed
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<Exit> {
    let Arguments { global, command } = arguments;
    log::begin(&global.log);
    match command {
        Command::Demo(arguments) => demo::run(arguments),
        Command::Init(arguments) => init::run(arguments),
        Command::Check(arguments) => check::run(arguments, &global),
        Command::Diff(arguments) => diff::run(arguments, &global),
        Command::Inventory(arguments) => inventory::run(&global, arguments),
        Command::Migrate(arguments) => migrate::run(&global, arguments),
        Command::Cutover(arguments) => cutover::run(&global, arguments),
        Command::Cancel(arguments) => cancel::run(&global, arguments),
        Command::Window(arguments) => window::run(&global, arguments),
        Command::Run(arguments) => run::run(arguments, &global),
        Command::Status(arguments) => status::run(arguments, &global),
        Command::Copy(arguments) => copy::run(arguments),
        Command::Verify(arguments) => verify::run(arguments, &global),
        Command::Hold(arguments) => hold::run(&global, arguments),
        Command::Claim(arguments) => claim::run(&global, arguments),
        Command::Adopt(arguments) => adopt::run(&global, arguments),
        Command::Doctor(arguments) => doctor::run(&global, arguments),
        Command::Sim(arguments) => sim::run(arguments),
        Command::Explain(arguments) => explain::run(arguments),
        Command::Schema(arguments) => schema::run(arguments),
        Command::Completions(arguments) => completions::run(arguments, Arguments::command()),
        Command::Worker(arguments) => worker::run(arguments),
    }
}

/// Gives an error of a port its remedy, for a person who waits for the answer.
pub fn explained(error: crate::port::PortError) -> anyhow::Error {
    let crate::journal::record::Fault { text, remedy, disposition: _ } = error.fault;
    anyhow::anyhow!("{text} … hint: {remedy}")
}

/// Prints the answer. A reader that went away (`| head`) is no error.
pub fn answer(text: &str) {
    let mut out = anstream::stdout().lock();
    let _ = out.write_all(text.as_bytes());
    let _ = out.flush();
}

/// Says something about the work to whoever watches.
pub fn tell(text: &str) {
    log::between(format!("{text}\n").as_bytes());
}

/// Tells whether a person watches stderr: progress bars, else plain lines.
pub fn watched() -> bool {
    std::io::stderr().is_terminal()
}

/// Returns how many columns the terminal on stdout has, or what a page holds.
pub fn width() -> u16 {
    rustix::termios::tcgetwinsize(std::io::stdout()).map_or(120, |size| size.ws_col.max(40))
}
