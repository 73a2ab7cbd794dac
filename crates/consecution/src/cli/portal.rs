//! `consecution portal`: serves chains over HTTP; runners elsewhere run their links.

use std::path::PathBuf;
use std::time::Duration;

use crate::app::Network;
use crate::chain_file;
use crate::error::{FailedTo, with_causes};
use crate::portal::Portal;
use crate::portal::http as portal_http;
use crate::transport::nats::Role;
use chain::Chain;
use tokio::time::timeout;

use super::signals::{HangUps, Signals};
use super::{http, reload, servers};

/// How long a leaving portal tries to delete its key in etcd.
const LEAVE_WAIT_MAX: Duration = Duration::from_millis(500);

/// The arguments of `portal`.
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
    #[command(flatten)]
    nats: servers::Nats,
    #[command(flatten)]
    etcd: servers::Etcd,
}

pub(crate) fn portal(arguments: Arguments) -> anyhow::Result<u8> {
    let chains = chain_file::read_all(&arguments.chains)?;
    let serving = run(arguments, chains);
    super::serving(super::traced("consecution-portal", serving))?;
    Ok(0)
}

async fn run(arguments: Arguments, chains: Vec<Chain>) -> anyhow::Result<()> {
    let (signals, hang_ups) = (Signals::listen()?, HangUps::listen()?);
    let Arguments {
        chains: files,
        http,
        nats,
        etcd,
    } = arguments;
    let (nats, etcd) = (nats.options()?, etcd.options()?);
    let network = Network::connect(&nats, &etcd, Role::Portal, "portal")?;
    let transport = network.transport();
    let offered = Portal::for_each(chains.clone(), &[], &transport);
    let mut portals = offered.map_err(FailedTo)?;
    let mut publisher = network.publisher(&portals);
    let (options, links) = (http.options(None)?, network.served());
    let registry = crate::http::registry();
    let bound = portal_http::bind(&http.listen, options, portals.clone(), links, registry).await;
    let (server, offer) = bound.map_err(http::cannot_listen)?;
    http::say_where(&server)?;
    let reloading = reload::on_hang_up(hang_ups, files, chains, async |chains| {
        portals = Portal::for_each(chains, &portals, &transport).map_err(FailedTo)?;
        publisher.offer(&portals);
        if let Err(error) = network.until_served(&portals, reload::READY_WAIT_MAX).await {
            tracing::warn!("not all chains can be run yet: {}", with_causes(&error));
        }
        offer.replace(portals.clone());
        Ok(())
    });
    tokio::select! {
        () = http::until_told(server, signals) => {}
        never = reloading => match never {},
    }
    // If this fails, etcd deletes the key when its lease runs out.
    let _ = timeout(LEAVE_WAIT_MAX, publisher.withdraw()).await;
    network.close().await;
    Ok(())
}
