//! One call, of a link or of several that are taken together: asked for until
//! somebody takes it, and made again where its runner is lost.
//!
//! A link that can be run twice is run again as if nothing had been. What of its
//! output has been given on before it must write again, and that is left out. All
//! of that is driven by whoever reads the reply: there is no task, and a link
//! whose reader is gone is not run again.

use std::borrow::Cow;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use chain::ChainLink;
use futures_util::future::{self, BoxFuture, FutureExt};
use futures_util::stream::{Stream, StreamExt};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout_at};

use super::Portal;
use super::failure::FailureReason;
use super::gate;
use super::repeat::{Given, Repeat};
use super::replay::Input;
use super::trail::Notes;
use super::walk::DEADLINE_GRACE;
use crate::backoff::Backoff;
use crate::pipe::Writer;
use crate::trace::Trace;
use crate::transport::{
    Body, Chunks, Cut, Ending, Following, MovedChunk, Outcome, PendingOutcome, RefusalReason,
    Reply, Request, Waiting,
};

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

/// How long to wait before a call is made again: at first, and at most.
const RETRY_BACKOFF_MIN: Duration = Duration::from_millis(10);
const RETRY_BACKOFF_MAX: Duration = Duration::from_secs(1);

/// A call of a link of a chain.
pub(super) struct Call {
    pub(super) portal: Portal,
    /// Which link.
    pub(super) index: usize,
    /// How many behind it were taken together with it when it was taken first:
    /// all of them are made again.
    pub(super) joined: usize,
    pub(super) input: Input,
    pub(super) trace: Trace,
    pub(super) deadline: Option<Instant>,
    pub(super) stderr: Option<mpsc::Sender<Bytes>>,
    pub(super) notes: Arc<Notes>,
}

/// How often a call of that link is made again, at most.
pub(super) fn retries_max(link: &ChainLink) -> u32 {
    let by_default = if link.link.is_pure() {
        RETRIES_MAX_DEFAULT
    } else {
        0
    };
    link.retries.unwrap_or(by_default)
}

impl Call {
    /// Makes the call, and gives a reply once it is taken for the first time.
    /// What its body gives, and its outcome, are those of the last time.
    pub(super) async fn make(mut self) -> Result<Reply, FailureReason> {
        let following = Arc::clone(&self.portal.following[self.index]);
        let reply = self.ask(self.index, following, self.input.reader(), None);
        let Reply {
            runner,
            joined,
            body,
            outcome,
        } = reply.await?;
        self.joined = joined;
        let (told, tries) = watch::channel(Try {
            outcome: outcome.clone(),
            last: self.may_be_made_again(0).err(),
        });
        let body = Body::of(Tries {
            state: State::Running(body, outcome),
            given: Given::default(),
            repeat: Repeat::default(),
            lost: None,
            retries: 0,
            backoff: Backoff::new(RETRY_BACKOFF_MIN, RETRY_BACKOFF_MAX),
            told,
            call: Arc::new(self),
        });
        Ok(Reply {
            runner,
            joined,
            body,
            outcome: PendingOutcome::new(last_outcome(tries)),
        })
    }

