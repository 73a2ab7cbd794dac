//! Tar in place of a folder: what a link with a folder for its input gets, and what one
//! with a folder for its output gives.
//!
//! What unpacks and packs is a process of the link: it is in the place of the command,
//! before or behind that, with its user, cgroup, domain, filter and limits. It is a copy
//! of the zygote and not a program of its own, since the image has no libraries for ours.

use std::ffi::OsStr;
use std::io;
use std::path::Path;

use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags, ResolveFlags};

use crate::failure::SCRATCH_IS_FULL;

mod pack;
mod process;
mod unpack;

pub(crate) use process::{DONE, start};

/// The longest path in a tar, as the kernel has it.
const PATH_BYTES_MAX: usize = 4095;

/// A tar could not be packed or unpacked. The text reads well after "failed to".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct ArchiveError(String);

impl ArchiveError {
    fn new(what: &str, path: impl AsRef<str>, error: &io::Error) -> ArchiveError {
        let text = error.to_string();
        // Without Rust's "(os error N)", which says nothing to a reader.
        let reason = text.split(" (os error").next().unwrap_or_default();
        let advice = match error.raw_os_error() {
            Some(libc::ENOSPC) => advice_for_full(),
            _ => String::new(),
        };
        ArchiveError::because(what, path, &format!("{}{advice}", reason.to_lowercase()))
    }

    fn because(what: &str, path: impl AsRef<str>, reason: &str) -> ArchiveError {
        let path = path.as_ref();
        ArchiveError(match path.is_empty() {
            true => format!("{what}: {reason}"),
            false => format!("{what} {path:?}: {reason}"),
        })
    }
}

/// How an error ends of which a full file system is the cause.
pub(crate) fn advice_for_full() -> String {
    format!(" ({SCRATCH_IS_FULL})")
}

/// Unpacks the tar that comes from a pipe into the folder at `path`.
pub(crate) fn unpack(path: &Path, source: OwnedFd) -> Result<(), ArchiveError> {
    unpack_from(path, std::fs::File::from(source))
}

/// As [`unpack`], of what comes from anywhere.
pub(crate) fn unpack_from(path: &Path, source: impl io::Read) -> Result<(), ArchiveError> {
    unpack::unpack(source, &folder(path)?)
}

/// Packs what is in the folder at `path` into a tar, and writes that to a pipe.
pub(crate) fn pack(path: &Path, target: OwnedFd) -> Result<(), ArchiveError> {
    let target = io::BufWriter::with_capacity(64 * 1024, std::fs::File::from(target));
    pack::pack(&folder(path)?, target)
}

/// The folder, which the command may have replaced by a link.
fn folder(path: &Path) -> Result<OwnedFd, ArchiveError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let links = ResolveFlags::NO_SYMLINKS;
    let opened = rustix::fs::openat2(rustix::fs::CWD, path, flags, Mode::empty(), links);
    opened
        .map_err(|error| ArchiveError::new("open", path.to_string_lossy(), &io::Error::from(error)))
}

/// A folder beneath another one, or that itself. Follows no links.
fn place(folder: &OwnedFd, path: Option<&Path>) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let inside = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let path = path.filter(|path| !path.as_os_str().is_empty());
    let path = path.unwrap_or(Path::new("."));
    Ok(rustix::fs::openat2(
        folder,
        path,
        flags,
        Mode::empty(),
        inside,
    )?)
}

