//! Where links are made known: portals put them there, runners watch.
//!
//! A link belongs to no one: whoever uses it puts it, many times over if need
//! be, and nobody removes it on leaving. A store must not know what is done
//! with a link. What every store promises is written down as tests in
//! [`conformance`].

use std::sync::Arc;

use chain::{Link, LinkId};
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;

pub mod conformance;
pub mod memory;

/// Keeps links by their id, and tells who watches what changes.
pub trait LinkStore: Send + Sync {
    /// Makes `link` known under its id. Putting it again changes nothing, and
    /// no watcher is told.
    fn put(&self, link: Arc<Link>) -> BoxFuture<'_, Result<(), LinkStoreError>>;

    /// All links, by id.
    fn list(&self) -> BoxFuture<'_, Result<Vec<Arc<Link>>, LinkStoreError>>;

    /// Forgets a link; false if it was not known.
    fn remove(&self, id: LinkId) -> BoxFuture<'_, Result<bool, LinkStoreError>>;

    /// What is known now, as a [`Change::Put`] each, and then every change for
    /// as long as the stream is held. A link that was put and removed between
    /// two looks may not be seen at all; what is seen last is what is true.
    fn watch(&self) -> BoxStream<'static, Change>;
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
}
