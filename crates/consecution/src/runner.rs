//! The runner: watches the link store, and serves each link in it with a worker of its
//! own, so that a broken link never hurts another.
//!
//! A program gets one from [`Network::runner`](crate::Network::runner), and one that is in
//! the same process as its portal from [`Serve`](crate::Serve) or
//! [`OneShot`](crate::OneShot). [`Runner::start`] is for other transports and link stores.
//!
//! It must not know of chains or portals: it only sees links and calls.

use std::collections::BTreeMap;
use std::num::NonZero;
use std::sync::Arc;

use chain::LinkId;
use futures_util::stream::{self, BoxStream, StreamExt};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};

use crate::figures::Processes;
use crate::link_store::{Change, LinkStore, Registration, RunnerState};
use crate::log_batch::LogBatch;
use crate::transport::{FOLLOWING_MAX, Transport};
use pool::Capacity;
use prometheus_client::registry::Registry;

mod activity;
mod arguments;
mod eof_barrier;
mod fit;
mod hidden;
mod hints;
pub mod http;
mod images;
mod local_links;
mod metrics;
mod name;
mod pipeline;
mod pool;
mod pool_state;
mod provisions;
mod reaper;
mod sandboxing;
mod sequences;
mod service;
mod starvation;
mod states;
mod stderr_log;
mod traced;
mod turns;
mod worker;

pub use fit::processes_that_fit;
use images::AgreedImages;
pub use images::{FindRegistries, Images};
use local_links::{LocalLinks, Making};
use metrics::Metrics;
pub use name::{RunnerName, RunnerNameError};
pub use pool_state::{Config as PoolConfig, Counts};
pub use provisions::Provisions;
use reaper::Reaper;
pub use reaper::until_reaped;
pub use sandbox::{Launcher, OpenError};
pub use sandboxing::Sandboxing;
use service::{Starts, WarmPipeline};
use starvation::Starvation;
use states::{LinkState, States, StatusReporter};
pub use worker::LoadError;
use worker::Shared;

/// The default limit on processes of a runner, over all links and with idle ones.
pub const PROCESSES_MAX_DEFAULT: usize = 256;

/// How many calls may wait, over all links, on a runner that is the only one.
pub const WAITING_CALLS_MAX_ALONE: usize = 64;

/// With so many processes starting for each processor, no more are started for reserves:
/// during a start, the processor is idle about half of the time.
const REFILLING_PER_PROCESSOR_MAX: usize = 4;

/// The most pipelines started at a time for each processor: more would only slow each other
/// down, and all would be ready late.
const STARTS_PER_PROCESSOR_MAX: usize = 2;

/// The most zygotes opened at a time for each processor: while one is opened, the processor
/// is idle about half of the time.
const OPENS_PER_PROCESSOR_MAX: usize = 2;

/// The settings of a runner.
#[derive(Debug, Clone)]
pub struct Options {
    /// The name under which it is announced in the link store. With `None` it is not announced,
    /// and does not log which links are served or broken: the caller that waits for a link
    /// gets the error.
    pub name: Option<RunnerName>,
    /// The pool of each link, and of consecutive links that are called together.
    pub pool: PoolConfig,
    /// The most processes, over all links and with idle ones.
    pub processes_max: usize,
    /// How many calls, over all links, may wait while all processes are in use. Further calls
    /// are refused at once; so if there are other runners, make this small: they may have
    /// room.
    pub waiting_max: usize,
    /// Limits and rules for its links.
    pub sandboxing: Sandboxing,
}

