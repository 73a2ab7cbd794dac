//! The store: images by name, one root folder per image, shared by processes.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use crate::config::ImageConfig;
use crate::digest::Digest;
use crate::layer::{Limits, MountPoint, Owners};
use crate::reference::Reference;
use crate::source::Progress;
use crate::source::archive::{ImportError, Input};
use crate::source::registry::{PullError, Registries};

/// How a store keeps its images.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// To whom the files belong.
    pub owners: Owners,
    /// What every root must have for a sandbox to mount over.
    pub mount_points: &'static [MountPoint],
    /// Bounds on what an image may make us do.
    pub limits: Limits,
    /// Write everything to the disk before an image appears, so that it is
    /// whole also after a power failure. Without it an image is whole only
    /// after a crash or kill of the process.
    pub sync: bool,
}

/// Images on this machine.
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    folder: PathBuf,
    options: StoreOptions,
}

/// An image that is ready to run. While any clone of it is held, by any
/// process, its root stays.
#[derive(Debug, Clone)]
pub struct Image {
    /// The name it was asked for by.
    pub reference: Reference,
    /// What it is: of a pulled image the digest of its manifest for this
    /// platform, of an imported OCI image that of its manifest, of any other
    /// import the digest of its config.
    pub digest: Digest,
    /// What a container of it runs by default.
    pub config: ImageConfig,
    root: PathBuf,
    /// The shared lock on the root's folder.
    _lock: Arc<OwnedFd>,
}

impl Image {
    /// The folder with the image's files. Not to be written to.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }
}

/// One name in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name.
    pub reference: Reference,
    /// The image that it means, as in [`Image::digest`].
    pub digest: Digest,
    /// Bytes of its files.
    pub size: u64,
    /// When it was pulled or imported.
    pub created: SystemTime,
}

/// The store on disk cannot do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A step on a file failed.
    #[error("{step} {path}: {cause}")]
    Io {
        /// What we did.
        step: &'static str,
        /// To what.
        path: PathBuf,
        /// Why it failed.
        cause: io::Error,
    },
}

impl Store {
    /// Opens the store under `home`, and makes it where there is none.
    ///
    /// # Errors
    /// When it cannot be made or read, or was written by a newer version.
    pub fn open(home: &Path, options: StoreOptions) -> Result<Self, StoreError> {
        let _ = (home, options);
        todo!()
    }

    /// The image of this name, `None` when it is not in the store.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn get(&self, reference: &Reference) -> Result<Option<Image>, StoreError> {
        let _ = (reference, &self.inner.folder, &self.inner.options);
        todo!()
    }

    /// All names in the store, in order.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn list(&self) -> Result<Vec<Entry>, StoreError> {
        todo!()
    }

    /// Takes a name out of the store, and what nothing else needs with it.
    ///
    /// # Errors
    /// When there is no such name, or the store cannot be changed.
    pub fn remove(&self, reference: &Reference) -> Result<(), StoreError> {
        let _ = reference;
        todo!()
    }

    /// Reads an image from an archive, a folder or a stream, told apart by
    /// content, and gives it this name.
    ///
    /// # Errors
    /// When the input is no image, or cannot be unpacked.
    pub fn import(
        &self,
        reference: &Reference,
        input: Input,
        progress: &dyn Progress,
    ) -> Result<Image, ImportError> {
        let _ = (reference, input, progress);
        todo!()
    }

    /// Gets an image from its registry and gives it its name.
    ///
    /// # Errors
    /// When the registry does not give it, or it cannot be unpacked.
    pub async fn pull(
        &self,
        reference: &Reference,
        registries: &Registries,
        progress: &dyn Progress,
    ) -> Result<Image, PullError> {
        let _ = (reference, registries, progress);
        todo!()
    }
}
