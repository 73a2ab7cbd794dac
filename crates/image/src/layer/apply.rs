//! One entry of a layer, made into a file.

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Timespec, Timestamps};
use rustix::io::Errno;

use super::entry::{Entry, Kind};
use super::remembered::{FolderTimes, Places, memory_bytes};
use super::root::{Folder, Root};
use super::shared::{LayerFiles, Wanted};
use super::tar_stream::{Source, TarStream};
use super::{LayerProblem, Owners};

/// What is kept of a mode: the permissions and the sticky bit, not the set-id bits.
const MODE_KEPT: u32 = 0o1777;

/// Applies the entries of one layer.
pub(super) struct Applier<'r> {
    pub(super) root: &'r mut Root,
    /// The places that this layer made or passed through, so that its whiteouts spare
    /// them. `None` in the first layer, which has nothing below it to hide.
    pub(super) own: Option<Places>,
    /// Inodes of folders in which nothing of the layers below is left, so that each is
    /// searched once, however often a layer asks for it.
    pub(super) cleared: HashSet<u64>,
    /// Times of folders, set last, since filling a folder changes them.
    folder_times: FolderTimes,
    file_bytes: u64,
    /// Files that images share which have this layer.
    files: Option<LayerFiles>,
    /// How many entries there were.
    entries: u64,
}

impl<'r> Applier<'r> {
    pub(super) fn new(root: &'r mut Root, first: bool, files: Option<LayerFiles>) -> Self {
        // Open folders were passed through by earlier layers, and not by this one.
        root.forget_open();
        Self {
            root,
            own: (!first).then(Places::default),
            cleared: HashSet::new(),
            folder_times: FolderTimes::default(),
            file_bytes: 0,
            files,
            entries: 0,
        }
    }

    /// Makes what the entry describes, reading its content from `tar`.
    pub(super) fn apply<S: Source>(
        &mut self,
        tar: &mut TarStream<S>,
        entry: &Entry,
    ) -> Result<(), LayerProblem> {
        self.entries += 1;
        let path =
            clean(&entry.path).map_err(|problem| LayerProblem::bad_entry(&entry.path, problem))?;
        let Some((folder, name)) = split(&path) else {
            return self.apply_to_top(entry);
        };
        // Files that aufs makes for itself are left out.
        let aufs = |part: &[u8]| part.starts_with(b".wh..wh.") && part != b".wh..wh..opq";
        if path.split(|&byte| byte == b'/').any(aufs) {
            return Ok(());
        }
        let parent = self.parent(folder)?;
        if let Some(hidden) = name.strip_prefix(b".wh.") {
            return self.hide(&parent, hidden, entry);
        }
        let step = |step: &'static str| move |cause: Errno| failed(step, &entry.path, cause);
        match entry.kind {
            Kind::File => self.file(tar, &parent, name, entry)?,
            Kind::Directory => {
                self.directory(&parent, name, entry)
                    .map_err(step("make folder"))?;
                self.folder_times.push(&path, entry.modified)?;
            }
            Kind::Symlink => self.symlink(&parent, name, entry)?,
            Kind::HardLink => self.hard_link(&parent, name, entry)?,
            Kind::Fifo | Kind::Device => {
                let left_out = self.root.leave_out(&parent, name);
                // Nothing was made that a whiteout would have to spare.
                return left_out.map_err(step("replace"));
            }
        }
        self.remember(&parent, name);
        Ok(())
    }

    /// Sets the times of folders, and returns the bytes written to files.
    pub(super) fn finish(self) -> Result<u64, LayerProblem> {
        let Self {
            root, folder_times, ..
        } = self;
        folder_times.each(|path, modified| {
            let Some((folder, name)) = split(path) else {
                return Ok(());
            };
            match root.find(folder) {
                // Later entries may have put something else there, or have the path lead
                // elsewhere: to a file that belongs to other images, too.
                Ok(Some(parent)) if parent.has_folder(name) => {
                    let flags = AtFlags::SYMLINK_NOFOLLOW;
                    let _ = rustix::fs::utimensat(&parent.fd, name, &times(modified), flags);
                }
                Ok(_) | Err(LayerProblem::BadEntry { .. } | LayerProblem::Io { .. }) => {}
                Err(problem) => return Err(problem),
            }
            Ok(())
        })?;
        Ok(self.file_bytes)
    }

    /// The root folder itself: its mode and owner are fixed.
    fn apply_to_top(&self, entry: &Entry) -> Result<(), LayerProblem> {
        match entry.kind {
            Kind::Directory => Ok(()),
            _ => Err(LayerProblem::bad_entry(
                &entry.path,
                "would replace the root folder",
            )),
        }
    }

