//! Chains over HTTP/1.1: body in, body out.
//!
//! It turns requests into runs, and what becomes of them into replies; the
//! interface is described in `docs/http.md`. It must not know who runs links:
//! what it says about them it is told through [`Links`].
//!
//! | module | for |
//! |---|---|
//! | `server` | connections: taken, bounded, drained |
//! | `route` | which path means what |
//! | `call` | one call of a chain |
//! | `upload`, `answer` | the body of a request, and of a reply |
//! | `problem`, `story` | how failures and fates are written |
//! | `readiness` | what keeps chains from being run |
//! | `metrics` | what is counted |

mod answer;
mod call;
mod metrics;
mod problem;
mod readiness;
mod route;
mod server;
mod story;
mod upload;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::{Request, Response, StatusCode};
use serde::Serialize;
use tokio::sync::watch;

pub use readiness::{LinkState, Links, PoolSizes, Probed};
pub use server::{Drained, Server};

use self::answer::{Answer, Reset};
use self::metrics::{ChainMetrics, Metrics};
use self::problem::{Problem, RETRY_AFTER_S};
use self::readiness::{Missing, Readiness};
use self::route::{NoRoute, Route, route};
use self::server::Stage;
use self::upload::Upload;
use super::Portal;
use crate::trace::CallId;

/// The header that carries a call's id, both ways.
const CALL_ID: HeaderName = HeaderName::from_static("consecution-call-id");

/// How many connections there may be at a time, unless it is said otherwise;
/// more wait to be taken.
pub const CONNECTIONS_MAX_DEFAULT: usize = 1024;

/// How long a client may take for a request's head, and for the next one, unless
/// it is said otherwise.
pub const HEAD_WAIT_MAX_DEFAULT: Duration = Duration::from_secs(30);

/// How long a drain waits for requests in flight, unless it is said otherwise.
pub const GRACE_DEFAULT: Duration = Duration::from_secs(30);

/// How to serve.
#[derive(Debug, Clone)]
pub struct Options {
    /// Connections at a time.
    pub connections_max: usize,
    /// How long a client may take for a request's head, and for the next one.
    pub head_wait_max: Duration,
    /// How large a request's body may be; `None` for no limit.
    pub request_bytes_max: Option<u64>,
    /// How long a drain waits for requests in flight.
    pub grace: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            connections_max: CONNECTIONS_MAX_DEFAULT,
            head_wait_max: HEAD_WAIT_MAX_DEFAULT,
            request_bytes_max: None,
            grace: GRACE_DEFAULT,
        }
    }
}

/// Opens an address on which `chains` are offered, the first one also at `/`.
///
/// # Errors
/// The address cannot be had.
pub async fn bind(
    address: SocketAddr,
    options: Options,
    chains: Vec<Portal>,
    links: Arc<dyn Links>,
) -> io::Result<Server> {
    let site = |options: &Options, stage| Site::new(chains, links, options, stage);
    Server::bind(address, options, site).await
}

/// What is offered.
struct Site {
    chains: Vec<Offered>,
    by_name: BTreeMap<String, usize>,
    readiness: Readiness,
    metrics: Metrics,
    head_wait_max: Duration,
    request_bytes_max: Option<u64>,
    stage: watch::Receiver<Stage>,
}

/// A chain that is offered.
struct Offered {
    portal: Portal,
    metrics: Arc<ChainMetrics>,
}

/// A chain, as `/chains` shows it.
#[derive(Serialize)]
struct ChainEntry<'a> {
    name: &'a str,
    links: Vec<LinkEntry<'a>>,
}

#[derive(Serialize)]
struct LinkEntry<'a> {
    name: &'a str,
    id: String,
    image: &'a str,
}

/// Whether all chains can be run, as `/readyz` shows it.
#[derive(Serialize)]
struct Ready<'a> {
    ready: bool,
    missing: &'a [Missing],
}

/// Counts a connection while it is held.
struct Open<'a>(&'a Site);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.metrics.connections.dec();
    }
}

impl Site {
    fn new(
        portals: Vec<Portal>,
        links: Arc<dyn Links>,
        options: &Options,
        stage: watch::Receiver<Stage>,
    ) -> Site {
        let ids = portals.iter().flat_map(|portal| &portal.chain().links);
        let ids: BTreeSet<_> = ids.map(|link| link.id).collect();
        let metrics = Metrics::new(Arc::clone(&links), ids.into_iter().collect());
        let offer = |portal: Portal| Offered {
            metrics: metrics.of_chain(portal.chain()),
            portal,
        };
        let chains: Vec<_> = portals.into_iter().map(offer).collect();
        let names = chains.iter().enumerate();
        let names = names.map(|(at, offered)| (offered.portal.chain().name.clone(), at));
        Site {
            by_name: names.collect(),
            chains,
            readiness: Readiness::new(links),
            metrics,
            head_wait_max: options.head_wait_max,
            request_bytes_max: options.request_bytes_max,
            stage,
        }
    }

