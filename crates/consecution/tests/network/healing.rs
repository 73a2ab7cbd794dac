//! Links that etcd loses come back, whether anybody calls or not.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rustix::process::Signal;

use crate::support::chain::{ChainFile, chain, chain_with, link};
use crate::support::http::{Served, listen};
use crate::support::network::{Servers, until_ready};
use crate::support::running::Running;
use test_support::eventually;

const AGAIN: &str = "published 3 links again";

fn words() -> ChainFile {
    chain([
        link(&["/bin/cat"]),
        link(&["/bin/tr", "a-z", "A-Z"]),
        link(&["/bin/xargs", "-n", "1"]),
    ])
}

/// A portal and a runner that serves its chain of three.
fn ready(servers: &Servers) -> (Served, Running) {
    let portal = servers.portal(&[&words()]);
    let runner = servers.runner("one");
    until_ready(&portal);
    servers.until_serving("one", 3);
    (portal, runner)
}

fn keys(servers: &Servers, prefix: &str) -> usize {
    let keys = ["get", "--prefix", "--keys-only", prefix];
    servers.etcd.ctl(keys).split_whitespace().count()
}

fn until_keys(servers: &Servers, prefix: &str, count: usize) {
    eventually(&format!("{count} keys under {prefix}"), || {
        (keys(servers, prefix) == count).then_some(())
    });
}

#[test]
fn what_is_deleted_in_etcd_comes_back_though_nobody_calls() {
    let Some(servers) = Servers::start() else {
        cannot_run_here!("nats-server, etcd or etcdctl is missing");
    };
    let (portal, runner) = ready(&servers);
    servers.etcd.ctl(["del", "--prefix", "/consecution/"]);
    until_keys(&servers, "/consecution/links/", 3);
    until_keys(&servers, "/consecution/runners/", 1);
    until_keys(&servers, "/consecution/portals/", 1);
    servers.until_serving("one", 3);
    portal.until_said(AGAIN);
    runner.until_said("3 links removed, and served no longer");
    let reply = portal.post("/", b"a b").expect(200);
    assert_eq!(reply.text(), "A\nB\n");

    // One key alone, too.
    let id = &words().ids()[1];
    servers
        .etcd
        .ctl(["del", &format!("/consecution/links/{id}")]);
    until_keys(&servers, "/consecution/links/", 3);
    portal.until_said("published 1 link again");
    servers.etcd.ctl(["del", "/consecution/runners/one"]);
    until_keys(&servers, "/consecution/runners/", 1);
}

#[test]
fn readiness_publishes_what_it_finds_missing() {
    let Some(servers) = Servers::start() else {
        cannot_run_here!("nats-server, etcd or etcdctl is missing");
    };
    let (portal, _runner) = ready(&servers);
    servers.etcd.ctl(["del", "--prefix", "/consecution/links/"]);
    portal.until_said(AGAIN);
    until_ready(&portal);
    // That it was there in between is not certain, so once more, without a look.
    assert_eq!(portal.post("/", b"a b").expect(200).text(), "A\nB\n");
}

#[test]
fn no_call_is_lost_where_links_are_deleted_and_runners_are_restarted_after_that() {
    let Some(servers) = Servers::start() else {
        cannot_run_here!("nats-server, etcd or etcdctl is missing");
    };
    let (portal, one) = ready(&servers);
    let two = servers.runner("two");
    servers.until_serving("two", 3);
    let is_over = AtomicBool::new(false);
    let calls = thread::scope(|scope| {
        let calling = scope.spawn(|| {
            let mut calls = 0;
            while !is_over.load(Ordering::Relaxed) {
                let reply = portal.post("/", b"a b").expect(200);
                assert_eq!(reply.text(), "A\nB\n");
                calls += 1;
            }
            calls
        });
        servers.etcd.ctl(["del", "--prefix", "/consecution/"]);
        let mut new = Vec::new();
        for (name, old) in [("one", one), ("two", two)] {
            old.signal(Signal::TERM);
            old.end().expect_success();
            new.push(servers.runner(name));
            servers.until_serving(name, 3);
        }
        is_over.store(true, Ordering::Relaxed);
        calling.join().unwrap()
    });
    assert!(calls > 0);
    // All three at once.
    portal.until_said(AGAIN);
    assert_eq!(portal.said().matches(" again, which").count(), 1);
}

#[test]
fn runners_that_are_replaced_after_etcd_has_lost_its_data_lose_no_call() {
    let Some(mut servers) = Servers::start() else {
        cannot_run_here!("nats-server, etcd or etcdctl is missing");
    };
    let (portal, old) = ready(&servers);
    servers.etcd.stop();
    servers.etcd.lose_data();
    servers.etcd.run();
    let mut new = servers.command("runner");
    new.args(["--name", "two", "--listen", "127.0.0.1:0"]);
    let new = listen(new);
    // Not before it knows of links.
    let state = eventually("the new runner to be ready", || {
        let reply = new.request("GET", "/readyz", b"");
        (reply.status == 200).then(|| reply.text().to_owned())
    });
    assert!(!state.contains(r#""serving":0,"loading":[],"#), "{state}");
    servers.until_serving("two", 3);
    portal.post("/", b"a b").expect(200);
    old.signal(Signal::TERM);
    old.end().expect_success();
    for _ in 0..20 {
        assert_eq!(portal.post("/", b"a b").expect(200).text(), "A\nB\n");
    }
    portal.until_said(AGAIN);
}

#[test]
fn a_portal_takes_other_chains_when_its_files_are_read_again() {
    let Some(servers) = Servers::start() else {
        cannot_run_here!("nats-server, etcd or etcdctl is missing");
    };
    let folder = tempfile::tempdir().unwrap();
    let put = |name: &str, chain: &ChainFile| {
        std::fs::copy(chain.path(), folder.path().join(name)).unwrap();
    };
    put("a.yaml", &chain_with("Name: a", [link(&["/bin/cat"])]));
    let mut portal = servers.command("portal");
    portal.args(["--listen", "127.0.0.1:0"]).arg(folder.path());
    let portal = listen(portal);
    let runner = servers.runner("one");
    until_ready(&portal);
    let upper = chain_with("Name: b", [link(&["/bin/tr", "a-z", "A-Z"])]);
    put("b.yml", &upper);
    std::fs::remove_file(folder.path().join("a.yaml")).unwrap();
    portal.signal(Signal::HUP);
    runner.signal(Signal::HUP);
    // Which is when it can be run.
    portal.until_said("added 'b'; removed 'a'; 0 as before");
    runner.until_said("nothing to read again");
    assert_eq!(portal.post("/chains/b", b"x").expect(200).text(), "X");
    portal.post("/chains/a", b"x").problem(404);
    // It names what it offers now.
    let portals = [
        "get",
        "--prefix",
        "--print-value-only",
        "/consecution/portals/",
    ];
    eventually("the portal to name its chain", || {
        let said = servers.etcd.ctl(portals);
        let names_it = said.contains(&upper.ids()[0]) && !said.contains(r#""a":"#);
        names_it.then_some(())
    });
}
