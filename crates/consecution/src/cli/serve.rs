//! `consecution serve`: serves chains over HTTP with a portal and a runner in this
//! process.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::app::Serve;
use crate::chain_file;
use crate::error::with_causes;
use crate::log_on_change::LogOnChange;
use crate::portal::Portal;
use crate::portal::http as portal_http;
use crate::runner::{Images, PROCESSES_MAX_DEFAULT, Sandboxing, processes_that_fit};
use chain::Chain;

use futures_util::future::join_all;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::signals::{HangUps, Signals};
use super::{Global, http, progress, reload, sandboxing};

/// The arguments of `serve`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Chain files, or folders of which all *.yaml and *.yml are read. `POST /` runs
    /// the chain of the first one. SIGHUP reads them again.
    #[arg(
        required = true,
        env = "CONSECUTION_CHAINS",
        value_name = "CHAIN",
        value_delimiter = ','
    )]
    chains: Vec<PathBuf>,
    #[command(flatten)]
    http: http::Http,
    /// Most processes at a time, of all links together and idle ones included.
    #[arg(
        long,
        env = "CONSECUTION_PROCESSES_MAX",
        value_name = "NUMBER",
        default_value_t = PROCESSES_MAX_DEFAULT,
        value_parser = super::at_least_one
    )]
    processes_max: usize,
    #[command(flatten)]
    stderr_log: sandboxing::StderrLog,
    #[command(flatten)]
    sandboxing: sandboxing::Sandbox,
}

pub(crate) fn serve(global: &Global, arguments: Arguments) -> anyhow::Result<u8> {
    let chains = chain_file::read_all(&arguments.chains)?;
    let images = super::images::source(global, progress::on_terminal())?;
    let mut rules = arguments.sandboxing.rules(global)?;
    rules.stderr_log = arguments.stderr_log.is_on();
    let home = super::images::home(global)?;
    let serving = run(arguments, chains, images, rules, home);
    super::serving(super::traced("consecution-serve", serving))?;
    Ok(0)
}

async fn run(
    arguments: Arguments,
    chains: Vec<Chain>,
    images: Images,
    rules: Sandboxing,
    home: PathBuf,
) -> anyhow::Result<()> {
    let (signals, hang_ups) = (Signals::listen()?, HangUps::listen()?);
    let processes_max = processes_that_fit(arguments.processes_max);
    let options = arguments.http.options(Some(home))?;
    let app = Serve::start(chains.clone(), images, processes_max, rules).await?;
    let app = Arc::new(app);
    let Arguments {
        http,
        chains: files,
        ..
    } = arguments;
    let (links, registry) = (app.links(), app.registry());
    let bound = portal_http::bind(&http.listen, options, app.portals(), links, registry).await;
    let (server, offer) = bound.map_err(http::cannot_listen)?;
    http::say_where(&server)?;
    let mut saying = Saying::default();
    saying.follow(&app, &app.portals());
    let reloading = reload::on_hang_up(hang_ups, files, chains, async |chains| {
        let portals = app.offer(chains).await?;
        saying.follow(&app, &portals);
        // Switch over in time even if a new chain is broken and never becomes ready.
        let ready = portals.iter().map(|portal| app.ready(portal.chain()));
        let _ = timeout(reload::READY_WAIT_MAX, join_all(ready)).await;
        offer.replace(portals);
        Ok(())
    });
    tokio::select! {
        () = http::until_told(server, signals) => Ok(()),
        never = reloading => match never {},
    }
}

/// Logs for each chain when it becomes ready, and until then what it waits for.
#[derive(Default)]
struct Saying(Vec<(Arc<Chain>, JoinSet<()>)>);

impl Saying {
    /// Starts to log for chains that are new, and stops for chains that are gone. Logs
    /// `ready` once all new chains are ready.
    fn follow(&mut self, app: &Arc<Serve>, portals: &[Portal]) {
        let is_of = |portal: &Portal, chain: &Arc<Chain>| Arc::ptr_eq(portal.chain(), chain);
        self.0
            .retain(|(chain, _)| portals.iter().any(|portal| is_of(portal, chain)));
        // Each task drops its sender when its chain is ready: the channel closes after
        // the last one.
        let (waiting, mut ready) = mpsc::channel::<()>(1);
        for portal in portals {
            if self.0.iter().any(|(chain, _)| is_of(portal, chain)) {
                continue;
            }
            let (app, chain) = (Arc::clone(app), Arc::clone(portal.chain()));
            let waiting = waiting.clone();
            let mut task = JoinSet::new();
            task.spawn(async move {
                say_when_ready(&app, &chain).await;
                drop(waiting);
            });
            self.0.push((Arc::clone(portal.chain()), task));
        }
        tokio::spawn(async move {
            let _ = ready.recv().await;
            tracing::info!("ready");
        });
    }
}

async fn say_when_ready(app: &Serve, chain: &Chain) {
    /// How long to wait before checking a broken chain again.
    const LOOK_EVERY: Duration = Duration::from_secs(1);
    let mut log = LogOnChange::default();
    while let Err(error) = app.ready(chain).await {
        let error = with_causes(&error);
        if log.lets(&error) {
            tracing::warn!("chain '{}' is not ready: {error}", chain.name);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    tracing::info!("chain '{}' is ready", chain.name);
}
