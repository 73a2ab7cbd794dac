//! Unpacks a tar into a folder.
//!
//! Nothing in it leads out of the folder: the kernel resolves each path beneath it. How
//! much there may be, and how many files, the file system of the folder says, which has a
//! size.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Timespec, Timestamps};
use tar::EntryType;

use super::{ArchiveError, PATH_BYTES_MAX, open_folder, place};

/// The most bytes of an extended header, which is held in memory: what it is about is a
/// path or two.
const EXTENSION_BYTES_MAX: u64 = 64 * 1024;

/// The most bytes of a path that an error shows. It is sent in one message, which could
/// not hold all that an extended header may.
const SHOWN_BYTES_MAX: usize = 256;

/// What extended headers say of the entry behind them.
#[derive(Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

/// Unpacks the tar that comes from `source`, and reads that to its end.
pub(super) fn unpack(mut source: impl Read, folder: &OwnedFd) -> Result<(), ArchiveError> {
    let unreadable = |error: io::Error| ArchiveError::new("read the tar", "", &error);
    let mut archive = tar::Archive::new(&mut source);
    let mut extended = Extended::default();
    // Extended headers are read here, since they must have a bound.
    for entry in archive.entries().map_err(unreadable)?.raw(true) {
        let mut entry = entry.map_err(unreadable)?;
        if !extended.take(&mut entry)? {
            unpack_entry(&mut entry, std::mem::take(&mut extended), folder)?;
        }
    }
    // Else who sends it would have to find out what of it was not read.
    io::copy(&mut source, &mut io::sink()).map_err(unreadable)?;
    Ok(())
}

impl Extended {
    /// Reads an entry that says something of the next one. False if it is another one.
    fn take(&mut self, entry: &mut tar::Entry<'_, impl Read>) -> Result<bool, ArchiveError> {
        let kind = entry.header().entry_type();
        let is_global = kind.is_pax_global_extensions();
        if !(is_global
            || kind.is_pax_local_extensions()
            || kind.is_gnu_longname()
            || kind.is_gnu_longlink())
        {
            return Ok(false);
        }
        let refuse = |reason: &str| ArchiveError::because("read the tar", "", reason);
        if entry.size() > EXTENSION_BYTES_MAX {
            return Err(refuse("it has an extended header that is too long"));
        }
        let mut content = Vec::new();
        let read = entry.take(EXTENSION_BYTES_MAX).read_to_end(&mut content);
        read.map_err(|error| ArchiveError::new("read the tar", "", &error))?;
        let without_nul = |mut name: Vec<u8>| {
            name.truncate(
                name.iter()
                    .position(|byte| *byte == 0)
                    .unwrap_or(name.len()),
            );
            Some(name)
        };
        if is_global {
        } else if kind.is_gnu_longname() {
            self.path = without_nul(content);
        } else if kind.is_gnu_longlink() {
            self.link = without_nul(content);
        } else {
            for field in tar::PaxExtensions::new(&content) {
                let field =
                    field.map_err(|_| refuse("it has an extended header that is damaged"))?;
                match field.key_bytes() {
                    b"path" => self.path = Some(field.value_bytes().to_vec()),
                    b"linkpath" => self.link = Some(field.value_bytes().to_vec()),
                    b"size" => {
                        return Err(refuse(
                            "it has a file of which only an extended header says the size",
                        ));
                    }
                    key if key.starts_with(b"GNU.sparse") => {
                        return Err(refuse("it has a sparse file; pack it without --sparse"));
                    }
                    _ => {}
                }
            }
        }
        Ok(true)
    }
}

