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
mod terminals;

pub(crate) use devices::{Devices, own_devices};
pub(crate) use private::{changeable, private_folders};
pub(crate) use terminals::MULTIPLEXER;

/// Folders that a root must have, because something is mounted on each.
pub const MOUNT_POINT_FOLDERS: [&str; 5] = ["dev", "proc", "run", "tmp", "var/tmp"];

/// Files that a root must have for a link on the host's network.
pub const MOUNT_POINT_FILES: [&str; 2] = ["etc/hosts", "etc/resolv.conf"];

/// A file system in memory has one inode for each 8 KiB of its size. An inode takes the
/// kernel about 1 KiB that the size does not include: so inodes take at most an eighth
/// more.
const BYTES_PER_INODE: u64 = 8 * 1024;

/// However small a file system is, it has so many inodes: programs make many files
/// without content, such as locks.
const INODES_MIN: u64 = 1024;

/// The options of a file system in memory. Without them tmpfs may take half of the host's
/// memory.
fn sized(mode: &str, bytes: u64) -> String {
    let inodes = (bytes / BYTES_PER_INODE).max(INODES_MIN);
    format!("{mode},size={bytes},nr_inodes={inodes}")
}

/// What comes from outside of the new root: mounts that are not attached yet, and the
/// content of files.
pub(crate) struct Outside {
    root: OwnedFd,
    pub(crate) found: Found,
    devices: Devices,
    files: Vec<(PathBuf, Vec<u8>)>,
    /// Whether each process gets an overlay over the root.
    is_writable: bool,
    proc: OwnedFd,
}

/// Opens the root, which is the current folder, and what else comes from the host, in
/// this process's new mount namespace. `own_devices` are the link's own device files, if
/// they could be made.
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
    // Last, since the overlay is put together on the host's /dev (see `root_overlay`). A
    // writable root needs none here: each process gets an overlay over it anyway.
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

/// Reads the host's files that the link needs. The link gets copies: through a mount of
/// the file itself it could lock the host's file, and watch when the host reads it.
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

/// The most that is copied of a file of the host; the rest is cut off. What links need of
/// it (host names, resolvers) takes a few KiB, and each copy takes memory.
const HOST_FILE_BYTES_MAX: u64 = 1 << 20;

fn io_failure(step: Step, subject: &str) -> impl FnOnce(std::io::Error) -> Failure + use<'_> {
    move |error| Failure::io(step, subject, &error)
}

/// The attributes of every mount from outside.
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

/// Makes the `/proc` of the zygote's own PID namespace. It must be made while the host's
/// is still visible: in a user namespace, the kernel allows a new `/proc` only where
/// another one can be seen.
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
    // The old root is mounted on top of the new one now, where `..` would still find it.
    // So it has to go before any path of the image is followed.
    rustix::process::fchdir(&host).map_err(failure())?;
    rustix::mount::unmount(".", UnmountFlags::DETACH).map_err(failure())?;
    rustix::process::chdir("/").map_err(failure())
}

/// Attaches the rest. If the image has symbolic links in these places, they can no longer
/// lead out of the image.
pub(crate) fn furnish(outside: Outside) -> Result<(), Failure> {
    outside.devices.attach()?;
    mount_files(&outside.files, outside.is_writable)?;
    attach(&outside.proc, Path::new("/proc"), Step::MountProc)
}

