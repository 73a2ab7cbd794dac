//! Room for the strings of one process, in the zygote's memory: its init reads them into
//! it, and neither may allocate.

use std::sync::atomic::Ordering;

use super::in_our_memory as call;
use super::*;

/// Address space for strings, and the arrays of pointers to them that `execve` wants. For
/// one process at a time.
pub(crate) struct StringsRoom {
    /// Of [`ROOM_BYTES`].
    first: AtomicPtr<u8>,
    /// Null at the end, as in `environment`.
    arguments: Vec<AtomicPtr<c_char>>,
    environment: Vec<AtomicPtr<c_char>>,
    /// How many of the environment come with each process. Those behind them are the
    /// link's.
    environment_count: usize,
}

/// More than strings that the kernel takes need.
const ROOM_BYTES: usize = 2 * 1024 * 1024;

const _: () = assert!(crate::strings::STRINGS_BYTES_MAX < ROOM_BYTES);

impl StringsRoom {
    /// Room for as many strings as these, of which the first `environment_count` of the
    /// environment are to be replaced. Takes no memory before it is used.
    pub(crate) fn new(
        arguments: &StringArray,
        environment: &'static StringArray,
        environment_count: usize,
    ) -> Result<StringsRoom, Errno> {
        let anywhere = ptr::null_mut();
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let usable = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new anonymous mapping, wherever the kernel likes, touches nothing
        // that exists.
        let first = unsafe { libc::mmap(anywhere, ROOM_BYTES, usable, flags, -1, 0) };
        if first == libc::MAP_FAILED {
            return Err(last_errno());
        }
        let (first_byte, advice) = (first as usize, libc::MADV_DONTFORK as usize);
        // No copy of the zygote has the strings of requests. SAFETY: of the mapping that was
        // just made, of which nothing is used yet. If this fails, copies have them.
        let _ = unsafe { syscall(libc::SYS_madvise, [first_byte, ROOM_BYTES, advice, 0, 0, 0]) };
        let null = |_: &AtomicPtr<c_char>| AtomicPtr::new(ptr::null_mut());
        let same = |string: &AtomicPtr<c_char>| AtomicPtr::new(string.load(Ordering::Relaxed));
        let (own, links) = environment.pointers.split_at(environment_count);
        Ok(StringsRoom {
            first: AtomicPtr::new(first.cast()),
            arguments: arguments.pointers.iter().map(null).collect(),
            environment: own.iter().map(null).chain(links.iter().map(same)).collect(),
            environment_count,
        })
    }

    /// Reads the strings from a file. For init, by the rules of this module. `EINVAL`
    /// where they are not as many as there is room for.
    pub(crate) fn fill(&self, file: i32) -> Result<(), Errno> {
        let first = self.first.load(Ordering::Relaxed);
        // SAFETY: the mapping that `new` made, which is never unmapped. Nobody else uses
        // it: there is one init in a place, and the zygote does not touch the room while
        // there is. Nothing that `execute` reads is changed by others either.
        let room = unsafe { std::slice::from_raw_parts_mut(first, ROOM_BYTES) };
        let mut length = 0;
        loop {
            let rest = room.get_mut(length..).unwrap_or_default();
            match call::read_at(file, rest, length)? {
                0 => break,
                more => length += more,
            }
        }
        // Room for all, and for one more byte at least, that a file which is longer
        // would have taken.
        if length == ROOM_BYTES {
            return Err(libc::E2BIG);
        }
        let mut rest = room.get_mut(..length).unwrap_or_default();
        let arguments = self.arguments.iter();
        let arguments = arguments.take(self.arguments.len().saturating_sub(1));
        let own = self.environment.iter().take(self.environment_count);
        for pointer in arguments.chain(own) {
            let end = rest.iter().position(|byte| *byte == 0);
            let end = end.ok_or(libc::EINVAL)?;
            let (string, behind) = rest.split_at_mut_checked(end + 1).ok_or(libc::EINVAL)?;
            pointer.store(string.as_mut_ptr().cast(), Ordering::Relaxed);
            rest = behind;
        }
        match rest {
            [] => Ok(()),
            _ => Err(libc::EINVAL),
        }
    }

    /// Gives the memory back.
    pub(crate) fn empty(&self) {
        let first = self.first.load(Ordering::Relaxed) as usize;
        let advice = libc::MADV_DONTNEED as usize;
        // SAFETY: of the mapping that `new` made, which is read anew before it is used
        // again. If this fails, it takes memory for longer.
        let _ = unsafe { syscall(libc::SYS_madvise, [first, ROOM_BYTES, advice, 0, 0, 0]) };
    }

    /// The strings that were read last.
    pub(crate) fn arguments(&self) -> Pointers<'_> {
        Pointers(&self.arguments)
    }

    /// As [`arguments`](Self::arguments), with those of the link behind them.
    pub(crate) fn environment(&self) -> Pointers<'_> {
        Pointers(&self.environment)
    }
}
