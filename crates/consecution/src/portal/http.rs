//! Chains over HTTP/1.1: body in, body out.
//!
//! It turns requests into runs, and their results into replies; `docs/http.md` describes the
//! interface. It must not know who runs links: [`Links`] gives it their states.
//!
//! [`bind`] opens an address, and [`Server::serve`] then answers on it.

// | module | for |
// |---|---|
// | `routes` | which method and path lead where |
// | `call` | one call of a chain |
// | `upload`, `answer` | the body of a request, and of a reply |
// | `spool` | output that comes before its reply may begin |
// | `prefer` | what a client would rather have |
// | `problem`, `headers` | how failures, and the ends of links, are written |
// | `chains` | the chains that are offered at one time |
// | `looks`, `readiness` | what keeps chains from being run |
// | `metrics`, `latency`, `recent` | what is counted, timed, and kept of failures |
// | `stats`, `ui` | the figures for people who look on, and the page that shows them |
// | `log`, `traced` | what the log says of calls, and their spans |

mod answer;
mod call;
mod chains;
mod headers;
mod latency;
mod log;
mod looks;
mod metrics;
mod prefer;
mod problem;
mod readiness;
mod recent;
mod routes;
mod spool;
mod stats;
mod traced;
mod ui;
mod upload;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chain::{Chain, Right};
use parking_lot::RwLock;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use serde::Serialize;

pub use looks::{Figures, LinkState, Links, Probed, RunnerEntry};
pub use spool::{BYTES_MAX_DEFAULT as SPOOL_BYTES_MAX_DEFAULT, SpoolOptions};

use self::chains::{Chains, Offered};
use self::metrics::Metrics;
use self::problem::Problem;
use self::readiness::Readiness;
use self::recent::Recent;
use self::spool::Room;
use self::stats::Following;
use super::{ChainError, FailureReason, Portal};
use crate::http::access::browser::Pages;
use crate::http::access::{Caller, Refusals};
use crate::http::{self, Counts, Listen, ListenError, Server};
use crate::trace::CallId;

/// The settings of a portal's address.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The settings of the HTTP server.
    pub server: http::Options,
    /// The most bytes of a request's body; `None` for no limit.
    pub request_bytes_max: Option<u64>,
    /// The buffer for output that comes before its reply may begin.
    pub spool: SpoolOptions,
    /// A second address for monitoring, which takes no calls.
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
    mut registry: Registry,
) -> Result<(Server, Offer), ListenError> {
    let spool = options.spool.clone();
    // On a blocking thread, because it checks the spool's folder.
    let room = tokio::task::spawn_blocking(|| Room::open(spool)).await;
    let room = room.unwrap_or_else(|_| Room::open(SpoolOptions::default()));
    let counts = Counts::register(&mut registry);
    let (refusals, registered) = (counts.refusals.clone(), &mut registry);
    let site = Site::new(chains, links, &options, room, refusals, registered);
    let site = Arc::new(site);
    let registry = Arc::new(registry);
    let main = routes::main(Arc::clone(&site), Arc::clone(&registry));
    let server = Server::bind(listen, options.server, main, &counts).await?;
    let server = match &options.admin {
        Some(listen) => {
            let admin = routes::admin(Arc::clone(&site), registry);
            server.beside(listen, admin).await?
        }
        None => server,
    };
    Ok((server, Offer(site)))
}

/// Says which chains a server offers.
#[derive(Clone)]
pub struct Offer(Arc<Site>);

impl Offer {
    /// Replaces the chains. Requests in flight continue with the old ones.
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
        // Dropped after the lock is released: this may be the last that holds a portal.
        drop(before);
    }
}

/// The state that the routes of a portal share.
struct Site {
    chains: RwLock<Arc<Chains>>,
    metrics: Metrics,
    readiness: Readiness,
    /// Requests that were refused because there were too many connections.
    turned_away: Counter,
    /// The pages that may call chains, and a count of those that have and may not.
    pages: Pages,
    refusals: Refusals,
    request_bytes_max: Option<u64>,
    stall_wait_max: Duration,
    room: Arc<Room>,
    recent: Arc<Recent>,
    following: Following,
}

/// A chain, as `/chains` shows it.
#[derive(Serialize)]
struct ChainEntry<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<&'a str>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    parameters: BTreeMap<&'a str, ParameterEntry<'a>>,
    links: Vec<LinkEntry<'a>>,
}

#[derive(Serialize)]
struct ParameterEntry<'a> {
    pattern: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    default: Option<&'a str>,
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
        refusals: Refusals,
        registry: &mut Registry,
    ) -> Site {
        room.count_in(registry);
        let recent = Arc::<Recent>::default();
        let metrics = Metrics::new(registry, Arc::clone(&recent));
        let turned_away = Counter::default();
        let help = "Requests that were turned away since there were too many connections";
        registry.register("http_turned_away", help, turned_away.clone());
        Site {
            chains: RwLock::new(Arc::new(Chains::new(portals, &metrics))),
            metrics,
            readiness: Readiness::new(links),
            turned_away,
            pages: options.server.pages(),
            refusals,
            request_bytes_max: options.request_bytes_max,
            stall_wait_max: options.server.stall_wait_max,
            room: Arc::new(room),
            recent,
            following: Following::new(),
        }
    }

    /// The chains that are offered at present.
    fn chains(&self) -> Arc<Chains> {
        // Nothing that runs under the lock can leave it half-changed.
        let now = self.chains.read();
        Arc::clone(&now)
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

/// Those of the chains that the caller may see: all of them, or those that it may call.
fn list<'a>(chains: &'a [Offered], caller: &Caller) -> Vec<ChainEntry<'a>> {
    let sees_all = caller.may(&Right::View);
    chains
        .iter()
        .filter(|offered| sees_all || caller.may_call(offered.name()))
        .map(|offered| {
            let chain = offered.portal.chain();
            let links = chain.links.iter().map(|link| LinkEntry {
                name: &link.name,
                id: link.id.to_string(),
                image: &link.link.image,
            });
            ChainEntry {
                name: &chain.name,
                content_type: chain.content_type.as_deref(),
                parameters: parameters(chain),
                links: links.collect(),
            }
        })
        .collect()
}

/// The parameters of a chain, by name.
fn parameters(chain: &Chain) -> BTreeMap<&str, ParameterEntry<'_>> {
    let parameters = chain.parameters.iter().map(|(name, parameter)| {
        let entry = ParameterEntry {
            pattern: parameter.pattern.as_str(),
            default: parameter.default.as_deref(),
        };
        (name.as_str(), entry)
    });
    parameters.collect()
}