/// A folder in another one, for reading.
fn open_folder(folder: &OwnedFd, name: &OsStr) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(folder, name, flags, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use proptest::prelude::*;
    use tar::{Builder, EntryType, Header};

    use super::*;

    fn packed(folder: &Path) -> Result<Vec<u8>, ArchiveError> {
        let mut tar = Vec::new();
        pack::pack(&super::folder(folder)?, &mut tar).map(|()| tar)
    }

    fn unpacked(tar: &[u8], folder: &Path) -> Result<(), ArchiveError> {
        unpack_from(folder, tar)
    }

    /// A tar of one entry, whatever its path says.
    fn one(kind: EntryType, path: &str, link: &str, content: &[u8]) -> Vec<u8> {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_mode(0o4755);
        header.set_size(content.len() as u64);
        header.set_cksum();
        let mut builder = Builder::new(Vec::new());
        builder.append(&header, content).unwrap();
        builder.into_inner().unwrap()
    }

    /// A tar of the entries of several.
    fn several(tars: &[Vec<u8>]) -> Vec<u8> {
        const END_BYTES: usize = 1024;
        let entries = tars.iter().flat_map(|tar| &tar[..tar.len() - END_BYTES]);
        entries.copied().chain([0; END_BYTES]).collect()
    }

    #[test]
    fn a_folder_comes_back_as_it_was() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let deep = from
            .path()
            .join("a/b")
            .join("c".repeat(200))
            .join("d".repeat(200));
        fs::create_dir_all(&deep).unwrap();
        fs::write(deep.join("file"), "content").unwrap();
        fs::write(from.path().join("empty"), "").unwrap();
        fs::set_permissions(from.path().join("empty"), fs::Permissions::from_mode(0o751)).unwrap();
        symlink("a/b", from.path().join("link")).unwrap();
        let tar = packed(from.path()).unwrap();
        unpacked(&tar, to.path()).unwrap();
        // The same bytes, also from files of another time.
        assert!(packed(to.path()).unwrap() == tar);
        assert_eq!(
            fs::read_link(to.path().join("link")).unwrap(),
            Path::new("a/b")
        );
        let mode = fs::metadata(to.path().join("empty"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o7777, 0o751);
    }

    #[test]
    fn what_leads_out_is_refused() {
        let outside = tempfile::tempdir().unwrap();
        let folder = outside.path().join("in");
        fs::create_dir(&folder).unwrap();
        symlink(outside.path(), folder.join("out")).unwrap();
        for tar in [
            one(EntryType::Regular, "../evil", "", b"x"),
            one(EntryType::Regular, "/evil", "", b"x"),
            one(EntryType::Regular, "a/../../evil", "", b"x"),
            one(EntryType::Regular, "out/evil", "", b"x"),
            one(EntryType::Directory, "out/evil", "", b""),
            one(EntryType::Symlink, "evil", "/etc", b""),
            one(EntryType::Symlink, "a/evil", "../..", b""),
            one(EntryType::Link, "evil", "../secret", b""),
            one(EntryType::Link, "evil", "out/secret", b""),
            one(EntryType::Char, "evil", "", b""),
            one(EntryType::Fifo, "evil", "", b""),
            // By another link on the way, which is not so deep as its name.
            several(&[
                one(EntryType::Symlink, "a/here", ".", b""),
                one(
                    EntryType::Symlink,
                    "evil",
                    "a/here/here/../../../secret",
                    b"",
                ),
            ]),
            // By another name of a link that does not lead out where it is.
            several(&[
                one(EntryType::Symlink, "a/b/link", "../../kept", b""),
                one(EntryType::Link, "evil", "a/b/link", b""),
            ]),
        ] {
            fs::write(outside.path().join("secret"), "").unwrap();
            let error = unpacked(&tar, &folder).unwrap_err();
            assert!(error.to_string().starts_with("unpack"), "{error}");
            assert!(!outside.path().join("evil").exists());
            assert!(fs::symlink_metadata(folder.join("evil")).is_err());
        }
    }

    #[test]
    fn a_later_entry_takes_the_place_of_an_earlier_one_and_not_of_what_that_leads_to() {
        let folder = tempfile::tempdir().unwrap();
        let tar = several(&[
            one(EntryType::Regular, "kept", "", b"kept"),
            one(EntryType::Symlink, "link", "kept", b""),
            one(EntryType::Regular, "link", "", b"new"),
        ]);
        unpacked(&tar, folder.path()).unwrap();
        assert_eq!(fs::read(folder.path().join("kept")).unwrap(), b"kept");
        assert_eq!(fs::read(folder.path().join("link")).unwrap(), b"new");
        let mode = fs::metadata(folder.path().join("link"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o7000, 0, "a set-id bit");
    }

    #[test]
    fn what_is_no_tar_or_is_cut_off_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let whole = one(EntryType::Regular, "file", "", &[b'x'; 4000]);
        for tar in [&b"no tar at all"[..], &[b'x'; 2000], &whole[..2000]] {
            let error = unpacked(tar, folder.path()).unwrap_err().to_string();
            assert!(
                error.starts_with("read the tar") || error.starts_with("unpack"),
                "{error}"
            );
        }
        unpacked(b"", folder.path()).unwrap();
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]
        /// Whatever strangers send, nothing is written but in the folder.
        #[test]
        fn nothing_is_ever_written_elsewhere(
            mut tar in prop::collection::vec(any::<u8>(), 0..64).prop_map(|noise| {
                let mut tar = one(EntryType::Regular, "a/file", "", b"content");
                for (at, byte) in noise.iter().enumerate() {
                    tar[usize::from(*byte) * 2 + at % 2] = *byte;
                }
                tar
            }),
            checksum in any::<bool>(),
        ) {
            if checksum {
                let mut header = Header::from_byte_slice(&tar[..512]).clone();
                header.set_cksum();
                tar[..512].copy_from_slice(header.as_bytes());
            }
            let outside = tempfile::tempdir().unwrap();
            let folder = outside.path().join("in");
            fs::create_dir(&folder).unwrap();
            let _ = unpacked(&tar, &folder);
            let beside = fs::read_dir(outside.path()).unwrap().count();
            prop_assert_eq!(beside, 1);
        }
    }
}
