//! The rest of a body whose request has already been answered.

use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

use axum::body::{Body, HttpBody as _};
use axum::extract::Request;
use axum::http::header::EXPECT;
use tokio::time::timeout;

/// How much of such a body is still read from the client, and for how long.
const LEFTOVER_BYTES_MAX: u64 = 256 * 1024 * 1024;
const LEFTOVER_WAIT_MAX: Duration = Duration::from_secs(5);

/// Whether the client waits for `100 Continue`, which is sent when the body is
/// first read.
pub(crate) fn is_held_back(headers: &axum::http::HeaderMap) -> bool {
    headers.contains_key(EXPECT)
}

/// Drops a request that is answered without its body. A task reads the body, because some
/// clients send all of it before they read the reply.
pub(crate) fn discard(request: Request) {
    let is_held_back = is_held_back(request.headers());
    let body = request.into_body();
    if !is_held_back && !body.is_end_stream() {
        tokio::spawn(swallow(body));
    }
}

/// Reads the rest of a body, within bounds. If it were dropped, a client that still sends
/// would get a reset, and never see its reply.
pub(crate) async fn swallow(mut body: Body) {
    let swallowing = async {
        let mut bytes = 0;
        while bytes < LEFTOVER_BYTES_MAX {
            let frame = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await;
            let Some(Ok(frame)) = frame else { return };
            bytes += frame.data_ref().map_or(0, |chunk| chunk.len() as u64);
        }
    };
    let _ = timeout(LEFTOVER_WAIT_MAX, swallowing).await;
}
