//! A call in frames, for either side: a body to send, a body to receive, and standard error
//! from the runner to the caller. The sides differ in which of these they have, and in what
//! ends the call: see [`super::caller`] and [`super::answerer`].

use std::future::pending;

use super::body::{Handed, Piece, Sink, Source, StderrSink};
use super::line::{Line, Next};
use super::state::{Broken, Event};
use crate::transport::{Cut, Outcome};

/// See the module.
pub(crate) struct Duplex {
    pub(crate) line: Line,
    /// The body to send; `None` once nothing more of it is sent.
    pub(crate) outgoing: Option<Source>,
    /// Takes the body that we receive.
    pub(crate) incoming: Sink,
    /// Standard error to send; `None` once nothing more of it is sent.
    pub(crate) stderr_outgoing: Option<Source>,
    /// Takes standard error that we receive.
    pub(crate) stderr_incoming: StderrSink,
}

/// An event that a duplex waits for.
pub(crate) enum Step {
    /// The line has a message, or time has passed.
    Came(Next),
    /// The reader of the received body has taken some of it, or is gone.
    Handed(Handed),
    /// The listener has taken so many bytes of standard error.
    HandedStderr(usize),
    /// The next piece of the body to send.
    Send(Piece),
    /// The next piece of standard error to send.
    SendStderr(Piece),
}

impl Duplex {
    /// Waits for one event, which must then go to [`Duplex::act`]. Cancel-safe.
    pub(crate) async fn wait(&mut self) -> Step {
        let (room, stderr_room) = (self.line.room(), self.line.stderr_room());
        tokio::select! {
            biased;
            next = self.line.next() => Step::Came(next),
            bytes = self.stderr_incoming.hand_over() => Step::HandedStderr(bytes),
            handed = self.incoming.hand_over() => Step::Handed(handed),
            piece = next_of(self.stderr_outgoing.as_mut(), stderr_room) => Step::SendStderr(piece),
            piece = next_of(self.outgoing.as_mut(), room) => Step::Send(piece),
        }
    }

    /// Handles an event; returns the outcome when it has come.
    ///
    /// # Errors
    /// The exchange broke: nothing more can be sent or received.
    pub(crate) async fn act(&mut self, step: Step) -> Result<Option<Outcome>, Broken> {
        let exchange = &mut self.line.exchange;
        let frame = match step {
            Step::Came(next) => return self.came(next).await,
            Step::Handed(Handed::Over(bytes)) => exchange.consumed(bytes),
            Step::Handed(Handed::Unread) => exchange.close(),
            Step::HandedStderr(bytes) => exchange.stderr_consumed(bytes),
            Step::Send(Piece::Data(bytes)) => Some(exchange.data(bytes)),
            Step::Send(Piece::End) => Some(exchange.end(Ok(()))),
            Step::Send(Piece::Cut(cut)) => Some(exchange.end(Err(cut.reason))),
            Step::SendStderr(Piece::Data(bytes)) => Some(exchange.stderr(bytes)),
            Step::SendStderr(Piece::End | Piece::Cut(_)) => {
                self.stderr_outgoing = None;
                None
            }
        };
        if let Some(frame) = frame {
            self.line.send(frame).await?;
        }
        if self.line.exchange.has_sent_all() {
            self.outgoing = None;
        }
        Ok(None)
    }

    async fn came(&mut self, next: Next) -> Result<Option<Outcome>, Broken> {
        match self.line.handle(next).await? {
            Event::Nothing | Event::Accepted(..) => {}
            Event::Data(bytes) => self.incoming.put(Piece::Data(bytes)),
            Event::End => self.incoming.put(Piece::End),
            Event::Cut(reason) => self.incoming.put(Piece::Cut(Cut { reason })),
            Event::Stderr(bytes) => self.stderr_incoming.put(bytes),
            Event::Closed => self.outgoing = None,
            Event::Outcome(outcome) => return Ok(Some(outcome)),
        }
        Ok(None)
    }
}

async fn next_of(source: Option<&mut Source>, room: usize) -> Piece {
    match source {
        Some(source) => source.next(room).await,
        None => pending().await,
    }
}
