//! Sends a payload through a chain whose links are run by runners elsewhere:
//!
//! ```console
//! $ export NATS_URL=nats://127.0.0.1:4222 ETCD_ENDPOINTS=http://127.0.0.1:2379
//! $ cargo run --example send -- chain.yaml 'this is raw data'
//! ```

use std::error::Error;
use std::io::Write;

use bytes::Bytes;
use consecution::portal::{ChainReply, ChainRequest, Portal};
use consecution::transport::Body;
use futures_util::{StreamExt, stream};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [chain, payload] = &arguments[..] else {
        return Err("usage: send CHAIN PAYLOAD".into());
    };
    let (nats, etcd) = (std::env::var("NATS_URL")?, std::env::var("ETCD_ENDPOINTS")?);
    let portal = Portal::connect(chain, &nats, [etcd]).await?;

    // All in memory: for payloads that are not large.
    let reply = portal.send(payload.clone()).await?;
    std::io::stdout().write_all(&reply)?;

    // As streams, of any size, with an account of each link at the end.
    let payload = Bytes::from(payload.clone());
    let request = ChainRequest::new(Body::new(stream::iter([Ok(payload)])));
    let ChainReply { mut body, report } = portal.stream(request);
    while let Some(Ok(chunk)) = body.next().await {
        std::io::stdout().write_all(&chunk)?;
    }
    // Here is the error of a run that failed, and whose body was cut off therefore.
    for link in report.await?.links {
        eprintln!("{}: {:?}", link.name, link.ending);
    }
    Ok(())
}
