//! `consecution send`: one payload through a chain, run by runners elsewhere.

use std::time::Duration;

use crate::app::Network;
use crate::transport::nats::Role;

use super::filter::{Call, filter, unless_stopped};
use super::{servers, stdio};

/// What `send` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    call: Call,
    /// How long servers and runners may take to be there, and runners to load a
    /// link that is new to them. No longer than the deadline.
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
    let chain = arguments.call.chain()?;
    stdio::check_open()?;
    // Waiting for servers must not take longer than the call itself may.
    let deadline = chain.deadline.or(None).unwrap_or(Duration::MAX);
    let wait = arguments.wait.min(deadline);
    let (nats, etcd) = (arguments.nats.options()?, arguments.etcd.options()?);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let code = runtime.block_on(unless_stopped(async {
        let network = Network::connect(&nats, &etcd, Role::Portal, "send")?;
        let portal = network.open(chain, wait).await?;
        let code = filter(&portal, ()).await;
        network.close().await;
        code
    }));
    // Not to wait for the thread that reads standard input.
    runtime.shutdown_background();
    code
}
