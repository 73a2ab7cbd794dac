//! Cgroups: how much memory, processor time and how many processes each process
//! of a link may use. Version 2, version 1, or a mixture, as the host has it.
//!
//! A runner's cgroups stand under `consecution/<process id>-<start time>`, one a
//! process, and are removed with it. What a runner that was killed has left
//! behind is removed by the next one.

use std::fs;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use rustix::fd::OwnedFd;

use crate::spec::Limits;

/// The period over which processor time is counted, in microseconds: the
/// kernel's default.
const CPU_PERIOD_MICROSECONDS: u64 = 100_000;

/// What the kernel takes at least and at most; the latter is 175 million cores.
const CPU_QUOTA_MICROSECONDS_MIN: u64 = 1000;
const CPU_QUOTA_MICROSECONDS_MAX: u64 = (1 << 44) - 1;

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
    #[error("limit {what}: {}: {source}", path.display())]
    Refused {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
}

/// The cgroups of one runner.
#[derive(Debug)]
pub(crate) struct Cgroups {
    /// Looked for when the first limit is wanted.
    parents: OnceLock<Vec<Hierarchy>>,
    /// Of the runner's own folder in each of them.
    name: String,
    made: AtomicU64,
    /// Folders that could not be removed yet, because of processes that were
    /// killed and are not gone yet.
    retired: Mutex<Vec<PathBuf>>,
}

/// A folder in which we may make cgroups for some controllers.
#[derive(Debug)]
struct Hierarchy {
    folder: PathBuf,
    controllers: Vec<String>,
    version: Version,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// The cgroup of one process; removed when dropped, or as soon as it is empty.
#[derive(Debug)]
pub(crate) struct Cgroup {
    of: Arc<Cgroups>,
    folders: Vec<PathBuf>,
    join_files: Vec<OwnedFd>,
}

impl Cgroup {
    /// Files that take a process id each; writing "0" brings the writer in.
    pub(crate) fn join_files(&self) -> &[OwnedFd] {
        &self.join_files
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        self.of.retired().append(&mut self.folders);
        self.of.remove_retired();
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        self.remove_retired();
        for hierarchy in self.parents.get().into_iter().flatten() {
            let _ = fs::remove_dir(hierarchy.folder.join(&self.name));
        }
    }
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
            name: our_name(),
            made: AtomicU64::new(0),
            retired: Mutex::new(Vec::new()),
        }
    }

    fn retired(&self) -> MutexGuard<'_, Vec<PathBuf>> {
        self.retired
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Removes what can be removed by now.
    pub(crate) fn remove_retired(&self) {
        self.retired().retain(|folder| {
            let removed = fs::remove_dir(folder);
            removed.is_err_and(|error| error.kind() == io::ErrorKind::ResourceBusy)
        });
    }

    /// Makes a cgroup with these limits.
    pub(crate) fn create(this: &Arc<Cgroups>, limits: &Limits) -> Result<Cgroup, CgroupError> {
        let parents = this.parents.get_or_init(|| find_parents(&this.name));
        let name = this.made.fetch_add(1, Ordering::Relaxed).to_string();
        let mut cgroup = Cgroup {
            of: this.clone(),
            folders: Vec::new(),
            join_files: Vec::new(),
        };
        for setting in settings(limits) {
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
            let folder = hierarchy.folder.join(&this.name).join(&name);
            if !cgroup.folders.contains(&folder) {
                fs::create_dir_all(&folder).map_err(refused(&folder))?;
                cgroup.folders.push(folder.clone());
                let join = folder.join("cgroup.procs");
                let file = fs::OpenOptions::new()
                    .write(true)
                    .custom_flags(libc::O_CLOEXEC)
                    .open(&join)
                    .map_err(refused(&join))?;
                cgroup.join_files.push(file.into());
            }
            for (file, value) in if hierarchy.version == Version::One {
                one
            } else {
                two
            } {
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
        }
        Ok(cgroup)
    }
}

/// A name for this process that no later one will have.
fn our_name() -> String {
    let id = std::process::id();
    format!("{id}-{}", start_time(id).unwrap_or(0))
}

/// When a process was started, in clock ticks since boot; `None` if there is no
/// such process (proc(5), `/proc/pid/stat`, field 22).
fn start_time(process: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name, field 2, is in brackets and may hold anything.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(19)?.parse().ok()
}

