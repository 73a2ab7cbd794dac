//! What runner, zygote and init say to each other, over sockets that keep
//! message boundaries (`SOCK_SEQPACKET`).
//!
//! Runner and zygote share one socket: the spec goes one way, [`Opened`] the
//! other, and then one [`Start`] a process, with its descriptors. Everything
//! about one process goes over that process's own control socket as [`Report`]s,
//! from its init, or from the zygote where it could not make one.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recv, recvmsg,
    sendmsg, socketpair,
};
use serde::{Deserialize, Serialize};

use crate::failure::{Failure, Step};
use crate::handover::Left;
use crate::joint::ExitCodes;
use crate::spec::Spec;

/// Asks for a process. With the message come, in this order: to the zygote the control
/// socket, so that it is there for a word about the others; standard input, output,
/// error; a file with its strings, if it has some of its own; what it needs for its
/// successor; and a descriptor for each cgroup to join. An init that waits for the next
/// process is asked over its control socket.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Start {
    /// A file comes with arguments and an environment for this process alone.
    pub(crate) has_strings: bool,
    /// Where the process's output is another one's input.
    pub(crate) successor: Option<StartSuccessor>,
}

/// Asks the zygote for a place whose init waits for a [`Start`]; the control socket comes
/// with it.
pub(crate) const PREPARE: &[u8] = b"prepare";

/// What init is told of the successor. With it come the socket on which the writing end
/// of the process's output is in flight, the alarm, and perhaps a file that counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StartSuccessor {
    /// The exit codes with which the successor's input is complete.
    pub(crate) accepted: ExitCodes,
    /// Whether a file comes as well in which the kernel counts what it has killed in the
    /// process's cgroup.
    pub(crate) counts_kills: bool,
}

const START: &[u8; 5] = b"start";

/// In the byte behind that.
const HAS_STRINGS: u8 = 1 << 7;

/// Tells an init that nobody waits for anything that its last process did: it may look
/// through the place.
pub(crate) const LET_GO: &[u8] = b"let go";

/// The length of a [`Start`].
pub(crate) const START_BYTES: usize = START.len() + 1 + ExitCodes::BYTES;

/// The socket, the alarm, and the file that counts.
pub(crate) const SUCCESSOR_DESCRIPTORS: usize = 3;

impl Start {
    pub(crate) fn to_bytes(self) -> [u8; START_BYTES] {
        let (kind, codes) = match self.successor {
            None => (0, ExitCodes::default()),
            Some(successor) => (1 + u8::from(successor.counts_kills), successor.accepted),
        };
        let kind = kind | if self.has_strings { HAS_STRINGS } else { 0 };
        let mut bytes = [0; START_BYTES];
        let all = START.iter().chain([&kind]).copied().chain(codes.bits());
        for (place, byte) in bytes.iter_mut().zip(all) {
            *place = byte;
        }
        bytes
    }

    /// Init calls this too, so it must not panic.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Start> {
        let (kind, codes) = bytes.strip_prefix(START)?.split_first()?;
        let accepted = ExitCodes::from_bits(codes.try_into().ok()?);
        let successor = match kind & !HAS_STRINGS {
            0 => None,
            kind @ (1 | 2) => Some(StartSuccessor {
                accepted,
                counts_kills: kind == 2,
            }),
            _ => return None,
        };
        Some(Start {
            has_strings: kind & HAS_STRINGS != 0,
            successor,
        })
    }

    /// How many descriptors come for the successor.
    pub(crate) fn successor_descriptors(self) -> usize {
        match self.successor {
            None => 0,
            Some(successor) => SUCCESSOR_DESCRIPTORS - usize::from(!successor.counts_kills),
        }
    }

    /// Whether this is a possible number of descriptors for it, not counting the control
    /// socket.
    pub(crate) fn comes_with(self, descriptors: usize) -> bool {
        let least = STDIO + usize::from(self.has_strings) + self.successor_descriptors();
        (least..=least + CGROUPS_MAX).contains(&descriptors)
    }
}

/// The most cgroup descriptors of a [`Start`]: version 1 has one for each controller, and
/// we use three controllers.
pub(crate) const CGROUPS_MAX: usize = 3;

/// Standard input, output and error.
pub(crate) const STDIO: usize = 3;

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
    /// The most processes and threads of all of the link's processes together, if no
    /// cgroup counts them for each process.
    pub(crate) link_processes_max: Option<u64>,
    /// How much memory, in bytes, and processor time, in thousandths of a core, each of its
    /// processes may have: for programs that look that up.
    pub(crate) memory_bytes: Option<u64>,
    pub(crate) cpu_millicores: Option<u64>,
}

