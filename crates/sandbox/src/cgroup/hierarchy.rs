//! Where cgroups can be made here: each controller's hierarchy of version 1, and
//! that of version 2, as the host has them and as far as they are ours.

use std::cmp::Reverse;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::{FlockOperation, flock};

use super::Version;
use super::candidates::{Candidate, Mounted, candidates, offered, places};

/// The controllers that keep our limits.
pub(crate) const CONTROLLERS: [&str; 3] = ["memory", "cpu", "pids"];

/// What counts processor time: in version 1 a controller of its own, in version 2 every
/// cgroup, so that it is said of each hierarchy of that version.
pub(super) const CPU_TIME: &str = "cpuacct";

/// How the name of the cgroup begins into which a runner moves to make way: see
/// [`make_way`].
pub(super) const RUNNER_PREFIX: &str = "consecution-runner-";

/// A folder in which we may make cgroups for some controllers.
#[derive(Debug)]
pub(crate) struct Hierarchy {
    pub(crate) folder: PathBuf,
    pub(crate) controllers: Vec<String>,
    pub(crate) version: Version,
    /// Whether it is in our own cgroup, so that our own limits hold for what is in it.
    pub(crate) is_in_own: bool,
    /// The lock of the runner's own folder there.
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
            is_in_own: true,
            _claim: File::open(folder).unwrap(),
        }
    }
}

/// A runner's folder, locked until this is dropped. The kernel unlocks it however we end,
/// so a folder that is not locked has no runner. (Process ids would not tell, since in
/// another PID namespace they mean other processes.)
type Claim = File;

/// A unique name for a runner's folder. The process id in it is for people who look at
/// it.
pub(super) fn new_name() -> String {
    let random = RandomState::new().hash_one(());
    format!("{}-{random:016x}", std::process::id())
}

/// Whether a folder has such a name.
fn is_name(name: &OsStr) -> bool {
    let parts = name.to_str().and_then(|name| name.split_once('-'));
    parts.is_some_and(|(id, _)| id.parse::<u32>().is_ok())
}

/// The hierarchies of this host. The runner gets a folder in one only when a cgroup is
/// wanted there, since making each folder takes the kernel a while.
#[derive(Debug)]
pub(super) struct Hierarchies {
    name: String,
    all: Vec<(Candidate, OnceLock<Option<Hierarchy>>)>,
}

impl Hierarchies {
    /// Looks for them, for a runner whose folders have that name.
    pub(super) fn find(name: &str) -> Hierarchies {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let mut candidates = candidates(&mounts, &own);
        // Version 2 last: which controllers it has shows only when a folder is made
        // there.
        candidates.sort_by_key(|candidate| matches!(candidate, Candidate::Two(_)));
        let all = candidates.into_iter();
        Hierarchies {
            name: name.to_owned(),
            all: all.map(|candidate| (candidate, OnceLock::new())).collect(),
        }
    }

    /// Where cgroups can be made for that controller, if they can.
    pub(super) fn of(&self, controller: &str) -> Option<&Hierarchy> {
        let with = |controllers: &[String]| controllers.iter().any(|has| has == controller);
        let all = self.all.iter().filter(|(candidate, _)| match candidate {
            Candidate::One(_, controllers) => with(controllers),
            Candidate::Two(_) => true,
        });
        let mut taken = all.filter_map(|(candidate, taken)| {
            taken
                .get_or_init(|| take_any(candidate, &self.name))
                .as_ref()
        });
        taken.find(|hierarchy| with(&hierarchy.controllers))
    }

    /// The hierarchies in which the runner has a folder.
    pub(super) fn taken(&self) -> impl Iterator<Item = &Hierarchy> {
        self.all
            .iter()
            .filter_map(|(_, taken)| taken.get()?.as_ref())
    }

    /// Hierarchies that have been found, with this one alone.
    #[cfg(test)]
    pub(super) fn one(hierarchy: Hierarchy) -> Hierarchies {
        let mounted = Mounted {
            mount_point: hierarchy.folder.clone(),
            own: None,
        };
        let candidate = Candidate::One(mounted, hierarchy.controllers.clone());
        Hierarchies {
            name: String::new(),
            all: vec![(candidate, OnceLock::from(Some(hierarchy)))],
        }
    }
}

/// Makes a folder for `name` in the best place of a hierarchy where that can be done.
fn take_any(candidate: &Candidate, name: &str) -> Option<Hierarchy> {
    match candidate {
        Candidate::One(place, controllers) => {
            let mut places = places(place).into_iter();
            places.find_map(|folder| take(&folder, name, place, controllers))
        }
        Candidate::Two(place) => {
            let mut places = places(place);
            // Less than all is better than nothing.
            places.sort_by_cached_key(|folder| Reverse(offered(folder, &place.mount_point)));
            let mut places = places.iter();
            places.find_map(|folder| take_over(folder, name, place))
        }
    }
}

