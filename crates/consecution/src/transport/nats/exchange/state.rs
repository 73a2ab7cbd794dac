//! One side of the exchange of frames about one call, as plain data: the next numbers, how
//! much may be sent, whether the other side is alive.
//!
//! No I/O and no clock: received frames and times go in, frames to send come out. An end
//! counts only if every frame before it has come: a gap, a repeat, or more data than allowed
//! breaks the exchange.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::credit::{Incoming, Outgoing, STDERR_WINDOW_BYTES};
use crate::transport::Outcome;
use crate::transport::nats::wire::frame::{Frame, Numbered};
use crate::transport::nats::wire::request::Offer;

/// Interval between signs of life. By these a runner notices that its caller is gone; it
/// then gives the process time to end by itself, and both together take less than a second.
pub(crate) const ALIVE_EVERY: Duration = Duration::from_millis(400);

/// How long a side may be silent before it counts as lost.
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(5);

/// One side of an exchange.
#[derive(Debug)]
pub(crate) struct Exchange {
    side: Side,
    /// The number of the next frame to send.
    next_sent: u64,
    /// The number that the next received frame must have.
    next_received: u64,
    /// When to send the next sign of life.
    alive_due: Instant,
    /// When the last frame came.
    heard: Instant,
    /// When to stop waiting, whatever the other side does.
    give_up: Option<Instant>,
    outgoing: Outgoing,
    incoming: Incoming,
    stderr_outgoing: Outgoing,
    stderr_incoming: Incoming,
}

/// The side of an exchange.
#[derive(Debug)]
enum Side {
    Caller {
        /// How many joined links the runner has accepted; `None` before it accepts the call.
        joined: Option<usize>,
    },
    Runner,
}

/// The meaning of a received frame.
#[derive(Debug)]
pub(crate) enum Event {
    /// Only the exchange itself is concerned.
    Nothing,
    /// The runner has accepted the call, and so many following links.
    Accepted(usize),
    /// The next piece of the body.
    Data(Bytes),
    /// The body is complete.
    End,
    /// The body is cut off, for this reason.
    Cut(Arc<str>),
    /// The next piece of standard error.
    Stderr(Bytes),
    /// The other side reads no more of the body that we send.
    Closed,
    /// How the call ended: the last frame.
    Outcome(Outcome),
}

/// Why the exchange ended before the call did.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Broken {
    /// Frames were lost, repeated or reordered.
    #[error("frame {expected} of the other side was lost: frame {found} came instead")]
    Numbers { expected: u64, found: u64 },
    /// The other side sent something that the protocol does not allow.
    #[error("the other side does not keep to the protocol: {0}")]
    Violation(String),
    /// The other side has sent nothing for too long.
    #[error("nothing was heard of it for {} s", SILENCE_MAX.as_secs())]
    Silent,
    /// The server, or the other side, says that its inbox is gone.
    #[error("its connection is gone, or it has given the call up")]
    Gone,
    /// Our connection was lost, or does not send.
    #[error("{0}")]
    Connection(Arc<str>),
    /// The call's deadline is over, and no outcome has come.
    #[error("its deadline has passed")]
    Overdue,
}

impl Exchange {
    /// The caller's side. `give_up` is when to stop waiting for the runner.
    pub(crate) fn of_caller(now: Instant, offer: Offer, give_up: Option<Instant>) -> Exchange {
        let mut outgoing = Outgoing::new(0);
        outgoing.is_over = offer.is_whole;
        Exchange {
            give_up,
            outgoing,
            incoming: Incoming::new(offer.credit),
            stderr_incoming: Incoming::new(STDERR_WINDOW_BYTES),
            ..Exchange::new(Side::Caller { joined: None }, now)
        }
    }

    /// The runner's side. It may send `credit` bytes at first.
    pub(crate) fn of_runner(now: Instant, credit: u64) -> Exchange {
        Exchange {
            outgoing: Outgoing::new(credit),
            stderr_outgoing: Outgoing::new(STDERR_WINDOW_BYTES),
            ..Exchange::new(Side::Runner, now)
        }
    }

    /// Without credit in either direction.
    fn new(side: Side, now: Instant) -> Exchange {
        Exchange {
            side,
            next_sent: 0,
            next_received: 0,
            alive_due: now + ALIVE_EVERY,
            heard: now,
            give_up: None,
            outgoing: Outgoing::new(0),
            incoming: Incoming::new(0),
            stderr_outgoing: Outgoing::new(0),
            stderr_incoming: Incoming::new(0),
        }
    }

    fn number(&mut self, frame: Frame) -> Numbered {
        let number = self.next_sent;
        self.next_sent += 1;
        Numbered { number, frame }
    }

    /// Accepts the call, with `joined` following links. The caller may send `credit` bytes of
    /// the body at first; 0 if it has already sent the whole body. This is a sign of life.
    pub(crate) fn accept(&mut self, credit: u64, joined: usize, now: Instant) -> Numbered {
        self.alive_due = now + ALIVE_EVERY;
        self.incoming = Incoming::new(credit);
        self.incoming.is_over = credit == 0;
        self.number(Frame::Accept { credit, joined })
    }

    /// The most bytes of the body that a frame may carry now; 0 if none may be sent.
    pub(crate) fn room(&self) -> usize {
        self.outgoing.room()
    }

    /// Sends a piece of the body, of at most [`Exchange::room`] bytes.
    pub(crate) fn data(&mut self, bytes: Bytes) -> Numbered {
        self.outgoing.spend(bytes.len());
        self.number(Frame::Data(bytes))
    }

    /// Ends the body: complete, or cut off for a reason.
    pub(crate) fn end(&mut self, result: Result<(), Arc<str>>) -> Numbered {
        self.outgoing.is_over = true;
        self.number(match result {
            Ok(()) => Frame::End,
            Err(reason) => Frame::Cut(reason),
        })
    }

