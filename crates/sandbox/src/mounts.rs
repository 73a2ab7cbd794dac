//! Mounts: what the zygote prepares once for its link, and the plan of what
//! remains to be mounted for each process.
//!
//! What comes from the host is opened before the root changes ([`gather`]) and
//! put in place when nothing of the host is left ([`furnish`]), so that no path
//! of the image, which may hold any symbolic link, is ever followed on the host.

use std::ffi::CString;
use std::fs::Permissions;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, UnmountFlags, fsconfig_create, fsmount, fsopen,
};

use crate::failure::{Failure, Step};
use crate::spec::{Spec, Writable};
use crate::user::Identity;
use crate::wire::{Found, Order};
use crate::{network, sys};
use additions::{Addition, Bind, Placed};
use inside::below;
use scaffold::{EMPTY, FILES, IMAGE, PROC, ROOT};

mod additions;
mod data;
mod devices;
mod inside;
mod layer;
mod masks;
mod private;
mod root_overlay;
mod scaffold;
mod small_files;
mod terminals;

pub(crate) use data::{Data, check as check_data, open as open_data};
pub(crate) use devices::{Devices, own_devices};
pub(crate) use private::{OwnFolders, changeable};
pub(crate) use scaffold::{SCRATCH, View};
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
    scaffold: OwnedFd,
    image: OwnedFd,
    has_own_devices: bool,
    devices: Devices,
    network_files: Vec<(PathBuf, Vec<u8>)>,
    small_files: Vec<(PathBuf, Vec<u8>)>,
    small_folders: Vec<PathBuf>,
    data: Vec<Data>,
    proc: OwnedFd,
}

