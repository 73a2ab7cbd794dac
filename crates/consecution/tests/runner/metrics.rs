//! What a runner counts, and what it says of itself over HTTP.
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::support::chain::{chain, link as chain_link};
use crate::support::http::serve;
use crate::support::runner::{Call, World, is_soon, metrics, shell, soon};
use chain::Link;
use consecution::Connection;
use consecution::http::{self, Options as HttpOptions};
use consecution::runner::http::{Connections, bind};
use consecution::runner::{Options, Runner};
use consecution::transport::{RefusalReason, Request};
use futures_util::FutureExt;
use test_support::processes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

fn broken() -> Link {
    Link {
        command: Some("/nonesuch".to_owned()),
        ..Link::new("busybox")
    }
}

/// Whether a line is there that begins and ends so.
fn counts(text: &str, name: &str, labels: &str, count: usize) -> bool {
    let line = format!("consecution_{name}{{{labels}}} {count}");
    text.lines().any(|found| found == line)
}

#[tokio::test]
async fn calls_are_counted_by_link_and_by_how_they_ended() {
    let world = World::start(Options {
        processes_max: 2,
        ..Options::default()
    });
    let link = shell("read word; exit $word");
    let portal = world.portal(&link).await;
    world.until(&link, |counts| counts.idle == 2).await;
    for word in ["0\n", "0\n", "3\n"] {
        let _ = portal.send(word).await;
        world.until(&link, |counts| counts.idle == 2).await;
    }
    let id = link.id();
    let text = metrics(&world.runner);
    let of = |label: &str| format!("link_id=\"{id}\",{label}");
    let call = |ending, count| {
        let labels = of(&format!("ending=\"{ending}\""));
        assert!(
            counts(&text, "runner_calls_total", &labels, count),
            "{ending} {count}: {text}"
        );
    };
    call("exited_0", 2);
    call("exited", 1);
    call("lost", 0);
    let only = format!("link_id=\"{id}\"");
    for (name, count) in [
        ("runner_warm_hits_total", 3),
        ("runner_warm_misses_total", 0),
        ("runner_start_failures_total", 0),
        ("runner_spoiled_total", 0),
        ("runner_call_duration_seconds_count", 3),
        ("pool_waiting", 0),
    ] {
        assert!(counts(&text, name, &only, count), "{name} {count}: {text}");
    }
    assert!(counts(&text, "pool_processes", &of("state=\"idle\""), 2));
    assert!(counts(&text, "runner_links", "state=\"serving\"", 1));
    let limit = of("limit=\"cpu-time\"");
    assert!(counts(&text, "link_limits_total", &limit, 0), "{text}");
    for name in ["link_cpu_seconds", "link_received_bytes", "link_sent_bytes"] {
        let series = format!("\nconsecution_{name}_total{{{only}}} ");
        assert!(text.contains(&series), "{name}: {text}");
    }
    let starts = "consecution_runner_start_duration_seconds_count 5\n";
    assert!(text.contains(starts), "{text}");
}

#[tokio::test]
async fn refusals_and_broken_links_are_counted() {
    let world = World::start(Options {
        processes_max: 1,
        ..Options::default()
    });
    let link = shell("cat");
    let portal = world.portal(&link).await;
    let call = Call::begin(&portal).await;
    let refused = world.transport.call(link.id(), Request::new("x"));
    let refusal = refused.now_or_never().unwrap().unwrap_err();
    assert!(matches!(refusal.reason, RefusalReason::Busy));
    world.links.put(Arc::new(broken())).await.unwrap();
    world.runner.ready(broken().id()).await.unwrap_err();
    let text = metrics(&world.runner);
    let busy = format!("link_id=\"{}\",reason=\"busy\"", link.id());
    assert!(counts(&text, "runner_refusals_total", &busy, 1), "{text}");
    assert!(
        counts(&text, "runner_links", "state=\"broken\"", 1),
        "{text}"
    );
    let in_use = format!("link_id=\"{}\",state=\"in_use\"", link.id());
    assert!(counts(&text, "pool_processes", &in_use, 1), "{text}");
    call.finish().await;
}

#[tokio::test]
async fn a_link_that_is_removed_leaves_no_series() {
    let world = World::start(Options::default());
    let link = shell("cat");
    let portal = world.portal(&link).await;
    assert_eq!(portal.send("x").await.unwrap(), "x");
    let id = link.id().to_string();
    assert!(metrics(&world.runner).contains(&id));
    world.links.remove(link.id()).await.unwrap();
    assert!(is_soon(|| !metrics(&world.runner).contains(&id)).await);
}

#[tokio::test]
async fn processes_that_do_not_wait_are_counted_as_spoiled() {
    let world = World::start(Options::default());
    let link = shell("exit 0");
    world.portal(&link).await;
    let name = "runner_spoiled_total";
    let labels = format!("link_id=\"{}\"", link.id());
    let is_counted = || (1..=2).any(|count| counts(&metrics(&world.runner), name, &labels, count));
    assert!(is_soon(is_counted).await);
}

