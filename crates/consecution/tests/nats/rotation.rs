//! Secrets and certificates that are changed while portals and runners are connected:
//! what stands in the files is read for each new connection.

use std::fs;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use crate::support::etcd::Certificates;
use crate::support::nats::{NatsServer, Proxy, connect, serve, until_served, until_waiting};
use crate::support::nats_jwt;
use chain::LinkId;
use consecution::config::{NatsIdentity, NatsOptions, Secret, Tls};
use consecution::transport::conformance::fake;
use consecution::transport::nats::{Nats, Role};
use consecution::transport::{Registration, Request, Transport};
use nkeys::KeyPair;
use test_support::PATIENCE;
use tokio::time::{Instant, sleep, timeout};

/// Connections of a runner.
const CONNECTIONS: usize = 2;

macro_rules! server {
    ($config:expr) => {
        match NatsServer::start($config) {
            Some(server) => server,
            None => cannot_run_here!("there is no nats-server"),
        }
    };
}

/// A runner that calls itself, through something that counts its connections.
struct Connected {
    proxy: Proxy,
    nats: Nats,
    id: LinkId,
    _registration: Registration,
}

impl Connected {
    async fn to(server: &NatsServer, identity: NatsIdentity) -> Connected {
        let proxy = Proxy::start(server).await;
        let options = NatsOptions {
            identity,
            ..proxy.options()
        };
        let nats = connect(&options, Role::Runner).await;
        let (id, registration) = serve(&nats, fake::echo()).await;
        Connected {
            proxy,
            nats,
            id,
            _registration: registration,
        }
    }

    fn count(&self) -> usize {
        self.proxy.connections.load(Ordering::Relaxed)
    }

    /// Waits until there have been so many connections.
    async fn until_count(&self, connections: usize) {
        let counted = async {
            while self.count() < connections {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, counted).await.unwrap();
    }

    async fn expect_to_work(&self) {
        expect_to_work(&self.nats, self.id).await;
    }
}

async fn expect_to_work(nats: &Nats, id: LinkId) {
    until_served(nats, id).await;
    let reply = nats.call(id, Request::new("hello")).await.unwrap();
    assert_eq!(reply.body.collect().await.unwrap(), "hello");
}

/// Both connections are let in with the old secret, dropped, and let in with the new.
async fn expect_rotation(
    identity: impl FnOnce(Secret) -> NatsIdentity,
    secrets: [&str; 2],
    config: impl Fn(&str) -> String,
) {
    let server = server!(&config(secrets[0]));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("secret");
    fs::write(&path, secrets[0]).unwrap();
    let connected = Connected::to(&server, identity(Secret::in_file(&path))).await;
    connected.expect_to_work().await;
    fs::write(&path, format!("{}\n", secrets[1])).unwrap();
    let before = connected.count();
    server.reload(&config(secrets[1]));
    connected.until_count(before + CONNECTIONS).await;
    connected.expect_to_work().await;
}

#[tokio::test]
async fn a_password_that_was_changed_is_used() {
    let identity = |password| NatsIdentity::Password {
        user: "somebody".to_owned(),
        password,
    };
    let config = |password: &str| {
        format!("authorization {{ users: [ {{ user: somebody, password: {password:?} }} ] }}")
    };
    expect_rotation(identity, ["first", "second"], config).await;
}

#[tokio::test]
async fn a_token_that_was_changed_is_used() {
    let config = |token: &str| format!("authorization {{ token: {token:?} }}");
    expect_rotation(NatsIdentity::Token, ["first", "second"], config).await;
}

#[tokio::test]
async fn an_nkey_that_was_changed_is_used() {
    let config = |seed: &str| {
        let public = KeyPair::from_seed(seed).unwrap().public_key();
        format!("authorization {{ users: [ {{ nkey: {public} }} ] }}")
    };
    let seeds = [KeyPair::new_user(), KeyPair::new_user()].map(|keys| keys.seed().unwrap());
    expect_rotation(NatsIdentity::NKey, [&seeds[0], &seeds[1]], config).await;
}

#[tokio::test]
async fn an_expired_jwt_is_tried_rarely_and_a_new_one_used() {
    let (account, config) = nats_jwt::server();
    let server = server!(&config);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("credentials");
    let user = KeyPair::new_user();
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let short = nats_jwt::user(&account, &user, Some(now + 4));
    nats_jwt::write_credentials(&path, &user, &short);
    let connected = Connected::to(&server, NatsIdentity::Credentials(path.clone())).await;
    connected.expect_to_work().await;

    until_waiting(&connected.nats).await;
    let (since, before) = (Instant::now(), connected.count());
    connected.until_count(before + 24).await;
    // Without waits that grow, the two of them try 80 times a second. With them a
    // dozen attempts of each take 2 s to 5 s.
    let taken = since.elapsed();
    assert!(taken > Duration::from_secs(1), "{taken:?}");

    let long = nats_jwt::user(&account, &user, None);
    nats_jwt::write_credentials(&path, &user, &long);
    connected.expect_to_work().await;
}

#[tokio::test]
async fn a_secret_that_is_away_for_a_while_is_waited_for() {
    let mut server = server!("authorization { token: \"hidden\" }");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    fs::write(&path, "hidden").unwrap();
    let token = NatsIdentity::Token(Secret::in_file(&path));
    let connected = Connected::to(&server, token).await;
    fs::remove_file(&path).unwrap();
    server.run_again();
    let mut connection = connected.nats.connection();
    let says = connection.wait_for(|connection| {
        let text = format!("{connection:?}");
        assert!(!text.contains("hidden"), "{text}");
        text.contains("read the secret in")
    });
    timeout(PATIENCE, says).await.unwrap().unwrap();
    fs::write(&path, "hidden").unwrap();
    connected.expect_to_work().await;
}

#[tokio::test]
async fn certificates_that_were_changed_are_used() {
    let folder = tempfile::tempdir().unwrap();
    let set = |name: &str| {
        let path = folder.path().join(name);
        fs::create_dir(&path).unwrap();
        Certificates::new(&path);
        path
    };
    let (old, new) = (set("old"), set("new"));
    let config = |set: &Path| {
        let file = |name: &str| set.join(name);
        format!(
            "tls {{ cert_file: {:?}, key_file: {:?}, ca_file: {:?}, verify: true }}",
            file("server.pem"),
            file("server-key.pem"),
            file("ca.pem"),
        )
    };
    let ours = folder.path().join("ours");
    fs::create_dir(&ours).unwrap();
    let take = |set: &Path| {
        for name in ["ca.pem", "client.pem", "client-key.pem"] {
            fs::copy(set.join(name), ours.join(name)).unwrap();
        }
    };
    take(&old);
    let mut server = server!(&config(&old));
    let options = NatsOptions {
        tls: Tls {
            ca_file: Some(ours.join("ca.pem")),
            client_files: Some((ours.join("client.pem"), ours.join("client-key.pem"))),
        },
        ..server.options()
    };
    let nats = connect(&options, Role::Runner).await;
    let (id, _registration) = serve(&nats, fake::echo()).await;
    take(&new);
    server.run_again_with(&config(&new));
    expect_to_work(&nats, id).await;
}
