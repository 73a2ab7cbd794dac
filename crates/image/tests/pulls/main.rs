//! Pulling: what registries and networks do, and what a pull makes of it.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

#[path = "../support/mod.rs"]
mod support;

mod bounds;
mod documents;
mod faults;
mod logins;
mod mirrors;
mod redirects;
mod registry;
mod rivals;
