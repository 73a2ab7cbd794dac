//! Serves one link on this runner: gets its image, opens its zygote and its pool, answers
//! its calls.

use std::path::PathBuf;
use std::sync::{Arc, Once};
use std::time::Duration;

use chain::{DataSource, Link, LinkId, Network, Warm, Writable};
use image::{Digest, Image, ImageConfig, Reference};
use sandbox::{Input, Launcher, Limits, Output, Spec, SpecData, Zygote};
use tokio::io::unix::AsyncFd;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::arguments::{command, environment};
use super::hidden;
use super::hints::Means;
use super::images::AgreedImages;
use super::local_links::{LocalLink, LocalLinks, Membership, ReserveShortage};
use super::metrics::{LinkMetrics, Metrics};
use super::pipeline::{Mode, watch};
use super::provisions::{Found, Provided};
use super::reaper::{Reaped, Reaper};
use super::sandboxing::Sandboxing;
use super::service::LinkService;
use super::starvation::Starvation;
use super::states::{LinkState, StatusReporter};
use super::stderr_log::StderrLog;
use crate::backoff::Backoff;
use crate::error::with_causes;
use crate::link_store::LinkStoreError;
use crate::log_batch::LogBatch;
use crate::log_on_change::LogOnChange;
use crate::transport::{Registration, Transport};

/// The shortest and the longest wait before a broken link is loaded again; jittered,
/// because many links may be broken for the same reason.
const RETRY_WAIT_MIN: Duration = Duration::from_secs(1);
const RETRY_WAIT_MAX: Duration = Duration::from_secs(60);

/// How many characters of its id a link has as host name, as with Docker.
const HOSTNAME_CHARS: usize = 12;

/// The state that all workers of a runner share.
pub(super) struct Shared {
    pub(super) transport: Arc<dyn Transport>,
    pub(super) images: AgreedImages,
    pub(super) links: LocalLinks,
    /// Limits how many zygotes are opened at a time.
    pub(super) opens: Semaphore,
    pub(super) launcher: Launcher,
    pub(super) sandboxing: Sandboxing,
    pub(super) metrics: Arc<Metrics>,
    pub(super) starvation: Arc<Starvation>,
    /// Drops zygotes on threads of its own, because dropping one blocks.
    pub(super) zygotes_reaper: Reaper,
    /// Whether to log which links are served and which are broken.
    pub(super) says_links: bool,
    pub(super) served: Arc<LogBatch>,
}

/// A link could not be loaded. The texts read well after "failed to".
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each text says it")]
pub enum LoadError {
    #[error(transparent)]
    Reference(image::ReferenceError),
    #[error(transparent)]
    Store(image::StoreError),
    #[error(transparent)]
    Credentials(image::CredentialsError),
    #[error("pull the image, which is not in the store")]
    Pull(#[source] Box<image::PullError>),
    #[error(transparent)]
    LinkStore(#[from] LinkStoreError),
    #[error(
        "use '{pin}', to which image {} is pinned \
         (remove /consecution/images/{reference} from etcd)",
        reference.familiar()
    )]
    BadPin {
        reference: Box<Reference>,
        pin: Arc<str>,
        #[source]
        cause: image::DigestError,
    },
    #[error(
        "get {digest}, to which image {} is pinned \
         (import the same image here, \
         or remove /consecution/images/{reference} from etcd to pin another)",
        reference.familiar()
    )]
    Pinned {
        reference: Box<Reference>,
        digest: Digest,
        #[source]
        cause: Box<LoadError>,
    },
    #[error(transparent)]
    Open(#[from] sandbox::OpenError),
    #[error("watch its zygote")]
    Watch(#[source] std::io::Error),
    #[error(
        "keep its zygote: it was killed, or has crashed (has the host run out of memory?); \
         another one is started"
    )]
    ZygoteGone,
    #[error("give it the host's network, which this runner does not allow")]
    HostNetwork,
    #[error("give it the data {name:?}, which this runner does not have")]
    NoData { name: String },
    #[error("give it the secret {name:?}, which this runner does not have")]
    NoSecret { name: String },
    #[error("read the secret {name:?}")]
    Secret {
        name: String,
        #[source]
        cause: std::io::Error,
    },
    #[error("get image {reference}, which is its data")]
    DataImage {
        reference: String,
        #[source]
        cause: Box<LoadError>,
    },
    #[error("give it {wanted} bytes of scratch, of which this runner allows {most}")]
    Scratch { wanted: u64, most: u64 },
    #[error("load it: the runner was stopped")]
    Stopped,
}

