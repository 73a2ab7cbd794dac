//! The link store on a real etcd: it conforms, and comes back after whatever
//! happens to etcd or on the way there.
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::support::etcd::{Etcd as Server, Relay};
use chain::Link;
use consecution::Connection;
use consecution::config::EtcdOptions;
use consecution::error::with_causes;
use consecution::link_store::etcd::Etcd;
use consecution::link_store::{Change, LinkStore, RunnerState, conformance};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use test_support::{PATIENCE, eventually};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

/// How long to look whether something is told that must not be.
const LOOK_FOR: Duration = Duration::from_millis(300);

/// An etcd, or the test ends here.
macro_rules! server {
    ($make:ident) => {
        match Server::$make() {
            Some(server) => server,
            None => cannot_run_here!("there is no etcd; scripts/setup test gets it"),
        }
    };
}

fn link(name: &str) -> Arc<Link> {
    Arc::new(Link::new(name))
}

fn key(link: &Link) -> String {
    format!("/consecution/links/{}", link.id())
}

/// What a runner sees of the links.
struct Watcher(BoxStream<'static, Change>);

impl Watcher {
    fn new(store: &Etcd) -> Watcher {
        Watcher(store.watch())
    }

    /// The next that it is told.
    async fn next(&mut self) -> Change {
        let next = timeout(PATIENCE, self.0.next()).await;
        next.expect("nothing is told")
            .expect("a watch does not end")
    }

    /// It is told that, and nothing else before.
    async fn told(&mut self, changes: &[Change]) {
        for change in changes {
            assert_eq!(self.next().await, *change);
        }
    }

    async fn told_nothing(&mut self) {
        let told = timeout(LOOK_FOR, self.0.next()).await;
        assert!(told.is_err(), "{told:?}");
    }
}

/// Waits until it is so with the connection.
async fn until_connection(store: &Etcd, is_so: impl Fn(&Connection) -> bool) -> Connection {
    let mut connection = store.connection();
    let waited = timeout(PATIENCE, connection.wait_for(is_so)).await;
    let connection = waited.expect("the connection stays as it is");
    connection.expect("the store is there").clone()
}

fn is_waiting(connection: &Connection) -> bool {
    matches!(connection, Connection::Waiting(_))
}

/// Does it again until it works.
async fn put(store: &Etcd, link: &Arc<Link>) {
    let putting = async {
        while store.put(Arc::clone(link)).await.is_err() {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, putting).await.expect("a put");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_conforms() {
    let server = server!(start);
    conformance::all(&Etcd::new(&server.options()).unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_etcd_reads_as_yaml() {
    let server = server!(start);
    let store = Etcd::new(&server.options()).unwrap();
    let cat = Arc::new(Link {
        command: Some("/bin/cat".to_owned()),
        ..Link::new("busybox")
    });
    store.put(Arc::clone(&cat)).await.unwrap();
    store
        .pin_image("localhost:5000/a:b", "sha256:1")
        .await
        .unwrap();
    let (_say, said) = watch::channel(RunnerState {
        serving: 3,
        ..RunnerState::default()
    });
    let _announcement = store.announce("one", said);
    eventually("the runner's key", || {
        let runner = server.ctl(["get", "--print-value-only", "/consecution/runners/one"]);
        runner.contains("\"Serving\": 3").then_some(())
    });
    let all = server.ctl(["get", "--prefix", "/consecution/"]);
    let wanted = [
        "/consecution/images/localhost:5000/a:b\nsha256:1\n",
        "/consecution/links/188b0237c1423313d2eff0dbfb4d426a\n",
        "Image: busybox\nCommand: /bin/cat\n",
    ];
    for part in wanted {
        assert!(all.contains(part), "no {part:?} in {all}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn more_links_than_fit_a_page_are_listed() {
    let server = server!(start);
    let store = Etcd::new(&server.options()).unwrap();
    let links: Vec<_> = (0..70)
        .map(|number| link(&format!("image-{number}")))
        .collect();
    for link in &links {
        store.put(Arc::clone(link)).await.unwrap();
    }
    let listed = store.list().await.unwrap();
    assert_eq!(listed.len(), links.len());
    assert!(links.iter().all(|link| listed.contains(link)));
}

#[tokio::test(flavor = "multi_thread")]
async fn putting_again_makes_no_new_revision() {
    let server = server!(start);
    let store = Etcd::new(&server.options()).unwrap();
    let link = link("a");
    let revision = || {
        let all = server.ctl(["get", "/consecution/links/", "--prefix", "-w=fields"]);
        let line = all.lines().find(|line| line.starts_with("\"Revision\""));
        line.unwrap().to_owned()
    };
    store.put(Arc::clone(&link)).await.unwrap();
    let first = revision();
    store.put(link).await.unwrap();
    assert_eq!(revision(), first);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_etcd_that_starts_late_is_waited_for() {
    let mut server = server!(reserve);
    let store = Etcd::new(&server.options()).unwrap();
    let mut watcher = Watcher::new(&store);
    let (_say, said) = watch::channel(RunnerState::default());
    let _announcement = store.announce("early", said);
    let endpoint = format!("http://{}", server.address());
    let started = Instant::now();
    let error = with_causes(&store.put(link("a")).await.unwrap_err());
    assert!(started.elapsed() < Duration::from_secs(30));
    for part in [&endpoint, "Connection refused", "check that it runs"] {
        assert!(error.contains(part), "no {part:?} in {error}");
    }
    let waiting =
        |it: &Connection| matches!(it, Connection::Waiting(why) if why.contains(&endpoint));
    until_connection(&store, waiting).await;
    watcher.told_nothing().await;

    server.run();
    until_connection(&store, |it| *it == Connection::Connected).await;
    put(&store, &link("a")).await;
    watcher.told(&[Change::Put(link("a"))]).await;
    eventually("the runner's key", || {
        let keys = server.ctl(["get", "--prefix", "--keys-only", "/consecution/runners/"]);
        keys.contains("/consecution/runners/early").then_some(())
    });
}

/// What a watcher is told when etcd was gone, and its links have changed before
/// it came back where it was.
async fn tells_what_has_changed_meanwhile(mut server: Server, is_compacted: bool) {
    let store = Etcd::new(&server.options()).unwrap();
    for name in ["a", "b"] {
        store.put(link(name)).await.unwrap();
    }
    let mut watcher = Watcher::new(&store);
    let (one, other) = (watcher.next().await, watcher.next().await);
    assert!([&one, &other].contains(&&Change::Put(link("a"))));

    server.stop();
    until_connection(&store, is_waiting).await;
    server.run_elsewhere();
    server.ctl(["del", &key(&link("a"))]);
    server.ctl(["put", &key(&link("c")), &link("c").to_yaml()]);
    if is_compacted {
        let all = server.ctl(["get", "none", "-w=json"]);
        let revision = all.split("\"revision\":").nth(1).unwrap();
        let revision = revision.split([',', '}']).next().unwrap();
        server.ctl(["compact", revision]);
    }
    server.stop();
    server.run();

    // Nothing of b, which has not changed.
    let changes = [Change::Removed(link("a").id()), Change::Put(link("c"))];
    watcher.told(&changes).await;
    until_connection(&store, |it| *it == Connection::Connected).await;
    store.remove(link("b").id()).await.unwrap();
    watcher.told(&[Change::Removed(link("b").id())]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changed_while_etcd_was_away_is_told() {
    tells_what_has_changed_meanwhile(server!(start), false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changed_and_was_compacted_meanwhile_is_told() {
    tells_what_has_changed_meanwhile(server!(start), true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn links_outlive_an_etcd_that_comes_back_empty() {
    let mut server = server!(start);
    let store = Etcd::new(&server.options()).unwrap();
    // So that the new data cannot pass for a continuation.
    for name in ["a", "b", "c", "d", "e", "f"] {
        store.put(link(name)).await.unwrap();
        store.remove(link(name).id()).await.unwrap();
    }
    store.put(link("a")).await.unwrap();
    let mut watcher = Watcher::new(&store);
    watcher.told(&[Change::Put(link("a"))]).await;

    server.stop();
    until_connection(&store, is_waiting).await;
    server.lose_data();
    server.run();
    put(&store, &link("b")).await;
    watcher.told(&[Change::Put(link("b"))]).await;
    watcher.told_nothing().await;
    // Once it is put again, it can be removed as ever.
    put(&store, &link("a")).await;
    store.remove(link("b").id()).await.unwrap();
    watcher.told(&[Change::Removed(link("b").id())]).await;
    store.remove(link("a").id()).await.unwrap();
    watcher.told(&[Change::Removed(link("a").id())]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_etcd_that_hangs_is_given_up_and_taken_up_again() {
    let server = server!(start);
    let store = Etcd::new(&server.options()).unwrap();
    let mut watcher = Watcher::new(&store);
    put(&store, &link("a")).await;
    watcher.told(&[Change::Put(link("a"))]).await;

    server.suspend();
    let error = with_causes(&store.list().await.unwrap_err());
    assert!(error.contains("no answer within 5 s"), "{error}");
    assert!(is_waiting(&store.connection().borrow()));
    watcher.told_nothing().await;

    server.wake();
    until_connection(&store, |it| *it == Connection::Connected).await;
    put(&store, &link("b")).await;
    watcher.told(&[Change::Put(link("b"))]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_died_silently_is_noticed() {
    let server = server!(start);
    let relay = Relay::to(server.address()).await;
    let over_way = Etcd::new(&EtcdOptions {
        endpoints: vec![relay.url()],
        ..EtcdOptions::default()
    });
    let mut watcher = Watcher::new(&over_way.unwrap());
    let beside = Etcd::new(&server.options()).unwrap();
    put(&beside, &link("a")).await;
    watcher.told(&[Change::Put(link("a"))]).await;

    relay.cut_silently();
    put(&beside, &link("b")).await;
    let started = Instant::now();
    watcher.told(&[Change::Put(link("b"))]).await;
    let elapsed = started.elapsed();
    assert!(elapsed < Duration::from_secs(25), "{elapsed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn when_an_endpoint_is_gone_the_others_are_used() {
    let server = server!(start);
    let dead = server!(reserve);
    let (one, other) = (
        Relay::to(server.address()).await,
        Relay::to(server.address()).await,
    );
    let store = Etcd::new(&EtcdOptions {
        endpoints: vec![format!("http://{}", dead.address()), one.url(), other.url()],
        ..EtcdOptions::default()
    });
    let store = store.unwrap();
    let mut watcher = Watcher::new(&store);
    store.put(link("a")).await.unwrap();
    watcher.told(&[Change::Put(link("a"))]).await;
    one.close();
    store.put(link("b")).await.unwrap();
    watcher.told(&[Change::Put(link("b"))]).await;
    other.close();
    let error = with_causes(&store.put(link("c")).await.unwrap_err());
    for url in [one.url(), other.url(), format!("http://{}", dead.address())] {
        assert!(error.contains(&url), "no {url} in {error}");
    }
}
