//! The connection that calls travel on: made, watched, logged, and made again. A
//! runner has another one for requests, see [`requests`].
//!
//! The client library reconnects by itself, and takes its subscriptions with it.
//! Should it stop for good, which a message that it cannot bear may do to it, a
//! new client takes its place.

use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use async_nats::message::OutboundMessage;
use async_nats::{Client, Event, HeaderMap, Subject};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::role::Role;
use super::wire::kind::{Kind, kind};
use super::wire::{header, reply};
use bounds::{CONNECT_WAIT_MAX, OUTGOING_MESSAGES_MAX, PING_EVERY, SUBSCRIPTION_MESSAGES_MAX};
use health::Health;
use inbox::{Delivery, Inbox};
use options::Target;
use pace::{Pace, RECONNECT_WAIT_MAX, RECONNECT_WAIT_MIN};
use requests::Requests;
use strangers::Strangers;

pub(crate) mod bounds;
mod dial;
pub(crate) mod error;
pub(crate) mod health;
mod identity;
pub(crate) mod inbox;
pub(crate) mod options;
mod pace;
pub(crate) mod requests;
mod strangers;

/// How long a call waits for a connection before it is refused.
const CONNECTED_WAIT_MAX: Duration = Duration::from_secs(1);

/// How many calls one connection answers at a time. The pool's own bound is far
/// lower; this one keeps a flood of requests from taking all memory.
pub(crate) const CALLS_IN_FLIGHT_MAX: usize = 1024;

/// How many more are told at a time that there are too many. Others hear nothing, and
/// ask elsewhere when they have waited for a sign of life.
const REFUSALS_MAX: usize = 1024;

/// How long leaving may take.
const CLOSE_WAIT_MAX: Duration = Duration::from_secs(2);

/// What everything on one connection shares.
pub(crate) struct Shared {
    /// The portal's or runner's name, as it may stand in a header.
    pub(crate) name: Arc<str>,
    pub(crate) inbox: Inbox,
    /// Room for calls to be answered.
    pub(crate) in_flight: Arc<Semaphore>,
    /// Room for requests to be told that there is none.
    pub(crate) refused: Arc<Semaphore>,
    pub(crate) strangers: Strangers,
    /// `None` before the first client, between two, and after the last.
    client: watch::Sender<Option<Arc<Client>>>,
    target: Target,
    /// From the moment that something is served.
    requests: OnceLock<Requests>,
    pub(crate) health: Arc<Health>,
    pace: Mutex<Pace>,
}

/// Ends the connection when it is dropped.
pub(crate) struct Guard {
    shared: Arc<Shared>,
    keeping: JoinHandle<()>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.keeping.abort();
        self.shared.health.close();
        if let Some(requests) = self.shared.requests.get() {
            requests.close();
        }
        self.shared.client.send_replace(None);
        self.shared.inbox.clear();
    }
}

/// Starts to connect, for as long as the guard is held.
pub(crate) fn start(target: Target, role: Role, name: &str) -> (Arc<Shared>, Guard) {
    let shared = Arc::new(Shared {
        name: header::name(name).into(),
        inbox: Inbox::new(role.inbox()),
        in_flight: Arc::new(Semaphore::new(CALLS_IN_FLIGHT_MAX)),
        refused: Arc::new(Semaphore::new(REFUSALS_MAX)),
        strangers: Strangers::default(),
        client: watch::Sender::new(None),
        target,
        requests: OnceLock::new(),
        health: Arc::new(Health::new()),
        pace: Mutex::new(Pace::new()),
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
    while !shared.health.is_closed() {
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
                let Some(to) = message.reply else { continue };
                tracing::debug!(subject = %message.subject, "a message for nobody");
                // Without waiting: nobody's messages must hold up anybody's.
                let (headers, payload) = (reply::gone(), Bytes::new());
                let answer = client.publish_with_headers(to, headers, payload);
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
    let Some(shared) = shared.upgrade().filter(|shared| !shared.health.is_closed()) else {
        return UNWANTED;
    };
    if attempts <= 1 {
        let mut pace = shared.pace.lock();
        return pace.next(Instant::now());
    }
    let doublings = u32::try_from(attempts - 2).unwrap_or(u32::MAX).min(16);
    let wait = (RECONNECT_WAIT_MIN * 2_u32.pow(doublings)).min(RECONNECT_WAIT_MAX);
    // Who lost the same server must not come back at the same moment.
    let random = RandomState::new().hash_one(()) as u32;
    wait / 2 + wait.mul_f64(f64::from(random) / f64::from(u32::MAX)) / 2
}

impl Shared {
    /// The connection that requests come in on, which is started with the first
    /// that asks.
    pub(crate) fn requests(&self) -> &Requests {
        self.requests.get_or_init(|| {
            self.health.expect_requests();
            Requests::start(Arc::clone(&self.health), &self.target)
        })
    }

    fn happened(&self, event: &Event) {
        match event {
            Event::Connected => self.health.connected(),
            Event::Disconnected => self.lost("the connection was lost"),
            Event::ServerError(error) => self.health.server_complains(&error.to_string()),
            Event::SlowConsumer(_) => {
                let why = "messages were dropped, since too many came at once";
                self.health.complain("NATS", why);
            }
            Event::LameDuckMode => tracing::info!("the NATS server is leaving"),
            Event::Draining | Event::Closed | Event::ClientError(_) => {}
        }
    }

    fn lost(&self, why: &str) {
        if self.health.is_connected() {
            self.waiting(why);
        }
    }

    /// Whatever was under way on the connection ends: what was sent while there
    /// was none is missing. Whoever hears first that it is lost comes here.
    fn waiting(&self, why: &str) {
        if self.health.waiting(why) {
            self.inbox.clear();
        }
    }

    /// The client, once it is connected.
    ///
    /// # Errors
    /// Why it is not, after a bounded wait.
    pub(crate) async fn connected_client(
        &self,
        deadline: Option<Instant>,
    ) -> Result<Arc<Client>, Arc<str>> {
        if let Some(client) = self.connected_now() {
            return Ok(client);
        }
        let patience = Instant::now() + CONNECTED_WAIT_MAX;
        let until = deadline.map_or(patience, |deadline| deadline.min(patience));
        let mut state = self.health.calls();
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
            let has_changed = matches!(timeout_at(until, changed).await, Ok(Ok(())));
            if self.health.is_closed() || !has_changed {
                return Err(self.health.why_not());
            }
        }
    }

    pub(crate) fn connected_now(&self) -> Option<Arc<Client>> {
        let client = self.client.borrow().clone();
        client.filter(|_| self.health.is_connected())
    }

    pub(crate) async fn close(&self) {
        self.health.close();
        if let Some(requests) = self.requests.get() {
            requests.close();
        }
        let client = self.client.send_replace(None);
        if let Some(client) = client
            && self.health.is_connected()
        {
            let _ = timeout(CLOSE_WAIT_MAX, client.flush()).await;
            let _ = timeout(CLOSE_WAIT_MAX, client.drain()).await;
        }
        self.health.closed();
        self.inbox.clear();
    }
}

/// Publishes one message, and waits for room no longer than that.
///
/// # Errors
/// It cannot be sent; nothing of it was.
pub(crate) async fn publish(
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
