//! The runner: watches the link store, and serves each link in it with a worker of its
//! own, so that a broken link never hurts another.
//!
//! A program gets one from [`Network::runner`](crate::Network::runner), and one that is in
//! the same process as its portal from [`Serve`](crate::Serve) or
//! [`OneShot`](crate::OneShot). [`Runner::start`] is for other transports and link stores.
//!
//! It must not know of chains or portals: all that it sees is links and calls.

use std::collections::BTreeMap;
use std::num::NonZero;
use std::sync::Arc;

use chain::LinkId;
use futures_util::stream::{self, BoxStream, StreamExt};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};

use crate::link_store::{Change, LinkStore, Registration, RunnerState};
use crate::log_batch::LogBatch;
use crate::transport::{FOLLOWING_MAX, Transport};
use pool::Capacity;
use prometheus_client::registry::Registry;

mod eof_barrier;
mod fit;
mod hidden;
pub mod http;
mod images;
mod local_links;
mod metrics;
mod name;
mod pipeline;
mod pool;
mod pool_state;
mod reaper;
mod sandboxing;
mod sequences;
mod service;
mod starvation;
mod states;
mod turns;
mod worker;

pub use fit::processes_that_fit;
use images::AgreedImages;
pub use images::{FindRegistries, Images};
use local_links::{LocalLinks, Making};
use metrics::Metrics;
pub use name::{RunnerName, RunnerNameError};
pub use pool_state::{Config as PoolConfig, Counts};
use reaper::Reaper;
pub use reaper::until_reaped;
pub use sandbox::{Launcher, OpenError};
pub use sandboxing::Sandboxing;
use service::{Starts, WarmPipeline};
use starvation::Starvation;
use states::{LinkState, States, StatusReporter};
pub use worker::LoadError;
use worker::Shared;

/// How many processes a runner has at most over all links, idle ones included,
/// unless it is told otherwise.
pub const PROCESSES_MAX_DEFAULT: usize = 256;

/// How many calls may wait on a runner that has none beside it, over all links.
pub const WAITING_CALLS_MAX_ALONE: usize = 64;

/// Processes started in reserve at a time, for each processor: a start waits as
/// much as it works.
const REFILLING_PER_PROCESSOR_MAX: usize = 4;

/// Pipelines started at a time, for each processor: more would only take turns on
/// it, while those that are over by then leave their places to the next ones.
const STARTS_PER_PROCESSOR_MAX: usize = 2;

/// Zygotes opened at a time, for each processor: one waits for the kernel, and for those
/// that it comes of, as much as it works.
const OPENS_PER_PROCESSOR_MAX: usize = 2;

/// How a runner keeps its processes, and what it is called.
#[derive(Debug, Clone)]
pub struct Options {
    /// The name under which it is announced in the link store. With `None` nobody
    /// is to know of it: it is not announced, and says nothing in the log of
    /// links that cannot be loaded, which whoever asks for them is told.
    pub name: Option<RunnerName>,
    /// The pool of each link, and of links in a row that are asked for together.
    pub pool: PoolConfig,
    /// Processes over all links, idle ones included.
    pub processes_max: usize,
    /// Calls over all links that may wait while all processes are in use; the
    /// others are told at once. Where there are other runners to go to, a call
    /// had better not wait for this one.
    pub waiting_max: usize,
    /// What its links may have.
    pub sandboxing: Sandboxing,
}

impl Options {
    /// For one run: nothing is kept warm, since nothing comes after it, and
    /// nobody is told of it.
    pub fn one_shot() -> Options {
        let pool = PoolConfig {
            floor: 0,
            ..PoolConfig::default()
        };
        Options {
            name: None,
            pool,
            waiting_max: WAITING_CALLS_MAX_ALONE,
            ..Options::default()
        }
    }
}

impl Default for Options {
    fn default() -> Options {
        Options {
            name: Some(RunnerName::default()),
            pool: PoolConfig::default(),
            processes_max: PROCESSES_MAX_DEFAULT,
            waiting_max: 0,
            sandboxing: Sandboxing::default(),
        }
    }
}

