//! What becomes of calls when runners, portals and servers are lost.

use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::support::chain::{chain, chain_with, link, shell};
use crate::support::etcd::Etcd;
use crate::support::faults::{at_work, let_finish, runners, slow, work};
use crate::support::home;
use crate::support::http::{Reply, Served, listen};
use crate::support::leftovers::{cgroups_of, mounts_of};
use crate::support::nats::NatsServer;
use crate::support::network::{Servers, until_ready};
use crate::support::running::Running;
use test_support::eventually;
use test_support::ports::free_ports;
use test_support::processes::{descendants, expect_gone};

const MISSING: &str = "nats-server, etcd or etcdctl is missing";

/// How long a call may take whose first runner was lost, on a machine that is
/// busy; far from its deadline of 30 s.
const FAILOVER_MAX: Duration = Duration::from_secs(10);

/// How long a call's processes may live that nobody waits for any more, on a
/// machine that is busy.
const ORPHAN_LIFE_MAX: Duration = Duration::from_secs(4);

/// What to send to a [`slow`] link, and what comes of it.
const SENT: &[u8] = b"it\n";
const DONE: &str = "done it\n";

/// Makes a call, does that meanwhile, and gives the reply.
fn meanwhile(portal: &Served, path: &str, act: impl FnOnce()) -> Reply {
    thread::scope(|scope| {
        let call = scope.spawn(|| portal.post(path, SENT));
        act();
        call.join().unwrap()
    })
}

/// Kills the runner that is at work, and waits until all that it has started is
/// gone.
fn kill_at_work(runners: &mut Vec<Running>) {
    let killed = runners.swap_remove(at_work(runners));
    let processes = descendants(killed.process());
    drop(killed);
    expect_gone(&processes);
}

#[test]
fn a_call_whose_runner_is_killed_succeeds_on_another() {
    let Some(servers) = Servers::start() else {
        cannot_run_here!("{MISSING}");
    };
    let portal = servers.portal(&[&chain([slow()])]);
    let mut runners = runners(&servers, &["one", "two"], 1);
    until_ready(&portal);
    let begun = Instant::now();
    let reply = meanwhile(&portal, "/", || {
        kill_at_work(&mut runners);
        let_finish(&runners);
    });
    assert_eq!(reply.expect(200).text(), DONE);
    assert!(begun.elapsed() < FAILOVER_MAX, "{:?}", begun.elapsed());
}

