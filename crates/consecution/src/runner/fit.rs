//! How many processes fit the limits that a runner was started with: more would only fail to
//! start, call after call.

use std::path::{Path, PathBuf};

use rustix::process::{Resource, geteuid, getrlimit};

/// The most open files that the runner needs for a process of a link: 9 for most, and up to
/// 3 more for one that waits for its request, and for limits on memory and processors.
const FILES_A_PROCESS: u64 = 15;

/// How many more open files the runner needs: for connections, and for zygotes.
const FILES_APART: u64 = 64;

/// The processes for a process of a link: itself, and its init.
const TASKS_A_PROCESS: u64 = 2;

/// How many more processes and threads the runner needs: for its threads, and for zygotes.
const TASKS_APART: u64 = 64;

/// How many processes fit the limits of this process: at least one, and at most
/// `processes_max`. Logs the limit if they are fewer.
pub fn processes_that_fit(processes_max: usize) -> usize {
    let wanted = processes_max as u64;
    let limits = [
        Limit {
            what: "open files (ulimit -n, systemd's LimitNOFILE)",
            have: getrlimit(Resource::Nofile).current,
            each: FILES_A_PROCESS,
            apart: FILES_APART,
        },
        Limit {
            what: "processes (ulimit -u, systemd's LimitNPROC)",
            // The kernel does not limit root's processes.
            have: (getrlimit(Resource::Nproc).current).filter(|_| !geteuid().is_root()),
            each: TASKS_A_PROCESS,
            apart: TASKS_APART,
        },
        Limit {
            what: "tasks of its cgroup (pids.max, systemd's TasksMax)",
            have: tasks_left(
                &std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default(),
                Path::new("/sys/fs/cgroup"),
            ),
            each: TASKS_A_PROCESS,
            apart: TASKS_APART,
        },
    ];
    let fits = limits.iter().filter_map(|limit| limit.fits(wanted)).min();
    fits.map_or(processes_max, |fits| {
        usize::try_from(fits).unwrap_or(processes_max)
    })
}

/// A resource that each process needs some of.
struct Limit {
    what: &'static str,
    /// `None` if there is no limit.
    have: Option<u64>,
    each: u64,
    apart: u64,
}

impl Limit {
    /// How many processes fit. Logs that if they are fewer than wanted.
    fn fits(&self, wanted: u64) -> Option<u64> {
        let have = self.have?;
        let need = wanted.saturating_mul(self.each) + self.apart;
        if have >= need {
            return None;
        }
        let fits = (have.saturating_sub(self.apart) / self.each).clamp(1, wanted);
        tracing::warn!(
            "there will be {fits} processes at most, and not {wanted}: that would take {need} {}, \
             and there are {have}",
            self.what
        );
        Some(fits)
    }
}

/// How many more processes and threads the cgroup of a process and its ancestors allow, given
/// its `/proc/<pid>/cgroup`, and where cgroups are mounted.
fn tasks_left(memberships: &str, mounted: &Path) -> Option<u64> {
    let folders = memberships.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?.trim_start_matches('/'));
        match controllers {
            "" => Some((mounted.to_owned(), mounted.join(path))),
            _ if controllers.split(',').any(|name| name == "pids") => {
                let root = mounted.join("pids");
                Some((root.clone(), root.join(path)))
            }
            _ => None,
        }
    });
    let number = |path: PathBuf| -> Option<u64> {
        // Without a limit, the file has the word "max".
        std::fs::read_to_string(path).ok()?.trim().parse().ok()
    };
    folders
        .flat_map(|(root, folder)| {
            let within = folder.ancestors().map(Path::to_owned);
            let within: Vec<_> = within.take_while(|at| at.starts_with(&root)).collect();
            within.into_iter().filter_map(|folder| {
                let most = number(folder.join("pids.max"))?;
                let now = number(folder.join("pids.current")).unwrap_or(0);
                Some(most.saturating_sub(now))
            })
        })
        .min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_fit_as_there_is_of_each_and_one_at_least() {
        let fits = |have| {
            let limit = Limit {
                what: "open files",
                have,
                each: 7,
                apart: 64,
            };
            limit.fits(256)
        };
        assert_eq!(fits(None), None);
        assert_eq!(fits(Some(256 * 7 + 64)), None);
        assert_eq!(fits(Some(256 * 7 + 63)), Some(255));
        assert_eq!(fits(Some(150)), Some(12));
        assert_eq!(fits(Some(20)), Some(1));
    }

    #[test]
    fn the_least_of_all_cgroups_around_it_counts() {
        let mounted = tempfile::tempdir().unwrap();
        let put = |path: &str, max: &str, current: &str| {
            let folder = mounted.path().join(path);
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join("pids.max"), max).unwrap();
            std::fs::write(folder.join("pids.current"), current).unwrap();
        };
        let left = |memberships: &str| tasks_left(memberships, mounted.path());
        put("system.slice", "100\n", "30\n");
        put("system.slice/runner.service", "max\n", "7\n");
        put("pids/docker/x", "50\n", "1\n");
        assert_eq!(left("0::/system.slice/runner.service\n"), Some(70));
        assert_eq!(left("4:memory:/docker/x\n2:cpu,pids:/docker/x\n"), Some(49));
        assert_eq!(left("0::/elsewhere\n"), None);
        assert_eq!(left("nonsense"), None);
    }
}
