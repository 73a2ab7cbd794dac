//! The connection that calls travel on: made, watched, logged, and made again. A
//! runner has another one for requests, see [`super::requests`].
//!
//! The client library reconnects by itself, and takes its subscriptions with it.
//! Should it stop for good, which a message that it cannot bear may do to it, a
//! new client takes its place.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use async_nats::message::OutboundMessage;
use async_nats::{Client, Event, HeaderMap, Subject};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::inbox::{Delivery, Inbox};
use super::options::Target;
use super::pace::{Pace, RECONNECT_WAIT_MAX, RECONNECT_WAIT_MIN};
use super::requests::Requests;
use super::strangers::{Kind, Strangers, kind};
use super::{Role, head};
pub use crate::connection::Connection;

/// How long a call waits for a connection before it is refused.
const CONNECTED_WAIT_MAX: Duration = Duration::from_secs(1);

/// How long after a lost connection is back runners may still be on their way
/// back too, so that nobody being there means nothing.
const SETTLE_TIME: Duration = Duration::from_secs(2);

/// How often the server must show that it is there: after the third silent one
/// the connection counts as lost.
pub(super) const PING_EVERY: Duration = Duration::from_secs(2);

/// How long a server may take to let us in.
pub(super) const CONNECT_WAIT_MAX: Duration = Duration::from_secs(5);

/// Messages that may wait for us in one subscription. The client drops what is
/// beyond, so that must never come: inboxes are emptied at once, and a link's
/// requests become tasks at once.
pub(super) const SUBSCRIPTION_MESSAGES_MAX: usize = 64 * 1024;

/// Messages that may wait to be written; whoever has one more waits its turn.
/// Few, so that a sign of life does not wait behind hundreds of large frames.
pub(super) const OUTGOING_MESSAGES_MAX: usize = 128;

/// How many calls one connection answers at a time. The pool's own bound is far
/// lower; this one keeps a flood of requests from taking all memory.
pub(super) const CALLS_IN_FLIGHT_MAX: usize = 1024;

/// How many more are told at a time that there are too many. Others hear nothing, and
/// ask elsewhere when they have waited for a sign of life.
const REFUSALS_MAX: usize = 1024;

/// How long leaving may take.
const CLOSE_WAIT_MAX: Duration = Duration::from_secs(2);

/// How often the same trouble is logged, at most.
const LOG_EVERY: Duration = Duration::from_secs(30);

/// How many complaints of servers are logged in that time. They name the subject,
/// which may be another one for each request, as its sender likes.
const COMPLAINTS_MAX: u32 = 10;

/// What everything on one connection shares.
pub(super) struct Shared {
    /// The portal's or runner's name, as it may stand in a header.
    pub(super) name: Arc<str>,
    pub(super) inbox: Inbox,
    /// Room for calls to be answered.
    pub(super) in_flight: Arc<Semaphore>,
    /// Room for requests to be told that there is none.
    pub(super) refused: Arc<Semaphore>,
    pub(super) strangers: Strangers,
    state: watch::Sender<Connection>,
    /// `None` before the first client, between two, and after the last.
    client: watch::Sender<Option<Arc<Client>>>,
    target: Target,
    /// From the moment that something is served.
    requests: OnceLock<Requests>,
    requests_state: watch::Sender<Connection>,
    /// Whether both connections are there, for everybody else.
    joint_state: watch::Sender<Connection>,
    trouble: Mutex<Trouble>,
    pace: Mutex<Pace>,
    is_closed: AtomicBool,
}

/// What went wrong lately, so that it is logged, but not over and over.
#[derive(Default)]
struct Trouble {
    last: Option<(Arc<str>, Instant)>,
    /// Since when servers' complaints are counted, and how many there were.
    complaints: Option<(Instant, u32)>,
    /// Until when absent runners may just be late.
    unsettled_until: Option<Instant>,
}

/// Ends the connection when it is dropped.
pub(super) struct Guard {
    shared: Arc<Shared>,
    keeping: JoinHandle<()>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.keeping.abort();
        self.shared.is_closed.store(true, Ordering::Release);
        if let Some(requests) = self.shared.requests.get() {
            requests.close();
        }
        self.shared.client.send_replace(None);
        self.shared.inbox.clear();
    }
}

