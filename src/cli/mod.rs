//! The command line: arguments, settings, exit codes; one file per command.

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

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

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Changes => 2,
            Exit::Blocked => 3,
            Exit::Usage => 64,
            Exit::Interrupted => 130,
        })
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
#[derive(Debug, clap::Args)]
pub struct Global {
    /// The settings file; else `/etc/ferry/ferry.yaml`, else the XDG config folder.
    #[arg(long, global = true, env = "FERRY_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {}

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
    let _ = global;
    match command {}
}

/// Prints the answer. A reader that went away (`| head`) is no error.
pub fn answer(text: &str) {
    let mut out = anstream::stdout().lock();
    let _ = out.write_all(text.as_bytes());
    let _ = out.flush();
}

/// Says something about the work to whoever watches.
pub fn tell(text: &str) {
    let _ = writeln!(anstream::stderr(), "{text}");
}

/// Tells whether a person watches stderr: progress bars, else plain lines.
pub fn watched() -> bool {
    std::io::stderr().is_terminal()
}
