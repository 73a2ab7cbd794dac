//! Where cgroups could be made: in which hierarchies, and in which of their cgroups.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use super::hierarchy::{CONTROLLERS, CPU_TIME, RUNNER_PREFIX};

/// A hierarchy in which cgroups could be made.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Candidate {
    /// One of version 1, with its controllers.
    One(Mounted, Vec<String>),
    /// That of version 2.
    Two(Mounted),
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mounted {
    pub(super) mount_point: PathBuf,
    /// Our own cgroup there, if that can be seen.
    pub(super) own: Option<PathBuf>,
}

impl Mounted {
    /// Whether our own limits hold for cgroups made at `place` as well.
    pub(super) fn limits_us_at(&self, place: &Path) -> bool {
        // If our own cgroup is not in this mount, nothing tells, and nobody is warned.
        (self.own.as_deref()).is_none_or(|own| place.starts_with(own))
    }
}

/// Where cgroups could be made, by `/proc/self/mountinfo` and `/proc/self/cgroup`.
pub(super) fn candidates(mounts: &str, own: &str) -> Vec<Candidate> {
    let own_path = |controller: &str| {
        own.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':');
            let controllers = fields.nth(1)?;
            let path = fields.next()?;
            controllers
                .split(',')
                .any(|has| has == controller)
                .then(|| Path::new(path))
        })
    };
    let mut found = Vec::new();
    for line in mounts.lines() {
        // mountinfo(5): … root, mount point … - type source super-options
        let Some((before, after)) = line.split_once(" - ") else {
            continue;
        };
        let mut before = before.split(' ').skip(3).map(Path::new);
        let (Some(root), Some(mount_point)) = (before.next(), before.next()) else {
            continue;
        };
        // In a container, what is mounted may be a part of the hierarchy.
        let mounted = |controller: &str| Mounted {
            mount_point: mount_point.to_owned(),
            own: own_path(controller)
                .and_then(|path| path.strip_prefix(root).ok())
                .map(|path| mount_point.join(path).components().collect()),
        };
        let mut after = after.split(' ');
        let (kind, options) = (after.next(), after.nth(1).unwrap_or_default());
        match kind {
            Some("cgroup") => {
                let here: Vec<String> = options
                    .split(',')
                    .filter(|option| CONTROLLERS.contains(option) || *option == CPU_TIME)
                    .map(str::to_owned)
                    .collect();
                let Some(first) = here.first() else { continue };
                found.push(Candidate::One(mounted(first), here));
            }
            Some("cgroup2") => {
                let mut mounted = mounted("");
                // Where we have made way already.
                if let Some(own) = &mut mounted.own
                    && own.file_name().is_some_and(is_way)
                {
                    own.pop();
                }
                found.push(Candidate::Two(mounted));
            }
            _ => {}
        }
    }
    found
}

/// Where in a hierarchy, the best first: in our own cgroup, so that what limits us
/// limits links as well; at its root, which only root may; or around our own, where
/// what was delegated to us is that (systemd: `DelegateSubgroup=`).
pub(super) fn places(mounted: &Mounted) -> Vec<PathBuf> {
    let Mounted { mount_point, own } = mounted;
    let around = own.as_deref().and_then(Path::parent);
    let around = around.filter(|around| around.starts_with(mount_point));
    let places = [own.as_deref(), Some(mount_point), around];
    let mut different = Vec::new();
    for place in places.into_iter().flatten().map(Path::to_owned) {
        if !different.contains(&place) {
            different.push(place);
        }
    }
    different
}

/// How many of our controllers a cgroup of version 2 offers us. None if it is a systemd
/// unit that was not delegated: once there are cgroups in it, systemd could not start
/// anything there any more (`ExecReload=`).
pub(super) fn offered(place: &Path, mount_point: &Path) -> usize {
    let says = |attributes: [&str; 2]| {
        let mut value = [0; 64];
        let mut lengths = attributes
            .iter()
            .filter_map(|attribute| rustix::fs::getxattr(place, *attribute, &mut value[..]).ok());
        lengths.any(|length| length > 0)
    };
    let is_unit = place != mount_point && says(["user.invocation_id", "trusted.invocation_id"]);
    if is_unit && !says(["user.delegate", "trusted.delegate"]) {
        return 0;
    }
    let offered = fs::read_to_string(place.join("cgroup.controllers")).unwrap_or_default();
    let offered = offered.split_whitespace();
    offered.filter(|has| CONTROLLERS.contains(has)).count()
}

