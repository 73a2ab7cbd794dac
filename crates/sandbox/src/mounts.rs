//! Mounts: what the zygote prepares once for its link, and the plan of what
//! remains to be mounted for each process.
//!
//! What comes from the host is opened before the root changes ([`gather`]) and
//! put in place after ([`furnish`]), so that no path of the image, which may
//! hold any symbolic link, is ever followed on the host.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
};

use crate::failure::{Failure, Step};
use crate::spec::{Network, Spec};
use crate::{network, sys};

/// Folders that a root must have, because something is mounted on each.
pub const MOUNT_POINT_FOLDERS: [&str; 5] = ["dev", "proc", "run", "tmp", "var/tmp"];

/// Files that a root must have for a link on the host's network.
pub const MOUNT_POINT_FILES: [&str; 2] = ["etc/hosts", "etc/resolv.conf"];

/// The folders that each process has for itself, and who may write there.
const PRIVATE_FOLDERS: [(&str, &str); 4] = [
    ("/tmp", "mode=1777"),
    ("/var/tmp", "mode=1777"),
    ("/run", "mode=755"),
    ("/dev/shm", "mode=1777"),
];

/// The host's devices that a process sees: none of them keeps anything.
const DEVICES: [&str; 6] = ["full", "null", "random", "tty", "urandom", "zero"];

const DEVICE_LINKS: [(&str, &str); 4] = [
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
];

/// From linux/mount.h.
const MOUNT_ATTR_RDONLY: u64 = 0x1;
const MOUNT_ATTR_NOSUID: u64 = 0x2;
const MOUNT_ATTR_NODEV: u64 = 0x4;
const MOUNT_ATTR_NOEXEC: u64 = 0x8;

/// What comes from the host, as mounts that are not in place yet.
pub(crate) struct Outside {
    root: OwnedFd,
    files: Vec<(PathBuf, OwnedFd)>,
    devices: Vec<(PathBuf, OwnedFd)>,
}

/// Opens the root, which is the current folder, and what else comes from the
/// host, in this process's new mount namespace.
pub(crate) fn gather(spec: &Spec) -> Result<Outside, Failure> {
    let failure = |step, subject: &Path| {
        let subject = subject.display().to_string();
        move |error: rustix::io::Errno| Failure::new(step, subject, error.raw_os_error())
    };
    rustix::mount::mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )
    .map_err(failure(Step::CloneRoot, &spec.root))?;
    let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let root = rustix::mount::open_tree(CWD, "", clone | OpenTreeFlags::AT_EMPTY_PATH)
        .map_err(failure(Step::CloneRoot, &spec.root))?;
    let attributes = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV;
    sys::mount_set_attributes(root.as_fd(), attributes)
        .map_err(|errno| Failure::new(Step::CloneRoot, spec.root.display().to_string(), errno))?;

    let open =
        |step, path: &Path| rustix::mount::open_tree(CWD, path, clone).map_err(failure(step, path));
    let mut devices = Vec::new();
    for name in DEVICES {
        let path = Path::new("/dev").join(name);
        devices.push((path.clone(), open(Step::MountDevices, &path)?));
    }
    let mut files = Vec::new();
    for path in network::files(spec.network)
        .iter()
        .map(Path::new)
        .filter(|path| path.exists())
    {
        files.push((path.to_owned(), open(Step::CloneRoot, path)?));
    }
    Ok(Outside {
        root,
        files,
        devices,
    })
}

