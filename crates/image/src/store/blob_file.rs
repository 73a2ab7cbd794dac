//! A compressed layer on its way: written, hashed, resumed.
//!
//! A file in `blobs/` is not trusted because of its name: whoever uses it hashes all of
//! it first. So a download that was cut off, or damaged when the machine crashed, is just
//! continued or begun again.
//!
//! What is on its way has the name of the layer and of the place that it comes
//! from, so that nobody goes on with, or throws away, what another place gave: a
//! registry may say of any layer that it has it, and send rubbish, or give a size
//! that it does not have. Several downloads from one place at a time have a number
//! each. What is whole has the name of the layer alone, and is for everybody; it
//! stays as it is, since somebody may be reading it.

use std::fs::File;
use std::io::{self, Read, Seek as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::{Store, StoreError, lock};
use crate::digest::{Digest, Hasher};
use crate::manifest::{ContentError, Descriptor};
use crate::regular;

const READ_BYTES: usize = 256 << 10;
/// Downloads of one layer from one place at a time, in all processes that share
/// the store. More wait.
const FILES_MAX: u32 = 32;
/// A file from elsewhere is on its way if it was written to so recently; a little
/// more than a download gathers before it writes.
const WRITTEN_WITHIN: Duration = Duration::from_secs(8);

/// A locked file in `blobs/`.
pub(crate) struct BlobFile {
    path: PathBuf,
    /// Where it belongs once it is whole.
    whole: PathBuf,
    file: File,
    digest: Digest,
    hasher: Hasher,
    bytes: u64,
}

impl BlobFile {
    /// The whole layer if it is here; otherwise the largest file `from` that place that
    /// nobody else writes. Hashes what there is of it. If others are downloading the
    /// layer, it may soon be whole: waits for that, but not longer than `until`.
    pub(crate) async fn open(
        store: &Store,
        layer: &Descriptor,
        from: &str,
        until: Instant,
    ) -> Result<Self, StoreError> {
        let whole = store.path(["blobs", &layer.digest.file_name()]);
        let place = Digest::of(from.as_bytes());
        let first = whole.with_added_extension(place.hex());
        let fail = |cause| StoreError::io("open", &whole, cause);
        let hashed = async |path: &Path, file| {
            let blob = Self {
                file,
                hasher: layer.digest.hasher(),
                digest: layer.digest.clone(),
                bytes: 0,
                path: path.to_owned(),
                whole: whole.clone(),
            };
            blob.aside("read", Self::hash_what_is_there).await
        };
        let mut refused = None;
        loop {
            if let Some(file) = open_whole(&whole, layer).map_err(fail)? {
                let inode = file.metadata().map_err(fail)?.ino();
                if refused != Some(inode) {
                    let blob = hashed(&whole, file).await?;
                    if blob.verify(layer).is_ok() {
                        return Ok(blob);
                    }
                    // Damaged by a crash, or what an earlier version had on its way.
                    // It is replaced once the layer is whole, or swept.
                    refused = Some(inode);
                }
            }
            let alone = Instant::now() >= until;
            if (alone || !is_on_its_way(&whole, &first).map_err(fail)?)
                && let Some((path, file)) = try_open(&first, layer, alone).map_err(fail)?
            {
                return hashed(&path, file).await;
            }
            tokio::time::sleep(lock::POLL).await;
        }
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

    /// For reading from its start, and its path. It is whole and verified, so it
    /// gets its name for everybody. Gives the lock back: nobody will write to it any
    /// more, and whoever holds no lock blocks nobody.
    pub(crate) fn into_reader(mut self) -> Result<(File, PathBuf), StoreError> {
        let mut publish = || {
            if self.path != self.whole {
                std::fs::rename(&self.path, &self.whole)?;
            }
            self.file.rewind()?;
            lock::unlock(&self.file)
        };
        publish().map_err(|cause| StoreError::io("read", &self.path, cause))?;
        Ok((self.file, self.whole))
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

    /// Runs work that may wait for the disk on a thread that may block.
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

/// Opens the file of a whole layer, if it has the layer's size. It needs no lock, since
/// nobody writes to it.
fn open_whole(path: &Path, layer: &Descriptor) -> io::Result<Option<File>> {
    let file = match regular::open(path) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    Ok((file.metadata()?.len() == layer.size).then_some(file))
}

/// Whether the layer is coming from another place now, as far as that shows. No file is
/// locked to find out, because its owner would think that somebody else writes it.
fn is_on_its_way(whole: &Path, own: &Path) -> io::Result<bool> {
    let name = |path: &Path| path.file_name().unwrap_or_default().to_owned();
    let (whole_name, own) = (name(whole), name(own));
    let folder = whole.parent().unwrap_or(whole);
    for item in std::fs::read_dir(folder)? {
        let item = item?;
        let name = item.file_name();
        let name = name.as_encoded_bytes();
        let rest = name.strip_prefix(whole_name.as_encoded_bytes());
        let is_of_it = rest.is_some_and(|rest| rest.starts_with(b"."));
        if !is_of_it || name.starts_with(own.as_encoded_bytes()) {
            continue;
        }
        // It may be whole by now, or swept.
        let modified = item.metadata().and_then(|about| about.modified());
        let written = modified.ok().and_then(|modified| modified.elapsed().ok());
        if written.is_some_and(|ago| ago < WRITTEN_WITHIN) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Opens and locks a file of a layer from one place: `first`, or that with a number
/// behind it. `None` while others write all that there are; or, for one that will
/// be `alone` rather than wait, as many as there may be.
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
        // The place gave a wrong size, now or before.
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
