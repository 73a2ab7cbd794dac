//! Paths at which a link finds or leaves something.
//!
//! They are kept in one spelling, so that every spelling of a path gives the same id.

use super::diagnostic::{Diagnostic, Problems};
use super::tree::Node;
use super::value;
use crate::limits::MAX_PATH_BYTES;
use crate::units::quoted;

/// Folders that each process has for itself.
const PRIVATE_FOLDERS: [&str; 4] = ["/tmp", "/var/tmp", "/run", "/dev/shm"];

/// Folders that are made for each process, and hold nothing of anybody else's.
const SPECIAL_FOLDERS: [&str; 3] = ["/proc", "/dev", "/sys"];

/// An input that is stored nowhere in the link's folders.
const STANDARD_INPUT: &str = "/dev/stdin";

/// Where the input is stored.
pub(super) fn input(node: &Node, problems: &mut Problems) -> Option<String> {
    let help = "write a path below /tmp, /var/tmp, /run or /dev/shm, as in `/tmp/in.pdf`; \
                with a slash at its end for a tar that is unpacked there; or `/dev/stdin`";
    private(node, "`Input`", Some(STANDARD_INPUT), help, problems)
}

/// Where the output is left.
pub(super) fn output(node: &Node, problems: &mut Problems) -> Option<String> {
    let help = "write a path below /tmp, /var/tmp, /run or /dev/shm, as in `/tmp/out.pdf`; \
                with a slash at its end for a tar of what is there";
    private(node, "`Output`", None, help, problems)
}

/// A path below one of the private folders; a slash at its end stays.
fn private(
    node: &Node,
    what: &str,
    other: Option<&str>,
    help: &str,
    problems: &mut Problems,
) -> Option<String> {
    let text = value::text(node, what, help, problems)?;
    let path = normalised(node, what, text, help, problems)?;
    let is_below = |folder: &&str| {
        path.strip_prefix(*folder)
            .is_some_and(|rest| rest.starts_with('/'))
    };
    let folder = text.ends_with('/');
    if other == Some(path.as_str()) && !folder {
        return Some(path);
    }
    if PRIVATE_FOLDERS.iter().any(is_below) {
        return Some(if folder { format!("{path}/") } else { path });
    }
    let message = match PRIVATE_FOLDERS.contains(&path.as_str()) {
        true => format!("{what} cannot be all of {path}"),
        false => format!(
            "{what} is in none of the link's private folders: {}",
            quoted(text)
        ),
    };
    problems.push(Diagnostic::new(node.span.clone(), message).help(help));
    None
}

/// A path at which a link has something that it only reads; not a folder where
/// `is_file`.
pub(super) fn read_only(
    node: &Node,
    what: &str,
    text: &str,
    is_file: bool,
    problems: &mut Problems,
) -> Option<String> {
    let help = "write an absolute path, as in `/etc/app.conf`";
    let path = normalised(node, what, text, help, problems)?;
    let fault = if is_file && text.ends_with('/') {
        "is no file: it ends with a slash"
    } else if let Some(folder) = SPECIAL_FOLDERS
        .iter()
        .find(|folder| is_at_or_below(&path, folder))
    {
        let message = format!("{what} cannot be in {folder}, which each process has for itself");
        problems.push(Diagnostic::new(node.span.clone(), message).help(OTHER_PATH));
        return None;
    } else if PRIVATE_FOLDERS
        .iter()
        .any(|folder| is_at_or_below(folder, &path))
    {
        "would hide a private folder of the link"
    } else {
        return Some(path);
    };
    let message = format!("{what} {fault}: {}", quoted(text));
    problems.push(Diagnostic::new(node.span.clone(), message).help(OTHER_PATH));
    None
}

const OTHER_PATH: &str = "use another path, as in `/etc/app.conf` or `/srv/models`";

/// Whether a path is another one, or below it. Both are in their one spelling.
pub(super) fn is_at_or_below(path: &str, other: &str) -> bool {
    let rest = path.strip_prefix(other);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The one spelling of an absolute path: single slashes, none at its end.
fn normalised(
    node: &Node,
    what: &str,
    text: &str,
    help: &str,
    problems: &mut Problems,
) -> Option<String> {
    let parts = || text.split('/').filter(|part| !part.is_empty());
    let path: String = parts().flat_map(|part| ["/", part]).collect();
    let fault = if !text.starts_with('/') {
        "is not absolute"
    } else if text.contains('\0') {
        "holds a NUL character"
    } else if parts().any(|part| matches!(part, "." | "..")) {
        "holds `.` or `..`"
    } else if path.is_empty() {
        "cannot be the root"
    } else if path.len() > MAX_PATH_BYTES {
        "is longer than 255 bytes"
    } else {
        return Some(path);
    };
    let message = format!("{what} {fault}: {}", quoted(text));
    problems.push(Diagnostic::new(node.span.clone(), message).help(help));
    None
}
