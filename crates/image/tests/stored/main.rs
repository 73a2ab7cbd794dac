//! What is made of an image's bytes, and how it is kept.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

#[path = "../support/mod.rs"]
mod support;

mod bad_input;
mod config_folders;
mod disk_full;
mod hostile_layers;
mod import_formats;
mod irregular_files;
mod killed;
mod layers;
mod root_names;
mod shared_layers;
mod store;
