//! Whether a process has left a trace in its place: if it has not, the place is
//! as good as new for the next one, which saves making and removing namespaces,
//! most of what a start costs.
//!
//! What a process may change that outlives it: what is in its private folders,
//! or how they look; shared memory, semaphores and messages; other processes; and
//! sockets in messages to themselves (`network.rs`), with what they hold. All else
//! that it can reach is read-only, is its own, or (init's priority, its limits) is
//! kept from it by the system call filter.
//!
//! In the zygote's memory, by the rules of `sys.rs`.

use std::ffi::CString;

use crate::sys::{Errno, FileStatus, in_our_memory as call};

/// As many private folders as there may be.
pub(crate) const FOLDERS_MAX: usize = 4;

/// How a place looks. Two that are equal differ in nothing but what processes
/// cannot see.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Traces {
    folders: [Folder; FOLDERS_MAX],
    ipc: [i32; 3],
}

/// All that is made or removed in a folder changes its times, whatever else is
/// done about it the rest: its times may be as coarse as the kernel's clock.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Folder {
    status: FileStatus,
    attributes_bytes: usize,
}

/// How the place of this process, which may be changed in these folders, looks now.
pub(crate) fn find(folders: &[CString]) -> Result<Traces, Errno> {
    let mut found = Traces {
        folders: [Folder {
            status: FileStatus::EMPTY,
            attributes_bytes: 0,
        }; FOLDERS_MAX],
        ipc: call::ipc_objects()?,
    };
    for (folder, path) in found.folders.iter_mut().zip(folders) {
        folder.status = call::file_status(path)?;
        folder.attributes_bytes = call::attributes_bytes(path)?;
    }
    Ok(found)
}
