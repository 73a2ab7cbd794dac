//! Traces: what a process may have left in its place, and whether the place is as it
//! was before. A process can change its private folders: what is in them and how they
//! look; shared memory, semaphores and messages; other processes; and sockets in
//! messages to themselves (`network.rs`), with what they hold. All else that it can
//! reach is read-only, is its own, or (init's priority, its limits) is kept from it by
//! the system call filter.
//!
//! Numbers that the kernel counts up are traces as well: what is made and removed again
//! leaves the next number behind. So a file without a name is made in the file system
//! of the folders, and an object of each kind: each must have the number that follows
//! the last one made here. docs/sandbox.md has the list of all that a process can leave.
//!
//! In the zygote's memory, by the rules of `sys.rs`.

use crate::sys::{Errno, FileStatus, in_our_memory as call};

/// As many private folders as there may be.
pub(crate) const FOLDERS_MAX: usize = 4;

/// How a place looks.
#[derive(Clone, Copy)]
pub(crate) struct Traces {
    folders: [Folder; FOLDERS_MAX],
    /// In the file system that the folders share.
    file_number: u64,
    ipc_ids: [i32; 3],
}

/// All that is made or removed in a folder changes its times, unless that was within
/// one tick of the kernel's clock; and all that is made has a number.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Folder {
    status: FileStatus,
    attributes_bytes: usize,
}

/// How a place looks now that may be changed in these folders, which are open. Takes the
/// next numbers.
pub(crate) fn find(folders: impl Iterator<Item = i32>) -> Result<Traces, Errno> {
    let mut found = Traces {
        folders: [Folder {
            status: FileStatus::EMPTY,
            attributes_bytes: 0,
        }; FOLDERS_MAX],
        file_number: 0,
        ipc_ids: call::next_ipc_ids()?,
    };
    for (at, (found_folder, folder)) in found.folders.iter_mut().zip(folders).enumerate() {
        if at == 0 {
            found.file_number = call::next_file_number(folder)?;
        }
        found_folder.status = call::file_status(folder)?;
        found_folder.attributes_bytes = call::attributes_bytes(folder)?;
    }
    Ok(found)
}

impl Traces {
    /// Has nothing been left between these and `later`, which were found next?
    pub(crate) fn are_followed_by(&self, later: &Traces) -> bool {
        let mut ids = self.ipc_ids.iter().zip(&later.ipc_ids);
        self.folders == later.folders
            && self.file_number.checked_add(1) == Some(later.file_number)
            && ids.all(|(before, after)| is_next_id(*before, *after))
    }
}

/// Is that the id of the next object of System V? An id is a place in a table, which are
/// used in turn, and above it how often the turn has begun (ipc/util.c). The table of few
/// objects has 64 places.
fn is_next_id(before: i32, after: i32) -> bool {
    const PLACE: i32 = 0x7fff;
    const LAST_PLACE: i32 = 63;
    if before < 0 {
        // A kernel that knows none.
        after == before
    } else if before & PLACE == LAST_PLACE {
        (before | PLACE).checked_add(1) == Some(after)
    } else {
        before.checked_add(1) == Some(after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_follow_one_another_and_begin_anew() {
        assert!(is_next_id(0, 1));
        assert!(is_next_id(63, 0x8000));
        assert!(is_next_id(0x8000, 0x8001));
        assert!(is_next_id(-1, -1));
        for (before, after) in [
            (0, 0),
            (0, 2),
            (63, 64),
            (63, 0x8001),
            (0x8000, 1),
            (0, -1),
            (-1, 0),
        ] {
            assert!(!is_next_id(before, after), "{after} after {before}");
        }
        assert!(!is_next_id(i32::MAX, i32::MIN));
    }
}
