//! What this process does, as JSON: the figures behind the page and `consecution top`.
//!
//! One task makes them once a second for all who follow, and only while somebody does.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderValue};
use axum::http::{Response, StatusCode, Uri};
use axum::response::IntoResponse;
use bytes::Bytes;
use chain::{ChainLink, LinkId, Right};
use futures_util::{StreamExt, stream};
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep, sleep_until};

use super::chains::Offered;
use super::latency::{self, BOUNDS, Times};
use super::looks::{Figures, RunnerEntry};
use super::metrics::LinkMetrics;
use super::readiness::Ready;
use super::recent::{Failure, seconds};
use super::{ParameterEntry, Site, parameters};
use crate::figures::Processes;
use crate::http::access::Caller;
use crate::http::{Client, Problem, json_bytes};
use crate::portal::command_line;
use crate::trace::CallId;

/// How often the figures are made while somebody follows them, and how long those that were
/// made are given to others.
const EVERY: Duration = Duration::from_secs(1);

/// How many may follow at a time.
const FOLLOWERS_MAX: usize = 32;

/// How long a stream of events lasts. Who asks is found out at its beginning only, so one whose
/// key is no longer good must have to ask again.
const EVENTS_LAST: Duration = Duration::from_secs(5 * 60);

/// The type of a stream of events, by which a client says that it wants to follow.
const EVENTS: &str = "text/event-stream";

/// The figures at a moment. `docs/http.md` describes them.
#[derive(Serialize)]
struct Stats<'a> {
    version: &'static str,
    /// When this process was started, and now: seconds since 1970.
    started: f64,
    now: f64,
    #[serde(flatten)]
    ready: Ready,
    in_flight: i64,
    /// The bounds of all `buckets`, in seconds; the last bucket has none.
    bounds: [f64; BOUNDS],
    chains: Vec<ChainStats<'a>>,
    runners: Vec<RunnerEntry>,
    /// Oldest first.
    failures: Vec<Failure>,
}

#[derive(Serialize)]
struct ChainStats<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<&'a str>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    parameters: BTreeMap<&'a str, ParameterEntry<'a>>,
    calls: u64,
    in_flight: i64,
    /// By kind; those that never happened are left out.
    failures: BTreeMap<&'static str, u64>,
    times: Times,
    links: Vec<LinkStats<'a>>,
}

#[derive(Serialize)]
struct LinkStats<'a> {
    name: &'a str,
    id: String,
    image: &'a str,
    command: String,
    /// How often it ran, and for how many seconds altogether.
    runs: u64,
    /// How often of these it was joined to the link before.
    joined: u64,
    seconds: f64,
    /// The processor seconds that it has used, as far as they were counted.
    cpu_seconds: f64,
    processes: Processes,
}

/// The figures as they were made last, for those who follow.
pub(super) struct Following {
    started: SystemTime,
    latest: watch::Sender<Bytes>,
    /// Locked while they are made, so that this is done once for all who ask.
    made: tokio::sync::Mutex<Option<(Instant, Bytes)>>,
    places: Arc<Semaphore>,
    is_making: Mutex<bool>,
}

impl Following {
    pub(super) fn new() -> Following {
        Following {
            started: SystemTime::now(),
            latest: watch::Sender::new(Bytes::new()),
            made: tokio::sync::Mutex::default(),
            places: Arc::new(Semaphore::new(FOLLOWERS_MAX)),
            is_making: Mutex::new(false),
        }
    }
}

/// Answers `GET /stats`: the figures, or a stream of them where the client asks for events.
pub(super) async fn stats(
    State(site): State<Arc<Site>>,
    Extension(client): Extension<Client>,
    Extension(call_id): Extension<CallId>,
    caller: Caller,
    uri: Uri,
    headers: HeaderMap,
) -> Response<Body> {
    let refused = match &caller {
        _ if !caller.may(&Right::View) => Some(caller.lacks(Right::View)),
        Caller::Anyone => site.pages.refuse_look(&headers, &uri),
        // A page under another name has no key.
        _ => None,
    };
    if let Some(problem) = refused {
        return problem.with_call_id(&call_id).into_response();
    }
    let accepted = headers.get(ACCEPT).and_then(|it| it.to_str().ok());
    let mut response = match accepted {
        Some(accepted) if accepted.contains(EVENTS) => match follow(&site) {
            Some((news, place)) => events(news, place, client),
            None => return too_many().with_call_id(&call_id).into_response(),
        },
        _ => json_bytes(StatusCode::OK, recent(&site).await),
    };
    let no_store = HeaderValue::from_static("no-store");
    response.headers_mut().insert(CACHE_CONTROL, no_store);
    response
}

