//! Making a runner known for as long as it is there: a key with a lease, that
//! etcd forgets by itself when nobody renews it.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Client, PutOptions};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::failure::{Failure, FailureKind};
use super::keys;
use super::quiet::Quiet;
use super::store::Store;
use crate::backoff::Backoff;
use crate::link_store::{Announcement, RunnerState};

/// How long etcd remembers a runner that says nothing.
const LEASE_SECONDS: i64 = 10;

/// How often to say that the runner is still there.
const RENEW_EVERY: Duration = Duration::from_secs(3);

/// How long a state stands, at least, before it is put again.
const PUT_EVERY: Duration = Duration::from_millis(250);

/// How long to wait before a new lease.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// How long leaving may take; after that the lease has to run out.
const LEAVE_PATIENCE: Duration = Duration::from_secs(2);

/// Announces for as long as what it gives is held.
pub(super) fn announce(
    store: Arc<Store>,
    runner: &str,
    state: watch::Receiver<RunnerState>,
) -> Announcement {
    let key = keys::runner_key(runner);
    let (withdraw, withdrawn) = oneshot::channel::<Infallible>();
    let over = tokio::spawn(async move {
        let mut lease = None;
        tokio::select! {
            _ = withdrawn => {}
            never = hold(&store, &key, state, &mut lease) => match never {},
        }
        if let Some(lease) = lease {
            let revoke = async |mut client: Client| client.lease_revoke(lease).await;
            let _ = timeout(LEAVE_PATIENCE, store.session.call(revoke)).await;
        }
    });
    Announcement::new(withdraw, async {
        // It does not panic, and ends with the runtime at the latest.
        let _ = over.await;
    })
}

/// Holds a lease, and another one whenever that is lost. `lease` is the one
/// that may be left.
async fn hold(
    store: &Store,
    key: &str,
    mut state: watch::Receiver<RunnerState>,
    lease: &mut Option<i64>,
) -> Infallible {
    let mut backoff = Backoff::new(BACKOFF_MIN, BACKOFF_MAX);
    let mut quiet = Quiet::default();
    loop {
        let started = Instant::now();
        let Err(failure) = hold_once(store, key, &mut state, lease).await;
        // What does not answer was said by the session.
        if failure.kind == FailureKind::Refused && quiet.lets(&failure.reason, Instant::now()) {
            tracing::warn!(
                "trying again: failed to put {key} into etcd: {}",
                failure.reason
            );
        }
        if started.elapsed() > BACKOFF_MAX {
            backoff.reset();
        }
        sleep(backoff.next()).await;
    }
}

/// Holds one lease, until it is lost.
async fn hold_once(
    store: &Store,
    key: &str,
    state: &mut watch::Receiver<RunnerState>,
    lease: &mut Option<i64>,
) -> Result<Infallible, Failure> {
    let grant = async |mut client: Client| client.lease_grant(LEASE_SECONDS, None).await;
    let id = store.session.call(grant).await?.id();
    *lease = Some(id);
    // A put renews nothing, however often there is something to put.
    let mut renew_at = Instant::now() + RENEW_EVERY;
    loop {
        put(store, key, state, id).await?;
        let put_again = Instant::now() + PUT_EVERY;
        renew_until(changed(state), store, id, &mut renew_at).await?;
        sleep_until(put_again).await;
    }
}

/// Puts what the runner says of itself now.
async fn put(
    store: &Store,
    key: &str,
    state: &mut watch::Receiver<RunnerState>,
    lease: i64,
) -> Result<(), Failure> {
    let value = keys::runner_value(&state.borrow_and_update());
    let put = async |mut client: Client| {
        let options = PutOptions::new().with_lease(lease);
        client.put(key, value.as_str(), Some(options)).await
    };
    store.session.call(put).await?;
    Ok(())
}

/// Renews a lease until `done`, whenever that is due.
async fn renew_until(
    done: impl Future<Output = ()>,
    store: &Store,
    lease: i64,
    renew_at: &mut Instant,
) -> Result<(), Failure> {
    tokio::pin!(done);
    loop {
        tokio::select! {
            biased;
            () = sleep_until(*renew_at) => {}
            () = &mut done => return Ok(()),
        }
        let renew = async |mut client: Client| client.lease_keep_alive(lease).await;
        store.session.call(renew).await?;
        *renew_at = Instant::now() + RENEW_EVERY;
    }
}

/// Waits until the runner says something else, if it ever does.
async fn changed(state: &mut watch::Receiver<RunnerState>) {
    if state.changed().await.is_err() {
        std::future::pending().await
    }
}
