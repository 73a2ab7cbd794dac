//! One run of a chain: makes the calls, in order, and follows them to their ends.
//!
//! A run is a task. It makes the calls, and decides which of them are repeated, which
//! streams have ended, and when the run is over; after each event it asks its
//! [`RunState`] for the last. It does not move bytes: the reader of each stream does (see
//! [`LinkOutput`]). So deadlines hold, and lost calls are repeated, whatever the caller
//! does. When the caller has dropped all of the reply, the task is aborted.
//!
//! Stream `i` is the input of link `i`; the caller reads the stream behind the last link.
//! A call of link `i` whose runner runs `n` more links reads stream `i` and writes stream
//! `i + n + 1`. The streams between do not exist. Only if a repeated call is accepted with
//! fewer links than before, the remaining links are called separately, with a stream.

use std::any::Any;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::future::ready;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chain::{Chain, ChainLink, DEFAULT_DEADLINE, ParameterError};
use futures_util::FutureExt;
use futures_util::future::{AbortHandle, BoxFuture, abortable};
use futures_util::stream::{self, FuturesUnordered, StreamExt};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep, sleep_until};

use super::attempt::{Accepted, Attempt, DEADLINE_GRACE, before, retries_max};
use super::failure::{ChainError, FailureReason, Report};
use super::link_output::{End, LinkOutput, Stop};
use super::verdict::RunState;
use super::{ChainReply, ChainRequest, PendingReport, Portal, traced};
use crate::backoff::Backoff;
use crate::spans::Span;
use crate::trace::Trace;
use crate::transport::{Body, Cut, Ending, Outcome, OutputLeft, PendingOutcome, Reply};

/// After a link has failed, how long the links before it may take to end. The run waits
/// for them to find the first failure in chain order.
const EARLIER_LINKS_GRACE: Duration = Duration::from_secs(3);

/// The shortest and the longest wait before a call is repeated.
const RETRY_BACKOFF_MIN: Duration = Duration::from_millis(10);
const RETRY_BACKOFF_MAX: Duration = Duration::from_secs(1);

/// A run under way.
struct Run {
    portal: Portal,
    /// The values of all of the chain's parameters.
    parameters: Arc<BTreeMap<String, String>>,
    trace: Trace,
    stderr: Option<mpsc::Sender<Bytes>>,
    deadline: Option<Instant>,
    state: RunState,
    events: FuturesUnordered<BoxFuture<'static, Event>>,
    /// The streams notify this when their state changes.
    news: Arc<Notify>,
    streams: Vec<Option<LinkOutput>>,
    /// The calls, by the position of the called link.
    calls: BTreeMap<usize, Call>,
    _guard: Option<Box<dyn Any + Send>>,
}

/// A call, over all attempts at it.
struct Call {
    /// The link's own deadline, or the chain's if that is earlier.
    deadline: Option<Instant>,
    began: Instant,
    /// How many following links the runner runs too.
    joined: usize,
    /// How often the call has been repeated.
    retries: u32,
    backoff: Backoff,
    /// The outcome of the last attempt, if its runner was lost.
    lost: Option<Outcome>,
    /// The attempt that a runner has accepted.
    span: Span,
    stage: Stage,
}

enum Stage {
    /// An attempt asks runners to accept the call.
    Asking(AbortHandle),
    Taken,
    Over,
}

/// What a run waits for, besides changes of its streams.
enum Event {
    /// The call of this link was accepted, or never will be.
    Called(usize, Result<Accepted, FailureReason>),
    /// The call of this link has ended.
    Ended(usize, Outcome),
    /// An attempt was aborted.
    GivenUp,
    /// The time is over in which the links before a failed one may still end.
    PatienceOver,
    /// The chain's deadline passed, and with it the time for runners' reports.
    Overdue,
}

/// The reply to a request whose values of parameters the chain cannot have.
pub(super) fn refused(chain: &Arc<Chain>, error: ParameterError) -> ChainReply {
    let reason = FailureReason::Parameter(error);
    let error = RunState::new(Arc::clone(chain)).error(0, reason);
    ChainReply {
        body: Body::new(stream::iter([Err(Cut::new(error.to_string()))])),
        report: PendingReport::new(ready(Err(error))),
    }
}