/// Starts to connect, for as long as the guard is held.
pub(super) fn start(target: Target, role: Role, name: &str) -> (Arc<Shared>, Guard) {
    let none_yet = Connection::Waiting("no answer yet".into());
    let shared = Arc::new(Shared {
        name: head::name(name).into(),
        inbox: Inbox::new(role.inbox()),
        in_flight: Arc::new(Semaphore::new(CALLS_IN_FLIGHT_MAX)),
        refused: Arc::new(Semaphore::new(REFUSALS_MAX)),
        strangers: Strangers::default(),
        state: watch::Sender::new(none_yet.clone()),
        client: watch::Sender::new(None),
        target,
        requests: OnceLock::new(),
        requests_state: watch::Sender::new(Connection::Connected),
        joint_state: watch::Sender::new(none_yet),
        trouble: Mutex::default(),
        pace: Mutex::new(Pace::new()),
        is_closed: AtomicBool::new(false),
    });
    let keeping = tokio::spawn(keep(Arc::clone(&shared)));
    if role == Role::Runner {
        shared.requests();
    }
    let guard = Guard {
        shared: Arc::clone(&shared),
        keeping,
    };
    (shared, guard)
}

/// Keeps a client, and hands out what comes to its inboxes.
async fn keep(shared: Arc<Shared>) {
    let servers = &shared.target.servers;
    let options = follow(shared.target.options.clone(), &shared);
    while !shared.is_closed.load(Ordering::Acquire) {
        // It does not wait for a server, and the addresses have been parsed.
        match options.clone().connect(&servers[..]).await {
            Ok(client) => hand_out(&shared, Arc::new(client)).await,
            Err(error) => shared.waiting(&error.to_string()),
        }
        shared.client.send_replace(None);
        shared.lost("the connection was closed");
        sleep(RECONNECT_WAIT_MIN).await;
    }
}

/// Until the client stops for good.
async fn hand_out(shared: &Arc<Shared>, client: Arc<Client>) {
    let Ok(mut messages) = client.subscribe(shared.inbox.wildcard()).await else {
        return;
    };
    // Only now, so that no request goes out before its answer could come in.
    shared.client.send_replace(Some(Arc::clone(&client)));
    while let Some(message) = messages.next().await {
        match shared.inbox.deliver(message) {
            Delivery::Taken => {}
            Delivery::Overflow => {
                tracing::warn!("ended a call: the other side sent more than it may");
            }
            Delivery::Unknown(message) => {
                if kind(&message) == Kind::Stranger {
                    // Its call was over sooner.
                    shared.strangers.passed_over(&message);
                }
                let Some(reply) = message.reply else { continue };
                tracing::debug!(subject = %message.subject, "a message for nobody");
                // Without waiting: nobody's messages must hold up anybody's.
                let (headers, payload) = (head::gone(), Bytes::new());
                let answer = client.publish_with_headers(reply, headers, payload);
                let _ = answer.now_or_never();
            }
        }
    }
}

/// Has the client tell us how it is with its connection.
fn follow(options: async_nats::ConnectOptions, shared: &Arc<Shared>) -> async_nats::ConnectOptions {
    let (of_events, of_attempts, of_delays) = (
        Arc::downgrade(shared),
        Arc::downgrade(shared),
        Arc::downgrade(shared),
    );
    options
        .ping_interval(PING_EVERY)
        .connection_timeout(CONNECT_WAIT_MAX)
        .subscription_capacity(SUBSCRIPTION_MESSAGES_MAX)
        .client_capacity(OUTGOING_MESSAGES_MAX)
        .reconnect_delay_callback(move |attempts| delay(&of_delays, attempts))
        // Asked before each round of attempts: the only place to learn why the
        // one before has failed.
        .reconnect_to_server_callback(move |servers, _| {
            let failed = servers.iter().find_map(|server| {
                let error = server.last_error.as_ref()?;
                let (host, port) = (server.addr.host(), server.addr.port());
                Some(format!("{host}:{port}: {error}"))
            });
            if let (Some(shared), Some(failed)) = (of_attempts.upgrade(), failed) {
                shared.waiting(&failed);
            }
            std::future::ready(None)
        })
        .event_callback(move |event| {
            if let Some(shared) = of_events.upgrade() {
                shared.happened(&event);
            }
            std::future::ready(())
        })
}

