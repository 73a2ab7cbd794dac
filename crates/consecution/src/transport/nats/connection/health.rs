//! The state of a portal's or a runner's connections to NATS, for readiness and for the log.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::connection::{Connection, LOG_AGAIN_AFTER, TROUBLE};
use crate::log_on_change::LogOnChange;

/// How long after a reconnect "no responders" means little, because runners may still be
/// reconnecting too.
const SETTLE_TIME: Duration = Duration::from_secs(2);

/// How many errors from servers are logged within [`LOG_AGAIN_AFTER`]. They contain a
/// subject, which a client can choose anew for each request.
const COMPLAINTS_MAX: u32 = 10;

/// The state of the connections; see the module.
pub(crate) struct Health {
    /// State of the connection for calls.
    calls: watch::Sender<Connection>,
    /// State of the connection for requests; `Connected` if there is none.
    requests: watch::Sender<Connection>,
    /// State of both together.
    joint: watch::Sender<Connection>,
    trouble: Mutex<Trouble>,
    is_closed: AtomicBool,
}

/// What went wrong lately, so that it is not logged over and over.
struct Trouble {
    log: LogOnChange,
    /// Since when servers' errors are counted, and how many there were.
    complaints: Option<(Instant, u32)>,
    /// Until when missing runners may still be reconnecting.
    unsettled_until: Option<Instant>,
}

impl Health {
    pub(crate) fn new() -> Health {
        let none_yet = Connection::Waiting("no answer yet".into());
        Health {
            calls: watch::Sender::new(none_yet.clone()),
            requests: watch::Sender::new(Connection::Connected),
            joint: watch::Sender::new(none_yet),
            trouble: Mutex::new(Trouble {
                log: LogOnChange::again_after(LOG_AGAIN_AFTER),
                complaints: None,
                unsettled_until: None,
            }),
            is_closed: AtomicBool::new(false),
        }
    }

    /// State of both connections.
    pub(crate) fn joint(&self) -> watch::Receiver<Connection> {
        self.joint.subscribe()
    }

    /// State of the connection for calls.
    pub(crate) fn calls(&self) -> watch::Receiver<Connection> {
        self.calls.subscribe()
    }

    pub(crate) fn is_connected(&self) -> bool {
        *self.calls.borrow() == Connection::Connected
    }

    /// Why there is no connection for calls.
    pub(crate) fn why_not(&self) -> Arc<str> {
        match &*self.calls.borrow() {
            Connection::Waiting(why) => format!("waiting for NATS: {why}").into(),
            Connection::Connected => "waiting for NATS".into(),
        }
    }

    /// Records that the connection for calls is up.
    pub(crate) fn connected(&self) {
        let mut trouble = self.trouble.lock();
        if trouble.log.forget() {
            trouble.unsettled_until = Some(Instant::now() + SETTLE_TIME);
        }
        drop(trouble);
        self.calls.send_replace(Connection::Connected);
        self.join_states();
        tracing::info!("connected to NATS");
    }

    /// Records that the connection for calls is down; returns whether it was up until now.
    pub(crate) fn waiting(&self, why: &str) -> bool {
        if self.is_closed() {
            return false;
        }
        self.complain("waiting for NATS", why);
        let before = self.calls.send_replace(Connection::Waiting(why.into()));
        self.join_states();
        before == Connection::Connected
    }

    /// Records that there will be a connection for requests.
    pub(crate) fn expect_requests(&self) {
        let state = Connection::Waiting("no answer yet for requests".into());
        self.requests.send_replace(state);
        self.join_states();
    }

    /// Records the state of the connection for requests.
    pub(crate) fn requests_are(&self, state: Connection) {
        if self.is_closed() {
            return;
        }
        // If both are down, the message about the connection for calls is enough.
        if let Connection::Waiting(why) = &state
            && self.is_connected()
        {
            self.complain("waiting for NATS", why);
        }
        self.requests.send_replace(state);
        self.join_states();
    }

    fn join_states(&self) {
        // Hold a lock, so that the last of several updates sees the results of all.
        let _trouble = self.trouble.lock();
        let joint = match &*self.calls.borrow() {
            Connection::Connected => self.requests.borrow().clone(),
            waiting => waiting.clone(),
        };
        self.joint.send_if_modified(|last| {
            let is_new = *last != joint;
            *last = joint;
            is_new
        });
    }

    /// The program is shutting down: do not log what becomes of the connections.
    pub(crate) fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
    }

    /// The last connection is closed.
    pub(crate) fn closed(&self) {
        let closed = Connection::Waiting("it is closed".into());
        self.calls.send_replace(closed);
        self.join_states();
    }

    /// Logs a trouble unless the same one was logged in the last [`LOG_AGAIN_AFTER`].
    pub(crate) fn complain(&self, what: &str, why: &str) {
        if self.trouble.lock().log.lets(why) {
            tracing::warn!(target: TROUBLE, "{what}: {why}");
        }
    }

    /// Logs an error from a server, at most [`COMPLAINTS_MAX`] of them in [`LOG_AGAIN_AFTER`].
    pub(crate) fn server_complains(&self, error: &str) {
        let mut trouble = self.trouble.lock();
        let now = Instant::now();
        let (since, count) = trouble
            .complaints
            .filter(|(since, _)| now.duration_since(*since) < LOG_AGAIN_AFTER)
            .unwrap_or((now, 0));
        trouble.complaints = Some((since, count.saturating_add(1)));
        drop(trouble);
        match count {
            ..COMPLAINTS_MAX => tracing::warn!("NATS complains: {error}"),
            COMPLAINTS_MAX => tracing::warn!("NATS complains a lot: the rest is not logged"),
            _ => tracing::debug!("NATS complains: {error}"),
        }
    }

    /// Whether missing runners may still be reconnecting.
    pub(crate) fn is_settling(&self) -> bool {
        let unsettled_until = self.trouble.lock().unsettled_until;
        unsettled_until.is_some_and(|until| Instant::now() < until)
    }
}
