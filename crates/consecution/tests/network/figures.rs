//! What portals show of runners elsewhere.

use serde_json::Value;

use crate::support::chain::{ChainFile, chain, link};
use crate::support::etcd::Etcd;
use crate::support::http::{Served, listen};
use crate::support::nats::NatsServer;
use crate::support::network::{Servers, until_ready};
use crate::support::plain_nats::PlainClient;
use crate::support::running::Running;
use test_support::eventually;

fn words() -> ChainFile {
    chain([link(&["/bin/cat"]), link(&["/bin/sort"])])
}

fn stats(portal: &Served) -> Value {
    let reply = portal.request("GET", "/stats", b"").expect(200);
    serde_json::from_str(reply.text()).unwrap()
}

#[test]
fn a_portal_shows_the_processes_of_all_runners() {
    let Some(servers) = Servers::start() else {
        cannot_run_here!("nats-server, etcd or etcdctl is missing");
    };
    let words = words();
    let portal = servers.portal(&[&words]);
    let _runners = ["one", "two"].map(|name| servers.runner(name));
    until_ready(&portal);
    servers.until_serving("one", 2);
    servers.until_serving("two", 2);
    eventually("both runners to tell", || {
        let stats = stats(&portal);
        let runners = stats["runners"].as_array().unwrap();
        let idle = |runner: &Value| runner["processes"]["idle"].as_u64();
        let told: Option<u64> = runners.iter().map(idle).sum();
        let links = stats["chains"][0]["links"].as_array().unwrap();
        let of_links = links
            .iter()
            .map(|link| link["processes"]["idle"].as_u64().unwrap());
        let names: Vec<_> = runners.iter().map(|it| it["name"].clone()).collect();
        let of_links: u64 = of_links.sum();
        (names == ["one", "two"] && told? >= 4 && told? == of_links).then_some(())
    });
    // A link that some runner tells of is not asked for, and one that none does, is.
    drop(_runners);
    eventually("the links to be missing", || {
        let stats = stats(&portal);
        (stats["missing"].as_array().unwrap().len() == 2).then_some(())
    });
}

#[test]
fn a_plain_client_may_ask() {
    let Some(servers) = Servers::start() else {
        cannot_run_here!("nats-server, etcd or etcdctl is missing");
    };
    let words = words();
    let portal = servers.portal(&[&words]);
    let _runner = servers.runner("one");
    until_ready(&portal);
    servers.until_serving("one", 2);
    let mut client = PlainClient::connect(servers.nats.port);
    eventually("both links in reserve", || {
        let answer = client.request("consecution.stats", b"", b"");
        let figures: Value = serde_json::from_slice(&answer.payload).unwrap();
        assert_eq!(figures["name"], "one");
        let links = figures["links"].as_object().unwrap();
        assert_eq!(links.len(), 2);
        let is_warm = |id: &String| links[id]["idle"].as_u64() >= Some(2);
        words.ids().iter().all(is_warm).then_some(())
    });
    // Nothing that is not a question with an inbox is answered, or does harm.
    client.publish("consecution.stats", "", b"", b"x");
    client.publish("consecution.stats", "consecution.stats", b"", b"x");
    client.publish("consecution.stats", "$SYS.REQ.SERVER.PING", b"", b"x");
    client.request("consecution.stats", b"NATS/1.0\r\nA: \xff\r\n\r\n", b"\xff");
    portal.post("/", b"x").expect(200);
}

/// What `docs/operations.md` allowed before there were figures.
const EARLIER: &str = r#"
authorization {
  users: [
    { user: "portal", password: "pw", permissions: {
        publish: ["consecution.link.*", "_INBOX.runner.>"]
        subscribe: ["_INBOX.portal.>"] } }
    { user: "runner", password: "pw", permissions: {
        publish: ["_INBOX.>"]
        subscribe: ["consecution.link.* runners", "_INBOX.runner.>"] } }
  ]
}
"#;

#[test]
fn what_the_permissions_of_earlier_versions_deny_is_off_and_changes_nothing_else() {
    let (Some(nats), Some(etcd)) = (NatsServer::start(EARLIER), Etcd::start()) else {
        cannot_run_here!("nats-server, etcd or etcdctl is missing");
    };
    let servers = Servers { nats, etcd };
    let folder = tempfile::tempdir().unwrap();
    let password = folder.path().join("password");
    std::fs::write(&password, "pw").unwrap();
    let as_user = |name: &str| {
        let mut command = servers.command(name);
        command.env("CONSECUTION_NATS_USER", name);
        command.env("CONSECUTION_NATS_PASSWORD_FILE", &password);
        command
    };
    let mut runner = as_user("runner");
    runner.args(["--name", "one"]);
    let runner = Running::start(runner);
    let words = words();
    let mut portal = as_user("portal");
    portal.args(["--listen", "127.0.0.1:0"]).arg(words.path());
    let portal = listen(portal);
    until_ready(&portal);
    let stats = stats(&portal);
    assert_eq!(stats["ready"], true);
    assert_eq!(stats["missing"], Value::Array(Vec::new()));
    assert_eq!(stats["runners"][0]["processes"], Value::Null);
    for _ in 0..20 {
        portal.post("/", b"x").expect(200);
    }
    until_ready(&portal);
    let complaints = |said: &str| said.matches("consecution.stats").count();
    assert_eq!(complaints(&runner.said()), 1, "{}", runner.said());
    assert_eq!(complaints(&portal.said()), 1, "{}", portal.said());
}