    /// Asks until somebody takes the call of link `index`, for as long as that
    /// makes sense; `lost_at` is when the call's runner was lost, if it is made
    /// again.
    async fn ask(
        &self,
        index: usize,
        following: Arc<[Following]>,
        body: Body,
        lost_at: Option<Instant>,
    ) -> Result<Reply, FailureReason> {
        let waiting = Waiting::default();
        self.notes.asked(index, waiting.clone());
        let mut request = Request {
            body,
            trace: self.trace.clone(),
            deadline: self.deadline,
            stderr: self.stderr.clone(),
            following,
            waiting: waiting.clone(),
        };
        let id = self.portal.chain.links[index].id;
        let busy_until = self.deadline.unwrap_or(Instant::now() + BUSY_WAIT_MAX);
        // Whoever has the call at its deadline knows best what it has come to.
        let answered_until = match self.deadline {
            Some(deadline) => deadline + DEADLINE_GRACE,
            None => busy_until,
        };
        // Since when nobody is there who may be about to come back.
        let mut away_since = lost_at;
        let mut backoff = Backoff::new(ASK_BACKOFF_MIN, ASK_BACKOFF_MAX);
        loop {
            let called = self.portal.transport.call(id, request);
            let refusal = match before(Some(answered_until), called).await {
                Some(Ok(reply)) => {
                    let Reply { runner, joined, .. } = &reply;
                    self.notes.taken(index, *joined, runner.as_ref());
                    return Ok(reply);
                }
                Some(Err(refusal)) => refusal,
                None if self.deadline.is_some() && !waiting.is_told() => {
                    return Err(FailureReason::DeadlinePassed);
                }
                // It waits for room, and who has that may wait for room as well: as
                // two runs do that have half of what each needs.
                None => {
                    self.notes.untaken(index, FailureReason::Busy);
                    return Err(FailureReason::Busy);
                }
            };
            let (reason, until) = match refusal.reason {
                RefusalReason::CannotStart(reason) => {
                    return Err(FailureReason::CannotStart(reason));
                }
                RefusalReason::Busy => {
                    away_since = None;
                    (FailureReason::Busy, busy_until)
                }
                RefusalReason::NoRunner => {
                    self.portal.publishing.miss();
                    // Who was there a moment ago is only restarted, or the
                    // network is, and everybody comes back to it.
                    let Some(since) = away_since else {
                        return Err(FailureReason::NoRunner);
                    };
                    (FailureReason::NoRunner, since + AWAY_WAIT_MAX)
                }
                RefusalReason::Unreachable(reason) => {
                    let since = *away_since.get_or_insert_with(Instant::now);
                    (FailureReason::Unreachable(reason), since + AWAY_WAIT_MAX)
                }
            };
            self.notes.untaken(index, reason.clone());
            let until = self.deadline.map_or(until, |deadline| deadline.min(until));
            if before(Some(until), sleep(backoff.next())).await.is_none() {
                return Err(reason);
            }
            request = refusal.request;
        }
    }

    /// Makes the call once more, a little later, for all the links that it was
    /// for, however few of them are taken together now.
    async fn again(self: Arc<Self>, wait: Duration) -> Result<Reply, FailureReason> {
        let lost_at = Instant::now();
        if before(self.deadline, sleep(wait)).await.is_none() {
            return Err(FailureReason::DeadlinePassed);
        }
        let following = &self.portal.following[self.index][..self.joined];
        let ask = |at: usize, body| {
            let following = following.get(at..).unwrap_or_default().into();
            self.ask(self.index + at, following, body, Some(lost_at))
        };
        let mut reply = ask(0, self.input.reader()).await?;
        while reply.joined < self.joined {
            let (before, next) = (reply.outcome.clone(), reply.joined + 1);
            let (chain, notes) = (Arc::clone(&self.portal.chain), Arc::clone(&self.notes));
            let last = self.index + reply.joined;
            let body = gate::between(chain, last, reply.body, reply.outcome, notes);
            let rest = ask(next, body).await?;
            reply = Reply {
                joined: next + rest.joined,
                outcome: PendingOutcome::new(both(before, rest.outcome)),
                ..rest
            };
        }
        Ok(reply)
    }

    fn link(&self) -> &ChainLink {
        &self.portal.chain.links[self.index]
    }

    /// Whether the call may be made once more, when it has been made again that
    /// often; if not, why, to be read behind what has happened to it.
    fn may_be_made_again(&self, retries: u32) -> Result<(), Cow<'static, str>> {
        let link = self.link();
        let retries_max = retries_max(link);
        let why = if retries > 0 && retries >= retries_max {
            return Err(format!("called again {retries} times before").into());
        } else if link.retries == Some(0) {
            "not called again, since its Retries are 0"
        } else if retries_max == 0 {
            "not called again, since it has a network"
        } else if !self.input.is_replayable() {
            "not called again, since its input is too large to be kept"
        } else if self.input.is_cut() {
            "not called again, since its input is incomplete"
        } else {
            return Ok(());
        };
        Err(why.into())
    }

    fn log_retry(&self, reason: &str, retries: u32) {
        let notes = self.notes.of_call(self.index);
        let link = self.link();
        tracing::warn!(
            call_id = self.trace.call_id.as_str(),
            chain = self.portal.chain.name,
            link = link.name,
            link_id = %link.id,
            runner = notes.runner.as_deref(),
            "link {} '{}' is called again ({retries}), since it was lost: {reason}",
            self.index + 1,
            link.name,
        );
    }
}

