//! Consecution: Unix pipelines whose every stage is a container.
#![forbid(unsafe_code)]

pub mod link_store;
pub mod transport;
