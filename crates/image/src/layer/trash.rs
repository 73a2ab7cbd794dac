//! Deleting trees of any depth, without recursion and with few descriptors.
//!
//! A folder is emptied by moving the folders in it up beside itself, so that
//! what is being deleted is never more than two deep. Layers decide how deep a
//! tree is; neither our stack nor the descriptor limit may.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, Mode, OFlags};
use rustix::io::Errno;

/// A folder whose contents are to be deleted.
pub(super) struct Trash {
    folder: OwnedFd,
    taken: u64,
}

/// The most names that are gathered at a time, since a folder may have millions: some
/// MiB. Not fewer, since some file systems go through the deleted names each time that a
/// folder is read.
const NAMES_MAX: usize = if cfg!(test) { 100 } else { 50_000 };

/// Opens a folder itself, never what a link leads to.
pub(super) const OPEN: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

impl Trash {
    /// Uses an existing, empty folder.
    pub(super) fn open(path: &Path) -> Result<Self, Errno> {
        Ok(Self {
            folder: rustix::fs::open(path, OPEN, Mode::empty())?,
            taken: 0,
        })
    }

    /// Moves something here, out of the folder `parent`.
    ///
    /// If that name is here already, since an image may have any, the next one is tried.
    /// No number is used twice, so this ends.
    pub(super) fn take(&mut self, parent: &OwnedFd, name: &[u8]) -> Result<(), Errno> {
        loop {
            let new = format!("taken-{}", self.taken);
            self.taken += 1;
            match rustix::fs::renameat(parent, name, &self.folder, new) {
                Err(Errno::NOTEMPTY | Errno::EXIST | Errno::ISDIR | Errno::NOTDIR) => {}
                taken => return taken,
            }
        }
    }

    /// Deletes everything here.
    pub(super) fn empty(&mut self) -> Result<(), Errno> {
        loop {
            let mut found = false;
            for name in names(&self.folder)? {
                found = true;
                self.delete(&name)?;
            }
            if !found {
                return Ok(());
            }
        }
    }

    fn delete(&mut self, name: &[u8]) -> Result<(), Errno> {
        match rustix::fs::unlinkat(&self.folder, name, AtFlags::empty()) {
            Err(Errno::ISDIR | Errno::PERM) => {}
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(cause) => return Err(cause),
        }
        let folder = match rustix::fs::openat(&self.folder, name, OPEN, Mode::empty()) {
            Err(Errno::ACCESS) => {
                rustix::fs::chmodat(
                    &self.folder,
                    name,
                    Mode::from_raw_mode(0o700),
                    AtFlags::empty(),
                )?;
                rustix::fs::openat(&self.folder, name, OPEN, Mode::empty())?
            }
            opened => opened?,
        };
        loop {
            let some = names(&folder)?;
            if some.is_empty() {
                break;
            }
            for name in some {
                match rustix::fs::unlinkat(&folder, &*name, AtFlags::empty()) {
                    Ok(()) | Err(Errno::NOENT) => {}
                    Err(Errno::ISDIR | Errno::PERM) => self.take(&folder, &name)?,
                    Err(Errno::ACCESS) => {
                        rustix::fs::fchmod(&folder, Mode::from_raw_mode(0o700))?;
                        self.take(&folder, &name)?;
                    }
                    Err(cause) => return Err(cause),
                }
            }
        }
        rustix::fs::unlinkat(&self.folder, name, AtFlags::REMOVEDIR)
    }
}

/// Names of what is in a folder, as many as are deleted at a time.
fn names(folder: &OwnedFd) -> Result<Vec<Vec<u8>>, Errno> {
    let mut names = Vec::new();
    for item in Dir::read_from(folder)? {
        let item = item?;
        let name = item.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            names.push(name.to_vec());
        }
        if names.len() >= NAMES_MAX {
            break;
        }
    }
    Ok(names)
}

/// Deletes a folder with all that is in it.
pub(crate) fn delete_tree(path: &Path) -> std::io::Result<()> {
    let mut trash = match Trash::open(path) {
        Err(Errno::NOENT) => return Ok(()),
        opened => opened?,
    };
    trash.empty()?;
    drop(trash);
    match rustix::fs::rmdir(path) {
        Err(Errno::NOENT) | Ok(()) => Ok(()),
        Err(cause) => Err(cause.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_folder_with_more_than_is_gathered_at_a_time_is_deleted() {
        let place = tempfile::tempdir().unwrap();
        let tree = place.path().join("tree");
        for folder in [tree.join("a"), tree.clone()] {
            fs::create_dir_all(&folder).unwrap();
            for number in 0..NAMES_MAX + 10 {
                fs::write(folder.join(number.to_string()), "").unwrap();
            }
        }
        delete_tree(&tree).unwrap();
        assert!(!tree.exists());
    }

    #[test]
    fn what_is_named_as_we_name_what_we_take_is_deleted_too() {
        let place = tempfile::tempdir().unwrap();
        let tree = place.path().join("tree");
        // A folder that would be moved to where it is in, and others in the way.
        fs::create_dir_all(tree.join("taken-0/a/b")).unwrap();
        fs::create_dir_all(tree.join("taken-1/taken-2/c")).unwrap();
        fs::create_dir_all(tree.join("other/taken-0")).unwrap();
        for file in ["taken-2", "taken-0/a/taken-3", "other/taken-0/file"] {
            fs::write(tree.join(file), "").unwrap();
        }
        delete_tree(&tree).unwrap();
        assert!(!tree.exists());
    }
}
