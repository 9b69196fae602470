//! The binary: hands the arguments to [`ferry::cli`] and its answer to the operating system.

use std::process::ExitCode;

fn main() -> ExitCode {
    ferry::cli::main(std::env::args_os()).into()
}
