//! A pool of pipelines that are already started, all of the same consecutive links; often of
//! one link alone.
//!
//! Taking returns at once if a pipeline is idle; its replacement starts in the background. A
//! pipeline never returns to the pool. [`pool_state`](super::pool_state) decides; this module
//! acts: it starts pipelines, watches idle ones, and answers takers. It must not know what
//! work a pipeline is given.
//!
//! All pools that share a [`Capacity`] share one lock. While it is held, nothing waits, and
//! no pipeline is started or dropped.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use chain::LinkId;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use super::pool_state::{
    Action, Config, Counts, Limits, Member, Moment, Number, PoolState, Take, Ticket, Warmth,
};

mod approval;
mod idle_entry;
mod looker;
#[cfg(test)]
mod tests;

use approval::Approval;
use idle_entry::{Condition, IdleEntry};
pub(super) use looker::Probe;
use looker::look_at_idle;

/// Starts the pipelines of one pool.
pub(super) trait Starter: Send + Sync + 'static {
    /// What it starts. Dropping one stops it.
    type Pipeline: Idle;

    /// Starts a pipeline. Resolves when it is ready for its request.
    ///
    /// # Errors
    /// Why it could not be started, as the calls that wait for it are told.
    fn start(&self) -> impl Future<Output = Result<Self::Pipeline, TakeError>> + Send;

    /// Nothing was taken for a while: releases what it keeps only to start faster. Does not
    /// wait.
    fn rest(&self);
}

/// A pipeline without a request.
pub(super) trait Idle: Send + Sync + 'static {
    /// Resolves when the pipeline is spoiled: one of its processes has ended, or the last one
    /// has written something.
    fn spoiled(&self) -> impl Future<Output = ()> + Send;

    /// What looks whether it has settled; `None` if there is nothing in it that could. Used
    /// only while the pipeline is idle.
    fn probe(&self) -> Option<Box<dyn Probe>>;

    /// Finds out what has spoiled it. Call this once it is spoiled; takes only a moment.
    fn spoiled_by(&mut self) -> impl Future<Output = SpoiledBy> + Send;
}

/// What has spoiled a pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SpoiledBy {
    /// One of its processes has ended or written by itself, as that of the next pipeline would.
    Itself,
    /// Somebody else has killed a process, as the kernel does if memory runs out.
    Others,
}

/// How long after the last take a [`Starter`] is told to [`rest`](Starter::rest).
const REST_AFTER: Duration = Duration::from_secs(10);

/// The capacity for processes that all pools of a runner share. Clones share it.
pub(super) struct Capacity<P> {
    shared: Arc<Shared<P>>,
}

impl<P> Clone for Capacity<P> {
    fn clone(&self) -> Capacity<P> {
        Capacity {
            shared: Arc::clone(&self.shared),
        }
    }
}

/// The pool of some consecutive links. Dropping it drains it.
pub(super) struct Pool<P: Idle> {
    shared: Arc<Shared<P>>,
    member: Member,
    unused: Arc<Notify>,
    keeper: JoinHandle<()>,
}

/// A pipeline that was taken, with the permit for its processes.
pub(super) struct Taken<P: Idle> {
    /// The pipeline.
    pub pipeline: P,
    /// Drop this once the pipeline is gone, and not before.
    pub permit: Permit<P>,
    /// How warm it was.
    pub warmth: Warmth,
}

/// Counts a pipeline as in use, until this is dropped.
pub(super) struct Permit<P: Idle> {
    shared: Arc<Shared<P>>,
    member: Member,
}

/// No pipeline could be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum TakeError {
    /// All processes are in use, and as many takers wait as may.
    #[error("all processes are in use")]
    Busy,
    /// A start failed because this runner is short of a resource; it may succeed later, or on
    /// another runner.
    #[error("{0}")]
    Starved(Arc<str>),
    /// A link cannot be started, for this reason.
    #[error("{0}")]
    CannotStart(Arc<str>),
}

