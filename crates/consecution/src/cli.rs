//! The command line: what is asked for, and which module does it. Only here,
//! and below, is anything printed.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

mod chain_file;
mod check;
mod images;
mod log;
mod progress;
mod run;
mod serve;
mod stdio;

/// Unix pipelines whose every stage is a container.
///
/// Every option can also be given by an environment variable.
#[derive(Debug, Parser)]
#[command(
    version,
    max_term_width = 100,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Args)]
pub(crate) struct Global {
    /// The folder with images and state [default: /var/lib/consecution as root,
    /// else ~/.local/share/consecution].
    #[arg(long, global = true, env = "CONSECUTION_HOME", value_name = "FOLDER")]
    home: Option<PathBuf>,
    /// Registries besides those on this machine that may be asked without
    /// encryption.
    #[arg(
        long,
        global = true,
        env = "CONSECUTION_PLAIN_HTTP",
        value_name = "HOST[:PORT]",
        value_delimiter = ','
    )]
    plain_http: Vec<String>,
    /// Where to ask first for images of a registry. May be given several times.
    #[arg(
        long,
        global = true,
        env = "CONSECUTION_MIRROR",
        value_name = "REGISTRY=URL",
        value_delimiter = ','
    )]
    mirror: Vec<String>,
    /// How log lines look.
    #[arg(
        long,
        global = true,
        env = "CONSECUTION_LOG_FORMAT",
        value_name = "FORMAT",
        default_value = "text"
    )]
    log_format: log::Format,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs one chain, here: standard input in, standard output out.
    ///
    /// The exit status is 0 if every link succeeded, else that of the first link
    /// that failed (128 and the signal's number, if a signal ended it), 124 if
    /// the deadline passed, 125 if Consecution itself failed.
    Run {
        /// The chain file.
        #[arg(env = "CONSECUTION_CHAIN")]
        chain: PathBuf,
    },
    /// Serves chains over HTTP, from one process that needs no other.
    ///
    /// `POST /` runs the first chain, `POST /chains/NAME` any of them. SIGTERM
    /// or SIGINT finishes what is in flight, a second one leaves at once.
    Serve(serve::Arguments),
    /// Validates chain files, and prints what each link runs.
    Check {
        /// The chain files.
        #[arg(required = true, env = "CONSECUTION_CHAINS")]
        chains: Vec<PathBuf>,
    },
    /// Fetches, lists and removes images.
    #[command(subcommand)]
    Image(images::Command),
}

pub(crate) fn execute(arguments: Arguments) -> ExitCode {
    let log_level = match arguments.command {
        Command::Serve(_) => tracing::Level::INFO,
        _ => tracing::Level::WARN,
    };
    log::start(log_level, arguments.global.log_format);
    match arguments.command {
        Command::Serve(serve) => serve::serve(&arguments.global, serve),
        Command::Run { chain } => run::run(&arguments.global, &chain),
        Command::Check { chains } => check::check(&chains),
        Command::Image(command) => images::execute(&arguments.global, command),
    }
}

/// Consecution itself failed, and not what it was asked to run: as `timeout`,
/// `env` and `docker run` have it.
const EXIT_OWN_FAILURE: u8 = 125;

/// Prints an error as all of them are printed.
fn complain(error: impl std::fmt::Display) {
    use std::io::Write;
    // Whoever has closed standard error does not want to know.
    let _ = writeln!(std::io::stderr(), "consecution: {error}");
}

/// Prints an error with what caused it; one that was rendered for the terminal
/// already, as it is.
fn report(error: &anyhow::Error) {
    match error.downcast_ref::<chain_file::Invalid>() {
        Some(invalid) => eprint_whole(&invalid.to_string()),
        None => complain(format_args!("{error:#}")),
    }
}

fn eprint_whole(text: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "{}", text.trim_end());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
    }
}
