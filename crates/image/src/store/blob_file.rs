//! A compressed layer on its way: written, hashed, resumed.
//!
//! A file in `blobs/` is never believed for its name. Whoever uses it has
//! hashed all of it, so a download that was cut off, or damaged by a crash of
//! the machine, is merely continued or begun again.
//!
//! A layer may have several files, one for each download of it at a time: whoever
//! gets it from a registry that takes a day for it holds up nobody who gets it
//! from another. What is whole stays as it is, since somebody may be reading it.

use std::fs::File;
use std::io::{self, Read, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use tokio::time::Instant;

use super::{Store, StoreError, lock};
use crate::digest::{Digest, Hasher};
use crate::manifest::{ContentError, Descriptor};

const READ_BYTES: usize = 256 << 10;
/// Downloads of one layer at a time, in all processes that share the store. More
/// wait.
const FILES_MAX: u32 = 32;

/// A locked file in `blobs/`.
pub(crate) struct BlobFile {
    path: PathBuf,
    file: File,
    digest: Digest,
    hasher: Hasher,
    bytes: u64,
}

impl BlobFile {
    /// The largest file of the layer that nobody else writes, and hashes what there
    /// is of it. Where all are written, one may soon be whole: that is waited for
    /// `until` then, and not longer.
    pub(super) async fn open(
        store: &Store,
        layer: &Descriptor,
        until: Instant,
    ) -> Result<Self, StoreError> {
        let first = store.path(["blobs", &layer.digest.file_name()]);
        let fail = |cause| StoreError::io("open", &first, cause);
        let (path, file) = loop {
            let alone = Instant::now() >= until;
            if let Some(opened) = try_open(&first, layer, alone).map_err(fail)? {
                break opened;
            }
            tokio::time::sleep(lock::POLL).await;
        };
        let blob = Self {
            file,
            hasher: layer.digest.hasher(),
            digest: layer.digest.clone(),
            bytes: 0,
            path,
        };
        blob.aside("read", Self::hash_what_is_there).await
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

    /// Throws away what there is, which is not whole.
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

    /// For reading from its start, and its path. Gives the lock back: it is whole,
    /// so nobody will write to it any more, and whoever holds no lock blocks nobody.
    pub(super) fn into_reader(mut self) -> Result<(File, PathBuf), StoreError> {
        let prepared = self.file.rewind().and_then(|()| lock::unlock(&self.file));
        prepared.map_err(|cause| StoreError::io("read", &self.path, cause))?;
        Ok((self.file, self.path))
    }

    fn hash_what_is_there(&mut self) -> io::Result<()> {
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

/// Opens and locks a file of a layer: `first`, or that with a number behind it.
/// `None` while others write all that there are; or, for one that will be `alone`
/// rather than wait, as many as there may be.
fn try_open(first: &Path, layer: &Descriptor, alone: bool) -> io::Result<Option<(PathBuf, File)>> {
    let mut there = Vec::new();
    let mut unused = None;
    for number in 0..FILES_MAX {
        let path = match number {
            0 => first.to_owned(),
            number => first.with_added_extension(number.to_string()),
        };
        match std::fs::symlink_metadata(&path) {
            Ok(about) => there.push((about.len(), path)),
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => {
                unused.get_or_insert(path);
            }
            Err(cause) => return Err(cause),
        }
    }
    there.sort_by(|a, b| b.cmp(a));
    let mut may_wait = false;
    for (_, path) in there {
        let Some(file) = lock::try_lock_file(&path)? else {
            may_wait = true;
            continue;
        };
        if file.metadata()?.len() <= layer.size {
            return Ok(Some((path, file)));
        }
        // It is the size that may be false: whoever knows a better one may be
        // reading, so it is not emptied.
        std::fs::remove_file(&path)?;
        unused.get_or_insert(path);
    }
    if may_wait && !alone {
        return Ok(None);
    }
    let Some(path) = unused else {
        return Ok(None);
    };
    Ok(lock::try_lock_file(&path)?.map(|file| (path, file)))
}
