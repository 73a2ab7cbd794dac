//! The streams of a run: into the first link, between two, and behind the last.
//!
//! Each is an adapter over the stream before it: no task, no buffer, no copy.
//! What they let through is bytes; what they hold back is an end that is not
//! known to be one.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use chain::Chain;
use futures_util::future::FutureExt;
use futures_util::stream::{Stream, StreamExt};
use tokio::sync::oneshot;

use super::PendingReport;
use super::trail::Notes;
use crate::pipe::Writer;
use crate::transport::{
    Body, Chunks, Cut, Ending, Judge, MovedChunk, Outcome, PendingOutcome, gate,
};

/// The caller's stream, for the first link.
pub(super) fn input(body: Body, notes: Arc<Notes>) -> Body {
    Body::of(FirstInput { body, notes })
}

struct FirstInput {
    body: Body,
    notes: Arc<Notes>,
}

impl Stream for FirstInput {
    type Item = Result<Bytes, Cut>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let chunk = ready!(self.body.poll_next_unpin(context));
        if let Some(Err(cut)) = &chunk {
            // The first break is the one that counts.
            let _ = self.notes.input_cut.set(Arc::clone(&cut.reason));
        }
        Poll::Ready(chunk)
    }
}

impl Chunks for FirstInput {
    fn poll_move(
        mut self: Pin<&mut Self>,
        to: &Writer,
        context: &mut Context<'_>,
    ) -> Poll<MovedChunk> {
        self.body.poll_move(to, context)
    }
}

/// What link `index` writes, the last one of a call, for the link behind it.
pub(super) fn between(
    chain: Arc<Chain>,
    index: usize,
    body: Body,
    outcome: PendingOutcome,
    notes: Arc<Notes>,
) -> Body {
    let between = Between {
        chain,
        index,
        notes,
    };
    gate(body, outcome, between)
}

struct Between {
    chain: Arc<Chain>,
    index: usize,
    notes: Arc<Notes>,
}

impl Judge for Between {
    fn judge(&self, outcome: &Outcome) -> Result<(), Cut> {
        let link = &self.chain.links[self.index];
        let last = outcome.joined.last().unwrap_or(outcome);
        match &last.ending {
            Ending::Exited(code) if link.accepts(*code) => Ok(()),
            Ending::Unread => {
                let cut = Cut::new("it was stopped as if nobody read its output");
                self.broke(&cut);
                Err(cut)
            }
            _ => Err(Cut::new(format!(
                "link {} '{}' failed",
                self.index + 1,
                link.name
            ))),
        }
    }

    fn broke(&self, cut: &Cut) {
        self.notes.broke(self.index, cut);
    }
}

/// What the whole chain writes, for the caller. It drives the run when it is
/// read, ends when the run has succeeded, and is cut off when it has failed.
pub(super) struct Output {
    state: OutputState,
    run: PendingReport,
    /// Dropped when nothing more will be read; this is how the run knows.
    reading: Option<oneshot::Sender<()>>,
    /// The last link's.
    index: usize,
    notes: Arc<Notes>,
}

enum OutputState {
    /// The last link has not been called yet.
    Waiting(oneshot::Receiver<Body>),
    Reading(Body),
    /// All bytes have passed; whether this is the end is not known yet.
    Held,
    /// The run has ended, and so does its output.
    Ended(Option<Cut>),
    Over,
}

impl Output {
    pub(super) fn new(
        last: oneshot::Receiver<Body>,
        run: PendingReport,
        reading: oneshot::Sender<()>,
        index: usize,
        notes: Arc<Notes>,
    ) -> Output {
        let state = OutputState::Waiting(last);
        Output {
            state,
            run,
            reading: Some(reading),
            index,
            notes,
        }
    }

    /// Nothing more will be read.
    fn hold(&mut self) {
        self.state = OutputState::Held;
        self.reading = None;
    }

    /// Drives the run. It goes first, since a failure, or a deadline, cuts off
    /// what is still coming; the run itself waits for bytes that must not be lost.
    fn drive(&mut self, context: &mut Context<'_>) {
        if matches!(self.state, OutputState::Ended(_) | OutputState::Over) {
            return;
        }
        if let Poll::Ready(result) = self.run.poll_unpin(context) {
            let cut = result.err().map(|error| Cut::new(error.to_string()));
            self.reading = None;
            self.state = OutputState::Ended(cut);
        }
    }
}

impl Stream for Output {
    type Item = Result<Bytes, Cut>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let output = &mut *self;
        loop {
            output.drive(context);
            match &mut output.state {
                OutputState::Waiting(last) => match ready!(last.poll_unpin(context)) {
                    Ok(body) => output.state = OutputState::Reading(body),
                    // The run has ended just now, and wakes us.
                    Err(_) => return Poll::Pending,
                },
                OutputState::Reading(body) => match ready!(body.poll_next_unpin(context)) {
                    Some(Ok(chunk)) => return Poll::Ready(Some(Ok(chunk))),
                    Some(Err(cut)) => {
                        output.notes.broke(output.index, &cut);
                        output.hold();
                    }
                    None => output.hold(),
                },
                OutputState::Held => return Poll::Pending,
                OutputState::Ended(cut) => {
                    let cut = cut.take();
                    output.state = OutputState::Over;
                    return Poll::Ready(cut.map(Err));
                }
                OutputState::Over => return Poll::Ready(None),
            }
        }
    }
}

impl Chunks for Output {
    fn poll_move(
        mut self: Pin<&mut Self>,
        to: &Writer,
        context: &mut Context<'_>,
    ) -> Poll<MovedChunk> {
        self.drive(context);
        match &mut self.state {
            OutputState::Reading(body) => body.poll_move(to, context),
            _ => Poll::Ready(MovedChunk::NotHere),
        }
    }
}
