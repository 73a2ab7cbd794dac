//! Cgroups: how much memory, processor time and how many processes each process
//! of a link may use. Version 2, version 1, or a mixture, as the host has it.
//!
//! A runner's cgroups are in the folder `consecution/<process id>-<random>`, which it
//! keeps locked; one for each process. A cgroup that keeps nothing of its process is used
//! again, since making one takes longer than joining it. The runner removes all of them
//! when it ends; the next runner removes what a killed one has left behind.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use rustix::fd::{BorrowedFd, OwnedFd};

use crate::spec::{Limits, PROCESSES_DEFAULT};

mod candidates;
mod hierarchy;
mod made;
mod settings;

use hierarchy::{CONTROLLERS, Hierarchies, new_name};
pub(crate) use made::COUNTS_BYTES_MAX;
use made::{Made, let_go_of_pages};
use settings::settings;

/// The most cgroups without a process that are kept for the next ones, each with two open
/// files. If processes come and go, few rest at a time.
const RESTING_CGROUPS_MAX: usize = 32;

/// The most of them that are checked for being empty by now: each check is a system call.
const RESTING_CGROUPS_TRIED_MAX: usize = 4;

/// The most folders that are tried to be removed when a process has ended. That is more
/// than the 3 that a process leaves (one for each controller), so that all go in the end.
/// Not all at once, because each try takes a lock of the kernel that the whole host
/// shares, which would be slow when many processes end together.
const RETIRED_FOLDERS_TRIED_MAX: usize = 8;

/// A limit on resources cannot be kept.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each text says it")]
pub enum CgroupError {
    #[error(
        "limit {what}: this host offers no {controller:?} cgroup controller to us; run as root, or have \
         the cgroup of this process delegated (systemd: Delegate=yes), or remove the constraint"
    )]
    NoController {
        what: &'static str,
        controller: &'static str,
    },
    #[error(
        "limit memory: this host has swap space, and its kernel does not limit that: turn it off (swapoff -a), \
         or have it counted (version 1: swapaccount=1 on the kernel's command line), or remove the constraint"
    )]
    Swap,
    #[error("limit {what}: {}", path.display())]
    Refused {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
}

/// Where cgroups can be made for a controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupPlace {
    /// The folder in which they are made.
    pub folder: PathBuf,
    /// Whether it is within the cgroup of this process, so that this process's limits
    /// hold there as well.
    pub is_in_own: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    One,
    Two,
}

/// The cgroups of one runner.
#[derive(Debug)]
pub(crate) struct Cgroups {
    /// Found when the first limit is set.
    hierarchies: OnceLock<Hierarchies>,
    /// The name of the runner's own folder in each of them.
    name: String,
    /// Whether the host has swap space, which has to be limited together with memory.
    has_swap: bool,
    made: AtomicU64,
    /// Cgroups that may be used again, the longest unused first.
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

impl Cgroup {
    /// The files by which a process joins: whoever writes "0" to one moves there.
    pub(crate) fn join_files(&self) -> &[OwnedFd] {
        &self.made.join_files
    }

    /// The limit on memory, in bytes, if the kernel has killed a process in the cgroup for
    /// going over it.
    pub(crate) fn ran_out_of_memory(&self) -> Option<u64> {
        self.made.ran_out_of_memory()
    }

    /// The most memory at a time, in bytes, that its processes have had: if their memory
    /// has a limit, and if this kernel tells. No cgroup with such a limit is used twice.
    pub(crate) fn memory_peak(&self) -> Option<u64> {
        self.made.memory_peak()
    }

    /// Whether the kernel has refused a process here, since this was last asked.
    pub(crate) fn has_refused_a_process(&mut self) -> bool {
        self.made.has_refused_a_process()
    }

    /// The file in which the kernel counts the processes that it has killed here for lack
    /// of memory, for [`counts_a_kill`]; `None` if memory has no limit.
    pub(crate) fn counts_file(&self) -> Option<BorrowedFd<'_>> {
        self.made.counts_file()
    }

    /// Sets a limit on memory that was too low for executing the command, now that this
    /// is done. False if the command needs more already.
    pub(crate) fn limit_memory(&self) -> bool {
        self.made.limit_memory()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let made = std::mem::take(&mut self.made);
        // A cgroup with a memory limit is not used again: it would go on counting what
        // its process has left in the kernel, and that it was killed.
        if made.limits.memory_bytes.is_none() && made.count_file.is_some() {
            let mut resting = self.of.resting.lock();
            if resting.len() < RESTING_CGROUPS_MAX {
                resting.push_back(made);
                return;
            }
        }
        self.of.retire(made);
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        for made in self.resting.lock().drain(..) {
            self.retired.lock().extend(made.folders);
        }
        self.remove_retired();
        let hierarchies = self.hierarchies.get().into_iter();
        for hierarchy in hierarchies.flat_map(Hierarchies::taken) {
            let _ = fs::remove_dir(hierarchy.folder.join(&self.name));
        }
    }
}

