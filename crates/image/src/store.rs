//! The store: images by name, one root folder per image, shared by processes.
//!
//! It knows nothing of where images come from: `pull` and `import` fill it.
//!
//! On disk, below `<home>/images`, which only its owner may enter:
//!
//! | | |
//! |---|---|
//! | `version` | the version of this layout |
//! | `references/<name>` | JSON: the digest that a name means, size, time |
//! | `aliases/<digest>` | the image that an index's digest means here |
//! | `roots/<digest>-<owners>/` | `root/`, the files, and `image.json`, the config; by the digest of the image's manifest |
//! | `roots/config-<digest>-<owners>/` | the same, by the digest of its config, where there is no manifest |
//! | `layers/<digest>-<owners>/` | links to files of roots, by the uncompressed digest of a layer and the number of its entry: images that have this layer share them |
//! | `tmp/` | what is being made, each entry locked by its maker |
//! | `blobs/<digest>` | compressed layers that are whole, kept only until unpacked |
//! | `blobs/<digest>.<place>`, `blobs/<digest>.<place>.<number>` | the same on their way, by the digest of the registry and repository that they come from; one for each download at a time |
//! | `locks/<digest>` | held by whoever gets an image from one place: the digest is of both |
//!
//! Everything appears by a rename, so that it is there whole or not at all.
//! Every lock is a `flock`, which the kernel takes back when a process dies;
//! what a dead process left behind is therefore what nobody has locked, and
//! [`sweep`] deletes it. Nothing on the way to [`Store::get`] scans a folder, but
//! for what an earlier version unpacked: [`adopt`] goes through that once.
//!
//! Compressed layers are not kept once unpacked. They would double the space,
//! and serve only images that share a layer and are pulled later.

use std::collections::HashSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;

mod adopt;
mod blob_file;
mod durable;
mod error;
mod files;
mod image;
mod layers;
mod lock;
mod records;
mod staging;
mod sweep;

pub(crate) use blob_file::BlobFile;
pub use error::StoreError;
pub use image::Image;
pub(crate) use staging::Staging;

use crate::digest::Digest;
use crate::layer::{Limits, MountPoint, Owners};
use crate::reference::Reference;

/// How a store keeps its images.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// To whom the files belong.
    pub owners: Owners,
    /// What every root must have for a sandbox to mount over.
    pub mount_points: &'static [MountPoint],
    /// Bounds on what an image may make us do.
    pub limits: Limits,
    /// Write everything to the disk before an image appears, with one `syncfs`,
    /// so that it is whole also after a power failure. Without it an image is
    /// whole after any crash or kill of the process, which is what a rename
    /// gives by itself.
    pub sync: bool,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            owners: Owners::Mine,
            mount_points: &[],
            limits: Limits::default(),
            sync: true,
        }
    }
}

/// Images on this machine.
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

/// The prefix of a root's name if its digest is that of a config.
const OF_CONFIG: &str = "config-";

/// What the digest that names a root is the digest of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NamedBy {
    Manifest,
    Config,
    /// Not known: either of them.
    Either,
}

#[derive(Debug)]
struct Inner {
    folder: PathBuf,
    options: StoreOptions,
    /// Damaged records that were logged.
    told: Mutex<HashSet<PathBuf>>,
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
    /// How many of them are in layers that other images of the list have, too. Those of
    /// earlier versions of this program share none.
    pub shared: u64,
    /// When it was pulled or imported.
    pub created: SystemTime,
}

impl Store {
    /// Opens the store under `home`, and makes it where there is none.
    ///
    /// # Errors
    /// When it cannot be made or read, or was written by a newer version.
    pub fn open(home: &Path, options: StoreOptions) -> Result<Self, StoreError> {
        let folder = home.join("images");
        files::prepare(home, &folder)?;
        Ok(Self {
            inner: Arc::new(Inner {
                folder,
                options,
                told: Mutex::default(),
            }),
        })
    }

