//! How a portal makes its links known, whenever the store can be reached.
//!
//! Time is paused.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::support::portal::UnreliableStore;
use chain::{Chain, ChainLink, Deadline, Link};
use consecution::link_store::LinkStore;
use consecution::portal::{FailureReason, Portal, Publication, Publisher};
use consecution::transport::Transport;
use consecution::transport::conformance::fake;
use consecution::transport::in_process::InProcess;
use tokio::time::{Instant, sleep};

fn chain(links: usize) -> Chain {
    let link = |index| Link {
        command: Some(format!("/bin/{index}")),
        ..Link::new("fake")
    };
    Chain {
        deadline: Deadline::None,
        ..Chain::new("test", (0..links).map(|index| ChainLink::new(link(index))))
    }
}

/// A portal of one link that nobody serves, and its store, which is away.
fn waiting() -> (Portal, InProcess, Arc<UnreliableStore>) {
    let transport = InProcess::new();
    let portal = Portal::new(chain(1), Arc::new(transport.clone())).unwrap();
    let store = Arc::new(UnreliableStore {
        is_away: AtomicBool::new(true),
        ..UnreliableStore::default()
    });
    (portal, transport, store)
}

fn keep(portal: &Portal, store: &Arc<UnreliableStore>) -> Publisher {
    let store: Arc<dyn LinkStore> = Arc::<UnreliableStore>::clone(store);
    Publisher::start(store, "one", std::slice::from_ref(portal))
}

/// A chain of so many links that are published and nobody serves, and their store.
async fn published(links: usize) -> (Portal, Arc<UnreliableStore>, Publisher) {
    let portal = Portal::new(chain(links), Arc::new(InProcess::new())).unwrap();
    let store = Arc::new(UnreliableStore::default());
    let publisher = keep(&portal, &store);
    until_published(&portal).await;
    (portal, store, publisher)
}

async fn until_published(portal: &Portal) {
    let mut publication = portal.publication();
    let done = publication.wait_for(|state| *state == Publication::Done);
    done.await.unwrap();
}

async fn lose_all(store: &UnreliableStore) {
    for link in store.list().await.unwrap() {
        store.remove(link.id()).await.unwrap();
    }
}

async fn count(store: &UnreliableStore) -> usize {
    store.list().await.unwrap().len()
}

#[tokio::test(start_paused = true)]
async fn many_links_do_not_wait_for_each_other() {
    let portal = Portal::new(chain(160), Arc::new(InProcess::new())).unwrap();
    let store = UnreliableStore {
        delay: Duration::from_secs(1),
        ..UnreliableStore::default()
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
async fn a_call_that_misses_a_link_has_all_of_its_chain_put_again_at_once() {
    let (portal, store, _publisher) = published(3).await;
    for _ in 0..3 {
        // Longer than a chain is left alone that nobody serves, though nothing is lost.
        sleep(Duration::from_secs(30)).await;
        lose_all(&store).await;
        let error = portal.send("").await.unwrap_err();
        assert_eq!(error.reason, FailureReason::NoRunner);
        sleep(Duration::from_millis(1)).await;
        assert_eq!(count(&store).await, 3);
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_waits_for_links_that_were_lost_until_they_are_served_again() {
    let transport = InProcess::new();
    let portal = Portal::new(chain(1), Arc::new(transport.clone())).unwrap();
    let store = Arc::new(UnreliableStore::default());
    let _publisher = keep(&portal, &store);
    until_published(&portal).await;
    let id = portal.chain().links[0].id;
    // Nobody serves it yet, and nothing is lost: looks find that, and become rare.
    for _ in 0..1_000 {
        let began = Instant::now();
        portal.send("x").await.unwrap_err();
        assert!(began.elapsed() < Duration::from_millis(10));
        sleep(Duration::from_millis(10)).await;
    }
    // Then somebody does.
    let mut runner = transport.serve(id, fake::echo());
    for _ in 0..3 {
        assert_eq!(portal.send("x").await.unwrap(), "x");
        lose_all(&store).await;
        // It hears of that.
        drop(runner);
        let again = async {
            while count(&store).await == 0 {
                sleep(Duration::from_millis(1)).await;
            }
            // It fetches its image, say.
            sleep(Duration::from_secs(5)).await;
            transport.serve(id, fake::echo())
        };
        let reply;
        (reply, runner) = tokio::join!(portal.send("x"), again);
        assert_eq!(reply.unwrap(), "x");
    }
}

#[tokio::test(start_paused = true)]
async fn links_that_the_store_has_lost_are_put_again_though_nobody_calls() {
    let (_portal, store, _publisher) = published(3).await;
    let puts = || store.puts.load(Ordering::SeqCst);
    sleep(Duration::from_secs(600)).await;
    assert_eq!(puts(), 3, "there is nothing to put");
    for _ in 0..3 {
        lose_all(&store).await;
        sleep(Duration::from_secs(21)).await;
        assert_eq!(count(&store).await, 3);
    }
    assert_eq!(puts(), 12);
}

#[tokio::test(start_paused = true)]
async fn however_many_links_there_are_about_a_hundred_a_second_are_looked_for() {
    let (_portal, store, _publisher) = published(5_000).await;
    let looks = || store.looks.load(Ordering::SeqCst);
    let before = looks();
    sleep(Duration::from_secs(600)).await;
    let looked = looks() - before;
    // Rounds of a minute, with a pause.
    assert!((1_600..1_850).contains(&looked), "{looked} in 600 s");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_while_links_are_put_again_is_asked_again() {
    let (portal, store, _publisher) = published(2).await;
    lose_all(&store).await;
    store.is_away.store(true, Ordering::SeqCst);
    portal.send("").await.unwrap_err();
    sleep(Duration::from_secs(30)).await;
    store.is_away.store(false, Ordering::SeqCst);
    sleep(Duration::from_secs(11)).await;
    assert_eq!(count(&store).await, 2);
}

#[tokio::test(start_paused = true)]
async fn what_is_offered_can_be_changed() {
    let (portal, store, mut publisher) = published(2).await;
    let another = Chain {
        name: "another".to_owned(),
        ..chain(3)
    };
    let another = Portal::new(another, Arc::new(InProcess::new())).unwrap();
    let offered = async || {
        let portals = store.portals().await.unwrap();
        let chains = portals["one"].chains.iter();
        let chains = chains.map(|(name, links)| (name.clone(), links.len()));
        chains.collect::<Vec<_>>()
    };
    assert_eq!(offered().await, [("test".to_owned(), 2)]);
    publisher.offer(&[portal.clone(), another.clone()]);
    until_published(&another).await;
    let both = [("another".to_owned(), 3), ("test".to_owned(), 2)];
    assert_eq!(offered().await, both);
    assert_eq!(count(&store).await, 3);

    publisher.offer(&[portal]);
    assert_eq!(offered().await, [("test".to_owned(), 2)]);
    lose_all(&store).await;
    another.send("").await.unwrap_err();
    sleep(Duration::from_secs(60)).await;
    assert_eq!(count(&store).await, 2);
    publisher.withdraw().await;
    assert!(store.portals().await.unwrap().is_empty());
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
    // A look costs the store less than a put, and tells no runner.
    assert_eq!(store.puts.load(Ordering::SeqCst), 1);
    let looks = store.looks.load(Ordering::SeqCst);
    // By misses, less and less often, and now and then.
    assert!((18..50).contains(&looks), "{looks} in 100 s");
}
