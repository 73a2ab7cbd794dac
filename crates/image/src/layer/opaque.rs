//! Whiteouts: marks by which a layer removes what the layers below it made.
//!
//! A whiteout never removes what its own layer makes, in whichever order the entries
//! stand, as the image specification says.

use rustix::fs::{Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::LayerProblem;
use super::apply::{Applier, failed};
use super::entry::Entry;
use super::root::Folder;

/// Memory for the paths of folders that are still to be searched; half of what else may
/// be remembered at a time. Real images need some KiB.
const PENDING_BYTES_MAX: usize = 32 << 20;

impl Applier<'_> {
    /// Applies the whiteout `.wh.<hidden>` in `parent`.
    pub(super) fn hide(
        &mut self,
        parent: &Folder,
        hidden: &[u8],
        entry: &Entry,
    ) -> Result<(), LayerProblem> {
        let step = |cause| failed("apply whiteout", &entry.path, cause);
        if self.own.is_none() {
            return Ok(());
        }
        if hidden == b".wh..opq" {
            return self.clear_below(parent, b"", entry);
        }
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(LayerProblem::bad_entry(
                &entry.path,
                "is a whiteout of nothing",
            ));
        }
        let Some(there) = parent.examine(hidden).map_err(step)? else {
            return Ok(());
        };
        if !self.is_own(parent.inode, hidden) {
            return self.root.displace(parent, hidden).map_err(step);
        }
        match FileType::from_raw_mode(there.st_mode) {
            FileType::Directory => self.clear_below(parent, hidden, entry),
            _ => Ok(()),
        }
    }

    fn is_own(&self, inode: u64, name: &[u8]) -> bool {
        let own = self.own.as_ref();
        own.is_some_and(|own| own.contains(inode, name))
    }

    /// Removes everything below a folder but what this layer made. Works off a list of
    /// paths, so that no depth exhausts stack or descriptors.
    fn clear_below(
        &mut self,
        parent: &Folder,
        name: &[u8],
        entry: &Entry,
    ) -> Result<(), LayerProblem> {
        let step = |cause| failed("apply whiteout", &entry.path, cause);
        let mut pending = vec![name.to_vec()];
        let mut pending_bytes = name.len() + size_of::<Vec<u8>>();
        while let Some(path) = pending.pop() {
            pending_bytes -= path.len() + size_of_val(&path);
            let names = path.split(|&byte| byte == b'/').count();
            self.root.steps.take(names as u64)?;
            let folder = open_below(parent, &path).map_err(step)?;
            // It was searched before; what came into it since is this layer's own.
            if !self.cleared.insert(folder.inode) {
                continue;
            }
            // The names are not gathered first: there may be millions. Removing some of
            // them while the folder is read does no harm.
            for item in Dir::read_from(&folder.fd).map_err(step)? {
                let item = item.map_err(step)?;
                let name = item.file_name().to_bytes();
                if matches!(name, b"." | b"..") {
                    continue;
                }
                if !self.is_own(folder.inode, name) {
                    self.root.displace(&folder, name).map_err(step)?;
                } else if kind_of(&folder, name, item.file_type()).map_err(step)?
                    == FileType::Directory
                {
                    let mut below = path.clone();
                    if !below.is_empty() {
                        below.push(b'/');
                    }
                    below.extend_from_slice(name);
                    pending_bytes += below.len() + size_of_val(&below);
                    if pending_bytes > PENDING_BYTES_MAX {
                        let problem = "is a whiteout over too many folders";
                        return Err(LayerProblem::bad_entry(&entry.path, problem));
                    }
                    pending.push(below);
                }
            }
        }
        Ok(())
    }
}

fn open_below(parent: &Folder, path: &[u8]) -> Result<Folder, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let path = if path.is_empty() { b"." } else { path };
    Folder::new(rustix::fs::openat2(
        &parent.fd,
        path,
        flags,
        Mode::empty(),
        resolve,
    )?)
}

/// The kind of what is at a name; looked up if the file system does not tell with the
/// name.
fn kind_of(folder: &Folder, name: &[u8], told: FileType) -> Result<FileType, Errno> {
    match told {
        FileType::Unknown => {
            let there = folder.examine(name)?;
            Ok(there.map_or(told, |there| FileType::from_raw_mode(there.st_mode)))
        }
        told => Ok(told),
    }
}
