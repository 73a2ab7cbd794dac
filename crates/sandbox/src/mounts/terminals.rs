//! `/dev/pts`: the pseudo-terminals that a process makes, in a file system of its own for
//! each place.
//!
//! It is mounted read-only, so that mode, owner and times of its files stay as they are;
//! that does not keep a process from opening them. What it writes to a terminal still
//! changes the times of [`MULTIPLEXER`], which `traces.rs` looks at. The terminals
//! themselves, with their numbers, go when they are closed.

use std::ffi::CStr;
use std::fs;
use std::path::Path;

use super::{Operation, mount};
use crate::failure::{Failure, Step};
use crate::spec::{Ids, Spec};

/// The file that makes a pseudo-terminal when it is opened.
pub(crate) const MULTIPLEXER: &CStr = c"/dev/pts/ptmx";

/// The folder, in `/dev`.
pub(super) const FOLDER: &str = "pts";

/// How many a place may have at a time. All places of a host share `kernel.pty.max`, 4,096,
/// and each takes some 60 KiB of the kernel's memory that no cgroup counts.
const TERMINALS_MAX: u32 = 8;

/// Plans the mount, in a root whose `/dev` is there, if this kernel has it for this link.
pub(super) fn plan(spec: &Spec, dev: &Path, plan: &mut Vec<Operation>) -> Result<(), Failure> {
    if !is_known() || !has_root() {
        return Ok(());
    }
    // The C library wants a terminal to belong to the group `tty`, whose number is 5
    // everywhere. Without shifted ids there is only one group.
    let group = match spec.ids {
        Ids::Shifted { .. } => ",gid=5",
        Ids::Own => "",
    };
    let options = format!("newinstance,ptmxmode=0666,mode=0620,max={TERMINALS_MAX}{group}");
    let target = dev.join(FOLDER);
    let flags = libc::MS_NOSUID | libc::MS_NOEXEC | libc::MS_RDONLY;
    let step = Step::MountPrivate;
    plan.push(mount("devpts", &target, "devpts", flags, &options, step)?);
    Ok(())
}

fn is_known() -> bool {
    let systems = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    systems.lines().any(|line| line.ends_with("\tdevpts"))
}

/// Whether this user namespace has ids 0, to whom the multiplexer belongs. Without shifted
/// ids there is only the id that the link runs as.
fn has_root() -> bool {
    ["uid_map", "gid_map"].iter().all(|file| {
        let map = fs::read_to_string(format!("/proc/self/{file}")).unwrap_or_default();
        map.split_whitespace().next() == Some("0")
    })
}