/// A runner's own address, while it is held.
struct Offered {
    address: SocketAddr,
    serving: tokio::task::JoinHandle<http::Drained>,
}

impl Offered {
    async fn start(runner: &Runner, connections: Connections) -> Offered {
        let mut registry = http::registry();
        runner.register(&mut registry);
        let listen = "127.0.0.1:0".parse().unwrap();
        let options = HttpOptions::default();
        let server = bind(&listen, options, runner, connections, registry);
        let server = server.await.unwrap();
        Offered {
            address: server.address().unwrap(),
            serving: tokio::spawn(server.serve(std::future::pending())),
        }
    }

    /// The status and the whole reply.
    async fn ask(&self, method: &str, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut reply = String::new();
        soon(stream.read_to_string(&mut reply)).await.unwrap();
        let status = reply.split(' ').nth(1).unwrap().parse().unwrap();
        (status, reply)
    }

    async fn ready(&self) -> (u16, serde_json::Value) {
        let (status, reply) = self.ask("GET", "/readyz").await;
        let (_, body) = reply.split_once("\r\n\r\n").unwrap();
        (status, serde_json::from_str(body).unwrap())
    }
}

impl Drop for Offered {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

#[tokio::test]
async fn a_runner_is_ready_while_it_takes_calls_whatever_single_links_do() {
    let world = World::start(Options::default());
    let (connect, connection) = watch::channel(Connection::Waiting("refused".into()));
    let connections = Connections::from([("nats", connection)]);
    let offered = Offered::start(&world.runner, connections).await;
    let (status, said) = offered.ready().await;
    assert_eq!((status, &said["waiting"]["nats"]), (503, &"refused".into()));

    connect.send_replace(Connection::Connected);
    let (status, said) = offered.ready().await;
    assert_eq!((status, &said["ready"]), (200, &true.into()), "{said}");
    let link = shell("cat");
    let portal = world.portal(&link).await;
    world.links.put(Arc::new(broken())).await.unwrap();
    world.runner.ready(broken().id()).await.unwrap_err();
    let (status, said) = offered.ready().await;
    assert_eq!((status, &said["serving"]), (200, &1.into()), "{said}");
    let reason = said["broken"][broken().id().to_string()].as_str().unwrap();
    assert!(reason.contains("/nonesuch"), "{reason}");

    let call = Call::begin(&portal).await;
    let mut draining = world.runner.drain().boxed();
    assert!((&mut draining).now_or_never().is_none());
    let (status, said) = offered.ready().await;
    assert_eq!((status, &said["draining"]), (503, &true.into()), "{said}");
    call.finish().await;
    soon(draining).await;
}

#[tokio::test]
async fn there_is_nothing_else_at_a_runner_s_address() {
    let world = World::start(Options::default());
    let offered = Offered::start(&world.runner, Connections::new()).await;
    for (method, path, status) in [
        ("GET", "/healthz", 200),
        ("HEAD", "/readyz", 200),
        ("GET", "/metrics", 200),
        ("POST", "/metrics", 405),
        ("GET", "/", 404),
        ("POST", "/", 404),
        ("GET", "/metrics/", 404),
    ] {
        let (given, reply) = offered.ask(method, path).await;
        assert_eq!(given, status, "{method} {path}");
        let is_problem = reply.contains("\r\nContent-Type: application/problem+json\r\n");
        assert_eq!(is_problem, status >= 400, "{method} {path}: {reply}");
        let has_id = reply.contains("\r\nConsecution-Call-Id: ");
        assert!(has_id, "{method} {path}: {reply}");
        let allows = reply.contains("\r\nAllow: GET, HEAD\r\n");
        assert_eq!(allows, status == 405, "{method} {path}: {reply}");
    }
    // Whoever looks does not keep its processes.
    let link = shell("cat");
    world.portal(&link).await;
    let seen = processes::descendants(std::process::id());
    drop(world.runner);
    let waiting = tokio::task::spawn_blocking(move || processes::expect_gone(&seen));
    waiting.await.unwrap();
    assert_eq!(offered.ask("GET", "/readyz").await.0, 503);
}

#[test]
fn one_process_says_each_thing_that_it_counts_once() {
    let served = serve(&[&chain([chain_link(&["cat"])])]);
    served.post("/", b"x").expect(200);
    let metrics = served.request("GET", "/metrics", b"").expect(200);
    let text = metrics.text();
    assert!(text.ends_with("# EOF\n"), "{text}");
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let names: Vec<_> = types.map(|line| line.split(' ').next().unwrap()).collect();
    let different: BTreeSet<_> = names.iter().collect();
    assert_eq!(different.len(), names.len(), "{names:?}");
    for name in [
        "consecution_calls",
        "consecution_http_connections",
        "consecution_pool_processes",
        "consecution_runner_calls",
        "consecution_runner_start_duration_seconds",
    ] {
        assert!(different.contains(&name), "{name}: {names:?}");
    }
}
