//! What travels over NATS: what a server sends to a runner, the heads of requests and
//! replies, and frames. The input is headers as NATS has them, an empty line, and the
//! payload; and, once more, what a server sends.
//!
//! Nothing may panic, and what has been read is the same when it is written and read
//! again: two portals never take one message for two things.
#![no_main]

use async_nats::{HeaderMap, HeaderName, HeaderValue, Message};
use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use tokio::time::Instant;
use transport::nats::wire::frame::Numbered;
use transport::nats::wire::reply::ReplyHead;
use transport::nats::wire::request::RequestHead;
use transport::nats::wire::server_line::{self, Said};
use transport::nats::wire::{header_block, kind, outcome};

mod trace {
    pub(crate) use consecution::trace::*;
}

#[path = "../../crates/consecution/src/parameters.rs"]
mod parameters;
#[path = "../../crates/consecution/src/text.rs"]
#[allow(dead_code, unexpected_cfgs)]
mod text;
mod transport;

/// What a message may have at most, as servers have it.
const MESSAGE_BYTES_MAX: usize = 1024 * 1024;

fuzz_target!(|data: &[u8]| {
    server_lines(data);
    block(data);
    let end = data.windows(2).position(|pair| pair == b"\n\n");
    let (head, payload) = data.split_at(end.unwrap_or(data.len()));
    let mut headers = HeaderMap::new();
    for line in String::from_utf8_lossy(head).lines() {
        let Some((name, value)) = line.split_once(": ") else {
            continue;
        };
        let name: Result<HeaderName, _> = name.parse();
        let value: Result<HeaderValue, _> = value.parse();
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    message(headers, payload.to_vec().into());
});

/// What a server sends, as it comes, and the headers of requests in it.
fn server_lines(came: &[u8]) {
    let mut came = BytesMut::from(came);
    while let Ok(Some(said)) = server_line::take(&mut came) {
        if let Said::Message(server_line::Message {
            headers: Some(headers),
            ..
        }) = said
        {
            block(&headers);
        }
    }
}

fn block(bytes: &[u8]) {
    if let Ok(headers) = header_block::read(bytes) {
        // What is written may have more bytes than it was read from, and be too long.
        if let Ok(again) = header_block::read(&header_block::write(&headers)) {
            assert_eq!(again, headers);
        }
    }
}

fn message(headers: HeaderMap, payload: Bytes) {
    let now = Instant::now();
    if let Ok(head) = RequestHead::read(Some(&headers), now) {
        let again = RequestHead::read(Some(&head.write(now)), now).expect("what was written");
        assert_eq!((again.stream, again.must_confirm), (head.stream, head.must_confirm));
        assert_eq!(again.live_stderr, head.live_stderr);
        assert!(head.following.starts_with(&again.following));
        assert_eq!(again.parameters, head.parameters);
    }
    let _ = ReplyHead::read(&headers);
    if let Ok(read) = outcome::read(&headers) {
        let mut written = HeaderMap::new();
        outcome::write(&mut written, &read, "fuzzed", MESSAGE_BYTES_MAX);
        let again = outcome::read(&written).expect("what was written");
        assert_eq!(again.joined.len(), read.joined.len());
        assert_eq!(again.elapsed, read.elapsed);
        for (again, read) in again.links().zip(read.links()) {
            assert_eq!((again.usage, again.limit), (read.usage, read.limit));
        }
    }
    let message = of(headers, payload);
    kind::kind(&message);
    kind::kind_to_caller(&message);
    if let Some(Ok(frame)) = Numbered::read(&message) {
        let (headers, payload) = frame.clone().write("fuzzed", MESSAGE_BYTES_MAX);
        let again = Numbered::read(&of(headers, payload)).expect("a frame").expect("what was written");
        assert_eq!(again.number, frame.number);
        assert_eq!(again.frame.is_callers(), frame.frame.is_callers());
    }
}

fn of(headers: HeaderMap, payload: Bytes) -> Message {
    Message {
        subject: "fuzzed".into(),
        reply: None,
        payload,
        headers: Some(headers),
        status: None,
        description: None,
        length: 0,
    }
}
