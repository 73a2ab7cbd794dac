//! Between a link and whoever reads it: bytes pass as they come, and the end is
//! held back until it is known to be one.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::stream::{Stream, StreamExt};

use super::{Body, Chunks, Cut, MovedChunk, Outcome, PendingOutcome};
use crate::pipe::Writer;

/// Says whether what a link has written is complete.
pub(crate) trait Judge: Send + Unpin + 'static {
    /// All bytes have passed, and this is how the link ended.
    ///
    /// # Errors
    /// Why there should have been more.
    fn judge(&self, outcome: &Outcome) -> Result<(), Cut>;

    /// What it wrote broke off.
    fn broke(&self, cut: &Cut);
}

/// What a link writes, up to an end that `judge` has approved.
pub(crate) fn gate(body: Body, outcome: PendingOutcome, judge: impl Judge) -> Body {
    Body::of(Gate {
        state: State::Open(body),
        outcome,
        judge,
    })
}

struct Gate<J> {
    state: State,
    outcome: PendingOutcome,
    judge: J,
}

enum State {
    Open(Body),
    /// All bytes have passed; whether this is the end is not known yet.
    Held,
    Over,
}

impl<J: Judge> Stream for Gate<J> {
    type Item = Result<Bytes, Cut>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let gate = &mut *self;
        if let State::Open(body) = &mut gate.state {
            match ready!(body.poll_next_unpin(context)) {
                Some(Ok(chunk)) => return Poll::Ready(Some(Ok(chunk))),
                Some(Err(cut)) => {
                    gate.judge.broke(&cut);
                    gate.state = State::Over;
                    return Poll::Ready(Some(Err(cut)));
                }
                None => gate.state = State::Held,
            }
        }
        if let State::Held = gate.state {
            let outcome = ready!(gate.outcome.poll_unpin(context));
            gate.state = State::Over;
            return Poll::Ready(gate.judge.judge(&outcome).err().map(Err));
        }
        Poll::Ready(None)
    }
}

impl<J: Judge> Chunks for Gate<J> {
    fn poll_move(
        mut self: Pin<&mut Self>,
        to: &Writer,
        context: &mut Context<'_>,
    ) -> Poll<MovedChunk> {
        match &mut self.state {
            State::Open(body) => body.poll_move(to, context),
            State::Held | State::Over => Poll::Ready(MovedChunk::NotHere),
        }
    }
}
