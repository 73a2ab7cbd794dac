//! Text with places for values: `${name}`, and `$${` for a literal `${`.
//!
//! Every text that has no place for a value has one spelling as a template, so that
//! what is read can be written again.

use std::ops::Range;

use crate::limits::MAX_PARAMETER_NAME_BYTES;

/// What begins the place of a value.
pub(crate) const OPENING: &str = "${";

/// What stands for a literal [`OPENING`].
const ESCAPED: &str = "$${";

/// A part of a template.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece<'t> {
    /// Text as it is.
    Text(&'t str),
    /// The place of the value of this name, with the bytes that it has in the template.
    Value(&'t str, Range<usize>),
    /// An opening without a name and its end behind it.
    Broken(Range<usize>),
}

/// The parts of a template in order.
pub(crate) fn pieces(template: &str) -> impl Iterator<Item = Piece<'_>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let rest = template.get(at..).filter(|rest| !rest.is_empty())?;
        let (piece, length) = next(rest, at);
        at += length;
        Some(piece)
    })
}

/// The first part of what is left, and its bytes. It begins at `at` in the template.
fn next(rest: &str, at: usize) -> (Piece<'_>, usize) {
    if rest.starts_with(ESCAPED) {
        return (Piece::Text(OPENING), ESCAPED.len());
    }
    if let Some(inside) = rest.strip_prefix(OPENING) {
        let name = inside.split_once('}').map(|(name, _)| name);
        return match name.filter(|name| is_name(name)) {
            Some(name) => {
                let length = OPENING.len() + name.len() + 1;
                (Piece::Value(name, at..at + length), length)
            }
            None => (Piece::Broken(at..at + OPENING.len()), OPENING.len()),
        };
    }
    let length = match rest.find(OPENING) {
        Some(found) if rest[..found].ends_with('$') => found - 1,
        Some(found) => found,
        None => rest.len(),
    };
    (Piece::Text(&rest[..length]), length)
}

/// Whether a parameter, data or a secret may be called so.
pub fn is_name(name: &str) -> bool {
    name.len() <= MAX_PARAMETER_NAME_BYTES
        && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'))
}

/// Text as the template that stands for it.
pub(crate) fn escape(text: &str) -> String {
    text.replace(OPENING, ESCAPED)
}

/// The text that a template stands for which has no place for a value.
pub(crate) fn unescape(template: &str) -> String {
    template.replace(ESCAPED, OPENING)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(template: &str) -> Vec<Piece<'_>> {
        pieces(template).collect()
    }

    #[test]
    fn a_template_has_texts_and_values() {
        use Piece::{Broken, Text, Value};
        assert_eq!(of(""), []);
        for text in ["$", "$$", "a$", "{x}", "}", "$a{"] {
            assert_eq!(of(text), [Text(text)]);
        }
        assert_eq!(of("a${x}b"), [Text("a"), Value("x", 1..5), Text("b")]);
        assert_eq!(of("$${x}$"), [Text("${"), Text("x}$")]);
        assert_eq!(of("a$$${x}"), [Text("a$"), Text("${"), Text("x}")]);
        assert_eq!(of("${x}${y}"), [Value("x", 0..4), Value("y", 4..8)]);
        for (text, rest) in [("${", ""), ("${}", "}"), ("${ x}", " x}"), ("${x", "x")] {
            let pieces = of(text);
            assert_eq!(pieces[0], Broken(0..2), "{text}");
            assert_eq!(
                pieces.get(1),
                Some(&Text(rest)).filter(|_| !rest.is_empty())
            );
        }
        let long = format!("${{{}}}", "x".repeat(MAX_PARAMETER_NAME_BYTES + 1));
        assert_eq!(of(&long)[0], Broken(0..2));
    }

    #[test]
    fn every_text_is_a_template() {
        for text in ["", "$", "${", "$${", "$$${x}", "${x}$", "$${$${"] {
            let template = escape(text);
            let is_text = |piece| matches!(piece, Piece::Text(_));
            assert!(pieces(&template).all(is_text), "{template}");
            assert_eq!(unescape(&template), text);
        }
    }
}