/// Whether this is a cgroup into which a runner has moved to make way.
fn is_way(name: &OsStr) -> bool {
    name.to_str()
        .is_some_and(|name| name.starts_with(RUNNER_PREFIX))
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
        let found = candidates(mounts, "4:memory:/a\n3:cpu,cpuacct:/\n0::/c\n");
        let one = |mount: &str, own: &str, controllers: &[&str]| {
            let controllers = controllers.iter().map(ToString::to_string).collect();
            Candidate::One(mounted(mount, Some(own)), controllers)
        };
        let expected = [
            one("/nonesuch/cpu", "/nonesuch/cpu", &["cpu", "cpuacct"]),
            one("/nonesuch/memory", "/nonesuch/memory/a", &["memory"]),
            Candidate::Two(mounted("/nonesuch/unified", Some("/nonesuch/unified/c"))),
        ];
        assert_eq!(found, expected);
    }

    fn mounted(mount_point: &str, own: Option<&str>) -> Mounted {
        Mounted {
            mount_point: mount_point.into(),
            own: own.map(PathBuf::from),
        }
    }

    #[test]
    fn what_is_mounted_may_be_a_part_of_the_hierarchy() {
        let own = |root: &str, path: &str| {
            let mounts = format!("30 1 0:26 {root} /nonesuch rw - cgroup2 cgroup2 rw\n");
            let mut found = candidates(&mounts, &format!("0::{path}\n"));
            match found.pop() {
                Some(Candidate::Two(mounted)) => mounted.own,
                found => panic!("{found:?}"),
            }
        };
        let there = |path: &str| Some(PathBuf::from(path));
        assert_eq!(own("/docker/1", "/docker/1"), there("/nonesuch"));
        assert_eq!(own("/docker/1", "/docker/1/a"), there("/nonesuch/a"));
        assert_eq!(own("/docker/1", "/docker/12"), None);
        // With a cgroup namespace, and the host's hierarchy.
        assert_eq!(own("/../..", "/"), None);
        assert_eq!(own("/", "/"), there("/nonesuch"));
    }

    #[test]
    fn the_best_place_is_our_own_cgroup() {
        let mounts = "30 1 0:26 / /nonesuch rw - cgroup2 cgroup2 rw\n";
        let of = |own: &str| match candidates(mounts, own).as_slice() {
            [Candidate::Two(mounted)] => places(mounted),
            found => panic!("{found:?}"),
        };
        let all = ["/nonesuch/user/unit", "/nonesuch", "/nonesuch/user"].map(PathBuf::from);
        assert_eq!(of("0::/user/unit\n"), all);
        // Where we have made way already.
        assert_eq!(of("0::/user/unit/consecution-runner-1-2\n"), all);
        assert_eq!(
            of("0::/unit\n"),
            ["/nonesuch/unit", "/nonesuch"].map(PathBuf::from)
        );
        assert_eq!(of("0::/\n"), [PathBuf::from("/nonesuch")]);
    }

    #[test]
    fn a_cgroup_offers_its_controllers_but_not_if_it_is_systemds() {
        let root = tempfile::tempdir().unwrap();
        let unit = root.path().join("unit");
        fs::create_dir(&unit).unwrap();
        fs::write(unit.join("cgroup.controllers"), "cpuset memory pids\n").unwrap();
        assert_eq!(offered(&unit, root.path()), 2);
        assert_eq!(offered(root.path(), root.path()), 0);
        let set = |name: &str| {
            let flags = rustix::fs::XattrFlags::empty();
            rustix::fs::setxattr(&unit, name, b"1", flags)
        };
        if set("user.invocation_id").is_err() {
            // A file system without attributes.
            return;
        }
        assert_eq!(offered(&unit, root.path()), 0);
        // Where it is all that we see.
        assert_eq!(offered(&unit, &unit), 2);
        set("user.delegate").unwrap();
        assert_eq!(offered(&unit, root.path()), 2);
    }
}
