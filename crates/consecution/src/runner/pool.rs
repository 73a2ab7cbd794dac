//! A pool of pipelines that are already started, all of the same links in a row; often of
//! one alone.
//!
//! Taking returns at once if a pipeline is idle; its replacement starts
//! after that, and nobody waits for it. A pipeline leaves the pool for good when
//! it is taken. What is decided stands in [`pool_state`](super::pool_state);
//! here it is done: starting, watching what is idle, telling who waits. It must
//! not know what a pipeline is given to do.
//!
//! All pools that share a [`Capacity`] share one lock. Nothing under it waits,
//! starts or drops a pipeline.

use std::collections::{BTreeMap, VecDeque};
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

use super::pool_state::{Action, Config, Counts, Limits, Member, Moment, PoolState, Take, Ticket};

mod approval;
mod idle_entry;
#[cfg(test)]
mod tests;

use approval::Approval;
use idle_entry::{Condition, IdleEntry};

/// Starts the pipelines of one pool.
pub(super) trait Starter: Send + Sync + 'static {
    /// What it starts. Dropping one stops it.
    type Pipeline: Idle;

    /// Starts a pipeline, until it is ready for its request.
    ///
    /// # Errors
    /// [`TakeError`], as whoever waits for it is told.
    fn start(&self) -> impl Future<Output = Result<Self::Pipeline, TakeError>> + Send;

    /// Nothing has been taken for a while: gives up what it keeps only to start
    /// the next ones faster. Does not wait.
    fn rest(&self);
}

/// A pipeline without a request.
pub(super) trait Idle: Send + Sync + 'static {
    /// Resolves when it is no longer as good as fresh: one of its processes has ended, or
    /// the last one has written something.
    fn spoiled(&self) -> impl Future<Output = ()> + Send;

    /// Who has spoiled it, once somebody has; not long after that.
    fn spoiled_by(&mut self) -> impl Future<Output = SpoiledBy> + Send;
}

/// Who has spoiled a pipeline without a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SpoiledBy {
    /// A process of it, which has ended or written by itself, as the next one would.
    Itself,
    /// Somebody who has killed one, as the kernel does where memory runs out.
    Others,
}

/// How long after the last one was taken a starter rests.
const REST_AFTER: Duration = Duration::from_secs(10);

/// The room for processes that all pools of a runner share. Clones are the same.
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

/// The pool of some links in a row. Dropping it drains it.
pub(super) struct Pool<P: Idle> {
    shared: Arc<Shared<P>>,
    member: Member,
    unused: Arc<Notify>,
    keeper: JoinHandle<()>,
}

/// A pipeline that was taken, and its room.
pub(super) struct Taken<P: Idle> {
    /// The pipeline.
    pub pipeline: P,
    /// To be dropped when the pipeline is gone, and not before.
    pub permit: Permit<P>,
    /// It was there already: nobody has waited for it to start.
    pub was_idle: bool,
}

/// Room for a pipeline that is in use.
pub(super) struct Permit<P: Idle> {
    shared: Arc<Shared<P>>,
    member: Member,
}

/// No pipeline could be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum TakeError {
    /// All processes are in use, and enough wait for one.
    #[error("all processes are in use")]
    Busy,
    /// A start failed for want of something of which there is more elsewhere, or
    /// later; for this reason.
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
}

/// What the lock is for: what is decided, and what it is decided about, which
/// always agree.
struct Inner<P> {
    state: PoolState,
    pools: BTreeMap<Member, PoolEntry<P>>,
    /// What is to be dropped once the lock is free, since that may do anything.
    discarded: Vec<P>,
}

/// What one pool has.
struct PoolEntry<P> {
    /// The links of each pipeline.
    ids: Arc<[LinkId]>,
    start: Start<P>,
    /// The oldest first.
    idle: VecDeque<IdleEntry<P>>,
    waiting: BTreeMap<Ticket, oneshot::Sender<Answer<P>>>,
    /// Wakes the keeper.
    changed: Arc<Notify>,
    /// Tells that nobody has a pipeline of it, or waits for one, and none is on its
    /// way.
    unused: Arc<Notify>,
    /// It was said that it is cold, as it may be again and again.
    said_cold: bool,
}