/// Makes a folder for `name` there, in a hierarchy of version 1.
fn take(place: &Path, name: &str, mounted: &Mounted, controllers: &[String]) -> Option<Hierarchy> {
    let folder = place.join("consecution");
    // If the cgroup is not in this mount, there is no folder, and we must not make one.
    let claim = place.is_dir().then(|| claim(&folder.join(name)).ok())??;
    sweep(&folder);
    Some(Hierarchy {
        is_in_own: mounted.limits_us_at(place),
        folder,
        controllers: controllers.to_vec(),
        version: Version::One,
        _claim: claim,
    })
}

/// Makes a folder for `name` there, if controllers can be handed down to it.
fn take_over(place: &Path, name: &str, mounted: &Mounted) -> Option<Hierarchy> {
    let folder = place.join("consecution");
    let claim = place.is_dir().then(|| claim(&folder.join(name)).ok())??;
    let way = make_way(place, name);
    let mut controllers = hand_down_controllers(&folder, name);
    if controllers.is_empty() {
        if let Some(way) = way {
            let _ = fs::write(place.join("cgroup.procs"), "0");
            let _ = fs::remove_dir(way);
        }
        let _ = fs::remove_dir(folder.join(name));
        let _ = fs::remove_dir(&folder);
        return None;
    }
    controllers.push(CPU_TIME.to_owned());
    sweep(&folder);
    sweep_ways(place, &folder);
    Some(Hierarchy {
        is_in_own: mounted.limits_us_at(place),
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
        // Another runner's sweep may have removed it before we locked it.
        let ours = claim.metadata()?.ino();
        if fs::metadata(folder).is_ok_and(|there| there.ino() == ours) {
            return Ok(claim);
        }
    }
}

/// Controllers cannot be handed down from a cgroup with processes in it, unless it is the
/// root of all. So if only we are there, and programs that we have started, we all move
/// into a new cgroup below it. Returns that one. We cannot remove it while we are in it:
/// the next runner does.
fn make_way(place: &Path, name: &str) -> Option<PathBuf> {
    let own_id = std::process::id().to_string();
    let there = || fs::read_to_string(place.join("cgroup.procs")).unwrap_or_default();
    let is_ours = |id: &str| id == own_id || parent(id).is_some_and(|parent| parent == own_id);
    let is_root = !place.join("cgroup.type").exists();
    let ids = there();
    if is_root || !ids.lines().any(|id| id == own_id) || !ids.lines().all(is_ours) {
        return None;
    }
    let way = place.join(format!("{RUNNER_PREFIX}{name}"));
    fs::create_dir_all(&way).ok()?;
    let _ = fs::write(way.join("cgroup.procs"), "0");
    // What we start from here on starts there.
    for id in there().lines().filter(|id| is_ours(id)) {
        let _ = fs::write(way.join("cgroup.procs"), id);
    }
    Some(way)
}

/// The id of a process's parent.
fn parent(id: &str) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(") ")?;
    after_name.split(' ').nth(1).map(str::to_owned)
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

/// Removes what runners that have ended left in `folder`.
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

/// Removes the cgroups at `place` into which runners had moved that have no folder any
/// more: a live runner has its folder before it moves.
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
    fn what_cannot_be_used_is_left_as_it_was() {
        let root = tempfile::tempdir().unwrap();
        let mounted = Mounted {
            mount_point: root.path().to_owned(),
            own: Some(root.path().join("unit")),
        };
        let own = root.path().join("unit");
        fs::create_dir(&own).unwrap();
        // Here no controllers can be handed down: there is nothing that would do it.
        assert!(take_over(&own, "1-a", &mounted).is_none());
        assert!(!own.join("consecution").join("1-a").join("0").exists());
        assert!(take_over(&root.path().join("none"), "1-a", &mounted).is_none());
        assert!(!root.path().join("none").exists());
        let taken = |place: &Path| take(place, "1-a", &mounted, &["cpu".to_owned()]).unwrap();
        assert!(taken(&own).is_in_own);
        assert!(!taken(root.path()).is_in_own);
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
    fn we_make_way_where_nobody_is_but_what_is_ours() {
        let place = tempfile::tempdir().unwrap();
        let place = place.path();
        let procs = place.join("cgroup.procs");
        fs::write(place.join("cgroup.type"), "domain\n").unwrap();
        let own_id = std::process::id();
        let mut child = std::process::Command::new("sleep")
            .arg("1000")
            .spawn()
            .unwrap();
        let child_id = child.id();
        for others in [String::new(), "1\n".to_owned(), format!("{own_id}\n1\n")] {
            fs::write(&procs, others).unwrap();
            assert_eq!(make_way(place, "1-a"), None);
        }
        fs::write(&procs, format!("{own_id}\n{child_id}\n")).unwrap();
        let way = make_way(place, "1-a").unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        // The last one that was moved; a file is no cgroup, which would gather them.
        let moved = fs::read_to_string(way.join("cgroup.procs")).unwrap();
        assert_eq!(moved, child_id.to_string());
        fs::remove_file(place.join("cgroup.type")).unwrap();
        assert_eq!(make_way(place, "1-a"), None, "the root of all");
    }

    #[test]
    fn the_cgroup_a_runner_had_moved_into_is_removed_after_its_end() {
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
