//! Cgroups: how much memory, processor time and how many processes each process
//! of a link may use. Version 2, version 1, or a mixture, as the host has it.
//!
//! A runner's cgroups stand under `consecution/<process id>-<random>`, one a
//! process, in a folder that it holds locked. One that remembers nothing of its process is used again, since to
//! make one costs more than to join it; all are removed with the runner. What a
//! runner that was killed has left behind is removed by the next one.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use rustix::fd::OwnedFd;

use crate::spec::{Limits, PROCESSES_DEFAULT};

mod hierarchy;

use hierarchy::{CONTROLLERS, Hierarchy, find_parents, new_name};

/// The period over which processor time is counted, in microseconds: the
/// kernel's default.
const CPU_PERIOD_MICROSECONDS: u64 = 100_000;

/// What the kernel takes at least and at most; the latter is 175 million cores.
const CPU_QUOTA_MICROSECONDS_MIN: u64 = 1000;
const CPU_QUOTA_MICROSECONDS_MAX: u64 = (1 << 44) - 1;

/// How many cgroups without a process are kept for the next ones, with two open
/// files each. Where processes come and go, few rest at a time.
const RESTING_MAX: usize = 32;

/// How many of them are looked at for one that is empty by now.
const RESTING_TRIED_MAX: usize = 4;

/// How many folders are tried to be removed whenever a process is gone, which
/// leaves one for each of three controllers at most: each try takes a lock of the
/// kernel's that the whole host shares, so to try all of them would be dear where
/// many processes end at once. More than come, so that all go in the end.
const RETIRED_TRIED_MAX: usize = 8;

/// A limit on resources cannot be kept.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each text says it")]
pub enum CgroupError {
    #[error(
        "limit {what}: this host offers no {controller:?} cgroup controller to us; run as root, or have \
         the cgroup of this process delegated (systemd: Delegate=yes), or remove the constraint, or run it \
         without (--allow-unenforced-limits); `consecution sandbox check` says what can be kept here"
    )]
    NoController {
        what: &'static str,
        controller: &'static str,
    },
    #[error("limit {what}: {}: {source}", path.display())]
    Refused {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    One,
    Two,
}

/// The cgroups of one runner.
#[derive(Debug)]
pub(crate) struct Cgroups {
    /// Looked for when the first limit is wanted.
    parents: OnceLock<Vec<Hierarchy>>,
    /// Of the runner's own folder in each of them.
    name: String,
    made: AtomicU64,
    /// Those that may be used again, the longest unused first.
    resting: Mutex<VecDeque<Made>>,
    /// Folders that could not be removed yet, because of processes that were
    /// killed and are not gone yet; the longest untried first.
    retired: Mutex<VecDeque<PathBuf>>,
}

/// The cgroup of one process; given back when dropped.
#[derive(Debug)]
pub(crate) struct Cgroup {
    of: Arc<Cgroups>,
    made: Made,
}

/// A folder in each hierarchy that the limits need.
#[derive(Debug, Default)]
struct Made {
    limits: Limits,
    folders: Vec<PathBuf>,
    join_files: Vec<OwnedFd>,
    /// How many processes are in it: quicker to read than which.
    count_file: Option<OwnedFd>,
}

impl Cgroup {
    /// Files that take a process id each; writing "0" brings the writer in.
    pub(crate) fn join_files(&self) -> &[OwnedFd] {
        &self.made.join_files
    }

    /// Has the kernel killed a process in it because it had no memory left? How
    /// much it may have.
    pub(crate) fn ran_out_of_memory(&self) -> Option<u64> {
        let bytes = self.made.limits.memory_bytes?;
        let killed = |path: PathBuf| {
            let counts = fs::read_to_string(path).unwrap_or_default();
            counts
                .lines()
                .filter_map(|line| line.strip_prefix("oom_kill "))
                .any(|count| count != "0")
        };
        let files = ["memory.events", "memory.oom_control"];
        let mut paths = (self.made.folders.iter())
            .flat_map(|folder| files.iter().map(|file| folder.join(file)));
        paths.any(killed).then_some(bytes)
    }
}