    /// Whether nothing more of the body is sent.
    pub(crate) fn has_sent_all(&self) -> bool {
        self.outgoing.is_over
    }

    /// Like [`Exchange::room`], for standard error.
    pub(crate) fn stderr_room(&self) -> usize {
        self.stderr_outgoing.room()
    }

    /// Like [`Exchange::data`], for standard error.
    pub(crate) fn stderr(&mut self, bytes: Bytes) -> Numbered {
        self.stderr_outgoing.spend(bytes.len());
        self.number(Frame::Stderr(bytes))
    }

    /// A received piece of that size was read: returns the credit to send, if any.
    pub(crate) fn consumed(&mut self, bytes: usize) -> Option<Numbered> {
        let credit = self.incoming.consumed(bytes)?;
        Some(self.number(Frame::Credit(credit)))
    }

    /// Like [`Exchange::consumed`], for standard error.
    pub(crate) fn stderr_consumed(&mut self, bytes: usize) -> Option<Numbered> {
        let credit = self.stderr_incoming.consumed(bytes)?;
        Some(self.number(Frame::StderrCredit(credit)))
    }

    /// The received body is no longer read: returns the frame to send, unless the body is
    /// over.
    pub(crate) fn close(&mut self) -> Option<Numbered> {
        if self.incoming.is_over || self.incoming.is_closed {
            return None;
        }
        self.incoming.is_closed = true;
        Some(self.number(Frame::Close))
    }

    /// Sends how the call ended.
    pub(crate) fn outcome(&mut self, outcome: Outcome) -> Numbered {
        self.number(Frame::Outcome(outcome))
    }

    /// Sends a sign of life.
    pub(crate) fn alive(&mut self, now: Instant) -> Numbered {
        self.alive_due = now + ALIVE_EVERY;
        self.number(Frame::Alive)
    }

    /// Whether anything has come from the other side.
    pub(crate) fn has_heard(&self) -> bool {
        self.next_received > 0
    }

    /// When the next sign of life is due.
    pub(crate) fn alive_due(&self) -> Instant {
        self.alive_due
    }

    /// When to call [`Exchange::tick`] next, at the latest.
    pub(crate) fn due(&self) -> Instant {
        let silent = self.heard + SILENCE_MAX;
        let due = self.alive_due.min(silent);
        self.give_up.map_or(due, |give_up| due.min(give_up))
    }

    /// Time has passed: returns whether to send a sign of life.
    ///
    /// # Errors
    /// The other side is lost.
    pub(crate) fn tick(&mut self, now: Instant) -> Result<bool, Broken> {
        if self.give_up.is_some_and(|give_up| now >= give_up) {
            return Err(Broken::Overdue);
        }
        if now >= self.heard + SILENCE_MAX {
            return Err(Broken::Silent);
        }
        let is_due = now >= self.alive_due;
        if is_due {
            self.alive_due = now + ALIVE_EVERY;
        }
        Ok(is_due)
    }

    /// A frame has come.
    ///
    /// # Errors
    /// The protocol does not allow it now, so later frames must not be trusted either.
    pub(crate) fn receive(&mut self, received: Numbered, now: Instant) -> Result<Event, Broken> {
        let expected = self.next_received;
        if received.number != expected {
            let found = received.number;
            return Err(Broken::Numbers { expected, found });
        }
        self.next_received += 1;
        self.heard = now;
        self.check_side(&received.frame)?;
        Ok(match received.frame {
            Frame::Alive => Event::Nothing,
            Frame::Accept { credit, joined } => {
                self.outgoing.grant(credit);
                Event::Accepted(joined)
            }
            Frame::Data(bytes) => {
                self.incoming.take(bytes.len()).map_err(violation)?;
                match self.incoming.is_closed {
                    true => Event::Nothing,
                    false => Event::Data(bytes),
                }
            }
            Frame::End => {
                self.incoming.finish().map_err(violation)?;
                Event::End
            }
            Frame::Cut(reason) => {
                self.incoming.finish().map_err(violation)?;
                Event::Cut(reason)
            }
            Frame::Stderr(bytes) => {
                self.stderr_incoming.take(bytes.len()).map_err(violation)?;
                Event::Stderr(bytes)
            }
            Frame::Credit(credit) => {
                self.outgoing.grant(credit);
                Event::Nothing
            }
            Frame::StderrCredit(credit) => {
                self.stderr_outgoing.grant(credit);
                Event::Nothing
            }
            Frame::Close => {
                self.outgoing.is_over = true;
                Event::Closed
            }
            Frame::Outcome(outcome) => Event::Outcome(outcome),
        })
    }

    /// Checks that the other side may send this frame now.
    fn check_side(&mut self, frame: &Frame) -> Result<(), Broken> {
        match (&mut self.side, frame) {
            (Side::Caller { .. }, frame) if !frame.is_runners() => {
                Err(violation("a frame that is a caller's"))
            }
            (Side::Runner, frame) if !frame.is_callers() => {
                Err(violation("a frame that is a runner's"))
            }
            (Side::Caller { joined: Some(_) }, Frame::Accept { .. }) => {
                Err(violation("it took the call twice"))
            }
            (Side::Caller { joined: taken }, Frame::Accept { joined, .. }) => {
                *taken = Some(*joined);
                Ok(())
            }
            (Side::Caller { joined }, Frame::Outcome(outcome))
                if *joined != Some(outcome.joined.len()) =>
            {
                Err(violation("it does not say how every link ended"))
            }
            _ => Ok(()),
        }
    }
}

fn violation(what: &str) -> Broken {
    Broken::Violation(what.to_owned())
}

#[cfg(test)]
mod tests;
