//! Files in the place of pipes, over the network.

use rustix::process::Signal;

use crate::support::chain::{chain_with, shell};
use crate::support::network::{AT_WORK, Servers, until_at_work, until_ready};
use test_support::processes::peak_memory;

/// Far more than any buffer on the way holds.
const LARGE_BYTES: usize = 256 << 20;

/// More memory than a portal or a runner needs for one stream, and for itself.
const MEMORY_BYTES_MAX: u64 = 96 << 20;

#[test]
fn a_large_file_goes_in_and_out_in_little_memory() {
    let Some(servers) = Servers::start() else {
        cannot_run_here!("nats-server, etcd or etcdctl is missing");
    };
    let copy = shell("mv /tmp/in /tmp/out")
        .with("Input", "/tmp/in")
        .with("Output", "/tmp/out");
    let chain = chain_with("Name: copy\nDeadline: none", [copy]);
    let (portal, runner) = (servers.portal(&[&chain]), servers.runner("north"));
    until_ready(&portal);
    let reply = portal.post("/", &vec![b'x'; LARGE_BYTES]);
    assert_eq!(reply.status, 200);
    assert_eq!(reply.body.len(), LARGE_BYTES);
    for process in [portal.process(), runner.process()] {
        let peak = peak_memory(process);
        assert!(peak < MEMORY_BYTES_MAX, "{peak} bytes");
    }
}

#[test]
fn a_runner_that_is_killed_with_a_file_is_replaced_by_another() {
    let Some(servers) = Servers::start() else {
        cannot_run_here!("nats-server, etcd or etcdctl is missing");
    };
    let work = format!("wc -c < /tmp/in > /tmp/out; [ -e /etc/again ] || {AT_WORK}");
    let link = shell(&work)
        .with("Input", "/tmp/in")
        .with("Output", "/tmp/out");
    let chain = chain_with("Name: copy\nDeadline: 60s", [link]);
    let portal = servers.portal(&[&chain]);
    let first = servers.runner("first");
    until_ready(&portal);
    std::thread::scope(|scope| {
        let calling = scope.spawn(|| portal.post("/", &vec![b'x'; 900_000]));
        until_at_work(&[&first], 1);
        let second = servers.runner("second");
        servers.until_serving("second", 1);
        first.signal(Signal::KILL);
        let found = until_at_work(&[&second], 1);
        found.iter().for_each(|process| process.kill());
        // Its `sleep` was killed.
        let reply = calling.join().unwrap();
        assert_eq!(reply.problem(502)["pipestatus"], "137");
    });
}

#[test]
fn what_cannot_be_started_or_has_no_output_is_said_over_the_network() {
    let Some(servers) = Servers::start() else {
        cannot_run_here!("nats-server, etcd or etcdctl is missing");
    };
    let missing = chain_with(
        "Name: missing",
        [shell("echo said").with("Output", "/tmp/out")],
    );
    let large = chain_with("Name: large", [shell("cat").with("Input", "/tmp/in")]);
    let portal = servers.portal(&[&missing, &large]);
    let _runner = servers.runner_with("north", &["--scratch-max", "1M"]);
    until_ready(&portal);
    let problem = portal.post("/chains/missing", b"x").problem(502);
    let detail = problem["detail"].as_str().unwrap();
    assert!(
        detail.ends_with("has not written its output: there is no /tmp/out"),
        "{detail}"
    );
    assert_eq!(problem["stderr"], "said\n");
    let problem = portal
        .post("/chains/large", &vec![b'x'; 20 << 20])
        .problem(502);
    assert_eq!(problem["title"], "a link stored too much");
    assert_eq!(problem["limit"], "scratch");
    let detail = problem["detail"].as_str().unwrap();
    assert!(
        detail.contains("store the input of the request"),
        "{detail}"
    );
}
