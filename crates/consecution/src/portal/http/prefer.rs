//! The preferences of a client, in the header `Prefer` (RFC 7240). Pure.

use axum::http::header::{HeaderMap, HeaderName};

/// The header with preferences, and the one with those that were applied.
const PREFER: HeaderName = HeaderName::from_static("prefer");
pub(super) const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// A reply may begin while its request is still being sent.
pub(super) const DUPLEX: &str = "duplex";

/// Whether the headers have that preference, which takes no value. Others, and malformed ones,
/// are ignored.
pub(super) fn has(headers: &HeaderMap, preference: &str) -> bool {
    let lines = headers.get_all(PREFER).into_iter();
    let text = lines.filter_map(|line| line.to_str().ok());
    text.flat_map(|line| split(line, ',')).any(|wanted| {
        // Parameters are ignored.
        let word = split(wanted, ';').next().unwrap_or_default();
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        let is_empty = matches!(value.trim(), "" | "\"\"");
        is_empty && name.trim().eq_ignore_ascii_case(preference)
    })
}

/// The parts between separators that do not stand in quotes.
fn split(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    text.split(move |character| {
        let is_literal = std::mem::take(&mut is_escaped);
        match character {
            '\\' if is_quoted && !is_literal => is_escaped = true,
            '"' if !is_literal => is_quoted = !is_quoted,
            _ => {}
        }
        character == separator && !is_quoted
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::header::HeaderValue;

    fn wants_duplex(lines: &[&str]) -> bool {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(PREFER, HeaderValue::from_bytes(line.as_bytes()).unwrap());
        }
        has(&headers, DUPLEX)
    }

    #[test]
    fn it_is_found_wherever_it_stands() {
        for lines in [
            &["duplex"][..],
            &[" Duplex "],
            &["respond-async, wait=5, DUPLEX"],
            &["wait=5", "duplex"],
            &["duplex=\"\""],
            &["duplex="],
            &["duplex; foo=bar"],
            &["note=\"a, \\\" b\", duplex"],
            &[",, duplex,"],
        ] {
            assert!(wants_duplex(lines), "{lines:?}");
        }
    }

    #[test]
    fn nothing_else_is_taken_for_it() {
        for lines in [
            &[][..],
            &[""],
            &["duplexed"],
            &["wait=duplex"],
            &["duplex=no"],
            &["note=\"x, duplex, y\""],
            &["note=\"x, duplex"],
            &["wait; duplex"],
            &["d\u{fc}plex, duplex"],
        ] {
            assert!(!wants_duplex(lines), "{lines:?}");
        }
    }
}
