//! One start, from its approval to the taker or the reserve that gets the pipeline.

use std::sync::Arc;

use tokio::time::Instant;

use super::super::pool_state::{Look, Member, Started};
use super::{Idle, IdleEntry, Shared, Start, TakeError, names};

/// The permission to start one pipeline. If it is dropped unused, the start counts as failed.
pub(super) struct Approval<P: Idle> {
    shared: Arc<Shared<P>>,
    member: Member,
    is_used: bool,
}

impl<P: Idle> Approval<P> {
    pub(super) fn new(shared: &Arc<Shared<P>>, member: Member) -> Approval<P> {
        Approval {
            shared: Arc::clone(shared),
            member,
            is_used: false,
        }
    }

    pub(super) async fn start(mut self, start: Start<P>) {
        let began = Instant::now();
        let result = start().await;
        // It may be the last that keeps the starter of a pool that is gone.
        drop(start);
        self.is_used = true;
        match result {
            Ok(pipeline) => self.succeeded(pipeline, began),
            Err(error) => self.failed(error),
        }
    }

    fn succeeded(&self, pipeline: P, began: Instant) {
        let member = self.member;
        self.shared.with(|inner, now| {
            let started = inner.state.started(member, began.elapsed(), now);
            let Some(pool) = inner.pools.get_mut(&member) else {
                return inner.discarded.push(pipeline);
            };
            match started {
                Started::Surplus => inner.discarded.push(pipeline),
                Started::Idle(number) => {
                    let entry = IdleEntry::new(pipeline);
                    let has_settled = entry.probe.is_none();
                    pool.idle.insert(number, entry);
                    pool.changed.notify_one();
                    if has_settled {
                        inner.state.looked(member, number, Look::Unknown, now);
                    }
                }
                Started::For(ticket) => {
                    // A taker removes itself from the list before it goes.
                    let answer = pool.waiting.remove(&ticket);
                    let unheard = answer.map(|answer| answer.send(Ok(pipeline)));
                    if let Some(Err(Ok(pipeline))) = unheard {
                        inner.discarded.push(pipeline);
                        inner.state.released(member, now);
                    }
                }
            }
        });
        // After the surplus pipeline is dropped.
        self.shared.with(|inner, _| inner.tell_if_unused(member));
    }

    fn failed(&self, error: TakeError) {
        let member = self.member;
        self.shared.with(|inner, now| {
            let ticket = match &error {
                TakeError::Starved(_) => inner.state.start_starved(member, now),
                TakeError::Busy | TakeError::CannotStart(_) => {
                    inner.state.start_failed(member, now)
                }
            };
            inner.tell_if_unused(member);
            let Some(pool) = inner.pools.get_mut(&member) else {
                return;
            };
            pool.changed.notify_one();
            match ticket.and_then(|ticket| pool.waiting.remove(&ticket)) {
                // A taker that is gone needs no answer.
                Some(answer) => drop(answer.send(Err(error))),
                None => {
                    // The starter logs the other errors, once for all links.
                    if let TakeError::CannotStart(reason) = error {
                        tracing::warn!(
                            link_id = names(&pool.ids),
                            "failed to refill the pool: {reason}"
                        );
                    }
                }
            }
        });
    }
}

impl<P: Idle> Drop for Approval<P> {
    fn drop(&mut self) {
        if !self.is_used {
            // The start was dropped, as when the runtime shuts down.
            self.failed(TakeError::Busy);
        }
    }
}