impl Options {
    /// For a single run: keeps nothing warm, and is not announced.
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

/// A runner. Dropping it ends every process that it started.
pub struct Runner {
    states: watch::Sender<States>,
    watching: JoinHandle<()>,
    /// Closed once all workers are gone.
    over: watch::Receiver<()>,
    processes_max: usize,
    capacity: Capacity<WarmPipeline>,
    metrics: Arc<Metrics>,
    reapers: [Reaper; 2],
    /// Its announcement in the link store, if it is announced, and what else lasts as long.
    held: Mutex<Vec<Registration>>,
}

/// The state of a link on a runner.
#[derive(Debug, Clone)]
pub enum LinkStatus {
    /// The runner does not know the link.
    Unknown,
    /// Its image is being pulled, or its zygote opened.
    Loading,
    /// It answers calls.
    Serving(Counts),
    /// It could not be loaded, or its zygote is gone; it is loaded again after a while.
    Broken(Arc<LoadError>),
}

impl Runner {
    /// Starts to serve the links in `links`, and those that are put there later, over
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
            // Output between the processes of a pipeline does not pass the runner, so it could
            // not be counted.
            Some(_) => 1,
            None => processes_max.clamp(1, FOLLOWING_MAX + 1),
        };
        let local = LocalLinks::new(Making {
            capacity: capacity.clone(),
            config: options.pool,
            processes_max,
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
            held: Mutex::new(announcement.into_iter().collect()),
        }
    }

    /// Waits until link `id`, which must have been put into the store, is served.
    ///
    /// # Errors
    /// Why it could not be loaded; the runner still retries it.
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

    /// The present state of link `id`.
    pub fn status(&self, id: LinkId) -> LinkStatus {
        match self.states.borrow().get(id) {
            None => LinkStatus::Unknown,
            Some(LinkState::Loading) => LinkStatus::Loading,
            Some(LinkState::Serving) => LinkStatus::Serving(self.capacity.counts_of(id)),
            Some(LinkState::Broken(error)) => LinkStatus::Broken(Arc::clone(error)),
        }
    }

    /// Resolves when the runner knows a link, whether it serves it or not.
    pub fn until_links_known(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut states = self.states.subscribe();
        // An error means that the runner is gone: then there is nothing to wait for.
        async move { drop(states.wait_for(|states| !states.is_empty()).await) }
    }

    /// How many processes of link `id` there are; `None` if it is not served.
    pub fn counts(&self, id: LinkId) -> Option<Counts> {
        match self.status(id) {
            LinkStatus::Serving(counts) => Some(counts),
            LinkStatus::Unknown | LinkStatus::Loading | LinkStatus::Broken(_) => None,
        }
    }

    /// What the processes of each link that it serves are doing. A process of a pipeline
    /// counts for its link.
    pub fn processes(&self) -> BTreeMap<LinkId, Processes> {
        processes(&self.capacity)
    }

    /// Tells the same for as long as the runner lives and a little longer.
    pub(crate) fn processes_teller(
        &self,
    ) -> impl Fn() -> BTreeMap<LinkId, Processes> + Send + Sync + 'static {
        let capacity = self.capacity.clone();
        move || processes(&capacity)
    }

    /// Holds a registration until the runner is drained or dropped.
    pub(crate) fn hold(&self, registration: Registration) {
        self.held.lock().push(registration);
    }

    /// The state that it announces.
    pub fn state(&self) -> RunnerState {
        self.states.borrow().summary(self.processes_max)
    }

    /// Registers its metrics.
    pub fn register(&self, registry: &mut Registry) {
        self.metrics
            .register(registry, &self.capacity, &self.states);
    }

    /// Accepts no more calls, and resolves when the accepted ones are finished, however long
    /// they take. So use a timeout, and drop the runner after that.
    pub async fn drain(&self) {
        states::drain(&self.states);
        let mut over = self.over.clone();
        while over.changed().await.is_ok() {}
        for reaper in &self.reapers {
            reaper.until_caught_up().await;
        }
        let held = std::mem::take(&mut *self.held.lock());
        for registration in held {
            registration.withdraw().await;
        }
    }
}

fn processes(capacity: &Capacity<WarmPipeline>) -> BTreeMap<LinkId, Processes> {
    let counts = capacity.counts().into_iter();
    let processes = counts.map(|(id, counts)| {
        let processes = Processes {
            idle: counts.idle as u64,
            starting: counts.starting as u64,
            in_use: counts.in_use as u64,
            waiting: counts.waiting as u64,
        };
        (id, processes)
    });
    processes.collect()
}

impl Drop for Runner {
    fn drop(&mut self) {
        self.watching.abort();
        // Clears the states, which others may still hold: a state must keep no link alive.
        states::drain(&self.states);
    }
}

/// Keeps a worker for each known link, until the runner is drained and all workers are gone.
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
    // Dropping one tells its worker to finish its calls and end.
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
