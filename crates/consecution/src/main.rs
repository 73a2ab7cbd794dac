//! The `consecution` command.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    // Before anything that could start a thread: this program is also its own
    // zygote.
    consecution::run_zygote_if_asked();
    consecution::command_line()
}