/// What a link has on some hosts and not on others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Found {
    /// Its processes do not see where the image is stored.
    pub(crate) hides_image_path: bool,
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
    /// It is ready to start processes, which run as this user and group of the host, if
    /// not as the runner's own.
    Ready {
        owner: Option<(u32, u32)>,
        found: Found,
    },
    /// It could not get ready, and has exited.
    Failed(Failure),
}

/// A message over a process's control socket: seven native 32-bit words. Init makes these,
/// so that must not panic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Report {
    /// The command has been executed; its init's pidfd comes with this.
    Started,
    /// It has not been executed: this step failed with this error number.
    Failed(Step, i32),
    /// The command has ended with this wait status. It is alone if nothing that it
    /// started still runs; otherwise init exits.
    Exited {
        status: i32,
        is_alone: bool,
        /// Whether its successor's input is complete. After this report, init drops the
        /// message that holds that input open.
        completes: bool,
        /// Whether it has failed, and its private folders have no room left.
        is_full: bool,
        /// What it has left as its output, where that is no pipe; with a file comes a
        /// descriptor for reading it.
        left: Left,
        /// When that was, in nanoseconds of the host's `CLOCK_MONOTONIC`: it may be read
        /// much later.
        at: u64,
        /// The processor time of it, and of its descendants that have ended and were
        /// waited for.
        cpu_microseconds: u64,
    },
    /// The ended command has left no trace, and init waits for the next [`Start`]. If it
    /// has left one, init exits instead.
    Traceless,
    /// The place is there, and init waits for the first [`Start`]; its pidfd comes with
    /// this.
    Prepared,
    /// A descriptor comes with this, before init has anything else to say.
    Passed(Passed),
}

/// Asks the zygote for a process that packs or unpacks the folder of a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Archive {
    Unpack,
    Pack,
}

impl Archive {
    pub(crate) fn to_bytes(self) -> &'static [u8] {
        match self {
            Archive::Unpack => b"unpack",
            Archive::Pack => b"pack",
        }
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Archive> {
        let both = [Archive::Unpack, Archive::Pack];
        both.into_iter().find(|archive| archive.to_bytes() == bytes)
    }
}

/// What init passes on of its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Passed {
    /// The file for the command's input, for writing.
    Input,
    /// The place's mount namespace, for who packs or unpacks a folder there.
    Mounts,
    /// Its PID namespace, likewise.
    Processes,
}

impl Passed {
    const ALL: [Passed; 3] = [Passed::Input, Passed::Mounts, Passed::Processes];
}

/// Where the flags of an exit have what the command has left.
const LEFT_SHIFT: u32 = 3;

/// The length of a [`Report`].
const REPORT_BYTES: usize = 4 * REPORT_WORDS;
const REPORT_WORDS: usize = 7;

impl Report {
    pub(crate) fn to_bytes(self) -> [u8; REPORT_BYTES] {
        let words: [u32; REPORT_WORDS] = match self {
            Report::Started => [1, 0, 0, 0, 0, 0, 0],
            Report::Failed(step, errno) => [2, step as u32, errno.cast_unsigned(), 0, 0, 0, 0],
            Report::Exited {
                status,
                is_alone,
                completes,
                is_full,
                left,
                at,
                cpu_microseconds,
            } => {
                let flags = u32::from(is_alone)
                    | u32::from(completes) << 1
                    | u32::from(is_full) << 2
                    | (left as u32) << LEFT_SHIFT;
                let [at_high, at_low] = halves(at);
                let [cpu_high, cpu_low] = halves(cpu_microseconds);
                let status = status.cast_unsigned();
                [3, status, flags, at_high, at_low, cpu_high, cpu_low]
            }
            Report::Traceless => [4, 0, 0, 0, 0, 0, 0],
            Report::Prepared => [5, 0, 0, 0, 0, 0, 0],
            Report::Passed(what) => [6, what as u32, 0, 0, 0, 0, 0],
        };
        let mut bytes = [0; REPORT_BYTES];
        for (place, byte) in bytes
            .iter_mut()
            .zip(words.iter().flat_map(|word| word.to_ne_bytes()))
        {
            *place = byte;
        }
        bytes
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Report> {
        let (words, []) = bytes.as_chunks::<4>() else {
            return None;
        };
        let words = <[[u8; 4]; REPORT_WORDS]>::try_from(words).ok()?;
        let words = words.map(u32::from_ne_bytes);
        let [kind, first, second, at_high, at_low, cpu_high, cpu_low] = words;
        match kind {
            1 => Some(Report::Started),
            2 => Some(Report::Failed(
                Step::from_number(first)?,
                second.cast_signed(),
            )),
            3 => Some(Report::Exited {
                status: first.cast_signed(),
                is_alone: second & 1 != 0,
                completes: second & 2 != 0,
                is_full: second & 4 != 0,
                left: *Left::ALL.get((second >> LEFT_SHIFT) as usize)?,
                at: whole(at_high, at_low),
                cpu_microseconds: whole(cpu_high, cpu_low),
            }),
            4 => Some(Report::Traceless),
            5 => Some(Report::Prepared),
            6 => Some(Report::Passed(*Passed::ALL.get(first as usize)?)),
            _ => None,
        }
    }
}

fn halves(whole: u64) -> [u32; 2] {
    [(whole >> 32) as u32, whole as u32]
}

fn whole(high: u32, low: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

/// A message with the descriptors that came with it.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) bytes: Vec<u8>,
    pub(crate) descriptors: Vec<OwnedFd>,
    /// There were more descriptors, for which this process has no room.
    pub(crate) is_short: bool,
}

/// As come with a [`Start`].
pub(crate) const DESCRIPTORS_MAX: usize = 1 + STDIO + 1 + SUCCESSOR_DESCRIPTORS + CGROUPS_MAX;

/// Makes two connected sockets.
pub(crate) fn socket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (family, flags) = (AddressFamily::UNIX, SocketFlags::CLOEXEC);
    Ok(socketpair(family, SocketType::SEQPACKET, flags, None)?)
}

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