    fn parent(&mut self, folder: &[u8]) -> Result<Arc<Folder>, LayerProblem> {
        match &mut self.own {
            None => self.root.folder(folder, None),
            Some(own) => {
                let mut passed = |inode, name: &[u8]| own.insert(inode, name);
                self.root.folder(folder, Some(&mut passed))
            }
        }
    }

    fn remember(&mut self, parent: &Folder, name: &[u8]) {
        if let Some(own) = &mut self.own {
            own.insert(parent.inode, name);
        }
    }

    /// The memory for what is remembered of entries, in bytes.
    pub(super) fn memory_bytes(&self) -> u64 {
        let own = self.own.as_ref().map_or(0, Places::memory_bytes);
        own + self.root.left_out.memory_bytes()
            + memory_bytes(&self.cleared)
            + self.folder_times.memory_bytes()
    }

    fn file<S: Source>(
        &mut self,
        tar: &mut TarStream<S>,
        parent: &Folder,
        name: &[u8],
        entry: &Entry,
    ) -> Result<(), LayerProblem> {
        let step = |step: &'static str| move |cause: Errno| failed(step, &entry.path, cause);
        if self.share_file(parent, name, entry).map_err(step("link"))? {
            self.file_bytes += entry.stored_bytes;
            return Ok(());
        }
        let fd = self.create_file(parent, name).map_err(step("create"))?;
        if let Some((uid, gid)) = self.root.host_ids(entry.uid, entry.gid) {
            rustix::fs::fchown(&fd, Some(uid), Some(gid)).map_err(step("set owner of"))?;
        }
        match &entry.sparse {
            None => {
                tar.content(entry.stored_bytes, |bytes| {
                    write_all(&fd, bytes).map_err(step("write"))
                })?;
            }
            Some(sparse) => {
                for &(offset, length) in &sparse.parts {
                    let to = rustix::fs::SeekFrom::Start(offset);
                    rustix::fs::seek(&fd, to).map_err(step("write"))?;
                    tar.content(length, |bytes| write_all(&fd, bytes).map_err(step("write")))?;
                }
                rustix::fs::ftruncate(&fd, sparse.real_bytes).map_err(step("write"))?;
            }
        }
        self.file_bytes += entry.stored_bytes;
        rustix::fs::fchmod(&fd, mode(entry.mode)).map_err(step("set mode of"))?;
        rustix::fs::futimens(&fd, &times(entry.modified)).map_err(step("set time of"))?;
        if let Some(files) = &self.files {
            files.keep(self.entries, parent, name);
        }
        Ok(())
    }

    /// Has the entry's file be the one that other images have, if there is such a one. Its
    /// content is skipped then.
    fn share_file(&mut self, parent: &Folder, name: &[u8], entry: &Entry) -> Result<bool, Errno> {
        let Some(files) = &self.files else {
            return Ok(false);
        };
        let (user, group) = match self.root.host_ids(entry.uid, entry.gid) {
            Some((user, group)) => (user.as_raw(), Some(group.as_raw())),
            None => (rustix::process::geteuid().as_raw(), None),
        };
        let wanted = Wanted {
            bytes: entry.bytes(),
            mode: mode(entry.mode),
            modified: entry.modified,
            user,
            group,
        };
        let link = || files.link(self.entries, &wanted, parent, name);
        match link() {
            Err(Errno::EXIST) => {
                self.root.displace(parent, name)?;
                Ok(link().is_ok())
            }
            linked => Ok(linked.is_ok()),
        }
    }

