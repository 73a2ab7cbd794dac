//! What the store on disk cannot do, and the nearest name to a wrong one.

use std::io;
use std::path::{Path, PathBuf};

use crate::causes::Cause;
use crate::reference::Reference;

/// The store on disk cannot do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another version of this program made it, after this one.
    #[error(
        "open the image store {path}: it has version {found}, this program knows {known}; use the newer program, or another folder"
    )]
    Newer {
        /// The store.
        path: PathBuf,
        /// The version that it has.
        found: u64,
        /// The newest that we know.
        known: u64,
    },
    /// A file of the store is not what we wrote.
    #[error("read {path} (remove the image and get it again)")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        problem: Cause,
    },
    /// No such name.
    #[error("find image {} in the store: it is not there{}", .reference.familiar(), shown(.hint))]
    NotFound {
        /// The name.
        reference: Reference,
        /// The most similar name that is there.
        hint: Option<String>,
    },
    /// The disk, or the user's quota, is full.
    #[error("{step} {path}: no space left; free some and try again")]
    DiskFull {
        /// What we did.
        step: &'static str,
        /// To what.
        path: PathBuf,
    },
    /// We may not.
    #[error(
        "{step} {path}: permission denied; it belongs to another user, choose a folder of your own"
    )]
    Denied {
        /// What we did.
        step: &'static str,
        /// To what.
        path: PathBuf,
    },
    /// Another step on a file failed.
    #[error("{step} {path}")]
    Io {
        /// What we did.
        step: &'static str,
        /// To what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        cause: io::Error,
    },
}

fn shown(hint: &Option<String>) -> String {
    hint.as_ref()
        .map(|hint| format!("; did you mean {hint}?"))
        .unwrap_or_default()
}

impl StoreError {
    pub(crate) fn io(step: &'static str, path: &Path, cause: impl Into<io::Error>) -> Self {
        let cause = cause.into();
        let path = path.to_owned();
        match cause.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::DiskFull { step, path }
            }
            io::ErrorKind::PermissionDenied => Self::Denied { step, path },
            _ => Self::Io { step, path, cause },
        }
    }
}

/// The name most like `wanted`, if any is like it at all.
pub(super) fn nearest(wanted: &str, names: impl Iterator<Item = String>) -> Option<String> {
    let near = wanted.len() / 2;
    names
        .map(|name| (strsim::levenshtein(wanted, &name), name))
        .filter(|(distance, _)| *distance <= near)
        .min()
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_proposed() {
        let names = || {
            ["busybox:latest", "alpine:3"]
                .map(str::to_owned)
                .into_iter()
        };
        assert_eq!(
            nearest("busibox:latest", names()).as_deref(),
            Some("busybox:latest")
        );
        assert_eq!(nearest("x:1", names()), None);
    }
}
