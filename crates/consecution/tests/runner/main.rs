//! A runner in this process, with real sandboxes.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

#[macro_use]
extern crate test_support;

#[path = "../support/mod.rs"]
mod support;

mod blocking;
mod calls;
mod capacity;
mod files;
mod images;
mod joined;
mod killed;
mod life;
mod limits;
mod metrics;
mod pipelines;
mod warm;
mod zygote;
