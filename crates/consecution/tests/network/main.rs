//! Portals and runners as processes of their own, as their users have them.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

#[macro_use]
extern crate test_support;

#[path = "../support/mod.rs"]
mod support;

mod bad_input;
mod capacity;
mod deadlines;
mod examples;
mod failures;
mod faults;
mod faults_cut;
mod figures;
mod files;
mod healing;
mod links;
mod logs;
mod many;
mod monitoring;
mod order;
mod parameters;
mod provisions;
mod readiness;
mod rolling;
mod secured;
mod seed;
mod strangers;
mod streams;
mod traces;
mod usage;
