//! The link store that etcd keeps, for portals and runners anywhere.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use chain::{Link, LinkId};
use futures_util::future::{BoxFuture, ready};
use futures_util::stream::{self, BoxStream, StreamExt};
use tokio::sync::watch;

use super::{Announcement, Change, LinkStore, LinkStoreError, RunnerState};
use crate::config::EtcdOptions;
use crate::connection::Connection;

/// Keeps links in etcd.
#[derive(Clone)]
pub struct Etcd {
    connection: watch::Sender<Connection>,
}

/// etcd cannot be used as it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum EtcdError {
    /// An endpoint is no URL of an etcd server.
    #[error("use etcd endpoint {endpoint}: {reason}")]
    Endpoint {
        /// The endpoint, without a user or password.
        endpoint: String,
        /// What is wrong with it, and what to write instead.
        reason: String,
    },
    /// A file for the encryption cannot be used.
    #[error("use {} for etcd: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and what it must be.
        reason: String,
    },
}

impl Etcd {
    /// A store on those servers. Needs a tokio runtime. It connects when it is
    /// asked something, and again whenever it must.
    ///
    /// # Errors
    /// The options cannot be right, whatever the servers say.
    pub fn new(_options: &EtcdOptions) -> Result<Etcd, EtcdError> {
        let (connection, _) =
            watch::channel(Connection::Waiting("nothing was asked of it yet".into()));
        Ok(Etcd { connection })
    }

    /// How it is with the connection.
    pub fn connection(&self) -> watch::Receiver<Connection> {
        self.connection.subscribe()
    }
}

fn later<T: Send + 'static>() -> BoxFuture<'static, Result<T, LinkStoreError>> {
    Box::pin(ready(Err(LinkStoreError::Unavailable("not yet".into()))))
}

impl LinkStore for Etcd {
    fn put(&self, _link: Arc<Link>) -> BoxFuture<'_, Result<(), LinkStoreError>> {
        later()
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<Arc<Link>>, LinkStoreError>> {
        later()
    }

    fn remove(&self, _id: LinkId) -> BoxFuture<'_, Result<bool, LinkStoreError>> {
        later()
    }

    fn pin_image(
        &self,
        _reference: &str,
        _digest: &str,
    ) -> BoxFuture<'_, Result<Arc<str>, LinkStoreError>> {
        later()
    }

    fn pinned_image(
        &self,
        _reference: &str,
    ) -> BoxFuture<'_, Result<Option<Arc<str>>, LinkStoreError>> {
        later()
    }

    fn announce(&self, _runner: &str, _state: watch::Receiver<RunnerState>) -> Announcement {
        Announcement::new(())
    }

    fn runners(&self) -> BoxFuture<'_, Result<BTreeMap<String, RunnerState>, LinkStoreError>> {
        later()
    }

    fn watch(&self) -> BoxStream<'static, Change> {
        stream::pending().boxed()
    }
}
