//! A chain has one deadline, wherever its links run.

use std::time::{Duration, Instant};

use crate::support::chain::{chain_with, link, shell};
use crate::support::network::{AT_WORK, Servers, until_at_work, until_ready};
use crate::support::plain_nats::{PlainClient, head};
use test_support::processes::expect_gone_within;

/// How long after a call every process of it may live on.
const LIVES_ON_MAX: Duration = Duration::from_secs(1);

#[test]
fn at_the_deadline_every_process_is_dead_on_every_runner() {
    let Some(servers) = Servers::start() else {
        cannot_run_here!("nats-server, etcd or etcdctl is missing");
    };
    // Stubborn, and with a child each.
    let at_work = format!("trap '' TERM INT HUP; {AT_WORK} & {AT_WORK}");
    let passes_on = shell(&format!("read line; echo $line; {at_work}"));
    let links = [
        passes_on.clone(),
        passes_on,
        shell(&format!("read line; {at_work}")),
    ];
    let sleepy = chain_with("Deadline: 5s", links);
    let portal = servers.portal(&[&sleepy]);
    let runners = ["one", "two"].map(|name| servers.runner(name));
    until_ready(&portal);
    for name in ["one", "two"] {
        servers.until_serving(name, 2);
    }
    let began = Instant::now();
    let mut client = portal.connect();
    client.send_request("POST", "/", &[], b"go\n");
    let processes = until_at_work(&runners.each_ref(), 6);
    let problem = client.reply().problem(504);
    let over = began.elapsed();
    expect_gone_within(&processes, LIVES_ON_MAX);
    assert!(over >= Duration::from_secs(5), "{over:?}");
    assert_eq!(problem["title"], "the deadline has passed");
    assert_eq!(problem["link_index"], 0);
}

#[test]
fn a_link_may_have_less_time_than_its_chain() {
    let Some(servers) = Servers::start() else {
        cannot_run_here!("nats-server, etcd or etcdctl is missing");
    };
    let sleepy = shell(&format!("read line; echo zzz >&2; {AT_WORK}"));
    let links = [
        shell("cat").with("Deadline", "20s"),
        sleepy.with("Deadline", "3s").with("Name", "sleepy"),
    ];
    let chain = chain_with("Deadline: 50s", links);
    let (portal, runner) = (servers.portal(&[&chain]), servers.runner("north"));
    until_ready(&portal);
    let mut client = portal.connect();
    client.send_request("POST", "/", &[], b"go\n");
    let processes = until_at_work(&[&runner], 1);
    let problem = client.reply().problem(504);
    expect_gone_within(&processes, LIVES_ON_MAX);
    assert_eq!(problem["link_name"], "sleepy");
    assert_eq!(
        (&problem["stderr"], &problem["runner"]),
        (&"zzz\n".into(), &"north".into())
    );
}

#[test]
fn what_is_left_of_the_deadline_is_handed_on() {
    let Some(servers) = Servers::start() else {
        cannot_run_here!("nats-server, etcd or etcdctl is missing");
    };
    let links = [
        link(&["/bin/cat"]),
        link(&["/bin/tac"]).with("Deadline", "2s"),
    ];
    let chain = chain_with("Deadline: 10s", links);
    // A runner by hand.
    let mut runner = PlainClient::connect(servers.nats.port);
    for id in chain.ids() {
        runner.queue_subscribe(&format!("consecution.link.{id}"), "runners");
    }
    let portal = servers.portal(&[&chain]);
    let mut client = portal.connect();
    client.send_request("POST", "/", &["Consecution-Call-Id: seven"], b"data");
    for (most, answer) in [(10_000, "between"), (2_000, "last")] {
        let request = runner.next();
        let left = request.header("Consecution-Timeout-Ms").unwrap();
        // Half of it is more than a busy machine takes from there to here.
        let left: u32 = left.parse().unwrap();
        assert!((most / 2..=most).contains(&left), "{left}");
        assert_eq!(request.header("Consecution-Call-Id"), Some("seven"));
        let head = head(&[
            ("Consecution-Ending", "exited 0"),
            ("Consecution-Runner", "hand"),
        ]);
        runner.publish(&request.reply, "", &head, answer.as_bytes());
    }
    let reply = client.reply().expect(200);
    assert_eq!(reply.text(), "last");
}