#[test]
fn so_does_one_whose_input_is_still_coming_and_small_so_far() {
    let Some(servers) = Servers::start() else {
        cannot_run_here!("{MISSING}");
    };
    let twice = shell("read x; /bin/sleep 600; read y; echo \"$x, $y\"");
    let portal = servers.portal(&[&chain([twice])]);
    let mut runners = runners(&servers, &["one", "two"], 1);
    until_ready(&portal);
    let mut client = portal.connect();
    client.send("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
    client.send_chunk(b"one\n");
    kill_at_work(&mut runners);
    let_finish(&runners);
    client.send_chunk(b"more\n");
    client.send("0\r\n\r\n");
    assert_eq!(client.reply().expect(200).text(), "one, more\n");
}

#[test]
fn a_link_with_a_network_is_called_again_only_where_its_chain_says_so() {
    let Some(servers) = Servers::start() else {
        cannot_run_here!("{MISSING}");
    };
    let link = slow().with("Network", "host");
    let never = chain_with("Name: never", [link.clone()]);
    let once = chain_with("Name: once", [link.with("Retries", 1)]);
    let portal = servers.portal(&[&never, &once]);
    let mut runners = runners(&servers, &["one", "two", "three"], 1);
    until_ready(&portal);
    let begun = Instant::now();
    let reply = meanwhile(&portal, "/chains/never", || kill_at_work(&mut runners));
    let problem = reply.problem(502);
    assert_eq!(problem["title"], "a link was lost", "{problem}");
    let why = "not called again, since it has a network";
    assert!(
        problem["detail"].as_str().unwrap().ends_with(why),
        "{problem}"
    );
    assert!(
        ["one", "two", "three"]
            .map(Value::from)
            .contains(&problem["runner"])
    );
    assert!(begun.elapsed() < FAILOVER_MAX, "{:?}", begun.elapsed());
    let reply = meanwhile(&portal, "/chains/once", || {
        kill_at_work(&mut runners);
        let_finish(&runners);
    });
    assert_eq!(reply.expect(200).text(), DONE);
}

#[test]
fn a_restart_of_nats_is_survived_by_every_call_that_can_be_made_again() {
    let Some(mut servers) = Servers::start() else {
        cannot_run_here!("{MISSING}");
    };
    let pure = chain_with("Name: pure", [slow()]);
    let reaching = chain_with("Name: reaching", [slow().with("Network", "host")]);
    let hasty = chain_with("Name: hasty\nDeadline: 5s", [link(&["cat"])]);
    let portal = servers.portal(&[&pure, &reaching, &hasty]);
    let runners = runners(&servers, &["one", "two"], 3);
    until_ready(&portal);

    let reply = meanwhile(&portal, "/chains/pure", || {
        let lost = work(&runners[at_work(&runners)]);
        servers.nats.run_again();
        expect_gone(&lost);
        let_finish(&runners);
    });
    assert_eq!(reply.expect(200).text(), DONE);

    let reply = meanwhile(&portal, "/chains/reaching", || {
        at_work(&runners);
        servers.nats.run_again();
    });
    let problem = reply.problem(502);
    assert_eq!(problem["title"], "a link was lost", "{problem}");

    servers.nats.run_again();
    let reply = portal.post("/chains/hasty", b"now");
    assert_eq!(reply.expect(200).text(), "now");
}

#[test]
fn calls_wait_for_nats_as_long_as_they_can() {
    let Some(mut servers) = Servers::start() else {
        cannot_run_here!("{MISSING}");
    };
    let slow = chain_with("Name: slow", [slow()]);
    let hasty = chain_with("Name: hasty\nDeadline: 1s", [link(&["cat"])]);
    let portal = servers.portal(&[&slow, &hasty]);
    let runners = runners(&servers, &["one"], 2);
    until_ready(&portal);
    servers.nats.stop();
    portal.await_line("waiting for NATS");
    let begun = Instant::now();
    let reply = portal.post("/chains/hasty", b"nobody");
    assert!(begun.elapsed() < Duration::from_secs(3), "{reply:?}");
    assert_eq!(reply.header("retry-after"), Some("1"));
    let problem = reply.problem(503);
    assert_eq!(problem["title"], "no runner can be asked", "{problem}");
    let reply = meanwhile(&portal, "/chains/slow", || {
        servers.nats.run_again();
        let_finish(&runners);
    });
    assert_eq!(reply.expect(200).text(), DONE);
}

#[test]
fn calls_go_on_when_a_node_of_a_nats_cluster_is_lost() {
    let [a, b] = free_ports();
    let node = |own: u16, other: u16| {
        NatsServer::start(&format!(
            "cluster {{ name: test, host: 127.0.0.1, port: {own}, \
             routes: [\"nats-route://127.0.0.1:{other}\"] }}"
        ))
    };
    let (Some(nats), Some(mut other), Some(etcd)) = (node(a, b), node(b, a), Etcd::start()) else {
        cannot_run_here!("{MISSING}");
    };
    let mut servers = Servers { nats, etcd };
    // The portal finds only the first node, and the runner knows only the other:
    // it hears of the first one from that.
    let chain = chain([slow()]);
    other.stop();
    let mut command = servers.command("portal");
    command.args(["--listen", "127.0.0.1:0"]).arg(chain.path());
    let nodes = [servers.nats.url(), other.url()];
    command.env("NATS_URL", nodes.join(","));
    let portal = listen(command);
    portal.until_said("connected to NATS");
    other.run_again();
    let mut command = servers.command("runner");
    command.args(["--name", "one"]).env("NATS_URL", other.url());
    let runners = [Running::start(command)];
    until_ready(&portal);
    let reply = meanwhile(&portal, "/", || let_finish(&runners));
    assert_eq!(reply.expect(200).text(), DONE);

    let lose = |node: &mut NatsServer| {
        let reply = meanwhile(&portal, "/", || {
            let lost = work(&runners[at_work(&runners)]);
            node.stop();
            expect_gone(&lost);
            let_finish(&runners);
        });
        assert_eq!(reply.expect(200).text(), DONE);
    };
    lose(&mut servers.nats);
    servers.nats.run_again();
    lose(&mut other);
}

#[test]
fn without_etcd_what_is_known_is_served_and_the_rest_comes_with_it() {
    let Some(mut servers) = Servers::start() else {
        cannot_run_here!("{MISSING}");
    };
    let portal = servers.portal(&[&chain([link(&["cat"])])]);
    let mut runners = runners(&servers, &["one"], 1);
    until_ready(&portal);
    servers.etcd.stop();
    assert_eq!(portal.post("/", b"known").expect(200).text(), "known");
    let later = chain([link(&["tr", "a-z", "A-Z"])]);
    let later = servers.portal(&[&later]);
    assert_eq!(later.request("GET", "/readyz", b"").status, 503);
    runners.push(servers.runner("two"));
    assert_eq!(portal.post("/", b"known").expect(200).text(), "known");

    servers.etcd.run();
    until_ready(&later);
    assert_eq!(later.post("/", b"late").expect(200).text(), "LATE");
    servers.until_serving("two", 2);
    // The one that was started without etcd does it alone.
    drop(runners.swap_remove(0));
    assert_eq!(portal.post("/", b"known").expect(200).text(), "known");
}

#[test]
fn the_processes_of_a_call_die_with_its_portal() {
    let Some(servers) = Servers::start() else {
        cannot_run_here!("{MISSING}");
    };
    let portal = servers.portal(&[&chain([slow()])]);
    let runners = runners(&servers, &["one"], 1);
    until_ready(&portal);
    let mut client = portal.connect();
    client.send_request("POST", "/", &[], SENT);
    at_work(&runners);
    let processes = work(&runners[0]);
    let killed = Instant::now();
    drop(portal);
    expect_gone(&processes);
    assert!(killed.elapsed() < ORPHAN_LIFE_MAX, "{:?}", killed.elapsed());
}

#[test]
fn a_runner_that_is_killed_while_it_loads_leaves_nothing_in_the_way_of_the_next() {
    let Some(servers) = Servers::start() else {
        cannot_run_here!("{MISSING}");
    };
    let links = (0..20).map(|number| link(&["sed", &format!("s/$/ {number}/")]));
    let portal = servers.portal(&[&chain(links)]);
    portal.until_said("are published");
    let home = home::with_busybox();
    let start = || {
        let mut command = servers.command_with("runner", home.path());
        command.args(["--name", "one"]);
        Running::start(command)
    };
    for started in [1, 5] {
        let runner = start();
        let processes = eventually("the runner to load", || {
            let found = descendants(runner.process());
            (found.len() >= started).then_some(found)
        });
        drop(runner);
        expect_gone(&processes);
        assert_eq!(mounts_of(home.path()), [""; 0]);
    }
    let runner = start();
    until_ready(&portal);
    let wanted: String = (0..20).map(|number| format!(" {number}")).collect();
    let reply = portal.post("/", b"x").expect(200);
    assert_eq!(reply.text().trim_end(), format!("x{wanted}"));
    let process = runner.process();
    runner.signal(Signal::TERM);
    runner.end().expect_success();
    assert!(cgroups_of(process).is_empty());
}
