//! `consecution send`: runs a chain as a filter, on runners elsewhere.

use std::time::Duration;

use crate::app::Network;
use crate::transport::nats::Role;

use super::filter::{Call, filter, unless_stopped};
use super::{servers, stdio};

/// The arguments of `send`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    call: Call,
    /// How long to wait for NATS, etcd and runners, and until runners have loaded links
    /// that are new to them; at most the deadline.
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
    let parameters = match arguments.call.parameters(&chain) {
        Ok(parameters) => parameters,
        Err(code) => return Ok(code),
    };
    stdio::check_open()?;
    // The wait for servers must not outlast the call's own deadline.
    let deadline = chain.deadline.or(None).unwrap_or(Duration::MAX);
    let wait = arguments.wait.min(deadline);
    let (nats, etcd) = (arguments.nats.options()?, arguments.etcd.options()?);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let code = runtime.block_on(unless_stopped("consecution-send", async {
        let network = Network::connect(&nats, &etcd, Role::Portal, "send")?;
        let portal = network.open(chain, wait).await?;
        let code = filter(&portal, parameters, arguments.call.stats, ()).await;
        network.close().await;
        code
    }));
    // Do not wait for the thread that reads standard input: it may be blocked.
    runtime.shutdown_background();
    code
}
