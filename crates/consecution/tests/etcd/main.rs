//! Links and states in a real etcd.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

#[macro_use]
extern crate test_support;

#[path = "../support/mod.rs"]
mod support;

mod announce;
mod garbage;
mod link_store;
mod secured;
