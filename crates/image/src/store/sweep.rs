//! Deleting what nobody needs: left behind by dead processes, or unnamed.
//!
//! Runs before something is added and after something is removed. What is locked is in
//! use. If something cannot be deleted, it stays until the next sweep: that is logged and
//! not returned, and the sweep goes on.
//!
//! A store may have roots for several owners. A name, and the digest of an index,
//! mean an image whoever owns the files of its roots.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::{OF_CONFIG, Store, StoreError, files, lock};
use crate::causes::with_causes;
use crate::digest::Digest;
use crate::layer::delete_tree;

/// How long an unfinished download is kept for a pull that resumes it.
const BLOB_KEPT: Duration = Duration::from_secs(24 * 3600);
/// How long a small file may take from being made to being renamed: a second even on a
/// slow disk, so this leaves no doubt.
const FILE_KEPT: Duration = Duration::from_secs(600);

/// The most roots that are locked at a time, each with a descriptor, while the records
/// are read once more.
const LOCKED_MAX: usize = 64;

impl Store {
    pub(crate) fn sweep(&self) {
        let steps = [
            ("tmp", self.sweep_tmp()),
            ("blobs", self.sweep_blobs()),
            ("locks", self.sweep_locks()),
            ("roots", self.sweep_roots()),
            ("aliases", self.sweep_aliases()),
            ("layers", self.sweep_layers()),
        ];
        for (folder, done) in steps {
            if let Err(cause) = done {
                tracing::warn!(
                    folder,
                    cause = with_causes(&cause),
                    "sweeping the image store failed"
                );
            }
        }
    }

    pub(super) fn items(&self, name: &str) -> io::Result<Vec<PathBuf>> {
        let items = std::fs::read_dir(self.inner.folder.join(name))?;
        items.map(|item| Ok(item?.path())).collect()
    }

    fn sweep_tmp(&self) -> io::Result<()> {
        each(self.items("tmp")?, |path| {
            let Ok(about) = std::fs::symlink_metadata(&path) else {
                return Ok(());
            };
            if !about.is_dir() {
                return match is_older(about.modified(), FILE_KEPT) {
                    true => remove_file(&path),
                    false => Ok(()),
                };
            }
            let Some(folder) = lock::open_folder(&path)? else {
                return Ok(());
            };
            match lock::try_exclusive(&folder)? {
                true => delete_tree(&path),
                false => Ok(()),
            }
        })
    }

    /// Keeps the newest unfinished downloads, but no more bytes than one image may have:
    /// pulls that name ever new layers must not fill the disk.
    fn sweep_blobs(&self) -> io::Result<()> {
        let mut blobs = Vec::new();
        for path in self.items("blobs")? {
            if let Ok(about) = std::fs::symlink_metadata(&path) {
                let modified = about.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                blobs.push((modified, about.len(), path));
            }
        }
        blobs.sort_by(|a, b| b.cmp(a));
        let mut kept_bytes = 0u64;
        each(blobs, |(modified, bytes, path)| {
            let all_bytes = kept_bytes.saturating_add(bytes);
            let unwanted = bytes == 0
                || all_bytes > self.inner.options.limits.image_bytes_max
                || is_older(Ok(modified), BLOB_KEPT);
            if unwanted && let Some(_held) = lock::try_lock_file(&path)? {
                remove_file(&path)?;
            } else {
                kept_bytes = all_bytes;
            }
            Ok(())
        })
    }

    fn sweep_locks(&self) -> io::Result<()> {
        each(self.items("locks")?, |path| {
            match lock::try_lock_file(&path)? {
                Some(_held) => remove_file(&path),
                None => Ok(()),
            }
        })
    }

