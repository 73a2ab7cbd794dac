//! Portals and runners as processes of their own, joined by NATS and etcd.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chain::{Chain, LinkId};
use futures_util::future::{BoxFuture, join};
use sandbox::Launcher;
use tokio::sync::{Mutex, watch};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::backoff::Backoff;
use crate::chain_file::{self, ChainFileError};
use crate::config::{EtcdOptions, NatsOptions};
use crate::connection::Connection;
use crate::error::{FailedTo, with_causes};
use crate::figures::{Processes, RunnerFigures};
use crate::link_store::etcd::{Etcd, EtcdError};
use crate::link_store::{LinkStore, LinkStoreError, RunnerState};
use crate::name;
use crate::portal::http::{Figures, LinkState, Links, Probed, RunnerEntry};
use crate::portal::{Portal, PortalError, Publisher};
use crate::runner::http::Connections;
use crate::runner::{Images, Options, Runner};
use crate::transport::nats::{Nats, NatsError, Role};
use crate::transport::{RefusalReason, Transport};

/// How long [`Portal::connect`] waits for servers and runners.
const CONNECT_WAIT_MAX: Duration = Duration::from_secs(30);

/// The first wait before a failed publish is repeated.
const PUBLISH_AGAIN_MIN: Duration = Duration::from_millis(10);

/// How long to wait before probing again whether a link is served: at first, and at most.
const LOOK_AGAIN_MIN: Duration = Duration::from_millis(1);
const LOOK_AGAIN_MAX: Duration = Duration::from_millis(500);

/// How long to wait for something before that is logged.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long a runner that was just started waits for a first link before it counts an empty
/// etcd as complete: portals check every 10 s whether their links are still there.
const NO_LINKS_WAIT: Duration = Duration::from_secs(20);

/// How old the states of runners may be that explain why nobody serves a link, and how long
/// to wait for them.
const RUNNERS_AGE_MAX: Duration = Duration::from_secs(1);
const RUNNERS_WAIT_MAX: Duration = Duration::from_millis(500);

/// The connections to NATS and etcd of a program that has portals, a runner or both.
/// Clones share the connections. Needs a runtime of tokio.
///
/// Here a program has a runner and a portal, and calls its own chain. Other portals may call
/// this runner, and other runners may answer this portal:
///
/// ```no_run
/// use std::time::Duration;
///
/// use consecution::config::{EtcdOptions, NatsOptions};
/// use consecution::runner::{self, RunnerName};
/// use consecution::transport::nats::Role;
/// use consecution::{Network, chain_file, images};
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     consecution::run_zygote_if_asked();
///     tokio::runtime::Runtime::new()?.block_on(run())?;
///     // Processes and folders that are still being removed.
///     runner::until_reaped(Duration::from_secs(5));
///     Ok(())
/// }
///
/// async fn run() -> Result<(), Box<dyn std::error::Error>> {
///     let nats = NatsOptions {
///         servers: vec!["nats://127.0.0.1:4222".to_owned()],
///         ..NatsOptions::default()
///     };
///     let etcd = EtcdOptions {
///         endpoints: vec!["http://127.0.0.1:2379".to_owned()],
///         ..EtcdOptions::default()
///     };
///     let name: RunnerName = "words".parse()?;
///     let network = Network::connect(&nats, &etcd, Role::Runner, name.as_str())?;
///
///     let options = runner::Options {
///         name: Some(name),
///         ..runner::Options::default()
///     };
///     let runner = network.runner(options, images("/var/lib/words".as_ref())?);
///
///     let chain = chain_file::read("words.yaml".as_ref())?;
///     let portal = network.open(chain, Duration::from_secs(30)).await?;
///     let _publisher = network.publisher(std::slice::from_ref(&portal));
///     println!("{:?}", portal.send("this is raw data").await?);
///
///     runner.drain().await;
///     network.close().await;
///     Ok(())
/// }
/// ```
///
/// `examples/embedded.rs` is a program with a runner alone.
#[derive(Clone)]
pub struct Network {
    nats: Nats,
    etcd: Etcd,
}

