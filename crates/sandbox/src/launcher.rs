//! The runner's end: opening a zygote, asking it for processes, and following
//! each of them.

use std::io::{self, IoSlice, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Command, Stdio as Inherited};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use rustix::fs::MemfdFlags;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, pidfd_send_signal, waitpid};

use crate::cgroup::{Cgroup, CgroupError, Cgroups};
use crate::failure::{Failure, Step};
use crate::spec::{Limits, Spec};
use crate::wire::{
    CGROUPS_MAX, MESSAGE_BYTES_MAX, Message, Opened, REPORT_BYTES, Report, START, START_DESCRIPTORS,
};
use crate::zygote;

/// How long a zygote may take to enter its sandbox; it takes milliseconds.
const OPEN_WAIT_MAX: Duration = Duration::from_secs(20);

/// How long to wait for the kernel to finish with a process that was killed.
const REAP_WAIT_MAX: Duration = Duration::from_secs(2);

/// Opens zygotes.
#[derive(Debug, Clone)]
pub struct Launcher {
    program: PathBuf,
    cgroups: Arc<Cgroups>,
}

impl Launcher {
    /// A launcher whose zygotes are this very program, which must call
    /// [`run_zygote_if_asked`](crate::run_zygote_if_asked) first thing in `main`.
    pub fn new() -> Launcher {
        Launcher::with_program("/proc/self/exe")
    }

    /// A launcher whose zygotes are that program.
    pub fn with_program(program: impl Into<PathBuf>) -> Launcher {
        Launcher {
            program: program.into(),
            cgroups: Arc::new(Cgroups::new()),
        }
    }

    /// Starts a zygote and waits until it is ready: some milliseconds, 20 s at
    /// most. Blocks the thread.
    ///
    /// # Errors
    /// [`OpenError::Failed`] says which step failed, on what and why; nothing is
    /// left behind.
    pub fn open(&self, spec: &Spec, limits: Limits) -> Result<Zygote, OpenError> {
        if zygote::asked() {
            return Err(OpenError::NoZygote);
        }
        // A limit that cannot be kept is found now, not with the first request.
        let cgroups = if limits.any() {
            drop(self.cgroups.create(&limits)?);
            Some(self.cgroups.clone())
        } else {
            None
        };
        let io = |what| move |source: io::Error| OpenError::Io { what, source };
        let seqpacket = |flags| {
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
                .map_err(|error| io("make a socket")(error.into()))
        };
        let (ours, theirs) = seqpacket(SocketFlags::CLOEXEC)?;
        rustix::net::sockopt::set_socket_timeout(
            &ours,
            rustix::net::sockopt::Timeout::Recv,
            Some(OPEN_WAIT_MAX),
        )
        .map_err(|error| io("make a socket")(error.into()))?;

        let mut entering = Command::new(&self.program)
            .arg0(zygote::NAME)
            .env_clear()
            .current_dir("/")
            .stdin(theirs)
            .stdout(Inherited::null())
            .spawn()
            .map_err(io("execute this program as a zygote"))?;
        let mut zygote = Zygote {
            socket: Some(ours),
            pid: None,
            command: spec.command.clone(),
            working_directory: spec.working_directory.clone(),
            user: spec.user.clone(),
            limits,
            cgroups,
        };
        let opened = send_spec(zygote.socket(), spec)
            .map_err(io("send the spec to the zygote"))
            .and_then(|()| zygote.await_ready());
        if opened.is_err() {
            let _ = entering.kill();
        }
        let _ = entering.wait();
        opened.map(|()| zygote)
    }
}

impl Default for Launcher {
    fn default() -> Launcher {
        Launcher::new()
    }
}

/// A zygote could not be opened.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each text says it")]
pub enum OpenError {
    #[error(transparent)]
    Failed(Failure),
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error("{what}: {source}")]
    Io {
        what: &'static str,
        source: io::Error,
    },
    #[error(
        "start a zygote: it went away without a word; has the system run out of memory or processes?"
    )]
    Silent,
    #[error("start a zygote: this program must call run_zygote_if_asked first thing in main")]
    NoZygote,
}

/// A link's zygote. Dropping it ends it, and every process that it started.
#[derive(Debug)]
pub struct Zygote {
    /// `None` only while it is dropped.
    socket: Option<OwnedFd>,
    pid: Option<Pid>,
    command: Vec<String>,
    working_directory: String,
    user: String,
    limits: Limits,
    cgroups: Option<Arc<Cgroups>>,
}

