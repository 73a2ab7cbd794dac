//! `consecution runner`: runs links for portals elsewhere.

use std::time::Duration;

use crate::app::Network;
use crate::http::{Drained, Listen, Options};
use crate::runner::{
    Images, Options as RunnerOptions, PROCESSES_MAX_DEFAULT, Runner, RunnerName, Sandboxing,
    http as runner_http, processes_that_fit,
};
use crate::transport::nats::Role;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::listing::Listing;
use super::protection::Protection;
use super::signals::{HangUps, Signals};
use super::{Global, http, progress, sandboxing, servers};

/// The arguments of `runner`.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// Name of this runner in logs, replies and `consecution link show`; must be
    /// unique [default: the host's name with a unique suffix].
    #[arg(long, env = "CONSECUTION_NAME", value_name = "NAME")]
    name: Option<RunnerName>,
    /// Most processes at a time, of all links together and idle ones included.
    #[arg(
        long,
        env = "CONSECUTION_PROCESSES_MAX",
        value_name = "NUMBER",
        default_value_t = PROCESSES_MAX_DEFAULT,
        value_parser = super::at_least_one
    )]
    processes_max: usize,
    /// Most calls, of all links together, that may wait here for a process while all
    /// are in use. Portals send further calls to another runner at once.
    #[arg(
        long,
        env = "CONSECUTION_WAITING_MAX",
        value_name = "NUMBER",
        default_value_t = 0
    )]
    waiting_max: usize,
    /// Address for /metrics, /healthz and /readyz: `localhost:8081`, or `:8081` for
    /// all addresses of this host [default: none].
    #[arg(long, env = "CONSECUTION_LISTEN", value_name = "HOST:PORT")]
    listen: Option<Listen>,
    #[command(flatten)]
    protection: Protection,
    /// How long calls in flight may take to finish after SIGTERM or SIGINT.
    #[arg(
        long,
        env = "CONSECUTION_GRACE",
        value_name = "DURATION",
        default_value = "30s",
        value_parser = chain::units::parse_duration
    )]
    grace: Duration,
    #[command(flatten)]
    stderr_log: sandboxing::StderrLog,
    #[command(flatten)]
    sandboxing: sandboxing::Sandbox,
    #[command(flatten)]
    nats: servers::Nats,
    #[command(flatten)]
    etcd: servers::Etcd,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Lists the running runners, from their own keys in etcd.
    List {
        #[command(flatten)]
        listing: Listing,
        #[command(flatten)]
        etcd: servers::Etcd,
    },
}

impl Arguments {
    /// Whether this runs links, and does not only list other runners.
    pub(crate) fn is_to_serve(&self) -> bool {
        self.command.is_none()
    }
}

pub(crate) fn runner(global: &Global, arguments: Arguments) -> anyhow::Result<u8> {
    if let Some(Command::List { listing, etcd }) = &arguments.command {
        return super::runners::list(etcd, *listing);
    }
    let images = super::images::source(global, progress::on_terminal())?;
    let mut rules = arguments.sandboxing.rules(global)?;
    rules.stderr_log = arguments.stderr_log.is_on();
    let serving = run(arguments, images, rules);
    super::serving(super::traced("consecution-runner", serving))?;
    Ok(0)
}

async fn run(arguments: Arguments, images: Images, sandboxing: Sandboxing) -> anyhow::Result<()> {
    let (mut signals, hang_ups) = (Signals::listen()?, HangUps::listen()?);
    let mut saying = JoinSet::new();
    saying.spawn(say_nothing_to_read(hang_ups));
    let (nats, etcd) = (arguments.nats.options()?, arguments.etcd.options()?);
    let mut options = Options::default();
    arguments.protection.add_to(&mut options)?;
    let name = arguments.name.unwrap_or_default();
    let network = Network::connect(&nats, &etcd, Role::Runner, name.as_str())?;
    tracing::info!("runner '{}'", name.as_str());
    let of_runner = RunnerOptions {
        name: Some(name),
        processes_max: processes_that_fit(arguments.processes_max),
        waiting_max: arguments.waiting_max,
        sandboxing,
        ..RunnerOptions::default()
    };
    let runner = network.runner(of_runner, images);
    let offering = match arguments.listen {
        Some(listen) => Some(offer(&listen, options, &network, &runner).await?),
        None => None,
    };
    signals.next().await;
    tracing::info!("finishing what is in flight; a second signal leaves at once");
    tokio::select! {
        drained = timeout(arguments.grace, runner.drain()) => match drained {
            Ok(()) => tracing::info!("everything in flight is finished"),
            Err(_) => tracing::warn!("the grace period is over: calls were cut off"),
        },
        () = signals.next() => tracing::warn!("leaving at once"),
    }
    drop(runner);
    network.close().await;
    // Keep /metrics and /readyz up until the end, so that the drain can be watched.
    drop(offering);
    Ok(())
}

/// Logs that SIGHUP does nothing here. Without a handler it would end the runner.
async fn say_nothing_to_read(mut hang_ups: HangUps) {
    loop {
        hang_ups.next().await;
        tracing::info!("there is nothing to read again: links come from etcd");
    }
}

/// Serves the runner's metrics, health and readiness until the returned set is dropped.
async fn offer(
    listen: &Listen,
    options: Options,
    network: &Network,
    runner: &Runner,
) -> anyhow::Result<JoinSet<Drained>> {
    let mut registry = crate::http::registry();
    runner.register(&mut registry);
    let connections = network.connections_of(runner);
    let server = runner_http::bind(listen, options, runner, connections, registry).await;
    let server = server.map_err(http::cannot_listen)?;
    http::say_where(&server)?;
    let mut offering = JoinSet::new();
    offering.spawn(server.serve(std::future::pending()));
    Ok(offering)
}
