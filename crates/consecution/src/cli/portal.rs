//! `consecution portal`: chains over HTTP, whose links are run elsewhere.

use std::path::PathBuf;

use chain::Chain;
use consecution::app::Network;
use consecution::chain_file;
use consecution::portal::Portal;
use consecution::portal::http as portal_http;
use consecution::transport::nats::Role;

use super::signals::Signals;
use super::{http, servers};

/// What `portal` takes.
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
    #[command(flatten)]
    nats: servers::Nats,
    #[command(flatten)]
    etcd: servers::Etcd,
}

pub(crate) fn portal(arguments: Arguments) -> anyhow::Result<u8> {
    let chains = chain_file::read_all(&arguments.chains)?;
    super::serving(run(arguments, chains))?;
    Ok(0)
}

async fn run(arguments: Arguments, chains: Vec<Chain>) -> anyhow::Result<()> {
    let signals = Signals::listen()?;
    let Arguments {
        http, nats, etcd, ..
    } = arguments;
    let (nats, etcd) = (nats.options()?, etcd.options()?);
    let network = Network::connect(&nats, &etcd, Role::Portal, "portal")?;
    let mut portals = Vec::new();
    for chain in chains {
        let portal = Portal::new(chain, network.transport())?;
        tokio::spawn(portal.clone().keep_published(network.links()));
        portals.push(portal);
    }
    let (options, links) = (http.options(), network.served());
    let registry = consecution::http::registry();
    let server = portal_http::bind(&http.listen, options, portals.clone(), links, registry).await;
    let server = server.map_err(http::cannot_listen)?;
    http::say_where(&server)?;
    http::until_told(server, signals).await;
    network.close().await;
    Ok(())
}
