//! Content digests: what names a blob, and the hashing that proves it.

use std::fmt;
use std::str::FromStr;

use data_encoding::HEXLOWER;
use sha2::{Digest as _, Sha256, Sha512};

/// The digest of some bytes, as OCI writes it: `sha256:` or `sha512:` and
/// lower-case hex of the right length.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest {
    text: Box<str>,
}

/// Why a text is no digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// There is no colon between algorithm and hex.
    #[error("read digest '{0}': it has no ':'; a digest looks like sha256:<64 hex digits>")]
    NoAlgorithm(String),
    /// An algorithm that we do not know.
    #[error("read digest '{text}': unknown algorithm '{algorithm}'; sha256 and sha512 are known")]
    UnknownAlgorithm {
        /// The whole text.
        text: String,
        /// The part before the colon.
        algorithm: String,
    },
    /// Not lower-case hex of the algorithm's length.
    #[error("read digest '{text}': {algorithm} needs {wanted} lower-case hex digits")]
    BadHex {
        /// The whole text.
        text: String,
        /// The algorithm.
        algorithm: &'static str,
        /// How many digits it needs.
        wanted: usize,
    },
}

impl Digest {
    /// The SHA-256 digest of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let mut hasher = Hasher::sha256();
        hasher.update(bytes);
        hasher.finish()
    }

    /// `sha256` or `sha512`.
    #[must_use]
    pub fn algorithm(&self) -> &str {
        self.text
            .split_once(':')
            .map_or("", |(algorithm, _)| algorithm)
    }

    /// The hex digits behind the colon.
    #[must_use]
    pub fn hex(&self) -> &str {
        self.text.split_once(':').map_or("", |(_, hex)| hex)
    }

    /// The whole text, `sha256:…`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The digest as one file name.
    pub(crate) fn file_name(&self) -> String {
        self.text.replacen(':', "-", 1)
    }

    /// Reads back what [`Digest::file_name`] wrote.
    pub(crate) fn from_file_name(name: &str) -> Option<Self> {
        name.replacen('-', ":", 1).parse().ok()
    }

    /// A hasher of this digest's algorithm.
    pub(crate) fn hasher(&self) -> Hasher {
        match self.algorithm() {
            "sha512" => Hasher(State::Sha512(Sha512::new())),
            _ => Hasher::sha256(),
        }
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let (algorithm, hex) = text
            .split_once(':')
            .ok_or_else(|| DigestError::NoAlgorithm(text.to_owned()))?;
        let (algorithm, wanted) = match algorithm {
            "sha256" => ("sha256", 64),
            "sha512" => ("sha512", 128),
            other => {
                return Err(DigestError::UnknownAlgorithm {
                    text: text.to_owned(),
                    algorithm: other.to_owned(),
                });
            }
        };
        let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if hex.len() != wanted || !hex.bytes().all(is_hex) {
            return Err(DigestError::BadHex {
                text: text.to_owned(),
                algorithm,
                wanted,
            });
        }
        Ok(Self { text: text.into() })
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl serde::Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> serde::Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A running hash of one of the known algorithms.
#[derive(Clone)]
pub(crate) struct Hasher(State);

#[derive(Clone)]
enum State {
    Sha256(Sha256),
    Sha512(Sha512),
}

impl Hasher {
    pub(crate) fn sha256() -> Self {
        Self(State::Sha256(Sha256::new()))
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            State::Sha256(hash) => hash.update(bytes),
            State::Sha512(hash) => hash.update(bytes),
        }
    }

    pub(crate) fn finish(self) -> Digest {
        let text = match self.0 {
            State::Sha256(hash) => format!("sha256:{}", HEXLOWER.encode(&hash.finalize())),
            State::Sha512(hash) => format!("sha512:{}", HEXLOWER.encode(&hash.finalize())),
        };
        Digest { text: text.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn the_digest_of_nothing_is_the_well_known_one() {
        assert_eq!(Digest::of(b"").to_string(), EMPTY);
        assert_eq!(
            EMPTY
                .parse::<Digest>()
                .unwrap()
                .hasher()
                .finish()
                .to_string(),
            EMPTY
        );
    }

    #[test]
    fn sha512_is_known() {
        let digest = Hasher(State::Sha512(Sha512::new())).finish();
        assert_eq!(digest.algorithm(), "sha512");
        assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
        assert_eq!(digest.hasher().finish(), digest);
    }

    #[test]
    fn file_names_read_back() {
        let digest = Digest::of(b"x");
        assert_eq!(Digest::from_file_name(&digest.file_name()), Some(digest));
        assert_eq!(Digest::from_file_name("sha256-../../etc"), None);
    }

    #[test]
    fn what_is_no_digest_is_refused() {
        for text in [
            "",
            "sha256",
            "sha256:",
            "md5:00",
            "sha256:E3",
            &EMPTY.to_uppercase(),
        ] {
            assert!(text.parse::<Digest>().is_err(), "{text}");
        }
        let upper = EMPTY.replace('e', "E");
        assert!(upper.parse::<Digest>().is_err());
    }
}
