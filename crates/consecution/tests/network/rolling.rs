//! Leaving: what is in flight is finished, and when one takes the place of
//! another under load, no request is lost.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::chain::{ChainFile, chain, link, shell};
use crate::support::http::{Client, Served};
use crate::support::network::{Servers, until_ready};
use test_support::processes::{descendants, expect_gone};
use test_support::{PATIENCE, eventually};

/// Threads that send, one request after the other each.
const SENDERS: usize = 4;

/// How many replies are awaited before the next thing is done.
const SOME: u64 = 30;

/// How soon somebody is gone who was told to leave at once.
const AT_ONCE: Duration = Duration::from_secs(5);

/// A call that is answered when its body ends, and says when it has begun.
fn slow() -> ChainFile {
    chain([link(&["/bin/cat"]), shell("echo begun; cat")])
}

#[track_caller]
fn begin(portal: &Served) -> Client {
    let mut client = portal.begin("/");
    client.head();
    assert_eq!(client.chunk().unwrap(), b"begun\n");
    client
}

#[track_caller]
fn end(mut client: Client) {
    client.send_chunk(b"late\n");
    client.end_chunks();
    assert_eq!(client.chunk().unwrap(), b"late\n");
    assert_eq!(client.chunk().unwrap(), b"");
}

#[test]
fn a_runner_finishes_what_it_has_while_others_take_what_comes() {
    let Some(servers) = Servers::start() else {
        cannot_run_here!("nats-server, etcd or etcdctl is missing");
    };
    let slow = slow();
    let (portal, old) = (servers.portal(&[&slow]), servers.runner("old"));
    until_ready(&portal);
    let client = begin(&portal);
    let _new = servers.runner("new");
    servers.until_serving("new", 2);
    old.signal(Signal::TERM);
    old.await_line("finishing what is in flight");
    eventually("the runner to say that it drains", || {
        (servers.runner_state("old")["Draining"] == true).then_some(())
    });
    for _ in 0..20 {
        assert_eq!(portal.post("/", b"word").expect(200).text(), "begun\nword");
    }
    end(client);
    old.end().expect_success();
    assert!(servers.runner_state("old").is_null());
}

#[test]
fn a_portal_finishes_what_it_has_and_takes_nothing_more() {
    let Some(servers) = Servers::start() else {
        cannot_run_here!("nats-server, etcd or etcdctl is missing");
    };
    let slow = slow();
    let (portal, _runner) = (servers.portal(&[&slow]), servers.runner("one"));
    until_ready(&portal);
    let client = begin(&portal);
    portal.signal(Signal::TERM);
    portal.await_line("finishing what is in flight");
    eventually("the portal to take nothing more", || {
        portal.try_connect().is_none().then_some(())
    });
    end(client);
    portal.end().expect_success();
}

#[test]
fn a_second_signal_ends_a_runner_and_a_portal_at_once() {
    let Some(servers) = Servers::start() else {
        cannot_run_here!("nats-server, etcd or etcdctl is missing");
    };
    let slow = slow();
    let (portal, runner) = (servers.portal(&[&slow]), servers.runner("one"));
    until_ready(&portal);
    let _client = begin(&portal);
    let processes = descendants(runner.process());
    let told = Instant::now();
    for leaving in [&runner, &*portal] {
        leaving.signal(Signal::TERM);
        leaving.await_line("finishing what is in flight");
        leaving.signal(Signal::TERM);
        leaving.await_line("leaving at once");
    }
    runner.end().expect_success();
    portal.end().expect_success();
    assert!(told.elapsed() < AT_ONCE, "{:?}", told.elapsed());
    expect_gone(&processes);
}

#[test]
fn what_is_in_flight_is_cut_off_when_the_grace_period_is_over() {
    let Some(servers) = Servers::start() else {
        cannot_run_here!("nats-server, etcd or etcdctl is missing");
    };
    let slow = slow();
    let grace = ["--grace", "200ms"];
    let portal = servers.portal_with(&[&slow], &grace);
    let runner = servers.runner_with("one", &grace);
    until_ready(&portal);
    let mut client = begin(&portal);
    let processes = descendants(runner.process());
    runner.signal(Signal::TERM);
    runner.await_line("the grace period is over");
    runner.end().expect_success();
    expect_gone(&processes);
    portal.signal(Signal::TERM);
    portal.await_line("finishing what is in flight");
    portal.end().expect_success();
    // No end that could pass for one.
    assert_eq!(client.chunk(), None);
}

