//! One side of the exchange of frames about one call, as plain data: which
//! number comes next, how much may be sent, whether the other side lives.
//!
//! No I/O and no clock: frames and moments come in, frames to send come out. It
//! never takes an end for complete unless every frame before it has come; a gap,
//! a repeat, or more than was allowed ends the exchange.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::frame::{Frame, Numbered};
use super::head::Offer;
use crate::transport::Outcome;

/// The largest piece of a body in one frame. The server reads 64 KiB at a time,
/// and allocates memory for each message that is not all in what it has read:
/// with frames of 128 KiB, which are cheapest for us, it took a third longer.
pub(super) const FRAME_BYTES_MAX: usize = 32 * 1024;

/// What a frame costs beside its bytes, so that the number of tiny frames under
/// way is bounded as well: about what a message takes in memory.
pub(super) const FRAME_OVERHEAD_BYTES: u64 = 512;

/// How much of one body may be under way: sixteen of the largest frames, so that
/// neither side waits for the other where both are quick.
const WINDOW_BYTES: u64 = 16 * (FRAME_BYTES_MAX as u64 + FRAME_OVERHEAD_BYTES);

/// How much may be under way to one connection, of all calls together. What a
/// receiver is slow to take waits in the server, which cuts off whoever lets
/// more than 64 MiB wait (its `max_pending`).
const CONNECTION_WINDOW_BYTES: u64 = 32 * 1024 * 1024;

/// The least that makes sense for one body.
const WINDOW_BYTES_MIN: u64 = 32 * 1024;

/// The window for one more body where so many calls are under way.
pub(super) fn window(calls: usize) -> u64 {
    let share = CONNECTION_WINDOW_BYTES / (calls.max(1) as u64);
    share.clamp(WINDOW_BYTES_MIN, WINDOW_BYTES)
}

/// How much of standard error may be under way; it is read by people.
pub(super) const STDERR_WINDOW_BYTES: u64 = 64 * 1024;

/// Credit beyond this means nothing.
const CREDIT_BYTES_MAX: u64 = 1 << 40;

/// How often each side shows that it lives. A process whose caller is gone is
/// noticed by this, and then has its time to end by itself: both within a second.
pub(super) const ALIVE_EVERY: Duration = Duration::from_millis(400);

/// How long a side may be silent before it counts as lost.
pub(super) const SILENCE_MAX: Duration = Duration::from_secs(5);

/// One side's end of an exchange.
#[derive(Debug)]
pub(super) struct Exchange {
    /// The number of the next frame that is sent, and of the next that comes.
    next_sent: u64,
    next_received: u64,
    alive_due: Instant,
    heard: Instant,
    /// When to stop waiting, whatever the other side does.
    give_up: Option<Instant>,
    outgoing: Outgoing,
    incoming: Incoming,
    stderr_outgoing: Outgoing,
    stderr_incoming: Incoming,
}

/// A body that is sent.
#[derive(Debug)]
struct Outgoing {
    credit: u64,
    /// The most credit that there was.
    window: u64,
    /// It has ended, was cut off, or is not read any more.
    is_over: bool,
}

/// A body that is received.
#[derive(Debug)]
struct Incoming {
    /// What the other side may still send.
    credit: u64,
    /// What has been read and not yet given back as credit.
    owed: u64,
    window: u64,
    is_over: bool,
    /// It is not read any more, and the other side was told.
    is_closed: bool,
}

/// What a frame means for its receiver.
#[derive(Debug)]
pub(super) enum Event {
    /// Nothing that anybody but the exchange must know.
    Nothing,
    /// The runner took the call, and so many links that follow.
    Accepted(Option<Arc<str>>, usize),
    /// The next piece of the body.
    Data(Bytes),
    /// The body is complete.
    End,
    /// The body is cut off, for that reason.
    Cut(Arc<str>),
    /// The next piece of standard error.
    Stderr(Bytes),
    /// The body that we send is not read any more.
    Closed,
    /// How the call ended; nothing comes after it.
    Outcome(Outcome),
}

