//! Messages over NATS: the heads of requests and replies, and frames. The input
//! is headers as NATS has them, an empty line, and the payload; and, once more,
//! what a server sends to a runner.
#![no_main]

use libfuzzer_sys::fuzz_target;

mod trace {
    pub(crate) use consecution::trace::*;
}

mod transport;

fuzz_target!(|data: &[u8]| {
    transport::read_raw(data);
    let end = data.windows(2).position(|pair| pair == b"\n\n");
    let (head, payload) = data.split_at(end.unwrap_or(data.len()));
    let mut headers = async_nats::HeaderMap::new();
    for line in String::from_utf8_lossy(head).lines() {
        let Some((name, value)) = line.split_once(": ") else {
            continue;
        };
        let name: Result<async_nats::HeaderName, _> = name.parse();
        let value: Result<async_nats::HeaderValue, _> = value.parse();
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    transport::read(&async_nats::Message {
        subject: "fuzzed".into(),
        reply: None,
        payload: payload.to_vec().into(),
        headers: Some(headers),
        status: None,
        description: None,
        length: 0,
    });
});
