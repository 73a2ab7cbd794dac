//! The composition root: the only place that names a backend.
//!
//! One process with everything in it is [`OneShot`] or [`Serve`]; portals and
//! runners that are processes of their own meet over a [`Network`].

mod network;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chain::{Chain, LinkId};
use futures_util::future::BoxFuture;
use image::{Limits, MountPoint, NoProgress, Owners, Registries, Store, StoreError, StoreOptions};
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use sandbox::Launcher;

use crate::error::{FailedTo, with_causes};
use crate::figures::Processes;
use crate::http;
use crate::link_store::LinkStore;
use crate::link_store::memory::Memory;
use crate::portal::http::{Figures, LinkState, Links, RunnerEntry};
use crate::portal::{Portal, PortalError};
use crate::runner::{
    Images, LinkStatus, LoadError, Options, Runner, Sandboxing, WAITING_CALLS_MAX_ALONE,
};
use crate::transport::Transport;
use crate::transport::in_process::InProcess;

#[cfg(feature = "cli")]
pub(crate) use network::link_store;
pub use network::{ConnectError, Network};
pub use sandbox::{Finding, Ids, State, run_zygote_if_asked};

/// A chain, its portal and a runner in this process, for single calls.
///
/// Each call starts its processes, and none are kept in reserve, as in `consecution run`.
/// [`Serve`] is for many calls.
///
/// ```no_run
/// use consecution::runner::Sandboxing;
/// use consecution::{OneShot, chain_file, images};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let chain = chain_file::read("words.yaml".as_ref())?;
/// let images = images("/var/lib/words".as_ref())?;
/// let here = OneShot::start(chain, images, Sandboxing::default()).await?;
/// let reply = here.portal.send("this is raw data").await?;
/// # Ok(())
/// # }
/// ```
///
/// Dropping it ends its processes. Needs a runtime of tokio, and a `main` that begins with
/// [`run_zygote_if_asked`].
pub struct OneShot {
    /// Calls the chain.
    pub portal: Portal,
    _runner: Runner,
}

/// A chain could not be made ready. The texts read well on their own, followed by
/// those of their sources.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A link cannot be run here.
    #[error("link {} '{name}' ({image}): failed to {}", index + 1, with_causes(&**error))]
    Link {
        /// The link's position in the chain, from 0.
        index: usize,
        /// Its name in the chain.
        name: String,
        /// Its image.
        image: String,
        /// Why not.
        error: Arc<LoadError>,
    },
    /// The portal cannot be opened.
    #[error(transparent)]
    Portal(#[from] FailedTo<PortalError>),
}

impl OneShot {
    /// Pulls the images that are missing, opens the zygotes of all links at the same
    /// time, and returns when the chain can be called.
    ///
    /// # Errors
    /// The first link, in chain order, that cannot be run.
    pub async fn start(
        chain: Chain,
        images: Images,
        sandboxing: Sandboxing,
    ) -> Result<OneShot, StartError> {
        let links = Memory::new();
        let transport: Arc<dyn Transport> = Arc::new(InProcess::new());
        let portal = Portal::open(chain, Arc::clone(&transport), &links).await;
        let portal = portal.map_err(FailedTo)?;
        let runner = Runner::start(
            Options {
                sandboxing,
                ..Options::one_shot()
            },
            transport,
            Arc::new(links),
            images,
            Launcher::new(),
        );
        until_ready(&runner, portal.chain()).await?;
        Ok(OneShot {
            portal,
            _runner: runner,
        })
    }
}

/// Chains, their portals and a runner in this process, for many calls.
///
/// Processes are started before their calls come, as in `consecution serve`. Dropping it ends its processes. Needs a runtime of tokio, and a `main` that begins with
/// [`run_zygote_if_asked`]. The [front page](crate#a-portal-and-a-runner-in-one-process) has
/// an example.
pub struct Serve {
    portals: Mutex<Vec<Portal>>,
    transport: Arc<dyn Transport>,
    used: Arc<UsedLinks>,
    runner: Arc<Runner>,
}

