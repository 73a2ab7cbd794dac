//! A runner in a program of one's own, until the end of its standard input:
//!
//! ```console
//! $ export NATS_URL=nats://127.0.0.1:4222 ETCD_ENDPOINTS=http://127.0.0.1:2379
//! $ cargo run --example embedded -- /var/lib/consecution
//! ```

use std::error::Error;
use std::path::PathBuf;

use consecution::Network;
use consecution::config::{EtcdOptions, NatsOptions};
use consecution::runner::{Options, RunnerName};
use consecution::transport::nats::Role;

fn main() -> Result<(), Box<dyn Error>> {
    // First: this program is also started as the zygotes of its links.
    consecution::run_zygote_if_asked();
    let home = std::env::args().nth(1).ok_or("usage: embedded HOME")?;
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(run(home.into()))
}

async fn run(home: PathBuf) -> Result<(), Box<dyn Error>> {
    let nats = NatsOptions {
        servers: vec![std::env::var("NATS_URL")?],
        ..NatsOptions::default()
    };
    let etcd = EtcdOptions {
        endpoints: vec![std::env::var("ETCD_ENDPOINTS")?],
        ..EtcdOptions::default()
    };
    let name: RunnerName = "embedded".parse()?;
    let network = Network::connect(&nats, &etcd, Role::Runner, name.as_str())?;
    let options = Options {
        name: Some(name),
        ..Options::default()
    };
    let runner = network.runner(options, consecution::images(&home)?);

    tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink()))
        .await??;

    runner.drain().await;
    network.close().await;
    Ok(())
}
