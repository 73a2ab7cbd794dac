//! A root folder being filled, and the only ways into it.
//!
//! Every path goes through the kernel's `openat2(RESOLVE_IN_ROOT)`, for which
//! the folder is `/`: neither `..` nor a symbolic link leads out. Where there are
//! links, it is walked instead, a single name at a time, and `..` no further up
//! than it went down. What is made, removed or linked is then a single name in a
//! folder opened that way.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Uid};
use rustix::io::Errno;

use super::remembered::Places;
use super::steps::{PATH_STEPS_MAX, Steps};
use super::trash::Trash;
use super::{LayerProblem, Owners};

/// The most symbolic links in one path, as in the kernel.
pub(super) const LINKS_MAX: usize = 40;

/// The most folders kept open. Entries mostly stand beside the one before, and many pulls
/// share the process's descriptors.
const OPEN_FOLDERS_MAX: usize = 64;

const FOLDER: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// A root folder being filled.
pub(crate) struct Root {
    top: Arc<Folder>,
    owners: Owners,
    pub(super) trash: Trash,
    /// Open folders by the path that led to them. Forgotten whenever a folder or a link
    /// is removed, since any path may have led through that.
    open: HashMap<Vec<u8>, Arc<Folder>>,
    pub(super) steps: Steps,
    /// Folders made that no entry describes, and nobody has counted yet.
    made: u64,
    /// Places where something was left out: links to it are left out, too.
    pub(super) left_out: Places,
}

/// An open folder within the root.
pub(crate) struct Folder {
    pub(super) fd: OwnedFd,
    pub(super) inode: u64,
}

/// Is told each folder that a path leads through: its parent's inode and its name.
pub(super) type Passed<'a> = &'a mut dyn FnMut(u64, &[u8]);

impl Root {
    /// Makes the folder `path`, to be filled; `trash` is an empty folder beside
    /// it, on the same file system.
    pub(crate) fn create(
        path: &Path,
        trash: &Path,
        owners: Owners,
        steps: Steps,
    ) -> Result<Self, LayerProblem> {
        let name = path.as_os_str().as_encoded_bytes();
        let io = |step, cause: Errno| LayerProblem::io(step, name, cause);
        rustix::fs::mkdir(path, Mode::from_raw_mode(0o700)).map_err(|cause| io("make", cause))?;
        let open = FOLDER.difference(OFlags::PATH) | OFlags::NOFOLLOW;
        let fd = rustix::fs::open(path, open, Mode::empty()).map_err(|cause| io("open", cause))?;
        rustix::fs::fchmod(&fd, Mode::from_raw_mode(0o755))
            .map_err(|cause| io("set mode of", cause))?;
        if let Some((uid, gid)) = host_ids(owners, 0, 0) {
            rustix::fs::fchown(&fd, Some(uid), Some(gid))
                .map_err(|cause| io("set owner of", cause))?;
        }
        Ok(Self {
            top: Arc::new(Folder::new(fd).map_err(|cause| io("examine", cause))?),
            owners,
            trash: Trash::open(trash).map_err(|cause| io("open trash beside", cause))?,
            steps,
            open: HashMap::new(),
            made: 0,
            left_out: Places::default(),
        })
    }

    /// Makes every path be resolved anew.
    pub(super) fn forget_open(&mut self) {
        self.open.clear();
    }

    /// How many folders were made since the last call, because a path led through them.
    pub(crate) fn take_made(&mut self) -> u64 {
        std::mem::take(&mut self.made)
    }

    pub(super) fn owners(&self) -> Owners {
        self.owners
    }

    /// The host's ids for an entry's owner; `None` if all files belong to our own user.
    pub(super) fn host_ids(&self, uid: u64, gid: u64) -> Option<(Uid, Gid)> {
        host_ids(self.owners, uid, gid)
    }

    /// The folder at `path`, made with its parents where missing.
    pub(super) fn folder(
        &mut self,
        path: &[u8],
        passed: Option<Passed<'_>>,
    ) -> Result<Arc<Folder>, LayerProblem> {
        if let Some(folder) = self.open.get(path) {
            return Ok(Arc::clone(folder));
        }
        // A path of which each folder must be told is walked. Any other is resolved by
        // the kernel in one call, and walked only if something is missing.
        let found = match passed {
            Some(_) => None,
            None => self.resolve(path)?,
        };
        let folder = match found {
            Some(folder) => folder,
            None => {
                let missing = || unresolvable(path, Errno::NOENT);
                self.walk(path, true, passed)?.ok_or_else(missing)?
            }
        };
        if self.open.len() >= OPEN_FOLDERS_MAX {
            self.open.clear();
        }
        self.open.insert(path.to_vec(), Arc::clone(&folder));
        Ok(folder)
    }

