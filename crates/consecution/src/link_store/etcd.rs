//! The link store in etcd, for portals and runners on any machine.
//!
//! The keys are `/consecution/links/<id>` for links, `/consecution/images/<reference>` for
//! the digests that images mean, `/consecution/runners/<runner>` and
//! `/consecution/portals/<portal>` for the states of runners and portals, and
//! `/consecution/unnamed/<id>` for the time since when no portal names a link. All values
//! are YAML. This module adds what etcd's client does not do: it finds a server that
//! answers, recovers after any outage, and validates every value.
//!
//! | module | for |
//! |---|---|
//! | `keys` | the keys and their values, validated |
//! | `options` | what the user sets for etcd, validated |
//! | `session` | the connection to one server at a time |
//! | `failure` | errors, classified |
//! | `store` | reading and writing keys |
//! | `view`, `follow` | the links that a watcher knows; lists and watches them |
//! | `announce` | keeps the key of a runner or portal while it lives |

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use chain::{Link, LinkId};
use etcd_client::{Client, KeyValue};
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use tokio::sync::watch;

use super::{Change, LinkStore, LinkStoreError, PortalState, Registration, RunnerState};
use crate::config::EtcdOptions;
use crate::connection::{Connection, LOG_AGAIN_AFTER};
use crate::log_on_change::LogOnChange;
use failure::{Failure, FailureKind};
use session::Session;
use store::Store;

mod announce;
mod failure;
mod follow;
mod keys;
mod options;
mod session;
mod store;
mod view;

pub use options::EtcdError;

/// How long to wait before another trouble is logged: the servers' troubles may alternate.
const LOG_OTHER_AFTER: Duration = Duration::from_secs(5);

/// What does not work while a portal may not write its key.
const WITHOUT_PORTALS_KEY: &str = "`consecution link prune` takes no account of this portal's \
    links, and `consecution link list` does not know their names; all else works without";

/// Keeps links in etcd.
///
/// Each operation takes at most 5 s, whatever happens to the servers. A watch or an
/// announcement continues by itself when they are back.
#[derive(Clone)]
pub struct Etcd {
    store: Arc<Store>,
}

impl Etcd {
    /// A store on these servers. Needs a tokio runtime. It connects with the first
    /// operation, and reconnects when necessary.
    ///
    /// # Errors
    /// The options are invalid, whatever the servers say.
    pub fn new(options: &EtcdOptions) -> Result<Etcd, EtcdError> {
        let session = Session::new(options)?;
        Ok(Etcd {
            store: Arc::new(Store::new(session)),
        })
    }

    /// State of the connection at the last operation. Watches and announcements make
    /// operations regularly.
    pub fn connection(&self) -> watch::Receiver<Connection> {
        self.store.session.connection()
    }
}