/// Drops the next message, which has been received with [`RecvFlags::PEEK`].
pub(crate) fn skip(socket: impl AsFd) -> io::Result<()> {
    rustix::io::retry_on_intr(|| recv(&socket, &mut [0; 0], RecvFlags::DONTWAIT))?;
    Ok(())
}

/// Tells the runner how opening goes. If the runner is gone, we end soon, too.
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
                completes: false,
                is_full: true,
                left: Left::Nothing,
                at: u64::MAX - 1,
                cpu_microseconds: 1,
            },
            Report::Exited {
                status: 9,
                is_alone: false,
                completes: true,
                is_full: false,
                left: Left::Odd,
                at: 1 << 32 | 5,
                cpu_microseconds: u64::MAX << 20 | 3,
            },
            Report::Traceless,
            Report::Prepared,
            Report::Passed(Passed::Input),
        ] {
            assert_eq!(Report::from_bytes(&report.to_bytes()), Some(report));
        }
    }

    #[test]
    fn what_is_no_report_is_refused() {
        assert_eq!(Report::from_bytes(&[]), None);
        assert_eq!(Report::from_bytes(&[0; REPORT_BYTES - 1]), None);
        assert_eq!(Report::from_bytes(&[0; REPORT_BYTES + 4]), None);
        assert_eq!(Report::from_bytes(&[9; REPORT_BYTES]), None);
        let mut unknown_step = Report::Failed(Step::Execute, 1).to_bytes();
        unknown_step[4] = 200;
        assert_eq!(Report::from_bytes(&unknown_step), None);
        let mut unknown = Report::Passed(Passed::Input).to_bytes();
        unknown[4] = 200;
        assert_eq!(Report::from_bytes(&unknown), None);
    }

    #[test]
    fn what_is_asked_for_comes_as_it_went_with_what_belongs_to_it() {
        let successor = |codes: &[u8], counts_kills| {
            Some(StartSuccessor {
                accepted: codes.iter().collect(),
                counts_kills,
            })
        };
        for (successor, has_strings, descriptors) in [
            (None, false, STDIO),
            (None, true, STDIO + 1),
            (successor(&[0], false), false, STDIO + 2),
            (successor(&[3, 255], true), false, STDIO + 3),
            (successor(&[0], true), true, STDIO + 4),
        ] {
            let start = Start {
                has_strings,
                successor,
            };
            assert_eq!(Start::from_bytes(&start.to_bytes()), Some(start));
            for count in 0..=DESCRIPTORS_MAX + 1 {
                let fits = (descriptors..=descriptors + CGROUPS_MAX).contains(&count);
                assert_eq!(start.comes_with(count), fits, "{start:?} with {count}");
            }
        }
        let start = Start::default().to_bytes();
        let mut unknown_kind = start;
        unknown_kind[START.len()] = 3;
        for bytes in [
            &[][..],
            START,
            &start[1..],
            &start[..START_BYTES - 1],
            &unknown_kind,
        ] {
            assert_eq!(Start::from_bytes(bytes), None);
        }
    }
}