    /// The folder at `path`, `None` when it is missing.
    pub(super) fn find(&mut self, path: &[u8]) -> Result<Option<Arc<Folder>>, LayerProblem> {
        match self.resolve(path)? {
            Some(folder) => Ok(Some(folder)),
            None => self.walk(path, false, None),
        }
    }

    /// Has the kernel find the folder at `path`; `None` if it is missing or behind a
    /// link. We follow links ourselves, because the kernel follows 40 of them in each
    /// path, each through up to 2,000 folders, and does not tell how far it went.
    fn resolve(&mut self, path: &[u8]) -> Result<Option<Arc<Folder>>, LayerProblem> {
        if path.is_empty() {
            return Ok(Some(Arc::clone(&self.top)));
        }
        self.steps.take(names(path).count() as u64)?;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
        let opened = rustix::fs::openat2(&self.top.fd, path, FOLDER, Mode::empty(), resolve);
        match opened.and_then(Folder::new) {
            Ok(folder) => Ok(Some(Arc::new(folder))),
            Err(Errno::NOENT | Errno::LOOP) => Ok(None),
            Err(cause) => Err(unresolvable(path, cause)),
        }
    }

    /// Follows `path` component by component, through links. With `make`, missing folders
    /// are made, even where a dangling link points; without it, the result is `None`.
    fn walk(
        &mut self,
        path: &[u8],
        make: bool,
        mut passed: Option<Passed<'_>>,
    ) -> Result<Option<Arc<Folder>>, LayerProblem> {
        let io = |step, cause: Errno| LayerProblem::io(step, path, cause);
        let nofollow = FOLDER | OFlags::NOFOLLOW;
        let mut links = 0;
        let mut steps = 0;
        // Inodes of the folders above `here`. Each `..` leads to the last of them; at the
        // root folder, where there is none, it leads nowhere.
        let mut above: Vec<u64> = Vec::new();
        let mut left = components(path);
        let mut here = Arc::clone(&self.top);
        while let Some(name) = left.pop() {
            steps += 1;
            if steps > PATH_STEPS_MAX {
                return Err(LayerProblem::bad_entry(
                    path,
                    format!("leads through more than {PATH_STEPS_MAX} folders and links"),
                ));
            }
            self.steps.take(1)?;
            if name == b".." {
                if let Some(inode) = above.pop() {
                    let fd = rustix::fs::openat(&here.fd, "..", nofollow, Mode::empty());
                    let folder = fd.and_then(Folder::new);
                    let folder = folder.map_err(|cause| unresolvable(path, cause))?;
                    // Nobody else moves folders here; if somebody did, `..` could lead
                    // out.
                    if folder.inode != inode {
                        return Err(unresolvable(path, Errno::XDEV));
                    }
                    here = Arc::new(folder);
                }
                continue;
            }
            let next = rustix::fs::openat(&here.fd, &*name, nofollow, Mode::empty());
            let next = match next {
                Err(Errno::NOENT) if make => {
                    self.make_folder(&here, &name)
                        .map_err(|cause| io("make the folder of", cause))?;
                    self.made += 1;
                    rustix::fs::openat(&here.fd, &*name, nofollow, Mode::empty())
                }
                next => next,
            };
            match next {
                Ok(fd) => {
                    if let Some(passed) = &mut passed {
                        passed(here.inode, &name);
                    }
                    above.push(here.inode);
                    let folder = Folder::new(fd);
                    let folder = folder.map_err(|cause| io("examine the folder of", cause))?;
                    here = Arc::new(folder);
                }
                Err(Errno::NOENT) => return Ok(None),
                Err(Errno::NOTDIR | Errno::LOOP) => {
                    let target = rustix::fs::readlinkat(&here.fd, &*name, Vec::new())
                        .map_err(|_| unresolvable(path, Errno::NOTDIR))?
                        .into_bytes();
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(unresolvable(path, Errno::LOOP));
                    }
                    if target.starts_with(b"/") {
                        above.clear();
                        here = Arc::clone(&self.top);
                    }
                    left.extend(components(&target));
                }
                Err(cause) => return Err(unresolvable(path, cause)),
            }
        }
        Ok(Some(here))
    }

    /// A folder that no entry describes: mode 0755, the image's root owns it.
    fn make_folder(&self, parent: &Folder, name: &[u8]) -> Result<(), Errno> {
        rustix::fs::mkdirat(&parent.fd, name, Mode::from_raw_mode(0o755))?;
        rustix::fs::chmodat(
            &parent.fd,
            name,
            Mode::from_raw_mode(0o755),
            AtFlags::empty(),
        )?;
        self.give(parent, name, 0, 0)
    }

    /// Gives something to the owner that the image says.
    pub(super) fn give(
        &self,
        parent: &Folder,
        name: &[u8],
        uid: u64,
        gid: u64,
    ) -> Result<(), Errno> {
        match self.host_ids(uid, gid) {
            Some((uid, gid)) => {
                let flags = AtFlags::SYMLINK_NOFOLLOW;
                rustix::fs::chownat(&parent.fd, name, Some(uid), Some(gid), flags)
            }
            None => Ok(()),
        }
    }

    /// Removes what is at a name, with all that is below it.
    pub(super) fn displace(&mut self, parent: &Folder, name: &[u8]) -> Result<(), Errno> {
        let Some(there) = parent.examine(name)? else {
            return Ok(());
        };
        match FileType::from_raw_mode(there.st_mode) {
            FileType::Directory => {
                self.open.clear();
                self.trash.take(&parent.fd, name)
            }
            FileType::Symlink => {
                self.open.clear();
                rustix::fs::unlinkat(&parent.fd, name, AtFlags::empty())
            }
            _ => rustix::fs::unlinkat(&parent.fd, name, AtFlags::empty()),
        }
    }

    /// Removes what is at a name, and remembers that what the layer has there is left
    /// out.
    pub(super) fn leave_out(&mut self, parent: &Folder, name: &[u8]) -> Result<(), Errno> {
        self.displace(parent, name)?;
        self.left_out.insert(parent.inode, name);
        Ok(())
    }

    /// Whether what would be at a name was left out.
    pub(super) fn is_left_out(&self, parent: &Folder, name: &[u8]) -> bool {
        self.left_out.contains(parent.inode, name)
    }

    /// Ends the filling: deletes what was removed.
    pub(crate) fn finish(&mut self) -> Result<(), LayerProblem> {
        self.open.clear();
        self.trash
            .empty()
            .map_err(|cause| LayerProblem::io("delete replaced files", b"/", cause))
    }
}

