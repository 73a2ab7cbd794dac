//! Answers from subscribers to links' subjects that are no runners: a JetStream stream
//! that stores requests, a responder on a wildcard, a bridge.
//!
//! Such answers say nothing about a call. They are ignored as long as a runner may still
//! answer, and logged once, because plain NATS clients take them for replies.

use std::collections::BTreeSet;

use async_nats::Message;
use parking_lot::Mutex;
use serde::Deserialize;

use crate::text::excerpt;

/// The most streams that are named in the log.
const STREAMS_NAMED_MAX: usize = 16;

/// How many characters of a stream's name, or of another answer, are logged.
const SHOWN_CHARS_MAX: usize = 128;

/// The largest message that is checked for being an acknowledgement.
const ACKNOWLEDGEMENT_BYTES_MAX: usize = 4096;

/// The answers from others that have been logged.
#[derive(Debug, Default)]
pub(crate) struct Strangers(Mutex<BTreeSet<String>>);

impl Strangers {
    /// Logs an answer from somebody who is no runner, unless its sender was logged before.
    pub(crate) fn passed_over(&self, message: &Message) {
        let stream = stream_of(message);
        // All senders other than streams count as one: their answers may differ each time.
        let key = stream.clone().unwrap_or_default();
        let mut said = self.0.lock();
        if said.len() >= STREAMS_NAMED_MAX || !said.insert(key) {
            return;
        }
        drop(said);
        match stream {
            Some(stream) => tracing::warn!(
                "JetStream's stream '{stream}' keeps requests and acknowledges them to whoever \
                 calls: that is passed over, but plain NATS clients take it for a reply; create \
                 it without acknowledgements (no_ack), or without consecution.> in its subjects"
            ),
            None => {
                let text = String::from_utf8_lossy(&message.payload);
                let begins = excerpt(&text, SHOWN_CHARS_MAX);
                tracing::warn!(
                    "somebody who is no runner answers requests ('{begins}'): that is passed \
                     over, but plain NATS clients take it for a reply; nobody but runners should \
                     answer on consecution.link.*"
                );
            }
        }
    }
}

/// The name of the stream, if this message is a stream's acknowledgement.
fn stream_of(message: &Message) -> Option<String> {
    #[derive(Deserialize)]
    struct Acknowledgement {
        stream: String,
    }
    if message.payload.len() > ACKNOWLEDGEMENT_BYTES_MAX {
        return None;
    }
    let acknowledgement = serde_json::from_slice::<Acknowledgement>(&message.payload).ok()?;
    let stream = excerpt(&acknowledgement.stream, SHOWN_CHARS_MAX);
    (!stream.is_empty()).then_some(stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(payload: &'static str) -> Message {
        Message {
            subject: "x".into(),
            reply: None,
            payload: payload.into(),
            headers: None,
            status: None,
            description: None,
            length: 0,
        }
    }

    #[test]
    fn a_streams_acknowledgement_names_it_and_nothing_else_does() {
        let stream = |payload| stream_of(&message(payload));
        let name = |name: &str| Some(name.to_owned());
        assert_eq!(stream(r#"{"stream":"audit", "seq":3}"#), name("audit"));
        let failed = r#"{"error":{"code":503},"stream":"audit","seq":0}"#;
        assert_eq!(stream(failed), name("audit"));
        assert_eq!(stream("{\"stream\":\"a\\u001b[2J\"}"), name("a\\u001b[2J"));
        for other in ["", "+OK", "{}", "[]", r#"{"stream":""}"#, r#"{"stream":7}"#] {
            assert_eq!(stream(other), None, "{other}");
        }
    }
}