/// Mounts copies of files over the image's files. The copies are in a file system in
/// memory that lies on `/proc` meanwhile, a folder that every root has, and is detached
/// in the end.
fn mount_files(files: &[(PathBuf, Vec<u8>)], is_writable: bool) -> Result<(), Failure> {
    const SCAFFOLD: &str = "/proc";
    if files.is_empty() {
        return Ok(());
    }
    let step = Step::MountHostFiles;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    // Room for both files at their most, twice over.
    rustix::mount::mount("tmpfs", SCAFFOLD, "tmpfs", flags, Some(c"mode=755,size=4m"))
        .map_err(failure(step, Path::new(SCAFFOLD)))?;
    for (number, (path, content)) in files.iter().enumerate() {
        let copy = format!("{SCAFFOLD}/{number}");
        std::fs::write(&copy, content).map_err(io_failure(step, &copy))?;
        let mount = clone_mount(Path::new(&copy), path, step)?;
        sys::mount_set_attributes(mount.as_fd(), HARMLESS | MountAttrFlags::MOUNT_ATTR_NOEXEC)
            .map_err(|errno| Failure::new(step, shown(path), errno))?;
        if is_writable {
            attach(&mount, &resolved(path)?, step)?;
            continue;
        }
        // Over a symbolic link itself, and not where it leads: that may be missing, or a
        // place that no process sees.
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        rustix::mount::move_mount(&mount, "", CWD, path, flags).map_err(failure(step, path))?;
    }
    rustix::mount::unmount(SCAFFOLD, UnmountFlags::DETACH)
        .map_err(failure(step, Path::new(SCAFFOLD)))
}

/// The path of a file of the image with links resolved. A mount in an overlay needs that:
/// a link that begins with `/` would lead out of the overlay. Fails if the file is in a
/// folder of which each process has its own.
fn resolved(path: &Path) -> Result<PathBuf, Failure> {
    let step = Step::MountHostFiles;
    let place = std::fs::canonicalize(path);
    let place = place.map_err(|error| Failure::io(step, shown(path), &error))?;
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

/// Attaches a mount at a path, links followed.
fn attach(mount: &OwnedFd, path: &Path, step: Step) -> Result<(), Failure> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_SYMLINKS;
    rustix::mount::move_mount(mount, "", CWD, path, flags).map_err(failure(step, path))
}

/// A step that init takes anew for each process.
pub(crate) enum Operation {
    Mount(PrivateMount),
    /// Makes a folder, unless it exists.
    MakeFolder {
        path: CString,
        mode: u32,
        step: Step,
    },
    /// Makes this folder the root, and unmounts the old root.
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

/// The flags of every mount that a process has for itself.
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
    terminals::plan(spec, prefix, &mut plan)?;
    if spec.writable {
        let root = text(OVERLAY_ROOT.as_bytes(), Step::MountOverlay)?;
        plan.push(Operation::ChangeRoot(root));
    }
    Ok(plan)
}

/// Mounts the process's own `/proc`.
///
/// It is read-only, because for most settings in it the kernel checks the user outside,
/// and not capabilities; if ids are not shifted, that user may be root. Unlike mounts
/// over parts of `/proc`, this costs nothing. And it hides init (`hidepid`), which would
/// show the runner's cgroup, the zygote's memory, and how long earlier processes took.
fn proc(target: &str, flags: libc::c_ulong) -> Result<Operation, Failure> {
    let flags = flags | PRIVATE | libc::MS_NOEXEC | libc::MS_RDONLY;
    let (target, options) = (target.as_bytes(), "hidepid=ptraceable");
    mount("proc", target, "proc", flags, options, Step::MountProc)
}

/// Mounts `/proc` again, with the flags that it has. The kernel then forgets which names
/// were looked up there: it gives each a number and the time of its first lookup, for
/// every process to see.
pub(crate) fn forget_proc() -> Result<Operation, Failure> {
    proc("/proc", libc::MS_REMOUNT)
}

/// Mounts something empty over what must not be seen in `/proc`. For folders that is
/// `/dev/shm`: before the private folders are mounted it is empty, and nobody can write
/// to it.
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

/// Where init puts together the overlay of a process with a writable root.
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
    // An overlay does not show the mounts in its lower folder, so they are repeated in
    // it.
    let files = network::files(spec.network).iter().map(Path::new);
    let files = files.filter(|path| path.exists()).map(resolved);
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

/// The folder that hides `path`, because each process has a folder of its own there;
/// `None` if processes see the path. It must exist.
pub(crate) fn hidden_by(path: &Path, step: Step) -> Result<Option<PathBuf>, Failure> {
    let place = std::fs::canonicalize(path);
    let place = place.map_err(|error| Failure::io(step, shown(path), &error))?;
    let mut own = own_folders()?.into_iter();
    Ok(own.find(|folder| place.starts_with(folder) && place != *folder))
}

/// The folders whose content in the image no process sees, because something is mounted
/// on each.
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
