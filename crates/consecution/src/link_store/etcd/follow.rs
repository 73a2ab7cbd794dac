//! Follows the links in etcd: lists them, then watches every later change, and lists them
//! again if the watch breaks off for any reason.
//!
//! While etcd cannot be reached, the links stay as last known.

use std::convert::Infallible;
use std::sync::Arc;

use etcd_client::{Client, Error, WatchOptions, WatchResponse, WatchStream};
use futures_util::stream::BoxStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::failure::Failure;
use super::keys::{self, LINKS};
use super::store::{MESSAGE_BYTES_MAX, Store, position_of};
use super::view::{Position, View};
use crate::backoff::Backoff;
use crate::link_store::changes::Known;
use crate::link_store::{Change, RETRY_WAIT_MAX, RETRY_WAIT_MIN};

/// Streams the changes of the links. Dropping the stream ends the watch.
pub(super) fn watch(store: Arc<Store>) -> BoxStream<'static, Change> {
    let known = Known::default();
    // Dropped with the stream, which ends it.
    let mut following = JoinSet::new();
    let told = known.clone();
    following.spawn(async move { follow(&store, &told).await });
    known.watch(following)
}

async fn follow(store: &Store, known: &Known) -> Infallible {
    let mut view = View::default();
    let mut backoff = Backoff::new(RETRY_WAIT_MIN, RETRY_WAIT_MAX);
    let mut log = super::log_on_change();
    loop {
        let started = Instant::now();
        let Err(failure) = follow_once(store, &mut view, known).await;
        // The session already logs servers that do not answer.
        if failure.kind.is_answer() && log.lets(&failure.reason) {
            tracing::warn!(
                "trying again: failed to watch the links in etcd: {}",
                failure.reason
            );
        } else {
            tracing::debug!("listing the links in etcd again: {}", failure.reason);
        }
        if started.elapsed() > RETRY_WAIT_MAX {
            backoff.reset();
        }
        sleep(backoff.next()).await;
    }
}

/// Lists the links, and follows changes until the watch breaks off.
async fn follow_once(store: &Store, view: &mut View, known: &Known) -> Result<Infallible, Failure> {
    let (position, entries) = store.range(LINKS).await?;
    if let Some(kept) = view.listed(position, store.links(&entries)) {
        tracing::warn!(
            "etcd has lost its data, or is another cluster than before; \
             {kept} links that it does not have are kept until this process ends"
        );
    }
    known.replace(view.links());
    let mut stream = open(store, position).await?;
    loop {
        let response = tokio::select! {
            response = stream.message() => response?,
            // A server that is gone may just stay silent, so also watch the session.
            () = store.session.is_in_trouble() => None,
        };
        let response = response.ok_or_else(|| Failure::unreachable("the watch broke off"))?;
        check(&response, position)?;
        apply(store, view, known, &response);
    }
}

/// Watches the changes after that position.
async fn open(store: &Store, position: Position) -> Result<WatchStream, Failure> {
    let options = WatchOptions::new()
        .with_range(keys::end_of(LINKS))
        .with_start_revision(position.revision + 1)
        .with_fragment();
    let ask = async |client: Client| -> Result<WatchStream, Error> {
        let mut watch = client
            .watch_client()
            .max_decoding_message_size(MESSAGE_BYTES_MAX);
        watch.watch(LINKS, Some(options.clone())).await
    };
    store.session.call(ask).await
}

/// Checks that the watch goes on, and that it continues the listed data: an etcd that has
/// lost that data would wait silently until it reaches the same revision again.
fn check(response: &WatchResponse, listed: Position) -> Result<(), Failure> {
    if response.canceled() {
        return Err(match response.compact_revision() {
            0 => Failure::refused(format!(
                "etcd ended the watch: {}",
                response.cancel_reason()
            )),
            _ => Failure::unreachable("etcd has forgotten the changes since the last list"),
        });
    }
    if !position_of(response.header()).continues(listed) {
        return Err(Failure::unreachable(
            "etcd has lost the data that it had listed",
        ));
    }
    Ok(())
}

/// Applies the changes in a response one by one, so that the cost does not depend on the
/// number of links.
fn apply(store: &Store, view: &mut View, known: &Known, response: &WatchResponse) {
    for entry in response.events().iter().filter_map(|event| event.kv()) {
        // A deleted key has version 0.
        let is_there = entry.version() > 0;
        let link = is_there.then(|| store.link(entry)).flatten();
        match (link, keys::link_id(entry.key())) {
            (Some(link), _) => {
                view.put(link.id(), Arc::clone(&link));
                known.put(link.id(), link);
            }
            (None, Some(id)) => {
                view.removed(id);
                known.remove(id);
            }
            (None, None) => {}
        }
    }
    view.reached(position_of(response.header()).revision);
}
