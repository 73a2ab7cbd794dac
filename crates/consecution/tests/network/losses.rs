//! Runners that are killed in the middle of a call, as users have them.

use std::time::{Duration, Instant};

use crate::support::chain::{Link, chain_with};
use crate::support::command::eventually;
use crate::support::faults::{at_work, let_finish, slow};
use crate::support::http::Reply;
use crate::support::network::{Servers, until_ready};
use crate::support::running::Running;
use consecution::link_store::LinkStore;
use consecution::link_store::etcd::Etcd;
use rustix::process::Signal;

/// How long the whole call may take.
const DEADLINE: Duration = Duration::from_secs(30);

/// Makes a call of a chain of that link, whose runner is killed when it is at
/// work, while there is another, for which `then` does something; and says how
/// long the reply took from then on.
fn call_on_a_killed_runner(
    servers: &Servers,
    link: Link,
    then: impl FnOnce(&[Running]),
) -> (Reply, Duration) {
    let chain = chain_with(&format!("Deadline: {}", DEADLINE.as_secs()), [link]);
    let doomed = [servers.runner("doomed")];
    let portal = servers.portal(&[&chain]);
    until_ready(&portal);
    let mut client = portal.connect();
    client.send_request("POST", "/", &[], b"some input");
    at_work(&doomed);
    let others = [servers.runner("other")];
    until_serving(servers, "other");
    doomed[0].signal(Signal::KILL);
    let killed = Instant::now();
    then(&others);
    (client.reply(), killed.elapsed())
}

fn until_serving(servers: &Servers, runner: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let store = runtime.block_on(async { Etcd::new(&servers.etcd.options()).unwrap() });
    eventually("the runner to serve", || {
        let runners = runtime.block_on(store.runners()).unwrap();
        (runners.get(runner)?.serving > 0).then_some(())
    });
}

#[test]
fn a_call_whose_runner_is_killed_succeeds_on_another() {
    let Some(servers) = Servers::start() else {
        cannot_run_here!("nats-server, etcd or etcdctl is missing");
    };
    let (reply, elapsed) = call_on_a_killed_runner(&servers, slow(), |others| let_finish(others));
    assert_eq!(reply.expect(200).text(), "done some input\n");
    assert!(elapsed < DEADLINE / 2, "{elapsed:?}");
}

#[test]
fn a_link_with_a_network_is_lost_with_its_runner_and_says_so() {
    let Some(servers) = Servers::start() else {
        cannot_run_here!("nats-server, etcd or etcdctl is missing");
    };
    let link = slow().with("Network", "host");
    let (reply, elapsed) = call_on_a_killed_runner(&servers, link, |_| {});
    let problem = reply.problem(502);
    assert_eq!(
        (&problem["title"], &problem["runner"]),
        (&"a link was lost".into(), &"doomed".into())
    );
    let detail = problem["detail"].as_str().unwrap();
    assert!(
        detail.ends_with("not called again, since it has a network"),
        "{detail}"
    );
    assert!(elapsed < DEADLINE / 2, "{elapsed:?}");
}
