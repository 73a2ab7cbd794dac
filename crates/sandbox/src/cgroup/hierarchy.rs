//! Where cgroups can be made here: each controller's hierarchy of version 1, and
//! that of version 2, as the host has them and as far as they are ours.

use std::fs;
use std::path::{Path, PathBuf};

use super::Version;

/// The controllers that keep our limits.
pub(crate) const CONTROLLERS: [&str; 3] = ["memory", "cpu", "pids"];

/// How the cgroup's name begins that a runner goes to where it is in the way.
const RUNNER_PREFIX: &str = "consecution-runner-";

/// A folder in which we may make cgroups for some controllers.
#[derive(Debug)]
pub(crate) struct Hierarchy {
    pub(crate) folder: PathBuf,
    pub(crate) controllers: Vec<String>,
    pub(crate) version: Version,
}

/// A name for this process that no later one will have.
pub(super) fn our_name() -> String {
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

/// Makes a folder for `name` wherever cgroups can be made, and says where that is.
pub(super) fn find_parents(name: &str) -> Vec<Hierarchy> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let mut parents = Vec::new();
    for candidate in candidates(&mounts, &own) {
        match candidate {
            Candidate::One(folder, controllers) => {
                let folder = folder.join("consecution");
                if fs::create_dir_all(folder.join(name)).is_ok() {
                    sweep(&folder);
                    parents.push(Hierarchy {
                        folder,
                        controllers,
                        version: Version::One,
                    });
                }
            }
            Candidate::Two(folders) => {
                let found = folders.iter().find_map(|folder| take_over(folder, name));
                parents.extend(found);
            }
        }
    }
    parents
}

#[derive(Debug, PartialEq, Eq)]
enum Candidate {
    /// A hierarchy of version 1: our cgroup there, or else its root.
    One(PathBuf, Vec<String>),
    /// That of version 2: places to be tried in this order.
    Two(Vec<PathBuf>),
}

/// Where cgroups could be made, by `/proc/self/mountinfo` and `/proc/self/cgroup`.
fn candidates(mounts: &str, own: &str) -> Vec<Candidate> {
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
                let here: Vec<String> = options
                    .split(',')
                    .filter(|option| CONTROLLERS.contains(option))
                    .map(str::to_owned)
                    .collect();
                let Some(first) = here.first() else { continue };
                let path = own_path(first).unwrap_or_default();
                let folder = mount_point.join(path);
                let folder = if folder.is_dir() { folder } else { mount_point };
                found.push(Candidate::One(folder, here));
            }
            Some("cgroup2") => {
                let own = mount_point.join(own_path("").unwrap_or_default());
                found.push(Candidate::Two(places(mount_point, own)));
            }
            _ => {}
        }
    }
    found
}

/// Where in the hierarchy of version 2: at its root, which only root may; in our
/// own cgroup, where that was delegated to us; or around it, where what was
/// delegated is that (systemd: `DelegateSubgroup=`).
fn places(mount_point: PathBuf, mut own: PathBuf) -> Vec<PathBuf> {
    // Where we have made way already.
    let name = own.file_name().and_then(|name| name.to_str());
    if name.is_some_and(|name| name.starts_with(RUNNER_PREFIX)) {
        own.pop();
    }
    let around = own
        .parent()
        .filter(|around| around.starts_with(&mount_point) && *around != mount_point)
        .map(Path::to_owned);
    let mut places = vec![mount_point, own];
    places.extend(around);
    places.dedup();
    places
}

/// Makes a folder for `name` there, if controllers can be handed down to it.
fn take_over(place: &Path, name: &str) -> Option<Hierarchy> {
    let folder = place.join("consecution");
    if fs::create_dir_all(folder.join(name)).is_err() {
        return None;
    }
    make_way(place, name);
    let controllers = hand_down_controllers(&folder, name);
    if controllers.is_empty() {
        let _ = fs::remove_dir(folder.join(name));
        let _ = fs::remove_dir(&folder);
        return None;
    }
    sweep(&folder);
    Some(Hierarchy {
        folder,
        controllers,
        version: Version::Two,
    })
}

/// Controllers cannot be handed down from a cgroup with processes in it, unless
/// it is the root of all. So where we are the only one there, we move into a
/// cgroup of our own below it.
fn make_way(place: &Path, name: &str) {
    let there = fs::read_to_string(place.join("cgroup.procs")).unwrap_or_default();
    let is_root = !place.join("cgroup.type").exists();
    if is_root || there.trim() != std::process::id().to_string() {
        return;
    }
    let leaf = place.join(format!("{RUNNER_PREFIX}{name}"));
    if fs::create_dir_all(&leaf).is_ok() {
        let _ = fs::write(leaf.join("cgroup.procs"), "0");
    }
}

/// Hands as many controllers as possible down to the cgroups in `folder`.
fn hand_down_controllers(folder: &Path, name: &str) -> Vec<String> {
    let ours = folder.join(name);
    for controller in CONTROLLERS {
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
        .filter(|has| CONTROLLERS.contains(has))
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
        let one = |folder: &str, controller: &str| {
            Candidate::One(folder.into(), vec![controller.to_owned()])
        };
        assert_eq!(
            found[..2],
            [
                one("/nonesuch/cpu", "cpu"),
                one("/nonesuch/memory", "memory")
            ]
        );
        let places = ["/nonesuch/unified", "/nonesuch/unified/c"].map(PathBuf::from);
        assert_eq!(found[2], Candidate::Two(places.to_vec()));
    }

    #[test]
    fn what_was_delegated_may_be_ours_or_around_us() {
        let mounts = "30 1 0:26 / /nonesuch rw - cgroup2 cgroup2 rw\n";
        let places = ["/nonesuch", "/nonesuch/user/unit", "/nonesuch/user"].map(PathBuf::from);
        let found = candidates(mounts, "0::/user/unit\n");
        assert_eq!(found, [Candidate::Two(places.to_vec())]);
        let found = candidates(mounts, "0::/user/unit/consecution-runner-1-2\n");
        assert_eq!(found, [Candidate::Two(places.to_vec())]);
        let found = candidates(mounts, "0::/\n");
        assert_eq!(found, [Candidate::Two(vec!["/nonesuch".into()])]);
    }

    #[test]
    fn our_own_start_time_is_known_and_others_are_not_ours() {
        assert!(start_time(std::process::id()).is_some());
        assert_eq!(start_time(u32::MAX), None);
    }
}