    fn sweep_roots(&self) -> io::Result<()> {
        let roots = self.items("roots")?;
        let roots = roots
            .into_iter()
            .filter_map(|path| Some((digest_of_root(&path)?, path)));
        let roots: Vec<(Digest, PathBuf)> = roots.collect();
        let Some(named) = self.named()? else {
            return Ok(());
        };
        let mut unnamed = roots;
        unnamed.retain(|(digest, _)| !named.contains(digest));
        each(unnamed.chunks(LOCKED_MAX), |roots| self.delete_roots(roots))
    }

    /// Deletes those of these roots that nobody uses or has named meanwhile.
    fn delete_roots(&self, roots: &[(Digest, PathBuf)]) -> io::Result<()> {
        let mut locked = Vec::new();
        let locking = each(roots, |(digest, path)| {
            if let Some(folder) = lock::open_folder(path)?
                && lock::try_exclusive(&folder)?
            {
                locked.push((digest, path, folder));
            }
            Ok(())
        });
        if locked.is_empty() {
            return locking;
        }
        // Looked up again under the locks: whoever names an image holds it.
        let Some(named) = self.named()? else {
            return locking;
        };
        locked.retain(|(digest, ..)| !named.contains(digest));
        let mut aside = Vec::new();
        let moving = each(&locked, |(_, path, _)| {
            let to = self.unused();
            std::fs::rename(path, &to)?;
            aside.push(to);
            Ok(())
        });
        let deleting = each(aside, |path| delete_tree(&path));
        locking.and(moving).and(deleting)
    }

    fn sweep_aliases(&self) -> io::Result<()> {
        let aliases = self.items("aliases")?;
        let roots = self.roots_of_manifests()?;
        each(aliases, |alias| {
            // Looked up again before it goes: it may have come just now, with the
            // root that it leads to.
            match leads_to(&alias, &roots)? || leads_to(&alias, &self.roots_of_manifests()?)? {
                true => Ok(()),
                false => remove_file(&alias),
            }
        })
    }

    /// The digests of manifests that there are roots of, whoever owns their files.
    fn roots_of_manifests(&self) -> io::Result<HashSet<Digest>> {
        let roots = self.items("roots")?;
        let roots = roots.iter().filter(|path| !is_of_config(path));
        Ok(roots.filter_map(|path| digest_of_root(path)).collect())
    }

    /// What all records name; `None` where that is not known.
    fn named(&self) -> io::Result<Option<HashSet<Digest>>> {
        let records = self.records().map_err(other)?;
        let named = records.read.into_iter().map(|record| record.digest);
        Ok((!records.unread).then(|| named.collect()))
    }
}

/// Goes through all of them, and gives the first error.
fn each<T>(
    items: impl IntoIterator<Item = T>,
    mut step: impl FnMut(T) -> io::Result<()>,
) -> io::Result<()> {
    let mut first = Ok(());
    for item in items {
        first = first.and(step(item));
    }
    first
}

/// Whether an alias leads to one of these roots. An index leads to manifests only.
fn leads_to(alias: &Path, roots: &HashSet<Digest>) -> io::Result<bool> {
    let text = files::read(alias).map_err(other)?.unwrap_or_default();
    let target = String::from_utf8_lossy(&text).trim().parse::<Digest>();
    Ok(target.is_ok_and(|target| roots.contains(&target)))
}

fn is_of_config(root: &Path) -> bool {
    let name = root.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| name.starts_with(OF_CONFIG))
}

/// `sha256-<hex>-<owners>`, or that of a config.
fn digest_of_root(path: &Path) -> Option<Digest> {
    let name = path.file_name()?.to_str()?;
    let name = name.strip_prefix(OF_CONFIG).unwrap_or(name);
    Digest::from_file_name(name.rsplit_once('-')?.0)
}

fn other(error: StoreError) -> io::Error {
    io::Error::other(error)
}

fn remove_file(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(cause),
        _ => Ok(()),
    }
}

fn is_older(modified: io::Result<SystemTime>, age: Duration) -> bool {
    modified.is_ok_and(|modified| modified.elapsed().is_ok_and(|elapsed| elapsed > age))
}
