//! The link's root: an overlay of the image with the link's layer over it. A
//! process reads in `/proc/self/mountinfo` which folder of its file system each
//! mount shows; of an overlay it reads none. So it does not see where on the host
//! the image is stored. And what two links do to one file of an image that they
//! share (locks, change notices) does not reach from one to the other.
//!
//! Where the kernel cannot do it (the store's file system is a stack of overlays
//! already, or the kernel knows none), a root that nobody may write to is shown without
//! it: what is lost is the secrecy of a path, and not a wall.

use rustix::fd::OwnedFd;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount,
    fsopen,
};

use super::HARMLESS;

/// The layers of a link's root, the topmost first: `scaffold::LAYER` and
/// `scaffold::IMAGE`.
pub(super) const LAYERS: &str = "/layer:/image";

/// As options of `mount`, for who makes one for each process: what that writes is in
/// these folders.
pub(super) fn options(upper: &str, work: &str) -> String {
    format!("lowerdir={LAYERS},upperdir={upper},workdir={work},xino=on,userxattr")
}

/// Makes one of two layers for all processes, which nobody can write to: a mount that is
/// in no place yet. The kernel shows `source` for where it comes from.
pub(super) fn make(layers: &str, source: &str) -> rustix::io::Result<OwnedFd> {
    let overlay = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&overlay, "lowerdir", layers)?;
    fsconfig_set_string(&overlay, "source", source)?;
    // Otherwise a folder gets its inode number at its first lookup, which would show all
    // processes of the link what others have looked up, and in which order.
    fsconfig_set_string(&overlay, "xino", "on")?;
    // Do not follow `trusted.overlay.*` attributes of an image's files: images are not
    // trusted.
    fsconfig_set_flag(&overlay, "userxattr")?;
    fsconfig_create(&overlay)?;
    fsmount(&overlay, FsMountFlags::FSMOUNT_CLOEXEC, HARMLESS)
}
