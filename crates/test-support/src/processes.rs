//! Processes of this machine: which there are, and that they end.

use std::fs;
use std::time::{Duration, Instant};

use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::{PATIENCE, is_readable_within};

/// A process as the host sees it, held by a descriptor, so that its id cannot come to mean
/// another one.
#[derive(Debug)]
pub struct HostProcess {
    /// Its id.
    pub id: u32,
    /// Its command line, with a space behind each word.
    pub command: String,
    pidfd: OwnedFd,
}

impl HostProcess {
    /// The process with that id; `None` where there is none.
    ///
    /// # Panics
    /// It cannot be held, as where too many descriptors are open.
    pub fn new(id: u32) -> Option<HostProcess> {
        let pidfd = match pidfd_open(Pid::from_raw(id.cast_signed())?, PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            Err(Errno::SRCH) => return None,
            Err(error) => panic!("hold process {id}: {error}"),
        };
        let command = fs::read(format!("/proc/{id}/cmdline")).ok()?;
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        Some(HostProcess { id, command, pidfd })
    }

    /// Its id, as system calls take it.
    ///
    /// # Panics
    /// Never: a process that was found has an id.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.id.cast_signed()).unwrap()
    }

    /// Kills it, if it is still there.
    pub fn kill(&self) {
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
    }

    /// Whether it has ended.
    pub fn is_gone(&self) -> bool {
        is_readable_within(&self.pidfd, Duration::ZERO)
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// It lives on.
    #[track_caller]
    pub fn wait_until_gone(&self) {
        self.wait_until_gone_by(Instant::now() + PATIENCE);
    }

    #[track_caller]
    fn wait_until_gone_by(&self, deadline: Instant) {
        let HostProcess { id, command, pidfd } = self;
        let left = deadline.saturating_duration_since(Instant::now());
        assert!(
            is_readable_within(pidfd, left),
            "process {id} ({command}) is still there"
        );
    }
}

/// All descendants of a process, at this moment: parents before their children.
///
/// # Panics
/// There is no `/proc`.
pub fn descendants(of: u32) -> Vec<HostProcess> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let with_parents: Vec<_> = ids.filter_map(|id| Some((id, parent_of(id)?))).collect();
    let mut family = vec![of];
    let mut at = 0;
    while at < family.len() {
        let children = with_parents
            .iter()
            .filter(|(_, parent)| *parent == family[at]);
        let children: Vec<_> = children.map(|(id, _)| *id).collect();
        family.extend(children);
        at += 1;
    }
    let others = family.into_iter().skip(1);
    others.filter_map(HostProcess::new).collect()
}

/// The children of a process, at this moment.
///
/// # Panics
/// There is no `/proc`.
pub fn children(of: u32) -> Vec<HostProcess> {
    let mut found = descendants(of);
    found.retain(|process| parent_of(process.id) == Some(of));
    found
}

/// The parent of a process; `None` where that is gone.
pub fn parent_of(id: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // proc(5): the name, in brackets, may hold anything; then state, parent.
    let (_, behind_name) = stat.rsplit_once(')')?;
    behind_name.split_whitespace().nth(1)?.parse().ok()
}

/// Waits until all of these processes have ended.
///
/// # Panics
/// One of them lives on.
#[track_caller]
pub fn expect_gone(processes: &[HostProcess]) {
    expect_gone_within(processes, PATIENCE);
}

/// As [`expect_gone`], within that time.
///
/// # Panics
/// One of them lives on.
#[track_caller]
pub fn expect_gone_within(processes: &[HostProcess], patience: Duration) {
    let deadline = Instant::now() + patience;
    for process in processes {
        process.wait_until_gone_by(deadline);
    }
}

/// The most memory that a living process has used so far, in bytes.
///
/// # Panics
/// It does not live.
pub fn peak_memory(id: u32) -> u64 {
    status_bytes(id, "VmHWM:")
}

/// The memory that a living process uses, in bytes.
///
/// # Panics
/// It does not live.
pub fn memory(id: u32) -> u64 {
    status_bytes(id, "VmRSS:")
}

/// The address space of a living process, in bytes.
///
/// # Panics
/// It does not live.
pub fn address_space(id: u32) -> u64 {
    status_bytes(id, "VmSize:")
}

fn status_bytes(id: u32, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let kibibytes = line.unwrap().trim().trim_end_matches(" kB");
    kibibytes.parse::<u64>().unwrap() * 1024
}