struct Shared<P> {
    inner: Mutex<Inner<P>>,
    began: Instant,
    runtime: Handle,
    /// Tells the looker that it has to look sooner than it knows, or to end.
    looks_earlier: Arc<Notify>,
}

impl<P> Drop for Shared<P> {
    fn drop(&mut self) {
        self.looks_earlier.notify_one();
    }
}

/// The state and the pipelines that it counts. Both are under one lock, so they always agree.
struct Inner<P> {
    state: PoolState,
    pools: BTreeMap<Member, PoolEntry<P>>,
    /// Pipelines to drop once the lock is released.
    discarded: Vec<P>,
    /// When the looker looks next, as far as it knows.
    looks_at: Option<Moment>,
}

/// The pipelines and takers of one pool.
struct PoolEntry<P> {
    /// The links of each pipeline.
    ids: Arc<[LinkId]>,
    start: Start<P>,
    /// Idle pipelines, oldest first.
    idle: BTreeMap<Number, IdleEntry<P>>,
    waiting: BTreeMap<Ticket, oneshot::Sender<Answer<P>>>,
    /// Wakes the keeper.
    changed: Arc<Notify>,
    /// Notified when no pipeline of it is in use or starting, and nobody waits for one.
    unused: Arc<Notify>,
    /// It was logged that the pool is cold. It is logged once, though it may become cold again
    /// and again.
    said_cold: bool,
}

type Start<P> = Arc<dyn Fn() -> BoxFuture<'static, Answer<P>> + Send + Sync>;
/// The answer to a taker that waits. A pipeline that was sent counts as in use.
type Answer<P> = Result<P, TakeError>;

impl<P: Idle> Capacity<P> {
    /// A capacity with these limits.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub(super) fn new(limits: Limits) -> Capacity<P> {
        let inner = Inner {
            state: PoolState::new(limits),
            pools: BTreeMap::new(),
            discarded: Vec::new(),
            looks_at: None,
        };
        let looks_earlier = Arc::new(Notify::new());
        let shared = Arc::new(Shared {
            inner: Mutex::new(inner),
            began: Instant::now(),
            runtime: Handle::current(),
            looks_earlier: Arc::clone(&looks_earlier),
        });
        let looker = look_at_idle(Arc::downgrade(&shared), looks_earlier);
        shared.runtime.spawn(looker);
        Capacity { shared }
    }

    /// How many processes and takers each link has, over all pools. A pipeline, and a taker
    /// that waits for one, counts for each of its links. Idle pipelines that have not settled
    /// count as starting.
    pub(super) fn counts(&self) -> BTreeMap<LinkId, Counts> {
        self.shared.with(|inner, now| {
            let mut counts: BTreeMap<LinkId, Counts> = BTreeMap::new();
            for (member, pool) in &inner.pools {
                let of_pool = inner.state.settled_counts(*member, now);
                for id in &*pool.ids {
                    counts.entry(*id).or_default().add(of_pool);
                }
            }
            counts
        })
    }

    /// Like [`counts`](Self::counts), for one link.
    pub(super) fn counts_of(&self, id: LinkId) -> Counts {
        self.shared.with(|inner, now| {
            let mut counts = Counts::default();
            for (member, pool) in &inner.pools {
                for _ in pool.ids.iter().filter(|named| **named == id) {
                    counts.add(inner.state.settled_counts(*member, now));
                }
            }
            counts
        })
    }
}

