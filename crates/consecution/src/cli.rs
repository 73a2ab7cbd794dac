//! The command line: parses the arguments and hands each command to its module.
//! Only this module and its submodules print.

use std::io::{IsTerminal, Write};
use std::num::NonZero;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use crate::app::Ids;
use crate::chain_file::ChainFileError;
use crate::error::{FailedTo, set_remedy, with_causes};
use crate::spans::Traces;
use crate::text;
use clap::{Args, Parser, Subcommand};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

mod check;
mod filter;
mod http;
mod images;
mod key;
mod link;
mod listing;
mod log;
mod portal;
mod progress;
mod protection;
mod quote;
mod reload;
mod remedies;
mod run;
mod runner;
mod runners;
mod sandbox;
mod sandboxing;
mod send;
mod serve;
mod servers;
mod signals;
mod stats;
mod stdio;
mod table;
mod top;
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
    /// Folder for images and state [default: /var/lib/consecution as root, else
    /// ~/.local/share/consecution].
    #[arg(long, global = true, env = "CONSECUTION_HOME", value_name = "FOLDER")]
    home: Option<PathBuf>,
    /// Registry to reach over plain HTTP, without TLS. Registries on this machine
    /// need no entry. Repeat the option for several.
    #[arg(
        long,
        global = true,
        env = "CONSECUTION_PLAIN_HTTP",
        value_name = "HOST[:PORT]",
        value_delimiter = ','
    )]
    plain_http: Vec<String>,
    /// Mirror to try before the registry itself. Repeat the option for several.
    #[arg(
        long,
        global = true,
        env = "CONSECUTION_MIRROR",
        value_name = "REGISTRY=URL",
        value_delimiter = ','
    )]
    mirror: Vec<String>,
    /// Largest image to pull or import. The limit holds for all of its layers together:
    /// once for their compressed size, once unpacked. A bare number is in MiB.
    #[arg(
        long,
        global = true,
        env = "CONSECUTION_IMAGE_MAX",
        value_name = "SIZE",
        default_value = "64G",
        value_parser = chain::units::parse_memory
    )]
    image_max: u64,
    /// First of the 65536 user and group ids on this host that links run as. Give
    /// each runner on a host a range of its own to keep their processes apart. Only
    /// for root [default: 2013265920].
    #[arg(
        long,
        global = true,
        env = "CONSECUTION_FIRST_ID",
        value_name = "NUMBER"
    )]
    first_id: Option<u32>,
    /// Log level: off, error, warn, info, debug or trace; or MODULE=LEVEL for one
    /// module; or several of these, separated by commas [default: info for serve,
    /// portal and runner, else warn].
    #[arg(long, global = true, env = "CONSECUTION_LOG", value_name = "LEVEL")]
    log: Option<log::Filter>,
    /// Format of log lines.
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
    /// The ids on this host that links run as.
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
    /// Runs a chain on this machine, from standard input to standard output.
    ///
    /// The exit status is 0 if every link succeeded; else the status of the first
    /// link, in chain order, that failed (128 + N if signal N ended it); 124 if a
    /// deadline passed; 125 if Consecution itself failed, or no runner had room for
    /// a link.
    Run {
        #[command(flatten)]
        call: filter::Call,
        #[command(flatten)]
        sandboxing: sandboxing::Sandbox,
    },
    /// Serves chains over HTTP and runs their links itself; needs no other server.
    ///
    /// `POST /` runs the first chain, `POST /chains/NAME` any of them. SIGTERM or
    /// SIGINT finishes requests in flight and exits; a second one exits at once.
    Serve(Box<serve::Arguments>),
    /// Serves chains over HTTP and has runners on other machines run their links.
    ///
    /// It may start before NATS, etcd and the runners: /readyz says what it waits
    /// for. SIGTERM or SIGINT finishes requests in flight and exits; a second one
    /// exits at once.
    Portal(Box<portal::Arguments>),
    /// Runs links for portals, which call it through NATS.
    ///
    /// It may start before NATS and etcd. Each further runner, on this machine or
    /// another one, adds capacity. SIGTERM or SIGINT finishes calls in flight and
    /// exits; a second one exits at once.
    Runner(Box<runner::Arguments>),
    /// Runs a chain like `run`, but on runners, through NATS and etcd.
    ///
    /// The exit status means the same as that of `run`.
    Send(Box<send::Arguments>),
    /// Shows what a portal or `serve` does: its chains, what is wrong, what failed last.
    Top(top::Arguments),
    /// Validates chain files and prints what each link runs and is allowed to do.
    Check {
        /// Chain files; `-` reads standard input.
        #[arg(required = true, env = "CONSECUTION_CHAINS", value_delimiter = ',')]
        chains: Vec<PathBuf>,
    },
    /// Pulls, imports, lists and removes images.
    #[command(subcommand)]
    Image(images::Command),
    /// Checks which parts of the sandbox this host can enforce.
    #[command(subcommand)]
    Sandbox(sandbox::Command),
    /// Lists, shows, removes and prunes the links that portals have published.
    #[command(subcommand)]
    Link(link::Command),
    /// Makes keys for those who may use `serve` and portals over HTTP.
    #[command(subcommand)]
    Key(key::Command),
}