type Start<P> = Arc<dyn Fn() -> BoxFuture<'static, Answer<P>> + Send + Sync>;
/// What who waits is told. A pipeline that was sent counts as in use.
type Answer<P> = Result<P, TakeError>;

impl<P: Idle> Capacity<P> {
    /// Room for that much.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub(super) fn new(limits: Limits) -> Capacity<P> {
        let inner = Inner {
            state: PoolState::new(limits),
            pools: BTreeMap::new(),
            discarded: Vec::new(),
        };
        let shared = Shared {
            inner: Mutex::new(inner),
            began: Instant::now(),
            runtime: Handle::current(),
        };
        Capacity {
            shared: Arc::new(shared),
        }
    }

    /// How many processes and takers each link has, over all pools: a pipeline has a
    /// process of each of its links, and who waits for one waits for all of them.
    pub(super) fn counts(&self) -> BTreeMap<LinkId, Counts> {
        self.shared.with(|inner, _| {
            let mut counts: BTreeMap<LinkId, Counts> = BTreeMap::new();
            for (member, pool) in &inner.pools {
                for id in &*pool.ids {
                    let of_link = counts.entry(*id).or_default();
                    of_link.add(inner.state.counts(*member));
                }
            }
            counts
        })
    }

    /// As [`counts`](Self::counts), of one link.
    pub(super) fn counts_of(&self, id: LinkId) -> Counts {
        self.shared.with(|inner, _| {
            let mut counts = Counts::default();
            for (member, pool) in &inner.pools {
                for _ in pool.ids.iter().filter(|named| **named == id) {
                    counts.add(inner.state.counts(*member));
                }
            }
            counts
        })
    }
}

