//! Consecution: Unix pipelines whose every stage is a container.
#![forbid(unsafe_code)]

#[doc(hidden)]
pub mod conformance;
pub mod link_store;
pub mod portal;
pub mod transport;
