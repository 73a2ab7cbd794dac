//! Keys: who may do what over HTTP, as a key file says it.

use std::fmt;
use std::str::FromStr;

use crate::chain::is_chain_name;
use crate::limits::MAX_NAME_BYTES;
use crate::text::is_printable;

/// A key file: a list of keys, and what the holder of each may do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyFile {
    /// The keys, in the order of the file.
    pub keys: Vec<Key>,
}

/// A key, and what its holder may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// What the log calls its holder. Several keys may have the same name.
    pub name: String,
    /// How its holder is recognized.
    pub proof: Proof,
    /// What its holder may do.
    pub may: Vec<Right>,
}

/// How the holder of a key is recognized.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proof {
    /// By a token with this SHA-256 sum.
    Token([u8; 32]),
    /// By a client certificate whose subject has this common name.
    Certificate(String),
}

/// Something that the holder of a key may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Right {
    /// See chains, their links, and what is wrong with them.
    View,
    /// Call the chains whose name matches.
    Call(Glob),
    /// See and remove calls that are kept.
    Calls,
    /// See the data of calls as it passes.
    Tap,
    /// Read the metrics.
    Metrics,
    /// Change what runs.
    Admin,
}

/// The rights without a pattern, by name.
pub(crate) const RIGHTS: [(&str, Right); 5] = [
    ("view", Right::View),
    ("calls", Right::Calls),
    ("tap", Right::Tap),
    ("metrics", Right::Metrics),
    ("admin", Right::Admin),
];

const CALL: &str = "call:";

/// A pattern for names of chains, in which `*` stands for any characters, or none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob(String);

/// A text is no right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RightError {
    /// It is none of the words.
    #[error("it is none of view, call:CHAIN, calls, tap, metrics and admin")]
    Unknown,
    /// The pattern behind `call:` is none.
    #[error(
        "behind `call:` stands the name of a chain, in which `*` may stand for any characters, \
         of at most {MAX_NAME_BYTES} bytes"
    )]
    Glob,
}

impl Key {
    /// Whether its holder may call the chain of that name.
    pub fn may_call(&self, chain: &str) -> bool {
        let of_call = |right: &Right| matches!(right, Right::Call(glob) if glob.matches(chain));
        self.may.iter().any(of_call)
    }
}

impl Glob {
    /// Whether `name` matches. Takes time in proportion to the product of both lengths at worst.
    pub fn matches(&self, name: &str) -> bool {
        let (pattern, name) = (self.0.as_bytes(), name.as_bytes());
        let (mut at, mut read) = (0, 0);
        // Where the last `*` stands, and how much of the name it does not stand for.
        let mut star = None;
        while read < name.len() {
            match pattern.get(at) {
                Some(b'*') => {
                    star = Some((at, read));
                    at += 1;
                }
                Some(byte) if *byte == name[read] => {
                    at += 1;
                    read += 1;
                }
                _ => {
                    // Let the last `*` stand for one more byte.
                    let Some((star_at, from)) = star else {
                        return false;
                    };
                    star = Some((star_at, from + 1));
                    (at, read) = (star_at + 1, from + 1);
                }
            }
        }
        pattern[at..].iter().all(|byte| *byte == b'*')
    }
}

impl FromStr for Right {
    type Err = RightError;

    fn from_str(text: &str) -> Result<Right, RightError> {
        if let Some(pattern) = text.strip_prefix(CALL) {
            // A name of a chain begins with a letter or a digit.
            let as_name = format!("x{}", pattern.replace('*', ""));
            let is_glob = !pattern.is_empty()
                && pattern.len() <= MAX_NAME_BYTES
                && (as_name.len() > MAX_NAME_BYTES || is_chain_name(&as_name));
            return match is_glob {
                true => Ok(Right::Call(Glob(pattern.to_owned()))),
                false => Err(RightError::Glob),
            };
        }
        let found = RIGHTS.into_iter().find(|(word, _)| *word == text);
        found.map(|(_, right)| right).ok_or(RightError::Unknown)
    }
}

impl fmt::Display for Right {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Right::Call(Glob(pattern)) = self {
            return write!(formatter, "{CALL}{pattern}");
        }
        let found = RIGHTS.iter().find(|(_, right)| right == self);
        formatter.write_str(found.map_or("", |(word, _)| word))
    }
}

/// Whether this can be the name of a key: 1 to 100 bytes that can be shown, with no blanks
/// around them.
pub fn is_key_name(name: &str) -> bool {
    let is_shown = name.chars().all(is_printable);
    (1..=MAX_NAME_BYTES).contains(&name.len()) && name.trim() == name && is_shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn glob(pattern: &str) -> Glob {
        Glob(pattern.to_owned())
    }

    /// Straight from what it means.
    fn matches_plainly(pattern: &[u8], name: &[u8]) -> bool {
        match (pattern.split_first(), name.split_first()) {
            (None, None) => true,
            (Some((b'*', rest)), None) => matches_plainly(rest, name),
            (Some((b'*', rest)), Some((_, behind))) => {
                matches_plainly(rest, name) || matches_plainly(pattern, behind)
            }
            (Some((byte, rest)), Some((first, behind))) => {
                byte == first && matches_plainly(rest, behind)
            }
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn a_star_stands_for_any_characters(pattern in "[ab*]{0,8}", name in "[ab]{0,10}") {
            let expected = matches_plainly(pattern.as_bytes(), name.as_bytes());
            prop_assert_eq!(glob(&pattern).matches(&name), expected);
        }

        #[test]
        fn what_is_read_is_written_the_same(text in "(view|tap|admin|call:[a-z*._-]{0,5}|.{0,12})") {
            if let Ok(right) = text.parse::<Right>() {
                prop_assert_eq!(right.to_string(), text);
            }
        }
    }

    #[test]
    fn rights_are_words_and_patterns() {
        for (text, error) in [
            ("", RightError::Unknown),
            ("View", RightError::Unknown),
            ("call", RightError::Unknown),
            ("call:", RightError::Glob),
            ("call:a/b", RightError::Glob),
            ("call:a b", RightError::Glob),
            ("call:[a]", RightError::Glob),
        ] {
            assert_eq!(text.parse::<Right>(), Err(error), "{text}");
        }
        let too_long = format!("call:{}", "x".repeat(MAX_NAME_BYTES + 1));
        assert_eq!(too_long.parse::<Right>(), Err(RightError::Glob));
        let longest = format!("call:{}", "x".repeat(MAX_NAME_BYTES));
        assert!(longest.parse::<Right>().is_ok());
    }

    #[test]
    fn a_key_is_for_the_chains_that_it_names() {
        let key = |may: &[&str]| Key {
            name: "shop".to_owned(),
            proof: Proof::Token([0; 32]),
            may: may.iter().map(|right| right.parse().unwrap()).collect(),
        };
        let shop = key(&["call:words", "call:resize-*", "view"]);
        for name in ["words", "resize-", "resize-big"] {
            assert!(shop.may_call(name), "{name}");
        }
        for name in ["word", "wordss", "Words", "resize", "xresize-a", ""] {
            assert!(!shop.may_call(name), "{name}");
        }
        assert!(!key(&["view", "calls", "tap", "metrics", "admin"]).may_call("words"));
        assert!(key(&["call:*"]).may_call("anything"));
    }

    #[test]
    fn a_long_pattern_takes_no_long_time() {
        let pattern = glob(&"*a".repeat(MAX_NAME_BYTES / 2));
        assert!(!pattern.matches(&format!("{}b", "a".repeat(60_000))));
    }
}
