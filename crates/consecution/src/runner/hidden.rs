//! Files of an image that its commands do not see.
//!
//! Each process gets empty `/tmp`, `/var/tmp` and `/run` of its own, which hide what
//! the image has there. Showing it would take an overlay, in which folders cannot be renamed
//! before Linux 6.6: too many programs do that in `/tmp`.

use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};

/// The private folders that images have files in, but for `/dev/shm`.
const PRIVATE: [&str; 3] = ["tmp", "var/tmp", "run"];

/// How many entries of a private folder are looked at: an image may have any number there,
/// and the first few that are found are enough for a warning.
const ENTRIES_MAX: usize = 1000;

/// For each private folder that the image has files in, the path of one of them, as
/// the image has it. Folders alone are no loss worth a word: nearly all images have
/// `/run/lock`.
pub(super) fn files(root: &Path) -> Vec<PathBuf> {
    let found = PRIVATE.iter().filter_map(|folder| file_in(root, folder));
    found.collect()
}

fn file_in(root: &Path, folder: &str) -> Option<PathBuf> {
    let mut at = root.to_owned();
    for name in Path::new(folder) {
        at.push(name);
        // A link leads to somewhere else, of the image or of the host.
        if !fs::symlink_metadata(&at).is_ok_and(|found| found.is_dir()) {
            return None;
        }
    }
    let (mut folders, mut looked_at) = (VecDeque::from([at]), 0);
    while let Some(folder) = folders.pop_front() {
        let Ok(entries) = fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries.flatten() {
            looked_at += 1;
            if looked_at > ENTRIES_MAX {
                return None;
            }
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push_back(entry.path()),
                _ => {
                    let path = entry.path();
                    let inside = path.strip_prefix(root).ok()?;
                    return Some(Path::new("/").join(inside));
                }
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_file_is_named_for_each_private_folder_that_has_any() {
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| root.path().join(path);
        assert_eq!(files(root.path()), [] as [PathBuf; 0]);
        fs::create_dir_all(at("run/lock/empty")).unwrap();
        fs::create_dir_all(at("var")).unwrap();
        fs::create_dir(at("tmp")).unwrap();
        assert_eq!(files(root.path()), [] as [PathBuf; 0]);

        // Not followed, whether they lead to a folder or are in one.
        symlink("/etc", at("var/tmp")).unwrap();
        assert_eq!(files(root.path()), [] as [PathBuf; 0]);
        symlink("/etc", at("tmp/link")).unwrap();
        fs::write(at("run/lock/nginx.pid"), "1").unwrap();
        let found = ["/tmp/link", "/run/lock/nginx.pid"].map(PathBuf::from);
        assert_eq!(files(root.path()), found);
    }

    #[test]
    fn only_so_many_entries_are_looked_at() {
        let root = tempfile::tempdir().unwrap();
        for folder in 0..=ENTRIES_MAX {
            fs::create_dir_all(root.path().join(format!("run/{folder}"))).unwrap();
        }
        fs::write(root.path().join("run/500/file"), "").unwrap();
        assert_eq!(files(root.path()), [] as [PathBuf; 0]);
    }
}
