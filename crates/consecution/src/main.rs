//! The `consecution` command.
#![forbid(unsafe_code)]

use std::process::ExitCode;

mod cli;

fn main() -> ExitCode {
    // Before anything that could start a thread: this program is also its own
    // zygote.
    sandbox::run_zygote_if_asked();
    cli::main()
}
