//! Files that images share by hard links: those of the same layer.
//!
//! A layer's uncompressed digest names all of its bytes, so the entry of that number is
//! the same file in every image that has the layer. A file is linked on the layer's word
//! for its digest, before that is verified: if the digest turns out to be wrong, all of
//! the root is thrown away.
//!
//! Equal files of different layers are not shared. Programs can see how many links a file
//! has, so whoever guessed a file of somebody else's image, with its times, could see that
//! the guess was right. As it is, they must have the whole layer.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, Statx, StatxFlags};
use rustix::io::Errno;

use super::root::Folder;
use super::trash::OPEN;

/// A file with so many links is not linked once more, but written again. File systems have
/// a limit (ext4: 65,000), and an image may have many hard links to one of its files.
const LINKS_MAX: u32 = 32_000;

/// The files of one layer, each named by the number of its entry.
pub(crate) struct LayerFiles {
    /// Those that images have which were unpacked before this one.
    known: Option<OwnedFd>,
    /// Those that this image is the first to have.
    new: OwnedFd,
}

/// What a file must be like to stand for an entry.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub(super) bytes: u64,
    pub(super) mode: Mode,
    /// Seconds since 1970 and nanoseconds.
    pub(super) modified: (i64, u32),
    pub(super) user: u32,
    /// `None` if any will do.
    pub(super) group: Option<u32>,
}

impl Wanted {
    /// The layer's digest says the same already. This is for files that something has
    /// damaged since, and for file systems that do not keep all of it.
    fn is_like(&self, found: &Statx) -> bool {
        let mode = found.stx_mode.into();
        let modified = (found.stx_mtime.tv_sec, found.stx_mtime.tv_nsec);
        FileType::from_raw_mode(mode) == FileType::RegularFile
            && Mode::from_raw_mode(mode) == self.mode
            && found.stx_size == self.bytes
            && modified == self.modified
            && found.stx_uid == self.user
            && self.group.is_none_or(|group| found.stx_gid == group)
    }
}

impl LayerFiles {
    /// `known` is the folder of those that are shared already, if it is there; `new` an
    /// empty folder.
    pub(crate) fn open(known: &Path, new: &Path) -> Result<Self, Errno> {
        let known = match rustix::fs::open(known, OPEN, Mode::empty()) {
            Ok(known) => Some(known),
            Err(Errno::NOENT) => None,
            Err(cause) => return Err(cause),
        };
        let new = rustix::fs::open(new, OPEN, Mode::empty())?;
        Ok(Self { known, new })
    }

    /// Links the file of the entry of that number to `name` in `parent`. Fails if there is
    /// none that is as wanted; and with [`Errno::EXIST`] if something has the name.
    pub(super) fn link(
        &self,
        number: u64,
        wanted: &Wanted,
        parent: &Folder,
        name: &[u8],
    ) -> Result<(), Errno> {
        let known = self.known.as_ref().ok_or(Errno::NOENT)?;
        let file = number.to_string();
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        let found = rustix::fs::statx(known, &*file, flags, StatxFlags::BASIC_STATS)?;
        if !wanted.is_like(&found) {
            return Err(Errno::NOENT);
        }
        if found.stx_nlink >= LINKS_MAX {
            return Err(Errno::MLINK);
        }
        rustix::fs::linkat(known, &*file, &parent.fd, name, AtFlags::empty())
    }

