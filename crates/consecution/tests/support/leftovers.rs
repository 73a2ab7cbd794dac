//! What a run could leave behind: processes, mounts, cgroups, files.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fd::OwnedFd;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::command::{PATIENCE, is_readable_within};

/// A process that was seen, held by a descriptor, so that its id cannot come to
/// mean another one.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) id: u32,
    pub(crate) command: String,
    pidfd: OwnedFd,
}

/// All descendants of a process, at this moment.
pub(crate) fn descendants(of: u32) -> Vec<Seen> {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(id) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else {
            continue;
        };
        // proc(5): the name, in brackets, may hold anything; then state, parent.
        let parent = stat
            .rsplit_once(')')
            .and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
        if let Some(parent) = parent {
            parents.push((id, parent));
        }
    }
    let mut family = BTreeSet::from([of]);
    loop {
        let before = family.len();
        family.extend(
            parents
                .iter()
                .filter(|(_, parent)| family.contains(parent))
                .map(|(id, _)| *id)
                .collect::<Vec<_>>(),
        );
        if family.len() == before {
            break;
        }
    }
    family.remove(&of);
    family.into_iter().filter_map(see).collect()
}

impl Seen {
    /// Kills it, if it is still there.
    pub(crate) fn kill(&self) {
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
    }
}

fn see(id: u32) -> Option<Seen> {
    let pid = Pid::from_raw(id.cast_signed())?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
    let command = fs::read(format!("/proc/{id}/cmdline")).ok()?;
    let command = String::from_utf8_lossy(&command).replace('\0', " ");
    Some(Seen { id, command, pidfd })
}

/// All of these processes end, and soon.
#[track_caller]
pub(crate) fn expect_gone(processes: &[Seen]) {
    expect_gone_within(processes, PATIENCE);
}

/// All of these processes end within that time.
#[track_caller]
pub(crate) fn expect_gone_within(processes: &[Seen], patience: Duration) {
    let deadline = Instant::now() + patience;
    for process in processes {
        let Seen { id, command, pidfd } = process;
        let left = deadline.saturating_duration_since(Instant::now());
        assert!(
            is_readable_within(pidfd, left),
            "process {id} ({command}) is still there"
        );
    }
}

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

/// The most memory a living process has used so far, in bytes.
pub(crate) fn peak_memory(process: u32) -> u64 {
    status_bytes(process, "VmHWM:")
}

/// The memory that a living process uses, in bytes.
pub(crate) fn memory(process: u32) -> u64 {
    status_bytes(process, "VmRSS:")
}

fn status_bytes(process: u32, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(field))
        .unwrap();
    let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
    kilobytes * 1024
}
