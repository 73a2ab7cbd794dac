//! `consecution send`: one payload through a chain, run by runners elsewhere.

use std::path::PathBuf;
use std::time::Duration;

use consecution::app::Network;
use consecution::chain_file;
use consecution::transport::nats::Role;

use super::filter::{filter, unless_stopped};
use super::servers;

/// What `send` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The chain file.
    #[arg(env = "CONSECUTION_CHAIN")]
    chain: PathBuf,
    /// How long servers and runners may take to be there, and runners to load a
    /// link that is new to them.
    #[arg(
        long,
        env = "CONSECUTION_WAIT",
        value_name = "DURATION",
        default_value = "30s",
        value_parser = chain::units::parse_duration
    )]
    wait: Duration,
    #[command(flatten)]
    nats: servers::Nats,
    #[command(flatten)]
    etcd: servers::Etcd,
}

pub(crate) fn send(arguments: Arguments) -> anyhow::Result<u8> {
    let chain = chain_file::read(&arguments.chain)?;
    let (nats, etcd) = (arguments.nats.options()?, arguments.etcd.options()?);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let code = runtime.block_on(unless_stopped(async {
        let network = Network::connect(&nats, &etcd, Role::Portal, "send")?;
        let portal = network.open(chain, arguments.wait).await?;
        let code = filter(&portal, ()).await;
        network.close().await;
        code
    }));
    // Not to wait for the thread that reads standard input.
    runtime.shutdown_background();
    code
}
