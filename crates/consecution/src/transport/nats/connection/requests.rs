//! The connection on which requests arrive, with one subscription for each link, and one for
//! questions about figures.
//!
//! A client that may call a link can put any bytes into its requests, and the client
//! library closes its connection on some of them. So requests do not go through the
//! library: this connection is read by [`server_line`](crate::transport::nats::wire::server_line), which nothing in a message can trip.
//!
//! Frames and answers go over the other connection, except answers to plain clients. With
//! `allow_responses`, a server lets a runner answer a request only on the connection on
//! which the request arrived.

use std::collections::HashMap;
use std::fmt::Write;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use async_nats::{HeaderMap, ServerAddr, Subject};
use bytes::Bytes;
use chain::LinkId;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, timeout};

use super::bounds::{
    CONNECT_WAIT_MAX, OUTGOING_MESSAGES_MAX, PING_EVERY, SUBSCRIPTION_MESSAGES_MAX,
};
use super::dial::{Dial, Dialled};
use super::health::Health;
use super::options::Target;
use super::pace::Pace;
use crate::connection::Connection;
use crate::transport::nats::wire::server_line::{Message, Said};
use crate::transport::nats::wire::{header_block, subject};

/// How many pings may be unanswered before the server counts as gone.
const UNANSWERED_PINGS_MAX: u64 = 2;

/// How long a few lines to the server may wait to be sent.
const WRITE_WAIT_MAX: Duration = Duration::from_secs(10);

/// The most servers to try: the configured ones, and those that they announce.
const SERVERS_MAX: usize = 256;

/// The connection for requests. It lasts until this is dropped.
pub(crate) struct Requests {
    links: Arc<Links>,
    answers: mpsc::Sender<Answer>,
    keeping: JoinHandle<()>,
}

/// A message to send, in wire format.
struct Answer {
    bytes: Vec<u8>,
    /// Notified when the message is sent; dropped if it is not.
    sent: oneshot::Sender<()>,
}

/// The subscribed links.
#[derive(Default)]
struct Links {
    table: Mutex<Table>,
    /// Notified when the server must be told of a change in the table.
    changed: Notify,
}

#[derive(Default)]
struct Table {
    by_number: HashMap<u64, Subscribed>,
    last_number: u64,
    is_connected: bool,
}

/// What a subscription is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Topic {
    /// Calls of a link: each goes to one runner.
    Link(LinkId),
    /// Questions about figures: each goes to all runners.
    Stats,
}

impl Topic {
    /// How many messages may wait. Questions about figures are all the same, and go to
    /// every runner at once.
    fn messages_max(self) -> usize {
        match self {
            Topic::Link(_) => SUBSCRIPTION_MESSAGES_MAX,
            Topic::Stats => 16,
        }
    }

    /// The subject, and the queue group if there is one, as a `SUB` line has them.
    fn subscribed(self) -> String {
        match self {
            Topic::Link(id) => format!("{} {}", subject::of_link(id), subject::QUEUE_GROUP),
            Topic::Stats => subject::STATS.to_owned(),
        }
    }
}

struct Subscribed {
    topic: Topic,
    requests: mpsc::Sender<Message>,
    phase: Phase,
}

/// What the server knows about a subscription.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nothing yet.
    New,
    Subscribed,
    /// The subscription has ended, but the server does not know that yet.
    Unwanted,
    /// The server was told that the subscription has ended. All requests that it sent
    /// before have arrived once it has answered this many pings.
    Leaving(u64),
}

/// The requests of one link. The server sends them until this is dropped or
/// [left](Subscription::leave).
pub(crate) struct Subscription {
    links: Arc<Links>,
    number: u64,
    requests: mpsc::Receiver<Message>,
}

impl Requests {
    /// Starts to connect, and reports the state of the connection to `health`.
    pub(crate) fn start(health: Arc<Health>, target: &Target) -> Requests {
        let links = Arc::<Links>::default();
        let (answers, to_send) = mpsc::channel(OUTGOING_MESSAGES_MAX);
        let keeping = Keeping {
            links: Arc::clone(&links),
            answers: to_send,
            health,
            servers: target.servers.clone(),
            dial: target.for_requests.clone(),
        };
        Requests {
            links,
            answers,
            keeping: tokio::spawn(keeping.run()),
        }
    }

    /// Subscribes to requests about this, now and again after each reconnect.
    pub(crate) fn subscribe(&self, topic: Topic) -> Subscription {
        let (sender, requests) = mpsc::channel(topic.messages_max());
        let mut table = self.links.table.lock();
        table.last_number += 1;
        let number = table.last_number;
        let link = Subscribed {
            topic,
            requests: sender,
            phase: Phase::New,
        };
        table.by_number.insert(number, link);
        drop(table);
        self.links.changed.notify_one();
        Subscription {
            links: Arc::clone(&self.links),
            number,
            requests,
        }
    }

