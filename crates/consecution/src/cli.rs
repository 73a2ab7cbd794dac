//! The command line: what is asked for, and which module does it. Only here,
//! and below, is anything printed.

use std::io::{IsTerminal, Write};
use std::num::NonZero;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use crate::app::Ids;
use crate::chain_file::ChainFileError;
use crate::text;
use clap::{Args, Parser, Subcommand};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

mod check;
mod filter;
mod http;
mod images;
mod link;
mod log;
mod portal;
mod progress;
mod quote;
mod reload;
mod run;
mod runner;
mod runners;
mod sandbox;
mod sandboxing;
mod send;
mod serve;
mod servers;
mod signals;
mod stdio;
mod table;
mod usage;

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
    /// How large an image may be that is pulled or imported: its layers, both
    /// compressed and unpacked. A bare number is in MiB.
    #[arg(
        long,
        global = true,
        env = "CONSECUTION_IMAGE_MAX",
        value_name = "SIZE",
        default_value = "64G",
        value_parser = chain::units::parse_memory
    )]
    image_max: u64,
    /// The first of 65536 ids of this host that processes run as, so that two
    /// runners need not share theirs. Only for root [default: 2013265920].
    #[arg(
        long,
        global = true,
        env = "CONSECUTION_FIRST_ID",
        value_name = "NUMBER"
    )]
    first_id: Option<u32>,
    /// What to log: off, error, warn, info, debug or trace, or MODULE=LEVEL, or
    /// several of them, separated by commas [default: info for serve, portal and
    /// runner, else warn].
    #[arg(long, global = true, env = "CONSECUTION_LOG", value_name = "LEVEL")]
    log: Option<log::Filter>,
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

impl Global {
    /// Which ids of this host processes have.
    fn ids(&self) -> anyhow::Result<Ids> {
        match self.first_id {
            None => Ok(Ids::detect()),
            Some(first) => Ids::shifted(first).map_err(|error| {
                anyhow::anyhow!("failed to use the ids from {first} on: the range {error}")
            }),
        }
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs one chain, here: standard input in, standard output out.
    ///
    /// The exit status is 0 if every link succeeded, else that of the first link
    /// that failed (128 and the signal's number, if a signal ended it), 124 if
    /// the deadline passed, 125 if Consecution itself failed, or a link was not
    /// run since nobody had room for it.
    Run {
        #[command(flatten)]
        call: filter::Call,
        #[command(flatten)]
        sandboxing: sandboxing::Sandbox,
    },
    /// Serves chains over HTTP, from one process that needs no other.
    ///
    /// `POST /` runs the first chain, `POST /chains/NAME` any of them. SIGTERM
    /// or SIGINT finishes what is in flight, a second one leaves at once.
    Serve(Box<serve::Arguments>),
    /// Offers chains over HTTP, whose links are run by runners elsewhere.
    ///
    /// It may start before NATS, etcd and the runners: /readyz says what it waits
    /// for. SIGTERM or SIGINT finishes what is in flight, a second one leaves at
    /// once.
    Portal(Box<portal::Arguments>),
    /// Runs links for portals elsewhere.
    ///
    /// It may start before NATS and etcd. More runners, on this machine or on
    /// others, give more capacity. SIGTERM or SIGINT finishes what is in flight,
    /// a second one leaves at once.
    Runner(Box<runner::Arguments>),
    /// Sends standard input through a chain whose links are run by runners
    /// elsewhere; standard output is the last link's.
    ///
    /// The exit status is as that of `run`.
    Send(Box<send::Arguments>),
    /// Validates chain files, and prints what each link runs, and may do.
    Check {
        /// The chain files; `-` is standard input.
        #[arg(required = true, env = "CONSECUTION_CHAINS", value_delimiter = ',')]
        chains: Vec<PathBuf>,
    },
    /// Fetches, lists and removes images.
    #[command(subcommand)]
    Image(images::Command),
    /// Tells what of the sandbox this host can enforce.
    #[command(subcommand)]
    Sandbox(sandbox::Command),
    /// Lists, shows, removes and prunes the links that portals have made known.
    #[command(subcommand)]
    Link(link::Command),
}

/// The `consecution` command, with the arguments of this process: all that its `main`
/// does but for [`run_zygote_if_asked`](crate::run_zygote_if_asked), which comes first.
/// Prints, and gives the exit status.
pub fn command_line() -> ExitCode {
    match Arguments::try_parse() {
        Ok(arguments) => execute(arguments),
        Err(error) => explain(error),
    }
}

/// Prints what was asked for with `--help` and the like, or what is wrong with the
/// command line.
fn explain(error: clap::Error) -> ExitCode {
    if error.use_stderr() {
        let error = usage::as_typed(error);
        // A closed standard error is the caller's choice; there is nowhere else to say it.
        let _ = error.print();
        return ExitCode::from(EXIT_USAGE);
    }
    let help = error.render();
    let help = match is_coloured(&std::io::stdout()) {
        true => help.ansi().to_string(),
        false => help.to_string(),
    };
    match stdio::print(help.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(&error);
            ExitCode::from(EXIT_OWN_FAILURE)
        }
    }
}