    fn count_connection(&self) -> Open<'_> {
        self.metrics.connections.inc();
        Open(self)
    }

    /// Answers a request, whatever it is.
    async fn answer(&self, request: Request<Incoming>, reset: &Reset) -> Response<Answer> {
        let call_id = CallId::new(request.headers().get(&CALL_ID).map(HeaderValue::as_bytes));
        let mut response = self.dispatch(request, &call_id, reset).await;
        let headers = response.headers_mut();
        // Visible ASCII, which any header can carry.
        headers.extend(HeaderValue::from_str(call_id.as_str()).map(|id| (CALL_ID, id)));
        if *self.stage.borrow() > Stage::Open {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    async fn dispatch(
        &self,
        request: Request<Incoming>,
        call_id: &CallId,
        reset: &Reset,
    ) -> Response<Answer> {
        let found = match route(request.method(), request.uri().path()) {
            Ok(Route::Call(None)) => self.chains.first().ok_or(NoRoute::Path),
            Ok(Route::Call(Some(name))) => match self.by_name.get(name) {
                Some(at) => Ok(&self.chains[*at]),
                None => Err(NoRoute::Path),
            },
            Ok(Route::Chains) => return json(StatusCode::OK, &self.list()),
            Ok(Route::Health) => return text("text/plain; charset=utf-8", "ok\n"),
            Ok(Route::Ready) => return self.ready().await,
            Ok(Route::Metrics) => {
                let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
                return text(kind, self.metrics.render());
            }
            Err(no_route) => Err(no_route),
        };
        match found {
            Ok(chain) => call::call(chain, request, self.request_bytes_max, call_id, reset).await,
            Err(no_route) => refuse(request, &no_route, call_id),
        }
    }

    fn list(&self) -> Vec<ChainEntry<'_>> {
        self.chains
            .iter()
            .map(|offered| {
                let chain = offered.portal.chain();
                let links = chain.links.iter().map(|link| LinkEntry {
                    name: &link.name,
                    id: link.id.to_string(),
                    image: &link.link.image,
                });
                ChainEntry {
                    name: &chain.name,
                    links: links.collect(),
                }
            })
            .collect()
    }

    async fn ready(&self) -> Response<Answer> {
        let missing = &*self.readiness.missing(&self.chains).await;
        // Whoever shares the load among several is to look elsewhere now.
        let ready = missing.is_empty() && *self.stage.borrow() == Stage::Open;
        if ready {
            return json(StatusCode::OK, &Ready { ready, missing });
        }
        let unavailable = StatusCode::SERVICE_UNAVAILABLE;
        let mut response = json(unavailable, &Ready { ready, missing });
        response
            .headers_mut()
            .insert(RETRY_AFTER, RETRY_AFTER_S.into());
        response
    }
}

fn refuse(request: Request<Incoming>, no_route: &NoRoute, call_id: &CallId) -> Response<Answer> {
    let (status, title) = match no_route {
        NoRoute::Path => (StatusCode::NOT_FOUND, "there is nothing of that name"),
        NoRoute::Method(_) => (StatusCode::METHOD_NOT_ALLOWED, "the method is not allowed"),
    };
    let path = request.uri().path();
    let detail = match no_route {
        NoRoute::Path if path.starts_with("/chains/") => format!("no chain is offered at {path}"),
        NoRoute::Path => format!("there is nothing at {path}"),
        NoRoute::Method(allowed) => format!("{path} takes {allowed}"),
    };
    let mut response = call::respond(&Problem::new(status, title, detail, call_id));
    if let NoRoute::Method(allowed) = no_route {
        response
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static(allowed));
    }
    let is_held_back = request.headers().contains_key(hyper::header::EXPECT);
    // It sees to what is still on its way.
    drop(Upload::new(request.into_body(), None, is_held_back));
    response
}

fn text(kind: &'static str, text: impl Into<Bytes>) -> Response<Answer> {
    let mut response = Response::new(Answer::Whole(text.into()));
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

fn json(status: StatusCode, value: &impl Serialize) -> Response<Answer> {
    // Text and numbers can always be written.
    let mut json = serde_json::to_string(value).unwrap_or_default();
    json.push('\n');
    let mut response = text("application/json", json);
    *response.status_mut() = status;
    response
}
