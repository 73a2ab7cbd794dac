//! The folders that each process has for itself, in memory.
//!
//! They are folders of one file system, each mounted where it belongs: so one file
//! system is made for a process and not four, and one number tells what has been made
//! in any of them (`traces.rs`). Its own root lies in the scaffold, where no path leads.
//! Where a process may write to its root, what it writes is in there as well.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::additions::Point;
use super::inside::{self, Kind, below};
use super::scaffold::IMAGE;
use super::{Operation, SCRATCH_FLAGS, bind, folder_of, mount, scratch, text};
use crate::failure::{Failure, Step};
use crate::spec::{Network, Spec, Writable};

/// The private folders: path, name in the shared file system, and mode.
const FOLDERS: [(&str, &str, u32); 3] = [
    ("/tmp", "tmp", 0o1777),
    ("/var/tmp", "var-tmp", 0o1777),
    ("/run", "run", 0o755),
];

/// Is in `/dev`, which is ours. Nothing can be executed there, as in all of `/dev`.
const SHARED_MEMORY: (&str, &str, u32) = ("shm", "shm", 0o1777);

/// What `/run` and `/dev/shm` hold at least, each: as much as Docker's `/dev/shm`.
const SMALL_BYTES: u64 = 64 * 1024 * 1024;

/// How much they hold, all together: each at least what the spec says, the small ones
/// no more than [`SMALL_BYTES`]. A root that can be written holds as much again.
pub(super) fn bytes(spec: &Spec) -> u64 {
    let small = spec.scratch_bytes.min(SMALL_BYTES);
    let private = spec.scratch_bytes.saturating_add(small).saturating_mul(2);
    match spec.writable {
        Writable::No => private,
        Writable::Private => private.saturating_add(spec.scratch_bytes),
    }
}

#[derive(Debug, PartialEq)]
pub(super) struct Folder {
    pub(super) path: PathBuf,
    pub(super) name: &'static str,
    mode: u32,
}

/// The folders that no process sees as the image has them; links resolved.
#[derive(Debug)]
pub(crate) struct OwnFolders {
    /// Each behind the one that it lies in, and that of shared memory last.
    private: Vec<Folder>,
    /// Where each of the private ones is, by the name that links have for it.
    named: Vec<(&'static str, PathBuf)>,
    pub(super) dev: PathBuf,
    pub(super) proc: PathBuf,
}

impl OwnFolders {
    /// Finds them in the image at [`IMAGE`].
    pub(super) fn find() -> Result<OwnFolders, Failure> {
        let dev = folder(Path::new("/dev"), None, Step::MountDevices)?;
        let proc = folder(Path::new("/proc"), None, Step::MountProc)?;
        let (name, in_scratch, mode) = SHARED_MEMORY;
        let shared_memory = Folder {
            path: dev.join(name),
            name: in_scratch,
            mode,
        };
        let mut private: Vec<Folder> = Vec::new();
        let mut named = vec![("/dev/shm", shared_memory.path.clone())];
        for (called, name, mode) in FOLDERS {
            let path = folder(
                Path::new(called),
                Some(&shared_memory.path),
                Step::MountPrivate,
            )?;
            named.push((called, path.clone()));
            if path != shared_memory.path && !private.iter().any(|other| other.path == path) {
                private.push(Folder { path, name, mode });
            }
        }
        private.sort_by_key(|folder| folder.path.components().count());
        private.push(shared_memory);
        Ok(OwnFolders {
            private,
            named,
            dev,
            proc,
        })
    }

    /// The private folder that has the path of a link in it, by its name, and the rest of
    /// that path.
    pub(crate) fn within<'a>(&self, path: &'a Path) -> Option<(&Path, &'a Path)> {
        let mut named = self.named.iter();
        named.find_map(|(name, folder)| Some((&**folder, path.strip_prefix(name).ok()?)))
    }

    /// The private folder that no command can move away or replace.
    pub(crate) fn shared_memory(&self) -> &Path {
        self.named
            .iter()
            .find(|(name, _)| *name == "/dev/shm")
            .map_or(Path::new("/dev/shm"), |(_, path)| path)
    }

    /// The private ones, `/dev` and `/proc`.
    pub(super) fn paths(&self) -> impl Iterator<Item = &Path> {
        let private = self.private.iter().map(|folder| &*folder.path);
        private.chain([&*self.dev, &*self.proc])
    }

    pub(super) fn is_own(&self, path: &Path) -> bool {
        self.paths().any(|own| own == path)
    }

    /// Which of them has `path` in it, if any.
    pub(crate) fn hiding(&self, path: &Path) -> Option<&Path> {
        self.paths()
            .find(|folder| path.starts_with(folder) && path != *folder)
    }

    /// Which private folder has `path` in it, if any: the innermost.
    pub(super) fn around(&self, path: &Path) -> Option<&Folder> {
        let around = self.private.iter();
        around
            .filter(|folder| path.starts_with(&folder.path) && path != folder.path)
            .max_by_key(|folder| folder.path.components().count())
    }

    /// Between one private folder and another that lies in it there may be further ones.
    fn lie_in_each_other(&self) -> bool {
        (self.private.iter()).any(|folder| self.around(&folder.path).is_some())
    }
}

