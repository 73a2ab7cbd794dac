//! What `docs/operations.md` says of encryption, users and permissions, done as
//! it stands there.

use std::path::Path;
use std::process::Command;

use crate::support::chain::{ChainFile, chain, link};
use crate::support::command::{consecution, finish};
use crate::support::etcd::{Certificates, Etcd};
use crate::support::home;
use crate::support::http::listen;
use crate::support::nats::NatsServer;
use crate::support::network::until_ready;
use crate::support::running::Running;
use async_nats::{ConnectOptions, Event};
use tempfile::TempDir;
use test_support::PATIENCE;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Servers as the document sets them up.
struct Secured {
    nats: NatsServer,
    etcd: Etcd,
    /// Certificates and passwords.
    folder: TempDir,
}

impl Secured {
    /// `None` where a server is not here.
    fn start() -> Option<Secured> {
        let folder = tempfile::tempdir().unwrap();
        let certificates = Certificates::new(folder.path());
        for user in ["portal", "runner", "operator"] {
            let password = folder.path().join(format!("{user}-password"));
            std::fs::write(password, format!("change-me-{user}\n")).unwrap();
        }
        let config = crate::support::documented("# nats-server: encryption");
        let config = in_folder(&config, "/etc/nats/", folder.path());
        let mut etcd = Etcd::reserve()?.with(certificates);
        etcd.run();
        etcd.set_up_roles();
        Some(Secured {
            nats: NatsServer::start(&config)?,
            etcd,
            folder,
        })
    }

    /// The program with the document's settings for a runner, as that user.
    fn command(&self, name: &str, user: &str) -> Command {
        let mut command = consecution(home::shared());
        let settings = crate::support::documented("# /etc/consecution/runner.env");
        let settings = in_folder(&settings, "/etc/consecution/", self.folder.path());
        let settings = settings.replace("USER=runner", &format!("USER={user}"));
        let settings = settings.replace("runner-password", &format!("{user}-password"));
        let settings = settings.lines().filter_map(|line| line.split_once('='));
        command.envs(settings);
        command.env("NATS_URL", self.nats.url().replace("nats://", "tls://"));
        command.env("ETCD_ENDPOINTS", &self.etcd.options().endpoints[0]);
        command.arg(name);
        command
    }

    /// A plain client, and what the server holds against it.
    async fn client(&self, user: &str) -> (async_nats::Client, mpsc::UnboundedReceiver<String>) {
        let (say, said) = mpsc::unbounded_channel();
        let file = |name: &str| self.folder.path().join(name);
        let options = ConnectOptions::new()
            .user_and_password(user.to_owned(), format!("change-me-{user}"))
            .add_root_certificates(file("ca.pem"))
            .add_client_certificate(file("client.pem"), file("client-key.pem"))
            .event_callback(move |event| {
                if let Event::ServerError(error) = event {
                    let _ = say.send(error.to_string());
                }
                async {}
            });
        let client = options.connect(self.nats.url()).await.unwrap();
        (client, said)
    }
}

fn in_folder(text: &str, documented: &str, folder: &Path) -> String {
    text.replace(documented, &format!("{}/", folder.display()))
}

fn words() -> ChainFile {
    chain([link(&["/bin/cat"]), link(&["/bin/grep", "data"])])
}

#[test]
fn portals_and_runners_work_with_no_more_than_they_are_allowed() {
    let Some(secured) = Secured::start() else {
        cannot_run_here!("nats-server, etcd or etcdctl is missing");
    };
    let words = words();
    let _runner = Running::start(secured.command("runner", "runner"));
    let mut portal = secured.command("portal", "portal");
    portal.args(["--listen", "127.0.0.1:0"]).arg(words.path());
    let portal = listen(portal);
    until_ready(&portal);
    let reply = portal.post("/", b"some data\nnone\n").expect(200);
    assert_eq!(reply.text(), "some data\n");
    // More than fits a message, so both sides stream.
    let large = b"data data data\n".repeat(200_000);
    let reply = portal.post("/", &large).expect(200);
    assert!(reply.body == large, "{} bytes", reply.body.len());

    let mut send = secured.command("send", "portal");
    send.arg(words.path());
    finish(send, b"other data", PATIENCE)
        .expect_success()
        .expect_output("other data\n");

    let mut list = secured.command("link", "operator");
    list.arg("list");
    let list = finish(list, b"", PATIENCE).expect_success();
    assert!(list.text().contains("served by 1 of 1"), "{}", list.text());
    let images = secured
        .etcd
        .ctl(["get", "--prefix", "/consecution/images/"]);
    assert!(
        images.contains("library/busybox:latest\nsha256:"),
        "{images}"
    );
}

#[tokio::test]
async fn nobody_may_do_what_others_do() {
    let Some(secured) = Secured::start() else {
        cannot_run_here!("nats-server is missing");
    };
    let link = "consecution.link.188b0237c1423313d2eff0dbfb4d426a";
    let (portal, mut against_portal) = secured.client("portal").await;
    let (runner, mut against_runner) = secured.client("runner").await;
    let refused = async |what: &str, against: &mut mpsc::UnboundedReceiver<String>| {
        let said = timeout(PATIENCE, against.recv()).await;
        let said = said.expect("it is allowed").unwrap().to_lowercase();
        assert!(said.contains("permissions violation"), "{what}: {said}");
    };
    let _listens = portal.subscribe(link).await.unwrap();
    refused("a portal listens to requests", &mut against_portal).await;
    let _serves = portal.queue_subscribe(link, "runners".to_owned()).await;
    refused("a portal serves", &mut against_portal).await;
    let _listens = portal.subscribe("_INBOX.runner.>").await.unwrap();
    refused("a portal listens to runners", &mut against_portal).await;

    runner.publish(link, "x".into()).await.unwrap();
    refused("a runner calls", &mut against_runner).await;
    let _listens = runner.subscribe(link).await.unwrap();
    refused("a runner listens to all", &mut against_runner).await;
    let _listens = runner.subscribe("_INBOX.portal.>").await.unwrap();
    refused("a runner listens to replies", &mut against_runner).await;
}
