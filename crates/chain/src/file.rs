//! Chain files: YAML to chain and back, and errors that show the line.
//!
//! Nothing here opens a file: text comes in, and goes out. In order:
//! `tree` turns YAML into nodes that know where they stand, `fields` checks
//! the keys of a mapping, `value` the scalars and lists behind them, `read`
//! puts a chain together, and `write` goes back. They report what they find to
//! a [`Problems`], so that one pass finds all independent errors.

mod diagnostic;
mod fields;
pub mod limits;
mod read;
mod suggest;
mod tree;
mod value;
mod write;

pub(crate) use diagnostic::ImageProblem;
pub use diagnostic::{Diagnostic, FileError, Suggestion};
pub(crate) use write::{write_chain, write_link, write_settings};

use crate::chain::Chain;
use crate::link::Link;
use diagnostic::Problems;

/// Reads a chain file; `default_name` is the chain's name where it has none.
pub(crate) fn read_chain(
    text: &[u8],
    label: &str,
    default_name: &str,
    image_problem: Option<ImageProblem>,
) -> Result<Chain, FileError> {
    let problems = Problems::new(image_problem);
    read_text(
        text,
        label,
        limits::MAX_FILE_BYTES,
        problems,
        |root, problems| read::chain(root, default_name, problems),
    )
}

/// Reads a link that stands by itself.
pub(crate) fn read_link(text: &[u8], label: &str) -> Result<Link, FileError> {
    let problems = Problems::default();
    read_text(
        text,
        label,
        limits::MAX_LINK_FILE_BYTES,
        problems,
        read::link,
    )
}

/// Decodes and parses the text, reads it, and makes an error of any problem.
fn read_text<T>(
    bytes: &[u8],
    label: &str,
    max_bytes: usize,
    mut problems: Problems,
    read: impl FnOnce(&tree::Node, &mut Problems) -> Option<T>,
) -> Result<T, FileError> {
    let text = decode(bytes, max_bytes, &mut problems);
    let root = match &text {
        Ok(text) => tree::parse(text, max_bytes, &mut problems),
        Err(_) => None,
    };
    let value = root.and_then(|root| read(&root, &mut problems));
    match value {
        Some(value) if problems.is_empty() => Ok(value),
        _ => {
            let text = text.unwrap_or_else(|lossy| lossy);
            Err(FileError::new(label, text, problems))
        }
    }
}

/// The text without a byte-order mark, or as much of it as can be shown.
fn decode(bytes: &[u8], max_bytes: usize, problems: &mut Problems) -> Result<String, String> {
    if bytes.len() > max_bytes {
        problems.push(
            Diagnostic::new(0..0, format!("the file is larger than {max_bytes} bytes"))
                .help("a chain file holds links, not data: data goes in through stdin"),
        );
        return Err(String::new());
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.to_owned()),
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
            Err(String::from_utf8_lossy(bytes).into_owned())
        }
    }
}