    /// Keeps a new file for images that come later. If that fails, they do without.
    pub(super) fn keep(&self, number: u64, parent: &Folder, name: &[u8]) {
        let file = number.to_string();
        let _ = rustix::fs::linkat(&parent.fd, name, &self.new, &*file, AtFlags::empty());
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    use std::time::{Duration, SystemTime};

    use proptest::prelude::*;

    use super::*;

    /// A folder with files 1, 2, …, their layer, and a folder to link to.
    struct Place {
        folder: tempfile::TempDir,
        files: LayerFiles,
        root: Folder,
    }

    const MODIFIED: (i64, u32) = (1_000_000_000, 500);

    fn write(path: &Path, bytes: usize, mode: u32) -> Statx {
        fs::write(path, vec![b'x'; bytes]).unwrap();
        let file = fs::File::options().write(true).open(path).unwrap();
        let (seconds, nanoseconds) = MODIFIED;
        let since = Duration::new(seconds.cast_unsigned(), nanoseconds);
        file.set_modified(SystemTime::UNIX_EPOCH + since).unwrap();
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        rustix::fs::statx(&file, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS).unwrap()
    }

    fn wanted(found: &Statx) -> Wanted {
        Wanted {
            bytes: found.stx_size,
            mode: Mode::from_raw_mode(found.stx_mode.into()),
            modified: MODIFIED,
            user: found.stx_uid,
            group: Some(found.stx_gid),
        }
    }

    fn place() -> Place {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["known", "new", "root"] {
            fs::create_dir(at(name)).unwrap();
        }
        let files = LayerFiles::open(&at("known"), &at("new")).unwrap();
        let root = rustix::fs::open(at("root"), OPEN, Mode::empty()).unwrap();
        let root = Folder::new(root).unwrap();
        Place {
            folder,
            files,
            root,
        }
    }

    #[test]
    fn a_file_is_linked_and_a_new_one_kept() {
        let place = place();
        let at = |name: &str| place.folder.path().join(name);
        let wanted = wanted(&write(&at("known/1"), 5, 0o640));
        let link = |number, name: &[u8]| place.files.link(number, &wanted, &place.root, name);
        link(1, b"a").unwrap();
        assert_eq!(fs::metadata(at("root/a")).unwrap().nlink(), 2);
        assert_eq!(link(1, b"a"), Err(Errno::EXIST));
        assert_eq!(link(2, b"b"), Err(Errno::NOENT));
        write(&at("root/b"), 5, 0o640);
        place.files.keep(2, &place.root, b"b");
        let inode = |name| fs::metadata(at(name)).unwrap().ino();
        assert_eq!(inode("new/2"), inode("root/b"));
        // It was there already.
        place.files.keep(2, &place.root, b"a");
        assert_eq!(inode("new/2"), inode("root/b"));
        std::os::unix::fs::symlink("1", at("known/3")).unwrap();
        assert_eq!(link(3, b"c"), Err(Errno::NOENT));
    }

    #[test]
    fn a_file_with_many_links_is_not_linked_once_more() {
        let place = place();
        let at = |name: &str| place.folder.path().join(name);
        let wanted = wanted(&write(&at("known/1"), 5, 0o640));
        for number in 1..LINKS_MAX {
            let made = fs::hard_link(at("known/1"), at(&format!("new/{number}")));
            if made.is_err() {
                // This file system has a limit that is lower still.
                return;
            }
        }
        let linked = place.files.link(1, &wanted, &place.root, b"a");
        assert_eq!(linked, Err(Errno::MLINK));
    }

    proptest! {
        #[test]
        fn only_a_file_that_is_the_same_in_everything_is_like_it(
            bytes in 0usize..3,
            mode in prop_oneof![Just(0o644), Just(0o755), Just(0o1777)],
            seconds in -1i64..=1,
            nanoseconds in 499u32..=501,
            user in 0u32..=1,
            group in prop_oneof![Just(None), Just(Some(0)), Just(Some(1))],
        ) {
            let folder = tempfile::tempdir().unwrap();
            let found = write(&folder.path().join("x"), 1, 0o644);
            let wanted = Wanted {
                bytes: bytes as u64,
                mode: Mode::from_raw_mode(mode),
                modified: (MODIFIED.0 + seconds, nanoseconds),
                user: found.stx_uid + user,
                group: group.map(|more| found.stx_gid + more),
            };
            let same = bytes == 1
                && mode == 0o644
                && seconds == 0
                && nanoseconds == MODIFIED.1
                && user == 0
                && group != Some(1);
            prop_assert_eq!(wanted.is_like(&found), same);
        }
    }
}
