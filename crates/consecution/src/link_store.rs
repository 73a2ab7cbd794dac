//! Stores the links that runners serve: portals put links into the store, runners watch
//! it. Runners also agree there on the digests that image tags mean.
//!
//! A link has no owner: every portal that uses it puts it, as often as it likes, and
//! none removes it when it leaves. A store must not know what links are used for. The
//! tests in `conformance` (behind the feature of that name) state what every store
//! promises.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use chain::{Link, LinkId};
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

mod changes;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
pub mod etcd;
pub mod memory;
mod prune;

pub use crate::registration::Registration;
pub use prune::{PruneError, Pruned, prune};

/// The shortest and the longest wait before a store is asked again that did not do what
/// it was asked: most of what goes wrong is over at once, and a store that is away may be
/// so for long, with many who wait for it.
pub(crate) const RETRY_WAIT_MIN: Duration = Duration::from_millis(100);
pub(crate) const RETRY_WAIT_MAX: Duration = Duration::from_secs(5);

/// The most ids that one call of [`LinkStore::missing`] may ask about.
pub const MISSING_MAX: usize = 32;

/// Stores links by their id, and notifies watchers of changes.
pub trait LinkStore: Send + Sync {
    /// Stores `link` under its id; true if it was not stored before. Putting it again
    /// changes nothing, and watchers are not notified.
    fn put(&self, link: Arc<Link>) -> BoxFuture<'_, Result<bool, LinkStoreError>>;

    /// All links, by id.
    fn list(&self) -> BoxFuture<'_, Result<Vec<Arc<Link>>, LinkStoreError>>;

    /// Returns those of `ids`, at most [`MISSING_MAX`], that [`list`](Self::list) would
    /// not contain.
    fn missing<'a>(
        &'a self,
        ids: &'a [LinkId],
    ) -> BoxFuture<'a, Result<Vec<LinkId>, LinkStoreError>>;

    /// Removes a link; false if it was not stored.
    fn remove(&self, id: LinkId) -> BoxFuture<'_, Result<bool, LinkStoreError>>;

    /// Pins the image `reference` to `digest`, unless it is pinned already; returns the
    /// digest that it is pinned to. So all runners run the same bytes, even if the tag
    /// changes in its registry.
    fn pin_image(
        &self,
        reference: &str,
        digest: &str,
    ) -> BoxFuture<'_, Result<Arc<str>, LinkStoreError>>;

    /// The digest that the image `reference` is pinned to, if any.
    fn pinned_image(
        &self,
        reference: &str,
    ) -> BoxFuture<'_, Result<Option<Arc<str>>, LinkStoreError>>;

    /// Publishes a runner's state, and each change of it, until the registration is
    /// dropped. If the store cannot be reached, the state is published later.
    fn announce(&self, runner: &str, state: watch::Receiver<RunnerState>) -> Registration;

    /// The state of each announced runner, by name.
    fn runners(&self) -> BoxFuture<'_, Result<BTreeMap<String, RunnerState>, LinkStoreError>>;

    /// Publishes a portal's state in the same way. Runners are not notified of it.
    fn announce_portal(&self, portal: &str, state: watch::Receiver<PortalState>) -> Registration;

    /// The state of each announced portal, by name.
    fn portals(&self) -> BoxFuture<'_, Result<BTreeMap<String, PortalState>, LinkStoreError>>;

    /// Records since when no portal names this link, in whole seconds; `None` deletes the
    /// record, because a portal names it.
    fn note_unnamed(
        &self,
        id: LinkId,
        since: Option<SystemTime>,
    ) -> BoxFuture<'_, Result<(), LinkStoreError>>;

    /// When portals stopped naming each link that no portal names. Leaves out times from
    /// before the link was last put: it was removed and put again since.
    fn unnamed(&self) -> BoxFuture<'_, Result<BTreeMap<LinkId, SystemTime>, LinkStoreError>>;

    /// First yields a [`Change::Put`] for each stored link, then every change until the
    /// stream is dropped. Intermediate changes may be left out, for example of a link
    /// that was put and soon removed; the last change of a link gives its state.
    fn watch(&self) -> BoxStream<'static, Change>;
}

/// A runner's state, which it publishes for operators. Stored as JSON, which is also
/// YAML.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RunnerState {
    /// The program's version.
    pub version: String,
    /// When the runner was started, in seconds since 1970; 0 if unknown, as with runners
    /// of earlier versions.
    pub started: u64,
    /// The most processes that the runner has at a time.
    pub processes_max: usize,
    /// The runner accepts no more calls, and exits when the calls in flight are over.
    pub draining: bool,
    /// The resource, such as open files, that the runner lacks to start a process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub starved: Option<String>,
    /// How many links the runner serves.
    pub serving: usize,
    /// Ids of links that the runner is loading; at most
    /// [`LINKS_LISTED_MAX`](Self::LINKS_LISTED_MAX).
    pub loading: Vec<String>,
    /// Links that the runner cannot serve, by id, and why; at most
    /// [`LINKS_LISTED_MAX`](Self::LINKS_LISTED_MAX).
    pub broken: BTreeMap<String, String>,
}

impl RunnerState {
    /// The most links that `loading` and `broken` each list, so that the state stays
    /// small.
    pub const LINKS_LISTED_MAX: usize = 100;
}

/// A portal's state, which it publishes. Stored as JSON, which is also YAML.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct PortalState {
    /// The program's version.
    pub version: String,
    /// The links of each chain that the portal serves, in chain order.
    pub chains: BTreeMap<String, Vec<OfferedLink>>,
    /// The portal serves more links than fit here; `chains` is empty.
    #[serde(rename = "Incomplete", skip_serializing_if = "is_false")]
    pub is_incomplete: bool,
}

/// A link of a chain that a portal serves.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct OfferedLink {
    /// The link's name in the chain.
    pub name: String,
    /// The link's id.
    pub id: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_false(value: &bool) -> bool {
    !value
}

/// A change that a watcher is notified of.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// The link was put.
    Put(Arc<Link>),
    /// The link was removed.
    Removed(LinkId),
}

/// An operation of a store failed.
#[derive(Debug, thiserror::Error)]
pub enum LinkStoreError {
    /// The store cannot be reached now; trying again later may help.
    #[error("reach the link store")]
    Unavailable(#[source] Box<dyn Error + Send + Sync>),
    /// The store denies permission.
    #[error("use the link store")]
    Denied(#[source] Box<dyn Error + Send + Sync>),
}
