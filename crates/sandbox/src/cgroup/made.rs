//! The cgroup of one process: a folder in each hierarchy that its limits need.

use std::fs;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};

use super::hierarchy::Hierarchies;
use super::settings::{self, File, Need, Setting};
use super::{CgroupError, Version, counts_a_kill, refusals};
use crate::spec::Limits;

/// Longer than the file in which the kernel counts such kills, which has some 100 bytes.
pub(crate) const COUNTS_BYTES_MAX: usize = 512;

#[derive(Debug, Default)]
pub(super) struct Made {
    pub(super) limits: Limits,
    /// Whether the host has swap space, which is to be limited as well.
    pub(super) needs_swap: bool,
    pub(super) folders: Vec<PathBuf>,
    pub(super) join_files: Vec<OwnedFd>,
    /// The folder whose memory is limited.
    pub(super) memory: Option<(PathBuf, Version)>,
    /// The file in which the kernel counts the processes that it has killed there for
    /// lack of memory.
    pub(super) counts_file: Option<OwnedFd>,
    /// The file with the number of its processes: quicker to read than their list.
    pub(super) count_file: Option<OwnedFd>,
    /// The folder that limits processes.
    pub(super) pids: Option<PathBuf>,
    /// How many processes the kernel had refused there when that was last looked up.
    pub(super) refusals: u64,
}

impl Made {
    /// One without any folder.
    pub(super) fn new(limits: &Limits, needs_swap: bool) -> Made {
        Made {
            limits: *limits,
            needs_swap,
            ..Made::default()
        }
    }

    /// Whether its last process has left it.
    pub(super) fn is_empty(&self) -> bool {
        let mut count = [0; 1];
        let read = (self.count_file.as_ref()).map(|file| rustix::io::pread(file, &mut count, 0));
        matches!(read, Some(Ok(1))) && count == *b"0"
    }

    /// Makes a folder for the setting where there is none yet, and sets it there.
    pub(super) fn apply(
        &mut self,
        setting: Setting,
        hierarchies: &Hierarchies,
        name: &Path,
    ) -> Result<(), CgroupError> {
        let Setting {
            what, controller, ..
        } = setting;
        let hierarchy = hierarchies
            .of(controller)
            .ok_or(CgroupError::NoController { what, controller })?;
        let folder = hierarchy.folder.join(name);
        if !self.folders.contains(&folder) {
            fs::create_dir_all(&folder).map_err(refused(what, &folder))?;
            self.folders.push(folder.clone());
            let join = folder.join(match hierarchy.version {
                // For a single thread, which is all that a process is before its
                // exec: for a whole process the kernel stops all forks and exits
                // of the machine, and waits until none is under way.
                Version::One => "tasks",
                Version::Two => "cgroup.procs",
            });
            let file = fs::OpenOptions::new()
                .write(true)
                .custom_flags(libc::O_CLOEXEC)
                .open(&join)
                .map_err(refused(what, &join))?;
            self.join_files.push(file.into());
        }
        self.set(setting, &folder, hierarchy.version)?;
        match controller {
            "pids" => {
                let count = fs::File::open(folder.join("pids.current"));
                self.count_file = count.ok().map(OwnedFd::from);
                self.pids = Some(folder);
            }
            "memory" => {
                let counts = fs::File::open(folder.join(match hierarchy.version {
                    Version::One => "memory.oom_control",
                    Version::Two => "memory.events",
                }));
                self.counts_file = counts.ok().map(OwnedFd::from);
                self.memory = Some((folder, hierarchy.version));
            }
            _ => {}
        }
        Ok(())
    }

    fn set(&self, setting: Setting, folder: &Path, version: Version) -> Result<(), CgroupError> {
        let files = match version {
            Version::One => setting.one,
            Version::Two => setting.two,
        };
        for File { name, value, need } in files {
            let path = folder.join(name);
            match fs::write(&path, value) {
                Ok(()) => {}
                Err(source) if need == Need::Always => {
                    return Err(refused(setting.what, &path)(source));
                }
                Err(_) if need == Need::WithSwap && self.needs_swap => {
                    return Err(CgroupError::Swap);
                }
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// Sets a limit on memory that is lower than executing the command may need, now that
    /// it has been executed. False if the command needs more already: version 1 refuses
    /// the limit then, and version 2 kills.
    pub(super) fn limit_memory(&self) -> bool {
        let Some((folder, version)) = &self.memory else {
            return true;
        };
        match self.limits.memory_bytes {
            Some(bytes) if settings::is_less_than_execution_needs(bytes) => {
                let set = self.set(settings::memory(bytes), folder, *version);
                set.is_ok() && self.ran_out_of_memory().is_none()
            }
            _ => true,
        }
    }

    /// The limit on memory, in bytes, if the kernel has killed a process in the cgroup
    /// for going over it. The kernel counts before it kills.
    pub(super) fn ran_out_of_memory(&self) -> Option<u64> {
        let mut counts = [0; COUNTS_BYTES_MAX];
        let length = rustix::io::pread(self.counts_file()?, &mut counts, 0).ok()?;
        let is_killed = counts_a_kill(&counts[..length]);
        self.limits.memory_bytes.filter(|_| is_killed)
    }

    /// See [`super::Cgroup::memory_peak`].
    pub(super) fn memory_peak(&self) -> Option<u64> {
        let (folder, version) = self.memory.as_ref()?;
        let peak = fs::read_to_string(folder.join(match version {
            Version::One => "memory.max_usage_in_bytes",
            Version::Two => "memory.peak",
        }));
        peak.ok()?.trim().parse().ok()
    }

    /// See [`super::Cgroup::has_refused_a_process`].
    pub(super) fn has_refused_a_process(&mut self) -> bool {
        let Some(folder) = &self.pids else {
            return false;
        };
        let events = fs::read_to_string(folder.join("pids.events"));
        let now = events.ok().and_then(|events| refusals(&events));
        let now = now.unwrap_or(self.refusals);
        std::mem::replace(&mut self.refusals, now) < now
    }

    pub(super) fn counts_file(&self) -> Option<BorrowedFd<'_>> {
        self.counts_file.as_ref().map(AsFd::as_fd)
    }
}

fn refused(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CgroupError {
    let path = path.to_owned();
    move |source| CgroupError::Refused { what, path, source }
}

/// Frees the page cache that a cgroup is charged for: pages of the image that a command
/// was the first to read. Otherwise the kernel would keep them, and with them all of a
/// removed cgroup, until it needs the memory. Takes more than a millisecond, so it is
/// done only if there are such pages.
pub(super) fn let_go_of_pages(folder: &Path) {
    // Only cgroups of the memory controller have this file. The cache is called "cache"
    // in version 1 and "file" in version 2.
    let Ok(counted) = fs::read_to_string(folder.join("memory.stat")) else {
        return;
    };
    let bytes = |name| {
        let mut lines = counted.lines().filter_map(|line| line.split_once(' '));
        lines
            .find(|(found, _)| *found == name)
            .map(|(_, bytes)| bytes)
    };
    let (file, value) = match bytes("cache") {
        Some(bytes) => ("memory.force_empty", bytes),
        None => ("memory.reclaim", bytes("file").unwrap_or("0")),
    };
    if value != "0" {
        // If the kernel cannot free them now, or has no such file, they stay.
        let _ = fs::write(folder.join(file), value);
    }
}