/// Runs the `consecution` command with this process's arguments, prints its output and
/// returns its exit status. `main` calls
/// [`run_zygote_if_asked`](crate::run_zygote_if_asked) first, then this, and nothing else.
pub fn command_line() -> ExitCode {
    match Arguments::try_parse() {
        Ok(arguments) => execute(arguments),
        Err(error) => explain(error),
    }
}

/// Prints the text for `--help` or `--version`, or the error in the command line.
fn explain(error: clap::Error) -> ExitCode {
    if error.use_stderr() {
        let error = usage::as_typed(error);
        // Standard error may be closed: then there is nowhere to print.
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
    set_remedy(remedies::remedy);
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
        Command::Top(top) => top::top(top),
        Command::Check { chains } => Ok(check::check(&chains)),
        Command::Sandbox(command) => sandbox::execute(&global, &command),
        Command::Image(command) => images::execute(&global, command),
        Command::Link(command) => link::execute(command),
        Command::Key(command) => key::execute(command),
    };
    crate::runner::until_reaped(REAPED_WAIT_MAX);
    ExitCode::from(code.unwrap_or_else(|error| {
        report(&error);
        EXIT_OWN_FAILURE
    }))
}

/// How long the program waits, before it exits, until the reaper has killed and reaped
/// its processes. The next runner removes what is left behind.
const REAPED_WAIT_MAX: Duration = Duration::from_secs(5);

/// Raises the soft limit on open files to the hard limit. Each process takes nine files
/// or more, and each connection one; the usual soft limit exists for programs that use `select`.
fn raise_open_files() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    // If the kernel refuses, fewer processes and connections fit at a time.
    let _ = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: maximum,
            maximum,
        },
    );
}

/// One worker thread for every two processors; the links' commands use the rest. A call
/// is a series of short steps, and threads with little to do spend their time waking
/// each other: on two processors, a second worker makes a call a tenth slower.
const PROCESSORS_PER_WORKER: usize = 2;

/// How long a server's shutdown waits for tasks that still run. Usually they only need
/// to be dropped, which hands their processes to the reaper.
const SHUT_DOWN_WAIT_MAX: Duration = Duration::from_secs(1);

/// Runs a server's future to its end on a new runtime. Blocking tasks that are not done
/// by then, such as unpacking an image, are abandoned.
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

/// Sends traces of what a future does, if they are on, in the name of this service.
async fn traced<T>(
    service: &str,
    future: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    let traces = Traces::start(service).map_err(FailedTo)?;
    let result = future.await;
    traces.close().await;
    result
}

/// Parses a number that must not be 0.
fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("it must be at least 1".to_owned()),
        Ok(number) => Ok(number),
        Err(error) => Err(format!("{error}")),
    }
}

/// The command line is wrong: nothing was run.
const EXIT_USAGE: u8 = 2;

/// Consecution itself failed, not the chain: the same status as that of `timeout`, `env`
/// and `docker run`.
const EXIT_OWN_FAILURE: u8 = 125;

/// Prints an error as one line on standard error, after `consecution: `.
fn complain(error: impl std::fmt::Display) {
    // Standard error may be closed: then there is nowhere to print.
    let error = error.to_string();
    let _ = writeln!(std::io::stderr(), "consecution: {}", text::line(&error));
}

/// Prints an error with its causes. Errors in a chain file are printed with the lines of
/// the file that they are about.
fn report(error: &anyhow::Error) {
    match error.downcast_ref::<ChainFileError>() {
        Some(ChainFileError::Invalid(invalid)) => {
            let stderr = std::io::stderr();
            let coloured = is_coloured(&stderr);
            // Standard error may be closed: then there is nowhere to print.
            let rendered = invalid.render(coloured);
            let shown = match coloured {
                true => text::styled_lines(rendered.trim_end()),
                false => text::lines(rendered.trim_end()),
            };
            let _ = writeln!(&stderr, "{shown}");
        }
        _ => complain(with_causes(error.as_ref())),
    }
}

/// Prints to standard output. A reader that closes the pipe early is no failure.
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