/// How long to wait before that attempt.
fn delay(shared: &Weak<Shared>, attempts: usize) -> Duration {
    /// The client goes on trying when nobody needs it any more, but slowly.
    const UNWANTED: Duration = Duration::from_secs(3600);
    let Some(shared) = shared.upgrade().filter(|shared| !shared.is_closed()) else {
        return UNWANTED;
    };
    if attempts <= 1 {
        let mut pace = shared.pace.lock().unwrap_or_else(PoisonError::into_inner);
        return pace.next(Instant::now());
    }
    let doublings = u32::try_from(attempts - 2).unwrap_or(u32::MAX).min(16);
    let wait = (RECONNECT_WAIT_MIN * 2_u32.pow(doublings)).min(RECONNECT_WAIT_MAX);
    // Who lost the same server must not come back at the same moment.
    let random = RandomState::new().hash_one(()) as u32;
    wait / 2 + wait.mul_f64(f64::from(random) / f64::from(u32::MAX)) / 2
}

impl Shared {
    pub(super) fn connection(&self) -> watch::Receiver<Connection> {
        self.joint_state.subscribe()
    }

    /// The connection that requests come in on, which is started with the first
    /// that asks.
    pub(super) fn requests(self: &Arc<Self>) -> &Requests {
        self.requests.get_or_init(|| {
            let state = Connection::Waiting("no answer yet for requests".into());
            self.requests_state.send_replace(state);
            self.join_states();
            Requests::start(Arc::clone(self), &self.target)
        })
    }

    /// State of the connection for requests.
    pub(super) fn requests_are(&self, state: Connection) {
        if self.is_closed() {
            return;
        }
        // Where both are away, what is said of the other one is enough.
        if let Connection::Waiting(why) = &state
            && *self.state.borrow() == Connection::Connected
        {
            self.complain("waiting for NATS", why);
        }
        self.requests_state.send_replace(state);
        self.join_states();
    }

    fn join_states(&self) {
        // One at a time, so that the last one to come sees what all have said.
        let _trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        let joint = match &*self.state.borrow() {
            Connection::Connected => self.requests_state.borrow().clone(),
            waiting => waiting.clone(),
        };
        self.joint_state.send_if_modified(|last| {
            let is_new = *last != joint;
            *last = joint;
            is_new
        });
    }

