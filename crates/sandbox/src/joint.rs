//! The joint between two processes, of which one reads what the other writes: one pipe of
//! the kernel's, with nobody between. What makes it strict is that the reader's end of
//! input hangs on a message and not on a process.
//!
//! The writing end lies *in flight*: in a message that nobody has received yet, on a socket
//! that both the runner and the writer's init have. As long as it lies there the pipe has a
//! writer, whoever dies. Where the command ends as it should, init takes the message
//! without its descriptor, and the kernel closes that: the reader's end of input, without
//! the runner. Any other ending is the runner's to deal with: it ends the reader first,
//! and then lets the message go.

use std::io;

use rustix::event::{EventfdFlags, eventfd};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use rustix::fs::Mode;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, socketpair};

use crate::wire::send;

/// Whoever the two commands are: each may open the pipe that it has by its name in
/// `/dev` or `/proc`.
const MODE: Mode = Mode::from_raw_mode(0o666);

/// The writing end of a pipe in flight. When it is dropped, and no init has it, the pipe
/// has one writer less.
#[derive(Debug)]
pub struct InFlight(OwnedFd);

impl InFlight {
    /// Sends off a copy of the writing end of a pipe, and lets everybody who has one of
    /// its ends open it.
    ///
    /// # Errors
    /// The host is out of sockets, or of descriptors that may be in flight.
    pub fn send(writer: impl AsFd) -> io::Result<InFlight> {
        rustix::fs::fchmod(&writer, MODE)?;
        let flags = SocketFlags::CLOEXEC;
        let pair = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None);
        let (ours, theirs) = pair?;
        send(theirs, b"end", &[writer.as_fd()], SendFlags::DONTWAIT)?;
        Ok(InFlight(ours))
    }
}

/// Is that a pipe whose writing end was [sent off](InFlight::send)?
pub(crate) fn is_for_all(pipe: &OwnedFd) -> bool {
    let mode = rustix::fs::fstat(pipe).map(|found| Mode::from_raw_mode(found.st_mode));
    mode.is_ok_and(|mode| mode.contains(MODE))
}

/// The socket on which it lies.
impl AsFd for InFlight {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Wakes the runner when one of a pipeline's processes, but for the last, has not ended
/// as it should: readable from then on. Of those that have, nobody is told.
#[derive(Debug)]
pub struct Alarm(OwnedFd);

impl Alarm {
    /// One for all processes of a pipeline.
    ///
    /// # Errors
    /// The host is out of descriptors.
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

/// For those who wait for descriptors by their number.
impl AsRawFd for Alarm {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// What stands behind a process whose output is another one's input.
#[derive(Debug, Clone, Copy)]
pub struct Successor<'a> {
    /// The exit codes with which that input is complete. With any other, or where the
    /// kernel has killed a part of the process for want of memory, it is not.
    pub accepted: ExitCodes,
    /// The writing end of the process's output.
    pub output: &'a InFlight,
    /// What init wakes the runner with where the input is not complete.
    pub alarm: &'a Alarm,
}

/// A set of exit codes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ExitCodes([u8; ExitCodes::BYTES]);

impl ExitCodes {
    /// A bit for each code.
    pub(crate) const BYTES: usize = 32;

    pub(crate) fn from_bits(bits: [u8; ExitCodes::BYTES]) -> ExitCodes {
        ExitCodes(bits)
    }

    pub(crate) fn bits(self) -> [u8; ExitCodes::BYTES] {
        self.0
    }

    /// Is that code one of them? For init as well, and so without a panic.
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
