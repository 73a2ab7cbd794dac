//! Importing: what `docker save`, `docker export`, OCI tools and tar write.

use std::io::{self, Read};
use std::path::PathBuf;

use crate::layer::LayerError;
use crate::manifest::ContentError;
use crate::store::StoreError;

/// What to import from.
pub enum Input {
    /// A file or a folder.
    Path(PathBuf),
    /// A stream, standard input for example.
    Read(Box<dyn Read + Send>),
}

impl std::fmt::Debug for Input {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name())
    }
}

impl Input {
    /// For messages.
    fn name(&self) -> String {
        match self {
            Self::Path(path) => path.display().to_string(),
            Self::Read(_) => "standard input".to_owned(),
        }
    }
}

/// An image cannot be imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The input cannot be read.
    #[error("read {input}: {cause}")]
    Unreadable {
        /// What was read.
        input: String,
        /// Why not.
        cause: io::Error,
    },
    /// The input is none of the formats that we know.
    #[error(
        "import {input}: {problem}; what can be imported is a 'docker save' archive, an OCI archive or layout folder, or a tar of a root file system, plain or compressed with gzip or zstd"
    )]
    NotAnImage {
        /// What was read.
        input: String,
        /// What it is instead.
        problem: String,
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
    #[error("use {input}: failed to {cause}")]
    Content {
        /// What was read.
        input: String,
        /// What is wrong.
        cause: ContentError,
    },
    /// A layer's contents.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// Our side.
    #[error(transparent)]
    Store(#[from] StoreError),
}
