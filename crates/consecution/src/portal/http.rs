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
//! | `spool` | output that comes before its reply may begin |
//! | `prefer` | what a client would rather have |
//! | `problem`, `story` | how failures and fates are written |
//! | `admin` | the same but calls, on an address of its own |
//! | `chains` | the chains that are offered at one time |
//! | `looks`, `readiness` | what keeps chains from being run |
//! | `metrics` | what is counted |
//! | `log` | what the log says of calls |

mod admin;
mod answer;
mod call;
mod chains;
mod log;
mod looks;
mod metrics;
mod prefer;
mod problem;
mod readiness;
mod route;
mod spool;
mod story;
mod upload;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use hyper::body::Incoming;
use hyper::header::{ALLOW, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::{Request, Response, StatusCode};
use parking_lot::RwLock;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use serde::Serialize;

pub use looks::{LinkState, Links, Probed};
pub use spool::{BYTES_MAX_DEFAULT as SPOOL_BYTES_MAX_DEFAULT, SpoolOptions};

use self::admin::Admin;
use self::chains::{Chains, Offered};
use self::metrics::Metrics;
use self::problem::{Problem, RETRY_AFTER_S};
use self::readiness::{Readiness, Ready};
use self::route::{Look, NoRoute, Route, route};
use self::spool::Room;
use self::upload::Upload;
use super::{ChainError, FailureReason, Portal};
use crate::http::{self, Answer, Client, Listen, ListenError, Server};
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
    /// Where output waits that comes before its reply may begin.
    pub spool: SpoolOptions,
    /// Where, besides, everything but calls is offered to who looks after it.
    pub admin: Option<Listen>,
}

/// Opens an address on which `chains` are offered, the first one also at `/`, and
/// all that is counted in `registry`. Others can take the place of those chains.
///
/// # Errors
/// An address cannot be had.
pub async fn bind(
    listen: &Listen,
    options: Options,
    chains: Vec<Portal>,
    links: Arc<dyn Links>,
    registry: Registry,
) -> Result<(Server, Offer), ListenError> {
    let spool = options.spool.clone();
    // Elsewhere, since it looks at the disk.
    let room = tokio::task::spawn_blocking(|| Room::open(spool)).await;
    let room = room.unwrap_or_else(|_| Room::open(SpoolOptions::default()));
    let site = Arc::new(Site::new(chains, links, &options, room, registry));
    let offer = Offer(Arc::clone(&site));
    let server = Server::bind(listen, options.server, Arc::<Site>::clone(&site)).await?;
    let server = match &options.admin {
        Some(listen) => server.beside(listen, Arc::new(Admin::new(site))).await?,
        None => server,
    };
    Ok((server, offer))
}

/// Says which chains a server offers.
#[derive(Clone)]
pub struct Offer(Arc<Site>);

impl Offer {
    /// From now on these, and no others. Requests that are under way go on with
    /// those that were there.
    pub fn replace(&self, chains: Vec<Portal>) {
        let Site {
            chains: now,
            metrics,
            ..
        } = &*self.0;
        let chains = Chains::new(chains, metrics);
        let mut now = now.write();
        let chains = Arc::new(chains.taking_over_from(&now));
        let before = std::mem::replace(&mut *now, chains);
        drop(now);
        // Not under the lock, since it may be the last to hold a portal.
        drop(before);
    }
}

/// What is offered.
struct Site {
    chains: RwLock<Arc<Chains>>,
    metrics: Metrics,
    readiness: Readiness,
    registry: Registry,
    connections: Gauge,
    /// Requests that were turned away since there are too many connections.
    turned_away: Counter,
    request_bytes_max: Option<u64>,
    stall_wait_max: Duration,
    room: Arc<Room>,
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

impl Site {
    fn new(
        portals: Vec<Portal>,
        links: Arc<dyn Links>,
        options: &Options,
        room: Room,
        mut registry: Registry,
    ) -> Site {
        room.count_in(&mut registry);
        let metrics = Metrics::new(&mut registry);
        let connections = http::count_connections(&mut registry);
        let turned_away = Counter::default();
        let help = "Requests that were turned away since there were too many connections";
        registry.register("http_turned_away", help, turned_away.clone());
        Site {
            chains: RwLock::new(Arc::new(Chains::new(portals, &metrics))),
            metrics,
            readiness: Readiness::new(links),
            registry,
            connections,
            turned_away,
            request_bytes_max: options.request_bytes_max,
            stall_wait_max: options.server.stall_wait_max,
            room: Arc::new(room),
        }
    }

