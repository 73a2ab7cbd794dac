//! Serves connections, bounds their number, and drains them.
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
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::Options;
use super::access::browser::Pages;
use super::access::{Guard, Refusals};
use super::arrivals::{Arrivals, Arrived, Encryption};
use super::connection::{Progress, serve};
use super::listen::{Listen, ListenError};
use super::places::Places;
use super::stall::Unacknowledged;

/// How long a drain waits for requests that clients may just be sending on idle connections.
const LINGER: Duration = Duration::from_secs(1);

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
    protection: Protection,
    grace: Duration,
    stage: watch::Sender<Stage>,
}

/// What is counted of the connections and requests of a server.
#[derive(Clone, Default)]
pub(crate) struct Counts {
    connections: Gauge,
    pub(crate) refusals: Refusals,
    handshake_failures: Counter,
}

impl Counts {
    /// Registers them.
    pub(crate) fn register(registry: &mut Registry) -> Counts {
        let counts = Counts {
            refusals: Refusals::count_in(registry),
            ..Counts::default()
        };
        let connections = counts.connections.clone();
        registry.register("http_connections", "Open connections", connections);
        let failures = counts.handshake_failures.clone();
        let help = "Connections that have not become encrypted ones";
        registry.register("http_handshake_failures", help, failures);
        counts
    }
}

/// What is between clients and the routes of each address of a server.
#[derive(Clone)]
struct Protection {
    encryption: Option<Encryption>,
    /// `None` if everyone may do everything.
    guard: Option<Arc<Guard>>,
    pages: Pages,
}

impl Protection {
    fn new(options: &Options, counts: &Counts) -> Protection {
        let knows_clients = options.tls.as_ref().is_some_and(|tls| tls.knows_clients);
        let is_guarded = options.keys.is_some() || knows_clients;
        let guard = || Guard::new(options.keys.clone(), counts.refusals.clone());
        Protection {
            encryption: options.tls.clone().map(|tls| Encryption {
                tls,
                failures: counts.handshake_failures.clone(),
            }),
            guard: is_guarded.then(|| Arc::new(guard())),
            pages: options.pages(),
        }
    }

    /// Preflights say nothing of who asks, so they are answered before that counts.
    fn before(&self, router: Router) -> Router {
        let router = match &self.guard {
            Some(guard) => guard.before(router),
            None => router,
        };
        match self.pages.cors() {
            Some(cors) => router.layer(cors),
            None => router,
        }
    }
}

/// An address, and the routes there.
struct Door {
    listener: TcpListener,
    encryption: Option<Encryption>,
    site: Site,
    connections_max: usize,
}

/// The routes of an address. Clones share them.
#[derive(Clone)]
pub(super) struct Site {
    pub(super) router: Router,
    /// Whether a guard stands before them.
    pub(super) is_guarded: bool,
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
    /// Opens an address for `router`.
    pub(crate) async fn bind(
        listen: &Listen,
        options: Options,
        router: Router,
        counts: &Counts,
    ) -> Result<Server, ListenError> {
        let protection = Protection::new(&options, counts);
        Ok(Server {
            main: Door {
                listener: listen.bind().await?,
                encryption: protection.encryption.clone(),
                site: Site {
                    router: protection.before(router),
                    is_guarded: protection.guard.is_some(),
                    connections: counts.connections.clone(),
                    waits: Waits {
                        head_max: options.head_wait_max,
                        stall_max: options.stall_wait_max,
                        unacknowledged: Arc::default(),
                    },
                },
                connections_max: options.connections_max,
            },
            beside: None,
            protection,
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
            encryption: self.protection.encryption.clone(),
            site: Site {
                router: self.protection.before(router),
                is_guarded: self.protection.guard.is_some(),
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

    /// Whether its addresses are encrypted.
    pub fn is_encrypted(&self) -> bool {
        self.protection.encryption.is_some()
    }

    /// Whether everyone who can reach it may do everything.
    pub fn is_open_to_all(&self) -> bool {
        self.protection.guard.is_none()
    }

    /// Serves until `stop` resolves, and then drains: until every request got its reply, or the
    /// grace period is over.
    pub async fn serve(self, stop: impl Future<Output = ()>) -> Drained {
        let Server {
            main,
            beside,
            grace,
            stage,
            ..
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
        let (waiting, mut arrivals) = main.take_until(stop, &progress, &mut connections).await;
        stage.send_replace(Stage::Draining);
        for stream in taken_by_the_kernel(main.listener) {
            arrivals.push(stream);
        }
        connections.spawn(serve_last(waiting, arrivals, main.site, progress));
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
    /// Accepts and serves connections until `stop` resolves. Returns those that have no place
    /// yet.
    async fn take_until(
        &self,
        stop: impl Future<Output = ()>,
        progress: &Progress,
        connections: &mut JoinSet<()>,
    ) -> (Option<Arrived>, Arrivals) {
        let mut places = Places::new(self.connections_max);
        let mut arrivals = Arrivals::new(self.encryption.clone());
        let mut waiting = None;
        let mut stop = std::pin::pin!(stop);
        loop {
            tokio::select! {
                biased;
                () = &mut stop => return (waiting, arrivals),
                Some(_) = connections.join_next() => {}
                arrived = arrivals.next(&self.listener), if waiting.is_none() => {
                    waiting = Some(arrived);
                }
                place = places.take(), if waiting.is_some() => {
                    if let Some(arrived) = waiting.take() {
                        let (site, progress) = (self.site.clone(), progress.clone());
                        connections.spawn(serve(arrived, place, site, progress));
                    }
                }
            }
        }
    }
}

/// Serves those that came before a drain and have no place.
async fn serve_last(
    waiting: Option<Arrived>,
    mut arrivals: Arrivals,
    site: Site,
    progress: Progress,
) {
    let places = Places::new(0);
    let mut connections = JoinSet::new();
    let mut next = waiting;
    loop {
        let arrived = match next.take() {
            Some(arrived) => arrived,
            None => match arrivals.last().await {
                Some(arrived) => arrived,
                None => break,
            },
        };
        let (place, site) = (places.one_more(), site.clone());
        connections.spawn(serve(arrived, place, site, progress.clone()));
    }
    while connections.join_next().await.is_some() {}
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
