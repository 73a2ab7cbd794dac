//! Connects two processes by a kernel pipe, so that the reader gets an end-of-file only if
//! the writer has succeeded.
//!
//! A pipe ends when its last writing end is closed, and a process's writing end is closed
//! however the process dies. So one more writing end is kept *in flight*: in a message that
//! nobody has received yet, on a socket that the runner and the writer's init hold. While
//! it is there the pipe has a writer, whichever process dies. If the command succeeds, init
//! takes the message without receiving its descriptor; the kernel then closes that
//! descriptor, and the reader gets its end-of-file without the runner's help. For any other
//! ending the runner first kills the reader, and then drops the message.

use std::io;

use rustix::event::{EventfdFlags, eventfd};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use rustix::fs::Mode;
use rustix::net::SendFlags;

use crate::wire::{send, socket_pair};

/// The pipe's mode: both commands may open the pipe by its name in `/dev` or `/proc`,
/// whichever users they run as.
const MODE: Mode = Mode::from_raw_mode(0o666);

/// The writing end of a pipe in flight. When this is dropped and no init holds it either,
/// the pipe has one writer less.
#[derive(Debug)]
pub struct InFlight(OwnedFd);

impl InFlight {
    /// Sends a copy of a pipe's writing end into flight, and sets the pipe's mode so that
    /// every user that has one of its ends may open it.
    ///
    /// # Errors
    /// The host has no more sockets, or no more descriptors may be in flight.
    pub fn send(writer: impl AsFd) -> io::Result<InFlight> {
        rustix::fs::fchmod(&writer, MODE)?;
        let (ours, theirs) = socket_pair()?;
        send(theirs, b"end", &[writer.as_fd()], SendFlags::DONTWAIT)?;
        Ok(InFlight(ours))
    }
}

/// Whether this is a pipe whose writing end was [sent into flight](InFlight::send).
pub(crate) fn is_for_all(pipe: &OwnedFd) -> bool {
    let mode = rustix::fs::fstat(pipe).map(|found| Mode::from_raw_mode(found.st_mode));
    mode.is_ok_and(|mode| mode.contains(MODE))
}

/// The socket that holds the message.
impl AsFd for InFlight {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Wakes the runner when a process of a pipeline, except the last, has failed: becomes
/// readable then. Processes that succeed do not wake the runner.
#[derive(Debug)]
pub struct Alarm(OwnedFd);

impl Alarm {
    /// A new alarm, which all processes of a pipeline share.
    ///
    /// # Errors
    /// The host has no more descriptors.
    pub fn new() -> io::Result<Alarm> {
        Ok(Alarm(eventfd(
            0,
            EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK,
        )?))
    }
}

impl AsFd for Alarm {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// For event loops that wait for descriptors by number.
impl AsRawFd for Alarm {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Describes the process that reads a process's output.
#[derive(Debug, Clone, Copy)]
pub struct Successor<'a> {
    /// The exit codes with which the reader's input is complete. It is not complete with
    /// any other code, or if the kernel has killed a part of the writer for lack of memory.
    pub accepted: ExitCodes,
    /// The writing end of the process's output.
    pub output: &'a InFlight,
    /// The alarm by which init wakes the runner if the input is not complete.
    pub alarm: &'a Alarm,
}

/// A set of exit codes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ExitCodes([u8; ExitCodes::BYTES]);

impl ExitCodes {
    /// The size of the set: one bit for each code.
    pub(crate) const BYTES: usize = 32;

    pub(crate) fn from_bits(bits: [u8; ExitCodes::BYTES]) -> ExitCodes {
        ExitCodes(bits)
    }

    pub(crate) fn bits(self) -> [u8; ExitCodes::BYTES] {
        self.0
    }

    /// Whether the set contains `code`. Init calls this too, so it must not panic.
    pub fn contains(self, code: u8) -> bool {
        let byte = self.0.get(usize::from(code / 8));
        byte.is_some_and(|byte| byte & 1 << (code % 8) != 0)
    }
}

impl<'a> FromIterator<&'a u8> for ExitCodes {
    fn from_iter<I: IntoIterator<Item = &'a u8>>(codes: I) -> ExitCodes {
        let mut set = ExitCodes::default();
        for code in codes {
            set.0[usize::from(code / 8)] |= 1 << (code % 8);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_has_the_codes_that_were_put_in_and_no_other() {
        let all: Vec<u8> = (0..=255).collect();
        for codes in [&[][..], &[0], &[255], &[0, 1, 7, 8, 9, 63, 64, 254], &all] {
            let set: ExitCodes = codes.iter().collect();
            assert_eq!(ExitCodes::from_bits(set.bits()), set);
            for code in 0..=255 {
                assert_eq!(set.contains(code), codes.contains(&code), "{code}");
            }
        }
    }
}