    fn create_file(&mut self, parent: &Folder, name: &[u8]) -> Result<OwnedFd, Errno> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let create = || rustix::fs::openat(&parent.fd, name, flags, Mode::from_raw_mode(0o600));
        match create() {
            Err(Errno::EXIST) => {
                self.root.displace(parent, name)?;
                create()
            }
            created => created,
        }
    }

    fn directory(&mut self, parent: &Folder, name: &[u8], entry: &Entry) -> Result<(), Errno> {
        let make = || rustix::fs::mkdirat(&parent.fd, name, Mode::from_raw_mode(0o700));
        match make() {
            Err(Errno::EXIST) => {
                if !parent.has_folder(name) {
                    self.root.displace(parent, name)?;
                    make()?;
                }
            }
            made => made?,
        }
        self.root.give(parent, name, entry.uid, entry.gid)?;
        // A user without privileges must get into its own folders.
        let accessible = match self.root.owners() {
            Owners::Mine => 0o700,
            Owners::Shifted { .. } => 0,
        };
        let mode = mode(entry.mode | accessible);
        rustix::fs::chmodat(&parent.fd, name, mode, AtFlags::empty())
    }

    fn symlink(&mut self, parent: &Folder, name: &[u8], entry: &Entry) -> Result<(), LayerProblem> {
        if entry.link.is_empty() || entry.link.contains(&0) {
            return Err(LayerProblem::bad_entry(
                &entry.path,
                "is a symbolic link to nothing",
            ));
        }
        let mut make = || {
            let link = || rustix::fs::symlinkat(&*entry.link, &parent.fd, name);
            match link() {
                Err(Errno::EXIST) => {
                    self.root.displace(parent, name)?;
                    link()?;
                }
                linked => linked?,
            }
            self.root.give(parent, name, entry.uid, entry.gid)?;
            let flags = AtFlags::SYMLINK_NOFOLLOW;
            rustix::fs::utimensat(&parent.fd, name, &times(entry.modified), flags)
        };
        make().map_err(|cause| failed("make symbolic link", &entry.path, cause))
    }

    /// The target is a path in the root, whatever it looks like.
    fn hard_link(
        &mut self,
        parent: &Folder,
        name: &[u8],
        entry: &Entry,
    ) -> Result<(), LayerProblem> {
        let shown = String::from_utf8_lossy(&entry.link).into_owned();
        let bad = |problem: &str| {
            LayerProblem::bad_entry(
                &entry.path,
                format!("is a hard link to '{shown}', {problem}"),
            )
        };
        let target = clean(&entry.link).map_err(|problem| bad(&format!("which {problem}")))?;
        let (folder, target) = split(&target).ok_or_else(|| bad("the root folder"))?;
        let missing = || bad("which does not exist");
        let folder = self.root.find(folder)?.ok_or_else(missing)?;
        let step = |cause| failed("make hard link", &entry.path, cause);
        let Some(there) = folder.examine(target).map_err(step)? else {
            return match self.root.is_left_out(&folder, target) {
                true => self.root.leave_out(parent, name).map_err(step),
                false => Err(missing()),
            };
        };
        if FileType::from_raw_mode(there.st_mode) == FileType::Directory {
            return Err(bad("which is a folder"));
        }
        let link = || rustix::fs::linkat(&folder.fd, target, &parent.fd, name, AtFlags::empty());
        let linked = match link() {
            Err(Errno::EXIST) => {
                let here = parent.examine(name).map_err(step)?;
                if here.is_some_and(|here| here.st_ino == there.st_ino) {
                    return Ok(());
                }
                self.root.displace(parent, name).map_err(step)?;
                link()
            }
            linked => linked,
        };
        linked.map_err(step)
    }
}

fn mode(mode: u32) -> Mode {
    Mode::from_raw_mode(mode & MODE_KEPT)
}

fn times((seconds, nanoseconds): (i64, u32)) -> Timestamps {
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds.into(),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

fn write_all(fd: &OwnedFd, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::io::write(fd, bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(Errno::INTR) => {}
            Err(cause) => return Err(cause),
        }
    }
    Ok(())
}

/// A failed step. Tells what is the entry's fault from what is not.
pub(super) fn failed(step: &'static str, path: &[u8], cause: Errno) -> LayerProblem {
    match cause {
        Errno::NAMETOOLONG => {
            LayerProblem::bad_entry(path, "has a name that is too long for the file system")
        }
        Errno::FBIG => LayerProblem::bad_entry(path, "is larger than the file system allows"),
        cause => LayerProblem::io(step, path, cause),
    }
}

/// The path below the root: without leading slashes, `.` and doubled slashes.
fn clean(path: &[u8]) -> Result<Vec<u8>, &'static str> {
    if path.contains(&0) {
        return Err("contains a NUL byte");
    }
    let parts = || {
        path.split(|&byte| byte == b'/')
            .filter(|part| !matches!(*part, b"" | b"."))
    };
    if parts().any(|part| part == b"..") {
        return Err("contains '..', which could lead out of the image");
    }
    Ok(parts().collect::<Vec<_>>().join(&b'/'))
}

/// Folder and name of a cleaned path; `None` for the root itself.
fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if path.is_empty() {
        return None;
    }
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => Some((&path[..slash], &path[slash + 1..])),
        None => Some((&[], path)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned_and_dot_dot_is_refused() {
        assert_eq!(clean(b"./a//b/./c/").unwrap(), b"a/b/c");
        assert_eq!(clean(b"/etc/passwd").unwrap(), b"etc/passwd");
        assert_eq!(clean(b"./").unwrap(), b"");
        assert!(clean(b"a/../b").is_err());
        assert!(clean(b"..").is_err());
        assert!(clean(b"a\0b").is_err());
        assert_eq!(clean(b"a..b/...").unwrap(), b"a..b/...");
    }

    #[test]
    fn paths_are_split_at_their_last_slash() {
        assert_eq!(split(b""), None);
        assert_eq!(split(b"a"), Some((&b""[..], &b"a"[..])));
        assert_eq!(split(b"a/b/c"), Some((&b"a/b"[..], &b"c"[..])));
    }
}
