//! The folders that each process has for itself, in memory.
//!
//! They are folders of one file system, each mounted on its place. So one file system is
//! made for a process instead of four, and one inode number shows whether a file was made
//! in any of them (`traces.rs`). The file system's own root is covered by the folder that
//! is mounted last, on the same place, so that no path leads to it.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::{Operation, PRIVATE, folder_of, mount, sized, text};
use crate::failure::{Failure, Step};
use crate::spec::{Network, Spec};
use crate::traces;

/// The private folders: path, name in the shared file system, and mode.
const FOLDERS: [(&str, &str, u32); 4] = [
    ("/tmp", "tmp", 0o1777),
    ("/var/tmp", "var-tmp", 0o1777),
    ("/run", "run", 0o755),
    (LAST, "shm", 0o1777),
];

/// The folder on which the file system itself is mounted first, and its own private
/// folder last. It is in `/dev`, which is ours and not the image's: so it is no symbolic
/// link, and none of the others lies in it. Nothing can be executed there, as in all of
/// `/dev`.
const LAST: &str = "/dev/shm";

const _: () = assert!(FOLDERS.len() <= traces::FOLDERS_MAX);

/// What `/run` and `/dev/shm` hold at least, each: as much as Docker's `/dev/shm`.
const SMALL_BYTES: u64 = 64 * 1024 * 1024;

/// The size of all together: each holds at least what the spec says, the small ones no
/// more than [`SMALL_BYTES`].
fn bytes(spec: &Spec) -> u64 {
    let small = spec.scratch_bytes.min(SMALL_BYTES);
    spec.scratch_bytes.saturating_add(small).saturating_mul(2)
}

#[derive(Debug, PartialEq)]
struct Folder {
    path: PathBuf,
    name: &'static str,
    mode: u32,
}

/// The folders with links resolved. A folder within another one comes after that one, and
/// [`LAST`] comes last.
fn folders() -> Result<Vec<Folder>, Failure> {
    let mut folders: Vec<Folder> = Vec::new();
    for (path, name, mode) in FOLDERS {
        let path = resolved(path)?;
        if !folders.iter().any(|other| other.path == path) {
            folders.push(Folder { path, name, mode });
        }
    }
    let last = resolved(LAST)?;
    folders.sort_by_key(|folder| (folder.path == last, folder.path.components().count()));
    Ok(folders)
}

/// The folders by their names, and where they are.
pub(crate) fn private_folders() -> Result<Vec<(&'static str, PathBuf)>, Failure> {
    let named = |(path, ..): (&'static str, &str, u32)| Ok((path, resolved(path)?));
    FOLDERS.into_iter().map(named).collect()
}

/// Where the folders are.
pub(super) fn paths() -> Result<Vec<PathBuf>, Failure> {
    FOLDERS.iter().map(|(path, ..)| resolved(path)).collect()
}

fn resolved(path: &str) -> Result<PathBuf, Failure> {
    std::fs::canonicalize(path).map_err(|error| Failure::io(Step::MountPrivate, path, &error))
}

/// The folders in which a process may change something; `None` if not every change could
/// be found there.
pub(crate) fn changeable(spec: &Spec) -> Result<Option<Vec<CString>>, Failure> {
    // With a writable root, changes may be anywhere. And on the host's network, a socket
    // that a process has left in a message cannot be told from the host's sockets.
    if spec.writable || spec.network == Network::Host {
        return Ok(None);
    }
    let folders = folders()?;
    // If one folder lies in another one, there may be further folders between the two,
    // which nobody checks.
    let lies_in_another = |folder: &Folder| {
        let mut above = folder.path.ancestors().skip(1);
        above.any(|path| folders.iter().any(|other| other.path == path))
    };
    if folders.iter().any(lies_in_another) {
        return Ok(None);
    }
    let paths = folders.iter().map(|folder| folder.path.as_os_str());
    let paths = paths.map(|path| text(path.as_bytes(), Step::MountPrivate));
    paths.collect::<Result<_, _>>().map(Some)
}

/// Plans the mounts of the private folders, in a root at `prefix`.
pub(super) fn plan(spec: &Spec, prefix: &str, plan: &mut Vec<Operation>) -> Result<(), Failure> {
    plan_folders(&folders()?, prefix, &sized("mode=755", bytes(spec)), plan)
}

fn plan_folders(
    folders: &[Folder],
    prefix: &str,
    options: &str,
    plan: &mut Vec<Operation>,
) -> Result<(), Failure> {
    let step = Step::MountPrivate;
    let target = |path: &Path| [prefix.as_bytes(), path.as_os_str().as_bytes()].concat();
    let whole = format!("{prefix}{LAST}");
    // Reading a folder must not change its times: that would look like a trace.
    let flags = PRIVATE | libc::MS_NODIRATIME;
    plan.push(mount(
        "tmpfs",
        whole.as_bytes(),
        "tmpfs",
        flags,
        options,
        step,
    )?);
    for folder in folders {
        let made = format!("{whole}/{}", folder.name);
        plan.push(folder_of(made.as_bytes(), folder.mode, step)?);
    }
    for (at, folder) in folders.iter().enumerate() {
        // A folder within another one has to be made there first, since that one is
        // empty.
        let around = folders[..at]
            .iter()
            .rfind(|other| folder.path.starts_with(&other.path));
        if let Some(around) = around {
            let missing = folder
                .path
                .ancestors()
                .take_while(|path| *path != around.path);
            for path in missing.collect::<Vec<_>>().into_iter().rev() {
                plan.push(folder_of(&target(path), 0o755, step)?);
            }
        }
        let made = format!("{whole}/{}", folder.name);
        let target = target(&folder.path);
        plan.push(mount(&made, &target, "", libc::MS_BIND, "", step)?);
        if at + 1 == folders.len() {
            let flags = libc::MS_REMOUNT | libc::MS_BIND | flags | libc::MS_NOEXEC;
            plan.push(mount("", &target, "", flags, "", step)?);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(paths: &[&str]) -> Vec<String> {
        let folders: Vec<_> = paths
            .iter()
            .zip(["a", "b", "c", "d"])
            .map(|(path, name)| Folder {
                path: path.into(),
                name,
                mode: 0o755,
            })
            .collect();
        let mut plan = Vec::new();
        plan_folders(&folders, "", "", &mut plan).unwrap();
        let target = |operation: &Operation| match operation {
            Operation::Mount(mount) => {
                let [source, target] =
                    [&mount.source, &mount.target].map(|path| path.to_str().unwrap());
                format!("mount {source} {target}")
            }
            Operation::MakeFolder { path, .. } => format!("make {}", path.to_str().unwrap()),
            Operation::ChangeRoot(_) => unreachable!(),
        };
        plan.iter().map(target).collect()
    }

    #[test]
    fn a_private_folder_within_another_is_made_there() {
        assert_eq!(
            planned(&["/tmp", "/run", "/run/a/b", "/dev/shm"]),
            [
                "mount tmpfs /dev/shm",
                "make /dev/shm/a",
                "make /dev/shm/b",
                "make /dev/shm/c",
                "make /dev/shm/d",
                "mount /dev/shm/a /tmp",
                "mount /dev/shm/b /run",
                "make /run/a",
                "make /run/a/b",
                "mount /dev/shm/c /run/a/b",
                "mount /dev/shm/d /dev/shm",
                "mount  /dev/shm",
            ]
        );
    }

    #[test]
    fn a_name_that_begins_like_another_lies_not_in_it() {
        assert!(
            !planned(&["/a", "/ab", "/dev/shm"])
                .iter()
                .any(|step| step.starts_with("make /a"))
        );
    }
}
