//! Values of headers: how they are read, and what may stand in them.
//!
//! They must not hold what the client library, or the server, could trip over:
//! whatever comes from a process or a user is escaped.

use std::sync::Arc;

use async_nats::{HeaderMap, HeaderName};
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, percent_encode};

/// What all headers of a message but the end of standard error take at most.
pub(crate) const HEADERS_BYTES_MAX: usize = 6 * 1024;

/// How much of a name, and of a reason, is sent: what is of use to somebody who reads it,
/// and leaves room for all other headers below [`HEADERS_BYTES_MAX`].
const NAME_BYTES_MAX: usize = 128;
pub(crate) const REASON_BYTES_MAX: usize = 512;

/// A message that is none of the protocol's, and why, as a lower-case fragment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Malformed(pub(crate) String);

/// A text in one line and not long, for people.
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

/// A name as it may stand in a header.
pub(crate) fn name(name: &str) -> String {
    escape_start(name.as_bytes(), NAME_BYTES_MAX)
}

/// The start of a reason as it may stand in a header.
pub(crate) fn short(reason: &str) -> String {
    shortened(reason, REASON_BYTES_MAX)
}

/// The start of a text as it may stand in a header, no more than so many bytes.
pub(crate) fn shortened(text: &str, bytes_max: usize) -> String {
    escape_start(text.as_bytes(), bytes_max)
}

pub(crate) fn text_of(escaped: &str) -> Arc<str> {
    String::from_utf8_lossy(&unescape(escaped)).into()
}

/// What stays as it is in a value: visible ASCII and space.
const ESCAPED: &AsciiSet = &CONTROLS.add(b'%');

/// The start of it, as much as fits into so many bytes when it is escaped.
fn escape_start(bytes: &[u8], room: usize) -> String {
    escape(&bytes[..fitting(bytes.iter(), room)])
}

/// The end of it, as much as fits into so many bytes when it is escaped.
pub(crate) fn escape_end(bytes: &[u8], room: usize) -> String {
    escape(&bytes[bytes.len() - fitting(bytes.iter().rev(), room)..])
}

/// How many of these bytes fit into that room when they are escaped.
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

/// A space at either end would be taken for padding.
fn escape(bytes: &[u8]) -> String {
    let mut text = percent_encode(bytes, ESCAPED).to_string();
    for at in [text.len().saturating_sub(1), 0] {
        if text[at..].starts_with(' ') {
            text.replace_range(at..=at, "%20");
        }
    }
    text
}

/// The bytes that were escaped; what is not escaped properly stays as it is.
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
