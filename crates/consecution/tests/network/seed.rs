//! The chain of the README, over NATS and etcd.

use crate::support::chain::{chain, link};
use crate::support::network::{Servers, until_ready};

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
