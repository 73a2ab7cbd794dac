//! An overlay of the image's root and an empty folder, in the root's place. A process can
//! read in `/proc/self/mountinfo` which folder of its file system each mount shows, but
//! not for an overlay. So it does not see where on the host the image is stored. And if
//! two links share an image, the locks and change notices (inotify) of one on a file do
//! not reach the other.
//!
//! If the kernel cannot do that (the store's file system is a stack of overlays already,
//! or the kernel has no overlays), the root is mounted without it: processes then see
//! that path and other links' locks, but can read and write nothing more.

use std::path::Path;

use rustix::fd::OwnedFd;
use rustix::fs::{CWD, Mode};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen,
};

/// Where the overlay is put together: a folder that every host has, covered in this mount
/// namespace alone. The cover goes when the host's root is unmounted. Unmounting it by
/// itself would take a millisecond more, in which the kernel waits for all processors.
const SCAFFOLD: &str = "/dev";
const BELOW: &str = "/dev/image";
const EMPTY: &str = "/dev/nothing";

/// Makes an overlay over `root`; neither mount is attached. Whether it succeeds or not,
/// the host's `/dev` is covered afterwards.
pub(super) fn over(root: &OwnedFd) -> rustix::io::Result<OwnedFd> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount(
        "tmpfs",
        SCAFFOLD,
        "tmpfs",
        flags,
        Some(c"mode=700,size=64k"),
    )?;
    for folder in [BELOW, EMPTY] {
        rustix::fs::mkdir(folder, Mode::RWXU | Mode::XGRP | Mode::XOTH)?;
    }
    let place = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    rustix::mount::move_mount(root, "", CWD, Path::new(BELOW), place)?;
    let overlay = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    // Without a writable folder, an overlay needs two others at least.
    fsconfig_set_string(&overlay, "lowerdir", format!("{BELOW}:{EMPTY}"))?;
    fsconfig_set_string(&overlay, "source", "image")?;
    // Otherwise a folder gets its inode number at its first lookup, which would show all
    // processes of the link what others have looked up, and in which order.
    fsconfig_set_string(&overlay, "xino", "on")?;
    // Do not follow `trusted.overlay.*` attributes of an image's files: images are not
    // trusted.
    fsconfig_set_flag(&overlay, "userxattr")?;
    fsconfig_create(&overlay)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV;
    fsmount(&overlay, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}