fn find_parents(name: &str) -> Vec<Hierarchy> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let mut parents = Vec::new();
    for (folder, controllers, version) in candidates(&mounts, &own) {
        let folder = folder.join("consecution");
        if fs::create_dir_all(folder.join(name)).is_err() {
            continue;
        }
        let controllers = match version {
            Version::One => controllers,
            Version::Two => hand_down_controllers(&folder, name),
        };
        sweep(&folder);
        parents.push(Hierarchy {
            folder,
            controllers,
            version,
        });
    }
    parents
}

/// Where cgroups could be made: each controller's hierarchy of version 1, and
/// that of version 2, at our own cgroup there, and else at its root.
fn candidates(mounts: &str, own: &str) -> Vec<(PathBuf, Vec<String>, Version)> {
    let own_path = |controller: &str| {
        own.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':');
            let controllers = fields.nth(1)?;
            let path = fields.next()?;
            controllers
                .split(',')
                .any(|has| has == controller)
                .then(|| path.trim_start_matches('/').to_owned())
        })
    };
    let mut found = Vec::new();
    for line in mounts.lines() {
        // mountinfo(5): … mount point … - type source super-options
        let Some((before, after)) = line.split_once(" - ") else {
            continue;
        };
        let Some(mount_point) = before.split(' ').nth(4).map(PathBuf::from) else {
            continue;
        };
        let mut after = after.split(' ');
        let (kind, options) = (after.next(), after.nth(1).unwrap_or_default());
        match kind {
            Some("cgroup") => {
                let wanted = ["memory", "cpu", "pids"];
                let here: Vec<String> = options
                    .split(',')
                    .filter(|option| wanted.contains(option))
                    .map(str::to_owned)
                    .collect();
                let Some(first) = here.first() else { continue };
                let path = own_path(first).unwrap_or_default();
                let folder = mount_point.join(path);
                let folder = if folder.is_dir() { folder } else { mount_point };
                found.push((folder, here, Version::One));
            }
            Some("cgroup2") => {
                let path = own_path("").unwrap_or_default();
                // Controllers cannot be handed down from a cgroup with processes
                // in it, such as our own, unless it is the root.
                let folder = if rustix::process::geteuid().is_root() {
                    mount_point
                } else {
                    mount_point.join(path)
                };
                found.push((folder, Vec::new(), Version::Two));
            }
            _ => {}
        }
    }
    found
}

/// Hands as many controllers as possible down to the cgroups in `folder`.
fn hand_down_controllers(folder: &Path, name: &str) -> Vec<String> {
    let ours = folder.join(name);
    for controller in ["memory", "cpu", "pids"] {
        for level in [folder.parent(), Some(folder), Some(ours.as_path())]
            .into_iter()
            .flatten()
        {
            let _ = fs::write(
                level.join("cgroup.subtree_control"),
                format!("+{controller}"),
            );
        }
    }
    fs::read_to_string(ours.join("cgroup.subtree_control"))
        .unwrap_or_default()
        .split_whitespace()
        .map(str::to_owned)
        .collect()
}

/// Removes what runners that are no more have left in `folder`.
fn sweep(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some((process, started)) = name.to_str().and_then(|name| name.split_once('-')) else {
            continue;
        };
        let (Ok(process), Ok(started)) = (process.parse(), started.parse::<u64>()) else {
            continue;
        };
        if start_time(process) == Some(started) {
            continue;
        }
        for inner in fs::read_dir(entry.path()).into_iter().flatten().flatten() {
            if inner.path().is_dir() {
                let _ = fs::remove_dir(inner.path());
            }
        }
        let _ = fs::remove_dir(entry.path());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_each_hierarchy_of_a_hybrid_host() {
        let mounts = "\
            32 31 0:29 / /nonesuch/cpu rw - cgroup cgroup rw,cpu,cpuacct\n\
            35 31 0:32 / /nonesuch/memory rw - cgroup cgroup rw,memory\n\
            40 31 0:37 / /nonesuch/systemd rw - cgroup cgroup rw,name=systemd\n\
            41 31 0:38 / /nonesuch/unified rw - cgroup2 cgroup2 rw\n\
            27 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n";
        let found = candidates(mounts, "4:memory:/a\n3:cpu,cpuacct:/b\n0::/c\n");
        let controllers: Vec<_> = found
            .iter()
            .map(|(_, controllers, _)| controllers.join(","))
            .collect();
        assert_eq!(controllers, ["cpu", "memory", ""]);
        assert_eq!(found[2].2, Version::Two);
    }

    #[test]
    fn our_own_start_time_is_known_and_others_are_not_ours() {
        assert!(start_time(std::process::id()).is_some());
        assert_eq!(start_time(u32::MAX), None);
    }
}
