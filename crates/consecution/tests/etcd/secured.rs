//! The link store on an etcd that asks who is there: users, roles, tokens that
//! expire, certificates.
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::support::etcd::{Certificates, Etcd as Server};
use chain::Link;
use consecution::Connection;
use consecution::config::{EtcdOptions, Secret};
use consecution::error::with_causes;
use consecution::link_store::etcd::Etcd;
use consecution::link_store::{Change, LinkStore, LinkStoreError, RunnerState, conformance};
use futures_util::StreamExt;
use test_support::PATIENCE;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

/// An etcd that is not started, or the test ends here.
macro_rules! server {
    () => {
        match Server::reserve() {
            Some(server) => server,
            None => cannot_run_here!("there is no etcd; scripts/setup test gets it"),
        }
    };
}

fn as_user(server: &Server, user: &str, password: &str) -> EtcdOptions {
    EtcdOptions {
        user: Some((user.to_owned(), Secret::new(password))),
        ..server.options()
    }
}

fn link(name: &str) -> Arc<Link> {
    Arc::new(Link::new(name))
}

/// The state of a connection after an operation that failed so.
fn waiting_for(error: &str) -> Connection {
    let reason = error.strip_prefix("reach the link store: ").unwrap();
    Connection::Waiting(reason.into())
}

/// How a server refuses a client's certificate. With TLS 1.3 it looks at that when the client
/// already counts as connected, so the client may find the connection closed before it reads
/// the alert.
const REFUSALS: [&str; 4] = [
    "received fatal alert: ",
    "connection closed",
    "connection reset",
    "broken pipe",
];

