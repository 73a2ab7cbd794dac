//! Parses what a NATS server sends to a subscriber.
//!
//! It interprets only what the server itself writes: the kind of a line, the number of the
//! subscription, lengths. Reply subject, headers and payload come from the message's
//! publisher, and stay bytes. So no publisher can cause an error here; only a server can.

use bytes::{Buf, Bytes, BytesMut};

/// The longest line, INFO aside. A server accepts lines of 4 KiB from its clients, and adds
/// a number.
const LINE_BYTES_MAX: usize = 16 * 1024;

/// The longest INFO line: it names all servers of a cluster.
const INFO_BYTES_MAX: usize = 1024 * 1024;

/// The largest message: no server can be configured for more.
const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// One protocol message of a server.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// The server's description of itself, in JSON.
    Info(Bytes),
    Ping,
    Pong,
    /// The server reports an error of ours.
    Error(String),
    Message(Message),
    /// An acknowledgement, which only a verbose connection gets.
    Ok,
}

/// A published message; of it, only the lengths have been validated.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Message {
    /// The number of the subscription that it was delivered for.
    pub(crate) subscription: u64,
    pub(crate) reply: Option<Bytes>,
    pub(crate) headers: Option<Bytes>,
    pub(crate) payload: Bytes,
}

/// The bytes are nothing that a NATS server sends.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it does not speak the protocol of NATS: {0}")]
pub(crate) struct Foreign(&'static str);

/// Takes the first protocol message out of the received bytes; `None` if it is incomplete.
///
/// # Errors
/// It is malformed, so what follows cannot be parsed either.
pub(crate) fn take(came: &mut BytesMut) -> Result<Option<Said>, Foreign> {
    let Some(line_end) = came.iter().position(|byte| *byte == b'\n') else {
        return match came.len() {
            ..LINE_BYTES_MAX => Ok(None),
            ..INFO_BYTES_MAX if came.starts_with(b"INFO ") => Ok(None),
            _ => Err(Foreign("a line without an end")),
        };
    };
    let line = came[..line_end].trim_ascii_end();
    let (word, rest) = match line.iter().position(|byte| *byte == b' ') {
        Some(space) => (&line[..space], &line[space + 1..]),
        None => (line, &line[line.len()..]),
    };
    let said = match word {
        b"MSG" => return take_message(came, line_end + 1, false),
        b"HMSG" => return take_message(came, line_end + 1, true),
        b"INFO" => Said::Info(Bytes::copy_from_slice(rest)),
        b"PING" => Said::Ping,
        b"PONG" => Said::Pong,
        b"+OK" => Said::Ok,
        b"-ERR" => {
            let reason = String::from_utf8_lossy(rest);
            Said::Error(reason.trim_matches(['\'', ' ']).to_owned())
        }
        _ => return Err(Foreign("an unknown line")),
    };
    came.advance(line_end + 1);
    Ok(Some(said))
}

/// Takes `MSG <subject> <subscription> [<reply>] <length>`, or `HMSG` with the headers' length
/// before the total length; then that many bytes and an end of line.
fn take_message(
    came: &mut BytesMut,
    start: usize,
    has_headers: bool,
) -> Result<Option<Said>, Foreign> {
    let line = came[..start].trim_ascii_end();
    // Single spaces separate the words, and the server allows none in a subject. Other
    // white space may be part of a subject.
    let mut words: Vec<&[u8]> = line.split(|byte| *byte == b' ').skip(2).collect();
    let mut length = || words.pop().and_then(number);
    let total = length();
    let of_headers = if has_headers { length() } else { Some(0) };
    let (reply, subscription) = match words[..] {
        [subscription] => (None, subscription),
        [subscription, reply] => (Some(reply), subscription),
        _ => return Err(Foreign("a message line with too few or too many words")),
    };
    let (Some(subscription), Some(of_headers), Some(total)) =
        (number(subscription), of_headers, total)
    else {
        return Err(Foreign("a message line with a malformed number"));
    };
    let (Ok(of_headers), Ok(total)) = (usize::try_from(of_headers), usize::try_from(total)) else {
        return Err(Foreign("a message that is too large"));
    };
    if total > MESSAGE_BYTES_MAX || of_headers > total {
        return Err(Foreign("a message of an impossible length"));
    }
    if came.len() < start + total + END_OF_LINE.len() {
        return Ok(None);
    }
    let reply = reply.map(Bytes::copy_from_slice);
    came.advance(start);
    let headers = came.split_to(of_headers).freeze();
    let payload = came.split_to(total - of_headers).freeze();
    if !came.starts_with(END_OF_LINE) {
        return Err(Foreign("a message that is longer than announced"));
    }
    came.advance(END_OF_LINE.len());
    Ok(Some(Said::Message(Message {
        subscription,
        reply,
        headers: has_headers.then_some(headers),
        payload,
    })))
}

const END_OF_LINE: &[u8] = b"\r\n";

fn number(digits: &[u8]) -> Option<u64> {
    super::header::number(str::from_utf8(digits).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(came: &[u8]) -> Result<Vec<Said>, Foreign> {
        let mut came = BytesMut::from(came);
        let mut said = Vec::new();
        while let Some(one) = take(&mut came)? {
            said.push(one);
        }
        assert!(came.is_empty(), "left: {came:?}");
        Ok(said)
    }

    fn message(reply: Option<&'static [u8]>, headers: Option<&'static [u8]>) -> Said {
        Said::Message(Message {
            subscription: 7,
            reply: reply.map(Bytes::from_static),
            headers: headers.map(Bytes::from_static),
            payload: "abc".into(),
        })
    }

    #[test]
    fn what_a_server_says_is_understood() {
        let said = all(
            b"INFO {\"a\":1} \r\nPING\r\nPONG\r\n+OK\r\n-ERR 'Stale Connection'\r\n\
            MSG s 7 3\r\nabc\r\nMSG s 7 r 3\r\nabc\r\n\
            HMSG s 7 4 7\r\nA\r\n\nabc\r\nHMSG s 7 r 0 3\r\nabc\r\n",
        );
        assert_eq!(
            said.unwrap(),
            [
                Said::Info("{\"a\":1}".into()),
                Said::Ping,
                Said::Pong,
                Said::Ok,
                Said::Error("Stale Connection".into()),
                message(None, None),
                message(Some(b"r"), None),
                message(None, Some(b"A\r\n\n")),
                message(Some(b"r"), Some(b"")),
            ]
        );
    }

    #[test]
    fn subjects_may_be_any_bytes() {
        for reply in [
            &b"\xff\xfe"[..],
            "a\u{a0}b".as_bytes(),
            b"\x0b",
            b"\x00\x1b[2J",
        ] {
            let came = [b"HMSG \xff 7 ", reply, b" 1 4\r\n\xffabc\r\n"].concat();
            let said = all(&came).unwrap();
            let [Said::Message(message)] = &said[..] else {
                panic!("{said:?}");
            };
            assert_eq!(message.reply.as_deref(), Some(reply));
            assert_eq!(message.payload, "abc");
        }
    }

    #[test]
    fn what_no_server_says_is_refused() {
        for came in [
            &b"HTTP/1.1 400 Bad Request\r\n"[..],
            b"\r\n",
            b"MSG\r\n",
            b"MSG s 1\r\n",
            b"MSG s 1 r x 3\r\nabc\r\n",
            b"MSG s -1 3\r\nabc\r\n",
            b"MSG s 1 3x\r\nabc\r\n",
            b"MSG s 1 2\r\nabc\r\n",
            b"MSG s 1 99999999999999999999\r\n",
            b"MSG s 1 67108865\r\n",
            b"HMSG s 1 4 3\r\nabc\r\n",
            &[b'x'; LINE_BYTES_MAX],
        ] {
            assert!(all(came).is_err(), "{came:?}");
        }
    }

    proptest! {
        #[test]
        fn it_is_the_same_in_one_piece_and_byte_by_byte(
            reply in "[^ \t\r\n]{1,9}",
            headers in prop::collection::vec(any::<u8>(), 0..40),
            payload in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let (of_headers, total) = (headers.len(), headers.len() + payload.len());
            let line = format!("HMSG s 7 {reply} {of_headers} {total}\r\n");
            let whole = [line.as_bytes(), &headers, &payload, b"\r\nPING\r\n"].concat();
            let expected = Message {
                subscription: 7,
                reply: Some(reply.into()),
                headers: Some(headers.into()),
                payload: payload.into(),
            };
            let (mut came, mut said) = (BytesMut::new(), Vec::new());
            for byte in whole {
                came.extend_from_slice(&[byte]);
                said.extend(take(&mut came).unwrap());
            }
            prop_assert_eq!(said, [Said::Message(expected), Said::Ping]);
        }

        #[test]
        fn nothing_makes_it_panic(came in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut came = BytesMut::from(&came[..]);
            while let Ok(Some(_)) = take(&mut came) {}
        }
    }
}
