//! Removing from a root what layers can no longer put there.
//!
//! Requests of a link that run at the same time share their image's root. Through
//! a FIFO in it, or a socket, they could talk.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode};
use rustix::io::Errno;

use super::trash::OPEN;

/// A folder on the way down.
struct Level {
    inode: (u64, u64),
    /// Names of its folders that are still to be gone through.
    left: Vec<Vec<u8>>,
}

/// Removes what is neither a file nor a folder nor a symbolic link, and returns how many
/// there were. Goes down and up with one descriptor, since layers decide how deep a tree
/// is. Others may run this on the root at the same time, but nobody may change it
/// otherwise.
pub(crate) fn remove_pipes(root: &Path) -> io::Result<u64> {
    let mut removed = 0;
    let mut here = rustix::fs::open(root, OPEN, Mode::empty())?;
    let mut levels = vec![clear(&here, &mut removed)?];
    while let Some(level) = levels.last_mut() {
        if let Some(name) = level.left.pop() {
            here = rustix::fs::openat(&here, &*name, OPEN, Mode::empty())?;
            levels.push(clear(&here, &mut removed)?);
            continue;
        }
        levels.pop();
        let Some(above) = levels.last() else {
            break;
        };
        here = rustix::fs::openat(&here, "..", OPEN, Mode::empty())?;
        if inode(&here)? != above.inode {
            return Err(io::Error::other("its folders are moved meanwhile"));
        }
    }
    Ok(removed)
}

fn inode(folder: &OwnedFd) -> Result<(u64, u64), Errno> {
    let about = rustix::fs::fstat(folder)?;
    Ok((about.st_dev, about.st_ino))
}

/// Clears one folder.
fn clear(folder: &OwnedFd, removed: &mut u64) -> Result<Level, Errno> {
    let mut left = Vec::new();
    let mut unwanted = Vec::new();
    for item in Dir::read_from(folder)? {
        let item = item?;
        let name = item.file_name().to_bytes();
        if matches!(name, b"." | b"..") {
            continue;
        }
        let kind = match item.file_type() {
            FileType::Unknown => {
                let about = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
                FileType::from_raw_mode(about.st_mode)
            }
            kind => kind,
        };
        match kind {
            FileType::Directory => left.push(name.to_vec()),
            FileType::RegularFile | FileType::Symlink => {}
            _ => unwanted.push(name.to_vec()),
        }
    }
    for name in unwanted {
        match rustix::fs::unlinkat(folder, &*name, AtFlags::empty()) {
            Ok(()) => *removed += 1,
            Err(Errno::NOENT) => {}
            Err(cause) => return Err(cause),
        }
    }
    Ok(Level {
        inode: inode(folder)?,
        left,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::net::UnixListener;

    use rustix::fs::CWD;

    #[test]
    fn all_is_gone_through_however_deep() {
        let place = tempfile::tempdir().unwrap();
        let root = place.path().join("root");
        let outside = place.path().join("outside");
        let fifo = |path: &Path| {
            rustix::fs::mknodat(CWD, path, FileType::Fifo, Mode::RWXU, 0).unwrap();
        };
        fs::create_dir_all(&outside).unwrap();
        fifo(&outside.join("kept"));
        let mut deep = root.clone();
        for _ in 0..200 {
            deep.push("deep");
        }
        fs::create_dir_all(&deep).unwrap();
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::write(root.join("a/b/file"), "kept").unwrap();
        std::os::unix::fs::symlink(&outside, root.join("a/link")).unwrap();
        for path in [root.join("fifo"), root.join("a/b/fifo"), deep.join("fifo")] {
            fifo(&path);
        }
        fs::hard_link(root.join("fifo"), root.join("a/hard")).unwrap();
        drop(UnixListener::bind(root.join("a/socket")).unwrap());

        assert_eq!(remove_pipes(&root).unwrap(), 5);
        assert_eq!(remove_pipes(&root).unwrap(), 0);
        let names = |path: &Path| {
            let items = fs::read_dir(path).unwrap();
            let mut names: Vec<_> = items.map(|item| item.unwrap().file_name()).collect();
            names.sort();
            names
        };
        assert_eq!(names(&root), ["a", "deep"]);
        assert_eq!(names(&root.join("a")), ["b", "link"]);
        assert_eq!(names(&root.join("a/b")), ["file"]);
        assert_eq!(names(&deep), [""; 0]);
        assert_eq!(names(&outside), ["kept"]);
    }
}
