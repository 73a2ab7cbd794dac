//! Usage errors that show only what was typed, not what came from the environment.

use clap::builder::Resettable;
use clap::{Command, CommandFactory};

/// Parses the command line again without the environment and returns that error, if it
/// is of the same kind. Otherwise clap's usage line would list every option that an
/// environment variable sets, as if it had to be typed. Required arguments may still
/// come from the environment.
pub(crate) fn as_typed(error: clap::Error) -> clap::Error {
    let command = without_environment(super::Arguments::command());
    match command.try_get_matches() {
        Err(typed) if typed.kind() == error.kind() => typed,
        _ => error,
    }
}

fn without_environment(command: Command) -> Command {
    let command = command.mut_args(|argument| match argument.is_required_set() {
        true => argument,
        false => argument.env(Resettable::Reset),
    });
    command.mut_subcommands(without_environment)
}