/// The sandbox's ends of a process's standard descriptors.
#[derive(Debug)]
#[expect(missing_docs, reason = "their names say it")]
pub struct Stdio {
    pub stdin: OwnedFd,
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
}

impl Zygote {
    fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_ref().expect("there until dropped").as_fd()
    }

    fn await_ready(&mut self) -> Result<(), OpenError> {
        loop {
            let message = receive(self.socket()).map_err(|source| OpenError::Io {
                what: "wait for the zygote",
                source,
            })?;
            let opened = message.and_then(|message| serde_json::from_slice(&message.bytes).ok());
            match opened {
                Some(Opened::Forked(pid)) => self.pid = Pid::from_raw(pid),
                Some(Opened::Ready) => return Ok(()),
                Some(Opened::Failed(failure)) => return Err(OpenError::Failed(failure)),
                None => return Err(OpenError::Silent),
            }
        }
    }

    /// Asks for a process. Does not wait for it: its first event says whether it
    /// has started.
    ///
    /// # Errors
    /// The zygote is gone, or has more to do than its socket holds; or there is
    /// no cgroup to be had.
    pub fn start(&self, stdio: Stdio) -> Result<Process, StartError> {
        let io = |error: rustix::io::Errno| StartError::Zygote(error.into());
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (control, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).map_err(io)?;
        let cgroup = match &self.cgroups {
            Some(cgroups) => Some(cgroups.create(&self.limits)?),
            None => None,
        };
        let joins = cgroup.as_ref().map_or(&[][..], Cgroup::join_files);
        let descriptors: Vec<BorrowedFd<'_>> = [
            stdio.stdin.as_fd(),
            stdio.stdout.as_fd(),
            stdio.stderr.as_fd(),
            theirs.as_fd(),
        ]
        .into_iter()
        .chain(joins.iter().map(AsFd::as_fd))
        .collect();
        send(self.socket(), START, &descriptors, SendFlags::DONTWAIT)
            .map_err(StartError::Zygote)?;
        Ok(Process {
            control,
            pidfd: None,
            _cgroup: cgroup,
        })
    }

    /// What a process's failure to start was about.
    pub fn explain(&self, step: Step, errno: i32) -> Failure {
        let subject = match step {
            Step::Execute => self.command.first().map_or("", String::as_str),
            Step::EnterWorkingDirectory => &self.working_directory,
            Step::SetUser => &self.user,
            _ => "",
        };
        Failure::new(step, subject, errno)
    }
}

impl Drop for Zygote {
    fn drop(&mut self) {
        self.socket.take();
        if let Some(pid) = self.pid {
            // It is our child and not yet waited for, so the id is still its own.
            let _ = kill_process(pid, Signal::KILL);
            let _ = waitpid(Some(pid), WaitOptions::empty());
        }
    }
}

/// A process could not be asked for.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each text says it")]
pub enum StartError {
    #[error("ask the zygote for a process: {0}")]
    Zygote(io::Error),
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
}

/// A process that was asked for. Dropping it kills it, with all that it started.
///
/// It may be waited for through its descriptor: readable means that there is an
/// [`Event`].
#[derive(Debug)]
pub struct Process {
    control: OwnedFd,
    /// Of its init.
    pidfd: Option<OwnedFd>,
    /// Removed when the process is: see `drop`.
    _cgroup: Option<Cgroup>,
}

/// What becomes of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The command has been executed.
    Started,
    /// It could not be, for [`Zygote::explain`] to put into words.
    Failed(Step, i32),
    /// It is gone, and what it started is being killed.
    Exited(WaitStatus),
    /// Init is gone without a word of the command: both were killed.
    Gone,
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitStatus {
    /// It exited with this code.
    Exited(u8),
    /// This signal killed it.
    Signalled(i32),
}

impl WaitStatus {
    /// From the number that `wait` gives.
    fn from_raw(status: i32) -> WaitStatus {
        let status = std::process::ExitStatus::from_raw(status);
        match (status.code(), status.signal()) {
            (Some(code), _) => WaitStatus::Exited(code.to_le_bytes()[0]),
            (None, signal) => WaitStatus::Signalled(signal.unwrap_or(libc::SIGKILL)),
        }
    }
}