/// Starts a run with these values of all of the chain's parameters.
pub(super) fn start(
    portal: Portal,
    request: ChainRequest,
    parameters: BTreeMap<String, String>,
) -> ChainReply {
    let ChainRequest {
        body,
        trace,
        stderr,
        guard,
        parameters: _,
    } = request;
    let (chain, news) = (Arc::clone(&portal.chain), Arc::new(Notify::new()));
    let deadline = chain.deadline.or(Some(DEFAULT_DEADLINE));
    let may_be_read_again = retries_max(&chain.links[0]) > 0;
    let input = LinkOutput::of_caller(body, may_be_read_again, &news);
    let output = LinkOutput::new(false, &news);
    let mut streams = vec![None; chain.links.len() + 1];
    streams[0] = Some(input);
    streams[chain.links.len()] = Some(output.clone());
    let run = Run {
        deadline: deadline.map(|deadline| Instant::now() + deadline),
        state: RunState::new(chain),
        events: FuturesUnordered::new(),
        streams,
        calls: BTreeMap::new(),
        _guard: guard,
        portal,
        parameters: parameters.into(),
        trace,
        stderr,
        news,
    };
    let task = tokio::spawn(run.drive());
    let stop = Arc::new(Stop(task.abort_handle()));
    let body = output.for_caller(Arc::clone(&stop));
    let report = async move {
        let _stop = stop;
        match task.await {
            Ok(result) => result,
            Err(error) if error.is_panic() => resume_unwind(error.into_panic()),
            // The task was aborted or the runtime ends: nobody is left to wait here.
            Err(_) => std::future::pending().await,
        }
    };
    let report = PendingReport::new(report);
    ChainReply { body, report }
}

impl Run {
    async fn drive(mut self) -> Result<Report, ChainError> {
        if let Some(deadline) = self.deadline {
            let overdue = sleep_until(deadline + DEADLINE_GRACE);
            self.expect(overdue.map(|()| Event::Overdue));
        }
        self.call(0);
        let verdict = self.until_over().await;
        if let Some(output) = self.streams.pop().flatten() {
            match &verdict {
                Ok(_) => output.end(End::Complete),
                Err(error) => output.close(Cut::new(error.to_string())),
            }
        }
        verdict
    }

    async fn until_over(&mut self) -> Result<Report, ChainError> {
        let news = Arc::clone(&self.news);
        let mut is_patient = false;
        loop {
            tokio::select! {
                biased;
                Some(event) = self.events.next() => self.take(event),
                () = news.notified() => {}
            }
            self.look_at_streams();
            if let Some(verdict) = self.state.verdict() {
                return verdict;
            }
            if !is_patient && self.state.has_failure() {
                is_patient = true;
                self.expect(sleep(EARLIER_LINKS_GRACE).map(|()| Event::PatienceOver));
            }
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Called(index, Ok((reply, span))) => self.taken(index, reply, span),
            Event::Called(index, Err(reason)) => self.refused(index, reason),
            Event::Ended(index, outcome) => self.ended(index, outcome),
            Event::GivenUp => {}
            Event::PatienceOver => self.state.patience_over = true,
            Event::Overdue => self.overdue(),
        }
    }

    /// The runners that still have calls did not report their ends in time: those calls
    /// count as having passed their deadline.
    fn overdue(&mut self) {
        self.state.overdue = true;
        let taken = |call: &Call| matches!(call.stage, Stage::Taken);
        let late = self.calls.iter().filter(|(_, call)| taken(call));
        let late: Vec<_> = late.map(|(index, call)| (*index, call.began)).collect();
        for (index, began) in late {
            self.over(index, late_since(began));
        }
    }

    fn expect(&mut self, event: impl Future<Output = Event> + Send + 'static) {
        self.events.push(event.boxed());
    }

    /// Calls a link for the first time; its deadline counts from now.
    fn call(&mut self, index: usize) {
        let began = Instant::now();
        let own = self.link(index).deadline.map(|deadline| began + deadline);
        let call = Call {
            deadline: [self.deadline, own].into_iter().flatten().min(),
            began,
            joined: 0,
            retries: 0,
            backoff: Backoff::new(RETRY_BACKOFF_MIN, RETRY_BACKOFF_MAX),
            lost: None,
            span: Span::default(),
            stage: Stage::Over,
        };
        self.calls.insert(index, call);
        self.attempt(index);
    }

    /// Makes a call, for the first time or again.
    fn attempt(&mut self, index: usize) {
        let following = &self.portal.following[index];
        // Include only links up to the next one that has a call of its own already.
        let called = (index + 1..self.streams.len()).find(|at| self.streams[*at].is_some());
        let room = called.map_or(0, |next| next - index - 1);
        let following = match following.get(..room) {
            Some(first) if room < following.len() => first.into(),
            _ => Arc::clone(following),
        };
        let (Some(input), Some(call)) = (&self.streams[index], self.calls.get_mut(&index)) else {
            return;
        };
        let attempt = Attempt {
            portal: self.portal.clone(),
            index,
            following,
            parameters: Arc::clone(&self.parameters),
            body: input.reader(),
            trace: self.trace.clone(),
            deadline: call.deadline,
            stderr: self.stderr.clone(),
            retries: call.retries,
            asked: self.state.asked(index),
        };
        let wait = (call.retries > 0).then(|| call.backoff.next());
        let attempt = async move {
            match wait {
                Some(wait) => attempt.again(wait).await,
                None => attempt.make(None).await,
            }
        };
        let (attempt, abort) = abortable(attempt);
        call.stage = Stage::Asking(abort);
        if call.retries >= retries_max(&self.portal.chain.links[index]) {
            // This is the last attempt.
            input.settle_reader();
        }
        self.expect(attempt.map(move |called| match called {
            Ok(called) => Event::Called(index, called),
            Err(_) => Event::GivenUp,
        }));
    }

