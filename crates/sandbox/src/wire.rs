//! What runner, zygote and init say to each other, over sockets that keep
//! message boundaries (`SOCK_SEQPACKET`).
//!
//! Runner and zygote share one socket: the spec goes one way, [`Opened`] the
//! other, and then one [`START`] a process, with its descriptors. Everything
//! about one process goes over that process's own control socket as [`Report`]s,
//! first from the zygote and then from its init.

use rustix::fd::OwnedFd;
use serde::{Deserialize, Serialize};

use crate::failure::{Failure, Step};

/// The message that asks for a process. With it come, in this order: standard
/// input, output, error, the control socket, and a descriptor for each cgroup
/// to join.
pub(crate) const START: &[u8] = b"start";

/// More cgroup descriptors than this do not come with a [`START`]: version 1
/// has one a controller, and three controllers matter.
pub(crate) const CGROUPS_MAX: usize = 3;

/// Standard input, output, error, and the control socket.
pub(crate) const START_DESCRIPTORS: usize = 4;

/// A spec larger than this is refused: the kernel takes no more than 6 MiB of
/// arguments and environment, and JSON may write a byte as six.
pub(crate) const SPEC_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// The longest message on a runner's and zygote's socket.
pub(crate) const MESSAGE_BYTES_MAX: usize = 16 * 1024;

/// The zygote's answer to its spec.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Opened {
    /// The process with this id (as the runner sees it) is the zygote from now on.
    Forked(i32),
    /// It is ready to start processes.
    Ready,
    /// It is not, and has exited.
    Failed(Failure),
}

/// What a process's control socket says: three native 32-bit words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Report {
    /// The process exists; its init's pidfd comes with this message.
    Created,
    /// The command has been executed.
    Started,
    /// It has not: this step failed with this error number.
    Failed(Step, i32),
    /// The command is gone, with this wait status.
    Exited(i32),
}

/// The length of a [`Report`].
pub(crate) const REPORT_BYTES: usize = 12;

impl Report {
    pub(crate) fn to_bytes(self) -> [u8; REPORT_BYTES] {
        let words = match self {
            Report::Created => [0, 0, 0],
            Report::Started => [1, 0, 0],
            Report::Failed(step, errno) => [2, step as u32, errno.cast_unsigned()],
            Report::Exited(status) => [3, status.cast_unsigned(), 0],
        };
        let mut bytes = [0; REPORT_BYTES];
        let mut at = 0;
        while at < words.len() {
            let word = words[at].to_ne_bytes();
            bytes[at * 4] = word[0];
            bytes[at * 4 + 1] = word[1];
            bytes[at * 4 + 2] = word[2];
            bytes[at * 4 + 3] = word[3];
            at += 1;
        }
        bytes
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Report> {
        let (words, []) = bytes.as_chunks::<4>() else {
            return None;
        };
        let [kind, first, second] = <[[u8; 4]; 3]>::try_from(words)
            .ok()?
            .map(u32::from_ne_bytes);
        match kind {
            0 => Some(Report::Created),
            1 => Some(Report::Started),
            2 => Some(Report::Failed(
                Step::from_number(first)?,
                second.cast_signed(),
            )),
            3 => Some(Report::Exited(first.cast_signed())),
            _ => None,
        }
    }
}

/// A message with the descriptors that came with it.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) bytes: Vec<u8>,
    pub(crate) descriptors: Vec<OwnedFd>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_come_back_as_they_went() {
        for report in [
            Report::Created,
            Report::Started,
            Report::Failed(Step::Execute, libc::ENOENT),
            Report::Exited(0x7f00),
            Report::Exited(9),
        ] {
            assert_eq!(Report::from_bytes(&report.to_bytes()), Some(report));
        }
    }

    #[test]
    fn what_is_no_report_is_refused() {
        assert_eq!(Report::from_bytes(&[]), None);
        assert_eq!(Report::from_bytes(&[0; 11]), None);
        assert_eq!(Report::from_bytes(&[0; 16]), None);
        assert_eq!(Report::from_bytes(&[9; 12]), None);
        let mut unknown_step = Report::Failed(Step::Execute, 1).to_bytes();
        unknown_step[4] = 200;
        assert_eq!(Report::from_bytes(&unknown_step), None);
    }
}
