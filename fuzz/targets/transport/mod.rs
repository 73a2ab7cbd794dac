//! What is private in the transport over NATS is read here from its own files.
#![allow(dead_code, unused_imports)]

pub(crate) use consecution::transport::*;

#[path = "../../../crates/consecution/src/transport/nats/following.rs"]
mod following;
#[path = "../../../crates/consecution/src/transport/nats/frame.rs"]
mod frame;
#[path = "../../../crates/consecution/src/transport/nats/head.rs"]
mod head;
#[path = "../../../crates/consecution/src/transport/nats/header_block.rs"]
mod header_block;
#[path = "../../../crates/consecution/src/transport/nats/outcome.rs"]
mod outcome;
#[path = "../../../crates/consecution/src/transport/nats/wire.rs"]
mod wire;

/// What a server sends, as it comes, and the headers of requests in it.
pub(crate) fn read_raw(came: &[u8]) {
    let _ = header_block::read(came);
    let mut came = bytes::BytesMut::from(came);
    while let Ok(Some(said)) = wire::take(&mut came) {
        if let wire::Said::Message(message) = said
            && let Some(headers) = &message.headers
        {
            let _ = header_block::read(headers);
        }
    }
}

pub(crate) fn read(message: &async_nats::Message) {
    let headers = message.headers.as_ref();
    let _ = head::RequestHead::read(headers, tokio::time::Instant::now());
    if let Some(headers) = headers {
        let _ = head::ReplyHead::read(headers);
        let _ = outcome::read(headers);
    }
    let _ = frame::Numbered::read(message);
}
