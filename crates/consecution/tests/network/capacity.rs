//! Concurrency is bounded on every runner, and work goes where there is room.

use std::time::{Duration, Instant};

use crate::cannot_run_here;
use crate::support::chain::{ChainFile, chain_with, shell};
use crate::support::http::{Client, Served};
use crate::support::network::{Servers, until_ready};

/// The deadline of calls that are not to wait long.
const SOON: Duration = Duration::from_secs(1);

/// Chains of one link, which is at work until its input ends: for calls that may
/// take their time, and for those that may not.
fn chains() -> [ChainFile; 2] {
    [("held", "none"), ("soon", "1s")].map(|(name, deadline)| {
        let top = format!("Name: {name}\nDeadline: {deadline}");
        chain_with(&top, [shell("echo begun; cat")])
    })
}

/// A call that holds a process.
#[track_caller]
fn hold(portal: &Served) -> Client {
    let mut client = portal.begin("/chains/held");
    assert!(client.head().starts_with("HTTP/1.1 200"));
    assert_eq!(client.chunk().unwrap(), b"begun\n");
    client
}

#[track_caller]
fn release(mut client: Client) {
    client.end_chunks();
    assert_eq!(client.chunk().unwrap(), b"");
}

#[test]
fn where_all_are_busy_a_call_is_refused_at_its_deadline_and_taken_when_one_is_free() {
    let Some(servers) = Servers::start() else {
        cannot_run_here!("nats-server, etcd or etcdctl is missing");
    };
    let [held, soon] = &chains();
    let portal = servers.portal(&[held, soon]);
    let _runner = servers.runner_with("one", &["--processes-max", "2"]);
    until_ready(&portal);
    let [first, second] = [(); 2].map(|()| hold(&portal));

    let asked = Instant::now();
    let reply = portal.post("/chains/soon", b"word");
    assert!(asked.elapsed() >= SOON, "{:?}", asked.elapsed());
    assert_eq!(reply.header("retry-after"), Some("1"));
    let problem = reply.problem(503);
    assert_eq!(problem["title"], "all runners are busy");
    servers
        .send(soon, b"")
        .expect_code(125)
        .expect_stderr(&["found every runner busy"]);

    let mut waiting = portal.connect();
    waiting.send_request("POST", "/chains/held", &[], b"word");
    release(first);
    assert_eq!(waiting.reply().expect(200).text(), "begun\nword");
    release(second);
}

#[test]
fn a_chain_that_is_longer_than_a_runner_has_processes_finds_it_busy() {
    let Some(servers) = Servers::start() else {
        cannot_run_here!("nats-server, etcd or etcdctl is missing");
    };
    let long = chain_with("Deadline: 1s", [(); 3].map(|()| shell("cat")));
    let portal = servers.portal(&[&long]);
    let _runner = servers.runner_with("one", &["--processes-max", "2"]);
    until_ready(&portal);
    let mut client = portal.begin("/");
    client.send_chunk(b"word");
    let problem = client.reply().problem(503);
    assert_eq!(problem["title"], "all runners are busy");
    assert_eq!(problem["link_index"], 2);
}

#[test]
fn who_waits_on_a_runner_until_the_deadline_has_not_been_run() {
    let Some(servers) = Servers::start() else {
        cannot_run_here!("nats-server, etcd or etcdctl is missing");
    };
    let [held, soon] = &chains();
    let portal = servers.portal(&[held, soon]);
    let options = ["--processes-max", "1", "--waiting-max", "8"];
    let _runner = servers.runner_with("one", &options);
    until_ready(&portal);
    let first = hold(&portal);
    let problem = portal.post("/chains/soon", b"word").problem(503);
    assert_eq!(problem["title"], "all runners are busy");
    release(first);
}

#[test]
fn a_full_runner_leaves_work_to_one_with_room() {
    let Some(servers) = Servers::start() else {
        cannot_run_here!("nats-server, etcd or etcdctl is missing");
    };
    let [held, soon] = &chains();
    let portal = servers.portal(&[held, soon]);
    let _small = servers.runner_with("small", &["--processes-max", "2"]);
    until_ready(&portal);
    let full = [(); 2].map(|()| hold(&portal));
    let _large = servers.runner_with("large", &["--processes-max", "8"]);
    servers.until_serving("large", 1);
    // Half of them ask the small one first.
    for _ in 0..20 {
        let reply = portal.post("/chains/held", b"word").expect(200);
        assert_eq!(reply.text(), "begun\nword");
    }
    let more = [(); 8].map(|()| hold(&portal));
    portal.post("/chains/soon", b"word").problem(503);
    full.into_iter().chain(more).for_each(release);
}
