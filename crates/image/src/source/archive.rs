//! Importing: what `docker save`, `docker export`, OCI tools and tar write.
//!
//! Told apart by content: a folder must be an OCI layout; a tar with an
//! `oci-layout` in it is an OCI archive (`docker save` of today writes one, with
//! its old `manifest.json` beside it), one with `manifest.json` alone is a
//! `docker save` archive of old, and any other tar is a root file system.

use std::io::{self, Read};
use std::path::PathBuf;

mod docker_save;
mod files;
mod hashing;
mod oci_layout;
mod spool;

pub(crate) use files::Files;
pub(crate) use hashing::Hashing;
pub(crate) use spool::open;

use crate::digest::Digest;
use crate::layer::{LayerError, LayerProblem, Limits};
use crate::manifest::ContentError;
use crate::manifest::Descriptor;
use crate::reference::Reference;
use crate::store::StoreError;

/// Where [`Store::import`](crate::Store::import) reads an image from.
pub enum Input {
    /// An archive, or the folder of an OCI layout.
    Path(PathBuf),
    /// A stream with an archive, standard input for example.
    Read(Box<dyn Read + Send>),
}

impl std::fmt::Debug for Input {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name())
    }
}

impl Input {
    /// For messages.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Path(path) => path.display().to_string(),
            Self::Read(_) => "standard input".to_owned(),
        }
    }
}

/// What can be imported, for messages.
const FORMATS: &str = "what can be imported is a 'docker save' archive, an OCI archive or layout folder, or a tar of a root file system, plain or compressed with gzip or zstd";

/// An image cannot be imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The input cannot be read.
    #[error("read {input}")]
    Unreadable {
        /// What was read.
        input: String,
        /// Why not.
        #[source]
        cause: io::Error,
    },
    /// The input is none of the formats that we know.
    #[error("import {input}: {problem}; {FORMATS}")]
    NotAnImage {
        /// What was read.
        input: String,
        /// What it is instead.
        problem: String,
    },
    /// It is no tar, or one that is damaged or lacks something.
    #[error("import {input}: it is no tar, or a damaged one; {FORMATS}")]
    NotATar {
        /// What was read.
        input: String,
        /// Why it cannot be read as one.
        #[source]
        problem: LayerProblem,
    },
    /// Its compressed stream is damaged or was cut off.
    #[error("import {input}: its compressed stream is damaged or was cut off; {FORMATS}")]
    CutOff {
        /// What was read.
        input: String,
        /// What its decompressor says.
        #[source]
        cause: io::Error,
    },
    /// Several images, and none of them is the one asked for.
    #[error("choose an image in {input}: it has several, and none is named {wanted}; import one by its name: {}", .names.join(", "))]
    Ambiguous {
        /// What was read.
        input: String,
        /// The name asked for.
        wanted: String,
        /// The names that there are.
        names: Vec<String>,
    },
    /// What it says about the image is wrong or unusable.
    #[error("use {input}")]
    Content {
        /// What was read.
        input: String,
        /// What is wrong.
        #[source]
        cause: ContentError,
    },
    /// A layer's contents.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// Our side.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// An image found in an archive or a folder, its config verified.
pub(crate) struct Found {
    pub(crate) digest: Digest,
    /// Whether that is the digest of its config, since it has no manifest.
    pub(crate) of_config: bool,
    /// The digest of the index that it was chosen from, if there was one.
    pub(crate) index: Option<Digest>,
    pub(crate) config: Vec<u8>,
    pub(crate) layers: Vec<FoundLayer>,
}

/// One of its layers.
pub(crate) struct FoundLayer {
    /// Its path in the archive.
    pub(crate) path: String,
    /// What names it, where something does.
    pub(crate) descriptor: Option<Descriptor>,
}

/// Finds the image of this name. `None` where the files are no image, but may be
/// a root file system.
pub(crate) fn find(
    files: &Files,
    reference: &Reference,
    input: &str,
    limits: &Limits,
) -> Result<Option<Found>, ImportError> {
    if files.contains("oci-layout") && files.contains("index.json") {
        return oci_layout::find(files, reference, input, limits).map(Some);
    }
    if files.contains("manifest.json") {
        return docker_save::find(files, reference, input, limits);
    }
    if files.contains("repositories") && files.is_image_archive_of_old() {
        return Err(ImportError::NotAnImage {
            input: input.to_owned(),
            problem: "it was written by a Docker older than 1.10; save it again with a current one"
                .to_owned(),
        });
    }
    Ok(None)
}