    /// The image of this name, `None` when it is not in the store.
    ///
    /// A name with a digest means that digest alone, whichever name brought it
    /// here: the digest of the image, or of the index that it was chosen from.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn get(&self, reference: &Reference) -> Result<Option<Image>, StoreError> {
        let Some((digest, index)) = self.lookup(reference)? else {
            return Ok(None);
        };
        self.open_image(reference, &digest, index.as_ref(), NamedBy::Either)
    }

    /// All names in the store, in order, but for those whose record is damaged.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn list(&self) -> Result<Vec<Entry>, StoreError> {
        let records = self.records()?.read;
        let images = records.iter().map(|record| record.digest.clone());
        let shared = self.shared_bytes(&images.collect());
        let mut entries = Vec::new();
        for record in records {
            let shared = shared.get(&record.digest);
            entries.push(record.into_entry(shared.copied().unwrap_or(0)));
        }
        entries.sort_by(|a, b| a.reference.cmp(&b.reference));
        Ok(entries)
    }

    /// Takes a name out of the store, and what nothing else needs with it.
    ///
    /// Files that some process still holds as an [`Image`] are deleted later,
    /// by the next change of the store after it let go.
    ///
    /// # Errors
    /// When there is no such name, or the store cannot be changed.
    pub fn remove(&self, reference: &Reference) -> Result<(), StoreError> {
        if !self.forget(reference)? {
            return Err(self.not_found(reference));
        }
        self.sweep();
        Ok(())
    }

    fn not_found(&self, reference: &Reference) -> StoreError {
        let known = self.records().map(|records| records.read);
        let known = known.unwrap_or_default();
        let names = known.iter().map(|record| record.reference.familiar());
        StoreError::NotFound {
            hint: error::nearest(&reference.familiar(), names),
            reference: reference.clone(),
        }
    }

    fn path(&self, parts: [&str; 2]) -> PathBuf {
        let mut path = self.inner.folder.clone();
        path.extend(parts);
        path
    }

    /// A path that no one else uses, for what is being made.
    pub(crate) fn unused(&self) -> PathBuf {
        files::unused(&self.inner.folder.join("tmp"))
    }

    /// What an image may make us do.
    pub(crate) fn limits(&self) -> &Limits {
        &self.inner.options.limits
    }

    /// Waits until nobody else, in any process, gets this image from that place, and then
    /// keeps others from it. Getting the same image from another place has another lock:
    /// a registry may take as long as it likes, and nobody who asks another one must wait
    /// for that.
    pub(crate) async fn lock(&self, digest: &Digest, from: &str) -> Result<File, StoreError> {
        let path = self.lock_path(digest, from);
        let locked = lock::lock_file(&path).await;
        locked.map_err(|cause| StoreError::io("lock", &path, cause))
    }

    /// As [`lock`](Self::lock), outside of a runtime.
    pub(crate) fn lock_blocking(&self, digest: &Digest, from: &str) -> Result<File, StoreError> {
        let path = self.lock_path(digest, from);
        let locked = lock::lock_file_blocking(&path);
        locked.map_err(|cause| StoreError::io("lock", &path, cause))
    }

    fn lock_path(&self, digest: &Digest, from: &str) -> PathBuf {
        let both = Digest::of(format!("{digest} {from}").as_bytes());
        self.path(["locks", &both.file_name()])
    }

    /// The folder of an image. There is one for each way of owning files, since a root
    /// that was unpacked for other owners is of no use; and another one for digests of
    /// configs, so that none of them passes for the digest of a manifest.
    fn root_folder(&self, digest: &Digest, of_config: bool) -> PathBuf {
        let kind = if of_config { OF_CONFIG } else { "" };
        let name = format!("{kind}{}-{}", digest.file_name(), self.owners());
        self.path(["roots", &name])
    }

    /// To whom files belong, as a part of names.
    fn owners(&self) -> String {
        match self.inner.options.owners {
            Owners::Mine => "mine".to_owned(),
            Owners::Shifted { base } => base.to_string(),
        }
    }
}