impl Made {
    /// Has its last process left it?
    fn is_empty(&self) -> bool {
        let mut count = [0; 1];
        let read = (self.count_file.as_ref()).map(|file| rustix::io::pread(file, &mut count, 0));
        matches!(read, Some(Ok(1))) && count == *b"0"
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let made = std::mem::take(&mut self.made);
        // One with a memory limit would go on counting what its process has left
        // in the kernel, and whether it was killed.
        if made.limits.memory_bytes.is_none() && made.count_file.is_some() {
            let mut resting = lock(&self.of.resting);
            if resting.len() < RESTING_MAX {
                resting.push_back(made);
                return;
            }
        }
        self.of.retire(made);
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        for made in lock(&self.resting).drain(..) {
            lock(&self.retired).extend(made.folders);
        }
        self.remove_retired();
        for hierarchy in self.parents.get().into_iter().flatten() {
            let _ = fs::remove_dir(hierarchy.folder.join(&self.name));
        }
    }
}

/// What a lock protects here stays whole also where its holder panics.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// A limit, as the files of both versions take it.
struct Setting {
    what: &'static str,
    controller: &'static str,
    one: Vec<(&'static str, String)>,
    two: Vec<(&'static str, String)>,
}

fn settings(limits: &Limits) -> Vec<Setting> {
    let mut settings = Vec::new();
    if let Some(bytes) = limits.memory_bytes {
        let bytes = bytes.to_string();
        settings.push(Setting {
            what: "memory",
            controller: "memory",
            one: vec![
                ("memory.limit_in_bytes", bytes.clone()),
                ("?memory.memsw.limit_in_bytes", bytes.clone()),
            ],
            two: vec![
                ("memory.max", bytes),
                ("?memory.swap.max", "0".to_owned()),
                ("?memory.oom.group", "1".to_owned()),
            ],
        });
    }
    if let Some(millicores) = limits.cpu_millicores {
        let quota = millicores.saturating_mul(CPU_PERIOD_MICROSECONDS / 1000);
        let quota = quota.clamp(CPU_QUOTA_MICROSECONDS_MIN, CPU_QUOTA_MICROSECONDS_MAX);
        settings.push(Setting {
            what: "processor time",
            controller: "cpu",
            one: vec![
                ("cpu.cfs_period_us", CPU_PERIOD_MICROSECONDS.to_string()),
                ("cpu.cfs_quota_us", quota.to_string()),
            ],
            two: vec![("cpu.max", format!("{quota} {CPU_PERIOD_MICROSECONDS}"))],
        });
    }
    if let Some(processes) = limits.processes {
        let maximum = processes.to_string();
        settings.push(Setting {
            what: "processes",
            controller: "pids",
            one: vec![("pids.max", maximum.clone())],
            two: vec![("pids.max", maximum)],
        });
    }
    settings
}

impl Cgroups {
    pub(crate) fn new() -> Cgroups {
        Cgroups {
            parents: OnceLock::new(),
            name: new_name(),
            made: AtomicU64::new(0),
            resting: Mutex::new(VecDeque::new()),
            retired: Mutex::new(VecDeque::new()),
        }
    }

    /// Removes all that can be removed by now.
    pub(crate) fn remove_retired(&self) {
        self.try_retired(usize::MAX);
    }

    /// Removes a cgroup, now or later.
    fn retire(&self, made: Made) {
        lock(&self.retired).extend(made.folders);
        self.try_retired(RETIRED_TRIED_MAX);
    }

    /// Tries to remove so many; those that cannot be removed yet go to the end.
    fn try_retired(&self, tried_max: usize) {
        let mut tried: Vec<PathBuf> = {
            let mut retired = lock(&self.retired);
            let count = tried_max.min(retired.len());
            retired.drain(..count).collect()
        };
        tried.retain(|folder| {
            let removed = fs::remove_dir(folder);
            removed.is_err_and(|error| error.kind() == io::ErrorKind::ResourceBusy)
        });
        lock(&self.retired).extend(tried);
    }

    /// Which of the [`CONTROLLERS`] we have here, each with where that is.
    pub(crate) fn controllers(&self) -> Vec<(&'static str, Option<&Path>)> {
        let parents = self.parents.get_or_init(|| find_parents(&self.name));
        let has = |controller: &str| {
            parents
                .iter()
                .find(|hierarchy| hierarchy.controllers.iter().any(|has| has == controller))
                .map(|hierarchy| hierarchy.folder.as_path())
        };
        CONTROLLERS
            .map(|controller| (controller, has(controller)))
            .into()
    }

    /// Which of these limits can be kept here, with the default for what is not
    /// set.
    ///
    /// # Errors
    /// One that is set cannot be, though it has to.
    pub(crate) fn keepable(&self, limits: &Limits) -> Result<Limits, CgroupError> {
        let wanted = Limits {
            processes: limits.processes.or(Some(PROCESSES_DEFAULT)),
            ..*limits
        };
        let mut kept = Limits::default();
        for single in wanted.each() {
            let is_default = single.processes.is_some() && limits.processes.is_none();
            match self.try_out(&single) {
                Ok(()) => kept = kept.and(&single),
                Err(_) if is_default || limits.best_effort => {}
                Err(error) => return Err(error),
            }
        }
        Ok(kept)
    }

    fn try_out(&self, limits: &Limits) -> Result<(), CgroupError> {
        self.retire(self.make(limits)?);
        Ok(())
    }

    /// Gives a cgroup with these limits: one that rests, or a new one.
    pub(crate) fn create(this: &Arc<Cgroups>, limits: &Limits) -> Result<Cgroup, CgroupError> {
        if let Some(made) = this.take_resting(limits) {
            return Ok(Cgroup {
                of: this.clone(),
                made,
            });
        }
        this.make(limits).map(|made| Cgroup {
            of: this.clone(),
            made,
        })
    }

    fn take_resting(&self, limits: &Limits) -> Option<Made> {
        let mut resting = lock(&self.resting);
        let at = resting
            .iter()
            .enumerate()
            .filter(|(_, made)| made.limits == *limits)
            .take(RESTING_TRIED_MAX)
            .find(|(_, made)| made.is_empty())
            .map(|(at, _)| at)?;
        resting.remove(at)
    }

    fn make(&self, limits: &Limits) -> Result<Made, CgroupError> {
        let parents = self.parents.get_or_init(|| find_parents(&self.name));
        let name = self.made.fetch_add(1, Ordering::Relaxed).to_string();
        let mut made = Made {
            limits: *limits,
            ..Made::default()
        };
        let done = settings(limits).into_iter().try_for_each(|setting| {
            made.apply(setting, parents, &Path::new(&self.name).join(&name))
        });
        if let Err(error) = done {
            self.retire(made);
            return Err(error);
        }
        Ok(made)
    }
}

impl Made {
    fn apply(
        &mut self,
        setting: Setting,
        parents: &[Hierarchy],
        name: &Path,
    ) -> Result<(), CgroupError> {
        let Setting {
            what,
            controller,
            one,
            two,
        } = setting;
        let hierarchy = parents
            .iter()
            .find(|hierarchy| hierarchy.controllers.iter().any(|has| has == controller))
            .ok_or(CgroupError::NoController { what, controller })?;
        let refused = |path: &Path| {
            let path = path.to_owned();
            move |source| CgroupError::Refused { what, path, source }
        };
        let folder = hierarchy.folder.join(name);
        if !self.folders.contains(&folder) {
            fs::create_dir_all(&folder).map_err(refused(&folder))?;
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
                .map_err(refused(&join))?;
            self.join_files.push(file.into());
        }
        let files = match hierarchy.version {
            Version::One => one,
            Version::Two => two,
        };
        for (file, value) in files {
            // A question mark: not every kernel has it.
            let (file, optional) = match file.strip_prefix('?') {
                Some(file) => (file, true),
                None => (file, false),
            };
            let path = folder.join(file);
            match fs::write(&path, value) {
                Ok(()) => {}
                Err(_) if optional => {}
                Err(source) => return Err(refused(&path)(source)),
            }
        }
        if controller == "pids" {
            let count = fs::File::open(folder.join("pids.current"));
            self.count_file = count.ok().map(OwnedFd::from);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_are_tried_at_a_time_and_all_go_in_the_end() {
        let cgroups = Cgroups::new();
        let place = tempfile::tempdir().unwrap();
        // As good as a cgroup with a process in it: always busy, for everybody.
        let busy = vec![PathBuf::from("/"); 2 * RETIRED_TRIED_MAX];
        let names = 0..2 * RETIRED_TRIED_MAX;
        let free: Vec<_> = names
            .map(|name| place.path().join(name.to_string()))
            .collect();
        for folder in &free {
            fs::create_dir(folder).unwrap();
        }
        let left = || free.iter().filter(|folder| folder.exists()).count();
        let folders = [busy, free.clone()].concat();
        cgroups.retire(Made {
            folders,
            ..Made::default()
        });
        cgroups.retire(Made::default());
        assert_eq!(left(), 2 * RETIRED_TRIED_MAX);
        cgroups.retire(Made::default());
        assert_eq!(left(), RETIRED_TRIED_MAX);
        cgroups.retire(Made::default());
        assert_eq!(left(), 0);
        assert_eq!(lock(&cgroups.retired).len(), 2 * RETIRED_TRIED_MAX);
    }
}
