//! Where cgroups can be made here: each controller's hierarchy of version 1, and
//! that of version 2, as the host has them and as far as they are ours.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

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
    /// Of the runner's own folder there.
    _claim: Claim,
}

#[cfg(test)]
impl Hierarchy {
    /// A folder in the place of a hierarchy for memory.
    pub(super) fn at(folder: &Path, version: Version) -> Hierarchy {
        Hierarchy {
            folder: folder.to_owned(),
            controllers: vec!["memory".to_owned()],
            version,
            _claim: File::open(folder).unwrap(),
        }
    }
}

/// A runner's folder, locked until this is dropped. The kernel sees to that
/// however we end, so what is not locked has no runner: process ids would not say
/// so, since those of another PID namespace mean others.
type Claim = File;

/// A name for a runner's folder that no other has. The process id is for whoever
/// looks at it.
pub(super) fn new_name() -> String {
    let random = RandomState::new().hash_one(());
    format!("{}-{random:016x}", std::process::id())
}

/// Is that such a name?
fn is_name(name: &OsStr) -> bool {
    let parts = name.to_str().and_then(|name| name.split_once('-'));
    parts.is_some_and(|(id, _)| id.parse::<u32>().is_ok())
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
                if let Ok(claim) = claim(&folder.join(name)) {
                    sweep(&folder);
                    parents.push(Hierarchy {
                        folder,
                        controllers,
                        version: Version::One,
                        _claim: claim,
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
    let claim = claim(&folder.join(name)).ok()?;
    let way = make_way(place, name);
    let controllers = hand_down_controllers(&folder, name);
    if controllers.is_empty() {
        if let Some(way) = way {
            let _ = fs::write(place.join("cgroup.procs"), "0");
            let _ = fs::remove_dir(way);
        }
        let _ = fs::remove_dir(folder.join(name));
        let _ = fs::remove_dir(&folder);
        return None;
    }
    sweep(&folder);
    sweep_ways(place, &folder);
    Some(Hierarchy {
        folder,
        controllers,
        version: Version::Two,
        _claim: claim,
    })
}

/// Makes a runner's folder, and locks it.
fn claim(folder: &Path) -> io::Result<Claim> {
    loop {
        fs::create_dir_all(folder)?;
        let claim = match File::open(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            opened => opened?,
        };
        rustix::io::retry_on_intr(|| flock(&claim, FlockOperation::LockExclusive))?;
        // Whoever swept may have come between making and locking it.
        let ours = claim.metadata()?.ino();
        if fs::metadata(folder).is_ok_and(|there| there.ino() == ours) {
            return Ok(claim);
        }
    }
}

/// Controllers cannot be handed down from a cgroup with processes in it, unless
/// it is the root of all. So where we are the only one there, we move into a
/// cgroup of our own below it, which this gives. We cannot remove it, being in
/// it: the next runner does.
fn make_way(place: &Path, name: &str) -> Option<PathBuf> {
    let there = fs::read_to_string(place.join("cgroup.procs")).unwrap_or_default();
    let is_root = !place.join("cgroup.type").exists();
    if is_root || there.trim() != std::process::id().to_string() {
        return None;
    }
    let way = place.join(format!("{RUNNER_PREFIX}{name}"));
    fs::create_dir_all(&way).ok()?;
    let _ = fs::write(way.join("cgroup.procs"), "0");
    Some(way)
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
    for left in folders(folder).filter(|left| left.file_name().is_some_and(is_name)) {
        let Ok(claim) = File::open(&left) else {
            continue;
        };
        if flock(&claim, FlockOperation::NonBlockingLockExclusive).is_err() {
            continue;
        }
        for inner in folders(&left) {
            let _ = fs::remove_dir(inner);
        }
        let _ = fs::remove_dir(left);
    }
}

/// Removes the cgroups at `place` to which runners had gone that have no folder
/// any more: one that lives has had it before.
fn sweep_ways(place: &Path, folder: &Path) {
    for way in folders(place) {
        let name = way.file_name().and_then(OsStr::to_str);
        let of = name.and_then(|name| name.strip_prefix(RUNNER_PREFIX));
        if of.is_some_and(|of| !folder.join(of).exists()) {
            let _ = fs::remove_dir(way);
        }
    }
}

fn folders(folder: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    folders.map(|entry| entry.path())
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
    fn a_runners_folder_stays_until_it_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let [ours, other] = ["1-a", "1-b"].map(|name| folder.join(name));
        let claims = [&ours, &other].map(|folder| claim(folder).unwrap());
        for kept in [&ours.join("0"), &other.join("0"), &folder.join("theirs")] {
            fs::create_dir(kept).unwrap();
        }
        fs::create_dir_all(folder.join("2-c/7")).unwrap();
        sweep(folder);
        assert!(ours.join("0").exists() && other.join("0").exists());
        assert!(!folder.join("2-c").exists());
        let [_ours, gone] = claims;
        drop(gone);
        sweep(folder);
        assert!(ours.join("0").exists() && !other.exists());
        assert!(folder.join("theirs").exists());
    }

    #[test]
    fn a_folder_that_is_swept_while_it_is_claimed_is_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("1-a");
        fs::create_dir(&folder).unwrap();
        let sweeping = File::open(&folder).unwrap();
        flock(&sweeping, FlockOperation::LockExclusive).unwrap();
        let inode = format!(":{} ", sweeping.metadata().unwrap().ino());
        std::thread::scope(|scope| {
            let claiming = scope.spawn(|| claim(&folder).unwrap());
            // An arrow marks who waits for a lock (proc(5)).
            let is_waiting = |line: &str| line.contains("-> FLOCK") && line.contains(&inode);
            while !fs::read_to_string("/proc/locks")
                .unwrap()
                .lines()
                .any(is_waiting)
            {
                assert!(!claiming.is_finished());
                std::thread::yield_now();
            }
            fs::remove_dir(&folder).unwrap();
            drop(sweeping);
            let _claim = claiming.join().unwrap();
            assert!(folder.exists());
        });
    }

    #[test]
    fn where_a_runner_had_gone_to_goes_when_it_is_gone() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("consecution");
        let way = |name: &str| {
            let way = place.path().join(format!("{RUNNER_PREFIX}{name}"));
            fs::create_dir(&way).unwrap();
            way
        };
        let _claim = claim(&folder.join("1-a")).unwrap();
        let (ours, left) = (way("1-a"), way("1-b"));
        sweep_ways(place.path(), &folder);
        assert!(ours.exists() && !left.exists());
    }
}
