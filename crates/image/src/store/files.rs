//! Files of the store: how they are made, read and replaced.

use std::fs::{DirBuilder, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use super::{StoreError, durable};
use crate::regular;

/// The layout that this program writes.
const VERSION: u64 = 1;

/// The most that is read of one of the store's own files. An image's config, the largest,
/// has some KiB, and cannot be larger than its document.
const FILE_BYTES_MAX: u64 = 16 << 20;

const FOLDERS: [&str; 7] = [
    "references",
    "aliases",
    "roots",
    "layers",
    "tmp",
    "blobs",
    "locks",
];

/// Makes the store where there is none, and checks that it is one of ours.
pub(super) fn prepare(home: &Path, folder: &Path) -> Result<(), StoreError> {
    let version = folder.join("version");
    match read(&version)? {
        // A power failure may leave a file without its content.
        Some(text) if text.iter().any(|byte| !matches!(byte, 0 | b'\n')) => {
            check(folder, &version, &text)
        }
        _ => make(home, folder, &version),
    }
}

fn check(folder: &Path, version: &Path, text: &[u8]) -> Result<(), StoreError> {
    let text = String::from_utf8_lossy(text);
    match text.trim().parse() {
        Ok(VERSION) => Ok(()),
        Ok(found) if found > VERSION => Err(StoreError::Newer {
            path: folder.to_owned(),
            found,
            known: VERSION,
        }),
        _ => Err(StoreError::Damaged {
            path: version.to_owned(),
            problem: "it holds no version of an image store".into(),
        }),
    }
}

fn make(home: &Path, folder: &Path, version: &Path) -> Result<(), StoreError> {
    let make = |path: &Path, mode| {
        let made = DirBuilder::new().recursive(true).mode(mode).create(path);
        made.map_err(|cause| StoreError::io("make folder", path, cause))
    };
    // Others may pass through the home, to what is theirs, but not look around.
    make(home, 0o711)?;
    make(folder, 0o700)?;
    for name in FOLDERS {
        make(&folder.join(name), 0o700)?;
    }
    replace(
        &folder.join("tmp"),
        version,
        format!("{VERSION}\n").as_bytes(),
        false,
    )
}

/// A whole file, `None` where there is none.
pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
    let fail = |cause| StoreError::io("read", path, cause);
    let file = match regular::open(path) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(fail)?,
    };
    let mut text = Vec::new();
    file.take(FILE_BYTES_MAX)
        .read_to_end(&mut text)
        .map_err(fail)?;
    Ok(Some(text))
}

/// Puts a whole file in place of what is there.
pub(super) fn replace(tmp: &Path, path: &Path, text: &[u8], sync: bool) -> Result<(), StoreError> {
    let fail = |cause| StoreError::io("write", path, cause);
    let new = unused(tmp);
    let write = || {
        let mut file = File::create_new(&new)?;
        file.write_all(text)?;
        if sync {
            durable::content(&file, &new)?;
        }
        std::fs::rename(&new, path)?;
        durable::appears(path);
        match sync {
            true => durable::names_beside(path),
            false => Ok(()),
        }
    };
    write().map_err(|cause| {
        let _ = std::fs::remove_file(&new);
        fail(cause)
    })
}

/// A path that no one else uses.
pub(super) fn unused(tmp: &Path) -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    tmp.join(format!("{}-{}-{count}", std::process::id(), now.as_nanos()))
}