impl<P: Idle> Pool<P> {
    /// Opens a pool of pipelines of these links, and starts its reserve.
    pub(super) fn new<S>(
        ids: impl Into<Arc<[LinkId]>>,
        starter: S,
        config: &Config,
        capacity: &Capacity<P>,
    ) -> Pool<P>
    where
        S: Starter<Pipeline = P>,
    {
        let ids = ids.into();
        let weight = ids.len();
        let starter = Arc::new(starter);
        // Weak, because the keeper may outlive the pool for a moment.
        let resting = Arc::downgrade(&starter);
        let start: Start<P> = Arc::new(move || {
            let starter = Arc::clone(&starter);
            Box::pin(async move { starter.start().await })
        });
        let (changed, unused) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let pool = PoolEntry {
            ids,
            start,
            idle: BTreeMap::new(),
            waiting: BTreeMap::new(),
            changed: Arc::clone(&changed),
            unused: Arc::clone(&unused),
            said_cold: false,
        };
        let shared = Arc::clone(&capacity.shared);
        let member = shared.with(|inner, now| {
            let member = inner.state.add(config.clone(), weight, now);
            inner.pools.insert(member, pool);
            member
        });
        let keeper = keep(Arc::clone(&shared), member, changed, resting);
        let keeper = shared.runtime.spawn(keeper);
        Pool {
            shared,
            member,
            unused,
            keeper,
        }
    }

    /// Sets how many pipelines to keep in reserve even without calls. What is beyond that is
    /// stopped a little later.
    pub(super) fn set_floor(&self, floor: usize) {
        self.shared.with(|inner, now| {
            inner.state.set_floor(self.member, floor, now);
            if let Some(pool) = inner.pools.get(&self.member) {
                pool.changed.notify_one();
            }
        });
    }

    /// Takes a pipeline out of the pool: at once if one is idle, otherwise once one has been
    /// started.
    ///
    /// # Errors
    /// [`TakeError`]: at once if no more takers may wait.
    pub(super) async fn take(&self) -> Result<Taken<P>, TakeError> {
        self.take_as(PoolState::take).await
    }

    /// Like [`take`](Self::take), for a caller that holds a pipeline of another pool, or would
    /// take a smaller one, and so must not wait for room.
    ///
    /// # Errors
    /// [`TakeError`]: at once if there is no room.
    pub(super) async fn take_beside(&self) -> Result<Taken<P>, TakeError> {
        self.take_as(PoolState::take_beside).await
    }

    async fn take_as(
        &self,
        take: fn(&mut PoolState, Member, Moment) -> Take,
    ) -> Result<Taken<P>, TakeError> {
        enum Step<P> {
            Idle(Option<IdleEntry<P>>, Warmth),
            Wait(Ticket, oneshot::Receiver<Answer<P>>),
            Busy,
        }
        loop {
            let step = self.shared.with(|inner, now| {
                let Some(pool) = inner.pools.get_mut(&self.member) else {
                    return Step::Busy;
                };
                match take(&mut inner.state, self.member, now) {
                    Take::Idle(number, warmth) => {
                        // A refill may be due later, and the keeper must wait for it.
                        pool.changed.notify_one();
                        Step::Idle(pool.idle.remove(&number), warmth)
                    }
                    Take::Wait(ticket) => {
                        let (answer, answered) = oneshot::channel();
                        pool.waiting.insert(ticket, answer);
                        Step::Wait(ticket, answered)
                    }
                    Take::Busy => Step::Busy,
                }
            });
            match step {
                Step::Busy => return Err(TakeError::Busy),
                Step::Wait(ticket, answered) => {
                    let pipeline = self.wait(ticket, answered).await?;
                    return Ok(Taken {
                        pipeline,
                        permit: self.permit(),
                        warmth: Warmth::Cold,
                    });
                }
                Step::Idle(entry, warmth) => {
                    let permit = self.permit();
                    match entry.map(IdleEntry::take) {
                        Some((pipeline, Condition::Fresh)) => {
                            return Ok(Taken {
                                pipeline,
                                permit,
                                warmth,
                            });
                        }
                        // It was spoiled just now. Try the next one.
                        Some((pipeline, Condition::Spoiled)) => {
                            let (shared, member) = (&self.shared, self.member);
                            shared.with(|inner, now| inner.state.taken_spoiled(member, now));
                            shared.find_out(member, pipeline);
                        }
                        None => {}
                    }
                }
            }
        }
    }