/// A portal could not be connected. The texts read well on their own, followed by
/// those of their sources.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The chain file cannot be read, or something in it is wrong.
    #[error(transparent)]
    ChainFile(#[from] ChainFileError),
    /// An option for NATS is wrong.
    #[error(transparent)]
    Nats(#[from] FailedTo<NatsError>),
    /// An option for etcd is wrong.
    #[error(transparent)]
    Etcd(#[from] FailedTo<EtcdError>),
    /// The chain has no links, or etcd could not be reached in time to publish them.
    #[error(transparent)]
    Portal(#[from] FailedTo<PortalError>),
    /// No runner served a link of the chain in time.
    #[error("link {} '{name}' ({image}) cannot be called: {reason}", index + 1)]
    NotServed {
        /// The position of the link in the chain, from 0.
        index: usize,
        /// The link's name in the chain.
        name: String,
        /// The link's image.
        image: String,
        /// Why: what a runner says that cannot serve it, or that none answers.
        reason: String,
    },
}

impl Network {
    /// Starts to connect, and does not wait until it is connected: servers that cannot be
    /// reached are tried again and again. Must be called within a runtime of tokio.
    ///
    /// NATS lists the connection by `name`, and a run's [report](crate::portal::Report)
    /// calls a runner by it: so give it the name of the runner's
    /// [options](Options::name), if there is a runner.
    ///
    /// A program with both a runner and portals may take either `role`. If the permissions
    /// of the NATS server tell portals and runners apart, it opens a network for each.
    ///
    /// # Errors
    /// An address is malformed, or a certificate or secret cannot be read.
    pub fn connect(
        nats: &NatsOptions,
        etcd: &EtcdOptions,
        role: Role,
        name: &str,
    ) -> Result<Network, ConnectError> {
        Ok(Network {
            nats: Nats::new(nats, role, name).map_err(FailedTo)?,
            etcd: Etcd::new(etcd).map_err(FailedTo)?,
        })
    }

    /// The transport, which carries calls: NATS.
    pub fn transport(&self) -> Arc<dyn Transport> {
        Arc::new(self.nats.clone())
    }

    /// The link store: etcd.
    pub fn links(&self) -> Arc<dyn LinkStore> {
        Arc::new(self.etcd.clone())
    }

    /// The state of each connection, by the name of the server, for
    /// [`runner::http::bind`](crate::runner::http::bind).
    pub fn connections(&self) -> Connections {
        Connections::from([
            ("nats", self.nats.connection()),
            ("etcd", self.etcd.connection()),
        ])
    }

    /// The same for the readiness of a runner, with one state more: "links" waits for as
    /// long as etcd has no links, but not for ever. etcd may have lost them, and a runner
    /// without links must not replace one that still has them.
    pub fn connections_of(&self, runner: &Runner) -> Connections {
        let why =
            "etcd has no links; if it has lost them, portals put them there again within 10 s";
        let (links, state) = watch::channel(Connection::Waiting(why.into()));
        let (known, mut etcd) = (runner.until_links_known(), self.etcd.connection());
        tokio::spawn(async move {
            let empty = async {
                // There is one as long as there is somebody to ask.
                drop(etcd.wait_for(|etcd| *etcd == Connection::Connected).await);
                sleep(NO_LINKS_WAIT).await;
            };
            tokio::select! {
                () = known => {}
                () = empty => {}
                () = links.closed() => {}
            }
            links.send_replace(Connection::Connected);
        });
        let mut connections = self.connections();
        connections.insert("links", state);
        connections
    }

    /// Publishes the links of these chains, also when etcd has lost them, and the state of
    /// a portal that serves these chains, until the publisher is dropped.
    pub fn publisher(&self, portals: &[Portal]) -> Publisher {
        Publisher::start(self.links(), &name::unique("portal"), portals)
    }

    /// Starts a runner that serves the links in the store, and those that are put there
    /// later.
    pub fn runner(&self, options: Options, images: Images) -> Runner {
        let (transport, links) = (self.transport(), self.links());
        let name = options.name.clone();
        let runner = Runner::start(options, transport, links, images, Launcher::new());
        if let Some(name) = name {
            let processes = runner.processes_teller();
            runner.hold(self.nats.tell_figures(move |bytes_max| {
                let links = processes().into_iter();
                let figures = RunnerFigures {
                    name: name.as_str().to_owned(),
                    links: links.map(|(id, link)| (id.to_string(), link)).collect(),
                    is_incomplete: false,
                };
                figures.to_json(bytes_max)
            }));
        }
        runner
    }

    /// Opens a portal, publishes its links once, and waits until a runner serves each of
    /// them; not longer than `wait`. For a portal that is to live on when etcd loses its
    /// data, keep a [`publisher`](Self::publisher) of it.
    ///
    /// # Errors
    /// What was missing when the time was over.
    pub async fn open(&self, chain: Chain, wait: Duration) -> Result<Portal, ConnectError> {
        let deadline = Instant::now() + wait;
        let portal = Portal::new(chain, self.transport()).map_err(FailedTo)?;
        self.until_published(&portal, deadline).await?;
        self.until_all_served(&portal, deadline).await?;
        Ok(portal)
    }

    /// Waits until runners serve all links of these chains, but no longer than `wait`.
    ///
    /// # Errors
    /// What was missing when the time was over.
    pub async fn until_served(
        &self,
        portals: &[Portal],
        wait: Duration,
    ) -> Result<(), ConnectError> {
        let deadline = Instant::now() + wait;
        for portal in portals {
            self.until_all_served(portal, deadline).await?;
        }
        Ok(())
    }

    async fn until_all_served(
        &self,
        portal: &Portal,
        deadline: Instant,
    ) -> Result<(), ConnectError> {
        for index in 0..portal.chain().links.len() {
            self.until_link_served(portal, index, deadline).await?;
        }
        Ok(())
    }

    async fn until_published(
        &self,
        portal: &Portal,
        deadline: Instant,
    ) -> Result<(), ConnectError> {
        let began = Instant::now();
        let mut is_said = false;
        let mut backoff = Backoff::new(PUBLISH_AGAIN_MIN, LOOK_AGAIN_MAX);
        let mut last = None;
        loop {
            let error = match timeout_at(deadline, portal.publish(&self.etcd)).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) => FailedTo(error),
                Err(_) => {
                    let silent = || FailedTo(LinkStoreError::Unavailable(SILENT.into()).into());
                    return Err(last.unwrap_or_else(silent).into());
                }
            };
            let rest = backoff.next();
            if Instant::now() + rest >= deadline {
                return Err(error.into());
            }
            if !is_said && is_to_be_said(began, deadline) {
                is_said = true;
                tracing::warn!("waiting: {}", with_causes(&error));
            }
            last = Some(error);
            sleep(rest).await;
        }
    }

    async fn until_link_served(
        &self,
        portal: &Portal,
        index: usize,
        deadline: Instant,
    ) -> Result<(), ConnectError> {
        let link = &portal.chain().links[index];
        let began = Instant::now();
        let mut is_said = false;
        loop {
            let probed = timeout_at(deadline, self.nats.probe(link.id)).await;
            let reason = match probed {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(reason)) => reason,
                Err(_) => self.unanswered(),
            };
            // A new link is served after some 10 ms: doubling waits would make 20 of
            // them.
            let rest = (began.elapsed() / 4).clamp(LOOK_AGAIN_MIN, LOOK_AGAIN_MAX);
            let is_over = Instant::now() + rest >= deadline;
            if is_over || (!is_said && is_to_be_said(began, deadline)) {
                let (name, image) = (link.name.clone(), link.link.image.clone());
                let runners = timeout(RUNNERS_WAIT_MAX, self.etcd.runners()).await;
                let runners = runners.ok().and_then(Result::ok).unwrap_or_default();
                let reason = problem(&runners, link.id).unwrap_or_else(|| reason.to_string());
                if is_over {
                    return Err(ConnectError::NotServed {
                        index,
                        name,
                        image,
                        reason,
                    });
                }
                is_said = true;
                tracing::warn!(
                    "waiting for link {} '{name}' ({image}): {reason}",
                    index + 1
                );
            }
            sleep(rest).await;
        }
    }

    /// Why nobody has answered until the time was over.
    fn unanswered(&self) -> RefusalReason {
        match &*self.nats.connection().borrow() {
            Connection::Waiting(why) => {
                RefusalReason::Unreachable(format!("waiting for NATS: {why}").into())
            }
            Connection::Connected => RefusalReason::NoRunner,
        }
    }

    /// Tells which links can be called, and what runners say of the others, for
    /// [`portal::http::bind`](crate::portal::http::bind).
    pub fn served(&self) -> Arc<dyn Links> {
        Arc::new(LinksThere {
            probed: Probed::new(self.transport()),
            nats: self.nats.clone(),
            etcd: self.etcd.clone(),
            runners: Mutex::new(None),
        })
    }

    /// Sends what is still in buffers, and closes the connections. Await
    /// [`Runner::drain`] first.
    pub async fn close(&self) {
        self.nats.close().await;
    }
}