impl Serve {
    /// Starts to load every link, without waiting for it. A link that cannot be loaded is
    /// retried, and does not affect the others.
    ///
    /// # Errors
    /// A portal cannot be opened.
    pub async fn start(
        chains: Vec<Chain>,
        images: Images,
        processes_max: usize,
        sandboxing: Sandboxing,
    ) -> Result<Serve, StartError> {
        let transport: Arc<dyn Transport> = Arc::new(InProcess::new());
        let used = Arc::new(UsedLinks::default());
        let options = Options {
            name: None,
            processes_max,
            waiting_max: WAITING_CALLS_MAX_ALONE,
            sandboxing,
            ..Options::default()
        };
        let (links, carries) = (Arc::new(used.links.clone()), Arc::clone(&transport));
        let runner = Runner::start(options, carries, links, images, Launcher::new());
        let serve = Serve {
            portals: Mutex::default(),
            transport,
            used,
            runner: Arc::new(runner),
        };
        serve.offer(chains).await?;
        Ok(serve)
    }

    /// Replaces the offered chains. A chain that has not changed keeps its portal. Calls of the
    /// other chains are finished; links that are no longer used after that are dropped.
    ///
    /// # Errors
    /// A portal cannot be opened; nothing has changed then.
    pub async fn offer(&self, chains: Vec<Chain>) -> Result<Vec<Portal>, StartError> {
        let before = self.portals();
        let portals = Portal::for_each(chains, &before, &self.transport).map_err(FailedTo)?;
        let is_of = |all: &[Portal], portal: &Portal| all.iter().any(|other| other.is(portal));
        for portal in portals.iter().filter(|portal| !is_of(&before, portal)) {
            self.used.begin(portal).await.map_err(FailedTo)?;
        }
        self.portals.lock().clone_from(&portals);
        for portal in before.into_iter().filter(|portal| !is_of(&portals, portal)) {
            tokio::spawn(Arc::clone(&self.used).end(portal));
        }
        Ok(portals)
    }

    /// The portals, in the order of the chains.
    pub fn portals(&self) -> Vec<Portal> {
        self.portals.lock().clone()
    }

    /// Tells which links can be called, for [`portal::http::bind`](crate::portal::http::bind).
    pub fn links(&self) -> Arc<dyn Links> {
        Arc::new(LinksHere(Arc::clone(&self.runner)))
    }

    /// The runner's metrics, for [`portal::http::bind`](crate::portal::http::bind).
    pub fn registry(&self) -> Registry {
        let mut registry = http::registry();
        self.runner.register(&mut registry);
        registry
    }

    /// Waits for each link of a chain to be loaded, in chain order.
    ///
    /// # Errors
    /// The first link that could not be loaded; the runner still retries it.
    pub async fn ready(&self, chain: &Chain) -> Result<(), StartError> {
        until_ready(&self.runner, chain).await
    }
}

/// The links in this process, each for as long as a portal uses it.
#[derive(Default)]
struct UsedLinks {
    links: Memory,
    /// How many times the chains in use contain each link.
    users: tokio::sync::Mutex<BTreeMap<LinkId, usize>>,
}

impl UsedLinks {
    /// Publishes the links of a portal, and counts them as used.
    async fn begin(&self, portal: &Portal) -> Result<(), PortalError> {
        let mut users = self.users.lock().await;
        portal.publish(&self.links).await?;
        for link in &portal.chain().links {
            *users.entry(link.id).or_default() += 1;
        }
        Ok(())
    }

    /// Waits until nobody holds the portal any more, and counts its links as used no longer.
    async fn end(self: Arc<Self>, portal: Portal) {
        let chain = Arc::clone(portal.chain());
        let mut publication = portal.publication();
        drop(portal);
        while publication.changed().await.is_ok() {}
        let mut users = self.users.lock().await;
        for link in &chain.links {
            let Some(count) = users.get_mut(&link.id) else {
                continue;
            };
            *count -= 1;
            if *count == 0 {
                users.remove(&link.id);
                // A store in memory does not fail.
                let _ = self.links.remove(link.id).await;
            }
        }
    }
}

/// The links of the runner in this process.
struct LinksHere(Arc<Runner>);

