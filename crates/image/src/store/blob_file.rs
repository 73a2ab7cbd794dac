//! A compressed layer on its way: written, hashed, resumed.
//!
//! A file in `blobs/` is never believed for its name. Whoever uses it has
//! hashed all of it, so a download that was cut off, or damaged by a crash of
//! the machine, is merely continued or begun again.

use std::fs::File;
use std::io::{self, Read, Seek as _, Write as _};
use std::path::PathBuf;

use bytes::Bytes;

use super::{Store, StoreError, lock};
use crate::digest::{Digest, Hasher};
use crate::manifest::{ContentError, Descriptor};

const READ_BYTES: usize = 256 << 10;

/// A locked file in `blobs/`.
pub(crate) struct BlobFile {
    path: PathBuf,
    file: File,
    digest: Digest,
    hasher: Hasher,
    bytes: u64,
}

impl BlobFile {
    /// Waits until no other process writes it, and hashes what there is of it.
    pub(super) async fn open(store: &Store, layer: &Descriptor) -> Result<Self, StoreError> {
        let path = store.path(["blobs", &layer.digest.file_name()]);
        let fail = |cause| StoreError::io("open", &path, cause);
        let file = lock::lock_file(&path).await.map_err(fail)?;
        let blob = Self {
            file,
            hasher: layer.digest.hasher(),
            digest: layer.digest.clone(),
            bytes: 0,
            path,
        };
        let size = layer.size;
        blob.aside("read", move |blob| blob.hash_what_is_there(size))
            .await
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Adds to its end.
    pub(crate) async fn append(self, chunks: Vec<Bytes>) -> Result<Self, StoreError> {
        if chunks.is_empty() {
            return Ok(self);
        }
        self.aside("write", move |blob| {
            for chunk in &chunks {
                blob.file.write_all(chunk)?;
                blob.hasher.update(chunk);
                blob.bytes += chunk.len() as u64;
            }
            Ok(())
        })
        .await
    }

    /// Throws away what there is.
    pub(crate) async fn restart(self) -> Result<Self, StoreError> {
        self.aside("write", |blob| {
            blob.hasher = blob.digest.hasher();
            blob.bytes = 0;
            blob.file.set_len(0)?;
            blob.file.rewind()
        })
        .await
    }

    /// Fails when it is not what the descriptor names.
    pub(crate) fn verify(&self, layer: &Descriptor) -> Result<(), ContentError> {
        let found = self.hasher.clone().finish();
        if found == layer.digest {
            return Ok(());
        }
        Err(ContentError::WrongDigest {
            what: "the layer".to_owned(),
            wanted: layer.digest.clone(),
            found,
        })
    }

    /// For reading from its start. Gives the lock back: it is whole, so nobody
    /// will write to it any more, and whoever holds no lock blocks nobody.
    pub(super) fn into_reader(mut self) -> Result<impl Read + Send + use<>, StoreError> {
        let prepared = self.file.rewind().and_then(|()| lock::unlock(&self.file));
        prepared.map_err(|cause| StoreError::io("read", &self.path, cause))?;
        Ok(self.file)
    }

    fn hash_what_is_there(&mut self, size: u64) -> io::Result<()> {
        if self.file.metadata()?.len() > size {
            self.file.set_len(0)?;
        }
        let mut buffer = vec![0; READ_BYTES];
        loop {
            match self.file.read(&mut buffer)? {
                0 => return Ok(()),
                read => {
                    self.hasher.update(&buffer[..read]);
                    self.bytes += read as u64;
                }
            }
        }
    }

    /// Does something that may wait for the disk where that blocks nobody.
    async fn aside(
        mut self,
        step: &'static str,
        work: impl FnOnce(&mut Self) -> io::Result<()> + Send + 'static,
    ) -> Result<Self, StoreError> {
        let path = self.path.clone();
        let done = tokio::task::spawn_blocking(move || work(&mut self).map(|()| self)).await;
        done.map_err(io::Error::other)
            .flatten()
            .map_err(|cause| StoreError::io(step, &path, cause))
    }
}