impl Process {
    /// The next event, or `None` if there is none yet.
    ///
    /// # Errors
    /// The socket failed, which it does not.
    pub fn next_event(&mut self) -> io::Result<Option<Event>> {
        loop {
            let message = match receive(self.control.as_fd()) {
                Ok(Some(message)) => message,
                Ok(None) => return Ok(Some(Event::Gone)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                // The zygote died with our message unread.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                    return Ok(Some(Event::Gone));
                }
                Err(error) => return Err(error),
            };
            match Report::from_bytes(&message.bytes) {
                Some(Report::Created) => self.pidfd = message.descriptors.into_iter().next(),
                Some(Report::Started) => return Ok(Some(Event::Started)),
                Some(Report::Failed(step, errno)) => return Ok(Some(Event::Failed(step, errno))),
                Some(Report::Exited(status)) => {
                    return Ok(Some(Event::Exited(WaitStatus::from_raw(status))));
                }
                None => return Err(io::ErrorKind::InvalidData.into()),
            }
        }
    }

    /// Kills the process and all that it started; needs no wait.
    pub fn kill(&mut self) {
        if self.pidfd.is_none() {
            // Asked for, and not yet made: the zygote says so within microseconds.
            wait_readable(self.control.as_fd(), REAP_WAIT_MAX);
            let _ = self.next_event();
        }
        if let Some(pidfd) = &self.pidfd {
            // "No such process" is what we want.
            let _ = pidfd_send_signal(pidfd, Signal::KILL);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if let (Some(pidfd), Some(_)) = (&self.pidfd, &self._cgroup) {
            // A cgroup can be removed only when the last process has left it.
            wait_readable(pidfd.as_fd(), REAP_WAIT_MAX);
        }
    }
}

/// For those who wait for descriptors by their number.
impl AsRawFd for Process {
    fn as_raw_fd(&self) -> RawFd {
        self.control.as_raw_fd()
    }
}

impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.control.as_fd()
    }
}

fn wait_readable(descriptor: BorrowedFd<'_>, limit: Duration) {
    let limit = Timespec::try_from(limit).ok();
    let mut wanted = [PollFd::new(&descriptor, PollFlags::IN)];
    let _ = poll(&mut wanted, limit.as_ref());
}

/// The spec goes through a file in memory: it may be larger than a message.
fn send_spec(socket: BorrowedFd<'_>, spec: &Spec) -> io::Result<()> {
    let json = serde_json::to_vec(spec)?;
    let mut file = std::fs::File::from(rustix::fs::memfd_create("spec", MemfdFlags::CLOEXEC)?);
    file.write_all(&json)?;
    rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(0))?;
    send(socket, b"spec", &[file.as_fd()], SendFlags::empty())
}

/// Tells the runner how opening goes; if it is gone, so are we, soon.
pub(crate) fn send_opened(socket: &OwnedFd, opened: &Opened) {
    if let Ok(json) = serde_json::to_vec(opened) {
        let _ = send(socket.as_fd(), &json, &[], SendFlags::empty());
    }
}

/// Hands the pidfd of a new process to whoever holds the other end of `control`.
pub(crate) fn send_created(control: &OwnedFd, pidfd: &OwnedFd) {
    let _ = send(
        control.as_fd(),
        &Report::Created.to_bytes(),
        &[pidfd.as_fd()],
        SendFlags::empty(),
    );
}

pub(crate) fn send_report(control: &OwnedFd, report: Report) {
    let _ = send(control.as_fd(), &report.to_bytes(), &[], SendFlags::empty());
}

const DESCRIPTORS_MAX: usize = START_DESCRIPTORS + CGROUPS_MAX;

fn send(
    socket: BorrowedFd<'_>,
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
    rustix::io::retry_on_intr(|| sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, flags))?;
    Ok(())
}

/// Receives a message; `None` when the other end is closed.
pub(crate) fn receive(socket: impl AsFd) -> io::Result<Option<Message>> {
    let mut bytes = [0; MESSAGE_BYTES_MAX];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::io::retry_on_intr(|| {
        recvmsg(
            &socket,
            &mut [IoSliceMut::new(&mut bytes)],
            &mut ancillary,
            RecvFlags::CMSG_CLOEXEC,
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
    }))
}

const _: () = assert!(REPORT_BYTES <= MESSAGE_BYTES_MAX);
