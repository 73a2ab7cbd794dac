//! Mounts: what the zygote prepares once for its link, and the plan of what
//! remains to be mounted for each process.
//!
//! What comes from the host is opened before the root changes ([`gather`]) and
//! put in place when nothing of the host is left ([`furnish`]), so that no path
//! of the image, which may hold any symbolic link, is ever followed on the host.

use std::ffi::CString;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, UnmountFlags, fsconfig_create, fsmount, fsopen,
};

use crate::failure::{Failure, Step};
use crate::spec::Spec;
use crate::wire::Found;
use crate::{network, sys};

mod devices;
mod masks;
mod private;
mod root_overlay;

pub(crate) use devices::{Devices, own_devices};
pub(crate) use private::{changeable, private_folders};

/// Folders that a root must have, because something is mounted on each.
pub const MOUNT_POINT_FOLDERS: [&str; 5] = ["dev", "proc", "run", "tmp", "var/tmp"];

/// Files that a root must have for a link on the host's network.
pub const MOUNT_POINT_FILES: [&str; 2] = ["etc/hosts", "etc/resolv.conf"];

/// A file for each 8 KiB, and no more: each takes the kernel a kilobyte.
const BYTES_PER_FILE: u64 = 8 * 1024;
const FILES_MIN: u64 = 1024;

/// The options of a file system in memory, which without them may take half of
/// the host's.
fn sized(mode: &str, bytes: u64) -> String {
    let files = (bytes / BYTES_PER_FILE).max(FILES_MIN);
    format!("{mode},size={bytes},nr_inodes={files}")
}

/// What comes from outside, as mounts that are not in place yet.
pub(crate) struct Outside {
    root: OwnedFd,
    pub(crate) found: Found,
    devices: Devices,
    files: Vec<(PathBuf, Vec<u8>)>,
    /// The root will lie below an overlay for each process.
    is_writable: bool,
    proc: OwnedFd,
}

/// Opens the root, which is the current folder, and what else comes from the
/// host, in this process's new mount namespace. `own_devices` are the link's own, where
/// it could be given some.
pub(crate) fn gather(spec: &Spec, own_devices: Option<OwnedFd>) -> Result<Outside, Failure> {
    rustix::mount::mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )
    .map_err(failure(Step::CloneRoot, &spec.root))?;
    let devices = match own_devices {
        Some(own) => Devices::Own(own),
        None => devices::of_the_host()?,
    };
    let files = host_files(spec)?;
    let proc = make_proc().map_err(failure(Step::MountProc, Path::new("/proc")))?;
    // Last, since it covers what the others come from. A writable root is an
    // overlay anyway.
    let (root, hides_image_path) = match spec.writable {
        true => (clone_root(spec)?, true),
        false => match root_overlay::over(&clone_root(spec)?) {
            Ok(overlay) => (overlay, true),
            Err(_) => (clone_root(spec)?, false),
        },
    };
    Ok(Outside {
        found: Found {
            hides_image_path,
            has_own_devices: devices.are_own(),
            is_bounded: false,
        },
        root,
        devices,
        files,
        is_writable: spec.writable,
        proc,
    })
}

/// Reads the files of the host that the link needs. It gets copies: by a mount of the
/// file itself it could lock it, and be told when the host reads it.
fn host_files(spec: &Spec) -> Result<Vec<(PathBuf, Vec<u8>)>, Failure> {
    let mut files = Vec::new();
    for path in network::files(spec.network) {
        match std::fs::File::open(path) {
            Ok(file) => {
                let mut content = Vec::new();
                file.take(HOST_FILE_BYTES_MAX)
                    .read_to_end(&mut content)
                    .map_err(io_failure(Step::MountHostFiles, path))?;
                files.push((path.into(), content));
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(io_failure(Step::MountHostFiles, path)(error)),
        }
    }
    Ok(files)
}

/// More of a file of the host than this is not copied: what links need of it (names of
/// hosts, resolvers) takes a few KiB, and each copy takes memory.
const HOST_FILE_BYTES_MAX: u64 = 1 << 20;

fn io_failure(step: Step, subject: &str) -> impl FnOnce(std::io::Error) -> Failure + use<'_> {
    move |error| Failure::new(step, subject, error.raw_os_error().unwrap_or(libc::EIO))
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
    outside.devices.attach()?;
    mount_files(&outside.files, outside.is_writable)?;
    attach(&outside.proc, Path::new("/proc"), Step::MountProc)
}

/// Puts copies in place, from a file system in memory that is let go of again. It lies
/// on `/proc` meanwhile, which every root has.
fn mount_files(files: &[(PathBuf, Vec<u8>)], is_writable: bool) -> Result<(), Failure> {
    const SCAFFOLD: &str = "/proc";
    if files.is_empty() {
        return Ok(());
    }
    let step = Step::MountHostFiles;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount("tmpfs", SCAFFOLD, "tmpfs", flags, Some(c"mode=755,size=4m"))
        .map_err(failure(step, Path::new(SCAFFOLD)))?;
    for (number, (path, content)) in files.iter().enumerate() {
        let copy = format!("{SCAFFOLD}/{number}");
        std::fs::write(&copy, content).map_err(io_failure(step, &copy))?;
        let mount = clone_mount(Path::new(&copy), path, step)?;
        sys::mount_set_attributes(mount.as_fd(), HARMLESS | MountAttrFlags::MOUNT_ATTR_NOEXEC)
            .map_err(|errno| Failure::new(step, shown(path), errno))?;
        if is_writable {
            attach(&mount, &led_to(path)?, step)?;
            continue;
        }
        // In the place of a link of that name, and not where that leads: there may be
        // nothing, or what no process sees.
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        rustix::mount::move_mount(&mount, "", CWD, path, flags).map_err(failure(step, path))?;
    }
    rustix::mount::unmount(SCAFFOLD, UnmountFlags::DETACH)
        .map_err(failure(step, Path::new(SCAFFOLD)))
}

