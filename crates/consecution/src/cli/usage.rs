//! What is wrong with a command line, as it was typed.

use clap::builder::Resettable;
use clap::{Command, CommandFactory};

/// The same error without what came from the environment and could be left out: a
/// usage has all that is there already, as if it had to be typed.
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
