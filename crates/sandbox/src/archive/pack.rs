//! Packs what is in a folder into a tar.
//!
//! The same files always give the same bytes, since a call may be made again: names are
//! sorted, and all files are root's, of the year 1970. Files of which only their folder
//! knows what they are (sockets, FIFOs, devices) are left out.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fd::OwnedFd;
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use tar::{EntryType, Header};

use super::{ArchiveError, PATH_BYTES_MAX, open_folder};

/// Writes the tar to `target`.
pub(super) fn pack(folder: &OwnedFd, target: impl Write) -> Result<(), ArchiveError> {
    let mut archive = tar::Builder::new(target);
    // Those still to be packed, the next one last.
    let mut folders = vec![PathBuf::new()];
    while let Some(path) = folders.pop() {
        let failed = |error: io::Error| ArchiveError::new("pack", path.to_string_lossy(), &error);
        let opened = match path.as_os_str().is_empty() {
            true => open_folder(folder, OsStr::new(".")),
            false => open_beneath(folder, &path, OFlags::DIRECTORY),
        };
        let opened = opened.map_err(failed)?;
        let mut inner = Vec::new();
        for name in names(&opened).map_err(failed)? {
            let path = path.join(OsStr::from_bytes(&name));
            if path.as_os_str().len() > PATH_BYTES_MAX {
                let shown = path.to_string_lossy();
                return Err(ArchiveError::because("pack", shown, "its path is too long"));
            }
            let failed =
                |error: io::Error| ArchiveError::new("pack", path.to_string_lossy(), &error);
            if pack_entry(&mut archive, folder, &opened, &name, &path).map_err(failed)? {
                inner.push(path);
            }
        }
        folders.extend(inner.into_iter().rev());
    }
    let ended = archive.into_inner().and_then(|mut target| target.flush());
    ended.map_err(|error| ArchiveError::new("write the tar", "", &error))
}

/// Packs one entry. Says whether it is a folder.
fn pack_entry(
    archive: &mut tar::Builder<impl Write>,
    folder: &OwnedFd,
    parent: &OwnedFd,
    name: &[u8],
    path: &Path,
) -> io::Result<bool> {
    let name = OsStr::from_bytes(name);
    let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
    let found = rustix::fs::statat(parent, name, flags)?;
    let kind = FileType::from_raw_mode(found.st_mode);
    let mut header = Header::new_gnu();
    header.set_mode(found.st_mode & 0o777);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(0);
    match kind {
        FileType::Directory => {
            header.set_entry_type(EntryType::Directory);
            archive.append_data(&mut header, path, io::empty())?;
        }
        FileType::RegularFile => {
            let file = File::from(open_beneath(folder, path, OFlags::empty())?);
            let size = file.metadata()?.len();
            header.set_entry_type(EntryType::Regular);
            header.set_size(size);
            archive.append_data(&mut header, path, file.take(size))?;
        }
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(parent, name, Vec::new())?;
            header.set_entry_type(EntryType::Symlink);
            archive.append_link(&mut header, path, OsStr::from_bytes(target.as_bytes()))?;
        }
        _ => {}
    }
    Ok(kind == FileType::Directory)
}

/// What is in a folder, sorted.
fn names(folder: &OwnedFd) -> io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(folder)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Opens what lies beneath a folder, for reading. Follows no links.
fn open_beneath(folder: &OwnedFd, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let inside = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    Ok(rustix::fs::openat2(
        folder,
        path,
        flags,
        Mode::empty(),
        inside,
    )?)
}