/// Where a file of the image is, links resolved, for who mounts over it in an overlay: a
/// link that begins with `/` would lead out of that. Not in a folder of which each
/// process has its own.
fn led_to(path: &Path) -> Result<PathBuf, Failure> {
    let step = Step::MountHostFiles;
    let place = std::fs::canonicalize(path);
    let place = place.map_err(|error| {
        Failure::new(step, shown(path), error.raw_os_error().unwrap_or(libc::EIO))
    })?;
    if place.is_dir() {
        return Err(Failure::new(step, shown(path), libc::EISDIR));
    }
    let mut own = own_folders()?.into_iter();
    match own.find(|folder| place.starts_with(folder)) {
        None => Ok(place),
        Some(folder) => Err(Failure::because(
            step,
            shown(path),
            format!(
                "it is a link to {}, and each process has a {} of its own, so that with Writable \
                 it leads to nothing; have a file there in the image instead",
                shown(&place),
                shown(&folder),
            ),
        )),
    }
}

fn failure(step: Step, subject: &Path) -> impl FnOnce(rustix::io::Errno) -> Failure + use<> {
    let subject = shown(subject);
    move |error| Failure::new(step, subject, error.raw_os_error())
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// Puts a mount in place, where a link of that name leads.
fn attach(mount: &OwnedFd, path: &Path, step: Step) -> Result<(), Failure> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_SYMLINKS;
    rustix::mount::move_mount(mount, "", CWD, path, flags)
        .map_err(|error| Failure::new(step, path.display().to_string(), error.raw_os_error()))
}

/// Something that is done anew for each process, by init.
pub(crate) enum Operation {
    Mount(PrivateMount),
    /// Unless it exists.
    MakeFolder {
        path: CString,
        mode: u32,
        step: Step,
    },
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
    plan.push(proc(&format!("{prefix}/proc"), 0)?);
    plan_masks(prefix, &mut plan)?;
    private::plan(spec, prefix, &mut plan)?;
    if spec.writable {
        let root = text(OVERLAY_ROOT.as_bytes(), Step::MountOverlay)?;
        plan.push(Operation::ChangeRoot(root));
    }
    Ok(plan)
}

/// The process's own `/proc`. Read-only: for most of its settings the kernel asks who
/// one is outside, not which capabilities one has; and that may be root, where ids are
/// not shifted. Costs nothing here, other than mounts over parts of it. And without
/// init, which would tell of the runner's cgroup, of the zygote's memory, and how long
/// earlier processes took.
fn proc(target: &str, flags: libc::c_ulong) -> Result<Operation, Failure> {
    let flags = flags | PRIVATE | libc::MS_NOEXEC | libc::MS_RDONLY;
    let (target, options) = (target.as_bytes(), "hidepid=ptraceable");
    mount("proc", target, "proc", flags, options, Step::MountProc)
}

/// Mounts `/proc` as it is already. The kernel then drops what it remembers of names
/// that were looked for there; it gives each a number and the time when it was first
/// looked for, for anybody to see.
pub(crate) fn forget_proc() -> Result<Operation, Failure> {
    proc("/proc", libc::MS_REMOUNT)
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
        plan.push(folder_of(folder.as_bytes(), 0o755, step)?);
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
    let files = network::files(spec.network).iter().map(Path::new);
    let files = files.filter(|path| path.exists()).map(led_to);
    let mounted = std::iter::once(Ok(PathBuf::from("/dev"))).chain(files);
    for path in mounted {
        let path = path?;
        let path = path.as_os_str().as_bytes();
        let target = [OVERLAY_ROOT.as_bytes(), path].concat();
        let flags = libc::MS_BIND | libc::MS_REC;
        plan.push(mount(path, &target, "", flags, "", step)?);
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
    let mut own = own_folders()?.into_iter();
    Ok(own.find(|folder| path.starts_with(folder) && path != *folder))
}

/// The folders that no process sees as the image has them.
fn own_folders() -> Result<Vec<PathBuf>, Failure> {
    let mut folders = private::paths()?;
    folders.extend([PathBuf::from("/dev"), PathBuf::from("/proc")]);
    Ok(folders)
}

fn mount(
    source: impl AsRef<[u8]>,
    target: &[u8],
    file_system: &str,
    flags: libc::c_ulong,
    data: &str,
    step: Step,
) -> Result<Operation, Failure> {
    Ok(Operation::Mount(PrivateMount {
        source: text(source.as_ref(), step)?,
        target: text(target, step)?,
        file_system: text(file_system.as_bytes(), step)?,
        flags,
        data: text(data.as_bytes(), step)?,
        step,
    }))
}

fn folder_of(path: &[u8], mode: u32, step: Step) -> Result<Operation, Failure> {
    let path = text(path, step)?;
    Ok(Operation::MakeFolder { path, mode, step })
}

fn text(text: &[u8], step: Step) -> Result<CString, Failure> {
    CString::new(text).map_err(|_| Failure::new(step, String::from_utf8_lossy(text), libc::EINVAL))
}