/// Whether who waits is told what for: after a while, and not where that is soon said
/// by the error that it ends with.
fn is_to_be_said(began: Instant, deadline: Instant) -> bool {
    began.elapsed() >= PATIENCE && Instant::now() + PATIENCE < deadline
}

/// Why links are not published, if the time was over before etcd answered.
const SILENT: &str = "etcd does not answer in time; check that it runs and can be reached";

type Runners = BTreeMap<String, RunnerState>;

/// Why a runner cannot serve a link, if one has announced that.
fn problem(runners: &Runners, id: LinkId) -> Option<String> {
    let id = id.to_string();
    runners.iter().find_map(|(runner, state)| {
        let problem = state.broken.get(&id)?;
        Some(format!("runner '{runner}' cannot serve it: {problem}"))
    })
}

/// The links of runners in other processes.
struct LinksThere {
    probed: Probed,
    nats: Nats,
    etcd: Etcd,
    /// The last known states of runners, and when they were read. Locked while they are read,
    /// so that they are read once however many links nobody serves.
    runners: Mutex<Option<(Instant, Arc<Runners>)>>,
}

impl LinksThere {
    async fn runners(&self) -> Arc<Runners> {
        let mut known = self.runners.lock().await;
        if let Some((at, runners)) = &*known
            && at.elapsed() < RUNNERS_AGE_MAX
        {
            return Arc::clone(runners);
        }
        let runners = timeout(RUNNERS_WAIT_MAX, self.etcd.runners()).await;
        let runners = Arc::new(runners.ok().and_then(Result::ok).unwrap_or_default());
        *known = Some((Instant::now(), Arc::clone(&runners)));
        runners
    }
}

