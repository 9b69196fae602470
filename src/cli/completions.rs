//! `ferry completions`: what a shell needs to complete Ferry's commands.

use clap_complete::Shell;

use crate::cli::{Exit, answer};

/// Prints a completion script for a shell.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ferry completions bash > ~/.local/share/bash-completion/completions/ferry
  ferry completions zsh > \"${fpath[1]}/_ferry\"
  ferry completions fish > ~/.config/fish/completions/ferry.fish

Exit codes: 0 done, 64 wrong usage")]
pub(super) struct Completions {
    /// The shell.
    pub shell: Shell,
}

/// Prints the script for a command.
pub(super) fn run(args: Completions, mut command: clap::Command) -> anyhow::Result<Exit> {
    let Completions { shell } = args;
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, "ferry", &mut script);
    answer(&String::from_utf8(script)?);
    Ok(Exit::Done)
}
