//! It does not matter who starts first: everybody waits, says for what, and
//! comes up.

use rustix::process::Signal;

use crate::support::chain::{ChainFile, chain, link};
use crate::support::command::finish;
use crate::support::etcd::Etcd;
use crate::support::http::Served;
use crate::support::nats::NatsServer;
use crate::support::network::{Servers, until_ready};
use test_support::PATIENCE;

fn seed() -> ChainFile {
    chain([link(&["/bin/cat"]), link(&["/bin/grep", "data"])])
}

#[track_caller]
fn expect_answer(portal: &Served) {
    until_ready(portal);
    assert_eq!(portal.post("/", b"data\n").expect(200).text(), "data\n");
}

#[test]
fn a_portal_waits_for_a_runner() {
    let Some(servers) = Servers::start() else {
        cannot_run_here!("nats-server, etcd or etcdctl is missing");
    };
    let seed = seed();
    let portal = servers.portal(&[&seed]);
    portal.post("/", b"data\n").problem(503);
    let reply = portal.request("GET", "/readyz", b"").expect(503);
    let readiness: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
    assert_eq!(
        readiness["missing"].as_array().unwrap().len(),
        2,
        "{readiness}"
    );
    assert!(reply.text().contains("no runner"), "{}", reply.text());
    let _runner = servers.runner("one");
    expect_answer(&portal);
}

#[test]
fn a_runner_waits_for_a_portal() {
    let Some(servers) = Servers::start() else {
        cannot_run_here!("nats-server, etcd or etcdctl is missing");
    };
    let _runner = servers.runner("one");
    servers.until_serving("one", 0);
    expect_answer(&servers.portal(&[&seed()]));
}

#[test]
fn everybody_waits_for_etcd() {
    let (Some(nats), Some(etcd)) = (NatsServer::start(""), Etcd::reserve()) else {
        cannot_run_here!("nats-server, etcd or etcdctl is missing");
    };
    let mut servers = Servers { nats, etcd };
    let (runner, seed) = (servers.runner("one"), seed());
    runner.until_said("waiting: etcd does not answer");
    let portal = servers.portal(&[&seed]);
    portal.until_said("waiting: etcd does not answer");
    portal.request("GET", "/healthz", b"").expect(200);
    let reply = portal.request("GET", "/readyz", b"").expect(503);
    assert!(reply.text().contains("link store"), "{}", reply.text());
    servers.etcd.run();
    expect_answer(&portal);
}

#[test]
fn everybody_waits_for_nats() {
    let Some(mut servers) = Servers::start() else {
        cannot_run_here!("nats-server, etcd or etcdctl is missing");
    };
    servers.nats.stop();
    let (runner, seed) = (servers.runner("one"), seed());
    runner.until_said("waiting for NATS");
    let portal = servers.portal(&[&seed]);
    portal.until_said("waiting for NATS");
    let reply = portal.request("GET", "/readyz", b"").expect(503);
    assert!(reply.text().contains("NATS"), "{}", reply.text());
    servers.nats.run_again();
    expect_answer(&portal);
}

#[test]
fn who_waits_for_servers_can_be_told_to_leave() {
    let (Some(mut nats), Some(etcd)) = (NatsServer::start(""), Etcd::reserve()) else {
        cannot_run_here!("nats-server, etcd or etcdctl is missing");
    };
    nats.stop();
    let servers = Servers { nats, etcd };
    let (runner, portal) = (servers.runner("one"), servers.portal(&[&seed()]));
    runner.until_said("waiting: etcd does not answer");
    portal.until_said("waiting: etcd does not answer");
    for signalled in [&runner, &*portal] {
        signalled.signal(Signal::TERM);
    }
    runner.end().expect_success();
    portal.end().expect_success();
}

#[test]
fn send_says_what_it_has_waited_for() {
    let Some(mut servers) = Servers::start() else {
        cannot_run_here!("nats-server, etcd or etcdctl is missing");
    };
    let seed = seed();
    let send = |servers: &Servers| {
        let mut send = servers.command("send");
        send.args(["--wait", "500ms"]).arg(seed.path());
        finish(send, b"", PATIENCE)
    };
    send(&servers)
        .expect_code(125)
        .expect_stderr(&["link 1 'cat' (busybox) cannot be called", "no runner"]);
    servers.nats.stop();
    send(&servers).expect_code(125).expect_stderr(&["NATS"]);
    servers.etcd.stop();
    send(&servers).expect_code(125).expect_stderr(&["etcd"]);
}