    /// The chains that are offered now.
    fn chains(&self) -> Arc<Chains> {
        // Nothing that runs under the lock can leave it half-changed.
        let now = self.chains.read();
        Arc::clone(&now)
    }

    async fn dispatch(
        &self,
        request: Request<Incoming>,
        call_id: &CallId,
        client: &Client,
    ) -> Response<Answer> {
        let chains = self.chains();
        let found = match route(request.method(), request.uri().path()) {
            Ok(Route::Look(look)) => match self.look(&look, client).await {
                Some(response) => return response,
                None => Err(NoRoute::Path),
            },
            _ if client.is_extra() => return self.turn_away(request, call_id),
            Ok(Route::Call(None)) => chains.first().ok_or(NoRoute::Path),
            Ok(Route::Call(Some(name))) => chains.find(name).ok_or(NoRoute::Path),
            Err(no_route) => Err(no_route),
        };
        match found {
            Ok(chain) => call::call(self, chain, request, call_id, client).await,
            Err(no_route) => refuse(request, &no_route, call_id),
        }
    }

    /// Shows how it is; `None` where there is no such chain.
    async fn look(&self, look: &Look<'_>, client: &Client) -> Option<Response<Answer>> {
        let (chains, is_draining) = (self.chains(), client.is_draining());
        Some(match look {
            Look::Chains => http::json(StatusCode::OK, &list(chains.all())),
            Look::Health => http::health(),
            Look::Ready => show(&self.readiness.of_all(chains.all(), is_draining).await),
            Look::ChainReady(name) => {
                show(&self.readiness.of_one(chains.find(name)?, is_draining).await)
            }
            Look::Metrics => http::metrics(&self.registry),
        })
    }

    /// There are too many connections for calls.
    fn turn_away(&self, request: Request<Incoming>, call_id: &CallId) -> Response<Answer> {
        self.turned_away.inc();
        let (status, title) = (StatusCode::SERVICE_UNAVAILABLE, "too many connections");
        let detail = "as many connections are open as there may be at a time";
        let problem = Problem::new(status, title, detail, call_id);
        decline(request, &problem)
    }

    /// What became of a run that failed, as far as it is told by a reply.
    async fn problem(&self, error: &ChainError, call_id: &CallId) -> Problem {
        let problem = Problem::of_run(error, call_id);
        if error.reason != FailureReason::NoRunner {
            return problem;
        }
        let chains = self.chains();
        let Some(chain) = chains.find(&error.chain) else {
            return problem;
        };
        let why = self.readiness.why_unserved(&chain.portal, error.index);
        match why.await {
            Some(why) => problem.because(&why),
            None => problem,
        }
    }
}

fn show(ready: &Ready) -> Response<Answer> {
    if ready.ready {
        return http::json(StatusCode::OK, ready);
    }
    let mut response = http::json(StatusCode::SERVICE_UNAVAILABLE, ready);
    let headers = response.headers_mut();
    headers.insert(RETRY_AFTER, RETRY_AFTER_S.into());
    response
}

impl http::Site for Site {
    fn answer<'a>(
        &'a self,
        request: Request<Incoming>,
        client: &'a Client,
    ) -> BoxFuture<'a, Response<Answer>> {
        let call_id = call_id(&request);
        Box::pin(async move {
            let response = self.dispatch(request, &call_id, client).await;
            with_call_id(response, &call_id)
        })
    }

    fn connections(&self) -> &Gauge {
        &self.connections
    }
}

/// The id that a request has, or a new one.
fn call_id(request: &Request<Incoming>) -> CallId {
    let given = request.headers().get(&CALL_ID);
    CallId::new(given.map(HeaderValue::as_bytes))
}

fn with_call_id(mut response: Response<Answer>, call_id: &CallId) -> Response<Answer> {
    let headers = response.headers_mut();
    // Visible ASCII, which any header can carry.
    headers.extend(HeaderValue::from_str(call_id.as_str()).map(|id| (CALL_ID, id)));
    response
}

/// Answers a request for which nothing is run.
fn decline(request: Request<Incoming>, problem: &Problem) -> Response<Answer> {
    let is_held_back = request.headers().contains_key(hyper::header::EXPECT);
    // It sees to what is still on its way.
    drop(Upload::new(request.into_body(), None, is_held_back));
    call::respond(problem)
}

fn list(chains: &[Offered]) -> Vec<ChainEntry<'_>> {
    chains
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
    let problem = Problem::new(status, title, detail, call_id);
    let mut response = decline(request, &problem);
    if let NoRoute::Method(allowed) = no_route {
        response
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static(allowed));
    }
    response
}
