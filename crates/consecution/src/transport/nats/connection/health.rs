//! State of a portal's or a runner's connections to NATS: what others are told of
//! it, and what is logged.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::connection::{Connection, TROUBLE};
use crate::log_on_change::LogOnChange;

/// How long after a lost connection is back runners may still be on their way
/// back too, so that nobody being there means nothing.
const SETTLE_TIME: Duration = Duration::from_secs(2);

/// How often the same trouble is logged, at most.
const LOG_EVERY: Duration = Duration::from_secs(30);

/// How many complaints of servers are logged in that time. They name the subject,
/// which may be another one for each request, as its sender likes.
const COMPLAINTS_MAX: u32 = 10;

/// See the module.
pub(crate) struct Health {
    /// State of the connection that calls travel on.
    calls: watch::Sender<Connection>,
    /// State of the one that requests come in on; connected where there is none.
    requests: watch::Sender<Connection>,
    /// Whether both are there.
    joint: watch::Sender<Connection>,
    trouble: Mutex<Trouble>,
    is_closed: AtomicBool,
}

/// What went wrong lately, so that it is logged, but not over and over.
struct Trouble {
    log: LogOnChange,
    /// Since when servers' complaints are counted, and how many there were.
    complaints: Option<(Instant, u32)>,
    /// Until when absent runners may just be late.
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
                log: LogOnChange::again_after(LOG_EVERY),
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

    /// State of the connection that calls travel on.
    pub(crate) fn calls(&self) -> watch::Receiver<Connection> {
        self.calls.subscribe()
    }

    pub(crate) fn is_connected(&self) -> bool {
        *self.calls.borrow() == Connection::Connected
    }

    /// Why there is no connection for calls, for whoever waits for one.
    pub(crate) fn why_not(&self) -> Arc<str> {
        match &*self.calls.borrow() {
            Connection::Waiting(why) => format!("waiting for NATS: {why}").into(),
            Connection::Connected => "waiting for NATS".into(),
        }
    }

    /// The connection for calls is there.
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

    /// The connection for calls is not there; says whether it was until now.
    pub(crate) fn waiting(&self, why: &str) -> bool {
        if self.is_closed() {
            return false;
        }
        self.complain("waiting for NATS", why);
        let before = self.calls.send_replace(Connection::Waiting(why.into()));
        self.join_states();
        before == Connection::Connected
    }

    /// There is to be a connection for requests.
    pub(crate) fn expect_requests(&self) {
        let state = Connection::Waiting("no answer yet for requests".into());
        self.requests.send_replace(state);
        self.join_states();
    }

    /// State of the connection for requests.
    pub(crate) fn requests_are(&self, state: Connection) {
        if self.is_closed() {
            return;
        }
        // Where both are away, what is said of the other one is enough.
        if let Connection::Waiting(why) = &state
            && self.is_connected()
        {
            self.complain("waiting for NATS", why);
        }
        self.requests.send_replace(state);
        self.join_states();
    }

    fn join_states(&self) {
        // One at a time, so that the last one to come sees what all have said.
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

    /// Nobody wants a connection any more: what becomes of it is not said.
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

    /// Logs it unless it has been logged a moment ago.
    pub(crate) fn complain(&self, what: &str, why: &str) {
        if self.trouble.lock().log.lets(why) {
            tracing::warn!(target: TROUBLE, "{what}: {why}");
        }
    }

    /// Logs what a server is not content with, but not more of it than anybody reads.
    pub(crate) fn server_complains(&self, error: &str) {
        let mut trouble = self.trouble.lock();
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
    pub(crate) fn is_settling(&self) -> bool {
        let unsettled_until = self.trouble.lock().unsettled_until;
        unsettled_until.is_some_and(|until| Instant::now() < until)
    }
}
