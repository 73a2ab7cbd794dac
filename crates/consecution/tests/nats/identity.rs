//! Servers that want to know who we are, and are reached under encryption.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::nats::{NatsServer, TwoConnections, connect, serve};
use crate::support::nats_jwt;
use consecution::config::{NatsIdentity, NatsOptions, Secret, Tls};
use consecution::transport::conformance::fake;
use consecution::transport::nats::subject;
use consecution::transport::nats::{Connection, Nats, Role};
use consecution::transport::{Request, Transport, conformance};
use nkeys::KeyPair;
use test_support::PATIENCE;
use tokio::time::timeout;

/// An NKey that is in the documentation of NATS, so no secret.
const SEED: &str = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY";
const PUBLIC: &str = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4";

async fn expect_to_work(options: &NatsOptions) {
    let nats = connect(options, Role::Runner).await;
    let (id, _registration) = serve(&nats, fake::echo()).await;
    let reply = nats.call(id, Request::new("hello")).await.unwrap();
    assert_eq!(reply.body.collect().await.unwrap(), "hello");
}

/// It goes on trying, and says that much of why it must.
async fn expect_refusal(options: &NatsOptions, part: &str) {
    let nats = Nats::new(options, Role::Portal, "tester").unwrap();
    let mut connection = nats.connection();
    let says_why = |connection: &Connection| match connection {
        Connection::Waiting(why) => {
            assert!(!why.contains("hidden"), "{why}");
            why.contains(part)
        }
        Connection::Connected => panic!("it was let in"),
    };
    let waited = timeout(PATIENCE, connection.wait_for(says_why)).await;
    assert!(waited.is_ok(), "{:?}", nats.connection().borrow());
}

fn with(server: &NatsServer, identity: NatsIdentity) -> NatsOptions {
    NatsOptions {
        identity,
        ..server.options()
    }
}

fn password(password: &str) -> NatsIdentity {
    NatsIdentity::Password {
        user: "somebody".to_owned(),
        password: Secret::new(password),
    }
}

#[tokio::test]
async fn a_user_with_a_password_is_let_in() {
    let config = "authorization { user: somebody, password: \"hid den\" }";
    let Some(server) = NatsServer::start(config) else {
        cannot_run_here!("there is no nats-server");
    };
    expect_to_work(&with(&server, password("hid den"))).await;
    let in_url = NatsOptions {
        servers: vec![format!(
            "nats://somebody:hid%20den@127.0.0.1:{}",
            server.port
        )],
        ..NatsOptions::default()
    };
    expect_to_work(&in_url).await;
    let wrong = with(&server, password("hidden"));
    expect_refusal(&wrong, "authorization violation").await;
    expect_refusal(&server.options(), "authorization violation").await;
    let wrong_in_url = NatsOptions {
        servers: vec![format!("nats://somebody:hidden@127.0.0.1:{}", server.port)],
        ..NatsOptions::default()
    };
    expect_refusal(&wrong_in_url, "authorization violation").await;
}

#[tokio::test]
async fn a_token_is_let_in() {
    let Some(server) = NatsServer::start("authorization { token: \"s3cr3t\" }") else {
        cannot_run_here!("there is no nats-server");
    };
    expect_to_work(&with(&server, NatsIdentity::Token(Secret::new("s3cr3t")))).await;
    let wrong = with(&server, NatsIdentity::Token(Secret::new("hidden")));
    expect_refusal(&wrong, "authorization violation").await;
}

#[tokio::test]
async fn an_nkey_is_let_in() {
    let config = format!("authorization {{ users: [ {{ nkey: {PUBLIC} }} ] }}");
    let Some(server) = NatsServer::start(&config) else {
        cannot_run_here!("there is no nats-server");
    };
    expect_to_work(&with(&server, NatsIdentity::NKey(Secret::new(SEED)))).await;
    expect_refusal(&server.options(), "authorization violation").await;
}

#[tokio::test]
async fn a_credentials_file_is_let_in() {
    let (account, config) = nats_jwt::server();
    let user = KeyPair::new_user();
    let Some(server) = NatsServer::start(&config) else {
        cannot_run_here!("there is no nats-server");
    };
    let folder = tempfile::tempdir().unwrap();
    let credentials = |user: &KeyPair, jwt: &str| {
        let path = folder.path().join(user.public_key());
        nats_jwt::write_credentials(&path, user, jwt);
        with(&server, NatsIdentity::Credentials(path))
    };
    let ours = nats_jwt::user(&account, &user, None);
    expect_to_work(&credentials(&user, &ours)).await;
    let other = credentials(&KeyPair::new_user(), &ours);
    expect_refusal(&other, "authorization violation").await;
}

/// Certificates of one authority, and one of another.
struct Certificates {
    folder: tempfile::TempDir,
}

