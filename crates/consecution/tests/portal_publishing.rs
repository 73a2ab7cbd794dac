//! How a portal makes its links known, whenever the store can be reached.
//!
//! Time is paused.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chain::{Chain, ChainLink, Deadline, Link};
use consecution::link_store::LinkStore;
use consecution::portal::{FailureReason, Portal, Publication};
use consecution::transport::Transport;
use consecution::transport::conformance::fake;
use consecution::transport::in_process::InProcess;
use support::portal::Remote;
use tokio::time::{Instant, sleep};

fn chain(links: usize) -> Chain {
    let link = |index| Link {
        command: Some(format!("/bin/{index}")),
        ..Link::new("fake")
    };
    Chain {
        name: "test".to_owned(),
        deadline: Deadline::None,
        links: (0..links)
            .map(|index| ChainLink::new(link(index)))
            .collect(),
    }
}

/// A portal of one link that nobody serves, and its store, which is away.
fn waiting() -> (Portal, InProcess, Arc<Remote>) {
    let transport = InProcess::new();
    let portal = Portal::new(chain(1), Arc::new(transport.clone())).unwrap();
    let store = Arc::new(Remote {
        is_away: AtomicBool::new(true),
        ..Remote::default()
    });
    (portal, transport, store)
}

fn keep(portal: &Portal, store: &Arc<Remote>) -> tokio::task::JoinHandle<()> {
    let store: Arc<dyn LinkStore> = Arc::<Remote>::clone(store);
    tokio::spawn(portal.clone().keep_published(store))
}

async fn count(store: &Remote) -> usize {
    store.list().await.unwrap().len()
}

#[tokio::test(start_paused = true)]
async fn many_links_do_not_wait_for_each_other() {
    let portal = Portal::new(chain(160), Arc::new(InProcess::new())).unwrap();
    let store = Remote {
        delay: Duration::from_secs(1),
        ..Remote::default()
    };
    let before = Instant::now();
    portal.publish(&store).await.unwrap();
    assert_eq!(before.elapsed().as_secs(), 10);
    assert_eq!(count(&store).await, 160);
    portal.publish(&store).await.unwrap();
    assert_eq!(count(&store).await, 160);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_out_of_reach_is_an_error_once_and_waited_for_on_request() {
    let (portal, _, store) = waiting();
    let error = portal.publish(store.as_ref()).await.unwrap_err();
    assert_eq!(
        consecution::error::with_causes(&error),
        "publish the chain's links: reach the link store: nobody answers"
    );

    let mut publication = portal.publication();
    let _keeping = keep(&portal, &store);
    publication.changed().await.unwrap();
    let waiting = Publication::Waiting("failed to reach the link store: nobody answers".into());
    assert_eq!(*publication.borrow_and_update(), waiting);
    sleep(Duration::from_secs(60)).await;
    let puts = store.puts.load(Ordering::SeqCst);
    assert!((12..30).contains(&puts), "{puts} attempts in a minute");
    store.is_away.store(false, Ordering::SeqCst);
    publication.changed().await.unwrap();
    assert_eq!(*publication.borrow(), Publication::Done);
    assert_eq!(count(&store).await, 1);
}

#[tokio::test(start_paused = true)]
async fn links_that_somebody_serves_can_be_called_before_they_are_published() {
    let (portal, transport, _store) = waiting();
    let _registration = transport.serve(portal.chain().links[0].id, fake::echo());
    assert_eq!(portal.send("x").await.unwrap(), "x");
}

#[tokio::test(start_paused = true)]
async fn a_link_that_the_store_has_lost_is_put_again_when_a_call_misses_it() {
    let (portal, _, store) = waiting();
    store.is_away.store(false, Ordering::SeqCst);
    let _keeping = keep(&portal, &store);
    let mut publication = portal.publication();
    publication
        .wait_for(|state| *state == Publication::Done)
        .await
        .unwrap();
    let id = portal.chain().links[0].id;
    for _ in 0..3 {
        assert!(store.remove(id).await.unwrap());
        sleep(Duration::from_secs(60)).await;
        assert_eq!(count(&store).await, 0);
        let error = portal.send("").await.unwrap_err();
        assert_eq!(error.reason, FailureReason::NoRunner);
        sleep(Duration::from_secs(1)).await;
        assert_eq!(count(&store).await, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_link_that_nobody_ever_serves_is_not_put_all_the_time() {
    let (portal, _, store) = waiting();
    store.is_away.store(false, Ordering::SeqCst);
    let _keeping = keep(&portal, &store);
    for _ in 0..1_000 {
        portal.send("").await.unwrap_err();
        sleep(Duration::from_millis(100)).await;
    }
    let puts = store.puts.load(Ordering::SeqCst);
    assert!((10..13).contains(&puts), "{puts} in 100 s");
}