impl Links for LinksHere {
    fn state(&self, id: LinkId) -> BoxFuture<'_, LinkState> {
        let state = match self.0.status(id) {
            LinkStatus::Serving(_) => LinkState::Served,
            LinkStatus::Broken(error) => {
                LinkState::Broken(format!("failed to {}", with_causes(&*error)))
            }
            LinkStatus::Loading | LinkStatus::Unknown => {
                LinkState::Missing("it is being loaded".to_owned())
            }
        };
        Box::pin(std::future::ready(state))
    }

    fn unreachable(&self) -> Option<String> {
        None
    }

    fn figures(&self, _wanted: BTreeSet<LinkId>) -> BoxFuture<'_, Figures> {
        let links = self.0.processes();
        let mut all = Processes::default();
        links.values().for_each(|of_link| all.add(*of_link));
        let runners = vec![RunnerEntry::new(None, &self.0.state(), Some(all))];
        Box::pin(std::future::ready(Figures { links, runners }))
    }
}

/// Waits for each link of a chain, in chain order.
async fn until_ready(runner: &Runner, chain: &Chain) -> Result<(), StartError> {
    for (index, link) in chain.links.iter().enumerate() {
        runner
            .ready(link.id)
            .await
            .map_err(|error| StartError::Link {
                index,
                name: link.name.clone(),
                image: link.link.image.clone(),
                error,
            })?;
    }
    Ok(())
}

/// The paths that the sandbox mounts over, so that every root must have them.
const MOUNT_POINTS: [MountPoint;
    sandbox::MOUNT_POINT_FOLDERS.len() + sandbox::MOUNT_POINT_FILES.len()] = {
    let folders = sandbox::MOUNT_POINT_FOLDERS;
    let files = sandbox::MOUNT_POINT_FILES;
    let mut points = [MountPoint::Directory("");
        sandbox::MOUNT_POINT_FOLDERS.len() + sandbox::MOUNT_POINT_FILES.len()];
    let mut at = 0;
    while at < folders.len() {
        points[at] = MountPoint::Directory(folders[at]);
        at += 1;
    }
    while at < points.len() {
        points[at] = MountPoint::File(files[at - folders.len()]);
        at += 1;
    }
    points
};

/// Opens the image store in the folder `home`, so that it unpacks images for the sandbox:
/// with the folders that it mounts on, and owned by the users of its processes.
///
/// # Errors
/// It cannot be made or read.
pub fn open_store(home: &Path) -> Result<Store, StoreError> {
    open_store_for(home, Ids::detect(), Limits::default())
}

/// Does the same as [`open_store`], with other limits on an image, and for processes with
/// other ids: an unpacked image belongs to the ids that it was unpacked for, so a runner's
/// [`Sandboxing::ids`] must be the same.
///
/// # Errors
/// It cannot be made or read.
pub fn open_store_for(home: &Path, ids: Ids, limits: Limits) -> Result<Store, StoreError> {
    let owners = match ids {
        Ids::Shifted { base } => Owners::Shifted { base },
        Ids::Own => Owners::Mine,
    };
    let options = StoreOptions {
        owners,
        mount_points: &MOUNT_POINTS,
        limits,
        sync: true,
    };
    // Zygotes open roots from another working directory.
    let home = std::path::absolute(home).unwrap_or_else(|_| home.to_owned());
    Store::open(&home, options)
}

/// Images from the store in the folder `home`, which is made if it is missing. An image
/// that is not in it is pulled when a link needs it, with the credentials that
/// `docker login` has left. To put one in by hand, see
/// [`Store::import`](image::Store::import) of the field `store`.
///
/// # Errors
/// The store cannot be made or read.
pub fn images(home: &Path) -> Result<Images, StoreError> {
    Ok(Images {
        store: open_store(home)?,
        registries: Arc::new(Registries::from_environment),
        progress: Arc::new(NoProgress),
    })
}

/// Checks what of the sandbox this host can enforce, for processes with those ids.
pub fn check_sandbox(ids: Ids) -> Vec<Finding> {
    sandbox::check(&Launcher::new(), ids)
}

/// The default folder for state and images: `/var/lib/consecution` for root, otherwise in the
/// XDG data folder. `None` if neither `XDG_DATA_HOME` nor `HOME` is set.
pub fn default_home() -> Option<PathBuf> {
    if rustix::process::geteuid().is_root() {
        return Some(PathBuf::from("/var/lib/consecution"));
    }
    let data = std::env::var_os("XDG_DATA_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute());
    let data = data.or_else(|| {
        Some(
            PathBuf::from(std::env::var_os("HOME").filter(|home| !home.is_empty())?)
                .join(".local/share"),
        )
    });
    Some(data?.join("consecution"))
}
