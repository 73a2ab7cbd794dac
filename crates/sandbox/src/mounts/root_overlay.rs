//! An overlay of the image's root and nothing, in the root's place. A
//! process reads in `/proc/self/mountinfo` which folder of its file system each
//! mount shows; of an overlay it reads none. So it does not see where on the host
//! the image is stored. And what two links do to one file of an image that they
//! share (locks, change notices) does not reach from one to the other.
//!
//! Where the kernel cannot do it (the store's file system is a stack of overlays
//! already, or the kernel knows none), the root is shown without it: what is
//! lost is the secrecy of a path, and not a wall.

use std::path::Path;

use rustix::fd::OwnedFd;
use rustix::fs::{CWD, Mode};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen,
};

/// Where it is put together: a folder that every host has, covered from then on in this
/// mount namespace alone. What covers it goes when the host's root goes: to take it away
/// by itself would cost a millisecond more, in which the kernel waits for all processors.
const SCAFFOLD: &str = "/dev";
const BELOW: &str = "/dev/image";
const EMPTY: &str = "/dev/nothing";

/// An overlay over `root`, a mount that is not in place yet. Whether there is one or not,
/// the host's `/dev` is not there any more.
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
    // It wants two folders at least where none of them can be written.
    fsconfig_set_string(&overlay, "lowerdir", format!("{BELOW}:{EMPTY}"))?;
    fsconfig_set_string(&overlay, "source", "image")?;
    // Else folders have a number that is given when they are first looked for, which
    // tells all processes of the link what others have looked for, and when.
    fsconfig_set_string(&overlay, "xino", "on")?;
    // What says "trusted" in an image is not trusted.
    fsconfig_set_flag(&overlay, "userxattr")?;
    fsconfig_create(&overlay)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV;
    fsmount(&overlay, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}