/// Where a folder of the image is. `in_dev` is where one may be that is in `/dev`.
fn folder(path: &Path, in_dev: Option<&Path>, step: Step) -> Result<PathBuf, Failure> {
    let failure = |errno| Failure::new(step, path.display().to_string(), errno);
    let dev = in_dev.and_then(Path::parent);
    let spot = inside::find(Path::new(IMAGE), path, |at| Some(at) == dev).map_err(failure)?;
    match spot.kind {
        Kind::Folder => Ok(spot.path),
        Kind::Missing if Some(&*spot.path) == in_dev => Ok(spot.path),
        Kind::Missing => Err(failure(libc::ENOENT)),
        Kind::File => Err(failure(libc::ENOTDIR)),
    }
}

/// The folders in which a process may change anything, by their names in its file
/// system in memory, where that can be told.
pub(crate) fn changeable(spec: &Spec, own: &OwnFolders) -> Option<Vec<CString>> {
    // Among the host's sockets it cannot be seen whether a process has left one, which
    // holds something here.
    if spec.network == Network::Host || own.lie_in_each_other() {
        return None;
    }
    let upper = (spec.writable == Writable::Private).then_some(super::UPPER);
    let private = own.private.iter().map(|folder| folder.name);
    let names = upper.into_iter().chain(private).map(CString::new);
    names.collect::<Result<_, _>>().ok()
}

/// Plans the folders, and the mount points in them, in the file system at
/// [`SCRATCH`](super::scaffold::SCRATCH).
pub(super) fn plan_folders(
    own: &OwnFolders,
    points: &[Point],
    plan: &mut Vec<Operation>,
) -> Result<(), Failure> {
    for folder in &own.private {
        let path = scratch(folder.name);
        plan.push(folder_of(&path, folder.mode, Step::MountPrivate)?);
    }
    for point in points {
        let path = text(scratch(&point.path).as_os_str().as_bytes(), point.step)?;
        let step = point.step;
        plan.push(match point.is_folder {
            true => Operation::MakeFolder {
                path,
                mode: 0o755,
                step,
            },
            false => Operation::MakeFile { path, step },
        });
    }
    Ok(())
}

/// Plans their mounts, in the root at `root`.
pub(super) fn plan_mounts(
    own: &OwnFolders,
    root: &Path,
    plan: &mut Vec<Operation>,
) -> Result<(), Failure> {
    let step = Step::MountPrivate;
    for (at, folder) in own.private.iter().enumerate() {
        // A folder within another one has to be made there first, since that one is
        // empty.
        let around = own.private[..at]
            .iter()
            .rfind(|other| folder.path.starts_with(&other.path));
        if let Some(around) = around {
            let missing = (folder.path.ancestors()).take_while(|path| *path != around.path);
            for path in missing.collect::<Vec<_>>().into_iter().rev() {
                plan.push(folder_of(&below(root, path), 0o755, step)?);
            }
        }
        let target = below(root, &folder.path);
        plan.push(bind(&scratch(folder.name), &target, 0, step)?);
        if at + 1 == own.private.len() {
            let flags = libc::MS_REMOUNT | libc::MS_BIND | SCRATCH_FLAGS | libc::MS_NOEXEC;
            plan.push(mount("", &target, "", flags, "", step)?);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(paths: &[&str]) -> Vec<String> {
        let private = paths
            .iter()
            .zip(["a", "b", "c", "d"])
            .map(|(path, name)| Folder {
                path: path.into(),
                name,
                mode: 0o755,
            })
            .collect();
        let own = OwnFolders {
            private,
            named: Vec::new(),
            dev: "/dev".into(),
            proc: "/proc".into(),
        };
        let mut plan = Vec::new();
        plan_folders(&own, &[], &mut plan).unwrap();
        plan_mounts(&own, Path::new("/root"), &mut plan).unwrap();
        let target = |operation: &Operation| match operation {
            Operation::Mount(mount) => {
                let [source, target] =
                    [&mount.source, &mount.target].map(|path| path.to_str().unwrap());
                format!("mount {source} {target}")
            }
            Operation::MakeFolder { path, .. } => format!("make {}", path.to_str().unwrap()),
            Operation::MakeFile { .. } => unreachable!(),
        };
        plan.iter().map(target).collect()
    }

    #[test]
    fn a_private_folder_within_another_is_made_there() {
        assert_eq!(
            planned(&["/tmp", "/run", "/run/a/b", "/dev/shm"]),
            [
                "make /scratch/a",
                "make /scratch/b",
                "make /scratch/c",
                "make /scratch/d",
                "mount /scratch/a /root/tmp",
                "mount /scratch/b /root/run",
                "make /root/run/a",
                "make /root/run/a/b",
                "mount /scratch/c /root/run/a/b",
                "mount /scratch/d /root/dev/shm",
                "mount  /root/dev/shm",
            ]
        );
    }

    #[test]
    fn a_name_that_begins_like_another_lies_not_in_it() {
        assert!(
            !planned(&["/a", "/ab", "/dev/shm"])
                .iter()
                .any(|step| step.starts_with("make /root/a"))
        );
    }
}
