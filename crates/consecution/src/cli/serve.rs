//! `consecution serve`: chains over HTTP, portal and runner in this process.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use chain::Chain;
use consecution::app::Serve;
use consecution::portal::http::{self, Drained};
use consecution::runner::{Images, PROCESSES_MAX_DEFAULT};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{EXIT_OWN_FAILURE, Global, chain_file, progress};

/// What `serve` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The chain files. The first one's chain is also found at `/`.
    #[arg(
        required = true,
        env = "CONSECUTION_CHAINS",
        value_name = "CHAIN",
        value_delimiter = ','
    )]
    chains: Vec<PathBuf>,
    /// Where to listen; port 0 takes a free one.
    #[arg(
        long,
        env = "CONSECUTION_LISTEN",
        value_name = "ADDRESS:PORT",
        default_value = "127.0.0.1:8080"
    )]
    listen: SocketAddr,
    /// Processes over all links, idle ones included.
    #[arg(
        long,
        env = "CONSECUTION_PROCESSES_MAX",
        value_name = "NUMBER",
        default_value_t = PROCESSES_MAX_DEFAULT
    )]
    processes_max: usize,
    /// Connections at a time; more wait to be taken.
    #[arg(
        long,
        env = "CONSECUTION_CONNECTIONS_MAX",
        value_name = "NUMBER",
        default_value_t = http::CONNECTIONS_MAX_DEFAULT
    )]
    connections_max: usize,
    /// How long a client may take for a request's head, and for the next one.
    #[arg(
        long,
        env = "CONSECUTION_HEADER_TIMEOUT",
        value_name = "DURATION",
        default_value = "30s",
        value_parser = chain::units::parse_duration
    )]
    header_timeout: Duration,
    /// How large a request's body may be [default: no limit].
    #[arg(long, env = "CONSECUTION_MAX_REQUEST_BYTES", value_name = "BYTES")]
    max_request_bytes: Option<u64>,
    /// How long requests in flight may take to finish when it is told to end.
    #[arg(
        long,
        env = "CONSECUTION_GRACE",
        value_name = "DURATION",
        default_value = "30s",
        value_parser = chain::units::parse_duration
    )]
    grace: Duration,
}

pub(crate) fn serve(global: &Global, arguments: Arguments) -> ExitCode {
    match try_serve(global, arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            super::report(&error);
            ExitCode::from(EXIT_OWN_FAILURE)
        }
    }
}

fn try_serve(global: &Global, arguments: Arguments) -> anyhow::Result<()> {
    let chains = read(&arguments.chains)?;
    if arguments.processes_max == 0 || arguments.connections_max == 0 {
        bail!("failed to start: --processes-max and --connections-max must be at least 1");
    }
    raise_open_files();
    let images = super::images::source(global, progress::on_terminal())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(run(arguments, chains, images));
    // Not to wait for an image that is being unpacked.
    runtime.shutdown_background();
    result
}

fn read(paths: &[PathBuf]) -> anyhow::Result<Vec<Chain>> {
    let mut chains: Vec<Chain> = Vec::new();
    let mut by_name: BTreeMap<String, &PathBuf> = BTreeMap::new();
    for path in paths {
        let chain = chain_file::read(path)?;
        if let Some(other) = by_name.insert(chain.name.clone(), path) {
            bail!(
                "failed to offer two chains named '{}': {} and {}; give one of them a Name",
                chain.name,
                other.display(),
                path.display()
            );
        }
        chains.push(chain);
    }
    Ok(chains)
}

/// As many open files as we may have: each process takes four, each connection
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

async fn run(arguments: Arguments, chains: Vec<Chain>, images: Images) -> anyhow::Result<()> {
    let mut signals = Signals::listen()?;
    let options = http::Options {
        connections_max: arguments.connections_max,
        head_wait_max: arguments.header_timeout,
        request_bytes_max: arguments.max_request_bytes,
        grace: arguments.grace,
    };
    let app = Arc::new(Serve::start(chains, images, arguments.processes_max).await?);
    let listen = arguments.listen;
    let server = http::bind(listen, options, app.portals.clone(), app.links()).await;
    let server = server.with_context(|| format!("failed to listen on {listen}"))?;
    tracing::info!("listening on http://{}", server.address()?);
    let saying = tokio::spawn(say_when_ready(Arc::clone(&app)));
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = server.serve(async {
        let _ = stopped.await;
    });
    let mut serving = std::pin::pin!(serving);
    tokio::select! {
        _ = &mut serving => {}
        () = signals.next() => {
            tracing::info!("finishing what is in flight; a second signal leaves at once");
            let _ = stop.send(());
            tokio::select! {
                drained = &mut serving => match drained {
                    Drained::All => tracing::info!("everything in flight is finished"),
                    Drained::CutOff => tracing::warn!("the grace period is over: requests were cut off"),
                },
                () = signals.next() => tracing::warn!("leaving at once"),
            }
        }
    }
    saying.abort();
    Ok(())
}

/// Says of each chain when it can be run, and what keeps it from it.
async fn say_when_ready(app: Arc<Serve>) {
    /// How long to wait before asking again about a link that is broken.
    const LOOK: Duration = Duration::from_secs(1);
    let of_chain = |portal: consecution::portal::Portal| {
        let app = Arc::clone(&app);
        async move {
            let mut said = String::new();
            while let Err(error) = app.ready(&portal).await {
                let error = error.to_string();
                if said != error {
                    tracing::warn!("chain '{}' is not ready: {error}", portal.chain().name);
                    said = error;
                }
                tokio::time::sleep(LOOK).await;
            }
            tracing::info!("chain '{}' is ready", portal.chain().name);
        }
    };
    let all = app.portals.iter().cloned().map(of_chain);
    futures_util::future::join_all(all).await;
    tracing::info!("ready");
}

/// The signals that ask to end.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Signals> {
        Ok(Signals {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// Waits for the next one.
    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
