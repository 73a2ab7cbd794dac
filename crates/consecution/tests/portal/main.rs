//! The portal over transports and stores that do as the test says.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

#[path = "../support/mod.rs"]
mod support;

mod deadlines;
mod losses;
mod publishing;
mod retries;
mod runs;
