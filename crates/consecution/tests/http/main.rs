//! `serve` as clients and proxies of HTTP have it.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

#[macro_use]
extern crate test_support;

#[path = "../support/mod.rs"]
mod support;

mod calls;
mod clients;
mod clients_tls;
mod connections;
mod http2;
mod keys;
mod page;
mod pages;
mod parameters;
mod routes;
mod spool;
mod stall;
mod streams;
mod tls;
