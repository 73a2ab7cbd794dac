//! Chains over HTTP/1.1: body in, body out.
//!
//! It turns requests into runs, and what becomes of them into replies; the
//! interface is described in `docs/http.md`. It must not know who runs links:
//! what it says about them it is told through [`Links`].
//!
//! | module | for |
//! |---|---|
//! | `route` | which path means what |
//! | `call` | one call of a chain |
//! | `upload`, `answer` | the body of a request, and of a reply |
//! | `problem`, `story` | how failures and fates are written |
//! | `readiness` | what keeps chains from being run |
//! | `metrics` | what is counted |
//! | `log` | what the log says of calls |

mod answer;
mod call;
mod log;
mod metrics;
mod problem;
mod readiness;
mod route;
mod story;
mod upload;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use hyper::body::Incoming;
use hyper::header::{ALLOW, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::{Request, Response, StatusCode};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use serde::Serialize;

pub use readiness::{LinkState, Links, Probed};

use self::metrics::{ChainMetrics, Metrics};
use self::problem::{Problem, RETRY_AFTER_S};
use self::readiness::{Missing, Readiness};
use self::route::{NoRoute, Route, route};
use self::upload::Upload;
use super::{ChainError, FailureReason, Portal};
use crate::http::{self, Answer, Reset, Server};
use crate::trace::CallId;

/// The header that carries a call's id, both ways.
const CALL_ID: HeaderName = HeaderName::from_static("consecution-call-id");

/// How to serve chains.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// How to serve at all.
    pub server: http::Options,
    /// How large a request's body may be; `None` for no limit.
    pub request_bytes_max: Option<u64>,
}

/// Opens an address on which `chains` are offered, the first one also at `/`, and
/// all that is counted in `registry`.
///
/// # Errors
/// The address cannot be had.
pub async fn bind(
    address: SocketAddr,
    options: Options,
    chains: Vec<Portal>,
    links: Arc<dyn Links>,
    registry: Registry,
) -> io::Result<Server> {
    let site = Site::new(chains, links, options.request_bytes_max, registry);
    Server::bind(address, options.server, Arc::new(site)).await
}

/// What is offered.
struct Site {
    chains: Vec<Offered>,
    by_name: BTreeMap<String, usize>,
    readiness: Readiness,
    registry: Registry,
    connections: Gauge,
    request_bytes_max: Option<u64>,
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

impl Site {
    fn new(
        portals: Vec<Portal>,
        links: Arc<dyn Links>,
        request_bytes_max: Option<u64>,
        mut registry: Registry,
    ) -> Site {
        let metrics = Metrics::new(&mut registry);
        let connections = http::count_connections(&mut registry);
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
            registry,
            connections,
            request_bytes_max,
        }
    }

    async fn dispatch(
        &self,
        request: Request<Incoming>,
        call_id: &CallId,
        is_draining: bool,
        reset: &Reset,
    ) -> Response<Answer> {
        let found = match route(request.method(), request.uri().path()) {
            Ok(Route::Call(None)) => self.chains.first().ok_or(NoRoute::Path),
            Ok(Route::Call(Some(name))) => match self.by_name.get(name) {
                Some(at) => Ok(&self.chains[*at]),
                None => Err(NoRoute::Path),
            },
            Ok(Route::Chains) => return http::json(StatusCode::OK, &self.list()),
            Ok(Route::Health) => return http::health(),
            Ok(Route::Ready) => return self.ready(is_draining).await,
            Ok(Route::Metrics) => return http::metrics(&self.registry),
            Err(no_route) => Err(no_route),
        };
        match found {
            Ok(chain) => call::call(self, chain, request, call_id, reset).await,
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

    /// What became of a run that failed, as far as it is told by a reply.
    async fn problem(&self, error: &ChainError, call_id: &CallId) -> Problem {
        let problem = Problem::of_run(error, call_id);
        if error.reason != FailureReason::NoRunner {
            return problem;
        }
        let why = (self.readiness).why_unserved(&self.chains, &error.chain, error.index);
        match why.await {
            Some(why) => problem.because(&why),
            None => problem,
        }
    }

    async fn ready(&self, is_draining: bool) -> Response<Answer> {
        let missing = &*self.readiness.missing(&self.chains).await;
        // Whoever shares the load among several is to look elsewhere now.
        let ready = missing.is_empty() && !is_draining;
        if ready {
            return http::json(StatusCode::OK, &Ready { ready, missing });
        }
        let unavailable = StatusCode::SERVICE_UNAVAILABLE;
        let mut response = http::json(unavailable, &Ready { ready, missing });
        response
            .headers_mut()
            .insert(RETRY_AFTER, RETRY_AFTER_S.into());
        response
    }
}

impl http::Site for Site {
    fn answer<'a>(
        &'a self,
        request: Request<Incoming>,
        is_draining: bool,
        reset: &'a Reset,
    ) -> BoxFuture<'a, Response<Answer>> {
        let given = request.headers().get(&CALL_ID);
        let call_id = CallId::new(given.map(HeaderValue::as_bytes));
        Box::pin(async move {
            let dispatched = self.dispatch(request, &call_id, is_draining, reset);
            let mut response = dispatched.await;
            let headers = response.headers_mut();
            // Visible ASCII, which any header can carry.
            headers.extend(HeaderValue::from_str(call_id.as_str()).map(|id| (CALL_ID, id)));
            response
        })
    }

    fn connections(&self) -> &Gauge {
        &self.connections
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
