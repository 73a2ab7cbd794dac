//! What the tests of the command share: a store with a busybox image in it,
//! chain files, and running the real program with a bound on every wait.
#![expect(dead_code, reason = "each of the tests uses its own part")]

pub(crate) mod chain;
pub(crate) mod command;
pub(crate) mod etcd;
pub(crate) mod faults;
pub(crate) mod home;
pub(crate) mod http;
pub(crate) mod https;
pub(crate) mod leftovers;
pub(crate) mod load;
pub(crate) mod nats;
pub(crate) mod nats_jwt;
pub(crate) mod netns;
pub(crate) mod network;
pub(crate) mod otlp;
pub(crate) mod plain_nats;
pub(crate) mod portal;
pub(crate) mod proxy;
pub(crate) mod runner;
pub(crate) mod running;
pub(crate) mod slow_registry;
pub(crate) mod tls_relay;

/// A block of `docs/operations.md`, by how its first line begins; without that
/// line.
pub(crate) fn documented(first_line: &str) -> String {
    block(include_str!("../../../../docs/operations.md"), first_line)
}

/// A block of `docs/http.md`, likewise.
pub(crate) fn documented_for_http(first_line: &str) -> String {
    block(include_str!("../../../../docs/http.md"), first_line)
}

fn block(document: &str, first_line: &str) -> String {
    let mut lines = document
        .lines()
        .skip_while(|line| !line.starts_with(first_line));
    assert!(lines.next().is_some(), "no document has {first_line:?}");
    let block: Vec<&str> = lines.take_while(|line| *line != "```").collect();
    block.join("\n")
}
