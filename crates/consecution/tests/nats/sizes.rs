//! Bodies of sizes where the way they travel changes.

use std::sync::LazyLock;

use crate::support::nats::{NatsServer, TwoConnections, serve};
use bytes::Bytes;
use consecution::transport::conformance::fake;
use consecution::transport::{Body, Ending, Request, Transport};
use futures_util::{StreamExt, stream};

/// Bytes that differ from place to place.
fn bytes_of(size: usize) -> Bytes {
    static ALL: LazyLock<Bytes> = LazyLock::new(|| {
        (0..9 * 1024 * 1024)
            .map(|at| (at * 31 % 251) as u8)
            .collect()
    });
    ALL.slice(..size)
}

async fn carries(two: &TwoConnections, sizes: &[usize]) {
    let (id, _registration) = serve(two, fake::echo()).await;
    let (reversed, _reversing) = serve(two, fake::reverse()).await;
    for size in sizes {
        let sent = bytes_of(*size);
        let reply = two.call(id, Request::new(sent.clone())).await.unwrap();
        assert!(reply.body.collect().await.unwrap() == sent, "{size} bytes");
        assert_eq!(reply.outcome.await.ending, Ending::Exited(0));

        // The same in pieces that come one by one.
        let pieces: Vec<_> = sent
            .chunks(10_001)
            .map(|piece| Ok(sent.slice_ref(piece)))
            .collect();
        let pieces = stream::iter(pieces).then(async |piece| {
            tokio::task::yield_now().await;
            piece
        });
        let request = Request::new(Body::new(pieces));
        let reply = two.call(reversed, request).await.unwrap();
        let mut received = Vec::from(reply.body.collect().await.unwrap());
        received.reverse();
        assert!(received == sent, "{size} bytes in pieces");
    }
}

/// Around that limit of the server, and around what our headers leave of it.
fn around(max_payload: usize) -> Vec<usize> {
    let with_headers = [8192, 4096, 1024, 512, 256].map(|headers| max_payload - headers);
    let limits = [max_payload, 2 * max_payload]
        .into_iter()
        .chain(with_headers);
    limits.flat_map(|at| [at - 1, at, at + 1]).collect()
}

#[tokio::test]
async fn around_the_usual_limit_of_messages() {
    let Some(server) = NatsServer::start("") else {
        cannot_run_here!("there is no nats-server");
    };
    let two = TwoConnections::connect(&server).await;
    carries(&two, &[0, 1, 65_535, 65_536, 65_537]).await;
    carries(&two, &around(1024 * 1024)).await;
}

#[tokio::test]
async fn around_a_small_limit_of_messages() {
    for max_payload in [64 * 1024, 16 * 1024] {
        let config = format!("max_payload: {max_payload}");
        let Some(server) = NatsServer::start(&config) else {
            cannot_run_here!("there is no nats-server");
        };
        let two = TwoConnections::connect(&server).await;
        carries(&two, &[0, 1]).await;
        carries(&two, &around(max_payload)).await;
    }
}

#[tokio::test]
async fn around_a_large_limit_of_messages() {
    let Some(server) = NatsServer::start("max_payload: 8388608") else {
        cannot_run_here!("there is no nats-server");
    };
    let two = TwoConnections::connect(&server).await;
    carries(&two, &around(1024 * 1024)).await;
    let limit = 8 * 1024 * 1024;
    carries(&two, &[limit - 4096, limit, limit + 1]).await;
}