    /// A runner has accepted a call: makes the call of the next link.
    fn taken(&mut self, index: usize, reply: Reply, span: Span) {
        let Reply {
            runner,
            joined,
            body,
            outcome,
        } = reply;
        self.state.taken(index, joined, runner.as_ref());
        let next = index + joined + 1;
        let is_new = self.streams[next].is_none();
        if is_new {
            let may_be_read_again = retries_max(self.link(next)) > 0;
            self.streams[next] = Some(LinkOutput::new(may_be_read_again, &self.news));
        }
        let Some(call) = self.calls.get_mut(&index) else {
            return;
        };
        call.joined = joined;
        call.span = span;
        call.stage = Stage::Taken;
        // The chain's deadline is handled for all calls together.
        let own = call.deadline.filter(|own| Some(*own) != self.deadline);
        let ended = ended(outcome, own, call.deadline, call.began);
        if let Some(output) = &self.streams[next] {
            output.write(body, self.streams[index].as_ref());
        }
        self.expect(ended.map(move |outcome| Event::Ended(index, outcome)));
        if is_new {
            self.call(next);
        }
    }

    /// No runner accepts a call.
    fn refused(&mut self, index: usize, reason: FailureReason) {
        let call = self.calls.get_mut(&index);
        let lost = call.and_then(|call| Some((call.lost.take()?, call.deadline)));
        let Some((lost, deadline)) = lost else {
            self.close_input(index);
            return self.state.refused(index, reason);
        };
        let outcome = match deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            true => Outcome::new(Ending::DeadlinePassed),
            false => lost_since(lost, &format!("called again, it {reason}")),
        };
        self.over(index, outcome);
    }

    /// A call has ended with this outcome. Repeats the call if its runner was lost and a
    /// repeat is possible.
    fn ended(&mut self, index: usize, outcome: Outcome) {
        let Some(call) = self.calls.get(&index) else {
            return;
        };
        if matches!(call.stage, Stage::Over) {
            return;
        }
        let Some(reason) = outcome.loss() else {
            return self.over(index, outcome);
        };
        if let Err(why) = self.may_be_made_again(index, call) {
            return self.over(index, lost_since(outcome, &why));
        }
        self.log_retry(index, reason, call.retries + 1);
        if let Some(output) = &self.streams[index + call.joined + 1] {
            output.await_writer();
        }
        if let Some(call) = self.calls.get_mut(&index) {
            traced::end(&mut call.span, &self.portal.chain, index, &outcome);
            call.retries += 1;
            call.lost = Some(outcome);
        }
        self.attempt(index);
    }

    /// Whether a call may be repeated. If not, the error says why; it reads well after the
    /// reason of the loss.
    fn may_be_made_again(&self, index: usize, call: &Call) -> Result<(), Cow<'static, str>> {
        let (link, retries) = (self.link(index), call.retries);
        let retries_max = retries_max(link);
        let output = self.streams[index + call.joined + 1].as_ref();
        let input = self.streams[index].as_ref();
        let why = if retries > 0 && retries >= retries_max {
            return Err(format!("called again {retries} times before").into());
        } else if link.retries == Some(0) {
            "not called again, since its Retries are 0"
        } else if retries_max == 0 {
            "not called again, since it has a network"
        } else if output.is_some_and(LinkOutput::is_unread) {
            "not called again, since nobody read its output"
        } else if output.is_some_and(LinkOutput::is_too_large) {
            "not called again, since too much of its output was already passed on"
        } else if !input.is_some_and(LinkOutput::can_be_read_again) {
            "not called again, since its input is too large to be kept"
        } else if input.is_some_and(LinkOutput::is_cut) {
            "not called again, since its input is incomplete"
        } else {
            return Ok(());
        };
        Err(why.into())
    }

    /// A call is over, with this outcome.
    fn over(&mut self, index: usize, outcome: Outcome) {
        let Some(call) = self.calls.get_mut(&index) else {
            return;
        };
        call.stage = Stage::Over;
        traced::end(&mut call.span, &self.portal.chain, index, &outcome);
        let joined = call.joined;
        self.close_input(index);
        let last = index + joined;
        if let Some(output) = &self.streams[last + 1] {
            match last + 1 < self.portal.chain.links.len() {
                true => output.end(end(self.link(last), last, &outcome)),
                // The run ends with this link.
                false => output.settle_writer(),
            }
        }
        self.state.ended(index, joined, outcome);
    }

    /// Closes the input of a call that has ended, even if its runner would still read it.
    fn close_input(&self, index: usize) {
        if let Some(input) = &self.streams[index] {
            input.close(Cut::new("the call is over"));
        }
    }

    /// Looks at the state of all streams, and acts on what has changed.
    fn look_at_streams(&mut self) {
        for index in 0..self.portal.chain.links.len() {
            self.look_at_output(index);
        }
        for (at, stream) in self.streams.iter().enumerate() {
            let cut = stream.as_ref().and_then(LinkOutput::broken);
            match (at.checked_sub(1), cut) {
                (Some(index), Some(cut)) => self.state.output_broke(index, cut),
                (None, Some(cut)) => self.state.input_broke(cut),
                (_, None) => {}
            }
        }
        let output = self.streams.last().and_then(Option::as_ref);
        self.state.drained = output.is_none_or(LinkOutput::is_drained);
    }

    fn look_at_output(&mut self, index: usize) {
        let Some(call) = self.calls.get_mut(&index) else {
            return;
        };
        let Some(output) = &self.streams[index + call.joined + 1] else {
            return;
        };
        if call.lost.is_none() {
            return;
        }
        if output.differs() {
            // The output does not repeat the first attempt's, so the call stays lost,
            // however this attempt ends.
            let lost = call
                .lost
                .take()
                .unwrap_or_else(|| Outcome::lost("its runner was lost"));
            let why = "called again, it wrote other output than was already passed on";
            self.over(index, lost_since(lost, why));
        } else if let Stage::Asking(attempt) = &call.stage
            && output.is_unread()
        {
            // Nobody reads the link's output any more, so it need not run at all.
            attempt.abort();
            self.over(index, Outcome::new(Ending::Unread));
        }
    }

    fn link(&self, index: usize) -> &ChainLink {
        &self.portal.chain.links[index]
    }

    fn log_retry(&self, index: usize, reason: &str, retries: u32) {
        let link = self.link(index);
        tracing::warn!(
            call_id = self.trace.call_id.as_str(),
            trace_id = self.trace.trace_id(),
            span_id = self.trace.span_id(),
            chain = self.portal.chain.name,
            link = link.name,
            link_id = %link.id,
            runner = self.state.runner(index).map(|runner| &**runner),
            "link {} '{}' is called again ({retries}), since it was lost: {reason}",
            index + 1,
            link.name,
        );
    }
}

