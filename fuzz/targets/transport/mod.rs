//! What is private in the transport over NATS is read here from its own files.

pub(crate) use consecution::transport::*;

pub(crate) mod nats;
