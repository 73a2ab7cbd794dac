//! What every [`LinkStore`] must do, as checks that any backend can run.
//!
//! They hold a store to nothing but what the trait's documentation says, use
//! links of their own, and leave those of others alone.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use chain::{Link, LinkId};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::{Change, LinkStore, MISSING_MAX, OfferedLink, PortalState, RunnerState, prune};
use crate::conformance::{run_checks, unique};

/// How long to look whether a watcher is told something that it must not be.
const LOOK_FOR: Duration = Duration::from_millis(200);

/// How long to wait before looking again at what takes time to be true.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Holds the store to everything that a link store promises.
///
/// # Panics
/// It breaks a promise; the message starts with the name of the check.
pub async fn all(store: &dyn LinkStore) {
    run_checks!(store;
        lists_what_was_put_by_id,
        puts_again_without_effect,
        removes_what_is_known_and_nothing_else,
        says_which_links_are_missing,
        tells_a_watcher_what_is_there_and_then_what_changes,
        tells_every_watcher,
        tells_nobody_of_a_link_put_again,
        tells_a_slow_watcher_what_is_true_in_the_end,
        tells_each_of_many_links_once_and_then_only_what_changes,
        pins_an_image_once_and_for_all,
        knows_a_runner_while_it_is_announced,
        knows_a_portal_while_it_is_announced,
        notes_since_when_a_link_is_unnamed,
        prunes_what_no_portal_names,
    );
}

async fn lists_what_was_put_by_id(store: &dyn LinkStore) {
    let links = put_new(store, 20).await;
    let listed = store.list().await.expect("a list");
    let ids: Vec<LinkId> = listed.iter().map(|link| link.id()).collect();
    assert!(ids.is_sorted(), "{ids:?}");
    assert!(
        links.iter().all(|link| listed.contains(link)),
        "a link is missing"
    );
    remove_all(store, &links).await;
}

async fn puts_again_without_effect(store: &dyn LinkStore) {
    let links = put_new(store, 1).await;
    let is_new = store.put(Arc::clone(&links[0])).await.expect("a put");
    assert!(!is_new, "it was known");
    let listed = store.list().await.expect("a list");
    assert_eq!(listed.iter().filter(|link| **link == links[0]).count(), 1);
    remove_all(store, &links).await;
}

async fn removes_what_is_known_and_nothing_else(store: &dyn LinkStore) {
    let links = put_new(store, 2).await;
    let id = links[0].id();
    assert!(store.remove(id).await.expect("a removal"));
    assert!(
        !store.remove(id).await.expect("a removal"),
        "it was not known any more"
    );
    let listed = store.list().await.expect("a list");
    assert!(!listed.contains(&links[0]));
    assert!(listed.contains(&links[1]));
    remove_all(store, &links[1..]).await;
}

async fn says_which_links_are_missing(store: &dyn LinkStore) {
    let links = put_new(store, MISSING_MAX).await;
    let ids: Vec<LinkId> = links.iter().map(|link| link.id()).collect();
    assert_eq!(store.missing(&ids).await.expect("an answer"), []);
    assert_eq!(store.missing(&[]).await.expect("an answer"), []);
    let [first, last] = [ids[0], ids[MISSING_MAX - 1]];
    for id in [first, last] {
        store.remove(id).await.expect("a removal");
    }
    let missing = store.missing(&ids).await.expect("an answer");
    assert_eq!(missing, [first, last]);
    let is_new = store.put(Arc::clone(&links[0])).await.expect("a put");
    assert!(is_new, "it was not known");
    assert_eq!(store.missing(&ids).await.expect("an answer"), [last]);
    remove_all(store, &links).await;
}

async fn tells_a_watcher_what_is_there_and_then_what_changes(store: &dyn LinkStore) {
    let before = put_new(store, 3).await;
    let mut watcher = Watcher::new(store);
    for _ in &before {
        watcher.told_put_of_one_of(&before).await;
    }
    let later = put_new(store, 1).await;
    watcher.told_put_of_one_of(&later).await;
    remove_all(store, &before[..1]).await;
    watcher.told_removal_of(before[0].id()).await;
    put(store, &before[..1]).await;
    watcher.told_put_of_one_of(&before[..1]).await;
    remove_all(store, &before).await;
    remove_all(store, &later).await;
}

async fn tells_every_watcher(store: &dyn LinkStore) {
    let mut watchers = [Watcher::new(store), Watcher::new(store)];
    let links = put_new(store, 1).await;
    for watcher in &mut watchers {
        watcher.told_put_of_one_of(&links).await;
    }
    remove_all(store, &links).await;
    for watcher in &mut watchers {
        watcher.told_removal_of(links[0].id()).await;
    }
}

async fn tells_nobody_of_a_link_put_again(store: &dyn LinkStore) {
    let links = put_new(store, 1).await;
    let mut watcher = Watcher::new(store);
    watcher.told_put_of_one_of(&links).await;
    put(store, &links).await;
    let again = timeout(LOOK_FOR, watcher.told_put_of_one_of(&links)).await;
    assert!(again.is_err(), "it was told again");
    remove_all(store, &links).await;
}

