//! What is private in the transport over NATS is read here from its own files.
#![allow(dead_code, unused_imports)]

pub(crate) use consecution::transport::*;

#[path = "../../../crates/consecution/src/transport/nats/following.rs"]
mod following;
#[path = "../../../crates/consecution/src/transport/nats/frame.rs"]
mod frame;
#[path = "../../../crates/consecution/src/transport/nats/head.rs"]
mod head;
#[path = "../../../crates/consecution/src/transport/nats/outcome.rs"]
mod outcome;

pub(crate) fn read(message: &async_nats::Message) {
    let headers = message.headers.as_ref();
    let _ = head::RequestHead::read(headers, tokio::time::Instant::now());
    if let Some(headers) = headers {
        let _ = head::ReplyHead::read(headers);
        let _ = outcome::read(headers);
    }
    let _ = frame::Numbered::read(message);
}
