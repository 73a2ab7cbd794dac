//! Escapes text from outside for terminals and logs.
//!
//! Names in layers, answers of registries and reasons of other runners get into errors
//! unchanged. They are escaped where they are printed, by the command line and the log, so
//! that none is forgotten: there they must not begin a line, move the cursor or hide the text
//! beside them.

use std::borrow::Cow;
use std::fmt::Write as _;

use chain::text::is_printable;

/// Escapes a text to one line: characters that are not printable are written as in JSON, `\n`
/// or `\u001b`. So a line of JSON keeps its meaning.
pub(crate) fn line(text: &str) -> Cow<'_, str> {
    escape(text, &[])
}

/// [`line`] of the first `characters_max` characters; `…` stands for the rest.
pub(crate) fn excerpt(text: &str, characters_max: usize) -> String {
    let beyond = text.char_indices().nth(characters_max);
    let end = beyond.map_or(text.len(), |(at, _)| at);
    let mut excerpt = line(&text[..end]).into_owned();
    if end < text.len() {
        excerpt.push('…');
    }
    excerpt
}

/// The same as [`line()`] for text that has lines of our own.
#[cfg(feature = "cli")]
pub(crate) fn lines(text: &str) -> Cow<'_, str> {
    escape(text, &['\n'])
}

/// The same for text that we have coloured; strangers' escapes must be out of it.
#[cfg(feature = "cli")]
pub(crate) fn styled_lines(text: &str) -> Cow<'_, str> {
    escape(text, &['\n', '\u{1b}'])
}

fn escape<'t>(text: &'t str, kept: &[char]) -> Cow<'t, str> {
    let is_fine = |character: char| is_printable(character) || kept.contains(&character);
    if text.chars().all(is_fine) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        match character {
            fine if is_fine(fine) => escaped.push(fine),
            '\n' => escaped.push_str("\\n"),
            '\r' => escaped.push_str("\\r"),
            '\t' => escaped.push_str("\\t"),
            other => {
                for unit in other.encode_utf16(&mut [0; 2]) {
                    // Writing to a string cannot fail.
                    let _ = write!(escaped, "\\u{unit:04x}");
                }
            }
        }
    }
    Cow::Owned(escaped)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_moves_or_hides_is_escaped_and_the_rest_is_as_it_was() {
        for (text, wanted) in [
            (
                "plain, \"quoted\" and 'größer' \\",
                "plain, \"quoted\" and 'größer' \\",
            ),
            ("a\nb\r\tc", "a\\nb\\r\\tc"),
            ("\u{1b}[2J\u{7}\u{7f}", "\\u001b[2J\\u0007\\u007f"),
            ("\u{9b}2J\u{85}", "\\u009b2J\\u0085"),
            ("\u{202e}gpj\u{2069}\u{200b}", "\\u202egpj\\u2069\\u200b"),
            ("\u{2028}\u{2029}", "\\u2028\\u2029"),
            ("\u{e0041}", "\\udb40\\udc41"),
        ] {
            assert_eq!(line(text), wanted);
        }
        assert_eq!(excerpt("größer\n", 7), "größer\\n");
        assert_eq!(excerpt("größer\n", 4), "größ…");
        assert_eq!(lines("a\nb\r\n"), "a\nb\\r\n");
        assert_eq!(styled_lines("\u{1b}[1m\u{9b}\n"), "\u{1b}[1m\\u009b\n");
    }

    proptest! {
        #[test]
        fn nothing_but_what_is_kept_gets_through(text in any::<String>()) {
            let one = line(&text);
            prop_assert!(one.chars().all(is_printable));
            prop_assert!(lines(&text).chars().all(|c| c == '\n' || is_printable(c)));
            // It is said once, and what was fine is as it was.
            prop_assert_eq!(line(&one), &*one);
            if text.chars().all(is_printable) {
                prop_assert_eq!(&*one, &*text);
            }
        }

        #[test]
        fn json_means_the_same_as_before(text in any::<String>()) {
            let json = serde_json::to_string(&text).unwrap();
            let read: String = serde_json::from_str(&line(&json)).unwrap();
            prop_assert_eq!(read, text);
        }
    }
}
