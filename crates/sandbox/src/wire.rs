//! What runner, zygote and init say to each other, over sockets that keep
//! message boundaries (`SOCK_SEQPACKET`).
//!
//! Runner and zygote share one socket: the spec goes one way, [`Opened`] the
//! other, and then one [`START`] a process, with its descriptors. Everything
//! about one process goes over that process's own control socket as [`Report`]s,
//! from its init, or from the zygote where it could not make one.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recv, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};

use crate::failure::{Failure, Step};
use crate::spec::Spec;

/// The message that asks for a process. With it come, in this order: to the zygote
/// the control socket, so that it is there for a word about the others; standard
/// input, output, error, and a descriptor for each cgroup to join. An init that
/// waits for the next process is asked over its control socket.
pub(crate) const START: &[u8] = b"start";

/// More cgroup descriptors than this do not come with a [`START`]: version 1
/// has one a controller, and three controllers matter.
pub(crate) const CGROUPS_MAX: usize = 3;

/// Standard input, output and error.
pub(crate) const STDIO: usize = 3;

/// The control socket, standard input, output and error.
pub(crate) const START_DESCRIPTORS: usize = STDIO + 1;

/// An order larger than this is refused: the kernel takes no more than 6 MiB of
/// arguments and environment, and JSON may write a byte as six.
pub(crate) const ORDER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The longest message on a runner's and zygote's socket.
pub(crate) const MESSAGE_BYTES_MAX: usize = 16 * 1024;

/// What a zygote is told first, through a file in memory, since it may be larger
/// than a message.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) spec: Spec,
    /// How many processes and threads all of the link's processes may have
    /// together: where no cgroup counts them for each by itself.
    pub(crate) link_processes_max: Option<u64>,
}

/// What not every host lets a link have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Found {
    /// Its processes do not see where the image is stored.
    pub(crate) is_veiled: bool,
    /// The files of its devices are its own.
    pub(crate) has_own_devices: bool,
    /// What the kernel counts for each user is bounded for the link as a whole, so that
    /// its root may become other users.
    pub(crate) is_bounded: bool,
}

/// The zygote's answer to its order.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Opened {
    /// The process whose pidfd comes with this is the zygote from now on.
    Forked,
    /// It is ready to start processes, which are this user and group of the
    /// host, unless they are the runner's own.
    Ready {
        owner: Option<(u32, u32)>,
        found: Found,
    },
    /// It is not, and has exited.
    Failed(Failure),
}

/// What a process's control socket says: three native 32-bit words. Made also in
/// init, and so without a panic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Report {
    /// The command has been executed; its init's pidfd comes with this.
    Started,
    /// It has not: this step failed with this error number.
    Failed(Step, i32),
    /// The command is gone, with this wait status; alone, if nothing that it has
    /// started runs any more. Else init exits.
    Exited { status: i32, is_alone: bool },
    /// The command that was gone has left no trace, and init waits for the next
    /// [`START`]. Where it has left one, init exits instead.
    Traceless,
}

/// The length of a [`Report`].
const REPORT_BYTES: usize = 12;

impl Report {
    pub(crate) fn to_bytes(self) -> [u8; REPORT_BYTES] {
        let words = match self {
            Report::Started => [1, 0, 0],
            Report::Failed(step, errno) => [2, step as u32, errno.cast_unsigned()],
            Report::Exited { status, is_alone } => [3, status.cast_unsigned(), u32::from(is_alone)],
            Report::Traceless => [4, 0, 0],
        };
        let [[a, b, c, d], [e, f, g, h], [i, j, k, l]] = words.map(u32::to_ne_bytes);
        [a, b, c, d, e, f, g, h, i, j, k, l]
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Report> {
        let (words, []) = bytes.as_chunks::<4>() else {
            return None;
        };
        let [kind, first, second] = <[[u8; 4]; 3]>::try_from(words)
            .ok()?
            .map(u32::from_ne_bytes);
        match kind {
            1 => Some(Report::Started),
            2 => Some(Report::Failed(
                Step::from_number(first)?,
                second.cast_signed(),
            )),
            3 => Some(Report::Exited {
                status: first.cast_signed(),
                is_alone: second != 0,
            }),
            4 => Some(Report::Traceless),
            _ => None,
        }
    }
}

/// A message with the descriptors that came with it.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) bytes: Vec<u8>,
    pub(crate) descriptors: Vec<OwnedFd>,
    /// There were more descriptors, for which this process has no room.
    pub(crate) is_short: bool,
}

const DESCRIPTORS_MAX: usize = START_DESCRIPTORS + CGROUPS_MAX;

/// Sends a message, whole or not at all.
pub(crate) fn send(
    socket: impl AsFd,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
    flags: SendFlags,
) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let flags = flags | SendFlags::NOSIGNAL;
    rustix::io::retry_on_intr(|| sendmsg(&socket, &[IoSlice::new(bytes)], &mut ancillary, flags))?;
    Ok(())
}

/// Receives a message; `None` when the other end is closed.
pub(crate) fn receive(socket: impl AsFd, flags: RecvFlags) -> io::Result<Option<Message>> {
    let mut bytes = [0; MESSAGE_BYTES_MAX];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::io::retry_on_intr(|| {
        recvmsg(
            &socket,
            &mut [IoSliceMut::new(&mut bytes)],
            &mut ancillary,
            flags | RecvFlags::CMSG_CLOEXEC,
        )
    })?;
    let descriptors: Vec<OwnedFd> = ancillary
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        })
        .flatten()
        .collect();
    if received.bytes == 0 && descriptors.is_empty() {
        return Ok(None);
    }
    Ok(Some(Message {
        bytes: bytes[..received.bytes].to_vec(),
        descriptors,
        is_short: received.flags.contains(ReturnFlags::CTRUNC),
    }))
}

/// Lets go of the next message, and of all that came with it, once it has been
/// received with [`RecvFlags::PEEK`].
pub(crate) fn skip(socket: impl AsFd) -> io::Result<()> {
    rustix::io::retry_on_intr(|| recv(&socket, &mut [0; 0], RecvFlags::DONTWAIT))?;
    Ok(())
}

/// Tells the runner how opening goes; if it is gone, so are we, soon.
pub(crate) fn send_opened(socket: impl AsFd, opened: &Opened, passed: &[BorrowedFd<'_>]) {
    if let Ok(json) = serde_json::to_vec(opened) {
        let _ = send(socket, &json, passed, SendFlags::empty());
    }
}

const _: () = assert!(REPORT_BYTES <= MESSAGE_BYTES_MAX);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_come_back_as_they_went() {
        for report in [
            Report::Started,
            Report::Failed(Step::Execute, libc::ENOENT),
            Report::Exited {
                status: 0x7f00,
                is_alone: true,
            },
            Report::Exited {
                status: 9,
                is_alone: false,
            },
            Report::Traceless,
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