    pub(super) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
    }

    fn happened(&self, event: &Event) {
        match event {
            Event::Connected => self.connected(),
            Event::Disconnected => self.lost("the connection was lost"),
            Event::ServerError(error) => self.server_complains(&error.to_string()),
            Event::SlowConsumer(_) => {
                self.complain("NATS", "messages were dropped, since too many came at once");
            }
            Event::LameDuckMode => tracing::info!("the NATS server is leaving"),
            Event::Draining | Event::Closed | Event::ClientError(_) => {}
        }
    }

    fn connected(&self) {
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if trouble.last.take().is_some() {
            trouble.unsettled_until = Some(Instant::now() + SETTLE_TIME);
        }
        drop(trouble);
        self.state.send_replace(Connection::Connected);
        self.join_states();
        tracing::info!("connected to NATS");
    }

    fn lost(&self, why: &str) {
        let was_connected = *self.state.borrow() == Connection::Connected;
        if was_connected {
            self.waiting(why);
        }
    }

    /// Whatever was under way on the connection ends: what was sent while there
    /// was none is missing. Whoever hears first that it is lost comes here.
    fn waiting(&self, why: &str) {
        if self.is_closed() {
            return;
        }
        self.complain("waiting for NATS", why);
        let before = self.state.send_replace(Connection::Waiting(why.into()));
        self.join_states();
        if before == Connection::Connected {
            self.inbox.clear();
        }
    }

    /// Logs it unless it has been logged a moment ago.
    pub(super) fn complain(&self, what: &str, why: &str) {
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let is_known = trouble.last.as_ref().is_some_and(|(last, logged)| {
            last.as_ref() == why && now.duration_since(*logged) < LOG_EVERY
        });
        if !is_known {
            tracing::warn!(target: crate::connection::TROUBLE, "{what}: {why}");
            trouble.last = Some((why.into(), now));
        }
    }

    /// Logs what a server is not content with, but not more of it than anybody reads.
    pub(super) fn server_complains(&self, error: &str) {
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let (since, count) = trouble
            .complaints
            .filter(|(since, _)| now.duration_since(*since) < LOG_EVERY)
            .unwrap_or((now, 0));
        trouble.complaints = Some((since, count.saturating_add(1)));
        drop(trouble);
        match count {
            ..COMPLAINTS_MAX => tracing::warn!("NATS complains: {error}"),
            COMPLAINTS_MAX => tracing::warn!("NATS complains a lot: the rest is not logged"),
            _ => tracing::debug!("NATS complains: {error}"),
        }
    }

    /// Whether runners that are not there may just be late.
    pub(super) fn is_settling(&self) -> bool {
        let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        trouble
            .unsettled_until
            .is_some_and(|until| Instant::now() < until)
    }

    /// The client, once it is connected.
    ///
    /// # Errors
    /// Why it is not, after a bounded wait.
    pub(super) async fn connected_client(
        &self,
        deadline: Option<Instant>,
    ) -> Result<Arc<Client>, Arc<str>> {
        if let Some(client) = self.connected_now() {
            return Ok(client);
        }
        let patience = Instant::now() + CONNECTED_WAIT_MAX;
        let until = deadline.map_or(patience, |deadline| deadline.min(patience));
        let mut state = self.state.subscribe();
        let mut clients = self.client.subscribe();
        loop {
            if let Some(client) = self.connected_now() {
                return Ok(client);
            }
            let changed = async {
                tokio::select! {
                    changed = state.changed() => changed,
                    changed = clients.changed() => changed,
                }
            };
            let is_over =
                self.is_closed() || !matches!(timeout_at(until, changed).await, Ok(Ok(())));
            if is_over {
                return Err(self.why_not());
            }
        }
    }

    pub(super) fn connected_now(&self) -> Option<Arc<Client>> {
        if *self.state.borrow() != Connection::Connected {
            return None;
        }
        self.client.borrow().clone()
    }

    fn why_not(&self) -> Arc<str> {
        match &*self.state.borrow() {
            Connection::Waiting(why) => format!("waiting for NATS: {why}").into(),
            Connection::Connected => "waiting for NATS".into(),
        }
    }

    pub(super) async fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
        if let Some(requests) = self.requests.get() {
            requests.close();
        }
        let client = self.client.send_replace(None);
        let is_connected = *self.state.borrow() == Connection::Connected;
        if let Some(client) = client
            && is_connected
        {
            let _ = timeout(CLOSE_WAIT_MAX, client.flush()).await;
            let _ = timeout(CLOSE_WAIT_MAX, client.drain()).await;
        }
        self.state
            .send_replace(Connection::Waiting("it is closed".into()));
        self.join_states();
        self.inbox.clear();
    }
}

/// Publishes one message, and waits for room no longer than that.
///
/// # Errors
/// It cannot be sent; nothing of it was.
pub(super) async fn publish(
    client: &Client,
    subject: Subject,
    reply: Option<Subject>,
    headers: HeaderMap,
    payload: Bytes,
    patience: Duration,
) -> Result<(), Arc<str>> {
    use async_nats::client::traits::Publisher;
    let message = OutboundMessage {
        subject,
        reply,
        payload,
        headers: Some(headers),
    };
    match timeout(patience, client.publish_message(message)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(format!("NATS took no message: {error}").into()),
        Err(_) => Err("NATS took no message in time".into()),
    }
}