async fn tells_a_slow_watcher_what_is_true_in_the_end(store: &dyn LinkStore) {
    let mut watcher = Watcher::new(store);
    let links = put_new(store, 2).await;
    for _ in 0..200 {
        remove_all(store, &links).await;
        put(store, &links).await;
    }
    remove_all(store, &links[..1]).await;
    // Whatever it is told in between, its last word on each link must be true; a
    // link that is gone may not have been seen at all.
    let mut last_words = [None, None];
    let is_true = |words: [Option<bool>; 2]| words[0] != Some(true) && words[1] == Some(true);
    loop {
        match timeout(LOOK_FOR, watcher.changes.next()).await {
            Ok(Some(change)) => {
                for (link, last_word) in links.iter().zip(&mut last_words) {
                    match &change {
                        Change::Put(put) if put == link => *last_word = Some(true),
                        Change::Removed(id) if *id == link.id() => *last_word = Some(false),
                        _ => {}
                    }
                }
            }
            Err(_) if is_true(last_words) => break,
            // It may yet be told.
            Err(_) => {}
            Ok(None) => panic!("the watch ended"),
        }
    }
    remove_all(store, &links[1..]).await;
}

async fn tells_each_of_many_links_once_and_then_only_what_changes(store: &dyn LinkStore) {
    let links = put_new(store, 100).await;
    let mut watcher = Watcher::new(store);
    let mut told = std::collections::BTreeSet::new();
    while told.len() < links.len() {
        if let Change::Put(link) = watcher.changes.next().await.expect("a watch does not end")
            && links.contains(&link)
        {
            assert!(told.insert(link.id()), "it is told twice");
        }
    }
    for link in &links[..20] {
        store.remove(link.id()).await.expect("a removal");
        watcher.told_next(&links, &Change::Removed(link.id())).await;
        put(store, std::slice::from_ref(link)).await;
        watcher
            .told_next(&links, &Change::Put(Arc::clone(link)))
            .await;
    }
    remove_all(store, &links).await;
}

async fn pins_an_image_once_and_for_all(store: &dyn LinkStore) {
    // Awkward in a path, as references are.
    let reference = format!("localhost:5000/a/b_{:016x}:v1@x", unique());
    let pinned = store.pinned_image(&reference).await.expect("an answer");
    assert_eq!(pinned, None);
    let (one, two) = futures_util::future::join(
        store.pin_image(&reference, "sha256:one"),
        store.pin_image(&reference, "sha256:two"),
    )
    .await;
    let (one, two) = (one.expect("a pin"), two.expect("a pin"));
    assert_eq!(one, two, "all mean the same");
    assert!(["sha256:one", "sha256:two"].contains(&&*one));
    let pinned = store.pinned_image(&reference).await.expect("an answer");
    assert_eq!(pinned, Some(one));
}

async fn knows_a_runner_while_it_is_announced(store: &dyn LinkStore) {
    let name = format!("runner-{:016x}", unique());
    let state = |serving| RunnerState {
        version: "1".to_owned(),
        serving,
        ..RunnerState::default()
    };
    let (say, said) = watch::channel(state(1));
    let announcement = store.announce(&name, said);
    until_runner_is(store, &name, Some(&state(1))).await;
    say.send_replace(state(2));
    until_runner_is(store, &name, Some(&state(2))).await;
    drop(announcement);
    until_runner_is(store, &name, None).await;

    let announcement = store.announce(&name, say.subscribe());
    until_runner_is(store, &name, Some(&state(2))).await;
    announcement.withdraw().await;
    let runners = store.runners().await.expect("a list");
    assert!(!runners.contains_key(&name), "it is still known");
}

async fn knows_a_portal_while_it_is_announced(store: &dyn LinkStore) {
    let name = format!("portal-{:016x}", unique());
    let offering = |ids: &[&str]| PortalState {
        version: "1".to_owned(),
        chains: [("words".to_owned(), offered(ids))].into(),
        is_incomplete: false,
    };
    let (say, said) = watch::channel(offering(&["a"]));
    let announcement = store.announce_portal(&name, said);
    until_portal_is(store, &name, Some(&offering(&["a"]))).await;
    say.send_replace(offering(&["a", "b"]));
    until_portal_is(store, &name, Some(&offering(&["a", "b"]))).await;
    let runners = store.runners().await.expect("a list");
    assert!(!runners.contains_key(&name), "it is no runner");
    announcement.withdraw().await;
    until_portal_is(store, &name, None).await;
}

fn offered(ids: &[&str]) -> Vec<OfferedLink> {
    let link = |id: &&str| OfferedLink {
        id: (*id).to_owned(),
        name: "cat".to_owned(),
    };
    ids.iter().map(link).collect()
}

async fn until_portal_is(store: &dyn LinkStore, name: &str, wanted: Option<&PortalState>) {
    while store.portals().await.expect("a list").get(name) != wanted {
        sleep(LOOK_AGAIN).await;
    }
}