fn is_coloured(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

fn execute(arguments: Arguments) -> ExitCode {
    let Arguments { global, command } = arguments;
    let unasked = match command {
        Command::Serve(_) | Command::Portal(_) => log::Unasked::Serving,
        Command::Runner(ref runner) if runner.is_to_serve() => log::Unasked::Serving,
        _ => log::Unasked::Once,
    };
    let filter = global.log.clone().unwrap_or_default();
    log::start(unasked, &filter, global.log_format);
    raise_open_files();
    let code = match command {
        Command::Run { call, sandboxing } => run::run(&global, &call, &sandboxing),
        Command::Serve(serve) => serve::serve(&global, *serve),
        Command::Portal(portal) => portal::portal(*portal),
        Command::Runner(runner) => runner::runner(&global, *runner),
        Command::Send(send) => send::send(*send),
        Command::Check { chains } => Ok(check::check(&chains)),
        Command::Sandbox(command) => sandbox::execute(&global, &command),
        Command::Image(command) => images::execute(&global, command),
        Command::Link(command) => link::execute(command),
    };
    crate::runner::until_reaped(REAPED_WAIT_MAX);
    ExitCode::from(code.unwrap_or_else(|error| {
        report(&error);
        EXIT_OWN_FAILURE
    }))
}

/// How long to wait, before the program ends, for processes that are being ended: what
/// is left behind then the next runner removes.
const REAPED_WAIT_MAX: Duration = Duration::from_secs(5);

/// As many open files as we may have: each process takes nine, each connection
/// one, and the usual soft limit is there for programs that use `select`.
fn raise_open_files() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    // Where it is refused, less is possible at a time.
    let _ = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: maximum,
            maximum,
        },
    );
}

/// The other processors are for the commands. A call is a row of short steps:
/// threads that have too little to do spend their time waking each other for
/// them, and a call on two processors takes a tenth longer with two.
const PROCESSORS_PER_WORKER: usize = 2;

/// How long to wait for what still runs when what serves others ends: as a rule for no
/// longer than it takes to drop it, and with that to hand over what is to be reaped.
const SHUT_DOWN_WAIT_MAX: Duration = Duration::from_secs(1);

/// Runs what serves others, until it ends, and leaves what still blocks behind,
/// such as an image that is being unpacked.
fn serving<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads((processors / PROCESSORS_PER_WORKER).max(1))
        .enable_all()
        .build()?;
    let result = runtime.block_on(future);
    runtime.shutdown_timeout(SHUT_DOWN_WAIT_MAX);
    result
}

/// A number that must not be 0.
fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("it must be at least 1".to_owned()),
        Ok(number) => Ok(number),
        Err(error) => Err(format!("{error}")),
    }
}

/// The command line is wrong: nothing was run.
const EXIT_USAGE: u8 = 2;

/// Consecution itself failed, and not what it was asked to run: as `timeout`,
/// `env` and `docker run` have it.
const EXIT_OWN_FAILURE: u8 = 125;

/// Prints an error as all of them are printed.
fn complain(error: impl std::fmt::Display) {
    // A closed standard error is the caller's choice; there is nowhere else to say it.
    let error = error.to_string();
    let _ = writeln!(std::io::stderr(), "consecution: {}", text::line(&error));
}

/// Prints an error with what caused it; one that was rendered for the terminal
/// already, as it is.
fn report(error: &anyhow::Error) {
    match error.downcast_ref::<ChainFileError>() {
        Some(ChainFileError::Invalid(invalid)) => {
            let stderr = std::io::stderr();
            let coloured = is_coloured(&stderr);
            // A closed standard error is the caller's choice; there is nowhere else to say it.
            let rendered = invalid.render(coloured);
            let shown = match coloured {
                true => text::styled_lines(rendered.trim_end()),
                false => text::lines(rendered.trim_end()),
            };
            let _ = writeln!(&stderr, "{shown}");
        }
        _ => complain(format_args!("{error:#}")),
    }
}

/// Prints for whoever reads; one who has seen enough is no failure.
fn print(text: &str) -> anyhow::Result<()> {
    stdio::print(text::lines(text).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
    }

    #[test]
    fn images_may_be_as_large_by_default_as_the_library_has_it() {
        let arguments = Arguments::parse_from(["consecution", "image", "list"]);
        let by_default = image::Limits::default().image_bytes_max;
        assert_eq!(arguments.global.image_max, by_default);
    }
}
