//! Image references, normalised as Docker normalises them.
//!
//! `busybox` is `docker.io/library/busybox:latest`; `localhost:5000/x` is on a
//! registry of its own. Pure: nothing here looks anything up.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::digest::{Digest, DigestError};

/// Most bytes in registry and repository together, as Docker has it.
const NAME_BYTES_MAX: usize = 255;
/// Most bytes in a tag.
const TAG_BYTES_MAX: usize = 128;

const HUB: &str = "docker.io";
const HUB_OFFICIAL: &str = "library/";

/// The name of an image: registry, repository, and a tag or a digest or both.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a text is no image reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("read image name '{text}'")]
pub struct ReferenceError {
    /// The text as it was given.
    pub text: String,
    /// What is wrong with it.
    #[source]
    pub problem: ReferenceProblem,
}

/// What is wrong with a reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceProblem {
    /// Nothing there.
    #[error("it is empty")]
    Empty,
    /// A blank somewhere in it.
    #[error("it contains white space or a control character")]
    WhiteSpace,
    /// Upper case in the repository.
    #[error("the repository must be lower case; did you mean '{0}'?")]
    UpperCase(String),
    /// A `..` in the repository.
    #[error("'..' is not allowed in it")]
    DotDot,
    /// Over the bound.
    #[error("registry and repository have {0} bytes, at most {NAME_BYTES_MAX} are allowed")]
    TooLong(usize),
    /// A URL rather than a reference.
    #[error("it is a URL; leave '{0}://' away")]
    Url(String),
    /// The registry's name does not parse.
    #[error("'{0}' is no registry; it must be a host name or address, with an optional :port")]
    BadRegistry(String),
    /// A part of the repository does not parse.
    #[error(
        "the part '{0}' of the repository is not allowed; use lower-case letters and digits, with single '.', '_', '__' or '-' between them"
    )]
    BadComponent(String),
    /// Docker refuses these, since they could be an image id.
    #[error("64 hex digits are an image id, not a name")]
    ImageId,
    /// The tag does not parse.
    #[error(
        "'{0}' is no tag; use at most {TAG_BYTES_MAX} letters, digits, '_', '.', '-', beginning with none of '.-'"
    )]
    BadTag(String),
    /// The digest does not parse.
    #[error("its digest cannot be used")]
    BadDigest(#[source] DigestError),
}

impl Reference {
    /// The registry's host, and port where one was given: `docker.io`.
    #[must_use]
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The repository on that registry: `library/busybox`.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag. Absent only where a digest was given and no tag.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, where one was given. It decides; the tag is then a comment.
    #[must_use]
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// The short form that Docker prints: `busybox:latest`.
    #[must_use]
    pub fn familiar(&self) -> String {
        let short = self
            .repository
            .strip_prefix(HUB_OFFICIAL)
            // One with more parts would read back without the first of them.
            .filter(|short| !short.contains('/'))
            .unwrap_or(&self.repository);
        // Left away only where what remains is not read as a registry.
        let first = short.split_once('/').map_or("", |(first, _)| first);
        let mut text = match self.registry == HUB && !is_registry(first) {
            true => short.to_owned(),
            false => format!("{}/{}", self.registry, self.repository),
        };
        self.push_suffix(&mut text);
        text
    }

    /// The same reference with this digest, as a pin for others to use.
    #[must_use]
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self {
            digest: Some(digest),
            ..self.clone()
        }
    }

    fn push_suffix(&self, text: &mut String) {
        if let Some(tag) = &self.tag {
            text.push(':');
            text.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            text.push('@');
            text.push_str(digest.as_str());
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = format!("{}/{}", self.registry, self.repository);
        self.push_suffix(&mut text);
        f.write_str(&text)
    }
}

impl From<Reference> for String {
    fn from(reference: Reference) -> Self {
        reference.to_string()
    }
}

impl TryFrom<String> for Reference {
    type Error = ReferenceError;

    fn try_from(text: String) -> Result<Self, ReferenceError> {
        text.parse()
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        parse(text).map_err(|problem| ReferenceError {
            text: text.to_owned(),
            problem,
        })
    }
}

fn parse(text: &str) -> Result<Reference, ReferenceProblem> {
    if text.is_empty() {
        return Err(ReferenceProblem::Empty);
    }
    if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(ReferenceProblem::WhiteSpace);
    }
    if let Some((scheme, _)) = text.split_once("://") {
        return Err(ReferenceProblem::Url(scheme.to_owned()));
    }
    let (rest, digest) = split_digest(text)?;
    let (name, tag) = split_tag(rest)?;
    let (registry, repository) = split_registry(name)?;
    check_repository(&repository, name)?;
    let bytes = registry.len() + 1 + repository.len();
    if bytes > NAME_BYTES_MAX {
        return Err(ReferenceProblem::TooLong(bytes));
    }
    let tag = match (tag, &digest) {
        (None, None) => Some("latest".to_owned()),
        (tag, _) => tag.map(str::to_owned),
    };
    Ok(Reference {
        registry,
        repository,
        tag,
        digest,
    })
}

