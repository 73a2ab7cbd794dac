//! Mounts: what the zygote prepares once for its link, and the plan of what
//! remains to be mounted for each process.
//!
//! What comes from the host is opened before the root changes ([`gather`]) and
//! put in place when nothing of the host is left ([`furnish`]), so that no path
//! of the image, which may hold any symbolic link, is ever followed on the host.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, UnmountFlags, fsconfig_create, fsmount, fsopen,
};

use crate::failure::{Failure, Step};
use crate::spec::{Network, Spec};
use crate::{network, sys, traces};

mod masks;
mod veil;

/// Folders that a root must have, because something is mounted on each.
pub const MOUNT_POINT_FOLDERS: [&str; 5] = ["dev", "proc", "run", "tmp", "var/tmp"];

/// Files that a root must have for a link on the host's network.
pub const MOUNT_POINT_FILES: [&str; 2] = ["etc/hosts", "etc/resolv.conf"];

/// The folders that each process has for itself, who may write there, and how
/// much: the small ones are as large as Docker's `/dev/shm`.
const PRIVATE_FOLDERS: [(&str, &str, Size); 4] = [
    ("/tmp", "mode=1777", Size::Scratch),
    ("/var/tmp", "mode=1777", Size::Scratch),
    ("/run", "mode=755", Size::Small),
    ("/dev/shm", "mode=1777", Size::Small),
];

const _: () = assert!(PRIVATE_FOLDERS.len() <= traces::FOLDERS_MAX);

/// How much a private folder holds.
#[derive(Clone, Copy)]
enum Size {
    /// What the spec says.
    Scratch,
    Small,
}

const SMALL_BYTES: u64 = 64 * 1024 * 1024;

/// A file for each 8 KiB, and no more: each takes the kernel a kilobyte.
const BYTES_PER_FILE: u64 = 8 * 1024;
const FILES_MIN: u64 = 1024;

/// The options of a file system in memory, which without them may take half of
/// the host's.
fn sized(mode: &str, bytes: u64) -> String {
    let files = (bytes / BYTES_PER_FILE).max(FILES_MIN);
    format!("{mode},size={bytes},nr_inodes={files}")
}

/// The host's devices that a process sees: none of them keeps anything.
const DEVICES: [&str; 6] = ["full", "null", "random", "tty", "urandom", "zero"];

const DEVICE_LINKS: [(&str, &str); 4] = [
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
];

/// What comes from outside, as mounts that are not in place yet.
pub(crate) struct Outside {
    root: OwnedFd,
    /// Whether a process sees only an overlay of it.
    pub(crate) veiled: bool,
    devices: Vec<(PathBuf, OwnedFd)>,
    files: Vec<(PathBuf, OwnedFd)>,
    proc: OwnedFd,
}

/// Opens the root, which is the current folder, and what else comes from the
/// host, in this process's new mount namespace.
pub(crate) fn gather(spec: &Spec) -> Result<Outside, Failure> {
    rustix::mount::mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )
    .map_err(failure(Step::CloneRoot, &spec.root))?;
    let root = clone_root(spec)?;

    let mut devices = Vec::new();
    for name in DEVICES {
        let path = Path::new("/dev").join(name);
        let mount = clone_mount(&path, &path, Step::MountDevices)?;
        // Read-only goes for the file itself, the host's own, and not for what is
        // written to the device: its times, its mode and its owner.
        let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
            | MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        sys::mount_set_attributes(mount.as_fd(), attributes)
            .map_err(|errno| Failure::new(Step::MountDevices, shown(&path), errno))?;
        devices.push((path, mount));
    }
    let mut files = Vec::new();
    for path in network::files(spec.network).iter().map(Path::new) {
        if path.exists() {
            let mount = clone_mount(path, path, Step::MountHostFiles)?;
            sys::mount_set_attributes(mount.as_fd(), HARMLESS | MountAttrFlags::MOUNT_ATTR_NOEXEC)
                .map_err(|errno| Failure::new(Step::MountHostFiles, shown(path), errno))?;
            files.push((path.to_owned(), mount));
        }
    }
    let proc = make_proc().map_err(failure(Step::MountProc, Path::new("/proc")))?;
    // Last, since it covers what the others come from. A writable root is an
    // overlay anyway.
    let veiled = if spec.writable {
        None
    } else {
        // A root of its own, which is gone with it where it fails.
        veil::cover(&clone_root(spec)?).ok()
    };
    Ok(Outside {
        veiled: spec.writable || veiled.is_some(),
        root: veiled.unwrap_or(root),
        devices,
        files,
        proc,
    })
}