/// The exchange is over before its end, for this reason.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Broken {
    /// Frames were lost, repeated or reordered.
    #[error("frame {expected} of the other side was lost: frame {found} came instead")]
    Numbers { expected: u64, found: u64 },
    /// The other side sent what it may not send, as this says.
    #[error("the other side does not keep to the protocol: {0}")]
    Violation(String),
    /// The other side is not heard any more.
    #[error("nothing was heard of it for {} s", SILENCE_MAX.as_secs())]
    Silent,
    /// It is gone, as the server or its inbox says.
    #[error("its connection is gone, or it has given the call up")]
    Gone,
    /// Our connection was lost, or nothing can be sent, as this says.
    #[error("{0}")]
    Connection(Arc<str>),
    /// The call's deadline is well over.
    #[error("its deadline has passed")]
    Overdue,
}

impl Exchange {
    /// A caller's side, to a runner who may send so much at first. `give_up` is
    /// when to stop waiting for it.
    pub(super) fn of_caller(now: Instant, offer: Offer, give_up: Option<Instant>) -> Exchange {
        let mut outgoing = Outgoing::new(0);
        outgoing.is_over = offer.is_whole;
        Exchange {
            give_up,
            outgoing,
            incoming: Incoming::new(offer.credit),
            stderr_incoming: Incoming::new(STDERR_WINDOW_BYTES),
            ..Exchange::new(now)
        }
    }

    /// A runner's side, to a caller who takes so much at first.
    pub(super) fn of_runner(now: Instant, credit: u64) -> Exchange {
        Exchange {
            outgoing: Outgoing::new(credit),
            stderr_outgoing: Outgoing::new(STDERR_WINDOW_BYTES),
            ..Exchange::new(now)
        }
    }