/// Serves a link until `stopped` resolves, and then until all accepted calls are over.
/// Dropping the future ends these calls, too.
pub(super) async fn work(
    shared: Arc<Shared>,
    link: Arc<Link>,
    reporter: StatusReporter,
    mut stopped: oneshot::Receiver<()>,
) {
    let id = link.id();
    let mut reloads = Reloads::new();
    // Earlier generations of the link that only finish accepted calls.
    let mut leaving = JoinSet::new();
    let mut metrics = None;
    // Takes the place of a zygote that still lives.
    let mut renewed = None;
    loop {
        let loading = async {
            if let Some(renewed) = renewed.take() {
                return renewed;
            }
            reloads.until_next().await;
            load_until_it_works(&shared, id, &link, &reporter).await
        };
        let zygote = tokio::select! {
            biased;
            _ = &mut stopped => break,
            zygote = loading => Arc::new(zygote),
        };
        let metrics = metrics.get_or_insert_with(|| shared.metrics.of_link(id));
        let serving = Serving::begin(&shared, &link, &zygote, metrics);
        reporter.report(LinkState::Serving);
        if reloads.begin() {
            tracing::info!(link_id = %id, image = link.image, "the link is served again");
        } else {
            if shared.says_links {
                shared.served.add(format!("{id} ({})", link.image));
            }
            say_reserve(&shared, id, &link);
        }
        let is_stopped = tokio::select! {
            biased;
            // Nothing is ever sent: the other end is dropped.
            _ = &mut stopped => true,
            () = zygote.until_gone() => false,
            zygote = renew(&shared, id, &link, &zygote) => {
                renewed = Some(zygote);
                false
            }
        };
        if !is_stopped && renewed.is_none() {
            // Processes that the pool starts now would not run.
            serving.membership.served().alone.drain();
            let gone = LoadError::ZygoteGone;
            tracing::warn!(link_id = %id, image = link.image, "failed to {gone}");
            reporter.report(LinkState::Broken(Arc::new(gone)));
        }
        leaving.spawn(serving.end());
        if is_stopped {
            break;
        }
        while leaving.try_join_next().is_some() {}
    }
    while leaving.join_next().await.is_some() {}
}

/// Logs if there is no room for the processes that a link is to have in reserve.
fn say_reserve(shared: &Shared, id: LinkId, link: &Link) {
    if let Warm::Count(count) = link.warm
        && let Some(shortage) = shared.links.reserve_shortage()
    {
        let ReserveShortage { asked, most } = shortage;
        tracing::warn!(
            link_id = %id,
            image = link.image,
            "not all {count} processes of the link's `Warm: {count}` are kept in reserve: such \
             links ask for {asked} in all, and there will be {most} processes at most, of all \
             links and with those in use; the reserve is what room is left"
        );
    }
}

/// A link that accepts calls.
struct Serving {
    membership: Membership,
    registration: Registration,
}