/// How links ended that were called one after the other.
async fn both(before: PendingOutcome, rest: PendingOutcome) -> Outcome {
    let (mut outcome, rest) = future::join(before, rest).await;
    outcome.joined.extend(rest.into_links());
    outcome
}

/// One time that a call is made.
#[derive(Clone)]
struct Try {
    outcome: PendingOutcome,
    /// Why it is the last, should it be lost, if that is known already.
    last: Option<Cow<'static, str>>,
}

/// How a call ends: like the first try that is not lost, or like the last.
async fn last_outcome(mut tries: watch::Receiver<Try>) -> Outcome {
    loop {
        let Try { outcome, last } = tries.borrow_and_update().clone();
        let mut outcome = tokio::select! {
            biased;
            Ok(()) = tries.changed() => continue,
            outcome = outcome => outcome,
        };
        if outcome.loss().is_none() {
            return outcome;
        }
        if let Some(why) = last {
            for ending in outcome.endings_mut() {
                if let Ending::Lost(reason) = ending {
                    *reason = format!("{reason}; {why}").into();
                }
            }
            return outcome;
        }
        if tries.changed().await.is_err() {
            return outcome;
        }
    }
}

/// A reply's body, over all the times that the call is made.
struct Tries {
    call: Arc<Call>,
    state: State,
    given: Given,
    /// What of that the call has not written again.
    repeat: Repeat,
    /// How the call was lost the last time.
    lost: Option<Outcome>,
    /// How often the call has been made again.
    retries: u32,
    backoff: Backoff,
    told: watch::Sender<Try>,
}

enum State {
    /// This reply may not be the last one.
    Running(Body, PendingOutcome),
    /// This reply was over, or broke off.
    Ending(PendingOutcome, Option<Cut>),
    /// The call is made again.
    Again(BoxFuture<'static, Result<Reply, FailureReason>>),
    /// This is the last reply.
    Last(Body),
    Over,
}

impl Tries {
    /// That is the last outcome; `why` if it is a loss.
    fn settle(&self, outcome: PendingOutcome, why: impl Into<Cow<'static, str>>) {
        self.call.input.settle();
        let last = Some(why.into());
        self.told.send_replace(Try { outcome, last });
    }

    /// That is given on. Where it could not be written again, this reply is the
    /// last one.
    fn give(&mut self, chunk: &Bytes) {
        let why = match self.call.may_be_made_again(self.retries) {
            Ok(()) if self.given.keep(chunk) => return,
            Ok(()) => "not called again, since too much of its output had been given on".into(),
            Err(why) => why,
        };
        if let State::Running(body, outcome) = mem::replace(&mut self.state, State::Over) {
            self.settle(outcome, why);
            self.given = Given::default();
            self.state = State::Last(body);
        }
    }

    /// What of a chunk goes on, if it is what it must be.
    fn pass(&mut self, chunk: Bytes) -> Result<Bytes, Cut> {
        let is_repeating = !self.repeat.is_over();
        let chunk = self.repeat.pass(chunk).map_err(|_| self.differ())?;
        if is_repeating && self.repeat.is_over() {
            self.tell();
        }
        if !chunk.is_empty() {
            self.give(&chunk);
        }
        Ok(chunk)
    }

    /// The reply will give nothing more.
    fn over(&mut self, cut: Option<Cut>) {
        if let State::Running(_, outcome) = mem::replace(&mut self.state, State::Over) {
            self.state = State::Ending(outcome, cut);
        }
    }