    /// Starts no more pipelines, drops idle ones, and answers waiting takers as busy. Pipelines
    /// in use are left alone.
    pub(super) fn drain(&self) {
        self.shared.with(|inner, now| {
            inner.state.drain(self.member, now);
            if let Some(pool) = inner.pools.get_mut(&self.member) {
                // A taker that is gone needs no answer.
                let waiting = std::mem::take(&mut pool.waiting).into_values();
                waiting.for_each(|answer| drop(answer.send(Err(TakeError::Busy))));
            }
        });
    }

    /// Waits, after [`drain`](Self::drain), until no pipeline of it is in use or starting.
    pub(super) async fn until_unused(&self) {
        loop {
            // Notices what happens from here on, even before it is awaited.
            let unused = self.unused.notified();
            if self.counts().is_unused() {
                return;
            }
            unused.await;
        }
    }

    /// How warm what a taker would get now is.
    pub(super) fn warmth(&self) -> Warmth {
        self.shared
            .with(|inner, now| inner.state.warmth(self.member, now))
    }

    /// How many pipelines and takers it has.
    pub(super) fn counts(&self) -> Counts {
        self.shared.with(|inner, _| inner.state.counts(self.member))
    }

    fn permit(&self) -> Permit<P> {
        Permit {
            shared: Arc::clone(&self.shared),
            member: self.member,
        }
    }

    async fn wait(&self, ticket: Ticket, answered: oneshot::Receiver<Answer<P>>) -> Answer<P> {
        let mut waiting = Waiting {
            pool: self,
            ticket,
            answered,
        };
        let answer = (&mut waiting.answered).await;
        answer.unwrap_or(Err(TakeError::Busy))
    }
}

impl<P: Idle> Drop for Pool<P> {
    fn drop(&mut self) {
        self.keeper.abort();
        self.drain();
        self.shared
            .with(|inner, _| inner.pools.remove(&self.member));
    }
}

/// A taker that waits. Dropping it gives its place up.
struct Waiting<'a, P: Idle> {
    pool: &'a Pool<P>,
    ticket: Ticket,
    answered: oneshot::Receiver<Answer<P>>,
}

impl<P: Idle> Drop for Waiting<'_, P> {
    fn drop(&mut self) {
        let Pool { shared, member, .. } = self.pool;
        shared.with(|inner, now| {
            let pool = inner.pools.get_mut(member);
            if pool.is_some_and(|pool| pool.waiting.remove(&self.ticket).is_some()) {
                inner.state.gave_up(*member, self.ticket, now);
                inner.tell_if_unused(*member);
            }
        });
        // It was answered and has not received the answer: drop the pipeline and its permit.
        if let Ok(Ok(pipeline)) = self.answered.try_recv() {
            drop((pipeline, self.pool.permit()));
        }
    }
}

impl<P: Idle> Drop for Permit<P> {
    fn drop(&mut self) {
        self.shared.with(|inner, now| {
            inner.state.released(self.member, now);
            inner.tell_if_unused(self.member);
        });
    }
}

impl<P: Idle> Shared<P> {
    /// Changes the state, and carries out the actions that follow.
    fn with<T>(self: &Arc<Self>, change: impl FnOnce(&mut Inner<P>, Moment) -> T) -> T {
        let mut inner = self.inner.lock();
        let result = change(&mut inner, self.began.elapsed());
        let mut starts = Vec::new();
        for action in inner.state.actions() {
            match action {
                Action::Start(member) => {
                    let start = inner.pools.get(&member).map(|pool| Arc::clone(&pool.start));
                    starts.push((member, start));
                }
                Action::Stop(member, number) => {
                    let pool = inner.pools.get_mut(&member);
                    let stopped = pool.and_then(|pool| pool.idle.remove(&number));
                    inner.discarded.extend(stopped.map(|entry| entry.take().0));
                }
                Action::SendAway(member, ticket) => {
                    let pool = inner.pools.get_mut(&member);
                    let answer = pool.and_then(|pool| pool.waiting.remove(&ticket));
                    // A taker that is gone needs no answer.
                    answer.map(|answer| answer.send(Err(TakeError::Busy)));
                }
            }
        }
        let discarded = std::mem::take(&mut inner.discarded);
        inner.wake_looker(&self.looks_earlier);
        drop(inner);
        drop(discarded);
        for (member, start) in starts {
            let approval = Approval::new(self, member);
            if let Some(start) = start {
                self.runtime.spawn(approval.start(start));
            }
        }
        result
    }