/// Whether the kernel has killed a process for lack of memory, by what it counts for a
/// cgroup (`memory.events`, `memory.oom_control`). Kernels before 4.13 do not tell. Init
/// calls this too, so it must not panic.
pub(crate) fn counts_a_kill(counts: &[u8]) -> bool {
    let mut lines = counts.split(|byte| *byte == b'\n');
    let kills = lines.find_map(|line| line.strip_prefix(b"oom_kill "));
    kills.is_some_and(|count| count != b"0")
}

/// How many processes and threads the kernel has refused in a cgroup, by `pids.events`.
fn refusals(events: &str) -> Option<u64> {
    let mut lines = events.lines();
    lines.find_map(|line| line.strip_prefix("max ")?.parse().ok())
}

/// Whether there is swap space, by `/proc/swaps`, whose first line is a header.
fn has_swap(swaps: &str) -> bool {
    swaps.lines().nth(1).is_some()
}

impl Cgroups {
    pub(crate) fn new() -> Cgroups {
        Cgroups {
            hierarchies: OnceLock::new(),
            name: new_name(),
            has_swap: has_swap(&fs::read_to_string("/proc/swaps").unwrap_or_default()),
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
        self.retired.lock().extend(made.folders);
        self.try_retired(RETIRED_FOLDERS_TRIED_MAX);
    }

    /// Tries to remove at most `tried_max` folders; those that are still busy go to the
    /// end.
    fn try_retired(&self, tried_max: usize) {
        let mut tried: Vec<PathBuf> = {
            let mut retired = self.retired.lock();
            let count = tried_max.min(retired.len());
            retired.drain(..count).collect()
        };
        tried.retain(|folder| {
            let_go_of_pages(folder);
            let removed = fs::remove_dir(folder);
            removed.is_err_and(|error| error.kind() == io::ErrorKind::ResourceBusy)
        });
        self.retired.lock().extend(tried);
    }

    /// Each of the [`CONTROLLERS`], with the place for its cgroups, if there is one here.
    pub(crate) fn controllers(&self) -> Vec<(&'static str, Option<CgroupPlace>)> {
        let hierarchies = self.hierarchies();
        let place = |controller: &str| {
            hierarchies.of(controller).map(|hierarchy| CgroupPlace {
                folder: hierarchy.folder.clone(),
                is_in_own: hierarchy.is_in_own,
            })
        };
        CONTROLLERS
            .map(|controller| (controller, place(controller)))
            .into()
    }

    fn hierarchies(&self) -> &Hierarchies {
        self.hierarchies
            .get_or_init(|| Hierarchies::find(&self.name))
    }

    /// The limits of these that can be kept here, with defaults for those that are not
    /// set. Makes a cgroup with them, for the first process.
    ///
    /// # Errors
    /// A limit that is set cannot be kept, and they are not [`Limits::best_effort`].
    pub(crate) fn keepable(this: &Arc<Cgroups>, limits: &Limits) -> Result<Limits, CgroupError> {
        let wanted = Limits {
            processes: limits.processes.or(Some(PROCESSES_DEFAULT)),
            ..*limits
        };
        let best_effort = limits.best_effort;
        if !best_effort && Cgroups::create(this, &wanted).is_ok() {
            return Ok(wanted);
        }
        let mut kept = Limits {
            best_effort,
            ..Limits::default()
        };
        for single in wanted.each() {
            let single = Limits {
                best_effort,
                ..single
            };
            let is_default = single.processes.is_some() && limits.processes.is_none();
            match Cgroups::create(this, &single) {
                Ok(_) => kept = kept.and(&single),
                Err(_) if is_default || best_effort => {}
                Err(error) => return Err(error),
            }
        }
        Ok(kept)
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
        let mut resting = self.resting.lock();
        let at = resting
            .iter()
            .enumerate()
            .filter(|(_, made)| made.limits == *limits)
            .take(RESTING_CGROUPS_TRIED_MAX)
            .find(|(_, made)| made.is_empty())
            .map(|(at, _)| at)?;
        resting.remove(at)
    }

    fn make(&self, limits: &Limits) -> Result<Made, CgroupError> {
        let name = self.made.fetch_add(1, Ordering::Relaxed).to_string();
        let name = Path::new(&self.name).join(name);
        // With best effort, a limit on memory without swap is better than none.
        let needs_swap = self.has_swap && !limits.best_effort;
        let mut made = Made::new(limits, needs_swap);
        let mut settings = settings(limits).into_iter();
        let done = settings.try_for_each(|setting| made.apply(setting, self.hierarchies(), &name));
        if let Err(error) = done {
            self.retire(made);
            return Err(error);
        }
        Ok(made)
    }
}

#[cfg(test)]
mod tests {
    use super::hierarchy::Hierarchy;
    use super::*;

