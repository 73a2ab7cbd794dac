//! One side's connection to the other: the state of the exchange, the inbox for incoming
//! frames, and the client that sends outgoing ones.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, Message, Subject};
use tokio::time::{Instant, Sleep, sleep_until};

use super::state::{Broken, Event, Exchange, SILENCE_MAX};
use crate::transport::nats::connection::inbox::Mailbox;
use crate::transport::nats::connection::{Shared, publish};
use crate::transport::nats::wire::frame::{Frame, Numbered};
use crate::transport::nats::wire::kind::{Kind, kind, kind_to_caller};

/// More bytes than the headers of a data frame ever take.
const DATA_HEADERS_BYTES_MAX: usize = 256;

/// How long a frame may wait to be sent: if the server accepts nothing for so long, the
/// other side has given up on us.
const SEND_WAIT_MAX: Duration = SILENCE_MAX;

/// See the module.
pub(crate) struct Line {
    pub(crate) exchange: Exchange,
    shared: Arc<Shared>,
    client: Arc<Client>,
    mailbox: Mailbox,
    /// The other side's inbox.
    peer: Subject,
    /// Our name if we are a runner; `None` if we are the caller.
    runner: Option<Arc<str>>,
    timer: Pin<Box<Sleep>>,
}

/// An event that a line waits for.
pub(crate) enum Next {
    /// A message has come; `None` if no more can come.
    Message(Option<Message>),
    /// The time has come to check the other side, or to show a sign of life.
    Tick,
}

impl Line {
    pub(crate) fn new(
        exchange: Exchange,
        shared: Arc<Shared>,
        client: Arc<Client>,
        mailbox: Mailbox,
        peer: Subject,
        runner: Option<Arc<str>>,
    ) -> Line {
        let timer = Box::pin(sleep_until(exchange.due()));
        Line {
            exchange,
            shared,
            client,
            mailbox,
            peer,
            runner,
            timer,
        }
    }

    /// The most bytes of the body that a frame may carry now; 0 if none may be sent.
    pub(crate) fn room(&self) -> usize {
        self.exchange.room().min(self.data_bytes_max())
    }

    /// Like [`Line::room`], for standard error.
    pub(crate) fn stderr_room(&self) -> usize {
        self.exchange.stderr_room().min(self.data_bytes_max())
    }

    fn data_bytes_max(&self) -> usize {
        let message_bytes_max = self.client.max_payload();
        message_bytes_max.saturating_sub(DATA_HEADERS_BYTES_MAX)
    }

    /// Sends a frame. Frames must be sent in the order of their numbers.
    ///
    /// # Errors
    /// It could not be sent. Then no later one may be sent either.
    pub(crate) async fn send(&mut self, numbered: Numbered) -> Result<(), Broken> {
        // A reply subject makes the server report that the other side has no subscription
        // any more, and tells the other side where to write to.
        let reply = match numbered.frame {
            Frame::Alive | Frame::Accept { .. } => Some(self.mailbox.subject.clone()),
            _ => None,
        };
        let runner = self.runner.as_deref().unwrap_or_default();
        let (headers, payload) = numbered.write(runner, self.client.max_payload());
        let peer = self.peer.clone();
        publish(&self.client, peer, reply, headers, payload, SEND_WAIT_MAX)
            .await
            .map_err(Broken::Connection)
    }

    /// Waits for one event, which must then go to [`Line::handle`]. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Next {
        tokio::select! {
            biased;
            message = self.mailbox.messages.recv() => Next::Message(message),
            () = &mut self.timer => Next::Tick,
        }
    }

    /// Classifies a message to this side.
    pub(crate) fn kind(&self, message: &Message) -> Kind {
        match self.runner {
            Some(_) => kind(message),
            None => kind_to_caller(message),
        }
    }

    /// Handles an event.
    ///
    /// # Errors
    /// The exchange broke: nothing more can be sent or received.
    pub(crate) async fn handle(&mut self, next: Next) -> Result<Event, Broken> {
        let now = Instant::now();
        match next {
            Next::Message(None) => Err(Broken::Connection(
                "the connection to NATS was lost, or too much came at once".into(),
            )),
            Next::Message(Some(message)) => match read(&message, self.kind(&message))? {
                Some(numbered) => self.exchange.receive(numbered, now),
                None => {
                    self.shared.strangers.passed_over(&message);
                    Ok(Event::Nothing)
                }
            },
            Next::Tick => {
                if self.exchange.tick(now)? {
                    let alive = self.exchange.alive(now);
                    self.send(alive).await?;
                }
                self.timer.as_mut().reset(self.exchange.due());
                Ok(Event::Nothing)
            }
        }
    }
}

/// Reads the frame in a message of that kind; `None` if a stranger sent it.
///
/// # Errors
/// It is malformed, or says that the other side is gone.
fn read(message: &Message, kind: Kind) -> Result<Option<Numbered>, Broken> {
    match kind {
        Kind::NoResponders | Kind::Gone => Err(Broken::Gone),
        Kind::Stranger => Ok(None),
        Kind::Reply => Err(Broken::Violation("a message that is no frame".to_owned())),
        Kind::Frame => match Numbered::read(message) {
            Some(Ok(numbered)) => Ok(Some(numbered)),
            Some(Err(malformed)) => Err(Broken::Violation(malformed.0)),
            None => Ok(None),
        },
    }
}
