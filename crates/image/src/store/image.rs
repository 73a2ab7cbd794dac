//! An image that is ready to run, and the lock that keeps its files.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::layers::LayerSize;
use super::{NamedBy, Store, StoreError, files, lock};
use crate::causes::Cause;
use crate::config::ImageConfig;
use crate::digest::Digest;
use crate::reference::Reference;

/// An image that is ready to run. While any clone of it is held, by any
/// process, its root stays.
#[derive(Debug, Clone)]
pub struct Image {
    /// The name it was asked for by.
    pub reference: Reference,
    /// What it is: of a pulled or imported OCI image the digest of its manifest
    /// for this machine, of any other import the digest of its config.
    pub digest: Digest,
    /// The digest of the index that it was chosen from, where its name led to
    /// one.
    pub index: Option<Digest>,
    /// What a container of it runs by default.
    pub config: ImageConfig,
    root: PathBuf,
    /// Bytes of its files.
    pub(super) bytes: u64,
    /// The folder around the root, with a shared lock.
    _folder: Arc<File>,
}

impl Image {
    /// The folder with the image's files. Not to be written to.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The digest by which other machines, also of other kinds, get the same: the
    /// index's where there was one, else the image's own.
    #[must_use]
    pub fn pin(&self) -> &Digest {
        self.index.as_ref().unwrap_or(&self.digest)
    }
}

/// `image.json`, beside the root.
#[derive(Serialize, Deserialize)]
pub(super) struct Description {
    /// [`adopt::VERSION`](super::adopt::VERSION) of whoever unpacked it.
    #[serde(default)]
    pub(super) version: u32,
    pub(super) config: ImageConfig,
    pub(super) bytes: u64,
    /// What it was made of, if other images may share that.
    #[serde(default)]
    pub(super) layers: Vec<LayerSize>,
}

pub(super) const DESCRIPTION: &str = "image.json";
pub(super) const ROOT: &str = "root";

impl Store {
    /// Opens an image by its digest, and holds it. `None` where it is not there.
    pub(crate) fn open_image(
        &self,
        reference: &Reference,
        digest: &Digest,
        index: Option<&Digest>,
        by: NamedBy,
    ) -> Result<Option<Image>, StoreError> {
        // Earlier versions had the digests of configs among those of manifests.
        let places: &[bool] = match by {
            NamedBy::Manifest => &[false],
            NamedBy::Either => &[false, true],
            NamedBy::Config => &[true, false],
        };
        for of_config in places {
            let path = self.root_folder(digest, *of_config);
            let fail = |cause| StoreError::io("open", &path, cause);
            let Some(folder) = lock::open_folder(&path).map_err(fail)? else {
                continue;
            };
            lock::share(&folder).map_err(fail)?;
            // It may have been deleted before the lock was ours.
            if !lock::is_still_at(&folder, &path).map_err(fail)? {
                continue;
            }
            let image = self.describe(reference, digest, index, &path, folder)?;
            if image.is_some() {
                return Ok(image);
            }
        }
        Ok(None)
    }

    /// Makes a name mean an image that is here, and deletes what it meant before if
    /// that has no other and nobody uses it.
    pub(crate) fn rename(&self, reference: &Reference, image: &Image) -> Result<(), StoreError> {
        let index = image.index.as_ref();
        if self.record(reference, &image.digest, index, image.bytes)? {
            self.sweep();
        }
        Ok(())
    }

    /// The image in the folder `path`, which is locked already. `None` where it
    /// turns out to be none that may be used.
    pub(super) fn describe(
        &self,
        reference: &Reference,
        digest: &Digest,
        index: Option<&Digest>,
        path: &Path,
        folder: File,
    ) -> Result<Option<Image>, StoreError> {
        let file = path.join(DESCRIPTION);
        let damaged = |problem: Cause| StoreError::Damaged {
            path: file.clone(),
            problem,
        };
        let text = files::read(&file)?;
        let description = match text.as_deref().map(serde_json::from_slice::<Description>) {
            Some(Ok(description)) => description,
            unread => {
                let problem: Cause = match unread {
                    Some(Err(cause)) => cause.into(),
                    _ => "it is missing".into(),
                };
                // The description is written before the root gets its name, so something
                // has damaged this root, and maybe its files. If somebody else uses it,
                // it must stay.
                if !lock::try_exclusive(&folder).unwrap_or(false) {
                    return Err(damaged(problem));
                }
                tracing::warn!(file = %file.display(), %problem, "an image is damaged, as by a power failure; it is thrown away");
                let discarded = self.discard(path, &folder);
                discarded.map_err(|cause| StoreError::io("throw away", path, cause))?;
                return Ok(None);
            }
        };
        let Some(description) = self.adopt(path, &folder, description)? else {
            return Ok(None);
        };
        Ok(Some(Image {
            reference: reference.clone(),
            digest: digest.clone(),
            index: index.cloned(),
            config: description.config,
            bytes: description.bytes,
            root: path.join(ROOT),
            _folder: Arc::new(folder),
        }))
    }
}
