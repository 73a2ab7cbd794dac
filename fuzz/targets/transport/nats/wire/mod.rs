//! See [`super::super`].
#![allow(dead_code)]

#[path = "../../../../../crates/consecution/src/transport/nats/wire/following.rs"]
pub(crate) mod following;
#[path = "../../../../../crates/consecution/src/transport/nats/wire/frame.rs"]
pub(crate) mod frame;
#[path = "../../../../../crates/consecution/src/transport/nats/wire/header.rs"]
pub(crate) mod header;
#[path = "../../../../../crates/consecution/src/transport/nats/wire/header_block.rs"]
pub(crate) mod header_block;
#[path = "../../../../../crates/consecution/src/transport/nats/wire/kind.rs"]
pub(crate) mod kind;
#[path = "../../../../../crates/consecution/src/transport/nats/wire/outcome.rs"]
pub(crate) mod outcome;
#[path = "../../../../../crates/consecution/src/transport/nats/wire/reply.rs"]
pub(crate) mod reply;
#[path = "../../../../../crates/consecution/src/transport/nats/wire/request.rs"]
pub(crate) mod request;
#[path = "../../../../../crates/consecution/src/transport/nats/wire/server_line.rs"]
pub(crate) mod server_line;
#[path = "../../../../../crates/consecution/src/transport/nats/wire/subject.rs"]
pub(crate) mod subject;
