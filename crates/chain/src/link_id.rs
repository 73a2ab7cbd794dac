//! The link id: a short name for what a link runs.
//!
//! It names and must do nothing else. MD5 is broken as a seal: nobody may
//! conclude from an equal id that two links are the same where somebody could
//! gain from forging one. It is the hash that `md5sum` on any machine computes.

use std::fmt;
use std::str::FromStr;

use data_encoding::HEXLOWER;
use md5::{Digest, Md5};

/// Bytes of an id; it is written as twice as many hex digits.
const ID_BYTES: usize = 16;

/// The name of what a link runs: 32 lower-case hex digits.
///
/// Two links have the same id exactly if they run the same thing; how a chain
/// uses them (name, deadline, retries, accepted exit codes) does not count.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId([u8; ID_BYTES]);

impl LinkId {
    /// The id of a link whose identity is this JSON array.
    ///
    /// MD5 here names, it protects nothing.
    pub(crate) fn of(identity: &str) -> Self {
        Self(Md5::digest(identity).into())
    }
}

impl fmt::Display for LinkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for LinkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LinkId({self})")
    }
}

impl FromStr for LinkId {
    type Err = LinkIdError;

    fn from_str(text: &str) -> Result<Self, LinkIdError> {
        let mut id = [0; ID_BYTES];
        let has_length = text.len() == 2 * ID_BYTES;
        match has_length && HEXLOWER.decode_mut(text.as_bytes(), &mut id).is_ok() {
            true => Ok(Self(id)),
            false => Err(LinkIdError(crate::units::quoted(text))),
        }
    }
}

/// A text that is not a link id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not a link id: it must be 32 hex digits in lower case")]
pub struct LinkIdError(String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back_as_written() {
        let id = LinkId::of("x");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.to_string().len(), 32);
    }

    #[test]
    fn other_text_is_refused() {
        let id = LinkId::of("[]").to_string();
        for text in [
            "",
            &id[1..],
            &format!("{id}0"),
            &id.to_uppercase(),
            &format!("{}g", &id[1..]),
            "\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}",
        ] {
            assert!(text.parse::<LinkId>().is_err(), "{text}");
        }
        let error = "ABC".parse::<LinkId>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "`ABC` is not a link id: it must be 32 hex digits in lower case"
        );
    }
}