async fn notes_since_when_a_link_is_unnamed(store: &dyn LinkStore) {
    let links = put_new(store, 2).await;
    let [id, other] = [links[0].id(), links[1].id()];
    let note = async |id| store.unnamed().await.expect("notes").get(&id).copied();
    let since = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
    assert_eq!(note(id).await, None);
    for since in [since, since + Duration::from_secs(1)] {
        store.note_unnamed(id, Some(since)).await.expect("a note");
        assert_eq!(note(id).await, Some(since));
        assert_eq!(note(other).await, None);
    }
    store.note_unnamed(id, None).await.expect("no note");
    store.note_unnamed(id, None).await.expect("no note");
    assert_eq!(note(id).await, None);

    // A link that is put again was in use since.
    store.note_unnamed(id, Some(since)).await.expect("a note");
    store.remove(id).await.expect("a removal");
    put(store, &links[..1]).await;
    assert_eq!(note(id).await, None);
    remove_all(store, &links).await;
}

async fn prunes_what_no_portal_names(store: &dyn LinkStore) {
    const HOUR: Duration = Duration::from_secs(60 * 60);
    let links = put_new(store, 3).await;
    let [named, unnamed, old] = [0, 1, 2].map(|index: usize| links[index].id());
    let name = format!("portal-{:016x}", unique());
    let state = PortalState {
        chains: [("words".to_owned(), offered(&[&named.to_string()]))].into(),
        ..PortalState::default()
    };
    // Others may run at the same time, but none that prunes.
    let (_say, said) = watch::channel(state.clone());
    let announcement = store.announce_portal(&name, said);
    until_portal_is(store, &name, Some(&state)).await;
    let two_hours_ago = SystemTime::now() - 2 * HOUR;
    for id in [named, old] {
        let noted = store.note_unnamed(id, Some(two_hours_ago));
        noted.await.expect("a note");
    }
    for (is_dry, missing) in [(true, vec![]), (false, vec![old])] {
        let pruned = prune(store, HOUR, is_dry).await.expect("a pruning");
        assert!(pruned.removed.contains(&links[2]));
        let waiting = pruned.waiting.iter().find(|(link, _)| *link == links[1]);
        assert_eq!(waiting.expect("it waits").1, HOUR);
        assert!(!pruned.removed.contains(&links[0]), "it is named");
        let ids = [named, unnamed, old];
        assert_eq!(store.missing(&ids).await.expect("an answer"), missing);
        let notes = store.unnamed().await.expect("notes");
        assert_eq!(notes.contains_key(&named), is_dry, "it is named again");
        assert_eq!(notes.contains_key(&unnamed), !is_dry);
    }
    announcement.withdraw().await;
    until_portal_is(store, &name, None).await;
    remove_all(store, &links).await;
}

async fn until_runner_is(store: &dyn LinkStore, name: &str, wanted: Option<&RunnerState>) {
    while store.runners().await.expect("a list").get(name) != wanted {
        sleep(LOOK_AGAIN).await;
    }
}

/// A stream of changes, of which only those of some links matter.
struct Watcher {
    changes: BoxStream<'static, Change>,
}

impl Watcher {
    fn new(store: &dyn LinkStore) -> Watcher {
        Watcher {
            changes: store.watch(),
        }
    }

    async fn told_put_of_one_of(&mut self, links: &[Arc<Link>]) {
        loop {
            match self.changes.next().await.expect("a watch does not end") {
                Change::Put(link) if links.contains(&link) => return,
                _ => {}
            }
        }
    }

    /// The next that it is told of these links is that.
    async fn told_next(&mut self, links: &[Arc<Link>], wanted: &Change) {
        let is_of_links = |change: &Change| match change {
            Change::Put(link) => links.contains(link),
            Change::Removed(id) => links.iter().any(|link| link.id() == *id),
        };
        loop {
            let change = self.changes.next().await.expect("a watch does not end");
            if is_of_links(&change) {
                assert_eq!(change, *wanted);
                return;
            }
        }
    }

    async fn told_removal_of(&mut self, removed: LinkId) {
        loop {
            match self.changes.next().await.expect("a watch does not end") {
                Change::Removed(id) if id == removed => return,
                _ => {}
            }
        }
    }
}

/// Puts links that no other check has.
async fn put_new(store: &dyn LinkStore, count: usize) -> Vec<Arc<Link>> {
    let link = || {
        let arguments = vec![format!("{:016x}", unique())];
        Arc::new(Link {
            image: "conformance".to_owned(),
            arguments,
            ..Link::default()
        })
    };
    let links: Vec<Arc<Link>> = std::iter::repeat_with(link).take(count).collect();
    put(store, &links).await;
    links
}

async fn put(store: &dyn LinkStore, links: &[Arc<Link>]) {
    for link in links {
        store.put(Arc::clone(link)).await.expect("a put");
    }
}

async fn remove_all(store: &dyn LinkStore, links: &[Arc<Link>]) {
    for link in links {
        store.remove(link.id()).await.expect("a removal");
    }
}
