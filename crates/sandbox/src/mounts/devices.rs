//! `/dev`: a small, read-only one that all processes of a link share.
//!
//! Its device files are the link's own, if they can be made. Through the host's files a
//! link could lock what programs of the host lock, leave marks for other links, and watch
//! when others open them. Making device files, and a file system in which they can be
//! opened, takes a capability on the host (CAP_MKNOD); so it is done before the link's
//! namespaces are entered. Without that capability, the link sees the host's files.

use std::path::Path;

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, Uid, makedev};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, fsconfig_create, fsconfig_set_string,
    fsmount, fsopen,
};

use super::{attach, clone_mount, failure, shown, terminals};
use crate::failure::{Failure, Step};
use crate::spec::Ids;
use crate::sys;

/// The devices that a process sees, with their major and minor numbers. None of them
/// stores anything.
///
/// No `tty`: whoever writes to its terminal through that file changes the file's times,
/// also where it is mounted read-only, and the file is the same for all places.
const DEVICES: [(&str, u32, u32); 5] = [
    ("full", 1, 7),
    ("null", 1, 3),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("zero", 1, 5),
];

/// The symbolic links in `/dev`: target and name.
const LINKS: [(&str, &str); 5] = [
    ("pts/ptmx", "ptmx"),
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
];

/// The folders on which something is mounted for each process. Before that, the first one
/// masks folders of `/proc`.
const FOLDERS: [&str; 2] = ["shm", terminals::FOLDER];

/// What `/dev` is made of.
pub(crate) enum Devices {
    /// A mount with all of it.
    Own(OwnedFd),
    /// Mounts of the host's files, by their names.
    OfTheHost(Vec<(&'static str, OwnedFd)>),
}

const READ_ONLY: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_RDONLY
    .union(MountAttrFlags::MOUNT_ATTR_NOSUID)
    .union(MountAttrFlags::MOUNT_ATTR_NOEXEC);

/// Makes device files of the link's own, if this process may: a mount that is not
/// attached yet.
pub(crate) fn own_devices(ids: Ids) -> Option<OwnedFd> {
    let Ids::Shifted { base } = ids else {
        return None;
    };
    let mount = make(base).ok()?;
    // Only opening one shows whether the file system's user namespace and the cgroup's
    // policy for devices allow it.
    let null = rustix::fs::openat(
        &mount,
        "null",
        OFlags::WRONLY | OFlags::CLOEXEC,
        Mode::empty(),
    );
    null.is_ok().then_some(mount)
}

/// Makes a file system with the devices. All of it belongs to `root`, the link's root,
/// who is nobody outside.
fn make(root: u32) -> rustix::io::Result<OwnedFd> {
    let system = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in [
        ("mode", "755"),
        ("size", "64k"),
        ("uid", &root.to_string()),
        ("gid", &root.to_string()),
    ] {
        fsconfig_set_string(&system, key, value)?;
    }
    fsconfig_create(&system)?;
    let mount = fsmount(
        &system,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::empty(),
    )?;
    let owner = (Some(Uid::from_raw(root)), Some(Gid::from_raw(root)));
    for (name, major, minor) in DEVICES {
        let mode = Mode::from_raw_mode(0o666);
        rustix::fs::mknodat(
            &mount,
            name,
            FileType::CharacterDevice,
            mode,
            makedev(major, minor),
        )?;
        // Whatever the umask is.
        rustix::fs::chmodat(&mount, name, mode, AtFlags::empty())?;
        rustix::fs::chownat(&mount, name, owner.0, owner.1, AtFlags::empty())?;
    }
    for (target, link) in LINKS {
        rustix::fs::symlinkat(target, &mount, link)?;
        rustix::fs::chownat(&mount, link, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)?;
    }
    for folder in FOLDERS {
        rustix::fs::mkdirat(&mount, folder, Mode::RWXU)?;
        rustix::fs::chownat(&mount, folder, owner.0, owner.1, AtFlags::empty())?;
    }
    sys::mount_set_attributes(mount.as_fd(), READ_ONLY)
        .map_err(rustix::io::Errno::from_raw_os_error)?;
    Ok(mount)
}

/// Clones the mount of each of the host's device files.
pub(super) fn of_the_host() -> Result<Devices, Failure> {
    let mut devices = Vec::new();
    for (name, ..) in DEVICES {
        let path = Path::new("/dev").join(name);
        let mount = clone_mount(&path, &path, Step::MountDevices)?;
        // Read-only protects the host's file itself: its times, its mode and its owner.
        // The device can still be written to.
        sys::mount_set_attributes(mount.as_fd(), READ_ONLY)
            .map_err(|errno| Failure::new(Step::MountDevices, shown(&path), errno))?;
        devices.push((name, mount));
    }
    Ok(Devices::OfTheHost(devices))
}

impl Devices {
    pub(super) fn are_own(&self) -> bool {
        matches!(self, Devices::Own(_))
    }

    /// Puts them in place, in that folder.
    pub(super) fn attach(&self, folder: &Path) -> Result<(), Failure> {
        match self {
            Devices::Own(mount) => attach(mount, folder, Step::MountDevices),
            Devices::OfTheHost(devices) => mount_each(devices, folder),
        }
    }
}

fn mount_each(devices: &[(&str, OwnedFd)], folder: &Path) -> Result<(), Failure> {
    let failure = |subject: &Path| failure(Step::MountDevices, subject);
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    rustix::mount::mount("tmpfs", folder, "tmpfs", flags, Some(c"mode=755,size=64k"))
        .map_err(failure(folder))?;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let mounted = rustix::fs::open(folder, flags, Mode::empty()).map_err(failure(folder))?;
    for (name, mount) in devices {
        let path = folder.join(name);
        rustix::fs::mknodat(CWD, &path, FileType::RegularFile, Mode::RUSR, 0)
            .map_err(failure(&path))?;
        attach(mount, &path, Step::MountDevices)?;
    }
    for (target, link) in LINKS {
        let link = folder.join(link);
        rustix::fs::symlink(target, &link).map_err(failure(&link))?;
    }
    for name in FOLDERS {
        let made = folder.join(name);
        rustix::fs::mkdir(&made, Mode::RWXU).map_err(failure(&made))?;
    }
    sys::mount_set_attributes(mounted.as_fd(), READ_ONLY)
        .map_err(|errno| Failure::new(Step::MountDevices, "/dev", errno))
}
