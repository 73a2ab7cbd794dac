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
use crate::transport::{Body, Cut, Ending, Outcome, PendingOutcome};

/// The caller's stream, for the first link.
pub(super) fn input(body: Body, notes: Arc<Notes>) -> Body {
    Body::new(body.inspect(move |chunk| {
        if let Err(cut) = chunk {
            // The first break is the one that counts.
            let _ = notes.input_cut.set(Arc::clone(&cut.reason));
        }
    }))
}

/// What link `index` writes, the last one of a call, for the link behind it.
pub(super) fn between(
    chain: Arc<Chain>,
    index: usize,
    body: Body,
    outcome: PendingOutcome,
    notes: Arc<Notes>,
) -> Body {
    Body::new(Gate {
        state: GateState::Open(body),
        outcome,
        chain,
        index,
        notes,
    })
}

/// Ends once the link that writes it has succeeded.
struct Gate {
    state: GateState,
    outcome: PendingOutcome,
    chain: Arc<Chain>,
    index: usize,
    notes: Arc<Notes>,
}

enum GateState {
    Open(Body),
    /// All bytes have passed; whether this is the end is not known yet.
    Held,
    Over,
}

impl Gate {
    /// Whether the stream may end, now that its link has.
    fn end(&self, outcome: &Outcome) -> Result<(), Cut> {
        let link = &self.chain.links[self.index];
        let last = outcome.joined.last().unwrap_or(outcome);
        match &last.ending {
            Ending::Exited(code) if link.accepts(*code) => Ok(()),
            Ending::Unread => {
                let cut = Cut::new("it was stopped as if nobody read its output");
                let _ = self.notes.output_cut[self.index].set(Arc::clone(&cut.reason));
                Err(cut)
            }
            _ => Err(Cut::new(format!(
                "link {} '{}' failed",
                self.index + 1,
                link.name
            ))),
        }
    }
}

impl Stream for Gate {
    type Item = Result<Bytes, Cut>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let gate = &mut *self;
        if let GateState::Open(body) = &mut gate.state {
            match ready!(body.poll_next_unpin(context)) {
                Some(Ok(chunk)) => return Poll::Ready(Some(Ok(chunk))),
                Some(Err(cut)) => {
                    let _ = gate.notes.output_cut[gate.index].set(Arc::clone(&cut.reason));
                    gate.state = GateState::Over;
                    return Poll::Ready(Some(Err(cut)));
                }
                None => gate.state = GateState::Held,
            }
        }
        if let GateState::Held = gate.state {
            let outcome = ready!(gate.outcome.poll_unpin(context));
            gate.state = GateState::Over;
            return Poll::Ready(gate.end(&outcome).err().map(Err));
        }
        Poll::Ready(None)
    }
}

/// What the whole chain writes, for the caller. It drives the run when it is
/// read, ends when the run has succeeded, and is cut off when it has failed.
pub(super) struct Output {
    state: OutputState,
    run: PendingReport,
    /// Dropped when nothing more will be read; this is how the run knows.
    reading: Option<oneshot::Sender<()>>,
    notes: Arc<Notes>,
}

enum OutputState {
    /// The last link has not been called yet.
    Waiting(oneshot::Receiver<Body>),
    Reading(Body),
    /// All bytes have passed; whether this is the end is not known yet.
    Held,
    Over,
}

impl Output {
    pub(super) fn new(
        last: oneshot::Receiver<Body>,
        run: PendingReport,
        reading: oneshot::Sender<()>,
        notes: Arc<Notes>,
    ) -> Output {
        let state = OutputState::Waiting(last);
        Output {
            state,
            run,
            reading: Some(reading),
            notes,
        }
    }

    /// Nothing more will be read.
    fn hold(&mut self) {
        self.state = OutputState::Held;
        self.reading = None;
    }
}

impl Stream for Output {
    type Item = Result<Bytes, Cut>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let output = &mut *self;
        loop {
            if let OutputState::Over = output.state {
                return Poll::Ready(None);
            }
            // First, since a failure, or a deadline, cuts off what is still
            // coming; the run itself waits for bytes that must not be lost.
            if let Poll::Ready(result) = output.run.poll_unpin(context) {
                output.hold();
                output.state = OutputState::Over;
                let cut = result.err().map(|error| Cut::new(error.to_string()));
                return Poll::Ready(cut.map(Err));
            }
            match &mut output.state {
                OutputState::Waiting(last) => match ready!(last.poll_unpin(context)) {
                    Ok(body) => output.state = OutputState::Reading(body),
                    // The run has ended just now, and wakes us.
                    Err(_) => return Poll::Pending,
                },
                OutputState::Reading(body) => match ready!(body.poll_next_unpin(context)) {
                    Some(Ok(chunk)) => return Poll::Ready(Some(Ok(chunk))),
                    Some(Err(cut)) => {
                        if let Some(last) = output.notes.output_cut.last() {
                            let _ = last.set(cut.reason);
                        }
                        output.hold();
                    }
                    None => output.hold(),
                },
                OutputState::Held | OutputState::Over => return Poll::Pending,
            }
        }
    }
}
