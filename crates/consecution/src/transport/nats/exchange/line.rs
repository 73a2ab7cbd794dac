//! One side's line to the other: the exchange, with the inbox that its frames
//! come in at and the connection that they go out on.

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

/// What the headers of a frame with data take at most, by far.
const DATA_HEADERS_BYTES_MAX: usize = 256;

/// How long a frame may wait for its turn to be sent; if the server takes
/// nothing for so long, the other side has given up.
const SEND_WAIT_MAX: Duration = SILENCE_MAX;

/// See the module.
pub(crate) struct Line {
    pub(crate) exchange: Exchange,
    shared: Arc<Shared>,
    client: Arc<Client>,
    mailbox: Mailbox,
    /// The other side's inbox.
    peer: Subject,
    /// Our name, where we are a runner.
    runner: Option<Arc<str>>,
    timer: Pin<Box<Sleep>>,
}

/// What a line waited for.
pub(crate) enum Next {
    /// This came; `None` when nothing can come any more.
    Message(Option<Message>),
    /// Time has passed.
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

    /// How much of the body one frame may carry now; 0: none may be sent.
    pub(crate) fn room(&self) -> usize {
        self.exchange.room().min(self.data_bytes_max())
    }

    /// As [`Line::room`], of standard error.
    pub(crate) fn stderr_room(&self) -> usize {
        self.exchange.stderr_room().min(self.data_bytes_max())
    }

    fn data_bytes_max(&self) -> usize {
        let message_bytes_max = self.client.max_payload();
        message_bytes_max.saturating_sub(DATA_HEADERS_BYTES_MAX)
    }

    /// Sends a frame of our exchange, which must go out in the order in which
    /// they were made.
    ///
    /// # Errors
    /// It could not be sent, so nothing behind it may.
    pub(crate) async fn send(&mut self, numbered: Numbered) -> Result<(), Broken> {
        // With these the server tells us when the other side's connection is
        // gone, and the other side where to write to.
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

    /// Waits for a message, or for time to pass. What came goes to
    /// [`Line::handle`], so that this may be given up at any time.
    pub(crate) async fn next(&mut self) -> Next {
        tokio::select! {
            biased;
            message = self.mailbox.messages.recv() => Next::Message(message),
            () = &mut self.timer => Next::Tick,
        }
    }

    /// What a message is to this side.
    pub(crate) fn kind(&self, message: &Message) -> Kind {
        match self.runner {
            Some(_) => kind(message),
            None => kind_to_caller(message),
        }
    }

    /// # Errors
    /// The exchange is over: there is nothing more to send or to come.
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

/// The frame that a message of that kind is; `None` where it is neither side's.
///
/// # Errors
/// It cannot be read, or says that the other side is gone.
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
