//! Locks between processes: `flock`, which ends with the process that holds it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;

use crate::regular;

/// How often a lock that another process holds is tried again: nobody notices the delay
/// beside a download, and 40 tries a second cost nothing.
pub(super) const POLL: Duration = Duration::from_millis(25);

/// Opens and locks a file, made where absent. `None` while another holds it.
pub(super) fn try_lock_file(path: &Path) -> io::Result<Option<File>> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let flags = flags.bits().cast_signed();
    loop {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(flags)
            .open(path)?;
        let file = regular::checked(file)?;
        if !try_exclusive(&file)? {
            return Ok(None);
        }
        // Whoever held it may have deleted it meanwhile.
        if is_still_at(&file, path)? {
            return Ok(Some(file));
        }
    }
}

/// Waits for a file's lock without blocking the thread.
pub(super) async fn lock_file(path: &Path) -> io::Result<File> {
    loop {
        if let Some(file) = try_lock_file(path)? {
            return Ok(file);
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Waits for a file's lock.
pub(super) fn lock_file_blocking(path: &Path) -> io::Result<File> {
    loop {
        if let Some(file) = try_lock_file(path)? {
            return Ok(file);
        }
        std::thread::sleep(POLL);
    }
}

/// Opens a folder, `None` where there is none.
pub(super) fn open_folder(path: &Path) -> io::Result<Option<File>> {
    let flags = (OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC)
        .bits()
        .cast_signed();
    match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(folder) => Ok(Some(folder)),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(cause),
    }
}

/// Takes the exclusive lock; false while anybody else holds one.
pub(super) fn try_exclusive(file: &File) -> io::Result<bool> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(cause) => Err(cause.into()),
    }
}

/// Takes a shared lock. Waits for exclusive ones, which are held on roots for moments
/// only.
pub(super) fn share(file: &File) -> io::Result<()> {
    loop {
        match flock(file, FlockOperation::LockShared) {
            Err(Errno::INTR) => {}
            done => return Ok(done?),
        }
    }
}

/// Releases the lock without closing the file.
pub(super) fn unlock(file: &File) -> io::Result<()> {
    Ok(flock(file, FlockOperation::Unlock)?)
}

/// Whether an open file is still the one at its path.
pub(super) fn is_still_at(file: &File, path: &Path) -> io::Result<bool> {
    let ours = file.metadata()?;
    match std::fs::symlink_metadata(path) {
        Ok(there) => Ok(there.ino() == ours.ino() && there.dev() == ours.dev()),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(cause) => Err(cause),
    }
}
