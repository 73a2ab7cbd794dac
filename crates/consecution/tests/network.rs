//! Portals and runners as processes of their own, as their users have them.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod support;

#[path = "network/bad_input.rs"]
mod bad_input;
#[path = "network/capacity.rs"]
mod capacity;
#[path = "network/deadlines.rs"]
mod deadlines;
#[path = "network/examples.rs"]
mod examples;
#[path = "network/healing.rs"]
mod healing;
#[path = "network/links.rs"]
mod links;
#[path = "network/logs.rs"]
mod logs;
#[path = "network/order.rs"]
mod order;
#[path = "network/readiness.rs"]
mod readiness;
#[path = "network/rolling.rs"]
mod rolling;
#[path = "network/secured.rs"]
mod secured;
#[path = "network/stories.rs"]
mod stories;
#[path = "network/streams.rs"]
mod streams;

use support::chain::{chain, link};
use support::network::{Servers, until_ready};

#[test]
fn the_seed_chain_answers_the_seed_request() {
    let Some(servers) = Servers::start() else {
        cannot_run_here!("nats-server, etcd or etcdctl is missing");
    };
    let seed = chain([
        link(&["/bin/cat"]),
        link(&["/bin/grep", "data"]),
        link(&["/bin/xargs", "-n", "1"]),
    ]);
    let _runner = servers.runner("one");
    servers
        .send(&seed, b"more data")
        .expect_success()
        .expect_output("more\ndata\n");

    let portal = servers.portal(&[&seed]);
    until_ready(&portal);
    let reply = portal.post("/", b"this is raw data").expect(200);
    assert_eq!(reply.text(), "this\nis\nraw\ndata\n");
}