impl LinkStore for Etcd {
    fn put(&self, link: Arc<Link>) -> BoxFuture<'_, Result<bool, LinkStoreError>> {
        Box::pin(async move {
            let (key, yaml) = (keys::link_key(link.id()), link.to_yaml());
            let read = |value: &[u8]| keys::link(key.as_bytes(), value);
            let (_, is_new) = self.store.put_if_absent(&key, &yaml, read).await?;
            Ok(is_new)
        })
    }

    fn missing<'a>(
        &'a self,
        ids: &'a [LinkId],
    ) -> BoxFuture<'a, Result<Vec<LinkId>, LinkStoreError>> {
        Box::pin(async move {
            let keys: Vec<_> = ids.iter().map(|id| keys::link_key(*id)).collect();
            let found = self.store.get(&keys).await?;
            let is_link = |entry: &KeyValue| keys::link(entry.key(), entry.value()).is_ok();
            let missing = ids.iter().zip(found);
            let missing = missing.filter(|(_, found)| !found.as_ref().is_some_and(is_link));
            Ok(missing.map(|(id, _)| *id).collect())
        })
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<Arc<Link>>, LinkStoreError>> {
        Box::pin(async {
            let (_, entries) = self.store.range(keys::LINKS).await?;
            Ok(self.store.links(&entries).into_values().collect())
        })
    }

    fn remove(&self, id: LinkId) -> BoxFuture<'_, Result<bool, LinkStoreError>> {
        Box::pin(async move {
            let key = keys::link_key(id);
            let delete = async |mut client: Client| client.delete(key.as_str(), None).await;
            let answer = self.store.session.call(delete).await?;
            Ok(answer.deleted() > 0)
        })
    }

    fn pin_image(
        &self,
        reference: &str,
        digest: &str,
    ) -> BoxFuture<'_, Result<Arc<str>, LinkStoreError>> {
        let (key, digest) = (keys::image_key(reference), digest.to_owned());
        Box::pin(async move {
            let there = self.store.put_if_absent(&key, &digest, keys::digest);
            Ok(there.await?.0)
        })
    }

    fn pinned_image(
        &self,
        reference: &str,
    ) -> BoxFuture<'_, Result<Option<Arc<str>>, LinkStoreError>> {
        let key = keys::image_key(reference);
        Box::pin(async move {
            let get = async |mut client: Client| client.get(key.as_str(), None).await;
            let answer = self.store.session.call(get).await?;
            let Some(entry) = answer.kvs().first() else {
                return Ok(None);
            };
            let digest = keys::digest(entry.value());
            Ok(digest
                .inspect_err(|reason| self.store.skip(entry, reason))
                .ok())
        })
    }

    fn announce(&self, runner: &str, state: watch::Receiver<RunnerState>) -> Registration {
        let key = keys::runner_key(runner);
        announce::announce(
            Arc::clone(&self.store),
            key,
            state,
            keys::runner_value,
            None,
        )
    }

    fn runners(&self) -> BoxFuture<'_, Result<BTreeMap<String, RunnerState>, LinkStoreError>> {
        Box::pin(async {
            let (_, entries) = self.store.range(keys::RUNNERS).await?;
            let runners = entries.iter().filter_map(|entry| {
                keys::runner(entry.key(), entry.value())
                    .inspect_err(|reason| self.store.skip(entry, reason))
                    .ok()
            });
            Ok(runners.collect())
        })
    }

    fn announce_portal(&self, portal: &str, state: watch::Receiver<PortalState>) -> Registration {
        let (key, value) = (keys::portal_key(portal), keys::portal_value);
        let store = Arc::clone(&self.store);
        announce::announce(store, key, state, value, Some(WITHOUT_PORTALS_KEY))
    }

    fn portals(&self) -> BoxFuture<'_, Result<BTreeMap<String, PortalState>, LinkStoreError>> {
        Box::pin(async {
            let (_, entries) = self.store.range(keys::PORTALS).await?;
            let portals = entries.iter().filter_map(|entry| {
                keys::portal(entry.key(), entry.value())
                    .inspect_err(|reason| self.store.skip(entry, reason))
                    .ok()
            });
            Ok(portals.collect())
        })
    }

    fn note_unnamed(
        &self,
        id: LinkId,
        since: Option<SystemTime>,
    ) -> BoxFuture<'_, Result<(), LinkStoreError>> {
        Box::pin(async move {
            let key = keys::unnamed_key(id);
            match since.map(keys::unnamed_value) {
                Some(value) => {
                    let put = async |mut client: Client| {
                        client.put(key.as_str(), value.as_str(), None).await
                    };
                    self.store.session.call(put).await?;
                }
                None => {
                    let delete = async |mut client: Client| client.delete(key.as_str(), None).await;
                    self.store.session.call(delete).await?;
                }
            }
            Ok(())
        })
    }

    fn unnamed(&self) -> BoxFuture<'_, Result<BTreeMap<LinkId, SystemTime>, LinkStoreError>> {
        Box::pin(async {
            let (_, notes) = self.store.range(keys::UNNAMED).await?;
            let links = self.store.keys(keys::LINKS).await?;
            let links = links.iter().filter_map(|entry| {
                let id = keys::link_id(entry.key())?;
                Some((id, entry.create_revision()))
            });
            let created: BTreeMap<LinkId, i64> = links.collect();
            let notes = notes.iter().filter_map(|entry| {
                let (id, since) = keys::unnamed(entry.key(), entry.value())
                    .inspect_err(|reason| self.store.skip(entry, reason))
                    .ok()?;
                let created = created.get(&id).copied().unwrap_or_default();
                (entry.mod_revision() > created).then_some((id, since))
            });
            Ok(notes.collect())
        })
    }

    fn watch(&self) -> BoxStream<'static, Change> {
        follow::watch(Arc::clone(&self.store))
    }
}

impl From<Failure> for LinkStoreError {
    fn from(failure: Failure) -> LinkStoreError {
        match failure.kind {
            FailureKind::Denied => LinkStoreError::Denied(failure.into()),
            _ => LinkStoreError::Unavailable(failure.into()),
        }
    }
}

/// For trouble that may repeat for as long as etcd is out of reach.
fn log_on_change() -> LogOnChange {
    LogOnChange::again_after(LOG_AGAIN_AFTER).other_after(LOG_OTHER_AFTER)
}