/// Serves links. Dropping it ends every process that it started.
pub struct Runner {
    states: watch::Sender<States>,
    watching: JoinHandle<()>,
    /// Closed when all workers are gone.
    over: watch::Receiver<()>,
    processes_max: usize,
    capacity: Capacity<WarmPipeline>,
    metrics: Arc<Metrics>,
    reapers: [Reaper; 2],
    /// `None` where nobody is to know of it, or not any more.
    announcement: Mutex<Option<Registration>>,
}

/// How far a runner is with a link.
#[derive(Debug, Clone)]
pub enum LinkStatus {
    /// It has not heard of it.
    Unknown,
    /// Its image is fetched, its first processes prepared.
    Loading,
    /// It answers calls.
    Serving(Counts),
    /// It could not be loaded, or its zygote is gone; it is tried again after a
    /// while.
    Broken(Arc<LoadError>),
}

impl Runner {
    /// Starts to serve the links of `links`, and those that come, over
    /// `transport`.
    pub fn start(
        options: Options,
        transport: Arc<dyn Transport>,
        links: Arc<dyn LinkStore>,
        images: Images,
        launcher: sandbox::Launcher,
    ) -> Runner {
        let states = watch::Sender::new(States::started_now());
        let processes_max = options.processes_max;
        let says_links = options.name.is_some();
        let announcement = options.name.map(|name| {
            let (told, state) = watch::channel(RunnerState::default());
            tokio::spawn(states::summarise(states.subscribe(), processes_max, told));
            links.announce(name.as_str(), state)
        });
        let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
        let limits = pool_state::Limits {
            processes_max,
            waiting_max: options.waiting_max,
            refilling_max: REFILLING_PER_PROCESSOR_MAX * processors,
        };
        let metrics = Arc::new(Metrics::new());
        let capacity = Capacity::new(limits);
        let reapers = ["reap-processes", "reap-zygotes"].map(Reaper::start);
        let [processes_reaper, zygotes_reaper] = reapers.clone();
        let agreed = AgreedImages::new(images, Arc::clone(&links), Arc::clone(&metrics));
        let starvation = Arc::new(Starvation::new(&states));
        let links_max = match options.sandboxing.bounds().output_bytes_max {
            // Only what passes us can be counted.
            Some(_) => 1,
            None => processes_max.clamp(1, FOLLOWING_MAX + 1),
        };
        let local = LocalLinks::new(Making {
            capacity: capacity.clone(),
            config: options.pool,
            links_max,
            starts: Starts {
                turns: Arc::new(Semaphore::new(STARTS_PER_PROCESSOR_MAX * processors)),
                metrics: Arc::clone(&metrics),
                starvation: Arc::clone(&starvation),
                reaper: processes_reaper,
            },
        });
        let shared = Arc::new(Shared {
            transport,
            images: agreed,
            links: local,
            opens: Semaphore::new(OPENS_PER_PROCESSOR_MAX * processors),
            launcher,
            sandboxing: options.sandboxing,
            metrics: Arc::clone(&metrics),
            starvation,
            zygotes_reaper,
            says_links,
            served: LogBatch::new(|batch| {
                tracing::info!("serving {} more: {batch}", batch.links());
            }),
        });
        let (running, over) = watch::channel(());
        let watching = serve(shared, links.watch(), states.clone());
        let watching = tokio::spawn(async move {
            watching.await;
            drop(running);
        });
        Runner {
            states,
            watching,
            over,
            processes_max,
            capacity,
            metrics,
            reapers,
            announcement: Mutex::new(announcement),
        }
    }

