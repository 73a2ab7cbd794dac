//! Between two pipelines of a call: bytes pass as they come, and the end is held back
//! until it is known to be one.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::stream::{Stream, StreamExt};

use crate::pipe::Writer;
use crate::transport::{
    Body, Chunks, Cut, Ending, MovedChunk, Outcome, OutputLeft, PendingOutcome,
};

/// What a pipeline writes. It ends where the last link has exited with a code that is
/// accepted, and is cut off otherwise.
pub(super) fn eof_barrier(body: Body, outcome: PendingOutcome, accepted: Vec<u8>) -> Body {
    Body::of(EofBarrier {
        state: State::Open(body),
        outcome,
        accepted,
    })
}

struct EofBarrier {
    state: State,
    outcome: PendingOutcome,
    /// One whose own input was not complete is stopped, and has not exited.
    accepted: Vec<u8>,
}

enum State {
    Open(Body),
    /// All bytes have passed; whether this is the end is not known yet.
    Held,
    Over,
}

impl EofBarrier {
    fn judge(&self, outcome: &Outcome) -> Option<Cut> {
        let last = outcome.links().last();
        match last.map(|last| (&last.ending, last.output)) {
            Some((Ending::Exited(code), OutputLeft::Given)) if self.accepted.contains(code) => None,
            _ => Some(Cut::new("the link before it failed")),
        }
    }
}

impl Stream for EofBarrier {
    type Item = Result<Bytes, Cut>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let barrier = &mut *self;
        if let State::Open(body) = &mut barrier.state {
            match ready!(body.poll_next_unpin(context)) {
                Some(Ok(chunk)) => return Poll::Ready(Some(Ok(chunk))),
                // The pipeline that reads this is stopped because of it.
                Some(Err(cut)) => {
                    barrier.state = State::Over;
                    return Poll::Ready(Some(Err(cut)));
                }
                None => barrier.state = State::Held,
            }
        }
        if let State::Held = barrier.state {
            let outcome = ready!(barrier.outcome.poll_unpin(context));
            barrier.state = State::Over;
            return Poll::Ready(barrier.judge(&outcome).map(Err));
        }
        Poll::Ready(None)
    }
}

impl Chunks for EofBarrier {
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