    /// Sends an answer to a request, and waits until it is sent.
    ///
    /// # Errors
    /// There is no connection, or the answer is too large for the server.
    pub(crate) async fn answer(
        &self,
        reply: &Subject,
        headers: &HeaderMap,
        payload: &Bytes,
        bytes_max: usize,
    ) -> Result<(), Unsent> {
        let headers = header_block::write(headers);
        let (of_headers, total) = (headers.len(), headers.len() + payload.len());
        if total > bytes_max || !self.links.table.lock().is_connected {
            return Err(Unsent);
        }
        let line = format!("HPUB {reply} {of_headers} {total}\r\n");
        let bytes = [line.as_bytes(), &headers, payload, END_OF_LINE].concat();
        let (sent, is_sent) = oneshot::channel();
        let answer = Answer { bytes, sent };
        self.answers.send(answer).await.map_err(|_| Unsent)?;
        is_sent.await.map_err(|_| Unsent)
    }

    /// Closes the connection, for good.
    pub(crate) fn close(&self) {
        self.keeping.abort();
        self.links.lost();
        self.links.table.lock().by_number.clear();
    }
}

impl Drop for Requests {
    fn drop(&mut self) {
        self.close();
    }
}

impl Subscription {
    /// The next request; `None` if no more will come.
    pub(crate) async fn next(&mut self) -> Option<Message> {
        self.requests.recv().await
    }

    /// Ends the subscription. Requests that the server sends before it knows this still
    /// arrive.
    pub(crate) fn leave(&self) {
        self.links.leave(self.number);
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.leave();
    }
}

impl Links {
    fn leave(&self, number: u64) {
        let mut table = self.table.lock();
        let is_connected = table.is_connected;
        let Some(link) = table.by_number.get_mut(&number) else {
            return;
        };
        match link.phase {
            Phase::Subscribed if is_connected => link.phase = Phase::Unwanted,
            Phase::Unwanted | Phase::Leaving(_) => return,
            // The server does not know the subscription.
            Phase::New | Phase::Subscribed => drop(table.by_number.remove(&number)),
        }
        drop(table);
        self.changed.notify_one();
    }

    /// A new connection is made: its server knows no subscription yet.
    fn connected(&self) {
        let mut table = self.table.lock();
        table.is_connected = true;
        for link in table.by_number.values_mut() {
            link.phase = Phase::New;
        }
    }

    /// The connection is lost: nothing more arrives on it.
    fn lost(&self) {
        let mut table = self.table.lock();
        table.is_connected = false;
        let is_wanted = |link: &Subscribed| matches!(link.phase, Phase::New | Phase::Subscribed);
        table.by_number.retain(|_, link| is_wanted(link));
    }

    /// The protocol lines that tell the server of changes. If a subscription ends, a ping
    /// follows them; `pings` counts the pings sent so far.
    fn news(&self, pings: &mut u64) -> String {
        let (mut lines, mut has_left) = (String::new(), false);
        for (number, link) in &mut self.table.lock().by_number {
            // Writing to a string does not fail.
            let _ = match link.phase {
                Phase::New => {
                    link.phase = Phase::Subscribed;
                    write!(lines, "SUB {} {number}\r\n", link.topic.subscribed())
                }
                Phase::Unwanted => {
                    link.phase = Phase::Leaving(*pings + 1);
                    has_left = true;
                    write!(lines, "UNSUB {number}\r\n")
                }
                Phase::Subscribed | Phase::Leaving(_) => Ok(()),
            };
        }
        if has_left {
            *pings += 1;
            lines.push_str(PING);
        }
        lines
    }

    /// The server has answered `pongs` pings so far.
    fn ponged(&self, pongs: u64) {
        let is_over =
            |link: &Subscribed| matches!(link.phase, Phase::Leaving(ping) if ping <= pongs);
        self.table.lock().by_number.retain(|_, link| !is_over(link));
    }

    /// Hands a request over without waiting; `false` if there is no room.
    fn deliver(&self, message: Message) -> bool {
        let table = self.table.lock();
        // The request is dropped if nobody waits for it any more.
        let Some(subscribed) = table.by_number.get(&message.subscription) else {
            return true;
        };
        match subscribed.topic {
            Topic::Link(_) => !matches!(
                subscribed.requests.try_send(message),
                Err(mpsc::error::TrySendError::Full(_))
            ),
            Topic::Stats => {
                // What comes with a question is not read, so it takes no memory either.
                // Who gets no answer asks again.
                let _ = subscribed.requests.try_send(Message {
                    headers: None,
                    payload: Bytes::new(),
                    ..message
                });
                true
            }
        }
    }
}

