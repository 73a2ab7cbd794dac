//! Classifies messages to an inbox by headers that only runners, callers and the server
//! set.

use async_nats::{Message, StatusCode};

use super::subject::{ENDING, ERROR, ERROR_CODE, FRAME, RUNNER};
use super::{header, reply};

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A frame of a runner, or of a caller.
    Frame,
    /// A runner's reply in one message, also to a probe.
    Reply,
    /// The server says that our message had no subscriber.
    NoResponders,
    /// A portal or runner says that the inbox of our message no longer exists.
    Gone,
    /// Anything else: not sent by a portal, a runner or the server.
    Stranger,
}

/// Like [`kind`], for a message to a caller. Any service may answer a caller's request with
/// any code, so [`Kind::Gone`] counts only with the text that runners send.
pub(crate) fn kind_to_caller(message: &Message) -> Kind {
    let headers = message.headers.as_ref();
    match kind(message) {
        Kind::Gone if headers.and_then(|it| header::value(it, &ERROR)) != Some(reply::GONE) => {
            Kind::Stranger
        }
        kind => kind,
    }
}

/// Classifies a message to an inbox.
pub(crate) fn kind(message: &Message) -> Kind {
    if message.status == Some(StatusCode::NO_RESPONDERS) {
        return Kind::NoResponders;
    }
    let Some(headers) = &message.headers else {
        return Kind::Stranger;
    };
    let value = |name| header::value(headers, name);
    if value(&FRAME).is_some() {
        Kind::Frame
    } else if value(&ENDING).is_some() || value(&RUNNER).is_some() {
        Kind::Reply
    } else if value(&ERROR_CODE) == Some(reply::GONE_CODE) {
        Kind::Gone
    } else {
        Kind::Stranger
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_nats::HeaderMap;

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
            headers: Some(reply::gone()),
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
}