impl<P: Idle> Pool<P> {
    /// Opens a pool of pipelines of those links, and starts what it is to have in
    /// reserve.
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
        // The keeper may outlive the pool for a moment: nothing of it is to.
        let resting = Arc::downgrade(&starter);
        let start: Start<P> = Arc::new(move || {
            let starter = Arc::clone(&starter);
            Box::pin(async move { starter.start().await })
        });
        let (changed, unused) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let pool = PoolEntry {
            ids,
            start,
            idle: VecDeque::new(),
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

    /// Is to have that much in reserve from now on, also where nothing is called. What it
    /// has beyond that is thrown away a little later.
    pub(super) fn set_floor(&self, floor: usize) {
        self.shared.with(|inner, now| {
            inner.state.set_floor(self.member, floor, now);
            if let Some(pool) = inner.pools.get(&self.member) {
                pool.changed.notify_one();
            }
        });
    }

    /// Takes a pipeline out of the pool: at once where one is idle, else when
    /// one has been started.
    ///
    /// # Errors
    /// [`TakeError`]: at once where there is no room to wait.
    pub(super) async fn take(&self) -> Result<Taken<P>, TakeError> {
        self.take_as(PoolState::take).await
    }

    /// As [`take`](Self::take), for somebody who has a pipeline of another pool already,
    /// or would take a smaller one, and so must not wait for room.
    ///
    /// # Errors
    /// [`TakeError`]: at once where there is no room.
    pub(super) async fn take_beside(&self) -> Result<Taken<P>, TakeError> {
        self.take_as(PoolState::take_beside).await
    }

    async fn take_as(
        &self,
        take: fn(&mut PoolState, Member, Moment) -> Take,
    ) -> Result<Taken<P>, TakeError> {
        enum Step<P> {
            Idle(Option<IdleEntry<P>>),
            Wait(Ticket, oneshot::Receiver<Answer<P>>),
            Busy,
        }
        loop {
            let step = self.shared.with(|inner, now| {
                let Some(pool) = inner.pools.get_mut(&self.member) else {
                    return Step::Busy;
                };
                match take(&mut inner.state, self.member, now) {
                    Take::Idle => {
                        // For a refill that is due later.
                        pool.changed.notify_one();
                        Step::Idle(pool.idle.pop_back())
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
                        was_idle: false,
                    });
                }
                Step::Idle(entry) => {
                    let permit = self.permit();
                    match entry.map(IdleEntry::take) {
                        Some((pipeline, Condition::Fresh)) => {
                            return Ok(Taken {
                                pipeline,
                                permit,
                                was_idle: true,
                            });
                        }
                        // Just now; the next one may be as good as new.
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

    /// Stops refilling, throws away what is idle and sends away who waits. What
    /// is in use is left alone.
    pub(super) fn drain(&self) {
        self.shared.with(|inner, now| {
            inner.state.drain(self.member, now);
            if let Some(pool) = inner.pools.get_mut(&self.member) {
                // Who has gone already does not need to be told.
                let waiting = std::mem::take(&mut pool.waiting).into_values();
                waiting.for_each(|answer| drop(answer.send(Err(TakeError::Busy))));
            }
        });
    }

    /// Waits, when it is drained, until nobody has a pipeline of it, or waits for
    /// one, and none is on its way.
    pub(super) async fn until_unused(&self) {
        loop {
            // Hears of what happens from here on, also before it is awaited.
            let unused = self.unused.notified();
            if self.counts().is_unused() {
                return;
            }
            unused.await;
        }
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

/// Somebody who waits, and may stop to.
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
        // Answered, but not heard: the pipeline goes, and gives its room back.
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
    /// Changes the state, and does what follows.
    fn with<T>(self: &Arc<Self>, change: impl FnOnce(&mut Inner<P>, Moment) -> T) -> T {
        // A panic under the lock is a fault of ours, and fails one call; the
        // counts are still what they were.
        let mut inner = self.inner.lock();
        let result = change(&mut inner, self.began.elapsed());
        let mut starts = Vec::new();
        for action in inner.state.actions() {
            match action {
                Action::Start(member) => {
                    let start = inner.pools.get(&member).map(|pool| Arc::clone(&pool.start));
                    starts.push((member, start));
                }
                Action::Stop(member) => {
                    let pool = inner.pools.get_mut(&member);
                    let stopped = pool.and_then(|pool| pool.idle.pop_front());
                    inner.discarded.extend(stopped.map(|entry| entry.take().0));
                }
                Action::SendAway(member, ticket) => {
                    let pool = inner.pools.get_mut(&member);
                    let answer = pool.and_then(|pool| pool.waiting.remove(&ticket));
                    // Who has gone already does not need to be told.
                    answer.map(|answer| answer.send(Err(TakeError::Busy)));
                }
            }
        }
        let discarded = std::mem::take(&mut inner.discarded);
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

    /// Finds out who has spoiled a pipeline, and throws it away. It is no concern of
    /// whoever wanted to have it.
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

    /// Takes away what has been spoiled, or wakes `context` when something is.
    fn poll_spoiled(self: &Arc<Self>, member: Member, context: &mut Context<'_>) -> Poll<()> {
        let spoiled = self.with(|inner, now| {
            let mut spoiled = Vec::new();
            // A pool that is gone leaves nothing to look after.
            let Some(pool) = inner.pools.get_mut(&member) else {
                return spoiled;
            };
            for at in (0..pool.idle.len()).rev() {
                if let Poll::Ready(pipeline) = pool.idle[at].poll_spoiled(context) {
                    drop(pool.idle.remove(at));
                    spoiled.push(pipeline);
                    inner.state.spoiled(member, at, now);
                }
            }
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
    fn tell_if_unused(&self, member: Member) {
        if let Some(pool) = self.pools.get(&member)
            && self.state.counts(member).is_unused()
        {
            pool.unused.notify_waiters();
            pool.changed.notify_one();
        }
    }

    fn say_cold(&mut self, member: Member) {
        if let Some(pool) = self.pools.get_mut(&member)
            && !std::mem::replace(&mut pool.said_cold, true)
        {
            tracing::warn!(
                link_id = names(&pool.ids),
                "a process of the link, or of those that follow, ended or wrote before it had \
                 its input: for a while, they are started on demand (`Warm: false` always \
                 does that)"
            );
        }
    }
}

/// Looks after one pool: throws away what is spoiled, and lets time pass.
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

/// The links of a pool, for the log.
fn names(ids: &[LinkId]) -> String {
    let ids: Vec<_> = ids.iter().map(LinkId::to_string).collect();
    ids.join(" ")
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
