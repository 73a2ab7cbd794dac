//! Values of parameters as one text: `width=300&title=a%20b`, as browsers write forms. It is
//! the query of a call over HTTP, and a header of a request over NATS.
//!
//! Pure. Which parameters there are and what their values may be, only the chain and its
//! links know; see [`chain::Chain::values`] and [`chain::Link::fill`].

use std::collections::BTreeMap;

use chain::limits::{MAX_PARAMETER_NAME_BYTES, MAX_PARAMETERS};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::text::excerpt;

/// What is escaped when values are written: all but what RFC 3986 calls unreserved.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// A text that does not say what the values of parameters are. Reads well behind "failed to".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FormError {
    /// Not percent-encoded.
    #[error(
        "read the parameter `{}`: each `%` needs two hexadecimal digits behind it, \
         and `%25` stands for a `%`",
        shown(name)
    )]
    Percent { name: String },
    /// Decoded, it is not UTF-8.
    #[error("read the parameter `{}`: decoded, it is not UTF-8", shown(name))]
    NotUtf8 { name: String },
    /// Nobody can say which of the two values is meant.
    #[error("read the parameter `{}`: it is given twice", shown(name))]
    Twice { name: String },
    /// More than any chain has.
    #[error("read the parameters: there are more than {MAX_PARAMETERS}")]
    TooMany,
}

impl FormError {
    /// The name of the parameter that cannot be read, as far as it can.
    pub(crate) fn name(&self) -> Option<String> {
        match self {
            Self::Percent { name } | Self::NotUtf8 { name } | Self::Twice { name } => {
                Some(shown(name))
            }
            Self::TooMany => None,
        }
    }
}

fn shown(name: &str) -> String {
    excerpt(name, MAX_PARAMETER_NAME_BYTES)
}

/// Reads values: `+` is a space, `%` begins an escaped byte, and a name without `=` has an
/// empty value.
///
/// # Errors
/// A part is wrongly escaped, or a name is given twice.
pub(crate) fn read(text: &str) -> Result<BTreeMap<String, String>, FormError> {
    let mut values = BTreeMap::new();
    for part in text.split('&').filter(|part| !part.is_empty()) {
        let (raw, value) = part.split_once('=').unwrap_or((part, ""));
        let name = decode(raw, raw)?;
        let value = decode(value, &name)?;
        if values.contains_key(&name) {
            return Err(FormError::Twice { name });
        }
        if values.len() == MAX_PARAMETERS {
            return Err(FormError::TooMany);
        }
        values.insert(name, value);
    }
    Ok(values)
}

/// Decodes a part of what is said of the parameter `name`.
fn decode(text: &str, name: &str) -> Result<String, FormError> {
    let name = || name.to_owned();
    let is_escape = |after: &str| {
        let digits = after.as_bytes().get(..2);
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    };
    if !text.split('%').skip(1).all(is_escape) {
        return Err(FormError::Percent { name: name() });
    }
    let text = text.replace('+', " ");
    let decoded = percent_decode_str(&text).decode_utf8();
    let decoded = decoded.map_err(|_| FormError::NotUtf8 { name: name() })?;
    Ok(decoded.into_owned())
}

/// Writes values in visible ASCII: [`read`] gives the same ones.
pub(crate) fn write(values: &BTreeMap<String, String>) -> String {
    let mut text = String::with_capacity(written_bytes(values));
    for (name, value) in values {
        if !text.is_empty() {
            text.push('&');
        }
        text.extend(utf8_percent_encode(name, ESCAPED));
        text.push('=');
        text.extend(utf8_percent_encode(value, ESCAPED));
    }
    text
}

/// How many bytes [`write`] takes for these values.
pub(crate) fn written_bytes(values: &BTreeMap<String, String>) -> usize {
    let escaped = |text: &str| -> usize { utf8_percent_encode(text, ESCAPED).map(str::len).sum() };
    let values = values.iter();
    let bytes = values.map(|(name, value)| escaped(name) + escaped(value) + "=&".len());
    let bytes: usize = bytes.sum();
    bytes.saturating_sub("&".len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn values<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, String> {
        pairs
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into()
    }

    #[test]
    fn values_are_read_as_forms_write_them() {
        for (text, wanted) in [
            ("", values([])),
            ("&&", values([])),
            (
                "width=300&title=a+b",
                values([("width", "300"), ("title", "a b")]),
            ),
            ("title=a%20b%2Bc%26d%3de", values([("title", "a b+c&d=e")])),
            ("a=b=c", values([("a", "b=c")])),
            ("a", values([("a", "")])),
            ("%61=%00%0a", values([("a", "\0\n")])),
            ("a=%C3%A9", values([("a", "é")])),
            ("a=é", values([("a", "é")])),
            ("=x", values([("", "x")])),
            ("a=${b}&b=-x", values([("a", "${b}"), ("b", "-x")])),
        ] {
            assert_eq!(read(text).as_ref(), Ok(&wanted), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_read_says_which_parameter_it_is() {
        for (text, name, part) in [
            ("a=1&a=2", "a", "twice"),
            ("a=1&%61=2", "a", "twice"),
            ("b=%", "b", "hexadecimal"),
            ("b=%4", "b", "hexadecimal"),
            ("b=%zz", "b", "hexadecimal"),
            ("b=%é", "b", "hexadecimal"),
            ("b=%+1", "b", "hexadecimal"),
            ("%b", "%b", "hexadecimal"),
            ("c=%ff", "c", "UTF-8"),
            ("%C3=x", "%C3", "UTF-8"),
            ("\u{202e}=%", "\\u202e", "hexadecimal"),
        ] {
            let error = read(text).unwrap_err();
            assert_eq!(error.name().as_deref(), Some(name), "{text}");
            let error = error.to_string();
            assert!(
                error.contains(part) && error.starts_with("read the parameter `"),
                "{error}"
            );
        }
        let many = |count: usize| (0..count).map(|at| format!("{at}=&")).collect::<String>();
        assert_eq!(read(&many(MAX_PARAMETERS)).unwrap().len(), MAX_PARAMETERS);
        assert_eq!(read(&many(MAX_PARAMETERS + 1)), Err(FormError::TooMany));
    }

    proptest! {
        #[test]
        fn values_read_back_as_written(
            values in prop::collection::btree_map(any::<String>(), any::<String>(), 0..8),
        ) {
            let text = write(&values);
            prop_assert!(text.bytes().all(|byte| byte.is_ascii_graphic()));
            prop_assert_eq!(text.len(), written_bytes(&values));
            prop_assert_eq!(read(&text), Ok(values));
        }

        #[test]
        fn nothing_makes_it_panic_and_what_is_read_can_be_written(text in "[a-c%+&=0-9é]{0,40}") {
            if let Ok(values) = read(&text) {
                prop_assert_eq!(read(&write(&values)), Ok(values));
            }
        }
    }
}