impl Serving {
    fn begin(
        shared: &Shared,
        link: &Arc<Link>,
        zygote: &Arc<ZygoteHandle>,
        metrics: &Arc<LinkMetrics>,
    ) -> Serving {
        let id = link.id();
        let membership = shared.links.enter(LocalLink {
            id,
            link: Arc::clone(link),
            zygote: Arc::clone(zygote),
            metrics: Arc::clone(metrics),
            means: Arc::new(Means::new(link, &shared.sandboxing)),
            stderr_log: (shared.sandboxing.stderr_log).then(|| StderrLog::new(id)),
            mode: mode(link),
        });
        let service = Arc::new(LinkService {
            served: membership.served().clone(),
            links: shared.links.clone(),
            bounds: shared.sandboxing.bounds(),
            starvation: Arc::clone(&shared.starvation),
        });
        Serving {
            membership,
            registration: shared.transport.serve(id, service),
        }
    }

    /// Accepts no more calls from now on. Resolves when the accepted calls are over,
    /// including calls of other links that this link is joined to.
    fn end(self) -> impl Future<Output = ()> + Send {
        let Serving {
            membership,
            registration,
        } = self;
        let pools = membership.leave();
        async move {
            registration.withdraw().await;
            for pool in pools {
                pool.until_unused().await;
            }
        }
    }
}

/// Decides when to load a link again whose zygote was lost: at once, or after a backoff if
/// it did not live for long, because then something may kill each zygote.
struct Reloads {
    backoff: Backoff,
    began: Option<Instant>,
}

impl Reloads {
    fn new() -> Reloads {
        Reloads {
            backoff: Backoff::new(RETRY_WAIT_MIN, RETRY_WAIT_MAX),
            began: None,
        }
    }

    /// A zygote's life begins. True if there was one before.
    fn begin(&mut self) -> bool {
        self.began.replace(Instant::now()).is_some()
    }

    /// Waits until the next zygote may be started; the first may at once.
    async fn until_next(&mut self) {
        let Some(began) = self.began else { return };
        if began.elapsed() > RETRY_WAIT_MAX {
            self.backoff.reset();
        }
        sleep_until(began + self.backoff.next()).await;
    }
}

async fn load_until_it_works(
    shared: &Shared,
    id: LinkId,
    link: &Link,
    reporter: &StatusReporter,
) -> ZygoteHandle {
    let image = &link.image;
    let mut backoff = Backoff::new(RETRY_WAIT_MIN, RETRY_WAIT_MAX);
    let mut log = LogOnChange::default();
    loop {
        let error = match load(shared, id, link).await {
            Ok(zygote) => {
                if log.forget() {
                    tracing::info!(link_id = %id, image, "the link can be loaded now");
                }
                return zygote;
            }
            Err(error) => error,
        };
        let what = with_causes(&error);
        reporter.report(LinkState::Broken(Arc::new(error)));
        if shared.says_links && log.lets(&what) {
            tracing::warn!(link_id = %id, image, "the link is broken, and tried again: failed to {what}");
        }
        tokio::time::sleep(backoff.next()).await;
    }
}

/// Resolves with another zygote when data or a secret of the link has changed. If the
/// link cannot be loaded with what is there now, the old zygote goes on with what it has.
async fn renew(shared: &Shared, id: LinkId, link: &Link, zygote: &ZygoteHandle) -> ZygoteHandle {
    let image = &link.image;
    zygote.0.found.until_changed().await;
    tracing::info!(link_id = %id, image, "data or a secret of the link has changed: it is loaded again");
    let mut backoff = Backoff::new(RETRY_WAIT_MIN, RETRY_WAIT_MAX);
    let mut log = LogOnChange::default();
    loop {
        match load(shared, id, link).await {
            Ok(zygote) => return zygote,
            Err(error) => {
                let what = with_causes(&error);
                if log.lets(&what) {
                    tracing::warn!(link_id = %id, image, "the link goes on with the data and secrets that it had: failed to {what}");
                }
            }
        }
        tokio::time::sleep(backoff.next()).await;
    }
}

