//! The runner: watches the links that are known, and serves each of them with a
//! worker of its own, so that a broken link never hurts another.
//!
//! It must not know of chains or portals: all that it sees is links and calls.

use std::collections::BTreeMap;
use std::sync::Arc;

use chain::LinkId;
use futures_util::StreamExt;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::link_store::{Change, LinkStore};
use crate::transport::Transport;
use pool_state::Counts;

mod images;
pub mod pool;
pub mod pool_state;
mod process;
mod worker;

pub use images::{FindRegistries, Images};
pub use worker::LoadError;
use worker::{LinkState, Shared, Worker};

/// How many processes a runner has at most over all links, idle ones included,
/// unless it is told otherwise.
pub const PROCESSES_MAX_DEFAULT: usize = 256;

/// How a runner keeps its processes.
#[derive(Debug, Clone)]
pub struct Options {
    /// The pool of each link.
    pub pool: pool_state::Config,
    /// Processes over all links, idle ones included.
    pub processes_max: usize,
}

impl Options {
    /// For one run: nothing is kept warm, since nothing comes after it.
    pub fn one_shot() -> Options {
        let pool = pool_state::Config {
            floor: 0,
            ..pool_state::Config::default()
        };
        Options {
            pool,
            ..Options::default()
        }
    }
}

impl Default for Options {
    fn default() -> Options {
        Options {
            pool: pool_state::Config::default(),
            processes_max: PROCESSES_MAX_DEFAULT,
        }
    }
}

/// Serves links. Dropping it ends every process that it started.
pub struct Runner {
    states: watch::Receiver<States>,
    watching: JoinHandle<()>,
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
    /// It could not be loaded; it is tried again after a while.
    Broken(Arc<LoadError>),
}

/// What is known of each link; a link that is missing is not known.
type States = BTreeMap<LinkId, LinkState>;

impl Runner {
    /// Starts to serve the links of `links`, and those that come, over
    /// `transport`.
    pub fn start(
        options: Options,
        transport: Arc<dyn Transport>,
        links: &dyn LinkStore,
        images: Images,
        launcher: sandbox::Launcher,
    ) -> Runner {
        let (told, states) = watch::channel(States::new());
        let shared = Arc::new(Shared {
            capacity: pool::Capacity::new(options.processes_max),
            pool: options.pool,
            transport,
            images,
            launcher,
            states: told,
        });
        let mut changes = links.watch();
        let watching = tokio::spawn(async move {
            let mut workers: BTreeMap<LinkId, Worker> = BTreeMap::new();
            while let Some(change) = changes.next().await {
                match change {
                    Change::Put(link) => {
                        let id = link.id();
                        workers
                            .entry(id)
                            .or_insert_with(|| Worker::start(&shared, id, link));
                    }
                    Change::Removed(id) => {
                        workers.remove(&id);
                    }
                }
            }
        });
        Runner { states, watching }
    }

    /// Waits until link `id`, which must have been put into the store, is served.
    ///
    /// # Errors
    /// Why it could not be loaded; the runner goes on trying.
    pub async fn ready(&self, id: LinkId) -> Result<(), Arc<LoadError>> {
        let mut states = self.states.clone();
        loop {
            match states.borrow_and_update().get(&id) {
                Some(LinkState::Serving(_)) => return Ok(()),
                Some(LinkState::Broken(error)) => return Err(Arc::clone(error)),
                Some(LinkState::Loading) | None => {}
            }
            if states.changed().await.is_err() {
                return Err(Arc::new(LoadError::Stopped));
            }
        }
    }

    /// How it is with link `id` now.
    pub fn status(&self, id: LinkId) -> LinkStatus {
        match self.states.borrow().get(&id) {
            None => LinkStatus::Unknown,
            Some(LinkState::Loading) => LinkStatus::Loading,
            Some(LinkState::Serving(pool)) => LinkStatus::Serving(pool.counts()),
            Some(LinkState::Broken(error)) => LinkStatus::Broken(Arc::clone(error)),
        }
    }

    /// How many processes of link `id` there are; `None` where it is not served.
    pub fn counts(&self, id: LinkId) -> Option<Counts> {
        match self.states.borrow().get(&id)? {
            LinkState::Serving(pool) => Some(pool.counts()),
            LinkState::Loading | LinkState::Broken(_) => None,
        }
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        self.watching.abort();
    }
}
