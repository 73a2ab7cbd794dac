//! Announces a runner or a portal: keeps a key with a lease, which etcd deletes by itself
//! when the lease is not renewed.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Client, PutOptions};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::failure::{Failure, FailureKind};
use super::store::Store;
use crate::backoff::Backoff;
use crate::link_store::{RETRY_WAIT_MAX, RETRY_WAIT_MIN, Registration};

/// The lease: how long etcd keeps the key without renewal.
const LEASE_SECONDS: i64 = 10;

/// Interval of renewals: three within a lease, so that two may be lost or late.
const RENEW_EVERY: Duration = Duration::from_secs(3);

/// The shortest time between two puts of the state: many things change at the same time, and
/// etcd writes each put to the disks of all its servers.
const PUT_EVERY: Duration = Duration::from_millis(250);

/// Interval of checks that nobody has deleted the key while its lease still runs.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// How long to wait before the next attempt if etcd denies permission: it may be granted
/// meanwhile.
const DENIED_WAIT: Duration = Duration::from_secs(60);

/// The longest time for deleting the key on shutdown. After that, the lease runs out.
const LEAVE_PATIENCE: Duration = Duration::from_secs(2);

/// Keeps `state` under `key` until the returned registration is dropped or withdrawn.
/// `without` says what does not work if etcd denies permission; `None` if it must not.
pub(super) fn announce<S: Send + Sync + 'static>(
    store: Arc<Store>,
    key: String,
    state: watch::Receiver<S>,
    value: fn(&S) -> String,
    without: Option<&'static str>,
) -> Registration {
    let (withdraw, withdrawn) = oneshot::channel::<Infallible>();
    let over = tokio::spawn(async move {
        let mut holder = Holder {
            store: &store,
            key: &key,
            state,
            value,
            without,
            lease: None,
        };
        tokio::select! {
            _ = withdrawn => {}
            never = holder.hold() => match never {},
        }
        if let Some(lease) = holder.lease {
            let revoke = async |mut client: Client| client.lease_revoke(lease).await;
            let _ = timeout(LEAVE_PATIENCE, store.session.call(revoke)).await;
        }
    });
    Registration::new(withdraw, async {
        // It does not panic, and ends with the runtime at the latest.
        let _ = over.await;
    })
}

/// Keeps a key.
struct Holder<'a, S> {
    store: &'a Store,
    key: &'a str,
    state: watch::Receiver<S>,
    value: fn(&S) -> String,
    without: Option<&'static str>,
    /// The lease to revoke at the end.
    lease: Option<i64>,
}

impl<S: Send + Sync> Holder<'_, S> {
    /// Keeps the key, under a new lease whenever the last one is lost.
    async fn hold(&mut self) -> Infallible {
        let mut backoff = Backoff::new(RETRY_WAIT_MIN, RETRY_WAIT_MAX);
        let mut log = super::log_on_change();
        let mut is_denied = false;
        loop {
            let started = Instant::now();
            let Err(failure) = self.hold_once().await;
            let (key, reason) = (self.key, &failure.reason);
            if let (FailureKind::Denied, Some(without)) = (failure.kind, self.without) {
                if !std::mem::replace(&mut is_denied, true) {
                    tracing::warn!("failed to put {key} into etcd: {reason}; {without}");
                }
                sleep(DENIED_WAIT).await;
                continue;
            }
            // The session already logs servers that do not answer.
            if failure.kind.is_answer() && log.lets(reason) {
                tracing::warn!("trying again: failed to put {key} into etcd: {reason}");
            }
            if started.elapsed() > RETRY_WAIT_MAX {
                backoff.reset();
            }
            sleep(backoff.next()).await;
        }
    }

    /// Keeps the key under one lease, until that is lost.
    async fn hold_once(&mut self) -> Result<Infallible, Failure> {
        let grant = async |mut client: Client| client.lease_grant(LEASE_SECONDS, None).await;
        let lease = self.store.session.call(grant).await?.id();
        self.lease = Some(lease);
        let now = Instant::now();
        // A put does not renew the lease, so renewals have their own timer.
        let (mut renew_at, mut look_at) = (now + RENEW_EVERY, now + LOOK_EVERY);
        loop {
            self.put(lease).await?;
            let put_again = Instant::now() + PUT_EVERY;
            self.renew_until_outdated(lease, &mut renew_at, &mut look_at)
                .await?;
            sleep_until(put_again).await;
        }
    }

    /// Puts the present state.
    async fn put(&mut self, lease: i64) -> Result<(), Failure> {
        let value = (self.value)(&self.state.borrow_and_update());
        let put = async |mut client: Client| {
            let options = PutOptions::new().with_lease(lease);
            client.put(self.key, value.as_str(), Some(options)).await
        };
        self.store.session.call(put).await?;
        Ok(())
    }

    /// Renews the lease regularly, until the state changes or somebody has deleted the key.
    async fn renew_until_outdated(
        &mut self,
        lease: i64,
        renew_at: &mut Instant,
        look_at: &mut Instant,
    ) -> Result<(), Failure> {
        let (store, key) = (self.store, self.key);
        let changed = changed(&mut self.state);
        tokio::pin!(changed);
        loop {
            tokio::select! {
                biased;
                () = sleep_until(*renew_at) => {}
                () = &mut changed => return Ok(()),
            }
            let renew = async |mut client: Client| client.lease_keep_alive(lease).await;
            store.session.call(renew).await?;
            *renew_at = Instant::now() + RENEW_EVERY;
            if Instant::now() >= *look_at {
                *look_at = Instant::now() + LOOK_EVERY;
                if !store.has(key).await? {
                    return Ok(());
                }
            }
        }
    }
}

/// Waits until the state changes; for ever if it can change no more.
async fn changed<S>(state: &mut watch::Receiver<S>) {
    if state.changed().await.is_err() {
        std::future::pending().await
    }
}