const PING: &str = "PING\r\n";
const PONG: &str = "PONG\r\n";
const END_OF_LINE: &[u8] = b"\r\n";

/// An answer could not be sent on this connection.
#[derive(Debug)]
pub(crate) struct Unsent;

/// The task that keeps the connection.
struct Keeping {
    links: Arc<Links>,
    health: Arc<Health>,
    servers: Vec<ServerAddr>,
    dial: Dial,
    answers: mpsc::Receiver<Answer>,
}

impl Keeping {
    async fn run(mut self) {
        let mut pace = Pace::new();
        while !self.health.is_closed() {
            sleep(pace.next(Instant::now())).await;
            if let Some(dialled) = self.dial().await {
                self.links.connected();
                self.health.requests_are(Connection::Connected);
                let why = self.serve(dialled).await;
                self.links.lost();
                self.waiting(&why);
            }
        }
    }

    fn waiting(&self, why: &str) {
        let why = format!("the connection for requests: {why}");
        self.health.requests_are(Connection::Waiting(why.into()));
    }

    /// Tries each server once, in random order.
    async fn dial(&mut self) -> Option<Dialled> {
        let chance: RandomState = RandomState::new();
        let mut servers = self.servers.clone();
        servers.sort_by_cached_key(|server| chance.hash_one(server.as_url_str()));
        for server in servers {
            let dialled = timeout(CONNECT_WAIT_MAX, self.dial.connect(&server)).await;
            let why = match dialled {
                Ok(Ok((dialled, info))) => {
                    // With TLS, ignore servers announced before the connection was
                    // encrypted: an attacker may have announced them.
                    if !self.dial.wants_tls {
                        self.learn(&info.connect_urls);
                    }
                    return Some(dialled);
                }
                Ok(Err(why)) => why.to_string(),
                Err(_) => "it does not answer in time".to_owned(),
            };
            self.waiting(&format!("{}:{}: {why}", server.host(), server.port()));
        }
        None
    }

    /// Adds servers of the cluster that are not configured.
    fn learn(&mut self, urls: &[String]) {
        for server in urls.iter().filter_map(|url| url.parse::<ServerAddr>().ok()) {
            let place = |server: &ServerAddr| (server.host().to_owned(), server.port());
            let is_known = self
                .servers
                .iter()
                .any(|known| place(known) == place(&server));
            if !is_known && self.servers.len() < SERVERS_MAX {
                self.servers.push(server);
            }
        }
    }

    /// Serves the connection until it is lost; returns why.
    async fn serve(&mut self, mut dialled: Dialled) -> String {
        let (mut pings, mut pongs) = (0_u64, 0);
        let mut ticks = interval_at(Instant::now() + PING_EVERY, PING_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut lines = self.links.news(&mut pings);
        loop {
            if !lines.is_empty() {
                if let Err(why) = write(&mut dialled, lines.as_bytes()).await {
                    return why;
                }
                lines.clear();
            }
            let mut said = tokio::select! {
                () = self.links.changed.notified() => {
                    lines = self.links.news(&mut pings);
                    continue;
                }
                _ = ticks.tick() => {
                    if pings.saturating_sub(pongs) >= UNANSWERED_PINGS_MAX {
                        return "it is silent".to_owned();
                    }
                    pings += 1;
                    lines.push_str(PING);
                    continue;
                }
                Some(Answer { bytes, sent }) = self.answers.recv() => {
                    if let Err(why) = write(&mut dialled, &bytes).await {
                        return why;
                    }
                    // Fails if nobody waits for it any more.
                    let _ = sent.send(());
                    continue;
                }
                said = dialled.said() => said.map(Some),
            };
            // Handle everything that was read together with it.
            loop {
                match said {
                    Ok(None) => break,
                    Ok(Some(Said::Message(message))) => {
                        if !self.links.deliver(message) {
                            let why = "requests were dropped, since too many came at once";
                            self.health.complain("NATS", why);
                        }
                    }
                    Ok(Some(Said::Ping)) => lines.push_str(PONG),
                    Ok(Some(Said::Pong)) => {
                        pongs += 1;
                        self.links.ponged(pongs);
                    }
                    Ok(Some(Said::Error(error))) => self.health.server_complains(&error),
                    Ok(Some(Said::Info(_) | Said::Ok)) => {}
                    Err(why) => return why.to_string(),
                }
                said = dialled.said_already();
            }
        }
    }
}

/// Writes the bytes. The error says why that failed.
async fn write(dialled: &mut Dialled, bytes: &[u8]) -> Result<(), String> {
    match timeout(WRITE_WAIT_MAX, dialled.write(bytes)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("it takes nothing any more".to_owned()),
    }
}