fn split_digest(text: &str) -> Result<(&str, Option<Digest>), ReferenceProblem> {
    match text.split_once('@') {
        None => Ok((text, None)),
        Some((rest, digest)) => {
            let digest = digest.parse().map_err(ReferenceProblem::BadDigest)?;
            Ok((rest, Some(digest)))
        }
    }
}

/// A colon behind the last slash begins a tag; one before it, a port.
fn split_tag(text: &str) -> Result<(&str, Option<&str>), ReferenceProblem> {
    let path = text.rfind('/').map_or(0, |slash| slash + 1);
    let Some(colon) = text[path..].find(':').map(|colon| path + colon) else {
        return Ok((text, None));
    };
    let (name, tag) = (&text[..colon], &text[colon + 1..]);
    let word = |c: u8| c.is_ascii_alphanumeric() || c == b'_';
    let valid = tag.len() <= TAG_BYTES_MAX
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|c| word(c) || c == b'.' || c == b'-');
    if !valid {
        return Err(ReferenceProblem::BadTag(tag.to_owned()));
    }
    Ok((name, Some(tag)))
}

fn split_registry(name: &str) -> Result<(String, String), ReferenceProblem> {
    let (registry, repository) = match name.split_once('/') {
        Some((first, rest)) if is_registry(first) => (first, rest),
        _ => (HUB, name),
    };
    check_registry(registry)?;
    let registry = if registry == "index.docker.io" {
        HUB
    } else {
        registry
    };
    if registry == HUB && !repository.contains('/') && !repository.is_empty() {
        return Ok((HUB.to_owned(), format!("{HUB_OFFICIAL}{repository}")));
    }
    Ok((registry.to_owned(), repository.to_owned()))
}

fn is_registry(first: &str) -> bool {
    first == "localhost"
        || (first.contains(['.', ':']) && first != ".." && first != ".")
        || first.starts_with('[')
}

fn check_registry(registry: &str) -> Result<(), ReferenceProblem> {
    let bad = || ReferenceProblem::BadRegistry(registry.to_owned());
    let (host, port) = match registry.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']').ok_or_else(bad)?;
            address.parse::<std::net::Ipv6Addr>().map_err(|_| bad())?;
            let port = match port {
                "" => None,
                port => Some(port.strip_prefix(':').ok_or_else(bad)?),
            };
            (None, port)
        }
        None => match registry.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(registry), None),
        },
    };
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|c| c.is_ascii_alphanumeric() || c == b'-')
    };
    if host.is_some_and(|host| !host.split('.').all(label)) {
        return Err(bad());
    }
    let digits =
        |port: &str| port.bytes().all(|c| c.is_ascii_digit()) && port.parse::<u16>().is_ok();
    if port.is_some_and(|port| !digits(port)) {
        return Err(bad());
    }
    Ok(())
}

fn check_repository(repository: &str, name: &str) -> Result<(), ReferenceProblem> {
    if repository
        .split('/')
        .any(|part| part == ".." || part.contains(".."))
    {
        return Err(ReferenceProblem::DotDot);
    }
    if repository.bytes().any(|c| c.is_ascii_uppercase()) {
        let lower = name.to_ascii_lowercase();
        return Err(ReferenceProblem::UpperCase(lower));
    }
    if let Some(part) = repository.split('/').find(|part| !is_component(part)) {
        return Err(ReferenceProblem::BadComponent(part.to_owned()));
    }
    let hex = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
    if name.len() == 64 && name.bytes().all(hex) {
        return Err(ReferenceProblem::ImageId);
    }
    Ok(())
}

/// `[a-z0-9]+` joined by `.`, `_`, `__` or any number of `-`.
fn is_component(part: &str) -> bool {
    let word = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let bytes = part.as_bytes();
    let ends_in_words = |bytes: &[u8]| {
        bytes.first().copied().is_some_and(word) && bytes.last().copied().is_some_and(word)
    };
    let separator =
        |run: &[u8]| matches!(run, b"" | b"." | b"_" | b"__") || run.iter().all(|&c| c == b'-');
    ends_in_words(bytes) && bytes.split(|&c| word(c)).all(separator)
}

#[cfg(test)]
#[path = "reference_tests.rs"]
mod tests;
