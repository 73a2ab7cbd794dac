//! A root on its way: filled aside under a lock, then renamed to its place.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;

use super::image::{DESCRIPTION, Description, ROOT};
use super::layers::{self, LayerSize};
use super::{Image, NamedBy, Store, StoreError, adopt, durable, lock};
use crate::config::ReadConfig;
use crate::digest::Digest;
use crate::layer::{Budget, Layer, LayerError, LayerProblem, Root, Steps, delete_tree, unpack};
use crate::reference::Reference;

const TRASH: &str = "trash";

/// A root being filled. It is deleted if this is dropped before it is published.
pub(crate) struct Staging {
    store: Store,
    path: PathBuf,
    /// The folder, locked for us alone, so that no sweep takes it for what a dead process
    /// left.
    folder: Option<File>,
    root: Root,
    budget: Budget,
    /// Those whose files are shared.
    layers: Vec<LayerSize>,
}

impl Staging {
    /// An empty root. Setting `cancelled` makes its layers fail soon.
    pub(crate) fn create(store: &Store, cancelled: Arc<AtomicBool>) -> Result<Self, StoreError> {
        let (path, folder) = loop {
            let path = store.unused();
            let fail = |cause| StoreError::io("make", &path, cause);
            DirBuilder::new().mode(0o700).create(&path).map_err(fail)?;
            // Between making and locking, another process may have swept it.
            let Some(folder) = lock::open_folder(&path).map_err(fail)? else {
                continue;
            };
            if lock::try_exclusive(&folder).map_err(fail)?
                && lock::is_still_at(&folder, &path).map_err(fail)?
            {
                break (path, folder);
            }
        };
        let made = DirBuilder::new().mode(0o700).create(path.join(TRASH));
        made.map_err(|cause| StoreError::io("make", &path, cause))?;
        let options = &store.inner.options;
        let steps = Steps::new(options.limits.steps_max, Arc::clone(&cancelled));
        let root = Root::create(&path.join(ROOT), &path.join(TRASH), options.owners, steps);
        let root = root.map_err(|problem| match problem {
            LayerProblem::Io { step, cause, .. } => StoreError::io(step, &path, cause),
            LayerProblem::DiskFull { .. } => StoreError::DiskFull {
                step: "make",
                path: path.clone(),
            },
            other => StoreError::io("make", &path, io::Error::other(other)),
        })?;
        Ok(Self {
            store: store.clone(),
            folder: Some(folder),
            root,
            budget: Budget::new(&options.limits, cancelled),
            layers: Vec::new(),
            path,
        })
    }

    /// Applies a layer; gives the digest of its uncompressed bytes.
    pub(crate) fn unpack(
        &mut self,
        layer: &Layer<'_>,
        reader: Box<dyn io::Read + Send + '_>,
    ) -> Result<Digest, LayerError> {
        let share = |diff_id| self.store.layer_files(&self.path, diff_id);
        let files = layer.diff_id.and_then(share);
        let is_shared = files.is_some();
        let before = self.budget.file_bytes;
        let digest = unpack(&mut self.root, layer, files, reader, &mut self.budget)?;
        if is_shared {
            self.layers.push(LayerSize {
                digest: digest.clone(),
                bytes: self.budget.file_bytes - before,
            });
        }
        Ok(digest)
    }

    /// Makes it the root of `digest`, which is the digest of what `by` says, and gives it
    /// the name `reference`.
    pub(crate) fn publish(
        mut self,
        reference: &Reference,
        (digest, by): (&Digest, NamedBy),
        index: Option<&Digest>,
        config: &ReadConfig,
    ) -> Result<Image, StoreError> {
        self.complete(config)?;
        let store = self.store.clone();
        let place = store.root_folder(digest, by == NamedBy::Config);
        let fail = |cause: io::Error| StoreError::io("publish", &place, cause);
        let bytes = self.budget.file_bytes;
        loop {
            match rustix::fs::renameat_with(CWD, &self.path, CWD, &place, RenameFlags::NOREPLACE) {
                Ok(()) => break,
                Err(Errno::EXIST) => {
                    // Another process was faster: its root is as good as ours.
                    if let Some(image) = store.open_image(reference, digest, index, by)? {
                        store.rename(reference, &image)?;
                        return Ok(image);
                    }
                }
                Err(cause) => return Err(fail(cause.into())),
            }
        }
        let folder = self.folder.take();
        durable::appears(&place);
        if store.inner.options.sync {
            durable::names_beside(&place).map_err(fail)?;
        }
        // Named before the lock becomes a shared one, so that a sweep in between
        // finds the name.
        let replaced = store.record(reference, digest, index, bytes)?;
        store.share_layers(&place);
        let lost = || fail(io::Error::other("it was published twice"));
        let folder = folder.ok_or_else(lost)?;
        lock::share(&folder).map_err(fail)?;
        let image = store.describe(reference, digest, index, &place, folder)?;
        if replaced {
            store.sweep();
        }
        image.ok_or_else(lost)
    }

    /// The folders that the config names, and those of the sandbox.
    fn add_folders(&mut self, config: &ReadConfig) -> Result<(), LayerProblem> {
        for path in &config.folders {
            self.root.add_folder(path)?;
            // A few bytes of a config can ask for many.
            self.budget.take_entries(self.root.take_made())?;
        }
        let points = self.store.inner.options.mount_points;
        self.root.add_mount_points(points)
    }

    fn complete(&mut self, config: &ReadConfig) -> Result<(), StoreError> {
        let finished = self.add_folders(config).and_then(|()| self.root.finish());
        let options = &self.store.inner.options;
        let fail = |cause: io::Error| StoreError::io("complete", &self.path, cause);
        finished.map_err(|problem| match problem {
            LayerProblem::DiskFull { .. } => StoreError::DiskFull {
                step: "complete",
                path: self.path.clone(),
            },
            LayerProblem::Io { cause, .. } => fail(cause),
            other => fail(io::Error::other(other)),
        })?;
        std::fs::remove_dir(self.path.join(TRASH)).map_err(fail)?;
        layers::drop_replaced(&self.path).map_err(fail)?;
        let description = Description {
            version: adopt::VERSION,
            config: config.image.clone(),
            bytes: self.budget.file_bytes,
            layers: std::mem::take(&mut self.layers),
        };
        let text = serde_json::to_vec(&description).map_err(|cause| fail(cause.into()))?;
        std::fs::write(self.path.join(DESCRIPTION), text).map_err(fail)?;
        match &self.folder {
            Some(folder) if options.sync => durable::file_system(folder).map_err(fail),
            _ => Ok(()),
        }
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if self.folder.is_some()
            && let Err(cause) = delete_tree(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %cause, "an unfinished image is left for the next sweep");
        }
    }
}