impl Folder {
    pub(super) fn new(fd: OwnedFd) -> Result<Self, Errno> {
        let inode = rustix::fs::fstat(&fd)?.st_ino;
        Ok(Self { fd, inode })
    }

    /// Whether there is a folder at a name, itself rather than what it links to.
    pub(super) fn has_folder(&self, name: &[u8]) -> bool {
        let there = self.examine(name).ok().flatten();
        there.is_some_and(|there| FileType::from_raw_mode(there.st_mode) == FileType::Directory)
    }

    /// What is at a name, itself rather than what it links to.
    pub(super) fn examine(&self, name: &[u8]) -> Result<Option<Stat>, Errno> {
        match rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(cause) => Err(cause),
        }
    }
}

/// The components of a path in reverse order, to be popped.
fn components(path: &[u8]) -> Vec<Vec<u8>> {
    names(path).rev().map(<[u8]>::to_vec).collect()
}

fn names(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    let parts = path.split(|&byte| byte == b'/');
    parts.filter(|part| !matches!(*part, b"" | b"."))
}

fn unresolvable(path: &[u8], cause: Errno) -> LayerProblem {
    match cause {
        Errno::NOTDIR => LayerProblem::bad_entry(path, "leads through something that is no folder"),
        Errno::LOOP => LayerProblem::bad_entry(path, "leads through too many symbolic links"),
        Errno::NAMETOOLONG => LayerProblem::bad_entry(
            path,
            "has a name or path that is too long for the file system",
        ),
        Errno::NOSYS => LayerProblem::io("open with openat2, which needs Linux 5.6,", path, cause),
        cause => LayerProblem::io("open", path, cause),
    }
}

fn host_ids(owners: Owners, uid: u64, gid: u64) -> Option<(Uid, Gid)> {
    match owners {
        Owners::Mine => None,
        Owners::Shifted { base } => {
            let shift = |id| base.saturating_add(u32::from(u16::try_from(id).unwrap_or(65534)));
            Some((Uid::from_raw(shift(uid)), Gid::from_raw(shift(gid))))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_shifted_and_strangers_are_nobody() {
        let ids = |uid, gid| {
            let (uid, gid) = host_ids(Owners::Shifted { base: 100_000 }, uid, gid).unwrap();
            (uid.as_raw(), gid.as_raw())
        };
        assert_eq!(ids(0, 5), (100_000, 100_005));
        assert_eq!(ids(65535, 65536), (165_535, 165_534));
        assert_eq!(ids(u64::MAX, 1 << 40), (165_534, 165_534));
        assert_eq!(host_ids(Owners::Mine, 7, 7), None);
    }
}