async fn load(shared: &Shared, id: LinkId, link: &Link) -> Result<ZygoteHandle, LoadError> {
    let rules = &shared.sandboxing;
    if link.network == Network::Host && !rules.host_network {
        return Err(LoadError::HostNetwork);
    }
    rules.provisions.check(link)?;
    if let Some(wanted) =
        (link.constraints.scratch).filter(|wanted| *wanted > rules.scratch_bytes_max)
    {
        let most = rules.scratch_bytes_max;
        return Err(LoadError::Scratch { wanted, most });
    }
    loop {
        let image = shared.images.get(&link.image).await?;
        let mut images = data_images(shared, link).await?;
        let mut provided = provide(shared, link).await?;
        provided
            .data
            .extend(images.iter().map(|(path, image)| SpecData {
                path: path.into(),
                source: image.root().to_owned(),
            }));
        let spec = spec(id, link, &image, rules, &mut provided);
        let (zygote, hidden) = open(shared, spec, limits(link, rules)).await?;
        let zygote = watch(zygote).map_err(LoadError::Watch)?;
        for file in hidden {
            tracing::warn!(
                link_id = %id,
                image = link.image,
                "the command does not see {} of its image: /tmp, /var/tmp and /run are \
                 its own, and empty at first; if it needs that file, have it elsewhere",
                file.display()
            );
        }
        let opened = Opened {
            zygote,
            image,
            data_images: images.drain(..).map(|(_, image)| image).collect(),
            found: Arc::new(provided.found),
        };
        let opened = Reaped::new(opened, &shared.zygotes_reaper);
        // Pin the tags' digests only now that the images have proved to run: a pinned image
        // that cannot run could not be replaced by a fixed one.
        let mut is_agreed = true;
        for image in std::iter::once(&opened.image).chain(&opened.data_images) {
            is_agreed &= shared.images.agree(image).await?;
        }
        if is_agreed {
            return Ok(ZygoteHandle(opened));
        }
    }
}

/// The images that are a link's data, each with its place in the link's root.
async fn data_images(shared: &Shared, link: &Link) -> Result<Vec<(String, Image)>, LoadError> {
    let mut images = Vec::new();
    for (path, source) in &link.data {
        let DataSource::Image(reference) = source else {
            continue;
        };
        let image = shared.images.get(reference).await;
        let image = image.map_err(|cause| LoadError::DataImage {
            reference: reference.clone(),
            cause: Box::new(cause),
        })?;
        images.push((path.clone(), image));
    }
    Ok(images)
}

/// Reads the files that a link gets, on a blocking thread.
async fn provide(shared: &Shared, link: &Link) -> Result<Provided, LoadError> {
    let (provisions, link) = (shared.sandboxing.provisions.clone(), link.clone());
    let provided = tokio::task::spawn_blocking(move || provisions.provide(&link));
    // An error means that the runtime is shutting down.
    provided.await.map_err(|_| LoadError::Stopped)?
}

/// Opens a zygote. Also finds files of its image that commands do not see.
async fn open(
    shared: &Shared,
    spec: Spec,
    limits: Limits,
) -> Result<(Zygote, Vec<PathBuf>), LoadError> {
    // The semaphore is never closed, so this never fails.
    let _turn = shared.opens.acquire().await;
    let launcher = shared.launcher.clone();
    let says_so = shared.says_links.then_some(&SAYS_CGROUP);
    let opening = tokio::task::spawn_blocking(move || {
        let opened = launcher.open(&spec, limits);
        if let Some(once) = says_so {
            once.call_once(|| say_cgroup(&launcher));
        }
        opened.map(|zygote| (zygote, hidden::files(&spec.root)))
    });
    Ok(opening.await.map_err(|_| LoadError::Stopped)??)
}

/// Logs this once, because it concerns the process as a whole.
static SAYS_CGROUP: Once = Once::new();

/// Logs if limits on this process's own cgroup do not apply to processes of links.
fn say_cgroup(launcher: &Launcher) {
    if let Some(folder) = launcher.cgroup_outside_of_own() {
        tracing::warn!(
            cgroup = %folder.display(),
            "processes of links are outside of this runner's own cgroup: {}",
            sandbox::OWN_CGROUP_REMEDY,
        );
    }
}

