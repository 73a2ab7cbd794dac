//! Answers from whoever listens to links' subjects and is no runner: a stream of
//! JetStream that keeps requests, a responder on a wildcard, a bridge.
//!
//! They say nothing about a call, so they are passed over wherever a runner may
//! still answer, and logged once, since plain NATS clients take them for replies.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use async_nats::Message;
use serde::Deserialize;

use super::head;
use crate::transport::subject::{ENDING, ERROR, ERROR_CODE, FRAME, RUNNER};

/// How many streams are named in the log, at most.
const STREAMS_MAX: usize = 16;

/// How much of a stream's name, and of another answer, is logged.
const SHOWN_BYTES_MAX: usize = 128;

/// The largest acknowledgement that is looked at.
const ACKNOWLEDGEMENT_BYTES_MAX: usize = 4096;

/// What a message to the inbox of a call is, by what only runners and the server
/// put into headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A frame of a runner, or of a caller.
    Frame,
    /// A runner's reply in one message, also to a probe.
    Reply,
    /// The server says that nobody listens to the subject that was written to.
    NoResponders,
    /// Nobody has the inbox that was written to.
    Gone,
    /// Somebody else's.
    Stranger,
}

/// As [`kind`], to a caller: only runners tell it that an inbox is gone, in our words,
/// while other services may answer its request with any code.
pub(super) fn kind_to_caller(message: &Message) -> Kind {
    let headers = message.headers.as_ref();
    match kind(message) {
        Kind::Gone if headers.and_then(|it| head::value(it, &ERROR)) != Some(head::GONE) => {
            Kind::Stranger
        }
        kind => kind,
    }
}

pub(super) fn kind(message: &Message) -> Kind {
    if head::says_no_responders(message) {
        return Kind::NoResponders;
    }
    let Some(headers) = &message.headers else {
        return Kind::Stranger;
    };
    let value = |name| head::value(headers, name);
    if value(&FRAME).is_some() {
        Kind::Frame
    } else if value(&ENDING).is_some() || value(&RUNNER).is_some() {
        Kind::Reply
    } else if value(&ERROR_CODE) == Some(head::GONE_CODE) {
        Kind::Gone
    } else {
        Kind::Stranger
    }
}

/// Which strangers have been logged.
#[derive(Debug, Default)]
pub(super) struct Strangers(Mutex<BTreeSet<String>>);

impl Strangers {
    /// Logs a stranger's answer to a request, unless that was done before.
    pub(super) fn passed_over(&self, message: &Message) {
        let stream = stream_of(message);
        // Others all count as one: what they answer may differ each time.
        let key = stream.clone().unwrap_or_default();
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if said.len() >= STREAMS_MAX || !said.insert(key) {
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
                let begins = head::line(&text, SHOWN_BYTES_MAX);
                tracing::warn!(
                    "somebody who is no runner answers requests ('{begins}'): that is passed \
                     over, but plain NATS clients take it for a reply; nobody but runners should \
                     answer on consecution.link.*"
                );
            }
        }
    }
}

/// The stream that acknowledges a message with this one.
fn stream_of(message: &Message) -> Option<String> {
    #[derive(Deserialize)]
    struct Acknowledgement {
        stream: String,
    }
    if message.payload.len() > ACKNOWLEDGEMENT_BYTES_MAX {
        return None;
    }
    let acknowledgement = serde_json::from_slice::<Acknowledgement>(&message.payload).ok()?;
    let stream = head::line(&acknowledgement.stream, SHOWN_BYTES_MAX);
    (!stream.is_empty()).then_some(stream)
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_nats::{HeaderMap, StatusCode};

    fn message(headers: &[(&str, &str)], payload: &'static str) -> Message {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, *value);
        }
        Message {
            subject: "x".into(),
            reply: None,
            payload: payload.into(),
            headers: (!headers.is_empty()).then_some(map),
            status: None,
            description: None,
            length: 0,
        }
    }

    #[test]
    fn what_is_ours_is_told_by_its_headers() {
        for (headers, expected) in [
            (&[][..], Kind::Stranger),
            (&[("A", "b")], Kind::Stranger),
            (&[("Nats-Service-Error-Code", "500")], Kind::Stranger),
            (&[("Nats-Service-Error-Code", "404")], Kind::Gone),
            (&[("Consecution-Ending", "busy")], Kind::Reply),
            (&[("Consecution-Runner", "north")], Kind::Reply),
            (&[("Consecution-Frame", "alive 0")], Kind::Frame),
            (
                &[("Consecution-Frame", "x"), ("Consecution-Ending", "x")],
                Kind::Frame,
            ),
        ] {
            assert_eq!(kind(&message(headers, "")), expected, "{headers:?}");
        }
        let other = message(&[("Nats-Service-Error-Code", "404")], "");
        assert_eq!(kind_to_caller(&other), Kind::Stranger);
        let ours = Message {
            headers: Some(head::gone()),
            ..message(&[], "")
        };
        assert_eq!(kind_to_caller(&ours), Kind::Gone);
        let nobody = Message {
            status: Some(StatusCode::NO_RESPONDERS),
            ..message(&[], "")
        };
        assert_eq!(kind(&nobody), Kind::NoResponders);
        let other = Message {
            status: Some(StatusCode::TIMEOUT),
            ..message(&[], "")
        };
        assert_eq!(kind(&other), Kind::Stranger);
    }

    #[test]
    fn a_streams_acknowledgement_names_it_and_nothing_else_does() {
        let stream = |payload| stream_of(&message(&[], payload));
        let name = |name: &str| Some(name.to_owned());
        assert_eq!(stream(r#"{"stream":"audit", "seq":3}"#), name("audit"));
        let failed = r#"{"error":{"code":503},"stream":"audit","seq":0}"#;
        assert_eq!(stream(failed), name("audit"));
        assert_eq!(stream("{\"stream\":\"a\\u001b[2J\"}"), name("a [2J"));
        for other in ["", "+OK", "{}", "[]", r#"{"stream":""}"#, r#"{"stream":7}"#] {
            assert_eq!(stream(other), None, "{other}");
        }
    }
}
