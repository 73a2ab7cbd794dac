//! Connections: taken, bounded, and brought to an end.
//!
//! A drain has three stages. First no new connection is taken, but those that
//! the kernel has taken for us already still are; replies say that their
//! connection closes. Then connections without a request are closed. Whoever
//! is not done when the grace period is over is cut off.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::header::{CONNECTION, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::metrics::gauge::Gauge;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::stall::{self, Unacknowledged};
use super::{Options, Reset, Site};

/// How large a request's head may be, in bytes, and how many fields it may have.
const HEAD_BYTES_MAX: usize = 64 * 1024;
const HEAD_FIELDS_MAX: usize = 100;

/// How much is read ahead of a request, in bytes.
const BUFFER_BYTES_MAX: usize = 128 * 1024;

/// How long a drain waits for requests that are on their way on connections
/// that have none.
const LINGER: Duration = Duration::from_secs(1);

/// How long to wait when no connection can be taken, for want of descriptors.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// How long a drain waits for a client that takes nothing more of its reply.
const DRAIN_STALL_MAX: Duration = Duration::from_secs(5);

/// How far the end has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Open,
    Draining,
    Closing,
}

/// HTTP on one address.
pub struct Server {
    listener: TcpListener,
    site: Arc<dyn Site>,
    options: Options,
    stage: watch::Sender<Stage>,
}

/// How a server has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drained {
    /// Every request has had its reply.
    All,
    /// Some were cut off when the grace period was over.
    CutOff,
}

impl Server {
    pub(crate) async fn bind(
        address: SocketAddr,
        options: Options,
        site: Arc<dyn Site>,
    ) -> io::Result<Server> {
        let listener = TcpListener::bind(address).await?;
        Ok(Server {
            listener,
            site,
            options,
            stage: watch::Sender::new(Stage::Open),
        })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `stop` resolves, and then until every request has had its
    /// reply, or the grace period is over.
    pub async fn serve(self, stop: impl Future<Output = ()>) -> Drained {
        let Server {
            listener,
            site,
            options,
            stage,
        } = self;
        let unacknowledged = Arc::new(Unacknowledged::default());
        let serve_connection = |stream| {
            let (site, stage) = (Arc::clone(&site), stage.subscribe());
            let unacknowledged = Arc::clone(&unacknowledged);
            connection(stream, site, options.clone(), stage, unacknowledged)
        };
        let slots = Arc::new(Semaphore::new(options.connections_max));
        let mut connections = JoinSet::new();
        let mut stop = std::pin::pin!(stop);
        loop {
            tokio::select! {
                biased;
                () = &mut stop => break,
                Some(_) = connections.join_next() => {}
                (stream, slot) = accept(&listener, &slots) => {
                    let serving = serve_connection(stream);
                    connections.spawn(async move {
                        serving.await;
                        drop(slot);
                    });
                }
            }
        }
        stage.send_replace(Stage::Draining);
        for stream in taken_by_the_kernel(listener) {
            connections.spawn(serve_connection(stream));
        }
        let over = async { while connections.join_next().await.is_some() {} };
        let mut over = std::pin::pin!(over);
        if timeout(LINGER, &mut over).await.is_ok() {
            return Drained::All;
        }
        stage.send_replace(Stage::Closing);
        match timeout(options.grace, over).await {
            Ok(()) => Drained::All,
            Err(_) => Drained::CutOff,
        }
    }
}

/// The next connection, when there is room for it.
async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> (TcpStream, Option<tokio::sync::OwnedSemaphorePermit>) {
    // Never closed, so never refused.
    let slot = Arc::clone(slots).acquire_owned().await.ok();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return (stream, slot),
            Err(error) if is_of_one_client(&error) => {}
            Err(error) => {
                tracing::warn!("failed to take a connection: {error}");
                sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
}

fn is_of_one_client(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

/// Connections that clients believe to have, since the kernel has made them.
fn taken_by_the_kernel(listener: TcpListener) -> Vec<TcpStream> {
    let mut streams = Vec::new();
    if let Ok(listener) = listener.into_std() {
        // It does not block, so it ends with an error when there is none left.
        while let Ok((stream, _)) = listener.accept() {
            let stream = stream
                .set_nonblocking(true)
                .and_then(|()| TcpStream::from_std(stream));
            streams.extend(stream);
        }
    }
    streams
}

/// Serves one connection to its end.
async fn connection(
    stream: TcpStream,
    site: Arc<dyn Site>,
    options: Options,
    mut stage: watch::Receiver<Stage>,
    unacknowledged: Arc<Unacknowledged>,
) {
    let _open = Open::count(site.connections());
    // Only a matter of speed.
    let _ = stream.set_nodelay(true);
    let (stream, mut stall) = stall::follow(stream, &unacknowledged);
    let reset = Reset::default();
    let asked = stage.clone();
    let is_draining = || *asked.borrow() > Stage::Open;
    let service = service_fn(|request| {
        let (site, reset) = (&site, &reset);
        async move {
            let mut response = site.answer(request, is_draining(), reset).await;
            if is_draining() {
                let headers = response.headers_mut();
                headers.insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response)
        }
    });
    let mut connection = http1::Builder::new()
        .title_case_headers(true)
        .timer(TokioTimer::new())
        .header_read_timeout(options.head_wait_max)
        .max_header_size(HEAD_BYTES_MAX)
        .max_headers(HEAD_FIELDS_MAX)
        .max_buf_size(BUFFER_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut is_told = false;
    let mut stall_wait_max = options.stall_wait_max;
    let result = loop {
        tokio::select! {
            result = &mut connection => break result,
            () = stall.longer_than(stall_wait_max) => {
                tracing::info!("a client has taken nothing of its reply for {stall_wait_max:?}: it is cut off");
                // Nothing of it is left in the kernel either.
                reset.ask();
                break Ok(());
            }
            closing = stage.wait_for(|stage| *stage == Stage::Closing), if !is_told => {
                drop(closing);
                is_told = true;
                stall_wait_max = stall_wait_max.min(DRAIN_STALL_MAX);
                std::pin::Pin::new(&mut connection).graceful_shutdown();
            }
        }
    };
    if let Err(error) = result {
        tracing::debug!("a connection broke off: {error}");
    }
    if reset.is_asked_for() {
        // An older client takes a connection that is closed for the end of the
        // reply, which this is not.
        let stream = connection.into_parts().io.into_inner().stream;
        let _ = stream.set_zero_linger();
    }
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