fn unpack_entry(
    entry: &mut tar::Entry<'_, impl Read>,
    extended: Extended,
    folder: &OwnedFd,
) -> Result<(), ArchiveError> {
    let path = extended
        .path
        .unwrap_or_else(|| entry.path_bytes().into_owned());
    let link = extended.link;
    let link = link
        .or_else(|| Some(entry.link_name_bytes()?.into_owned()))
        .unwrap_or_default();
    let shown = String::from_utf8_lossy(&path[..path.len().min(SHOWN_BYTES_MAX)]).into_owned();
    let refuse = |reason: &str| Err(ArchiveError::because("unpack", &shown, reason));
    if path.len() > PATH_BYTES_MAX {
        return refuse("its path, which begins so, is too long");
    }
    let Some(inside) = inside(&path) else {
        return refuse("its path leads out of the folder");
    };
    let failed = |error: io::Error| ArchiveError::new("unpack", &shown, &error);
    let (Some(name), parent) = (inside.file_name(), inside.parent()) else {
        // The folder itself.
        return Ok(());
    };
    let parent = make_folders(folder, parent).map_err(failed)?;
    let mode = entry.header().mode().unwrap_or(0o644) & 0o777;
    match entry.header().entry_type() {
        EntryType::Regular | EntryType::Continuous => {
            replace(&parent, name).map_err(failed)?;
            let mut file = std::fs::File::from(new_file(&parent, name).map_err(failed)?);
            let size = entry.size();
            if io::copy(entry, &mut file).map_err(failed)? < size {
                return refuse("the tar is cut off");
            }
            let mode = Mode::from_raw_mode(mode | 0o400);
            rustix::fs::fchmod(&file, mode).map_err(|error| failed(error.into()))?;
            let _ = rustix::fs::futimens(&file, &times(entry.header().mtime().unwrap_or(0)));
        }
        EntryType::Directory => {
            make_folders(folder, Some(&inside)).map_err(failed)?;
            // So that what is in it can be made.
            let mode = Mode::from_raw_mode(mode | 0o700);
            let opened = open_folder(&parent, name).map_err(failed)?;
            rustix::fs::fchmod(&opened, mode).map_err(|error| failed(error.into()))?;
        }
        EntryType::Symlink => {
            if !stays_inside(inside.parent().unwrap_or(Path::new("")), &link) {
                return refuse("it is a link that leads out of the folder, or could");
            }
            replace(&parent, name).map_err(failed)?;
            rustix::fs::symlinkat(OsStr::from_bytes(&link), &parent, name)
                .map_err(|error| failed(error.into()))?;
        }
        EntryType::Link => {
            let Some(target) = self::inside(&link) else {
                return refuse("it is a link that leads out of the folder");
            };
            let (Some(target_name), target_folder) = (target.file_name(), target.parent()) else {
                return refuse("it is a link to the folder itself");
            };
            let target_folder = place(folder, target_folder).map_err(failed)?;
            // A symbolic link that stays inside where it is may lead out from elsewhere.
            if is_symlink(&target_folder, target_name).map_err(failed)? {
                return refuse("it is another name of a symbolic link");
            }
            replace(&parent, name).map_err(failed)?;
            rustix::fs::linkat(&target_folder, target_name, &parent, name, AtFlags::empty())
                .map_err(|error| failed(error.into()))?;
        }
        _ => return refuse("it is a device, a FIFO, a sparse file, or of an unknown kind"),
    }
    Ok(())
}

/// The path of an entry without what means nothing in it; `None` if it leads out.
fn inside(path: &[u8]) -> Option<PathBuf> {
    let mut inside = PathBuf::new();
    for part in Path::new(OsStr::from_bytes(path)).components() {
        match part {
            Component::Normal(name) => inside.push(name),
            Component::CurDir => {}
            Component::RootDir | Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    Some(inside)
}

/// Whether a symbolic link in folder `from` that says `target` means something inside,
/// whatever other links are on its way: each of those stays inside itself. So `..` may
/// only come first, where it means the folders above `from`, none of which is a link.
fn stays_inside(from: &Path, target: &[u8]) -> bool {
    let mut above = from.components().count();
    let mut has_name = false;
    for part in Path::new(OsStr::from_bytes(target)).components() {
        match part {
            Component::Normal(_) => has_name = true,
            Component::CurDir => {}
            Component::ParentDir if above > 0 && !has_name => above -= 1,
            _ => return false,
        }
    }
    !target.is_empty()
}

fn is_symlink(folder: &OwnedFd, name: &OsStr) -> io::Result<bool> {
    let found = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(FileType::from_raw_mode(found.st_mode).is_symlink())
}

/// Opens a folder, and makes what is missing of it. Follows no links.
fn make_folders(folder: &OwnedFd, path: Option<&Path>) -> io::Result<OwnedFd> {
    let mut made = place(folder, None)?;
    for part in path.into_iter().flat_map(Path::components) {
        let name = part.as_os_str();
        match rustix::fs::mkdirat(&made, name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        made = place(&made, Some(Path::new(name)))?;
    }
    Ok(made)
}

fn new_file(folder: impl AsFd, name: &OsStr) -> io::Result<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(
        folder,
        name,
        flags,
        Mode::from_raw_mode(0o600),
    )?)
}

/// Removes what an earlier entry has made under that name, unless it is a folder.
fn replace(folder: impl AsFd, name: &OsStr) -> io::Result<()> {
    match rustix::fs::unlinkat(folder, name, AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn times(modified: u64) -> Timestamps {
    let time = Timespec {
        tv_sec: modified.try_into().unwrap_or(0),
        tv_nsec: 0,
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}