impl Links for LinksThere {
    fn state(&self, id: LinkId) -> BoxFuture<'_, LinkState> {
        Box::pin(async move {
            match self.probed.state(id).await {
                LinkState::Served => LinkState::Served,
                other => {
                    let problem = problem(&*self.runners().await, id);
                    problem.map_or(other, LinkState::Broken)
                }
            }
        })
    }

    fn unreachable(&self) -> Option<String> {
        match &*self.nats.connection().borrow() {
            Connection::Connected => None,
            Connection::Waiting(why) => Some(format!("NATS: {why}")),
        }
    }

    fn figures(&self, wanted: BTreeSet<LinkId>) -> BoxFuture<'_, Figures> {
        Box::pin(async move {
            let (answers, states) = join(self.nats.ask_for_figures(), self.runners()).await;
            // On a blocking thread, since strangers may answer, with anything.
            let read = spawn_blocking(move || figures(&answers, &states, &wanted)).await;
            read.unwrap_or_default()
        })
    }
}

/// What runners do, from their answers and from the states that they have announced. Only
/// the first answer of each that has announced itself counts, and of it what is wanted.
fn figures(answers: &[Bytes], states: &Runners, wanted: &BTreeSet<LinkId>) -> Figures {
    let mut links = BTreeMap::<LinkId, Processes>::new();
    let mut told = BTreeMap::new();
    for answer in answers {
        let Ok(RunnerFigures {
            name,
            links: of_runner,
            ..
        }) = serde_json::from_slice(answer)
        else {
            continue;
        };
        if !states.contains_key(&name) || told.contains_key(&name) {
            continue;
        }
        let mut all = Processes::default();
        for (id, processes) in of_runner {
            all.add(processes);
            if let Some(id) = id.parse().ok().filter(|id| wanted.contains(id)) {
                links.entry(id).or_default().add(processes);
            }
        }
        told.insert(name, all);
    }
    let runners = states.iter().map(|(name, state)| {
        let processes = told.get(name).copied();
        RunnerEntry::new(Some(name.clone()), state, processes)
    });
    Figures {
        runners: runners.collect(),
        links,
    }
}

/// The link store alone, for commands that make no calls.
///
/// # Errors
/// An address, a certificate or a secret is invalid.
#[cfg(feature = "cli")]
pub(crate) fn link_store(etcd: &EtcdOptions) -> Result<Arc<dyn LinkStore>, ConnectError> {
    Ok(Arc::new(Etcd::new(etcd).map_err(FailedTo)?))
}

impl Portal {
    /// Reads a chain file, connects to the servers, publishes the chain's links, and waits
    /// until runners serve them. While the portal or a clone of it lives, links that etcd
    /// loses are published again.
    ///
    /// `nats` is one URL or several, separated by commas; each of `etcds` is a URL. For TLS,
    /// credentials and another time to wait, see [`Network`].
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// use consecution::portal::Portal;
    ///
    /// let portal =
    ///     Portal::connect("files/chain.yaml", "nats://nats:4222", ["http://etcd:2379"]).await?;
    /// let reply = portal.send("yourpayload").await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// The file is invalid, or the chain could not be called within 30 s.
    pub async fn connect(
        file: impl AsRef<Path>,
        nats: &str,
        etcds: impl IntoIterator<Item = impl Into<String>>,
    ) -> Result<Portal, ConnectError> {
        let chain = chain_file::read(file.as_ref())?;
        let nats = NatsOptions {
            servers: nats.split(',').map(str::to_owned).collect(),
            ..NatsOptions::default()
        };
        let etcd = EtcdOptions {
            endpoints: etcds.into_iter().map(Into::into).collect(),
            ..EtcdOptions::default()
        };
        let network = Network::connect(&nats, &etcd, Role::Portal, &chain.name)?;
        let portal = network.open(chain, CONNECT_WAIT_MAX).await?;
        let publisher = network.publisher(std::slice::from_ref(&portal));
        Ok(portal.kept_by(publisher))
    }
}