/// A zygote, and the images that must stay while it lives.
pub(super) struct ZygoteHandle(Reaped<Opened>);

/// The fields are dropped in this order.
struct Opened {
    zygote: AsyncFd<Zygote>,
    image: Image,
    data_images: Vec<Image>,
    /// The runner's files that it has, as they were found.
    found: Arc<Found>,
}

impl ZygoteHandle {
    pub(super) fn get(&self) -> &Zygote {
        self.0.zygote.get_ref()
    }

    /// The settings of its image.
    pub(super) fn image(&self) -> &ImageConfig {
        &self.0.image.config
    }

    /// Resolves when the zygote is gone without our doing.
    pub(super) async fn until_gone(&self) {
        if self.0.zygote.readable().await.is_err() {
            // The runtime is shutting down, and will drop this future.
            std::future::pending().await
        }
    }
}

impl Drop for ZygoteHandle {
    /// Only kills the zygote here; the reaper waits for it. So the zygotes of several links
    /// end at the same time, although the reaper waits for one after the other.
    fn drop(&mut self) {
        self.get().kill();
    }
}

/// A link's sandbox: its own settings override those of its image, as with `docker run`.
fn spec(
    id: LinkId,
    link: &Link,
    image: &Image,
    rules: &Sandboxing,
    provided: &mut Provided,
) -> Spec {
    let config = &image.config;
    let working_directory = link
        .working_directory
        .as_ref()
        .or(config.working_directory.as_ref())
        .cloned();
    let mut hostname = id.to_string();
    hostname.truncate(HOSTNAME_CHARS);
    Spec {
        root: image.root().to_owned(),
        command: command(link, &link.arguments, config),
        environment: environment(&link.environment, config),
        takes_strings: !link.parameters.is_empty(),
        working_directory: working_directory.unwrap_or_else(|| "/".to_owned()),
        user: link
            .user
            .as_ref()
            .or(config.user.as_ref())
            .cloned()
            .unwrap_or_default(),
        files: std::mem::take(&mut provided.files),
        data: std::mem::take(&mut provided.data),
        writable: match link.writable {
            Writable::No | Writable::Yes => sandbox::Writable::Private,
            Writable::Never => sandbox::Writable::No,
        },
        scratch_bytes: link.constraints.scratch.unwrap_or(rules.scratch_bytes_max),
        input: match link.input.as_deref() {
            None => Input::Pipe,
            Some("/dev/stdin") => Input::Seekable,
            Some(path) => match path.strip_suffix('/') {
                Some(folder) => Input::Folder(folder.to_owned()),
                None => Input::File(path.to_owned()),
            },
        },
        output: match link.output.as_deref() {
            None => Output::Pipe,
            Some(path) => match path.strip_suffix('/') {
                Some(folder) => Output::Folder(folder.to_owned()),
                None => Output::File(path.to_owned()),
            },
        },
        network: match link.network {
            Network::None | Network::Loopback => sandbox::Network::Loopback,
            Network::Sealed => sandbox::Network::Sealed,
            Network::Host => sandbox::Network::Host,
        },
        hostname,
        ids: rules.ids,
    }
}

/// How processes of the link start, and get and give their data.
fn mode(link: &Link) -> Mode {
    Mode {
        is_late: link.is_late(),
        stores_input: link.input.is_some(),
        leaves_file: link.output.is_some(),
        cpu_time_max: link.constraints.cpu_time,
        output_bytes_max: link.constraints.output,
    }
}

fn limits(link: &Link, rules: &Sandboxing) -> Limits {
    Limits {
        memory_bytes: link.constraints.memory,
        cpu_millicores: link.constraints.cpu.map(|cpu| cpu.millicores().into()),
        processes: link.constraints.processes,
        counts_cpu_time: link.constraints.cpu_time.is_some(),
        open_files: link.constraints.open_files,
        best_effort: rules.unenforced_limits,
    }
}
