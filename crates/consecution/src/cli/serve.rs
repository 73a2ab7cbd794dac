//! `consecution serve`: chains over HTTP, portal and runner in this process.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use chain::Chain;
use consecution::app::Serve;
use consecution::chain_file;
use consecution::portal::http as portal_http;
use consecution::runner::{Images, PROCESSES_MAX_DEFAULT, Sandboxing, processes_that_fit};

use super::signals::Signals;
use super::{Global, http, progress, sandboxing};

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
    #[command(flatten)]
    http: http::Http,
    /// Processes over all links, idle ones included.
    #[arg(
        long,
        env = "CONSECUTION_PROCESSES_MAX",
        value_name = "NUMBER",
        default_value_t = PROCESSES_MAX_DEFAULT,
        value_parser = super::at_least_one
    )]
    processes_max: usize,
    #[command(flatten)]
    sandboxing: sandboxing::Sandbox,
}

pub(crate) fn serve(global: &Global, arguments: Arguments) -> anyhow::Result<u8> {
    let chains = chain_file::read_all(&arguments.chains)?;
    let images = super::images::source(global, progress::on_terminal())?;
    let rules = arguments.sandboxing.rules(global)?;
    super::serving(run(arguments, chains, images, rules))?;
    Ok(0)
}

async fn run(
    arguments: Arguments,
    chains: Vec<Chain>,
    images: Images,
    rules: Sandboxing,
) -> anyhow::Result<()> {
    let signals = Signals::listen()?;
    let processes_max = processes_that_fit(arguments.processes_max);
    let app = Serve::start(chains, images, processes_max, rules).await?;
    let app = Arc::new(app);
    let Arguments { http, .. } = arguments;
    let portals = app.portals.clone();
    let (options, links, registry) = (http.options(), app.links(), app.registry());
    let server = portal_http::bind(&http.listen, options, portals, links, registry).await;
    let server = server.map_err(http::cannot_listen)?;
    http::say_where(&server)?;
    let saying = tokio::spawn(say_when_ready(Arc::clone(&app)));
    http::until_told(server, signals).await;
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