/// Makes the image's root the root of this mount namespace, furnishes it, and
/// lets go of the host's.
pub(crate) fn furnish(outside: Outside) -> Result<(), Failure> {
    let failure = |step, subject: &str| {
        let subject = subject.to_owned();
        move |error: rustix::io::Errno| Failure::new(step, subject, error.raw_os_error())
    };
    let host = rustix::fs::open(
        "/",
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(failure(Step::PivotRoot, "/"))?;
    attach(&outside.root, Path::new("."), Step::PivotRoot)?;
    rustix::process::fchdir(&outside.root).map_err(failure(Step::PivotRoot, "/"))?;
    rustix::process::pivot_root(".", ".").map_err(failure(Step::PivotRoot, "/"))?;

    // From here on, absolute paths are the image's, wherever its links lead.
    mount_devices(&outside.devices)?;
    for (path, mount) in &outside.files {
        attach(mount, path, Step::CloneRoot)?;
    }
    // While the host's /proc is still in this namespace: the kernel lets us see
    // a new one only where we could see one before.
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount("proc", "/proc", "proc", flags, None)
        .map_err(failure(Step::MountProc, "/proc"))?;

    rustix::process::fchdir(&host).map_err(failure(Step::PivotRoot, "/"))?;
    rustix::mount::unmount(".", UnmountFlags::DETACH).map_err(failure(Step::PivotRoot, "/"))?;
    rustix::process::chdir("/").map_err(failure(Step::PivotRoot, "/"))
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
    let failure = |subject: &str| {
        let subject = subject.to_owned();
        move |error: rustix::io::Errno| {
            Failure::new(Step::MountDevices, subject, error.raw_os_error())
        }
    };
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    rustix::mount::mount("tmpfs", "/dev", "tmpfs", flags, Some(c"mode=755,size=64k"))
        .map_err(failure("/dev"))?;
    let folder = rustix::fs::open("/dev", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(failure("/dev"))?;
    for (path, mount) in devices {
        rustix::fs::mknodat(CWD, path, FileType::RegularFile, Mode::RUSR, 0)
            .map_err(failure(&path.display().to_string()))?;
        attach(mount, path, Step::MountDevices)?;
    }
    for (target, link) in DEVICE_LINKS {
        rustix::fs::symlink(target, link).map_err(failure(link))?;
    }
    rustix::fs::mkdir("/dev/shm", Mode::RWXU).map_err(failure("/dev/shm"))?;
    let attributes = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC;
    sys::mount_set_attributes(folder.as_fd(), attributes)
        .map_err(|errno| Failure::new(Step::MountDevices, "/dev", errno))
}

/// A mount that is made anew for each process.
pub(crate) struct PrivateMount {
    pub(crate) source: CString,
    pub(crate) target: CString,
    pub(crate) file_system: CString,
    pub(crate) flags: libc::c_ulong,
    pub(crate) data: CString,
    pub(crate) step: Step,
}

/// The folder on which a process with a writable root builds it.
const SCRATCH: &str = "/tmp";
pub(crate) const OVERLAY_ROOT: &std::ffi::CStr = c"/tmp/root";
pub(crate) const OVERLAY_FOLDERS: [&std::ffi::CStr; 3] =
    [c"/tmp/upper", c"/tmp/work", OVERLAY_ROOT];

/// What a process mounts for itself: first `base`, where its root is to be
/// writable, and `folders` in any case.
pub(crate) struct PrivateMounts {
    pub(crate) base: Option<[PrivateMount; 2]>,
    pub(crate) folders: Vec<PrivateMount>,
}

/// Plans the mounts of each process, inside the new root.
pub(crate) fn plan(spec: &Spec) -> Result<PrivateMounts, Failure> {
    let private = libc::MS_NOSUID | libc::MS_NODEV;
    let prefix = if spec.writable { "/tmp/root" } else { "" };
    let mut folders = Vec::new();
    if spec.writable {
        folders.push(bind("/dev", prefix)?);
        if spec.network == Network::Host {
            for path in network::files(spec.network)
                .iter()
                .filter(|path| Path::new(path).exists())
            {
                folders.push(bind(path, prefix)?);
            }
        }
    }
    let proc_flags = private | libc::MS_NOEXEC;
    folders.push(mount(
        "proc",
        &format!("{prefix}/proc"),
        "proc",
        proc_flags,
        "",
        Step::MountProc,
    )?);
    for (path, mode) in distinct_private_folders()? {
        let flags = if path.starts_with("/dev/shm") {
            private | libc::MS_NOEXEC
        } else {
            private
        };
        let target = [prefix.as_bytes(), path.as_os_str().as_bytes()].concat();
        let target = CString::new(target)
            .map_err(|_| Failure::new(Step::MountPrivate, "/", libc::EINVAL))?;
        folders.push(PrivateMount {
            target,
            ..mount("tmpfs", "", "tmpfs", flags, mode, Step::MountPrivate)?
        });
    }
    let base = if spec.writable {
        let options = "lowerdir=/,upperdir=/tmp/upper,workdir=/tmp/work,userxattr";
        Some([
            mount(
                "tmpfs",
                SCRATCH,
                "tmpfs",
                private,
                "mode=700",
                Step::MountOverlay,
            )?,
            mount(
                "overlay",
                "/tmp/root",
                "overlay",
                private,
                options,
                Step::MountOverlay,
            )?,
        ])
    } else {
        None
    };
    Ok(PrivateMounts { base, folders })
}

/// The private folders, links resolved; one that leads into another is covered
/// by it.
fn distinct_private_folders() -> Result<Vec<(PathBuf, &'static str)>, Failure> {
    let mut found: Vec<(PathBuf, &str)> = Vec::new();
    for (path, mode) in PRIVATE_FOLDERS {
        let resolved = std::fs::canonicalize(path).map_err(|error| {
            Failure::new(
                Step::MountPrivate,
                path,
                error.raw_os_error().unwrap_or(libc::EIO),
            )
        })?;
        if !found.iter().any(|(other, _)| resolved.starts_with(other)) {
            found.push((resolved, mode));
        }
    }
    Ok(found)
}

fn bind(path: &str, prefix: &str) -> Result<PrivateMount, Failure> {
    mount(
        path,
        &format!("{prefix}{path}"),
        "",
        libc::MS_BIND | libc::MS_REC,
        "",
        Step::MountOverlay,
    )
}

fn mount(
    source: &str,
    target: &str,
    file_system: &str,
    flags: libc::c_ulong,
    data: &str,
    step: Step,
) -> Result<PrivateMount, Failure> {
    let text =
        |text: &str| CString::new(text).map_err(|_| Failure::new(step, target, libc::EINVAL));
    Ok(PrivateMount {
        source: text(source)?,
        target: text(target)?,
        file_system: text(file_system)?,
        flags,
        data: text(data)?,
        step,
    })
}
