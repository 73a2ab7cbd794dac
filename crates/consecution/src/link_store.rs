//! Where links are made known: portals put them there, runners watch, and agree
//! on what the links' images mean.
//!
//! A link belongs to no one: whoever uses it puts it, many times over if need
//! be, and nobody removes it on leaving. A store must not know what is done
//! with a link. What every store promises is written down as tests in
//! `conformance` (behind the feature of that name).

use std::collections::BTreeMap;
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

/// How long to wait before a store is asked again that did not do what it was asked: at
/// first, since most of what goes wrong is over at once, and at most, since a store that
/// is away may be so for long, with many who wait for it.
pub(crate) const RETRY_WAIT_MIN: Duration = Duration::from_millis(100);
pub(crate) const RETRY_WAIT_MAX: Duration = Duration::from_secs(5);

/// How many links a store is asked about at a time.
pub const MISSING_MAX: usize = 32;

/// Keeps links by their id, and tells who watches what changes.
pub trait LinkStore: Send + Sync {
    /// Makes `link` known under its id; true if it was not before. Putting it
    /// again changes nothing, and no watcher is told.
    fn put(&self, link: Arc<Link>) -> BoxFuture<'_, Result<bool, LinkStoreError>>;

    /// All links, by id.
    fn list(&self) -> BoxFuture<'_, Result<Vec<Arc<Link>>, LinkStoreError>>;

    /// Which of these links are not known, as [`list`](Self::list) has it; [`MISSING_MAX`] of them at most.
    fn missing<'a>(
        &'a self,
        ids: &'a [LinkId],
    ) -> BoxFuture<'a, Result<Vec<LinkId>, LinkStoreError>>;

    /// Forgets a link; false if it was not known.
    fn remove(&self, id: LinkId) -> BoxFuture<'_, Result<bool, LinkStoreError>>;

    /// Makes `digest` what image `reference` means, unless that is known
    /// already, and gives what it means from now on: so all runners run the same
    /// bytes, whatever becomes of the tag in its registry.
    fn pin_image(
        &self,
        reference: &str,
        digest: &str,
    ) -> BoxFuture<'_, Result<Arc<str>, LinkStoreError>>;

    /// What image `reference` means, if that is known.
    fn pinned_image(
        &self,
        reference: &str,
    ) -> BoxFuture<'_, Result<Option<Arc<str>>, LinkStoreError>>;

    /// Makes a runner known, with what it says of itself whenever that changes,
    /// for as long as the registration is held. A store that cannot be reached
    /// is told later. Withdrawing it takes some seconds at most.
    fn announce(&self, runner: &str, state: watch::Receiver<RunnerState>) -> Registration;

    /// The runners that are known, by name.
    fn runners(&self) -> BoxFuture<'_, Result<BTreeMap<String, RunnerState>, LinkStoreError>>;

    /// Makes a portal known, as a runner is; runners hear nothing of it.
    fn announce_portal(&self, portal: &str, state: watch::Receiver<PortalState>) -> Registration;

    /// The portals that are known, by name.
    fn portals(&self) -> BoxFuture<'_, Result<BTreeMap<String, PortalState>, LinkStoreError>>;

    /// Notes since when no portal names that link, in whole seconds; `None` is
    /// that one does.
    fn note_unnamed(
        &self,
        id: LinkId,
        since: Option<SystemTime>,
    ) -> BoxFuture<'_, Result<(), LinkStoreError>>;

    /// All such notes. One that is older than its link, which was removed and put
    /// again since, is none.
    fn unnamed(&self) -> BoxFuture<'_, Result<BTreeMap<LinkId, SystemTime>, LinkStoreError>>;

    /// What is known now, as a [`Change::Put`] each, and then every change for
    /// as long as the stream is held. A link that was put and removed between
    /// two looks may not be seen at all; what is seen last is what is true.
    fn watch(&self) -> BoxStream<'static, Change>;
}

/// What a runner says of itself, for whoever looks after it. Written as JSON,
/// which is YAML too.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RunnerState {
    /// Which program it is.
    pub version: String,
    /// When it was started, in seconds since 1970; 0 where it does not say.
    pub started: u64,
    /// How many processes it has at most.
    pub processes_max: usize,
    /// It takes no more calls, and leaves when those that it has are over.
    pub draining: bool,
    /// Why it can start no processes for want of something, such as open files, if
    /// that is so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub starved: Option<String>,
    /// How many links it serves.
    pub serving: usize,
    /// Links that it is getting ready, by id; at most
    /// [`LINKS_LISTED_MAX`](Self::LINKS_LISTED_MAX).
    pub loading: Vec<String>,
    /// Links that it cannot serve, by id, and why; as many at most.
    pub broken: BTreeMap<String, String>,
}

impl RunnerState {
    /// How many links a state lists at most, so that it stays small.
    pub const LINKS_LISTED_MAX: usize = 100;
}

/// What a portal says of itself. Written as JSON, which is YAML too.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct PortalState {
    /// Which program it is.
    pub version: String,
    /// The links of each chain that it offers, in chain order.
    pub chains: BTreeMap<String, Vec<OfferedLink>>,
    /// It offers more than can be said here, and names nothing.
    #[serde(rename = "Incomplete", skip_serializing_if = "is_false")]
    pub is_incomplete: bool,
}

/// A link of a chain that a portal offers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct OfferedLink {
    /// What the chain calls it.
    pub name: String,
    /// Its id.
    pub id: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_false(value: &bool) -> bool {
    !value
}

/// What a watcher is told.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// The link is known.
    Put(Arc<Link>),
    /// The link is no longer known.
    Removed(LinkId),
}

/// A store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum LinkStoreError {
    /// It cannot be reached now; asking again later may help.
    #[error("reach the link store: {0}")]
    Unavailable(Arc<str>),
    /// It has answered that we may not.
    #[error("use the link store: {0}")]
    Denied(Arc<str>),
}
