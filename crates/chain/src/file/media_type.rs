//! Media types, as they stand in `Content-Type`.

use super::diagnostic::{Diagnostic, Problems};
use super::tree::Node;
use super::value;
use crate::limits::MAX_CONTENT_TYPE_BYTES;
use crate::units::quoted;

/// The media type of a chain's output.
pub(super) fn media_type(node: &Node, problems: &mut Problems) -> Option<String> {
    let help = "write a media type, as in `image/png` or `text/plain; charset=utf-8`";
    let text = value::text(node, "`ContentType`", help, problems)?;
    if is_media_type(text) {
        return Some(text.to_owned());
    }
    let message = format!("`ContentType` is no media type: {}", quoted(text));
    problems.push(Diagnostic::new(node.span.clone(), message).help(help));
    None
}

/// Whether this is a `media-type` of RFC 9110, and so can be a header's value.
fn is_media_type(text: &str) -> bool {
    if text.len() > MAX_CONTENT_TYPE_BYTES {
        return false;
    }
    let Some((kind, rest)) = text.split_once('/') else {
        return false;
    };
    let (subtype, mut rest) = rest.split_at(token_length(rest));
    if !is_token(kind) || subtype.is_empty() {
        return false;
    }
    while !rest.is_empty() {
        match parameter(rest) {
            Some(behind) => rest = behind,
            None => return false,
        }
    }
    true
}

/// What is behind a parameter, `; name=value`.
fn parameter(text: &str) -> Option<&str> {
    let text = text.trim_start_matches([' ', '\t']).strip_prefix(';')?;
    let text = text.trim_start_matches([' ', '\t']);
    let (name, text) = text.split_at(token_length(text));
    let text = text.strip_prefix('=').filter(|_| !name.is_empty())?;
    match text.strip_prefix('"') {
        Some(quoted) => behind_quotes(quoted),
        None => Some(&text[token_length(text)..]).filter(|rest| rest.len() < text.len()),
    }
}

/// What is behind the end of a quoted string.
fn behind_quotes(text: &str) -> Option<&str> {
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return text.get(at + 1..),
            '\\' => {
                chars
                    .next()
                    .filter(|(_, c)| matches!(c, '\t' | ' '..='~'))?;
            }
            '\t' | ' '..='~' => {}
            _ => return None,
        }
    }
    None
}

fn is_token(text: &str) -> bool {
    !text.is_empty() && token_length(text) == text.len()
}

/// Bytes at the beginning of a text that can be in a token.
fn token_length(text: &str) -> usize {
    let is_in_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    text.find(|c| !is_in_token(c)).unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_a_header_is_a_media_type() {
        for text in [
            "image/png",
            "text/plain; charset=utf-8",
            "text/plain;charset=\"utf-8\"",
            "multipart/mixed; boundary=\"a \\\" b\" ; x=y",
            "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
        ] {
            assert!(is_media_type(text), "{text}");
        }
        for text in [
            "",
            "png",
            "image/",
            "/png",
            "image/png;",
            "image/png; charset",
            "image/png; charset=",
            "image/png; =x",
            "image / png",
            "image/png\r\nX: y",
            "text/plain; a=\"b",
            "text/plain; a=\"\n\"",
            "text/plain, text/html",
            "t\u{e9}xt/plain",
            "image/png ",
            &format!("a/{}", "b".repeat(254)),
        ] {
            assert!(!is_media_type(text), "{text:?}");
        }
    }
}
