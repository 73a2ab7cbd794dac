//! One attempt at a call, of a link or of several that are taken together: asked for
//! until somebody takes it, for as long as that makes sense.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chain::ChainLink;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};

use super::Portal;
use super::failure::FailureReason;
use super::verdict::Asked;
use crate::backoff::Backoff;
use crate::trace::Trace;
use crate::transport::{Body, Following, RefusalReason, Reply, Request, Waiting};

/// How long to wait before asking again for a runner: at first, and at most.
const ASK_BACKOFF_MIN: Duration = Duration::from_millis(1);
const ASK_BACKOFF_MAX: Duration = Duration::from_millis(100);

/// How long to ask while everybody is busy, where there is no deadline.
const BUSY_WAIT_MAX: Duration = Duration::from_secs(30);

/// How long to ask while nobody can be asked, and for those who have just gone
/// to come back.
const AWAY_WAIT_MAX: Duration = Duration::from_secs(10);

/// How often a call is made again where its link does not say: often enough for
/// any bad day, and an end to an input that takes its runners with it.
const RETRIES_MAX_DEFAULT: u32 = 10;

/// How long after a deadline to wait for the runner's own word on it, which has
/// the end of stderr, before going on without.
pub(super) const DEADLINE_GRACE: Duration = Duration::from_millis(200);

/// How often a call of that link is made again, at most.
pub(super) fn retries_max(link: &ChainLink) -> u32 {
    let by_default = if link.link.is_pure() {
        RETRIES_MAX_DEFAULT
    } else {
        0
    };
    link.retries.unwrap_or(by_default)
}

/// An attempt at the call of a link of a chain.
pub(super) struct Attempt {
    pub(super) portal: Portal,
    /// Which link.
    pub(super) index: usize,
    /// The links behind it that may be taken with it.
    pub(super) following: Arc<[Following]>,
    pub(super) body: Body,
    pub(super) trace: Trace,
    pub(super) deadline: Option<Instant>,
    pub(super) stderr: Option<mpsc::Sender<Bytes>>,
    pub(super) asked: Asked,
}

impl Attempt {
    /// Makes the call again of which a runner was lost, after a while.
    pub(super) async fn again(self, wait: Duration) -> Result<Reply, FailureReason> {
        let lost_at = Instant::now();
        if before(self.deadline, sleep(wait)).await.is_none() {
            return Err(FailureReason::DeadlinePassed);
        }
        self.make(Some(lost_at)).await
    }

    /// Asks until somebody takes the call; `lost_at` is when the runner was lost that had
    /// taken it before, if one had.
    pub(super) async fn make(self, lost_at: Option<Instant>) -> Result<Reply, FailureReason> {
        let Attempt {
            portal,
            index,
            following,
            body,
            trace,
            deadline,
            stderr,
            asked,
        } = self;
        let links = &portal.chain.links[index..=index + following.len()];
        let waiting = Waiting::default();
        asked.begin(&waiting);
        let mut request = Request {
            is_repeatable: links.iter().all(|link| link.link.is_pure()),
            body,
            trace,
            deadline,
            stderr,
            following,
            waiting: waiting.clone(),
        };
        let id = portal.chain.links[index].id;
        let busy_until = deadline.unwrap_or(Instant::now() + BUSY_WAIT_MAX);
        // A runner that has the call at its deadline still tells how it ended.
        let answered_until = match deadline {
            Some(deadline) => deadline + DEADLINE_GRACE,
            None => busy_until,
        };
        // Since when nobody is there who may be about to come back.
        let mut away_since = lost_at;
        let mut backoff = Backoff::new(ASK_BACKOFF_MIN, ASK_BACKOFF_MAX);
        loop {
            let called = portal.transport.call(id, request);
            let refusal = match before(Some(answered_until), called).await {
                Some(Ok(reply)) => {
                    portal.publishing.note_served(index..=index + reply.joined);
                    return Ok(reply);
                }
                Some(Err(refusal)) => refusal,
                None if deadline.is_some() && !waiting.is_told() => {
                    return Err(FailureReason::DeadlinePassed);
                }
                // It waits for room. Two runs may wait for each other, each of which
                // holds half of what the other needs.
                None => {
                    asked.refused(&FailureReason::Busy);
                    return Err(FailureReason::Busy);
                }
            };
            let (reason, until) = match refusal.reason {
                RefusalReason::CannotStart(reason) => {
                    return Err(FailureReason::CannotStart(reason));
                }
                RefusalReason::Busy => {
                    // Should nobody be there next, they have only just gone: as where a
                    // link's zygote dies, to which this call has just been given.
                    away_since = Some(Instant::now());
                    (FailureReason::Busy, busy_until)
                }
                RefusalReason::NoRunner => {
                    // Who was there a moment ago is only restarted, or the
                    // network is, and everybody comes back to it; and where links
                    // were lost, runners serve them again that hear of them again.
                    let healed = before(deadline, portal.publishing.heal(index)).await;
                    let Some(since) = away_since.max(healed.flatten()) else {
                        return Err(FailureReason::NoRunner);
                    };
                    (FailureReason::NoRunner, since + AWAY_WAIT_MAX)
                }
                RefusalReason::Unreachable(reason) => {
                    let since = *away_since.get_or_insert_with(Instant::now);
                    (FailureReason::Unreachable(reason), since + AWAY_WAIT_MAX)
                }
            };
            asked.refused(&reason);
            let until = deadline.map_or(until, |deadline| deadline.min(until));
            if before(Some(until), sleep(backoff.next())).await.is_none() {
                return Err(reason);
            }
            request = refusal.request;
        }
    }
}

/// What `future` gives, unless the deadline comes first.
pub(super) async fn before<T>(
    deadline: Option<Instant>,
    future: impl Future<Output = T>,
) -> Option<T> {
    match deadline {
        Some(deadline) => timeout_at(deadline, future).await.ok(),
        None => Some(future.await),
    }
}
