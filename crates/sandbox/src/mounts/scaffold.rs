//! The scaffold: an empty file system in memory, the root of a link's mount namespace,
//! in which the roots of its processes are put together. Its paths are ours alone. No
//! process sees it: its root is a folder in here (`chroot`), and nothing that it has open
//! lies outside of that. The kernel lists to it only the mounts that it can reach.
//!
//! A root is changed so, and not by mounting one over the other and taking that away,
//! because the kernel waits for all processors whenever a mount is taken away.

use std::ffi::CStr;
use std::path::Path;

use rustix::fd::OwnedFd;
use rustix::fs::Mode;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount,
    fsopen,
};

use super::failure;
use crate::failure::{Failure, Step};

/// The image, as it was unpacked.
pub(super) const IMAGE: &str = "/image";
/// What lies over the image, for all processes of the link: `layer.rs`.
pub(super) const LAYER: &str = "/layer";
/// The root without anything that is a process's own: of the zygote while it looks for
/// things, and of processes that can write nothing in it.
pub(super) const ROOT: &str = "/root";
/// Files of the link, by number.
pub(super) const FILES: &str = "/files";
/// Folders with mount points in them, by number, for paths in private folders.
pub(super) const FOLDERS: &str = "/folders";
/// Data of the link, by number.
pub(super) const DATA: &str = "/data";
/// Always empty.
pub(super) const EMPTY: &str = "/empty";
/// That of the zygote's namespace.
pub(super) const PROC: &str = "/proc";
/// Where each process has a file system in memory.
pub(crate) const SCRATCH: &CStr = c"/scratch";

const PLACES: [&str; 9] = [
    IMAGE, LAYER, ROOT, FILES, FOLDERS, DATA, EMPTY, PROC, "/scratch",
];

/// What it takes without what is put into it.
const BYTES_MIN: u64 = 4 << 20;

/// Makes one with room for files of that size, as a mount that is in no place yet.
pub(super) fn make(bytes: u64) -> rustix::io::Result<OwnedFd> {
    let system = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let size = bytes.saturating_add(BYTES_MIN);
    for (key, value) in [("mode", "755"), ("size", &size.to_string())] {
        fsconfig_set_string(&system, key, value)?;
    }
    fsconfig_create(&system)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    let mount = fsmount(&system, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    for place in PLACES {
        let mode = Mode::RWXU | Mode::RGRP | Mode::XGRP | Mode::ROTH | Mode::XOTH;
        rustix::fs::mkdirat(&mount, place.trim_start_matches('/'), mode)?;
    }
    Ok(mount)
}

/// While it is there, this process sees the root as a process of the link will: each
/// path that begins with `/` is the image's. It stays in a folder outside, for the way
/// back.
pub(crate) struct View(());

impl View {
    pub(crate) fn enter() -> Result<View, Failure> {
        rustix::process::chdir("/").map_err(failure(Step::ChangeRoot, Path::new("/")))?;
        rustix::process::chroot(ROOT).map_err(failure(Step::ChangeRoot, Path::new(ROOT)))?;
        Ok(View(()))
    }

    /// Goes back to the scaffold.
    pub(crate) fn leave(self) -> Result<(), Failure> {
        rustix::process::chroot(".").map_err(failure(Step::ChangeRoot, Path::new("/")))
    }
}