fn too_many() -> Problem {
    let detail = format!("{FOLLOWERS_MAX} clients follow these figures already; ask without it");
    let status = StatusCode::SERVICE_UNAVAILABLE;
    Problem::new(status, "too many follow", detail)
}

/// A place among those who follow, and the figures as they are made; `None` if there is no
/// place.
fn follow(site: &Arc<Site>) -> Option<(watch::Receiver<Bytes>, OwnedSemaphorePermit)> {
    let following = &site.following;
    let place = Arc::clone(&following.places).try_acquire_owned().ok()?;
    let mut is_making = following.is_making.lock();
    let news = following.latest.subscribe();
    if !*is_making {
        *is_making = true;
        tokio::spawn(make(Arc::clone(site)));
    }
    Some((news, place))
}

/// Makes figures for as long as somebody follows.
async fn make(site: Arc<Site>) {
    loop {
        let next = Instant::now() + EVERY;
        let figures = recent(&site).await;
        site.following.latest.send_replace(figures);
        sleep_until(next).await;
        let mut is_making = site.following.is_making.lock();
        if site.following.latest.receiver_count() == 0 {
            *is_making = false;
            return;
        }
    }
}

/// The figures as events. A client that reads too slowly misses some.
fn events(
    news: watch::Receiver<Bytes>,
    place: OwnedSemaphorePermit,
    client: Client,
) -> Response<Body> {
    let events = stream::unfold((news, place, client), async |(mut news, place, client)| {
        tokio::select! {
            changed = news.changed() => changed.ok()?,
            () = client.until_draining() => return None,
        }
        let figures = news.borrow_and_update().clone();
        let event = [b"data: ", &figures[..], b"\n"].concat();
        Some((
            Ok::<_, Infallible>(Bytes::from(event)),
            (news, place, client),
        ))
    });
    let events = events.take_until(sleep(EVENTS_LAST));
    let mut response = Response::new(Body::from_stream(events));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(EVENTS));
    // nginx would keep events back.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// The figures, as JSON in one line. They are no older than a second.
async fn recent(site: &Site) -> Bytes {
    let mut made = site.following.made.lock().await;
    if let Some((at, figures)) = &*made
        // Less, so that the next event has new ones.
        && at.elapsed() < EVERY / 2
    {
        return figures.clone();
    }
    let at = Instant::now();
    let figures = make_once(site).await;
    *made = Some((at, figures.clone()));
    figures
}

async fn make_once(site: &Site) -> Bytes {
    let chains = site.chains();
    let Figures { links, runners } = site.readiness.figures(chains.all()).await;
    let is_served = |id| links.contains_key(&id);
    let ready = site.readiness.beside(chains.all(), is_served).await;
    let of_chain = |offered| chain_stats(offered, &links);
    let stats = Stats {
        version: env!("CARGO_PKG_VERSION"),
        started: seconds(site.following.started),
        now: seconds(SystemTime::now()),
        ready,
        in_flight: chains.all().iter().map(|it| it.metrics.in_flight()).sum(),
        bounds: latency::bounds(),
        chains: chains.all().iter().map(of_chain).collect(),
        runners,
        failures: site.recent.all(),
    };
    // Texts and numbers can always be written.
    let mut json = serde_json::to_vec(&stats).unwrap_or_default();
    json.push(b'\n');
    json.into()
}

fn chain_stats<'a>(
    offered: &'a Offered,
    processes: &BTreeMap<LinkId, Processes>,
) -> ChainStats<'a> {
    let chain = offered.portal.chain();
    let links = chain.links.iter().zip(offered.metrics.links());
    let links = links.map(|(link, metrics)| link_stats(link, metrics, processes));
    ChainStats {
        name: &chain.name,
        content_type: chain.content_type.as_deref(),
        parameters: parameters(chain),
        calls: offered.metrics.calls(),
        in_flight: offered.metrics.in_flight(),
        failures: offered.metrics.failures(),
        times: offered.metrics.times(),
        links: links.collect(),
    }
}

fn link_stats<'a>(
    link: &'a ChainLink,
    metrics: &LinkMetrics,
    processes: &BTreeMap<LinkId, Processes>,
) -> LinkStats<'a> {
    let times = metrics.times();
    LinkStats {
        name: &link.name,
        id: link.id.to_string(),
        image: &link.link.image,
        command: command_line(&link.link),
        runs: times.count,
        joined: metrics.joined(),
        seconds: times.seconds,
        cpu_seconds: metrics.cpu().as_secs_f64(),
        processes: processes.get(&link.id).copied().unwrap_or_default(),
    }
}