/// The server has refused our certificate.
#[track_caller]
fn expect_certificate_refused(server: &Server, error: &LinkStoreError) {
    assert!(matches!(error, LinkStoreError::Unavailable(_)), "{error}");
    let error = with_causes(error);
    let start = format!(
        "reach the link store: etcd does not answer, at https://{}: ",
        server.address()
    );
    assert!(error.starts_with(&start), "{error}");
    // The system, hyper and h2 do not agree on capital letters.
    let reason = error[start.len()..].to_lowercase();
    assert!(REFUSALS.iter().any(|it| reason.contains(it)), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_conforms_with_certificates_and_a_user() {
    let mut server = server!().with_certificates();
    server.run();
    server.set_up_roles();
    let root = as_user(&server, "root", "change-me-root");
    conformance::all(&Etcd::new(&root).unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn portal_and_runner_need_no_more_than_the_documented_roles() {
    let mut server = server!();
    server.run();
    server.set_up_roles();
    let store = |user: &str| Etcd::new(&as_user(&server, user, &format!("change-me-{user}")));
    let portal = store("portal").unwrap();
    let runner = store("runner").unwrap();
    let operator = store("operator").unwrap();
    let mut watcher = runner.watch();
    let mut next = async || timeout(PATIENCE, watcher.next()).await.unwrap().unwrap();
    let (say, said) = watch::channel(RunnerState::default());
    let announcement = runner.announce("one", said);

    portal.put(link("a")).await.unwrap();
    assert_eq!(next().await, Change::Put(link("a")));
    assert_eq!(runner.list().await.unwrap(), [link("a")]);
    assert_eq!(runner.pinned_image("a").await.unwrap(), None);
    runner.pin_image("a", "sha256:1").await.unwrap();
    say.send_modify(|state| state.serving = 1);
    let serving = async || {
        portal
            .runners()
            .await
            .unwrap()
            .get("one")
            .map(|it| it.serving)
    };
    let announced = async {
        while serving().await != Some(1) {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, announced).await.unwrap();
    assert_eq!(operator.list().await.unwrap(), [link("a")]);
    assert!(operator.remove(link("a").id()).await.unwrap());
    assert_eq!(next().await, Change::Removed(link("a").id()));
    drop(announcement);
    let gone = async {
        while serving().await.is_some() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    // Sooner than by itself.
    timeout(Duration::from_secs(5), gone).await.unwrap();

    for refused in [
        runner.put(link("b")).await.map(drop),
        runner.remove(link("b").id()).await.map(drop),
        portal.pin_image("b", "sha256:2").await.map(drop),
    ] {
        let error = with_causes(&refused.unwrap_err());
        assert!(error.contains("permission denied"), "{error}");
    }
    // They could be asked, so nothing is wrong with the connection.
    assert_eq!(*portal.connection().borrow(), Connection::Connected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_no_longer_good_is_replaced() {
    let mut server = server!().with_argument("--auth-token-ttl=1");
    server.run();
    server.set_up_roles();
    let root = as_user(&server, "root", "change-me-root");
    let store = Etcd::new(&root).unwrap();
    let mut watcher = store.watch();
    let mut next = async || timeout(PATIENCE, watcher.next()).await.unwrap().unwrap();
    store.put(link("a")).await.unwrap();
    assert_eq!(next().await, Change::Put(link("a")));
    // It expires if nobody uses it.
    sleep(Duration::from_secs(3)).await;
    store.put(link("b")).await.unwrap();
    assert_eq!(next().await, Change::Put(link("b")));
    // An etcd that was restarted knows no tokens.
    server.stop();
    server.run();
    store.put(link("c")).await.unwrap();
    assert_eq!(next().await, Change::Put(link("c")));
    // Roles that change make it out of date.
    server.ctl(["user", "add", "another:password"]);
    store.put(link("d")).await.unwrap();
    assert_eq!(next().await, Change::Put(link("d")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_was_changed_is_used() {
    let mut server = server!();
    server.run();
    server.set_up_roles();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("password");
    std::fs::write(&path, "change-me-operator\n").unwrap();
    let options = EtcdOptions {
        user: Some(("operator".to_owned(), Secret::in_file(&path))),
        ..server.options()
    };
    let store = Etcd::new(&options).unwrap();
    let mut watcher = store.watch();
    let mut next = async || timeout(PATIENCE, watcher.next()).await.unwrap().unwrap();
    store.put(link("a")).await.unwrap();
    assert_eq!(next().await, Change::Put(link("a")));

    // Which also makes the token that we have worthless.
    let change = || {
        server.ctl(["user", "delete", "operator"]);
        server.ctl(["user", "add", "operator:another"]);
        server.ctl(["user", "grant-role", "operator", "operator"]);
    };
    change();
    let error = with_causes(&store.put(link("b")).await.unwrap_err());
    assert!(error.contains("check the etcd user"), "{error}");
    std::fs::write(&path, "another\n").unwrap();
    store.put(link("b")).await.unwrap();
    assert_eq!(next().await, Change::Put(link("b")));

    std::fs::remove_file(&path).unwrap();
    change();
    let error = with_causes(&store.put(link("c")).await.unwrap_err());
    assert!(error.contains("read the secret in"), "{error}");
    std::fs::write(&path, "another").unwrap();
    store.put(link("c")).await.unwrap();
    assert_eq!(next().await, Change::Put(link("c")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_said_and_not_shown() {
    let mut server = server!();
    server.run();
    server.set_up_roles();
    let options = as_user(&server, "root", "hidden");
    assert!(!format!("{options:?}").contains("hidden"));
    let store = Etcd::new(&options).unwrap();
    let error = with_causes(&store.list().await.unwrap_err());
    assert!(
        error.contains("check the etcd user and password"),
        "{error}"
    );
    assert!(!error.contains("hidden"), "{error}");
    assert_eq!(*store.connection().borrow(), waiting_for(&error));

    let nobody = Etcd::new(&server.options()).unwrap();
    let error = with_causes(&nobody.list().await.unwrap_err());
    assert!(error.contains("give those of an etcd user"), "{error}");
    assert_eq!(*nobody.connection().borrow(), waiting_for(&error));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_does_not_fit_is_said() {
    let mut server = server!().with_certificates();
    server.run();
    let folder = tempfile::tempdir().unwrap();
    let good = server.options();
    Etcd::new(&good).unwrap().put(link("a")).await.unwrap();

    let mut wrong_ca = good.clone();
    wrong_ca.tls.ca_file = Certificates::new(folder.path()).tls().ca_file;
    let error = with_causes(&Etcd::new(&wrong_ca).unwrap().list().await.unwrap_err());
    assert!(error.contains("invalid peer certificate"), "{error}");

    let mut without = good.clone();
    without.tls.client_files = None;
    let error = Etcd::new(&without).unwrap().list().await.unwrap_err();
    expect_certificate_refused(&server, &error);

    let mut wrong_key = good.clone();
    let (certificate, _) = good.tls.client_files.clone().unwrap();
    let (_, other_key) = Certificates::new(folder.path()).tls().client_files.unwrap();
    wrong_key.tls.client_files = Some((certificate.clone(), other_key));
    let error = with_causes(&Etcd::new(&wrong_key).err().unwrap());
    assert!(error.contains(certificate.to_str().unwrap()), "{error}");

    let mut missing = good.clone();
    missing.tls.ca_file = Some(PathBuf::from("/none/ca.pem"));
    let error = with_causes(&Etcd::new(&missing).err().unwrap());
    assert!(error.contains("/none/ca.pem"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_was_renewed_is_used() {
    let mut server = server!().with_certificates();
    server.run();
    let folder = tempfile::tempdir().unwrap();
    let mut options = server.options();
    let (certificate, key) = options.tls.client_files.clone().unwrap();
    let here = |name: &str| folder.path().join(name);
    // Another CA's, and then the right one, in the same files.
    let other = Certificates::new(folder.path()).tls().client_files.unwrap();
    std::fs::copy(&other.0, here("c")).unwrap();
    std::fs::copy(&other.1, here("k")).unwrap();
    options.tls.client_files = Some((here("c"), here("k")));
    let store = Etcd::new(&options).unwrap();
    expect_certificate_refused(&server, &store.list().await.unwrap_err());
    std::fs::copy(certificate, here("c")).unwrap();
    std::fs::copy(key, here("k")).unwrap();
    let mut watcher = store.watch();
    store.put(link("a")).await.unwrap();
    let told = timeout(PATIENCE, watcher.next()).await.unwrap();
    assert_eq!(told, Some(Change::Put(link("a"))));
}
