//! Accepts connections, bounds their number, and drains them.
//!
//! A drain has three stages. First, only connections that the kernel has already accepted for
//! us are still served, and replies say that their connection closes. Then, connections
//! without a request are closed. Finally, when the grace period is over, the rest is closed.
//! A second address for monitoring stays open until then.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use prometheus_client::metrics::gauge::Gauge;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::Options;
use super::connection::{Progress, serve};
use super::listen::{Listen, ListenError};
use super::places::Places;
use super::stall::Unacknowledged;

/// How long a drain waits for requests that clients may just be sending on idle connections.
const LINGER: Duration = Duration::from_secs(1);

/// How long to wait if no connection can be accepted, for example because no descriptor is
/// left.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// The most connections on an address for monitoring.
const BESIDE_CONNECTIONS_MAX: usize = 64;

/// The stages of a drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    Open,
    Draining,
    Closing,
}

/// HTTP on one address, and perhaps on a second one for monitoring.
pub struct Server {
    main: Door,
    beside: Option<Door>,
    grace: Duration,
    stage: watch::Sender<Stage>,
}

/// An address, and the routes there.
struct Door {
    listener: TcpListener,
    site: Site,
    connections_max: usize,
}

/// The routes of an address. Clones share them.
#[derive(Clone)]
pub(super) struct Site {
    pub(super) router: Router,
    /// The number of open connections.
    pub(super) connections: Gauge,
    pub(super) waits: Waits,
}

/// How long to wait for clients.
#[derive(Clone)]
pub(super) struct Waits {
    /// For a request's head.
    pub(super) head_max: Duration,
    /// While nothing moves on a connection.
    pub(super) stall_max: Duration,
    pub(super) unacknowledged: Arc<Unacknowledged>,
}

/// The result of a drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drained {
    /// Every request got its reply.
    All,
    /// Some requests were cut off when the grace period was over.
    CutOff,
}

impl Server {
    /// Opens an address for `router`, and counts its open connections.
    pub(crate) async fn bind(
        listen: &Listen,
        options: Options,
        router: Router,
        connections: Gauge,
    ) -> Result<Server, ListenError> {
        Ok(Server {
            main: Door {
                listener: listen.bind().await?,
                site: Site {
                    router,
                    connections,
                    waits: Waits {
                        head_max: options.head_wait_max,
                        stall_max: options.stall_wait_max,
                        unacknowledged: Arc::default(),
                    },
                },
                connections_max: options.connections_max,
            },
            beside: None,
            grace: options.grace,
            stage: watch::Sender::new(Stage::Open),
        })
    }

    /// The same, with a second address for `router`, whose connections are not counted.
    pub(crate) async fn beside(
        self,
        listen: &Listen,
        router: Router,
    ) -> Result<Server, ListenError> {
        let beside = Door {
            listener: listen.bind().await?,
            site: Site {
                router,
                connections: Gauge::default(),
                waits: self.main.site.waits.clone(),
            },
            connections_max: BESIDE_CONNECTIONS_MAX,
        };
        Ok(Server {
            beside: Some(beside),
            ..self
        })
    }

    /// The address that it listens on.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.main.listener.local_addr()
    }

    /// The second address, if there is one.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn admin_address(&self) -> io::Result<Option<SocketAddr>> {
        let beside = self.beside.as_ref();
        beside.map(|door| door.listener.local_addr()).transpose()
    }

    /// Serves until `stop` resolves, and then drains: until every request got its reply, or the
    /// grace period is over.
    pub async fn serve(self, stop: impl Future<Output = ()>) -> Drained {
        let Server {
            main,
            beside,
            grace,
            stage,
        } = self;
        let mut to_the_end = JoinSet::new();
        if let Some(door) = beside {
            let progress = Progress {
                stage: stage.subscribe(),
                closes: false,
            };
            to_the_end.spawn(async move {
                let (mut connections, never) = (JoinSet::new(), std::future::pending());
                door.take_until(never, &progress, &mut connections).await;
            });
        }
        let progress = Progress {
            stage: stage.subscribe(),
            closes: true,
        };
        let mut connections = JoinSet::new();
        let last = main.take_until(stop, &progress, &mut connections).await;
        stage.send_replace(Stage::Draining);
        let places = Places::new(0);
        for stream in last.into_iter().chain(taken_by_the_kernel(main.listener)) {
            let (place, site) = (places.one_more(), main.site.clone());
            connections.spawn(serve(stream, place, site, progress.clone()));
        }
        let over = async { while connections.join_next().await.is_some() {} };
        let mut over = std::pin::pin!(over);
        if timeout(LINGER, &mut over).await.is_ok() {
            return Drained::All;
        }
        stage.send_replace(Stage::Closing);
        match timeout(grace, over).await {
            Ok(()) => Drained::All,
            Err(_) => Drained::CutOff,
        }
    }
}

impl Door {
    /// Accepts and serves connections until `stop` resolves. Returns a connection that was
    /// accepted and has no place yet, if there is one.
    async fn take_until(
        &self,
        stop: impl Future<Output = ()>,
        progress: &Progress,
        connections: &mut JoinSet<()>,
    ) -> Option<TcpStream> {
        let mut places = Places::new(self.connections_max);
        let mut waiting = None;
        let mut stop = std::pin::pin!(stop);
        loop {
            tokio::select! {
                biased;
                () = &mut stop => return waiting,
                Some(_) = connections.join_next() => {}
                stream = accept(&self.listener), if waiting.is_none() => waiting = Some(stream),
                place = places.take(), if waiting.is_some() => {
                    if let Some(stream) = waiting.take() {
                        let (site, progress) = (self.site.clone(), progress.clone());
                        connections.spawn(serve(stream, place, site, progress));
                    }
                }
            }
        }
    }
}

/// The next connection.
async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
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

/// The connections that the kernel has accepted for us.
fn taken_by_the_kernel(listener: TcpListener) -> Vec<TcpStream> {
    let mut streams = Vec::new();
    if let Ok(listener) = listener.into_std() {
        // The listener does not block: an error means that there is none left.
        while let Ok((stream, _)) = listener.accept() {
            let stream = stream
                .set_nonblocking(true)
                .and_then(|()| TcpStream::from_std(stream));
            streams.extend(stream);
        }
    }
    streams
}