    /// Finds out what has spoiled a pipeline, and drops it, in a task of its own.
    fn find_out(self: &Arc<Self>, member: Member, mut pipeline: P) {
        let shared = Arc::clone(self);
        self.runtime.spawn(async move {
            if pipeline.spoiled_by().await == SpoiledBy::Itself {
                shared.with(|inner, now| {
                    if inner.state.turn_cold(member, now) {
                        inner.say_cold(member);
                    }
                });
            }
        });
    }

    /// Removes spoiled pipelines; if there are none, wakes `context` when one is.
    fn poll_spoiled(self: &Arc<Self>, member: Member, context: &mut Context<'_>) -> Poll<()> {
        let spoiled = self.with(|inner, now| {
            let mut spoiled = Vec::new();
            // The pool is gone, and its keeper will be aborted.
            let Some(pool) = inner.pools.get_mut(&member) else {
                return spoiled;
            };
            pool.idle.retain(|number, entry| {
                let Poll::Ready(pipeline) = entry.poll_spoiled(context) else {
                    return true;
                };
                spoiled.push(pipeline);
                inner.state.spoiled(member, *number, now);
                false
            });
            spoiled
        });
        if spoiled.is_empty() {
            return Poll::Pending;
        }
        for pipeline in spoiled {
            self.find_out(member, pipeline);
        }
        Poll::Ready(())
    }
}

impl<P> Inner<P> {
    /// Notifies who waits for the pool to be unused, if it is.
    fn tell_if_unused(&self, member: Member) {
        if let Some(pool) = self.pools.get(&member)
            && self.state.counts(member).is_unused()
        {
            pool.unused.notify_waiters();
            pool.changed.notify_one();
        }
    }

    /// Wakes the looker if it has to look sooner than it knows.
    fn wake_looker(&mut self, looker: &Notify) {
        if let Some(next) = self.state.next_look_at()
            && self.looks_at.is_none_or(|known| next < known)
        {
            self.looks_at = Some(next);
            looker.notify_one();
        }
    }

    /// Logs once that a pool is cold.
    fn say_cold(&mut self, member: Member) {
        if let Some(pool) = self.pools.get_mut(&member)
            && !std::mem::replace(&mut pool.said_cold, true)
        {
            tracing::warn!(
                link_id = names(&pool.ids),
                "a process of the link, or of those that follow, ended or wrote before it had \
                 its input: for a while, these links' processes are started on demand \
                 (`Warm: false` always does that)"
            );
        }
    }
}

/// Keeps one pool: removes spoiled pipelines, and tells the state when time has passed.
async fn keep<P: Idle>(
    shared: Arc<Shared<P>>,
    member: Member,
    changed: Arc<Notify>,
    starter: Weak<impl Starter<Pipeline = P>>,
) {
    let mut rest_at = None;
    loop {
        let tick = shared.with(|inner, now| inner.state.next_tick(member, now));
        let tick = until(tick.map(|tick| shared.began + tick));
        tokio::select! {
            () = poll_fn(|context| shared.poll_spoiled(member, context)) => {}
            () = tick => shared.with(|inner, now| inner.state.tick(member, now)),
            () = changed.notified() => rest_at = Some(Instant::now() + REST_AFTER),
            () = until(rest_at) => {
                rest_at = None;
                if let Some(starter) = starter.upgrade() {
                    starter.rest();
                }
            }
        }
    }
}

/// The ids of a pool's links, for the log.
fn names(ids: &[LinkId]) -> String {
    let ids: Vec<_> = ids.iter().map(LinkId::to_string).collect();
    ids.join(" ")
}

/// Resolves at that moment, if there is one.
async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
