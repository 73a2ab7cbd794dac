//! A call that goes on in frames, from either side: a body that is sent, a body
//! that is received, and standard error from the runner to the caller. The sides
//! differ in which of these they have, and in what ends the call: see
//! [`super::caller`] and [`super::answerer`].

use std::future::pending;

use super::body::{Handed, Piece, Sink, Source, StderrSink};
use super::line::{Line, Next};
use super::state::{Broken, Event};
use crate::transport::{Cut, Outcome};

/// See the module.
pub(crate) struct Duplex {
    pub(crate) line: Line,
    /// The body that we send; `None` when nothing more is sent of it.
    pub(crate) outgoing: Option<Source>,
    /// Where the body that we receive goes.
    pub(crate) incoming: Sink,
    /// Standard error that we send; `None` when nothing more is sent of it.
    pub(crate) stderr_outgoing: Option<Source>,
    /// Where standard error goes that we receive.
    pub(crate) stderr_incoming: StderrSink,
}

/// What a duplex waited for.
pub(crate) enum Step {
    Came(Next),
    /// The reader of the received body took some of it, or is gone.
    Handed(Handed),
    HandedStderr(usize),
    /// The next of the body that is sent.
    Send(Piece),
    SendStderr(Piece),
}

impl Duplex {
    /// Waits for one thing. What follows from it is done by [`Duplex::act`], so that
    /// this may be given up at any time.
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

    /// Does what follows from a step; gives the outcome when it has come.
    ///
    /// # Errors
    /// The call is over before its end: there is nothing more to send or to come.
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