    #[test]
    fn a_kill_is_what_the_kernel_counts_as_one() {
        for (counts, is_one) in [
            ("oom_kill_disable 0\nunder_oom 0\noom_kill 0\n", false),
            ("oom_kill_disable 0\nunder_oom 1\noom_kill 3\n", true),
            (
                "low 0\nhigh 0\nmax 7\noom 2\noom_kill 0\noom_group_kill 0\n",
                false,
            ),
            (
                "low 0\nhigh 0\nmax 7\noom 2\noom_kill 1\noom_group_kill 0\n",
                true,
            ),
            ("oom_kill_disable 0\nunder_oom 0\n", false),
            ("", false),
        ] {
            assert_eq!(counts_a_kill(counts.as_bytes()), is_one, "{counts}");
        }
    }

    #[test]
    fn refusals_are_what_the_kernel_says_of_the_most() {
        for (events, count) in [
            ("max 0\n", Some(0)),
            ("max 12\n", Some(12)),
            ("other 3\nmax 4\n", Some(4)),
            ("max\n", None),
            ("", None),
        ] {
            assert_eq!(refusals(events), count, "{events}");
        }
    }

    #[test]
    fn swap_space_shows_in_a_second_line() {
        let header = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n";
        assert!(!has_swap("") && !has_swap(header));
        assert!(has_swap(&format!(
            "{header}/dev/zram0 partition 8388604 0 100\n"
        )));
    }

    #[test]
    fn memory_is_limited_only_with_swap_where_there_is_some() {
        let limited = Limits {
            memory_bytes: Some(1 << 20),
            ..Limits::default()
        };
        let leniently = Limits {
            best_effort: true,
            ..limited
        };
        for (version, file, join) in [
            (Version::One, "memory.memsw.limit_in_bytes", "tasks"),
            (Version::Two, "memory.swap.max", "cgroup.procs"),
        ] {
            let kept = |limits: &Limits, has_swap: bool, can_limit_swap: bool| {
                let place = tempfile::tempdir().unwrap();
                let mut cgroups = Cgroups::new();
                cgroups.has_swap = has_swap;
                let hierarchy = Hierarchy::at(place.path(), version);
                let hierarchies = Hierarchies::one(hierarchy);
                cgroups.hierarchies.set(hierarchies).unwrap();
                // That with all limits, and, since there is no controller for some,
                // that with this one.
                for made in ["0", "1"] {
                    let folder = place.path().join(&cgroups.name).join(made);
                    fs::create_dir_all(&folder).unwrap();
                    fs::write(folder.join(join), "").unwrap();
                    if !can_limit_swap {
                        // Nothing can be written to it.
                        fs::create_dir(folder.join(file)).unwrap();
                    }
                }
                let kept = Cgroups::keepable(&Arc::new(cgroups), limits);
                kept.map(|kept| kept.memory_bytes)
            };
            let all = Some(1 << 20);
            assert_eq!(kept(&limited, true, true).unwrap(), all);
            assert_eq!(kept(&limited, false, false).unwrap(), all);
            let refused = kept(&limited, true, false).unwrap_err();
            assert!(matches!(refused, CgroupError::Swap), "{refused}");
            // Better than no limit at all.
            assert_eq!(kept(&leniently, true, false).unwrap(), all);
        }
    }

    #[test]
    fn few_are_tried_at_a_time_and_all_go_in_the_end() {
        let cgroups = Cgroups::new();
        let place = tempfile::tempdir().unwrap();
        // As good as a cgroup with a process in it: always busy, for everybody.
        let busy = vec![PathBuf::from("/"); 2 * RETIRED_FOLDERS_TRIED_MAX];
        let names = 0..2 * RETIRED_FOLDERS_TRIED_MAX;
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
        assert_eq!(left(), 2 * RETIRED_FOLDERS_TRIED_MAX);
        cgroups.retire(Made::default());
        assert_eq!(left(), RETIRED_FOLDERS_TRIED_MAX);
        cgroups.retire(Made::default());
        assert_eq!(left(), 0);
        assert_eq!(cgroups.retired.lock().len(), 2 * RETIRED_FOLDERS_TRIED_MAX);
    }
}