impl Certificates {
    /// `None` where they cannot be made.
    fn make() -> Option<Certificates> {
        let folder = tempfile::tempdir().unwrap();
        for (ca, names) in [("ca", &["server", "client"][..]), ("other", &[])] {
            let subject = format!("/CN={ca}");
            let ca_files = [format!("{ca}-key.pem"), format!("{ca}.pem")];
            let arguments = ["req", "-x509", "-newkey", "ec", "-pkeyopt"];
            let mut args = Vec::from(arguments);
            args.extend(["ec_paramgen_curve:P-256", "-nodes", "-days", "2"]);
            args.extend([
                "-subj",
                &subject,
                "-keyout",
                &ca_files[0],
                "-out",
                &ca_files[1],
            ]);
            openssl(folder.path(), &args)?;
            for name in names {
                let subject = format!("/CN={name}");
                let files = [format!("{name}-key.pem"), format!("{name}.pem")];
                let mut args = Vec::from(arguments);
                args.extend(["ec_paramgen_curve:P-256", "-nodes", "-days", "2"]);
                args.extend(["-CA", &ca_files[1], "-CAkey", &ca_files[0]]);
                args.extend(["-subj", &subject, "-keyout", &files[0], "-out", &files[1]]);
                args.extend(["-addext", "subjectAltName=IP:127.0.0.1"]);
                args.extend(["-addext", "basicConstraints=critical,CA:FALSE"]);
                openssl(folder.path(), &args)?;
            }
        }
        Some(Certificates { folder })
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn server_config(&self, verify: bool) -> String {
        format!(
            "tls {{ cert_file: {:?}, key_file: {:?}, ca_file: {:?}, verify: {verify} }}",
            self.file("server.pem"),
            self.file("server-key.pem"),
            self.file("ca.pem"),
        )
    }
}

fn openssl(folder: &Path, arguments: &[&str]) -> Option<()> {
    let mut openssl = Command::new("openssl");
    let command = openssl.args(arguments).current_dir(folder);
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.ok()?.success().then_some(())
}

fn with_tls(server: &NatsServer, tls: Tls) -> NatsOptions {
    NatsOptions {
        tls,
        ..server.options()
    }
}

#[tokio::test]
async fn an_encrypted_connection_is_made_with_whom_we_trust_only() {
    let Some(certificates) = Certificates::make() else {
        cannot_run_here!("openssl makes no certificates");
    };
    let Some(server) = NatsServer::start(&certificates.server_config(false)) else {
        cannot_run_here!("there is no nats-server");
    };
    let trusting = |ca: &str| Tls {
        ca_file: Some(certificates.file(ca)),
        client_files: None,
    };
    expect_to_work(&with_tls(&server, trusting("ca.pem"))).await;
    expect_refusal(&with_tls(&server, trusting("other.pem")), "certificate").await;
    expect_refusal(&server.options(), "certificate").await;
}

#[tokio::test]
async fn a_server_that_asks_for_our_certificate_gets_it() {
    let Some(certificates) = Certificates::make() else {
        cannot_run_here!("openssl makes no certificates");
    };
    let Some(server) = NatsServer::start(&certificates.server_config(true)) else {
        cannot_run_here!("there is no nats-server");
    };
    let tls = Tls {
        ca_file: Some(certificates.file("ca.pem")),
        client_files: Some((
            certificates.file("client.pem"),
            certificates.file("client-key.pem"),
        )),
    };
    expect_to_work(&with_tls(&server, tls.clone())).await;
    let without = Tls {
        client_files: None,
        ..tls
    };
    expect_refusal(&with_tls(&server, without), "127.0.0.1").await;
}

#[tokio::test]
async fn who_wants_encryption_does_not_go_without() {
    let Some(certificates) = Certificates::make() else {
        cannot_run_here!("openssl makes no certificates");
    };
    let Some(server) = NatsServer::start("") else {
        cannot_run_here!("there is no nats-server");
    };
    let tls = Tls {
        ca_file: Some(certificates.file("ca.pem")),
        client_files: None,
    };
    expect_refusal(&with_tls(&server, tls), "127.0.0.1").await;
}

/// What `docs/protocol.md` says that portals and runners need, and no more.
const PERMISSIONS: &str = r#"
authorization {
  users: [
    {
      user: portal, password: pw
      permissions: {
        publish: ["consecution.link.>", "consecution.stats", "_INBOX.runner.>"]
        subscribe: "_INBOX.portal.>"
      }
    }
    {
      user: runner, password: pw
      permissions: {
        publish: ["_INBOX.portal.>", "_INBOX.runner.>"]
        subscribe: ["consecution.link.> runners", "consecution.stats", "_INBOX.runner.>"]
        allow_responses: true
      }
    }
    {
      user: plain, password: pw
      permissions: {
        publish: "consecution.link.>"
        subscribe: "_INBOX.>"
      }
    }
  ]
}
"#;

#[tokio::test]
async fn the_permissions_that_are_documented_are_enough() {
    let Some(server) = NatsServer::start(PERMISSIONS) else {
        cannot_run_here!("there is no nats-server");
    };
    let user = |user: &str| {
        let identity = NatsIdentity::Password {
            user: user.to_owned(),
            password: Secret::new("pw"),
        };
        with(&server, identity)
    };
    let two = TwoConnections {
        portal: connect(&user("portal"), Role::Portal).await,
        runner: connect(&user("runner"), Role::Runner).await,
    };
    conformance::all(&two).await;
    let (id, registration) = serve(&two, fake::echo()).await;
    let plain = async_nats::ConnectOptions::with_user_and_password("plain".into(), "pw".into());
    let plain = plain.connect(server.url()).await.unwrap();
    let reply = plain.request(subject::of_link(id), "hello".into()).await;
    assert_eq!(reply.unwrap().payload, "hello");
    timeout(PATIENCE, registration.withdraw()).await.unwrap();
}