impl Drop for Run {
    /// Closes all streams, so that nothing of the run goes on, even if a runner does not
    /// stop its link: the link then has no reader.
    fn drop(&mut self) {
        for stream in self.streams.iter().flatten() {
            stream.close(Cut::new("the run is over"));
        }
    }
}

/// Whether a link's output is complete, given how the link has ended.
fn end(link: &ChainLink, index: usize, outcome: &Outcome) -> End {
    let last = outcome.joined.last().unwrap_or(outcome);
    match &last.ending {
        Ending::Exited(code) if link.accepts(*code) && last.output == OutputLeft::Given => {
            End::Complete
        }
        Ending::Unread => End::Broken(Cut::new("it was stopped as if nobody read its output")),
        _ => {
            let number = index + 1;
            End::Failed(Cut::new(format!("link {number} '{}' failed", link.name)))
        }
    }
}

/// Adds to the reason of a loss why the call was not repeated.
fn lost_since(mut outcome: Outcome, why: &str) -> Outcome {
    for ending in outcome.endings_mut() {
        if let Ending::Lost(reason) = ending {
            *reason = format!("{reason}; {why}").into();
        }
    }
    outcome
}

/// Waits for a call to end, but only until shortly after the link's `own` deadline.
async fn ended(
    outcome: PendingOutcome,
    own: Option<Instant>,
    deadline: Option<Instant>,
    began: Instant,
) -> Outcome {
    let outcome = before(own.map(|own| own + DEADLINE_GRACE), outcome).await;
    let mut outcome = outcome.unwrap_or_else(|| late_since(began));
    // At the deadline, the runner may stop the reader of this link before the link itself.
    // The link is then reported as unread, but it has passed its deadline.
    let is_late = deadline.is_some_and(|deadline| Instant::now() >= deadline);
    let unread = |ending: &&mut Ending| is_late && **ending == Ending::Unread;
    for ending in outcome.endings_mut().filter(unread) {
        *ending = Ending::DeadlinePassed;
    }
    outcome
}

/// The outcome of a call whose runner has not reported its end by the deadline.
fn late_since(began: Instant) -> Outcome {
    Outcome {
        elapsed: began.elapsed(),
        ..Outcome::new(Ending::DeadlinePassed)
    }
}