/// What a mount from outside is made to be.
const HARMLESS: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_RDONLY
    .union(MountAttrFlags::MOUNT_ATTR_NOSUID)
    .union(MountAttrFlags::MOUNT_ATTR_NODEV);

/// The root, which is the current folder.
fn clone_root(spec: &Spec) -> Result<OwnedFd, Failure> {
    let root = clone_mount(Path::new(""), &spec.root, Step::CloneRoot)?;
    sys::mount_set_attributes(root.as_fd(), HARMLESS)
        .map_err(|errno| Failure::new(Step::CloneRoot, shown(&spec.root), errno))?;
    Ok(root)
}

fn clone_mount(path: &Path, subject: &Path, step: Step) -> Result<OwnedFd, Failure> {
    let clone = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    rustix::mount::open_tree(CWD, path, clone).map_err(failure(step, subject))
}

/// The `/proc` of the zygote's own namespace. Made while the host's is still to
/// be seen: the kernel shows a new one only to who could see one before.
fn make_proc() -> rustix::io::Result<OwnedFd> {
    let proc = fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&proc)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    fsmount(&proc, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// Makes the image's root the root of this mount namespace.
pub(crate) fn change_root(outside: &Outside) -> Result<(), Failure> {
    let failure = || failure(Step::PivotRoot, Path::new("/"));
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let host = rustix::fs::open("/", flags, Mode::empty()).map_err(failure())?;
    attach(&outside.root, Path::new("."), Step::PivotRoot)?;
    rustix::process::fchdir(&outside.root).map_err(failure())?;
    rustix::process::pivot_root(".", ".").map_err(failure())?;
    // The old root lies on the new one now, where `..` would still find it. So
    // it has to go before any path of the image is followed.
    rustix::process::fchdir(&host).map_err(failure())?;
    rustix::mount::unmount(".", UnmountFlags::DETACH).map_err(failure())?;
    rustix::process::chdir("/").map_err(failure())
}

/// Puts the rest in place. Whatever links the image has in these places, they
/// lead nowhere but to the image.
pub(crate) fn furnish(outside: Outside) -> Result<(), Failure> {
    mount_devices(&outside.devices)?;
    for (path, mount) in &outside.files {
        attach(mount, path, Step::MountHostFiles)?;
    }
    attach(&outside.proc, Path::new("/proc"), Step::MountProc)
}

fn failure(step: Step, subject: &Path) -> impl FnOnce(rustix::io::Errno) -> Failure + use<> {
    let subject = shown(subject);
    move |error| Failure::new(step, subject, error.raw_os_error())
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn attach(mount: &OwnedFd, path: &Path, step: Step) -> Result<(), Failure> {
    rustix::mount::move_mount(
        mount,
        "",
        CWD,
        path,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )
    .map_err(|error| Failure::new(step, path.display().to_string(), error.raw_os_error()))
}

/// A small read-only `/dev` that all processes of the link share.
fn mount_devices(devices: &[(PathBuf, OwnedFd)]) -> Result<(), Failure> {
    let failure = |subject: &str| failure(Step::MountDevices, Path::new(subject));
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    rustix::mount::mount("tmpfs", "/dev", "tmpfs", flags, Some(c"mode=755,size=64k"))
        .map_err(failure("/dev"))?;
    let folder = rustix::fs::open("/dev", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(failure("/dev"))?;
    for (path, mount) in devices {
        rustix::fs::mknodat(CWD, path, FileType::RegularFile, Mode::RUSR, 0)
            .map_err(failure(&shown(path)))?;
        attach(mount, path, Step::MountDevices)?;
    }
    for (target, link) in DEVICE_LINKS {
        rustix::fs::symlink(target, link).map_err(failure(link))?;
    }
    rustix::fs::mkdir("/dev/shm", Mode::RWXU).map_err(failure("/dev/shm"))?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    sys::mount_set_attributes(folder.as_fd(), attributes)
        .map_err(|errno| Failure::new(Step::MountDevices, "/dev", errno))
}

/// Something that is done anew for each process, by init.
pub(crate) enum Operation {
    Mount(PrivateMount),
    /// Unless it exists.
    MakeFolder(CString, Step),
    /// To this folder, and lets go of the old one.
    ChangeRoot(CString),
}

/// A mount, as the arguments of `mount`.
pub(crate) struct PrivateMount {
    pub(crate) source: CString,
    pub(crate) target: CString,
    pub(crate) file_system: CString,
    pub(crate) flags: libc::c_ulong,
    pub(crate) data: CString,
    pub(crate) step: Step,
}

const PRIVATE: libc::c_ulong = libc::MS_NOSUID | libc::MS_NODEV;

/// Plans the mounts of each process, inside the new root.
pub(crate) fn plan(spec: &Spec) -> Result<Vec<Operation>, Failure> {
    let mut plan = Vec::new();
    let prefix = if spec.writable {
        plan_overlay(spec, &mut plan)?;
        OVERLAY_ROOT
    } else {
        ""
    };
    // Read-only: for most of its settings the kernel asks who one is outside,
    // not which capabilities one has; and that may be root, where ids are not
    // shifted. Costs nothing here, other than mounts over parts of it.
    let flags = PRIVATE | libc::MS_NOEXEC | libc::MS_RDONLY;
    let target = format!("{prefix}/proc");
    // And without init, which would tell of the runner's cgroup, of the zygote's
    // memory, and how long earlier processes took.
    plan.push(mount(
        "proc",
        target.as_bytes(),
        "proc",
        flags,
        "hidepid=ptraceable",
        Step::MountProc,
    )?);
    plan_masks(prefix, &mut plan)?;
    plan_private_folders(&private_folders(spec)?, prefix, &mut plan)?;
    if spec.writable {
        let root = text(OVERLAY_ROOT.as_bytes(), Step::MountOverlay)?;
        plan.push(Operation::ChangeRoot(root));
    }
    Ok(plan)
}

/// The folders in which a process may change anything, where that can be told.
pub(crate) fn changeable(spec: &Spec) -> Result<Option<Vec<CString>>, Failure> {
    // In a writable root it is everywhere; and among the host's sockets it cannot
    // be seen whether a process has left one, which holds something here.
    if spec.writable || spec.network == Network::Host {
        return Ok(None);
    }
    let folders = private_folders(spec)?;
    // Between one and another that lies in it there may be further ones.
    let lies_in_another = |folder: &PrivateFolder| {
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

/// Puts something empty on what is not to be seen in `/proc`: before the private
/// folders are there, the folder of one is empty, and nobody can write to it.
fn plan_masks(prefix: &str, plan: &mut Vec<Operation>) -> Result<(), Failure> {
    for (name, kind) in masks::needed() {
        let empty = match kind {
            masks::Kind::File => "/dev/null",
            masks::Kind::Folder => "/dev/shm",
        };
        let target = format!("{prefix}/proc/{name}");
        let (flags, step) = (libc::MS_BIND, Step::MountProc);
        plan.push(mount(empty, target.as_bytes(), "", flags, "", step)?);
    }
    Ok(())
}

/// Where a process with a writable root builds it.
const SCRATCH: &str = "/tmp";
const OVERLAY_ROOT: &str = "/tmp/root";

fn plan_overlay(spec: &Spec, plan: &mut Vec<Operation>) -> Result<(), Failure> {
    let step = Step::MountOverlay;
    plan.push(mount(
        "tmpfs",
        SCRATCH.as_bytes(),
        "tmpfs",
        PRIVATE,
        &sized("mode=700", spec.scratch_bytes),
        step,
    )?);
    for folder in ["/tmp/upper", "/tmp/work", OVERLAY_ROOT] {
        plan.push(Operation::MakeFolder(text(folder.as_bytes(), step)?, step));
    }
    let options = "lowerdir=/,upperdir=/tmp/upper,workdir=/tmp/work,userxattr";
    plan.push(mount(
        "overlay",
        OVERLAY_ROOT.as_bytes(),
        "overlay",
        PRIVATE,
        options,
        step,
    )?);
    // An overlay shows no mounts of what lies below it.
    let mounted = ["/dev"].iter().chain(network::files(spec.network));
    for path in mounted.filter(|path| Path::new(path).exists()) {
        let target = format!("{OVERLAY_ROOT}{path}");
        let flags = libc::MS_BIND | libc::MS_REC;
        plan.push(mount(path, target.as_bytes(), "", flags, "", step)?);
    }
    Ok(())
}

/// A folder that each process has for itself.
#[derive(Debug, PartialEq)]
struct PrivateFolder {
    path: PathBuf,
    options: String,
}

/// The private folders, links resolved, each behind the one that it lies in.
fn private_folders(spec: &Spec) -> Result<Vec<PrivateFolder>, Failure> {
    let mut folders: Vec<PrivateFolder> = Vec::new();
    for (path, mode, size) in PRIVATE_FOLDERS {
        let path = resolved(path)?;
        if !folders.iter().any(|other| other.path == path) {
            let bytes = match size {
                Size::Scratch => spec.scratch_bytes,
                Size::Small => spec.scratch_bytes.min(SMALL_BYTES),
            };
            let options = sized(mode, bytes);
            folders.push(PrivateFolder { path, options });
        }
    }
    folders.sort_by_key(|folder| folder.path.components().count());
    Ok(folders)
}

fn resolved(path: &str) -> Result<PathBuf, Failure> {
    std::fs::canonicalize(path).map_err(|error| {
        let errno = error.raw_os_error().unwrap_or(libc::EIO);
        Failure::new(Step::MountPrivate, path, errno)
    })
}

fn plan_private_folders(
    folders: &[PrivateFolder],
    prefix: &str,
    plan: &mut Vec<Operation>,
) -> Result<(), Failure> {
    let step = Step::MountPrivate;
    let target = |path: &Path| [prefix.as_bytes(), path.as_os_str().as_bytes()].concat();
    for (at, folder) in folders.iter().enumerate() {
        // One within another, which is empty, is made there first.
        let around = folders[..at]
            .iter()
            .rfind(|other| folder.path.starts_with(&other.path));
        if let Some(around) = around {
            let missing = folder
                .path
                .ancestors()
                .take_while(|path| *path != around.path);
            for path in missing.collect::<Vec<_>>().into_iter().rev() {
                plan.push(Operation::MakeFolder(text(&target(path), step)?, step));
            }
        }
        // That somebody has looked into it is no change of a folder.
        let mut flags = PRIVATE | libc::MS_NODIRATIME;
        if folder.path.starts_with("/dev") {
            flags |= libc::MS_NOEXEC;
        }
        plan.push(mount(
            "tmpfs",
            &target(&folder.path),
            "tmpfs",
            flags,
            &folder.options,
            step,
        )?);
    }
    Ok(())
}

/// Which of the folders that no process sees the image's content of has `path`
/// in it, if any. The path must exist.
pub(crate) fn hidden_by(path: &Path, step: Step) -> Result<Option<PathBuf>, Failure> {
    let path = std::fs::canonicalize(path).map_err(|error| {
        let errno = error.raw_os_error().unwrap_or(libc::EIO);
        Failure::new(step, shown(path), errno)
    })?;
    let mut folders = vec![PathBuf::from("/dev"), PathBuf::from("/proc")];
    for (folder, ..) in PRIVATE_FOLDERS {
        folders.push(resolved(folder)?);
    }
    Ok(folders
        .into_iter()
        .find(|folder| path.starts_with(folder) && path != *folder))
}

fn mount(
    source: &str,
    target: &[u8],
    file_system: &str,
    flags: libc::c_ulong,
    data: &str,
    step: Step,
) -> Result<Operation, Failure> {
    Ok(Operation::Mount(PrivateMount {
        source: text(source.as_bytes(), step)?,
        target: text(target, step)?,
        file_system: text(file_system.as_bytes(), step)?,
        flags,
        data: text(data.as_bytes(), step)?,
        step,
    }))
}

fn text(text: &[u8], step: Step) -> Result<CString, Failure> {
    CString::new(text).map_err(|_| Failure::new(step, String::from_utf8_lossy(text), libc::EINVAL))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn targets(paths: &[&str]) -> Vec<String> {
        let folders: Vec<_> = paths
            .iter()
            .map(|path| PrivateFolder {
                path: path.into(),
                options: String::new(),
            })
            .collect();
        let mut plan = Vec::new();
        plan_private_folders(&folders, "", &mut plan).unwrap();
        let target = |operation: &Operation| match operation {
            Operation::Mount(mount) => format!("mount {}", mount.target.to_str().unwrap()),
            Operation::MakeFolder(path, _) => format!("make {}", path.to_str().unwrap()),
            Operation::ChangeRoot(_) => unreachable!(),
        };
        plan.iter().map(target).collect()
    }

    #[test]
    fn a_private_folder_within_another_is_made_there() {
        assert_eq!(
            targets(&["/tmp", "/run", "/run/a/b"]),
            [
                "mount /tmp",
                "mount /run",
                "make /run/a",
                "make /run/a/b",
                "mount /run/a/b"
            ]
        );
        assert_eq!(targets(&["/a", "/ab"]), ["mount /a", "mount /ab"]);
    }
}
