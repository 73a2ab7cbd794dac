//! Whiteouts: a layer's way to take away what the layers below it made.
//!
//! They never take away what their own layer makes, in whichever order the
//! entries stand, as the image specification has it.

use rustix::fs::{Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::LayerProblem;
use super::apply::{Applier, failed};
use super::root::Folder;
use super::tar_stream::Entry;

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
        own.is_some_and(|own| own.contains(&(inode, Box::from(name))))
    }

    /// Takes away everything below a folder but what is this layer's own. Works
    /// off a list of paths, so that no depth exhausts stack or descriptors.
    fn clear_below(
        &mut self,
        parent: &Folder,
        name: &[u8],
        entry: &Entry,
    ) -> Result<(), LayerProblem> {
        let step = |cause| failed("apply whiteout", &entry.path, cause);
        let mut pending = vec![name.to_vec()];
        while let Some(path) = pending.pop() {
            let names = path.split(|&byte| byte == b'/').count();
            self.root.steps.take(names as u64)?;
            let folder = open_below(parent, &path).map_err(step)?;
            // What came into it since is this layer's own.
            if !self.cleared.insert(folder.inode) {
                continue;
            }
            for (name, kind) in list(&folder).map_err(step)? {
                if !self.is_own(folder.inode, &name) {
                    self.root.displace(&folder, &name).map_err(step)?;
                } else if kind == FileType::Directory {
                    let mut below = path.clone();
                    if !below.is_empty() {
                        below.push(b'/');
                    }
                    below.extend_from_slice(&name);
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

/// Names and kinds of what is in a folder.
fn list(folder: &Folder) -> Result<Vec<(Vec<u8>, FileType)>, Errno> {
    let mut names = Vec::new();
    for item in Dir::read_from(&folder.fd)? {
        let item = item?;
        let name = item.file_name().to_bytes();
        if matches!(name, b"." | b"..") {
            continue;
        }
        let kind = match item.file_type() {
            FileType::Unknown => folder.examine(name)?.map_or(FileType::Unknown, |there| {
                FileType::from_raw_mode(there.st_mode)
            }),
            kind => kind,
        };
        names.push((name.to_vec(), kind));
    }
    Ok(names)
}