    /// Nothing may be sent or come until there is credit.
    fn new(now: Instant) -> Exchange {
        Exchange {
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

    /// Takes the call, with so many links that follow. The caller may send so much
    /// of the request's body at first; 0 where it has sent all of it.
    pub(super) fn accept(&mut self, credit: u64, joined: usize) -> Numbered {
        self.incoming = Incoming::new(credit);
        self.incoming.is_over = credit == 0;
        let runner = None;
        self.number(Frame::Accept {
            credit,
            runner,
            joined,
        })
    }

    /// How much of the body one frame may carry now; 0: none may be sent.
    pub(super) fn room(&self) -> usize {
        self.outgoing.room()
    }

    /// Sends a piece, no larger than there is room for.
    pub(super) fn data(&mut self, bytes: Bytes) -> Numbered {
        self.outgoing.spend(bytes.len());
        self.number(Frame::Data(bytes))
    }

    /// The body is complete, or cut off for that reason.
    pub(super) fn end(&mut self, result: Result<(), Arc<str>>) -> Numbered {
        self.outgoing.is_over = true;
        self.number(match result {
            Ok(()) => Frame::End,
            Err(reason) => Frame::Cut(reason),
        })
    }

    /// Whether the body that we send is over.
    pub(super) fn has_sent_all(&self) -> bool {
        self.outgoing.is_over
    }

    /// As [`Exchange::room`], of standard error.
    pub(super) fn stderr_room(&self) -> usize {
        self.stderr_outgoing.room()
    }

    /// As [`Exchange::data`], of standard error.
    pub(super) fn stderr(&mut self, bytes: Bytes) -> Numbered {
        self.stderr_outgoing.spend(bytes.len());
        self.number(Frame::Stderr(bytes))
    }

    /// A received piece of that size was read: the credit to give, if any.
    pub(super) fn consumed(&mut self, bytes: usize) -> Option<Numbered> {
        let credit = self.incoming.consumed(bytes)?;
        Some(self.number(Frame::Credit(credit)))
    }

    /// As [`Exchange::consumed`], of standard error.
    pub(super) fn stderr_consumed(&mut self, bytes: usize) -> Option<Numbered> {
        let credit = self.stderr_incoming.consumed(bytes)?;
        Some(self.number(Frame::StderrCredit(credit)))
    }

    /// The received body is not read any more: what to tell, if it is not over.
    pub(super) fn close(&mut self) -> Option<Numbered> {
        if self.incoming.is_over || self.incoming.is_closed {
            return None;
        }
        self.incoming.is_closed = true;
        Some(self.number(Frame::Close))
    }

    /// The call is over.
    pub(super) fn outcome(&mut self, outcome: Outcome) -> Numbered {
        self.number(Frame::Outcome(outcome))
    }

    /// A sign of life.
    pub(super) fn alive(&mut self) -> Numbered {
        self.number(Frame::Alive)
    }

    /// Whether anything has come of the other side.
    pub(super) fn has_heard(&self) -> bool {
        self.next_received > 0
    }

    /// When to call [`Exchange::tick`] next, at the latest.
    pub(super) fn due(&self) -> Instant {
        let silent = self.heard + SILENCE_MAX;
        let due = self.alive_due.min(silent);
        self.give_up.map_or(due, |give_up| due.min(give_up))
    }

    /// Time has passed: whether to send a sign of life.
    ///
    /// # Errors
    /// The other side is lost.
    pub(super) fn tick(&mut self, now: Instant) -> Result<bool, Broken> {
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
    /// It must not come now: nothing that comes after it can be believed.
    pub(super) fn receive(&mut self, received: Numbered, now: Instant) -> Result<Event, Broken> {
        let expected = self.next_received;
        if received.number != expected {
            let found = received.number;
            return Err(Broken::Numbers { expected, found });
        }
        self.next_received += 1;
        self.heard = now;
        Ok(match received.frame {
            Frame::Alive => Event::Nothing,
            Frame::Accept {
                credit,
                runner,
                joined,
            } => {
                self.outgoing.grant(credit);
                Event::Accepted(runner, joined)
            }
            Frame::Data(bytes) => {
                self.incoming.take(bytes.len())?;
                match self.incoming.is_closed {
                    true => Event::Nothing,
                    false => Event::Data(bytes),
                }
            }
            Frame::End => {
                self.incoming.finish()?;
                Event::End
            }
            Frame::Cut(reason) => {
                self.incoming.finish()?;
                Event::Cut(reason)
            }
            Frame::Stderr(bytes) => {
                self.stderr_incoming.take(bytes.len())?;
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
}

impl Outgoing {
    fn new(credit: u64) -> Outgoing {
        let credit = credit.min(CREDIT_BYTES_MAX);
        Outgoing {
            credit,
            window: credit,
            is_over: false,
        }
    }

    /// None where little is left: more comes as soon as what is under way is
    /// read, and a body must not fall into ever smaller frames until then.
    fn room(&self) -> usize {
        let least = (self.window / 4).min(FRAME_OVERHEAD_BYTES + FRAME_BYTES_MAX as u64);
        if self.is_over || self.credit < least {
            return 0;
        }
        let room = self.credit.saturating_sub(FRAME_OVERHEAD_BYTES);
        usize::try_from(room).map_or(FRAME_BYTES_MAX, |room| room.min(FRAME_BYTES_MAX))
    }

    fn spend(&mut self, bytes: usize) {
        self.credit = self.credit.saturating_sub(cost(bytes));
    }

    fn grant(&mut self, credit: u64) {
        self.credit = self.credit.saturating_add(credit).min(CREDIT_BYTES_MAX);
        self.window = self.window.max(self.credit);
    }
}

impl Incoming {
    fn new(window: u64) -> Incoming {
        Incoming {
            credit: window,
            owed: 0,
            window,
            is_over: false,
            is_closed: false,
        }
    }

    fn take(&mut self, bytes: usize) -> Result<(), Broken> {
        self.is_not_over()?;
        let left = self.credit.checked_sub(cost(bytes));
        self.credit = left.ok_or_else(|| violation("it sent more than it may"))?;
        Ok(())
    }

    fn finish(&mut self) -> Result<(), Broken> {
        self.is_not_over()?;
        self.is_over = true;
        Ok(())
    }

    fn is_not_over(&self) -> Result<(), Broken> {
        match self.is_over {
            true => Err(violation("it sent more after its end")),
            false => Ok(()),
        }
    }

    /// Credit is given back in large pieces: a message each would cost more than
    /// the data.
    fn consumed(&mut self, bytes: usize) -> Option<u64> {
        self.owed += cost(bytes);
        if self.is_over || self.is_closed || self.owed < self.window / 4 {
            return None;
        }
        let credit = std::mem::take(&mut self.owed);
        self.credit += credit;
        Some(credit)
    }
}

fn cost(bytes: usize) -> u64 {
    FRAME_OVERHEAD_BYTES + bytes as u64
}

fn violation(what: &str) -> Broken {
    Broken::Violation(what.to_owned())
}

#[cfg(test)]
mod tests;