/// Opens the root, which is the current folder, and what else comes from the host, in
/// this process's new mount namespace. `own_devices` are the link's own device files, if
/// they could be made.
pub(crate) fn gather(
    order: &Order,
    own_devices: Option<OwnedFd>,
    data: Option<Vec<Data>>,
) -> Result<Outside, Failure> {
    let spec = &order.spec;
    rustix::mount::mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )
    .map_err(failure(Step::CloneRoot, &spec.root))?;
    let devices = match own_devices {
        Some(own) => Devices::Own(own),
        None => devices::of_the_host()?,
    };
    let network_files = host_files(spec)?;
    let bytes = spec.files.iter().map(|file| file.content.as_ref().len());
    let bytes = bytes.chain(network_files.iter().map(|(_, content)| content.len()));
    let scaffold = scaffold::make(bytes.sum::<usize>() as u64);
    Ok(Outside {
        image: clone_root(spec)?,
        scaffold: scaffold.map_err(failure(Step::PivotRoot, Path::new("/")))?,
        has_own_devices: devices.are_own(),
        devices,
        network_files,
        small_files: small_files::files(order),
        small_folders: small_files::folders(),
        data: match data {
            Some(data) => data,
            None => data::open(spec)?,
        },
        proc: make_proc().map_err(failure(Step::MountProc, Path::new("/proc")))?,
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

/// Makes the scaffold the root of this mount namespace.
pub(crate) fn change_root(outside: &Outside) -> Result<(), Failure> {
    let failure = || failure(Step::PivotRoot, Path::new("/"));
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let host = rustix::fs::open("/", flags, Mode::empty()).map_err(failure())?;
    attach(&outside.scaffold, Path::new("."), Step::PivotRoot)?;
    rustix::process::fchdir(&outside.scaffold).map_err(failure())?;
    rustix::process::pivot_root(".", ".").map_err(failure())?;
    // The old root is mounted on top of the new one now, where `..` would still find it.
    // So it has to go before any path of the image is followed.
    rustix::process::fchdir(&host).map_err(failure())?;
    rustix::mount::unmount(".", UnmountFlags::DETACH).map_err(failure())?;
    rustix::process::chdir("/").map_err(failure())
}

/// What has been put in place.
pub(crate) struct Furnished {
    pub(crate) own: OwnFolders,
    placed: Placed,
    hides_image_path: bool,
    has_own_devices: bool,
}

impl Furnished {
    pub(crate) fn found(&self, is_bounded: bool) -> Found {
        Found {
            hides_image_path: self.hides_image_path,
            has_own_devices: self.has_own_devices,
            is_bounded,
        }
    }
}

/// Attaches the rest. If the image has symbolic links in these places, they can no longer
/// lead out of the image.
pub(crate) fn furnish(
    outside: Outside,
    spec: &Spec,
    identity: &Identity,
) -> Result<Furnished, Failure> {
    attach(&outside.image, Path::new(IMAGE), Step::CloneRoot)?;
    attach(&outside.proc, Path::new(PROC), Step::MountProc)?;
    let own = OwnFolders::find()?;
    let mut additions = additions(spec, identity, &outside.network_files)?;
    add_data(spec, &outside.data, &mut additions)?;
    let placed = additions::place(&additions, &own)?;
    add_small(&outside, &own, &placed)?;
    let hides_image_path = mount_root(spec, &placed)?;
    outside.devices.attach(&below(Path::new(ROOT), &own.dev))?;
    mount_for_all(&placed.binds)?;
    let proc = clone_mount(Path::new(PROC), Path::new("/proc"), Step::MountProc)?;
    attach(&proc, &below(Path::new(ROOT), &own.proc), Step::MountProc)?;
    // And so is all that is mounted of it.
    sys::mount_set_attributes(outside.scaffold.as_fd(), HARMLESS)
        .map_err(|errno| Failure::new(Step::AddFiles, "", errno))?;
    Ok(Furnished {
        own,
        placed,
        hides_image_path,
        has_own_devices: outside.has_own_devices,
    })
}

/// What the root has beside its image, each put into the scaffold.
fn additions(
    spec: &Spec,
    identity: &Identity,
    network_files: &[(PathBuf, Vec<u8>)],
) -> Result<Vec<Addition>, Failure> {
    let mut additions = Vec::new();
    let of_network = network_files.iter().map(|(path, content)| {
        let step = Step::MountHostFiles;
        (path.as_path(), &content[..], 0o644, None, step)
    });
    let of_link = spec.files.iter().map(|file| {
        let owner = file.of_user.then_some((identity.uid, identity.gid));
        let (path, content) = (file.path.as_path(), file.content.as_ref());
        (path, content, file.mode, owner, Step::AddFiles)
    });
    for (number, (path, content, mode, owner, step)) in of_network.chain(of_link).enumerate() {
        let source = Path::new(FILES).join(number.to_string());
        write(&source, content, mode, owner).map_err(io_failure(step, &shown(path)))?;
        additions.push(Addition {
            path: path.to_owned(),
            source,
            is_folder: false,
            replaces_link: step == Step::MountHostFiles,
            step,
        });
    }
    Ok(additions)
}

fn add_data(spec: &Spec, data: &[Data], additions: &mut Vec<Addition>) -> Result<(), Failure> {
    for (number, (wanted, data)) in spec.data.iter().zip(data).enumerate() {
        let (source, is_folder) = data::mount(data, &wanted.source, number)?;
        additions.push(Addition {
            path: wanted.path.clone(),
            source,
            is_folder,
            replaces_link: false,
            step: Step::MountData,
        });
    }
    Ok(())
}

/// Adds the small files to the link's layer, other than where the image or the link has
/// something else in mind.
fn add_small(outside: &Outside, own: &OwnFolders, placed: &Placed) -> Result<(), Failure> {
    let spot = |path: &Path| {
        let spot = inside::find(Path::new(IMAGE), path, |at| own.is_own(at)).ok()?;
        let is_taken = |bind: &Bind| {
            spot.path.starts_with(&bind.target) || bind.target.starts_with(&spot.path)
        };
        let is_hidden = own.hiding(&spot.path).is_some();
        (!is_hidden && !placed.binds.iter().any(is_taken)).then_some(spot)
    };
    for (path, content) in &outside.small_files {
        if let Some(spot) = spot(path) {
            layer::add_small_file(&spot, content)?;
        }
    }
    for path in &outside.small_folders {
        if let Some(spot) = spot(path) {
            layer::add_small_folder(&spot)?;
        }
    }
    Ok(())
}

fn write(path: &Path, content: &[u8], mode: u32, owner: Option<(u32, u32)>) -> std::io::Result<()> {
    std::fs::write(path, content)?;
    if let Some((user, group)) = owner {
        chown(path, Some(user), Some(group))?;
    }
    std::fs::set_permissions(path, Permissions::from_mode(mode & 0o777))
}

/// Mounts the root, with what the image lacks. Says whether that hides where it is
/// stored.
fn mount_root(spec: &Spec, placed: &Placed) -> Result<bool, Failure> {
    for (path, is_folder, step) in &placed.missing {
        layer::add_point(path, *is_folder, *step)?;
    }
    let overlay = root_overlay::make(root_overlay::LAYERS, "image");
    match (overlay, spec.writable, placed.missing.first()) {
        (Ok(overlay), ..) => {
            attach(&overlay, Path::new(ROOT), Step::CloneRoot)?;
            Ok(true)
        }
        (Err(error), Writable::Private, _) => {
            Err(failure(Step::MountOverlay, Path::new("/"))(error))
        }
        (Err(_), Writable::No, Some((path, _, step))) => Err(Failure::because(
            *step,
            shown(path),
            "the image has nothing there, and on this host nothing can be added to it; have \
             something there in the image, or keep images on a file system that is no overlay \
             of overlays",
        )),
        (Err(_), Writable::No, None) => {
            let image = clone_mount(Path::new(IMAGE), &spec.root, Step::CloneRoot)?;
            attach(&image, Path::new(ROOT), Step::CloneRoot)?;
            Ok(false)
        }
    }
}

/// Mounts what belongs into the root that all processes share, which is also where the
/// zygote looks for things.
fn mount_for_all(binds: &[Bind]) -> Result<(), Failure> {
    for bind in binds.iter().filter(|bind| !bind.is_in_own) {
        let mount = clone_mount(&bind.source, &bind.target, bind.step)?;
        sys::mount_set_attributes(mount.as_fd(), HARMLESS)
            .map_err(|errno| Failure::new(bind.step, shown(&bind.target), errno))?;
        // In the place of a link of that name, and not where that leads.
        attach(&mount, &below(Path::new(ROOT), &bind.target), bind.step)?;
    }
    Ok(())
}

fn failure(step: Step, subject: &Path) -> impl FnOnce(rustix::io::Errno) -> Failure + use<> {
    let subject = shown(subject);
    move |error| Failure::new(step, subject, error.raw_os_error())
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// Puts a mount in place: that of a link of the image, where there is one.
fn attach(mount: &OwnedFd, path: &Path, step: Step) -> Result<(), Failure> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
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
    /// To mount something on.
    MakeFile {
        path: CString,
        step: Step,
    },
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

/// That somebody has looked into a folder is no change of it.
const SCRATCH_FLAGS: libc::c_ulong = PRIVATE | libc::MS_NODIRATIME;

/// In a process's file system in memory: what it writes to its root, what the kernel
/// needs for that, and where the root is.
const UPPER: &str = "upper";
const WORK: &str = "work";
const PRIVATE_ROOT: &str = "root";

fn scratch(path: impl AsRef<Path>) -> PathBuf {
    Path::new("/scratch").join(path)
}

/// The mounts of each process, in the scaffold, and the folder that becomes its root.
pub(crate) struct MountPlan {
    pub(crate) operations: Vec<Operation>,
    pub(crate) root: CString,
}

/// Plans the mounts of each process.
pub(crate) fn plan(spec: &Spec, furnished: &Furnished) -> Result<MountPlan, Failure> {
    let Furnished { own, placed, .. } = furnished;
    let mut plan = Vec::new();
    let options = sized("mode=755", private::bytes(spec));
    let target = scratch("");
    let step = Step::MountPrivate;
    plan.push(mount(
        "tmpfs",
        &target,
        "tmpfs",
        SCRATCH_FLAGS,
        &options,
        step,
    )?);
    let root = match spec.writable {
        Writable::No => PathBuf::from(ROOT),
        Writable::Private => plan_overlay(own, &mut plan)?,
    };
    let proc_at = below(&root, &own.proc);
    plan.push(proc(&proc_at, 0)?);
    plan_masks(&below(Path::new(ROOT), &own.dev), &proc_at, &mut plan)?;
    private::plan_folders(own, &placed.points, &mut plan)?;
    private::plan_mounts(own, &root, &mut plan)?;
    terminals::plan(spec, &below(&root, &own.dev), &mut plan)?;
    let is_shared = |bound: &&Bind| !bound.is_in_own && spec.writable == Writable::No;
    for bound in placed.binds.iter().filter(|bound| !is_shared(bound)) {
        let target = below(&root, &bound.target);
        plan.push(bind(&bound.source, &target, 0, bound.step)?);
    }
    Ok(MountPlan {
        operations: plan,
        root: text(root.as_os_str().as_bytes(), Step::MountPrivate)?,
    })
}

/// Mounts the process's own `/proc`.
///
/// It is read-only, because for most settings in it the kernel checks the user outside,
/// and not capabilities; if ids are not shifted, that user may be root. Unlike mounts
/// over parts of `/proc`, this costs nothing. And it hides init (`hidepid`), which would
/// show the runner's cgroup, the zygote's memory, and how long earlier processes took.
fn proc(target: &Path, flags: libc::c_ulong) -> Result<Operation, Failure> {
    let flags = flags | PRIVATE | libc::MS_NOEXEC | libc::MS_RDONLY;
    let options = "hidepid=ptraceable";
    mount("proc", target, "proc", flags, options, Step::MountProc)
}

/// Mounts `/proc` again, with the flags that it has. The kernel then forgets which names
/// were looked up there: it gives each a number and the time of its first lookup, for
/// every process to see.
pub(crate) fn forget_proc(own: &OwnFolders) -> Result<Operation, Failure> {
    proc(&own.proc, libc::MS_REMOUNT)
}

/// Puts something empty on what is not to be seen in `/proc`.
fn plan_masks(dev: &Path, proc: &Path, plan: &mut Vec<Operation>) -> Result<(), Failure> {
    let null = dev.join("null");
    for (name, kind) in masks::needed() {
        let empty = match kind {
            masks::Kind::File => &*null,
            masks::Kind::Folder => Path::new(EMPTY),
        };
        plan.push(bind(empty, &proc.join(name), 0, Step::MountProc)?);
    }
    Ok(())
}

/// Plans a root that the process may write to: an overlay of its own. Gives its place.
fn plan_overlay(own: &OwnFolders, plan: &mut Vec<Operation>) -> Result<PathBuf, Failure> {
    let step = Step::MountOverlay;
    let root = scratch(PRIVATE_ROOT);
    for folder in [UPPER, WORK, PRIVATE_ROOT] {
        plan.push(folder_of(&scratch(folder), 0o755, step)?);
    }
    let [upper, work] = [UPPER, WORK].map(|folder| shown(&scratch(folder)));
    let options = root_overlay::options(&upper, &work);
    let flags = PRIVATE | libc::MS_NODIRATIME;
    plan.push(mount("overlay", &root, "overlay", flags, &options, step)?);
    // An overlay does not show the mounts in its lower folder, so they are repeated in
    // it.
    let dev = below(Path::new(ROOT), &own.dev);
    let target = below(&root, &own.dev);
    plan.push(bind(&dev, &target, libc::MS_REC, step)?);
    Ok(root)
}

fn bind(
    source: &Path,
    target: &Path,
    flags: libc::c_ulong,
    step: Step,
) -> Result<Operation, Failure> {
    mount(source, target, "", libc::MS_BIND | flags, "", step)
}

fn mount(
    source: impl AsRef<Path>,
    target: &Path,
    file_system: &str,
    flags: libc::c_ulong,
    data: &str,
    step: Step,
) -> Result<Operation, Failure> {
    Ok(Operation::Mount(PrivateMount {
        source: text(source.as_ref().as_os_str().as_bytes(), step)?,
        target: text(target.as_os_str().as_bytes(), step)?,
        file_system: text(file_system.as_bytes(), step)?,
        flags,
        data: text(data.as_bytes(), step)?,
        step,
    }))
}

fn folder_of(path: &Path, mode: u32, step: Step) -> Result<Operation, Failure> {
    let path = text(path.as_os_str().as_bytes(), step)?;
    Ok(Operation::MakeFolder { path, mode, step })
}

fn text(text: &[u8], step: Step) -> Result<CString, Failure> {
    CString::new(text).map_err(|_| Failure::new(step, String::from_utf8_lossy(text), libc::EINVAL))
}
