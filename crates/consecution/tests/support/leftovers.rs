//! What a run could leave behind besides processes: mounts, cgroups, files.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// This machine's mounts that have to do with that folder.
pub(crate) fn mounts_of(home: &Path) -> Vec<String> {
    let home = fs::canonicalize(home).unwrap();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    mounts
        .lines()
        .filter(|line| line.contains(home.to_str().unwrap()))
        .map(str::to_owned)
        .collect()
}

/// Cgroups that were made by the runner with that process id.
pub(crate) fn cgroups_of(process: u32) -> Vec<PathBuf> {
    let prefix = format!("{process}-");
    let mut found = Vec::new();
    let mut unread = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(folder) = unread.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            let path = entry.path();
            let ours = path
                .parent()
                .is_some_and(|parent| parent.ends_with("consecution"));
            if ours && entry.file_name().to_string_lossy().starts_with(&prefix) {
                found.push(path);
            } else {
                unread.push(path);
            }
        }
    }
    found
}

/// Every path below a folder.
pub(crate) fn files_in(folder: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut unread = vec![folder.to_owned()];
    while let Some(folder) = unread.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                unread.push(entry.path());
            }
            found.insert(entry.path());
        }
    }
    found
}
