//! The program with one process of it: its commands, what it prints, how it ends.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

#[macro_use]
extern crate test_support;

#[path = "../support/mod.rs"]
mod support;

mod check;
mod errors_once;
mod hostile_text;
mod images;
mod operations;
mod parameters;
mod reload;
mod run;
mod run_ends;
mod run_files;
mod run_links;
mod run_provisions;
mod run_sandbox;
mod run_signals;
mod run_streams;
mod shell;
