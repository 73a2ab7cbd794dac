//! Chain files: YAML to chain and back, and errors that show the line.
//!
//! Opens no file: text comes in, and goes out. In order: `tree` turns YAML into
//! nodes that know where they stand, `fields` checks the keys of a mapping, `value`
//! the scalars and lists behind them, `path` the paths, `templates` the texts with
//! parameters; `files` and `link` put a link together, `read` a chain, and `write` goes
//! back. They report what they find to a [`Problems`], so that one pass finds all
//! independent errors.
//!
//! Key files, which have nothing to do with chains, are read the same way by `keys`.
//!
//! Chains and links know nothing of this module: what they can do with files is
//! added to them here.

mod diagnostic;
mod faults;
mod fields;
mod files;
mod keys;
mod link;
mod media_type;
mod path;
mod read;
pub(crate) mod suggest;
mod templates;
mod tree;
mod value;
mod write;

pub use diagnostic::{Diagnostic, FileError, Suggestion};

use std::borrow::Cow;
use std::rc::Rc;

use crate::chain::{Chain, ChainLink, chain_name_from};
use crate::keys::KeyFile;
use crate::limits::{MAX_FILE_BYTES, MAX_LINK_FILE_BYTES};
use crate::link::Link;
use diagnostic::{ImageProblem, Problems};

impl Chain {
    /// Reads a chain file.
    ///
    /// `label` is what messages call the file. `default_name` is the chain's
    /// name where the file does not give one, usually the file's stem;
    /// characters that no chain name may have become `-`.
    ///
    /// # Errors
    /// When the file cannot be used, with all that is wrong with it.
    pub fn parse(
        text: impl AsRef<[u8]>,
        label: &str,
        default_name: &str,
    ) -> Result<Self, FileError> {
        read_chain(text.as_ref(), label, default_name, None)
    }

    /// As [`parse`](Self::parse), but the names of images have to pass a test
    /// as well: `image_problem` says what is wrong with one, as a fragment such
    /// as `it is too long`. Which names there can be is not known here.
    ///
    /// # Errors
    /// As [`parse`](Self::parse).
    pub fn parse_with(
        text: impl AsRef<[u8]>,
        label: &str,
        default_name: &str,
        image_problem: fn(&str) -> Option<String>,
    ) -> Result<Self, FileError> {
        read_chain(text.as_ref(), label, default_name, Some(image_problem))
    }

    /// The chain as a chain file: only what differs from the defaults. It
    /// reads back as this very chain.
    pub fn to_yaml(&self) -> String {
        write::chain(self)
    }

    /// What there is to say beside name, deadline and links, as lines of a chain file:
    /// only what differs from the defaults.
    pub fn settings_yaml(&self) -> String {
        write::call(self)
    }
}

impl ChainLink {
    /// What there is to say beside image, command, arguments and name, as lines of a
    /// chain file: only what differs from the defaults.
    pub fn settings_yaml(&self) -> String {
        write::settings(self)
    }
}

impl Link {
    /// The link as YAML: only what differs from the defaults. It reads back,
    /// with [`Link::from_yaml`], as this very link.
    pub fn to_yaml(&self) -> String {
        write::link(self)
    }

    /// Reads a link from the YAML that [`Link::to_yaml`] writes. `label` names
    /// the source in messages.
    ///
    /// # Errors
    /// When it cannot be used, with all that is wrong with it.
    pub fn from_yaml(text: impl AsRef<[u8]>, label: &str) -> Result<Self, FileError> {
        let (text, problems) = (text.as_ref(), Problems::default());
        read_text(text, label, MAX_LINK_FILE_BYTES, problems, link::link)
    }
}

impl KeyFile {
    /// Reads a key file. `label` is what messages call it. No message repeats what stands
    /// there for the sum of a token: it may be the token. But a whole line of the file is in
    /// the error's text.
    ///
    /// # Errors
    /// When it cannot be used, with all that is wrong with it.
    pub fn parse(text: impl AsRef<[u8]>, label: &str) -> Result<Self, FileError> {
        let (text, problems) = (text.as_ref(), Problems::default());
        read_text(text, label, MAX_FILE_BYTES, problems, keys::keys)
    }
}

fn read_chain(
    text: &[u8],
    label: &str,
    default_name: &str,
    image_problem: Option<ImageProblem>,
) -> Result<Chain, FileError> {
    let default_name = chain_name_from(default_name);
    let problems = Problems::new(image_problem);
    read_text(text, label, MAX_FILE_BYTES, problems, |root, problems| {
        read::chain(root, &default_name, problems)
    })
}

/// Decodes and parses the text, reads it, and makes an error of any problem.
fn read_text<T>(
    bytes: &[u8],
    label: &str,
    max_bytes: usize,
    mut problems: Problems,
    read: impl FnOnce(&tree::Node, &mut Problems) -> Option<T>,
) -> Result<T, FileError> {
    let text: Rc<str> = decode(bytes, max_bytes, &mut problems).into();
    problems.text = Rc::clone(&text);
    let root = match problems.is_empty() {
        true => tree::parse(&text, max_bytes, &mut problems),
        false => None,
    };
    let value = root.and_then(|root| read(&root, &mut problems));
    match value {
        Some(value) if problems.is_empty() => Ok(value),
        _ => Err(FileError::new(label, problems)),
    }
}

/// The text without a byte-order mark; with a problem, as much of it as can be shown.
fn decode<'b>(bytes: &'b [u8], max_bytes: usize, problems: &mut Problems) -> Cow<'b, str> {
    if bytes.len() > max_bytes {
        problems.push(
            Diagnostic::new(0..0, format!("the file is larger than {max_bytes} bytes"))
                .help("it holds settings, not data: data goes in through stdin"),
        );
        return Cow::default();
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    match std::str::from_utf8(bytes) {
        Ok(text) => text.into(),
        Err(error) => {
            let start = error.valid_up_to();
            // The lossy text has a replacement character where the bytes were.
            let end = start + char::REPLACEMENT_CHARACTER.len_utf8();
            let byte = bytes.get(start).copied().unwrap_or_default();
            problems.push(
                Diagnostic::new(
                    start..end,
                    format!("the file is not UTF-8: byte {byte:#04x}"),
                )
                .label("not UTF-8")
                .help("save the file as UTF-8"),
            );
            String::from_utf8_lossy(bytes)
        }
    }
}
