//! What becomes of calls when a network is cut, so that nothing says that the
//! other side is gone.

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::chain::chain;
use crate::support::etcd::Etcd;
use crate::support::faults::{at_work, finish_all, let_finish, slow, work};
use crate::support::http::{Served, listen};
use crate::support::nats::NatsServer;
use crate::support::netns::{NEAR, Networks};
use crate::support::network::{Servers, until_ready};
use crate::support::running::Running;
use test_support::processes::expect_gone;

const MISSING: &str = "nats-server, etcd, etcdctl, ip or unshare is missing, or we are not root";

/// How long a call may take whose first runner was cut off: 5 s until that is
/// clear, and some for a machine that is busy; far from its deadline of 30 s.
const FAILOVER_MAX: Duration = Duration::from_secs(20);

/// What to send to a [`slow`] link, and what comes of it.
const SENT: &[u8] = b"it\n";
const DONE: &str = "done it\n";

/// Servers in the near network that also listen to the far one. NATS looks after
/// its connections as `docs/operations.md` would have it.
fn servers() -> Option<Servers> {
    let nats = NatsServer::start("host: 0.0.0.0\nping_interval: \"1s\"")?;
    let etcd = Etcd::reserve()?;
    let port = etcd.address().port();
    let urls = format!("http://127.0.0.1:{port},http://{NEAR}:{port}");
    let mut etcd = etcd.with_argument(format!("--listen-client-urls={urls}"));
    etcd.run();
    Some(Servers { nats, etcd })
}

/// The program, told where the servers are, seen from the far network.
fn far(servers: &Servers, name: &str) -> Command {
    let mut command = servers.command(name);
    let etcd = servers.etcd.address().port();
    command.env("NATS_URL", format!("nats://{NEAR}:{}", servers.nats.port));
    command.env("ETCD_ENDPOINTS", format!("http://{NEAR}:{etcd}"));
    command
}

#[test]
fn a_call_whose_runner_is_cut_off_succeeds_on_another_and_the_runner_comes_back() {
    let (Some(networks), Some(servers)) = (Networks::enter(), servers()) else {
        cannot_run_here!("{MISSING}");
    };
    let portal = servers.portal(&[&chain([slow()])]);
    let mut command = far(&servers, "runner");
    command.args(["--name", "there"]);
    let there = [networks.within_far(|| Running::start(command))];
    there[0].await_line("connected to NATS");
    until_ready(&portal);
    let here = thread::scope(|scope| {
        let call = scope.spawn(|| portal.post("/", SENT));
        at_work(&there);
        let lost = work(&there[0]);
        let cut = Instant::now();
        networks.cut();
        let here = [servers.runner("here")];
        let_finish(&here);
        assert_eq!(call.join().unwrap().expect(200).text(), DONE);
        assert!(cut.elapsed() < FAILOVER_MAX, "{:?}", cut.elapsed());
        expect_gone(&lost);
        here
    });
    // Now NATS may not know yet that the other one is cut off.
    call(&portal, &here);

    // By a new connection, or by the old one where NATS has not given it up.
    networks.mend();
    drop(here);
    until_ready(&portal);
    call(&portal, &there);
}

#[test]
fn the_calls_of_a_portal_that_is_cut_off_are_stopped_and_made_again() {
    let (Some(networks), Some(servers)) = (Networks::enter(), servers()) else {
        cannot_run_here!("{MISSING}");
    };
    let runners = [servers.runner("here")];
    let portal = far_portal(&networks, &servers);
    thread::scope(|scope| {
        let call = scope.spawn(|| networks.within_far(|| portal.post("/", SENT)));
        at_work(&runners);
        let lost = work(&runners[0]);
        networks.cut();
        expect_gone(&lost);
        portal.await_line("is called again");
        networks.mend();
        // What was sent during the cut may arrive late: a call that was given up
        // is at work then beside the one that was made again.
        while !call.is_finished() {
            finish_all(&runners[0]);
            thread::sleep(Duration::from_millis(2));
        }
        assert_eq!(call.join().unwrap().expect(200).text(), DONE);
    });
}

/// Makes a call that one of these runners must take, soon.
#[track_caller]
fn call(portal: &Served, runners: &[Running]) {
    let begun = Instant::now();
    thread::scope(|scope| {
        let call = scope.spawn(|| portal.post("/", SENT));
        let_finish(runners);
        assert_eq!(call.join().unwrap().expect(200).text(), DONE);
    });
    assert!(begun.elapsed() < FAILOVER_MAX, "{:?}", begun.elapsed());
}

/// A portal in the far network, ready.
fn far_portal(networks: &Networks, servers: &Servers) -> Served {
    let chain = chain([slow()]);
    let mut command = far(servers, "portal");
    command.args(["--listen", "127.0.0.1:0"]).arg(chain.path());
    networks.within_far(|| {
        let portal = listen(command);
        until_ready(&portal);
        portal
    })
}
