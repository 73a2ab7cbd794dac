//! Serves one connection, with HTTP/1.1 here.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderMap, HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::watch;
use tokio_rustls::server::TlsStream;

use super::Client;
use super::arrivals::{Arrived, Peer};
use super::encrypted::Encrypted;
use super::http2;
use super::places::{EXTRA_HEAD_WAIT_MAX, Place};
use super::server::{Site, Stage};
use super::socket::{Socket, Watch};
use super::stall::Stall;
use super::tls::HTTP_2;
use crate::trace::CallId;

/// The header that carries a request's id, both ways.
const CALL_ID: HeaderName = HeaderName::from_static("consecution-call-id");

/// The most bytes of a request's head, and the most fields in it.
pub(super) const HEAD_BYTES_MAX: u32 = 64 * 1024;
const HEAD_FIELDS_MAX: usize = 100;

/// The most bytes to read ahead.
const BUFFER_BYTES_MAX: usize = 128 * 1024;

/// How long a drain waits for a client that reads nothing of its reply.
pub(super) const DRAIN_STALL_MAX: Duration = Duration::from_secs(5);

/// How far the server's drain is, for its connections.
#[derive(Clone)]
pub(super) struct Progress {
    pub(super) stage: watch::Receiver<Stage>,
    /// Whether connections without a request are closed in the last stage.
    pub(super) closes: bool,
}

impl Progress {
    pub(super) async fn until_closing(&mut self) {
        self.until(Stage::Closing).await;
    }

    /// Resolves when a drain of this address has come to that stage.
    pub(super) async fn until(&mut self, wanted: Stage) {
        let closing = self.stage.wait_for(|stage| *stage >= wanted);
        // An error means that the server is gone; it ends its connections itself.
        if !self.closes || closing.await.is_err() {
            std::future::pending().await
        }
    }
}

/// Serves one connection to its end.
pub(super) async fn serve(arrived: Arrived, place: Place, site: Site, progress: Progress) {
    let connections = site.connections.clone();
    let _open = Open::count(&connections);
    let Arrived { peer, socket, tls } = arrived;
    match tls {
        None => serve_http1(socket.clone(), &socket, peer, place, site, progress).await,
        Some(tls) if is_http2(&tls) => {
            http2::serve(*tls, socket, peer, place, site, progress).await;
        }
        Some(tls) => {
            let stream = Encrypted::new(*tls);
            serve_http1(stream, &socket, peer, place, site, progress).await;
        }
    }
}

/// Serves one connection with HTTP/1.1. `stream` is what is said over `socket`.
async fn serve_http1(
    stream: impl Watch,
    socket: &Socket,
    peer: Peer,
    place: Place,
    site: Site,
    mut progress: Progress,
) {
    let Site { router, waits, .. } = site;
    let mut stall = Stall::of(socket, &waits.unacknowledged);
    let client = Client::new(peer, progress.stage.clone());
    let router = TowerToHyperService::new(router);
    let service = service_fn(|mut request: Request<Incoming>| {
        place.has_head();
        client.set_extra(place.is_extra());
        let call_id = add_call_id(&mut request, &client);
        let (response, client) = (router.call(request), &client);
        async move {
            let Ok(mut response) = response.await;
            let headers = response.headers_mut();
            insert_call_id(headers, &call_id);
            if client.is_draining() || client.is_extra() {
                headers.insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response)
        }
    });
    let head_wait_max = match place.is_extra() {
        true => waits.head_max.min(EXTRA_HEAD_WAIT_MAX),
        false => waits.head_max,
    };
    let mut connection = http1::Builder::new()
        .title_case_headers(true)
        .timer(TokioTimer::new())
        .header_read_timeout(head_wait_max)
        .max_header_size(HEAD_BYTES_MAX as usize)
        .max_headers(HEAD_FIELDS_MAX)
        .max_buf_size(BUFFER_BYTES_MAX)
        // A client may close its sending half and then read. If that means that it has given a
        // run up, it is noticed below.
        .half_close(true)
        .serve_connection(TokioIo::new(stream.clone()), service);
    let mut is_told = false;
    let mut stall_wait_max = waits.stall_max;
    let mut over = std::pin::pin!(place.until_over());
    let result = loop {
        let served = poll_fn(|context| {
            stream.begin_poll();
            if let Poll::Ready(result) = Pin::new(&mut connection).poll(context) {
                return Poll::Ready(Some(result));
            }
            match client.has_run() && stream.poll_closed(context).is_ready() {
                true => Poll::Ready(None),
                false => Poll::Pending,
            }
        });
        tokio::select! {
            biased;
            result = served => break result,
            () = progress.until_closing(), if !is_told => {
                is_told = true;
                stall_wait_max = stall_wait_max.min(DRAIN_STALL_MAX);
                Pin::new(&mut connection).graceful_shutdown();
            }
            () = stall.longer_than(stall_wait_max) => {
                tracing::info!("a client has read nothing of its reply for {stall_wait_max:?}: its connection is closed");
                // So the kernel does not keep the unread reply either.
                client.reset().ask();
                break None;
            }
            () = &mut over => break None,
        }
    };
    match result {
        Some(Ok(())) => {}
        Some(Err(error)) => tracing::debug!("a connection broke off: {error}"),
        None => tracing::debug!("a connection was given up"),
    }
    if client.reset().is_asked_for() {
        // Old clients take the close of a connection for the end of the reply, so an
        // incomplete reply must end in a reset.
        let _ = socket.stream().set_zero_linger();
    }
}

/// Gives a request its id and its connection, as routes see them.
pub(super) fn add_call_id(request: &mut Request<Incoming>, client: &Client) -> CallId {
    let given = request.headers().get(&CALL_ID);
    let call_id = CallId::new(given.map(HeaderValue::as_bytes));
    let extensions = request.extensions_mut();
    extensions.insert(client.clone());
    extensions.insert(call_id.clone());
    call_id
}

pub(super) fn insert_call_id(headers: &mut HeaderMap, call_id: &CallId) {
    // A call id is visible ASCII, so this does not fail.
    headers.extend(HeaderValue::from_str(call_id.as_str()).map(|id| (CALL_ID, id)));
}

/// Whether the client has chosen HTTP/2.
fn is_http2(tls: &TlsStream<Socket>) -> bool {
    tls.get_ref().1.alpn_protocol() == Some(HTTP_2)
}

/// Counts a connection while it is held.
struct Open<'a>(&'a Gauge);

impl Open<'_> {
    fn count(connections: &Gauge) -> Open<'_> {
        connections.inc();
        Open(connections)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}
