//! What the sandbox promises, a file per promise, each shown from both sides:
//! what is allowed and what is denied. One test program and not one a file, so
//! that what they share is compiled once.
#![forbid(unsafe_code)]
#![expect(
    clippy::unwrap_used,
    reason = "clippy knows tests only by their attribute"
)]

mod support;

mod attack;
mod command;
mod data;
mod defaults;
mod descriptors;
mod docker;
mod end_of_life;
mod files;
mod handover;
mod identity;
mod init;
mod joined;
mod late;
mod limits;
mod many;
mod namespaces;
mod network;
mod odd_images;
mod own_files;
mod own_program;
mod places;
mod privilege;
mod proc_and_dev;
mod shared_files;
mod terminals;
mod usage;
mod writable;
