//! Layers: a compressed tar in, changed files in a root folder out.
//!
//! The only place where an image's bytes become files. It must never write
//! outside the folder that it was given, whatever a layer says: every path is
//! resolved by the kernel with `openat2(RESOLVE_IN_ROOT)`, and entries are made
//! by single names in a parent folder that was opened that way.
//!
//! What is kept of an entry: contents, mode without the set-id bits, owner as
//! [`Owners`] maps it, modification time. What is dropped: devices and FIFOs, with
//! the hard links to them (a device is the sandbox's to give, and through a FIFO
//! requests that share the root could talk; a layer cannot have sockets), and
//! extended attributes (`security.*` would hand out capabilities, `trusted.*`
//! belongs to overlay file systems, and a filter reads none).

use std::io;

mod apply;
mod budget;
mod decompress;
mod entry;
mod mount_points;
mod opaque;
mod pax;
mod pipes;
mod remembered;
mod root;
mod shared;
mod sparse;
mod steps;
mod tar_stream;
mod trash;
mod unpack;

pub(crate) use budget::Budget;
pub(crate) use decompress::{Compression, CompressionError, SNIFFED_BYTES, decompress, sniff};
pub(crate) use entry::Kind;
pub(crate) use pipes::remove_pipes;
pub(crate) use root::Root;
pub(crate) use shared::LayerFiles;
pub(crate) use steps::Steps;
pub(crate) use tar_stream::{BLOCK_BYTES, Source, TarStream};
pub(crate) use trash::delete_tree;
pub(crate) use unpack::{Layer, unpack};

/// To whom the files of an image belong on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owners {
    /// Every file belongs to the user that runs us: the rootless case. Folders
    /// are made accessible to that user even where the image says otherwise,
    /// since without privileges nothing could be unpacked into them, or removed.
    Mine,
    /// User and group `u` of the image are `base + u` on the host, for `u` below
    /// 65536; all others are `base + 65534`, nobody. Needs root.
    Shifted {
        /// The host's id for the image's root.
        base: u32,
    },
}

/// Something that must exist in a root, because a sandbox mounts over it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MountPoint {
    /// An empty folder, relative to the root: `var/tmp`.
    Directory(&'static str),
    /// An empty file, relative to the root: `etc/hosts`.
    File(&'static str),
}

/// The longest path that the kernel takes, in bytes.
pub(crate) const PATH_BYTES_MAX: usize = 4095;

/// Bounds on what an image may make us do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of all layers together: as they are compressed, and again as they
    /// are uncompressed, together with the holes of their sparse files. What is
    /// kept of unfinished downloads for later pulls has no more than that, too.
    pub image_bytes_max: u64,
    /// Entries of all layers together, and folders that none of them describes.
    pub entries_max: u64,
    /// Bytes in the paths of all entries together.
    pub paths_bytes_max: u64,
    /// Bytes in the path of one entry.
    pub path_bytes_max: usize,
    /// Folders and links that the paths of all entries together lead through, which is
    /// what looking them up costs. A folder that is still open from an earlier entry does
    /// not count.
    pub steps_max: u64,
    /// Memory for what must be remembered of an image's entries at a time: some 10 bytes
    /// for each entry of a layer, and the names of its folders.
    pub memory_bytes_max: u64,
    /// Layers in one image.
    pub layers_max: usize,
    /// Bytes in one manifest, index or config.
    pub document_bytes_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            image_bytes_max: 64 << 30,
            entries_max: 4_000_000,
            paths_bytes_max: 512 << 20,
            path_bytes_max: PATH_BYTES_MAX,
            steps_max: 64_000_000,
            memory_bytes_max: 64 << 20,
            layers_max: 127,
            document_bytes_max: 4 << 20,
        }
    }
}

/// A layer cannot be unpacked.
#[derive(Debug, thiserror::Error)]
#[error("unpack layer {layer}")]
pub struct LayerError {
    /// The layer's digest, or its place in an archive.
    pub layer: String,
    /// What is wrong, and with which entry.
    #[source]
    pub problem: LayerProblem,
}