    /// A reply has ended like that: makes the call again if it may. If not, how
    /// the body ends.
    fn ended(&mut self, outcome: Outcome, cut: Option<Cut>) -> Option<Option<Cut>> {
        let again = match outcome.loss() {
            Some(reason) => {
                let again = self.call.may_be_made_again(self.retries);
                again.inspect(|()| self.call.log_retry(reason, self.retries + 1))
            }
            _ if !self.repeat.is_over() => return Some(Some(self.differ())),
            _ => Err(Cow::Borrowed("")),
        };
        match again {
            Ok(()) => {
                self.retries += 1;
                let call = Arc::clone(&self.call).again(self.backoff.next());
                self.lost = Some(outcome);
                self.state = State::Again(call.boxed());
                None
            }
            Err(why) => {
                self.settle(PendingOutcome::new(future::ready(outcome)), why);
                self.state = State::Over;
                Some(cut)
            }
        }
    }

    /// The call was taken again.
    fn taken(&mut self, reply: Reply) {
        self.state = State::Running(reply.body, reply.outcome);
        self.repeat = self.given.repeat();
        if self.repeat.is_over() {
            self.tell();
        }
    }

    /// How this reply ends may be how the call ends.
    fn tell(&self) {
        if let State::Running(_, outcome) = &self.state {
            self.told.send_replace(Try {
                outcome: outcome.clone(),
                last: self.call.may_be_made_again(self.retries).err(),
            });
        }
    }

    /// The call was made again, and has not written the same: it stays lost.
    fn differ(&mut self) -> Cut {
        self.stay_lost("called again, it has written something else")
    }

    /// Nobody took the call again.
    fn refused(&mut self, refused: &FailureReason) -> Cut {
        let is_late = |deadline| Instant::now() >= deadline;
        if self.call.deadline.is_some_and(is_late) {
            self.lost = Some(Outcome::new(Ending::DeadlinePassed));
        }
        self.stay_lost(format!("called again, it {refused}"))
    }

    fn stay_lost(&mut self, why: impl Into<Cow<'static, str>>) -> Cut {
        let reason = "its runner was lost";
        let lost = self.lost.take().unwrap_or_else(|| Outcome::lost(reason));
        self.settle(PendingOutcome::new(future::ready(lost)), why);
        self.state = State::Over;
        Cut::new(reason)
    }
}

impl Stream for Tries {
    type Item = Result<Bytes, Cut>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let tries = &mut *self;
        loop {
            match &mut tries.state {
                State::Last(body) => return body.poll_next_unpin(context),
                State::Running(body, _) => match ready!(body.poll_next_unpin(context)) {
                    Some(Ok(chunk)) => match tries.pass(chunk) {
                        Ok(chunk) if chunk.is_empty() => {}
                        passed => return Poll::Ready(Some(passed)),
                    },
                    end => tries.over(end.and_then(Result::err)),
                },
                State::Ending(outcome, cut) => {
                    let outcome = ready!(outcome.poll_unpin(context));
                    let cut = cut.take();
                    if let Some(cut) = tries.ended(outcome, cut) {
                        return Poll::Ready(cut.map(Err));
                    }
                }
                State::Again(call) => match ready!(call.poll_unpin(context)) {
                    Ok(reply) => tries.taken(reply),
                    Err(refused) => return Poll::Ready(Some(Err(tries.refused(&refused)))),
                },
                State::Over => return Poll::Ready(None),
            }
        }
    }
}

impl Chunks for Tries {
    /// Only what may have to be compared must be seen.
    fn poll_move(
        mut self: Pin<&mut Self>,
        to: &Writer,
        context: &mut Context<'_>,
    ) -> Poll<MovedChunk> {
        match &mut self.state {
            State::Last(body) => body.poll_move(to, context),
            _ => Poll::Ready(MovedChunk::NotHere),
        }
    }
}

impl Drop for Tries {
    /// Nobody reads any more: the call is not made again.
    fn drop(&mut self) {
        let outcome = match mem::replace(&mut self.state, State::Over) {
            State::Running(_, outcome) | State::Ending(outcome, _) => outcome,
            State::Again(_) => {
                let unread = Outcome::new(Ending::Unread);
                PendingOutcome::new(future::ready(unread))
            }
            State::Last(_) | State::Over => return,
        };
        self.settle(outcome, "not called again, since nobody read its output");
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
