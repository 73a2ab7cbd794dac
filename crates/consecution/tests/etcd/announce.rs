//! A runner's key in etcd is there exactly while the runner is.
use crate::support::etcd::Etcd as Server;
use consecution::link_store::LinkStore;
use consecution::link_store::RunnerState;
use consecution::link_store::etcd::Etcd;
use test_support::eventually;
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// An etcd, or the test ends here.
macro_rules! server {
    () => {
        match Server::start() {
            Some(server) => server,
            None => cannot_run_here!("there is no etcd; scripts/setup test gets it"),
        }
    };
}

const KEY: &str = "/consecution/runners/one";

fn value(server: &Server) -> String {
    server.ctl(["get", "--print-value-only", KEY])
}

fn until_there(server: &Server) {
    eventually("the key", || (!value(server).is_empty()).then_some(()));
}

fn until_gone(server: &Server) {
    eventually("the key to be gone", || {
        value(server).is_empty().then_some(())
    });
}

#[test]
fn the_key_of_a_runner_that_was_killed_vanishes() {
    let server = server!();
    let runtime = Runtime::new().unwrap();
    let (_say, said) = watch::channel(RunnerState::default());
    let announcement = {
        let _entered = runtime.enter();
        let store = Etcd::new(&server.options()).unwrap();
        store.announce("one", said)
    };
    until_there(&server);
    // All its tasks end wherever they are, as those of a killed process do.
    runtime.shutdown_background();
    drop(announcement);
    until_gone(&server);
}

#[test]
fn the_key_comes_back_after_etcd_was_restarted_or_emptied() {
    let mut server = server!();
    let runtime = Runtime::new().unwrap();
    let _entered = runtime.enter();
    let store = Etcd::new(&server.options()).unwrap();
    let (_say, said) = watch::channel(RunnerState::default());
    let announcement = store.announce("one", said);
    until_there(&server);
    server.stop();
    server.run();
    server.ctl(["del", KEY]);
    server.stop();
    server.lose_data();
    server.run();
    until_there(&server);
    drop(announcement);
    until_gone(&server);
}

#[test]
fn a_lease_that_was_taken_away_is_replaced() {
    let server = server!();
    let runtime = Runtime::new().unwrap();
    let _entered = runtime.enter();
    let store = Etcd::new(&server.options()).unwrap();
    let (_say, said) = watch::channel(RunnerState::default());
    let _announcement = store.announce("one", said);
    until_there(&server);
    let leases = server.ctl(["lease", "list"]);
    let lease = leases.lines().last().unwrap();
    server.ctl(["lease", "revoke", lease]);
    assert_eq!(value(&server), "");
    until_there(&server);
}

#[test]
fn a_state_that_changes_all_the_time_is_put_now_and_then() {
    let server = server!();
    let runtime = Runtime::new().unwrap();
    let _entered = runtime.enter();
    let store = Etcd::new(&server.options()).unwrap();
    let (say, said) = watch::channel(RunnerState::default());
    let _announcement = store.announce("one", said);
    until_there(&server);
    for serving in 1..=10_000 {
        say.send_modify(|state| state.serving = serving);
        if serving % 100 == 0 {
            runtime.block_on(tokio::time::sleep(std::time::Duration::from_millis(10)));
        }
    }
    eventually("the last state", || {
        value(&server).contains("\"Serving\": 10000").then_some(())
    });
    let fields = server.ctl(["get", KEY, "-w=fields"]);
    let version = fields
        .lines()
        .find_map(|line| line.strip_prefix("\"Version\" : "));
    // A second or more of changes, at four puts a second.
    let version: u32 = version.unwrap().parse().unwrap();
    assert!((2..100).contains(&version), "{version} puts");
}

#[test]
fn a_lease_is_renewed_while_the_state_changes_all_the_time() {
    let server = server!();
    let runtime = Runtime::new().unwrap();
    let _entered = runtime.enter();
    let store = Etcd::new(&server.options()).unwrap();
    let (say, said) = watch::channel(RunnerState::default());
    let _announcement = store.announce("one", said);
    until_there(&server);
    let leases = server.ctl(["lease", "list"]);
    let lease = leases.lines().last().unwrap();
    let mut least = u64::MAX;
    eventually("the lease to be renewed", || {
        say.send_modify(|state| state.serving += 1);
        let text = server.ctl(["lease", "timetolive", lease]);
        let (_, left) = text.split_once("remaining(").expect(&text);
        let left = left.split('s').next().unwrap().parse().unwrap();
        least = least.min(left);
        (left > least).then_some(())
    });
}
