//! Values of headers: reading, and escaping.
//!
//! Text from a process or a user is escaped, so that it cannot contain anything that the
//! client library or the server would misread.

use std::sync::Arc;

use async_nats::{HeaderMap, HeaderName};
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, percent_encode};

/// The most bytes of all headers of a message together, without standard error and without
/// values of parameters.
pub(crate) const HEADERS_BYTES_MAX: usize = 8 * 1024;

/// The most bytes of a request's values of parameters. One value of the most bytes that there
/// can be fits, however many of them must be escaped, and all of it fits into a message of
/// the size that servers allow by default, 1 MiB.
pub(crate) const SET_BYTES_MAX: usize = 512 * 1024;

/// The most bytes of a name, and of a reason, once escaped: enough for a reader, and little
/// enough that all headers fit in [`HEADERS_BYTES_MAX`].
const NAME_BYTES_MAX: usize = 128;
pub(crate) const REASON_BYTES_MAX: usize = 512;

/// A message that violates the protocol. The text says how, as a lower-case fragment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Malformed(pub(crate) String);

/// The start of a text, on one line, for people.
pub(crate) fn line(text: &str, bytes_max: usize) -> String {
    let end = text.floor_char_boundary(bytes_max);
    let visible = |character: char| {
        if character.is_control() {
            ' '
        } else {
            character
        }
    };
    text[..end].chars().map(visible).collect()
}

/// The value of a header, the first if there are several.
pub(crate) fn value<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name.clone()).map(|value| value.as_str())
}

/// A number in decimal digits and nothing else.
pub(crate) fn number(text: &str) -> Option<u64> {
    let is_plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_plain.then(|| text.parse().ok()).flatten()
}

pub(crate) fn bad(name: &HeaderName, text: &str, reason: &str) -> Malformed {
    let name: &str = name.as_ref();
    Malformed(format!("`{name}: {}`: {reason}", short(text)))
}

/// Escapes a name for a header.
pub(crate) fn name(name: &str) -> String {
    escape_start(name.as_bytes(), NAME_BYTES_MAX)
}

/// Escapes the start of a reason for a header.
pub(crate) fn short(reason: &str) -> String {
    shortened(reason, REASON_BYTES_MAX)
}

/// Escapes the start of a text for a header, to at most `bytes_max` bytes.
pub(crate) fn shortened(text: &str, bytes_max: usize) -> String {
    escape_start(text.as_bytes(), bytes_max)
}

pub(crate) fn text_of(escaped: &str) -> Arc<str> {
    String::from_utf8_lossy(&unescape(escaped)).into()
}

/// The characters to escape: all but visible ASCII and space, and the percent sign.
const ESCAPED: &AsciiSet = &CONTROLS.add(b'%');

/// Escapes as much of the start as fits into `room` bytes.
fn escape_start(bytes: &[u8], room: usize) -> String {
    escape(&bytes[..fitting(bytes.iter(), room)])
}

/// Escapes as much of the end as fits into `room` bytes.
pub(crate) fn escape_end(bytes: &[u8], room: usize) -> String {
    escape(&bytes[bytes.len() - fitting(bytes.iter().rev(), room)..])
}

/// How many of these bytes fit into `room` bytes once escaped.
fn fitting<'a>(bytes: impl Iterator<Item = &'a u8>, room: usize) -> usize {
    let ends = bytes.scan(0, |end, byte| {
        *end += if (b' '..=b'~').contains(byte) && *byte != b'%' {
            1
        } else {
            3
        };
        Some(*end)
    });
    ends.take_while(|end| *end <= room).count()
}

/// Also escapes a space at either end, which readers would take for padding.
fn escape(bytes: &[u8]) -> String {
    let mut text = percent_encode(bytes, ESCAPED).to_string();
    for at in [text.len().saturating_sub(1), 0] {
        if text[at..].starts_with(' ') {
            text.replace_range(at..=at, "%20");
        }
    }
    text
}

/// Reverses [`escape`]. A percent sign without two hex digits stays as it is.
pub(crate) fn unescape(text: &str) -> Vec<u8> {
    percent_decode_str(text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_stands_in_a_header_is_visible_and_no_padding() {
        for (bytes, expected) in [
            (&b"plain text"[..], "plain text"),
            (b" 100 %\n", "%20100 %25%0A"),
            (b"a ", "a%20"),
            (b" ", "%20"),
            ("r\u{e9}ason\x7f".as_bytes(), "r%C3%A9ason%7F"),
            (b"", ""),
        ] {
            assert_eq!(escape_end(bytes, 100), expected);
            assert_eq!(unescape(expected), bytes);
        }
        assert_eq!(unescape("%zz %+1 %4"), b"%zz %+1 %4");
    }

    proptest! {
        #[test]
        fn what_was_escaped_reads_back_as_far_as_there_is_room(
            bytes in prop::collection::vec(any::<u8>(), 0..80),
            room in 0..300_usize,
        ) {
            let (start, end) = (escape_start(&bytes, room), escape_end(&bytes, room));
            prop_assert!(bytes.starts_with(&unescape(&start)));
            prop_assert!(bytes.ends_with(&unescape(&end)));
            for text in [start, end] {
                prop_assert!(text.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
                prop_assert_eq!(text.trim(), &text);
                // A space at either end takes two bytes more.
                prop_assert!(text.len() <= room + 4);
                prop_assert!(room < 3 * bytes.len() || unescape(&text) == bytes);
            }
        }
    }
}
