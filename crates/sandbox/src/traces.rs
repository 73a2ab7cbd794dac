//! Traces: what a process may have left in its place, and whether the place is as it
//! was before. A process can change its private folders and, where it may, its root, of which an
//! overlay keeps the changes in one more folder: what is in them and how they look; shared
//! memory, semaphores and messages; other processes; sockets in messages to themselves
//! (`network.rs`), with what they hold; and the times of the file that makes terminals. All
//! else that it can
//! reach is read-only, is its own, or (init's priority, its limits) is kept from it by
//! the system call filter.
//!
//! Numbers that the kernel counts up are traces as well: what is made and removed again
//! leaves the next number behind. So a file without a name is made in the file system
//! of the folders, and an object of each kind: each must have the number that follows
//! the last one made here. docs/sandbox.md has the list of all that a process can leave.
//!
//! This code runs in the zygote's memory, by the rules of `sys.rs`.

use std::ffi::CString;

use crate::mounts::MULTIPLEXER;
use crate::sys::{Errno, FileStatus, in_our_memory as call};

/// As many folders as a process may change: the private ones, and what it writes to its
/// root.
pub(crate) const FOLDERS_MAX: usize = 5;

/// How a place looks.
#[derive(Clone, Copy)]
pub(crate) struct Traces {
    /// Making or removing something in a folder changes its times, unless both fall
    /// within one tick of the kernel's clock; what was made then shows in the file
    /// number.
    folders: [FileStatus; FOLDERS_MAX],
    /// The inode number of the last file made in the file system that the folders share.
    file_number: u64,
    /// Of the file that makes terminals, if there is one.
    multiplexer: FileStatus,
    /// The ids of the last System V objects made, one of each kind; [`NO_ID`] if there
    /// was none.
    ipc_ids: [i32; 3],
}

const NO_ID: i32 = -1;

impl Traces {
    /// How a new place looks, whose folders have these names in the open file system
    /// `scratch`. Takes the next number of a file.
    pub(crate) fn of_new(scratch: i32, folders: &[CString]) -> Result<Traces, Errno> {
        Ok(Traces {
            file_number: call::next_file_number(scratch)?,
            folders: look_at(scratch, folders)?,
            multiplexer: look_at_multiplexer(),
            ipc_ids: [NO_ID; 3],
        })
    }

    /// The state of a place now. Uses up the next numbers.
    pub(crate) fn find(scratch: i32, folders: &[CString]) -> Result<Traces, Errno> {
        Ok(Traces {
            ipc_ids: call::next_ipc_ids(NO_ID)?,
            ..Traces::of_new(scratch, folders)?
        })
    }

    /// Whether nothing was left between this state and `later`, which was found next.
    pub(crate) fn are_followed_by(&self, later: &Traces) -> bool {
        let mut ids = self.ipc_ids.iter().zip(&later.ipc_ids);
        self.folders == later.folders
            && self.multiplexer == later.multiplexer
            && self.file_number.checked_add(1) == Some(later.file_number)
            && ids.all(|(before, after)| is_next_id(*before, *after))
    }
}

fn look_at_multiplexer() -> FileStatus {
    call::file_status(libc::AT_FDCWD, MULTIPLEXER).unwrap_or(FileStatus::EMPTY)
}

fn look_at(scratch: i32, folders: &[CString]) -> Result<[FileStatus; FOLDERS_MAX], Errno> {
    let mut found = [FileStatus::EMPTY; FOLDERS_MAX];
    for (found, folder) in found.iter_mut().zip(folders) {
        *found = call::file_status(scratch, folder)?;
    }
    Ok(found)
}

/// Whether `after` is the id of the next System V object after `before`. An id is a place
/// in a table, whose places are used in turn, and in the bits above it the number of
/// turns (ipc/util.c). The table has 64 places while there are few objects.
fn is_next_id(before: i32, after: i32) -> bool {
    const PLACE: i32 = 0x7fff;
    const LAST_PLACE: i32 = 63;
    if before == NO_ID {
        // The first object; or the kernel has no System V objects.
        after == 0 || after == NO_ID
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
        assert!(is_next_id(NO_ID, 0));
        assert!(is_next_id(NO_ID, NO_ID));
        for (before, after) in [
            (0, 0),
            (0, 2),
            (63, 64),
            (63, 0x8001),
            (0x8000, 1),
            (0, -1),
            (-1, 1),
        ] {
            assert!(!is_next_id(before, after), "{after} after {before}");
        }
        assert!(!is_next_id(i32::MAX, i32::MIN));
    }
}