#[test]
fn runners_are_replaced_one_after_the_other_and_no_request_is_lost() {
    let Some(servers) = Servers::start() else {
        cannot_run_here!("nats-server, etcd or etcdctl is missing");
    };
    let words = words();
    let portal = servers.portal(&[&words]);
    let mut runners = [servers.runner("1"), servers.runner("2")].into_iter();
    until_ready(&portal);
    let load = Load::start(&[portal.address]);
    let mut new = Vec::new();
    for name in ["3", "4"] {
        load.go_on();
        new.push(servers.runner(name));
        servers.until_serving(name, 3);
        load.go_on();
        let old = runners.next().unwrap();
        old.signal(Signal::TERM);
        old.end().expect_success();
    }
    load.go_on();
    load.end();
}

#[test]
fn portals_are_replaced_one_after_the_other_and_no_request_is_lost() {
    let Some(servers) = Servers::start() else {
        cannot_run_here!("nats-server, etcd or etcdctl is missing");
    };
    let words = words();
    let _runner = servers.runner("one");
    let portals = [(); 2].map(|()| servers.portal(&[&words]));
    portals.iter().for_each(until_ready);
    let load = Load::start(&portals.each_ref().map(|portal| portal.address));
    let mut new = Vec::new();
    for old in portals {
        load.go_on();
        new.push(servers.portal(&[&words]));
        until_ready(&new[new.len() - 1]);
        load.add(new[new.len() - 1].address);
        load.go_on();
        load.remove(old.address);
        old.signal(Signal::TERM);
        old.await_line("finishing what is in flight");
        old.end().expect_success();
    }
    load.go_on();
    load.end();
}

fn words() -> ChainFile {
    chain([
        link(&["/bin/cat"]),
        link(&["/bin/tr", "a-z", "A-Z"]),
        link(&["/bin/xargs", "-n", "1"]),
    ])
}

/// Requests without a pause, to portals in turn, as a load balancer sends them:
/// one that takes no connection is passed over, but what was sent is not sent
/// again.
struct Load {
    state: Arc<LoadState>,
    senders: Vec<JoinHandle<()>>,
}

struct LoadState {
    portals: Mutex<Vec<SocketAddr>>,
    answered: AtomicU64,
    is_over: AtomicBool,
}

impl Load {
    fn start(portals: &[SocketAddr]) -> Load {
        let state = Arc::new(LoadState {
            portals: Mutex::new(portals.to_vec()),
            answered: AtomicU64::new(0),
            is_over: AtomicBool::new(false),
        });
        let sender = |number| {
            let state = Arc::clone(&state);
            std::thread::spawn(move || state.send(number))
        };
        let senders = (0..SENDERS).map(sender).collect();
        Load { state, senders }
    }

    fn add(&self, portal: SocketAddr) {
        self.state.portals.lock().unwrap().push(portal);
    }

    fn remove(&self, portal: SocketAddr) {
        let mut portals = self.state.portals.lock().unwrap();
        portals.retain(|other| *other != portal);
    }

    /// Waits until some more are answered.
    #[track_caller]
    fn go_on(&self) {
        let wanted = self.state.answered.load(Ordering::Relaxed) + SOME;
        let deadline = Instant::now() + PATIENCE;
        while self.state.answered.load(Ordering::Relaxed) < wanted {
            let is_lost = self.senders.iter().any(JoinHandle::is_finished);
            assert!(!is_lost, "a request was lost; see above");
            assert!(Instant::now() < deadline, "no replies");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Every request must have had its reply.
    #[track_caller]
    fn end(self) {
        self.state.is_over.store(true, Ordering::Relaxed);
        for sender in self.senders {
            assert!(sender.join().is_ok(), "a request was lost; see above");
        }
    }
}

impl LoadState {
    fn send(&self, sender: usize) {
        let mut turn = sender;
        while !self.is_over.load(Ordering::Relaxed) {
            turn += 1;
            // So that nobody still connects to one that has been removed.
            let client = {
                let portals = self.portals.lock().unwrap();
                Client::to(portals[turn % portals.len()])
            };
            let Some(mut client) = client else {
                continue;
            };
            let body = format!("from {sender} number {turn}");
            client.send_request("POST", "/", &["Connection: close"], body.as_bytes());
            let wanted = body.to_uppercase().replace(' ', "\n") + "\n";
            assert_eq!(client.reply().expect(200).text(), wanted);
            self.answered.fetch_add(1, Ordering::Relaxed);
        }
    }
}
