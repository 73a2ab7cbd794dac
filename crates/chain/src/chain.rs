//! A chain, and how it uses its links.
//!
//! What a link runs is said by [`Link`]. Nothing here may change a link's id, and
//! nothing here knows of files: `file` reads and writes chains.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use crate::limits;
use crate::link::Link;
use crate::link_id::LinkId;
use crate::parameters::Parameter;
use crate::units::{UnitError, parse_duration};

/// How long a whole call over HTTP, or of a library's portal, may take where the
/// chain file does not say.
pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(30);

/// The exit codes that a link may end with where the file does not say.
pub(crate) const DEFAULT_ACCEPTED_EXIT_CODES: [u8; 1] = [0];

/// A chain: links, each of which reads what the one before it writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// The name under which a portal offers it: letters, digits, `.`, `_`, `-`.
    pub name: String,
    /// How long a whole call may take.
    pub deadline: Deadline,
    /// The media type of the chain's output; `None` where the file does not say.
    pub content_type: Option<String>,
    /// The parameters that its links use, by name.
    pub parameters: BTreeMap<String, Parameter>,
    /// The links in order; there is at least one.
    pub links: Vec<ChainLink>,
}

impl Chain {
    /// A chain as a file has it that says nothing but its name and its links.
    pub fn new(name: impl Into<String>, links: impl IntoIterator<Item = ChainLink>) -> Self {
        Self {
            name: name.into(),
            deadline: Deadline::Unset,
            content_type: None,
            parameters: BTreeMap::new(),
            links: links.into_iter().collect(),
        }
    }
}

/// How long a whole call of a chain may take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Deadline {
    /// The chain file sets none. Callers decide: 30 s over HTTP, none with `run` and
    /// `send`.
    #[default]
    Unset,
    /// `Deadline: none`: a call may take any time.
    None,
    /// A call is stopped after this time.
    After(Duration),
}

impl Deadline {
    /// How long a call may take that has this default; `None` for no limit.
    pub fn or(self, default: Option<Duration>) -> Option<Duration> {
        match self {
            Self::Unset => default,
            Self::None => None,
            Self::After(duration) => Some(duration),
        }
    }
}

/// One use of a link by a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainLink {
    /// What runs.
    pub link: Arc<Link>,
    /// The id of what runs.
    pub id: LinkId,
    /// What messages call this use; not necessarily unique in the chain.
    pub name: String,
    /// The time that this link may take; `None` for no limit of its own.
    pub deadline: Option<Duration>,
    /// How often a failed call is made again; `None` for the default: as often
    /// as the deadline allows where the link is pure, else never.
    pub retries: Option<u32>,
    /// The exit codes that count as success; sorted, without duplicates.
    pub accepted_exit_codes: Vec<u8>,
}

impl FromStr for Deadline {
    type Err = UnitError;

    /// A time such as `30s`, or `none`.
    fn from_str(text: &str) -> Result<Self, UnitError> {
        match text {
            "none" => Ok(Self::None),
            text => parse_duration(text).map(Self::After),
        }
    }
}

impl ChainLink {
    /// A use of a link as a file has it that says nothing about the use.
    pub fn new(link: impl Into<Arc<Link>>) -> Self {
        let link = link.into();
        Self {
            id: link.id(),
            name: default_link_name(&link),
            link,
            deadline: None,
            retries: None,
            accepted_exit_codes: DEFAULT_ACCEPTED_EXIT_CODES.to_vec(),
        }
    }

    /// Whether a process that ends with this exit code has succeeded.
    pub fn accepts(&self, code: u8) -> bool {
        self.accepted_exit_codes.contains(&code)
    }
}

/// What a link is called where the file does not say: the command's base name,
/// else the image's last component, without tag and digest.
pub(crate) fn default_link_name(link: &Link) -> String {
    let base_name = |path: &str| {
        path.trim_end_matches('/')
            .rsplit('/')
            .next()
            .map(str::to_owned)
    };
    let name = match &link.command {
        Some(command) => base_name(command),
        None => {
            let (image, _) = link.image.split_once('@').unwrap_or((&link.image, ""));
            base_name(image).map(|name| match name.split_once(':') {
                Some((name, _tag)) => name.to_owned(),
                None => name,
            })
        }
    };
    let printable = |c: char| if c.is_control() { '?' } else { c };
    let name: String = name
        .unwrap_or_default()
        .trim()
        .chars()
        .map(printable)
        .collect();
    let name = name[..name.floor_char_boundary(limits::MAX_NAME_BYTES)].trim();
    if name.is_empty() { "link" } else { name }.to_owned()
}

/// Whether a chain may be called so: it stands in URLs and in messages.
pub(crate) fn is_chain_name(name: &str) -> bool {
    name.len() <= limits::MAX_NAME_BYTES
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(is_chain_name_char)
}

fn is_chain_name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
}

/// The chain name nearest to a file's stem.
pub(crate) fn chain_name_from(stem: &str) -> String {
    let name: String = stem
        .chars()
        .map(|c| if is_chain_name_char(c) { c } else { '-' })
        .skip_while(|c| !c.is_ascii_alphanumeric())
        .take(limits::MAX_NAME_BYTES)
        .collect();
    if name.is_empty() {
        "chain".to_owned()
    } else {
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name_of(image: &str, command: Option<&str>) -> String {
        default_link_name(&Link {
            command: command.map(str::to_owned),
            ..Link::new(image)
        })
    }

    #[test]
    fn a_link_is_called_after_its_command_or_its_image() {
        assert_eq!(name_of("busybox", Some("/bin/cat")), "cat");
        assert_eq!(name_of("busybox", Some("cat")), "cat");
        assert_eq!(name_of("busybox", Some("/opt/tool/")), "tool");
        assert_eq!(name_of("busybox", Some("/")), "link");
        assert_eq!(name_of("busybox", Some("/bin/a\u{1b}b")), "a?b");
        assert_eq!(name_of("busybox:1.36", None), "busybox");
        assert_eq!(name_of("localhost:5000/a/b:1@sha256:00", None), "b");
        assert_eq!(name_of("localhost:5000/a/b", None), "b");
        assert_eq!(
            name_of("x", Some(&"é".repeat(200))).len(),
            limits::MAX_NAME_BYTES
        );
    }

    #[test]
    fn a_file_stem_becomes_a_chain_name() {
        assert_eq!(chain_name_from("words"), "words");
        assert_eq!(chain_name_from("my words, v1.2"), "my-words--v1.2");
        assert_eq!(chain_name_from("../x"), "x");
        assert_eq!(chain_name_from("-"), "chain");
        assert_eq!(chain_name_from(""), "chain");
        for stem in ["é", "..", &"x".repeat(500), "a/b"] {
            assert!(is_chain_name(&chain_name_from(stem)), "{stem}");
        }
    }
}
