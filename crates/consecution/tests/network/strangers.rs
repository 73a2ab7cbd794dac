//! Others who listen to what goes over NATS: streams that keep it, subscribers to
//! everything.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::chain::{chain, link, shell};
use crate::support::etcd::Etcd;
use crate::support::http::Served;
use crate::support::nats::NatsServer;
use crate::support::network::{Servers, until_ready};
use crate::support::plain_nats::PlainClient;
use test_support::{PATIENCE, eventually};

/// How soon a client must be told that there is no runner.
const NOBODY_WAIT_MAX: Duration = Duration::from_secs(8);

fn expect_nobody(portal: &Served) {
    let asked = Instant::now();
    portal.post("/", b"data").expect(503);
    assert!(asked.elapsed() < NOBODY_WAIT_MAX, "{:?}", asked.elapsed());
    portal.request("GET", "/readyz", b"").expect(503);
    let metrics = portal.request("GET", "/metrics", b"").expect(200);
    let is_counted = |line: &str| {
        line.starts_with("consecution_call_failures_total")
            && line.contains("kind=\"no_runner\"")
            && line.ends_with(" 1")
    };
    let metrics = metrics.text();
    assert!(metrics.lines().any(is_counted), "{metrics}");
}

#[test]
fn a_stream_that_keeps_requests_takes_no_call() {
    let (Some(nats), Some(etcd)) = (NatsServer::start_with_jetstream(), Etcd::start()) else {
        cannot_run_here!("nats-server, etcd or etcdctl is missing");
    };
    let servers = Servers { nats, etcd };
    let mut client = PlainClient::connect(servers.nats.port);
    let stream = br#"{"name":"audit","subjects":["consecution.>"],"storage":"memory"}"#;
    let created = client.request("$JS.API.STREAM.CREATE.audit", b"", stream);
    let created = String::from_utf8(created.payload).unwrap();
    assert!(created.contains("\"config\""), "{created}");

    let chain = chain([link(&["/bin/cat"]), link(&["/bin/cat"])]);
    let portal = servers.portal(&[&chain]);
    expect_nobody(&portal);
    let _runner = servers.runner("north");
    until_ready(&portal);
    for _ in 0..30 {
        let reply = portal.post("/", b"data").expect(200);
        assert_eq!(reply.text(), "data");
    }
    let said = portal.said();
    assert_eq!(said.matches("stream 'audit'").count(), 1, "{said}");
    assert!(!said.contains("is called again"), "{said}");
}

#[test]
fn a_suspended_runner_that_a_subscriber_to_everything_hides_runs_nothing_twice() {
    let Some(servers) = Servers::start() else {
        cannot_run_here!("nats-server, etcd or etcdctl is missing");
    };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let runs = Arc::<AtomicUsize>::default();
    let count = Arc::clone(&runs);
    std::thread::spawn(move || {
        while listener.accept().is_ok() {
            count.fetch_add(1, Ordering::SeqCst);
        }
    });
    // Only once it has input, which is not when its process is started.
    let script = format!("read line; echo $line | nc 127.0.0.1 {port}; echo done");
    let chain = chain([shell(&script).with("Network", "host")]);
    let runner = servers.runner("north");
    let portal = servers.portal(&[&chain]);
    until_ready(&portal);
    portal.post("/", b"one\n").expect(200);
    eventually("the first run to be noticed", || {
        (runs.load(Ordering::SeqCst) == 1).then_some(())
    });
    let mut everything = PlainClient::connect(servers.nats.port);
    everything.subscribe(">");
    everything.flush();

    runner.signal(Signal::STOP);
    expect_nobody(&portal);
    runner.signal(Signal::CONT);
    until_ready(&portal);
    let deadline = Instant::now() + PATIENCE;
    while portal.post("/", b"two\n").status != 200 {
        assert!(Instant::now() < deadline, "the runner does not come back");
    }
    eventually("the second run to be noticed", || {
        (runs.load(Ordering::SeqCst) >= 2).then_some(())
    });
    assert_eq!(runs.load(Ordering::SeqCst), 2);
}
