//! Opening files that strangers may have made: regular ones, and no others.
//!
//! Whoever opens a FIFO for reading waits for somebody who writes to it, and
//! whoever opens a device does whatever that does. So what there is is looked at
//! before it is opened, opened so that nothing waits, and looked at again.

use std::fs::{File, FileType, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// How everything is opened: nothing waits, nothing becomes our terminal.
const OPEN: OFlags = OFlags::NONBLOCK
    .union(OFlags::NOCTTY)
    .union(OFlags::CLOEXEC);

/// Opens a regular file for reading.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    check(std::fs::metadata(path)?.file_type())?;
    let flags = OPEN.bits().cast_signed();
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)?;
    checked(file)
}

/// Gives a file back that is a regular one.
pub(crate) fn checked(file: File) -> io::Result<File> {
    check(file.metadata()?.file_type())?;
    Ok(file)
}

fn check(kind: FileType) -> io::Result<()> {
    if kind.is_file() {
        return Ok(());
    }
    let problem = format!("it is {}, and no regular file", named(kind));
    Err(io::Error::new(io::ErrorKind::InvalidInput, problem))
}

/// What something is that is no regular file.
pub(crate) fn named(kind: FileType) -> &'static str {
    match kind {
        kind if kind.is_dir() => "a folder",
        kind if kind.is_fifo() => "a FIFO",
        kind if kind.is_socket() => "a socket",
        kind if kind.is_symlink() => "a symbolic link",
        _ => "a device",
    }
}

/// A folder whose files are opened by paths below it.
pub(crate) struct Folder(OwnedFd);

impl Folder {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let flags = OPEN | OFlags::DIRECTORY;
        Ok(Self(rustix::fs::open(path, flags, Mode::empty())?))
    }

    /// Opens a regular file in it for reading, `None` where there is nothing. No
    /// link leads out of the folder.
    pub(crate) fn file(&self, path: &str) -> io::Result<Option<File>> {
        let open = |flags| {
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
            let opened = rustix::fs::openat2(&self.0, path, flags, Mode::empty(), resolve);
            match opened {
                Ok(fd) => checked(fd.into()).map(Some),
                Err(Errno::NOENT) => Ok(None),
                Err(Errno::XDEV | Errno::LOOP) => Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "it leads out of the folder, or in circles; 'cp -rL' makes a folder that has all of its own",
                )),
                Err(cause) => Err(cause.into()),
            }
        };
        match open(OFlags::PATH | OFlags::CLOEXEC)? {
            Some(_) => open(OPEN),
            None => Ok(None),
        }
    }
}
