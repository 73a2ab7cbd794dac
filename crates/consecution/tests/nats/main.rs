//! Calls over NATS, with a real nats-server and with peers that misbehave.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

#[macro_use]
extern crate test_support;

#[path = "../support/mod.rs"]
mod support;

mod conformance;
mod faults;
mod garbage;
mod identity;
mod messages;
mod plain;
mod poison;
mod rotation;
mod sizes;
mod strangers;