/// What is wrong with a layer.
#[derive(Debug, thiserror::Error)]
pub enum LayerProblem {
    /// The compressed stream or the tar within is damaged or cut off.
    #[error("{problem}; it is damaged or was cut off")]
    Damaged {
        /// What of it.
        problem: String,
        /// What the reader says, where one does.
        #[source]
        cause: Option<io::Error>,
    },
    /// It is compressed by a program that we do not know.
    #[error(
        "it is compressed with {0}; only gzip and zstd are known, build the image with one of them"
    )]
    UnknownCompression(&'static str),
    /// The uncompressed bytes are not those that the config promises.
    #[error(
        "its uncompressed digest is {found}, but the image's config says {wanted}; it was damaged or tampered with"
    )]
    WrongDiffId {
        /// From the config.
        wanted: crate::Digest,
        /// What we computed.
        found: crate::Digest,
    },
    /// An entry tries to leave the root, or makes no sense.
    #[error("entry '{path}' {problem}")]
    BadEntry {
        /// The entry's path as the layer has it.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
    /// [`Limits::image_bytes_max`] is reached.
    #[error(
        "the image has more than {most} bytes{}", shown(.entry)
    )]
    TooLarge {
        /// The bound.
        most: u64,
        /// Path and size of the entry that went over it, where there is one.
        entry: Option<(String, u64)>,
    },
    /// A bound of [`Limits`] that no option raises is reached.
    #[error("the image has more than {most} {what}; build it with fewer files")]
    TooMany {
        /// What was counted.
        what: &'static str,
        /// The bound.
        most: u64,
    },
    /// The disk, or the user's quota, is full.
    #[error(
        "no space left while writing '{path}'; nothing was kept, free some space and try again"
    )]
    DiskFull {
        /// What was written.
        path: String,
    },
    /// The file system refused.
    #[error("{step} '{path}'")]
    Io {
        /// What we did.
        step: &'static str,
        /// To what.
        path: String,
        /// Why it failed.
        #[source]
        cause: io::Error,
    },
    /// The caller has cancelled the unpacking.
    #[error("it was cancelled")]
    Cancelled,
}

fn shown(entry: &Option<(String, u64)>) -> String {
    let shown = |(path, bytes): &(String, u64)| format!(" with entry '{path}', which has {bytes}");
    entry.as_ref().map(shown).unwrap_or_default()
}

impl LayerProblem {
    /// Adds the entry in which it occurred, if this is a problem of size.
    pub(crate) fn of_entry(self, path: &[u8], bytes: u64) -> Self {
        match self {
            Self::TooLarge { most, entry: None } => {
                let path = String::from_utf8_lossy(path).into_owned();
                let entry = Some((path, bytes));
                Self::TooLarge { most, entry }
            }
            other => other,
        }
    }

    /// A step failed on the file system; a full disk has a variant of its own.
    pub(crate) fn io(step: &'static str, path: &[u8], cause: impl Into<io::Error>) -> Self {
        let cause = cause.into();
        let path = String::from_utf8_lossy(path).into_owned();
        match cause.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { path },
            _ => Self::Io { step, path, cause },
        }
    }

    /// A tar ended too early.
    pub(crate) fn cut_off() -> Self {
        Self::damaged("the tar ends in the middle of an entry")
    }

    pub(crate) fn damaged(problem: impl Into<String>) -> Self {
        Self::Damaged {
            problem: problem.into(),
            cause: None,
        }
    }

    /// Reading failed with an I/O error.
    pub(crate) fn unreadable(problem: &str, cause: io::Error) -> Self {
        Self::Damaged {
            problem: problem.to_owned(),
            cause: Some(cause),
        }
    }

    pub(crate) fn bad_entry(path: &[u8], problem: impl Into<String>) -> Self {
        Self::BadEntry {
            path: String::from_utf8_lossy(path).into_owned(),
            problem: problem.into(),
        }
    }
}
