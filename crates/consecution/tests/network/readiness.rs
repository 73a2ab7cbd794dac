//! Which portals are to get calls, and of which chains.

use crate::support::chain::{chain_with, link};
use crate::support::http::{Reply, Served};
use crate::support::network::Servers;
use test_support::eventually;

fn readiness(portal: &Served, path: &str) -> (u16, serde_json::Value) {
    let Reply { status, body, .. } = portal.request("GET", path, b"");
    (status, serde_json::from_slice(&body).unwrap())
}

#[track_caller]
fn until_it_says(portal: &Served, status: u16, reason: &str) -> serde_json::Value {
    eventually(&format!("{status} and {reason:?}"), || {
        let (said, body) = readiness(portal, "/readyz");
        let is_it = said == status && body["reason"].as_str().unwrap_or_default() == reason;
        is_it.then_some(body)
    })
}

#[test]
fn a_portal_gets_calls_once_it_can_do_what_others_do_and_not_while_it_reaches_nobody() {
    let Some(mut servers) = Servers::start() else {
        cannot_run_here!("nats-server, etcd or etcdctl is missing");
    };
    let fine = chain_with("Name: fine", [link(&["/bin/cat"])]);
    let nowhere = link(&["/bin/tac"]).image("127.0.0.1:1/none:1");
    let broken = chain_with("Name: broken", [link(&["/bin/cat"]), nowhere]);
    let portal = servers.portal(&[&fine, &broken]);
    until_it_says(&portal, 503, "chain 'fine' has not been ready yet");

    let runner = servers.runner("one");
    let ready = until_it_says(&portal, 200, "");
    let missing = &ready["missing"];
    assert_eq!(missing.as_array().unwrap().len(), 1, "{ready}");
    assert_eq!(missing[0]["chain"], "broken");
    assert_eq!(missing[0]["broken"], true);
    assert_eq!(readiness(&portal, "/chains/fine/readyz").0, 200);
    let (status, one) = readiness(&portal, "/chains/broken/readyz");
    assert_eq!((status, &one["missing"]), (503, missing));
    portal.post("/", b"word").expect(200);

    servers.nats.stop();
    let unready = eventually("that NATS is missed", || {
        let (status, body) = readiness(&portal, "/readyz");
        (status == 503).then_some(body)
    });
    let reason = unready["reason"].as_str().unwrap();
    let is_said = reason.starts_with("no runner can be reached: NATS");
    assert!(is_said || reason == "no chain can be run", "{reason}");
    servers.nats.run_again();
    until_it_says(&portal, 200, "");
    drop(runner);
    until_it_says(&portal, 503, "no chain can be run");
}
