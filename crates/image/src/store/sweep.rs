//! Deleting what nobody needs: left behind by dead processes, or unnamed.
//!
//! Runs before something is added and after something is removed. What is
//! locked is in use. A failure only means that something stays until the next
//! sweep, so it is logged and not returned.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::{OF_CONFIG, Store, StoreError, files, lock};
use crate::digest::Digest;
use crate::layer::delete_tree;

/// How long an unfinished download is kept for a pull that resumes it.
const BLOB_KEPT: Duration = Duration::from_secs(24 * 3600);
/// How long a small file may take from being made to being renamed.
const FILE_KEPT: Duration = Duration::from_secs(600);

impl Store {
    pub(super) fn sweep(&self) {
        let steps = [
            ("tmp", self.sweep_tmp()),
            ("blobs", self.sweep_blobs()),
            ("locks", self.sweep_locks()),
            ("roots", self.sweep_roots()),
            ("aliases", self.sweep_aliases()),
        ];
        for (folder, done) in steps {
            if let Err(cause) = done {
                tracing::warn!(folder, %cause, "sweeping the image store failed");
            }
        }
    }

    fn items(&self, name: &str) -> io::Result<Vec<PathBuf>> {
        let items = std::fs::read_dir(self.inner.folder.join(name))?;
        items.map(|item| Ok(item?.path())).collect()
    }

    fn sweep_tmp(&self) -> io::Result<()> {
        for path in self.items("tmp")? {
            let Ok(about) = std::fs::symlink_metadata(&path) else {
                continue;
            };
            if !about.is_dir() {
                if is_older(about.modified(), FILE_KEPT) {
                    remove_file(&path)?;
                }
                continue;
            }
            let Some(folder) = lock::open_folder(&path)? else {
                continue;
            };
            if lock::try_exclusive(&folder)? {
                delete_tree(&path)?;
            }
        }
        Ok(())
    }

    /// Of what is unfinished, the newest is kept, and of that no more than one
    /// image may have: whoever names other layers at each pull must not fill the
    /// disk with them.
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
        for (modified, bytes, path) in blobs {
            let all_bytes = kept_bytes.saturating_add(bytes);
            let unwanted = bytes == 0
                || all_bytes > self.inner.options.limits.image_bytes_max
                || is_older(Ok(modified), BLOB_KEPT);
            if unwanted && let Some(_held) = lock::try_lock_file(&path)? {
                remove_file(&path)?;
            } else {
                kept_bytes = all_bytes;
            }
        }
        Ok(())
    }

    fn sweep_locks(&self) -> io::Result<()> {
        for path in self.items("locks")? {
            if let Some(_held) = lock::try_lock_file(&path)? {
                remove_file(&path)?;
            }
        }
        Ok(())
    }

    fn sweep_roots(&self) -> io::Result<()> {
        for path in self.items("roots")? {
            let digest = digest_of_root(&path);
            let Some(digest) = digest else {
                continue;
            };
            if self.is_named(&digest)? {
                continue;
            }
            let Some(folder) = lock::open_folder(&path)? else {
                continue;
            };
            // Looked up again under the lock: whoever names an image holds it.
            if lock::try_exclusive(&folder)? && !self.is_named(&digest)? {
                let aside = files::unused(&self.inner.folder.join("tmp"));
                std::fs::rename(&path, &aside)?;
                delete_tree(&aside)?;
            }
        }
        Ok(())
    }

    fn sweep_aliases(&self) -> io::Result<()> {
        for path in self.items("aliases")? {
            let text = files::read(&path).map_err(other)?.unwrap_or_default();
            let target = String::from_utf8_lossy(&text).trim().parse::<Digest>();
            // An index leads to manifests only.
            if !target.is_ok_and(|target| self.root_folder(&target, false).exists()) {
                remove_file(&path)?;
            }
        }
        Ok(())
    }

    fn is_named(&self, digest: &Digest) -> io::Result<bool> {
        let named: HashSet<Digest> = self
            .records()
            .map_err(other)?
            .into_iter()
            .map(|record| record.digest)
            .collect();
        Ok(named.contains(digest))
    }
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
