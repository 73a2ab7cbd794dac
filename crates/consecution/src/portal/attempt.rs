//! One attempt at a call of a link, or of several links that one runner may run together.
//! It asks until a runner accepts the call, or until asking makes no sense any more.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chain::ChainLink;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};

use super::failure::FailureReason;
use super::verdict::Asked;
use super::{Portal, traced};
use crate::backoff::Backoff;
use crate::spans::Span;
use crate::trace::Trace;
use crate::transport::{Body, Following, RefusalReason, Reply, Request, Waiting};

/// The shortest and the longest wait before asking again for a runner.
const ASK_BACKOFF_MIN: Duration = Duration::from_millis(1);
const ASK_BACKOFF_MAX: Duration = Duration::from_millis(100);

/// How long to ask while all runners are busy, if there is no deadline.
const BUSY_WAIT_MAX: Duration = Duration::from_secs(30);

/// How long to ask while no runner can be reached, and how long to wait for runners that
/// have just gone to come back.
const AWAY_WAIT_MAX: Duration = Duration::from_secs(10);

/// How often a call is repeated if its link has no `Retries`: often enough for any bad
/// day, but bounded, because the input itself may be what kills runners.
const RETRIES_MAX_DEFAULT: u32 = 10;

/// How long to wait after a deadline for the runner's own report, which has the end of
/// stderr, before the run goes on without it.
pub(super) const DEADLINE_GRACE: Duration = Duration::from_millis(200);

/// How often a call of this link is repeated, at most.
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
    /// The link's position in the chain.
    pub(super) index: usize,
    /// The links behind it that the same runner may run too.
    pub(super) following: Arc<[Following]>,
    /// The values of all of the chain's parameters.
    pub(super) parameters: Arc<BTreeMap<String, String>>,
    pub(super) body: Body,
    pub(super) trace: Trace,
    pub(super) deadline: Option<Instant>,
    pub(super) stderr: Option<mpsc::Sender<Bytes>>,
    /// How often the call was made before.
    pub(super) retries: u32,
    pub(super) asked: Asked,
}

/// The reply to a call that a runner has accepted, and the span of that.
pub(super) type Accepted = (Reply, Span);

impl Attempt {
    /// Repeats a call whose runner was lost, after `wait`.
    pub(super) async fn again(self, wait: Duration) -> Result<Accepted, FailureReason> {
        let lost_at = Instant::now();
        if before(self.deadline, sleep(wait)).await.is_none() {
            return Err(FailureReason::DeadlinePassed);
        }
        self.make(Some(lost_at)).await
    }

    /// Asks until a runner accepts the call. If a runner had accepted it before and was
    /// lost, `lost_at` is when.
    pub(super) async fn make(self, lost_at: Option<Instant>) -> Result<Accepted, FailureReason> {
        let Attempt {
            portal,
            index,
            following,
            parameters,
            body,
            trace,
            deadline,
            stderr,
            retries,
            asked,
        } = self;
        let links = &portal.chain.links[index..=index + following.len()];
        let waiting = Waiting::default();
        asked.begin(&waiting);
        let mut request = Request {
            is_repeatable: links.iter().all(|link| link.link.is_pure()),
            body,
            trace: trace.clone(),
            deadline,
            stderr,
            parameters: used(parameters, links),
            following,
            waiting: waiting.clone(),
        };
        let id = portal.chain.links[index].id;
        let mut refusals = 0;
        let busy_until = deadline.unwrap_or(Instant::now() + BUSY_WAIT_MAX);
        // After the deadline, a runner that has the call still reports how it ended.
        let answered_until = match deadline {
            Some(deadline) => deadline + DEADLINE_GRACE,
            None => busy_until,
        };
        // Since when no runner is there, if one is likely to come back.
        let mut away_since = lost_at;
        let mut backoff = Backoff::new(ASK_BACKOFF_MIN, ASK_BACKOFF_MAX);
        loop {
            let span = traced::begin(
                &mut request.trace,
                &portal.chain,
                index,
                (retries, refusals),
            );
            let called = portal.transport.call(id, request);
            let refusal = match before(Some(answered_until), called).await {
                Some(Ok(reply)) => {
                    portal.publishing.note_served(index..=index + reply.joined);
                    traced::accepted(&span, &reply);
                    return Ok((reply, span));
                }
                Some(Err(refusal)) => refusal,
                None if deadline.is_some() && !waiting.is_told() => {
                    span.note(|notes| notes.fail(FailureReason::DeadlinePassed));
                    return Err(FailureReason::DeadlinePassed);
                }
                // The call has waited for room for too long. Waiting on would let two runs
                // deadlock, each holding half of what the other needs.
                None => {
                    span.note(|notes| notes.fail(RefusalReason::Busy));
                    asked.refused(&FailureReason::Busy);
                    return Err(FailureReason::Busy);
                }
            };
            traced::refused(&span, &refusal.reason, refusals);
            drop(span);
            let (reason, until) = match refusal.reason {
                RefusalReason::CannotStart(reason) | RefusalReason::Malformed(reason) => {
                    return Err(FailureReason::CannotStart(reason));
                }
                RefusalReason::Busy => {
                    // If there is no runner at the next attempt, it has only just gone:
                    // for example because the zygote died that was given this call.
                    away_since = Some(Instant::now());
                    (FailureReason::Busy, busy_until)
                }
                RefusalReason::NoRunner => {
                    // Runners that were there a moment ago are probably restarting, or
                    // reconnecting. And if the store has lost links, runners serve them
                    // again once they are put again.
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
            request.trace = trace.clone();
            refusals += 1;
        }
    }
}

/// The values that these links use.
fn used(
    parameters: Arc<BTreeMap<String, String>>,
    links: &[ChainLink],
) -> Arc<BTreeMap<String, String>> {
    let is_used = |name: &String| {
        let mut links = links.iter();
        links.any(|link| link.link.parameters.contains_key(name))
    };
    if parameters.keys().all(is_used) {
        return parameters;
    }
    let used = parameters.iter().filter(|(name, _)| is_used(name));
    let used: BTreeMap<_, _> = used
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    used.into()
}

/// The result of `future`, or `None` if the deadline comes first.
pub(super) async fn before<T>(
    deadline: Option<Instant>,
    future: impl Future<Output = T>,
) -> Option<T> {
    match deadline {
        Some(deadline) => timeout_at(deadline, future).await.ok(),
        None => Some(future.await),
    }
}
