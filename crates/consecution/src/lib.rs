//! Consecution: Unix pipelines whose every stage is a container.
#![forbid(unsafe_code)]

pub mod app;
mod backoff;
pub mod chain_file;
pub mod config;
#[doc(hidden)]
pub mod conformance;
pub mod connection;
pub mod error;
mod held;
pub mod http;
pub mod link_store;
mod log_batch;
mod log_on_change;
mod name;
pub mod pipe;
pub mod portal;
pub mod runner;
pub mod text;
pub mod trace;
pub mod transport;