    /// Waits until link `id`, which must have been put into the store, is served.
    ///
    /// # Errors
    /// Why it could not be loaded; the runner goes on trying.
    pub async fn ready(&self, id: LinkId) -> Result<(), Arc<LoadError>> {
        let mut states = self.states.subscribe();
        loop {
            {
                let known = states.borrow_and_update();
                match known.get(id) {
                    Some(LinkState::Serving) => return Ok(()),
                    Some(LinkState::Broken(error)) => return Err(Arc::clone(error)),
                    None if known.is_draining => return Err(Arc::new(LoadError::Stopped)),
                    Some(LinkState::Loading) | None => {}
                }
            }
            if states.changed().await.is_err() {
                return Err(Arc::new(LoadError::Stopped));
            }
        }
    }

    /// How it is with link `id` now.
    pub fn status(&self, id: LinkId) -> LinkStatus {
        match self.states.borrow().get(id) {
            None => LinkStatus::Unknown,
            Some(LinkState::Loading) => LinkStatus::Loading,
            Some(LinkState::Serving) => LinkStatus::Serving(self.capacity.counts_of(id)),
            Some(LinkState::Broken(error)) => LinkStatus::Broken(Arc::clone(error)),
        }
    }

    /// Resolves when it knows of a link, whether it serves that or not.
    pub fn until_links_known(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut states = self.states.subscribe();
        // Without a runner there is nothing to wait for.
        async move { drop(states.wait_for(|states| !states.is_empty()).await) }
    }

    /// How many processes of link `id` there are; `None` where it is not served.
    pub fn counts(&self, id: LinkId) -> Option<Counts> {
        match self.status(id) {
            LinkStatus::Serving(counts) => Some(counts),
            LinkStatus::Unknown | LinkStatus::Loading | LinkStatus::Broken(_) => None,
        }
    }

    /// What it says of itself to whoever looks after it.
    pub fn state(&self) -> RunnerState {
        self.states.borrow().summary(self.processes_max)
    }

    /// Adds what it counts to what the process counts.
    pub fn register(&self, registry: &mut Registry) {
        self.metrics
            .register(registry, &self.capacity, &self.states);
    }

    /// Takes no more calls, finishes those that it has, however long they take,
    /// and stops then: bound it by a timeout, and drop the runner after that.
    pub async fn drain(&self) {
        states::drain(&self.states);
        let mut over = self.over.clone();
        while over.changed().await.is_ok() {}
        for reaper in &self.reapers {
            reaper.until_caught_up().await;
        }
        let announcement = {
            let mut held = self.announcement.lock();
            held.take()
        };
        if let Some(announcement) = announcement {
            announcement.withdraw().await;
        }
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        self.watching.abort();
        // Who else looks at the states does not keep the pools.
        states::drain(&self.states);
    }
}

/// Keeps a worker for each link that is known, until the runner is drained and
/// all of them are gone.
async fn serve(
    shared: Arc<Shared>,
    changes: BoxStream<'static, Change>,
    states: watch::Sender<States>,
) {
    let mut changes = changes.chain(stream::pending());
    let mut drained = states.subscribe();
    let drained = async { drop(drained.wait_for(|states| states.is_draining).await) };
    let mut drained = std::pin::pin!(drained);
    let removed = LogBatch::new(|batch| {
        tracing::info!("{} removed, and served no longer: {batch}", batch.links());
    });
    let mut workers = JoinSet::new();
    // Dropped, each tells its worker to finish what it has.
    let mut stops: BTreeMap<LinkId, oneshot::Sender<()>> = BTreeMap::new();
    loop {
        tokio::select! {
            biased;
            () = &mut drained => break,
            Some(_) = workers.join_next() => {}
            Some(change) = changes.next() => match change {
                Change::Put(link) => {
                    stops.entry(link.id()).or_insert_with_key(|id| {
                        let (stop, stopped) = oneshot::channel();
                        let reporter = StatusReporter::new(&states, *id);
                        workers.spawn(worker::work(Arc::clone(&shared), link, reporter, stopped));
                        stop
                    });
                }
                Change::Removed(id) => {
                    states::forget(&states, id);
                    if stops.remove(&id).is_some() && shared.says_links {
                        removed.add(id.to_string());
                    }
                }
            },
        }
    }
    drop((changes, stops));
    while workers.join_next().await.is_some() {}
}
