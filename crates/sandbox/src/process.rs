//! A process, as the runner follows it: through the control socket that it
//! shares with the process's init.

use std::collections::VecDeque;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use rustix::net::{RecvFlags, SendFlags, Shutdown, shutdown};
use rustix::process::{Signal, pidfd_send_signal};

use crate::about::About;
use crate::cgroup::Cgroup;
use crate::failure::{Failure, Step};
use crate::handover::Left;
use crate::idle_places::{IdlePlace, IdlePlaces};
use crate::joint::Successor;
use crate::strings::Strings;
use crate::sys;
use crate::wire::{Message, Passed, Report, receive, send, skip};

/// How long to wait for the kernel to end what was killed: that takes it microseconds, and
/// longer only where a process is stuck in the kernel, which may be for ever.
const KILL_WAIT_MAX: Duration = Duration::from_secs(2);

/// The sandbox's ends of a process's standard descriptors.
#[derive(Debug)]
#[expect(missing_docs, reason = "their names say it")]
pub struct Stdio {
    pub stdin: OwnedFd,
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
}

/// A process that was asked for. Dropping it kills it, with all that it started.
///
/// Where it has no event, it may be waited for through its descriptor: readable
/// means that there is one.
#[derive(Debug)]
pub struct Process {
    /// `None` only while it is dropped.
    control: Option<OwnedFd>,
    /// Of its init, which sends it when the command has been executed, the first one in
    /// a place, or when the place is prepared.
    pidfd: Option<OwnedFd>,
    /// Where its place goes, which may turn out to be without a trace of it.
    places: Weak<IdlePlaces>,
    is_over: bool,
    /// Whether it has completed the input of its successor.
    has_completed: bool,
    /// When its command was gone, once that is known.
    ended_at: Option<Instant>,
    /// Events that were received before anybody asked for them.
    early: VecDeque<Event>,
    about: Arc<About>,
    input: Option<OwnedFd>,
    output: Option<LeftOutput>,
    /// Given back when the process is gone.
    cgroup: Option<Cgroup>,
    /// Kills it, and waits for that, where we had no room for its pidfd.
    killing: Option<JoinHandle<()>>,
}

/// What becomes of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Its place is there, and waits for [`Process::execute`].
    Prepared,
    /// The command has been executed.
    Started,
    /// It could not be, for [`Zygote::explain`](crate::Zygote::explain) to put
    /// into words.
    Failed(Step, i32),
    /// It is gone, and what it started is being killed.
    Exited(WaitStatus),
    /// Init is gone without a word of the command: both were killed.
    Gone,
}

/// What a command has left as its output, where that is no pipe.
#[derive(Debug)]
pub enum LeftOutput {
    /// A file, for reading.
    File(OwnedFd),
    /// A folder.
    Folder,
    /// Nothing.
    Missing,
    /// Something else than what its output is to be, or it cannot be opened.
    Odd,
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
    /// One that was asked for, whose init has the other end of `control`; its
    /// pidfd, where the place has been used before.
    pub(crate) fn new(
        control: OwnedFd,
        pidfd: Option<OwnedFd>,
        places: &Arc<IdlePlaces>,
        cgroup: Option<Cgroup>,
        about: &Arc<About>,
    ) -> Process {
        Process {
            control: Some(control),
            pidfd,
            places: Arc::downgrade(places),
            is_over: false,
            has_completed: false,
            ended_at: None,
            early: VecDeque::new(),
            about: Arc::clone(about),
            input: None,
            output: None,
            cgroup,
            killing: None,
        }
    }

    /// This one, whose place waits for its command.
    pub(crate) fn prepared(mut self) -> Process {
        self.early.push_back(Event::Prepared);
        self
    }

    /// The file for its input, for writing; there once the place is prepared, if the
    /// input is a file.
    pub fn take_input(&mut self) -> Option<OwnedFd> {
        self.input.take()
    }

    /// What it has left as its output, where that is no pipe; known with the event that
    /// says how it has ended.
    pub fn take_output(&mut self) -> Option<LeftOutput> {
        self.output.take()
    }

    /// Executes the command in its place, which is [prepared](crate::Zygote::prepare),
    /// with these strings instead of the link's, if there are any. Does not wait for it:
    /// the next event says whether it has started.
    ///
    /// # Errors
    /// The place is gone.
    pub fn execute(
        &self,
        stdio: Stdio,
        strings: Option<&Strings>,
        successor: Option<Successor<'_>>,
    ) -> io::Result<()> {
        let cgroup = self.cgroup.as_ref();
        let (start, descriptors) = (self.about).start_message(&stdio, strings, successor, cgroup);
        send(self.control(), &start, &descriptors, SendFlags::DONTWAIT)
    }

    /// What its failure to start was about.
    pub fn explain(&self, step: Step, errno: i32) -> Failure {
        self.about.explain(step, errno)
    }

    fn control(&self) -> BorrowedFd<'_> {
        self.control.as_ref().expect("there until dropped").as_fd()
    }

    /// Is it gone, and has left nothing behind that still runs?
    pub fn is_over(&self) -> bool {
        self.is_over
    }

    /// Has its successor all of its input? Known with the event that says how it has
    /// ended, and before the successor sees the end.
    pub fn has_completed(&self) -> bool {
        self.has_completed
    }

    /// When its command was gone, by what its init says; known with the event that
    /// says how it has ended.
    pub fn ended_at(&self) -> Option<Instant> {
        self.ended_at
    }

    /// Of its init: readable when that is gone. `None` before the command was executed.
    /// Whoever cares only for how its process has ended if its init did not say so need
    /// not be woken by what it says.
    pub fn lifeline(&self) -> Option<BorrowedFd<'_>> {
        self.pidfd.as_ref().map(AsFd::as_fd)
    }

    /// Is there an event of which its descriptor does not tell?
    pub fn has_early_event(&self) -> bool {
        !self.early.is_empty()
    }

    /// The next event, or `None` if there is none yet: then its descriptor tells
    /// when there is. The last one is `Gone`, whatever came before it, and it comes
    /// again and again.
    ///
    /// # Errors
    /// Nothing is left of descriptors for what comes with the event. It is not lost:
    /// the next call tries again, and killing the process needs none.
    pub fn next_event(&mut self) -> io::Result<Option<Event>> {
        match self.early.pop_front() {
            Some(event) => Ok(Some(event)),
            None if self.is_over => Ok(Some(Event::Gone)),
            None => self.receive_event(),
        }
    }

    fn receive_event(&mut self) -> io::Result<Option<Event>> {
        let message = match self.receive() {
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
            Some(report @ (Report::Started | Report::Prepared)) => {
                if self.pidfd.is_none() {
                    let pidfd = message.descriptors.into_iter().next();
                    self.pidfd = Some(pidfd.ok_or(io::ErrorKind::InvalidData)?);
                }
                Ok(Some(match report {
                    Report::Prepared => Event::Prepared,
                    _ => self.limit_memory(),
                }))
            }
            Some(Report::Failed(step, errno)) => Ok(Some(Event::Failed(step, errno))),
            Some(Report::Exited {
                status,
                is_alone,
                completes,
                left,
                at,
            }) => {
                let file = message.descriptors.into_iter().next();
                self.output = match (left, file) {
                    (Left::Nothing, _) => None,
                    (Left::There, Some(file)) => Some(LeftOutput::File(file)),
                    (Left::There, None) => Some(LeftOutput::Folder),
                    (Left::Missing, _) => Some(LeftOutput::Missing),
                    (Left::Odd, _) => Some(LeftOutput::Odd),
                };
                self.is_over = is_alone;
                self.has_completed = completes;
                self.ended_at = Some(instant(at));
                Ok(Some(Event::Exited(WaitStatus::from_raw(status))))
            }
            Some(Report::Passed(Passed::Input)) => {
                self.input = message.descriptors.into_iter().next();
                self.receive_event()
            }
            // It comes only after the last event.
            Some(Report::Traceless) | None => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// A message of init's. One with a descriptor is left there until there is room for
    /// that: without its pidfd the process could not be killed.
    fn receive(&self) -> io::Result<Option<Message>> {
        if self.pidfd.is_some() && !self.about.leaves_file {
            return receive(self.control(), RecvFlags::DONTWAIT);
        }
        let message = receive(self.control(), RecvFlags::DONTWAIT | RecvFlags::PEEK)?;
        match &message {
            Some(message) if message.is_short => Err(rustix::io::Errno::MFILE.into()),
            Some(_) => skip(self.control()).map(|()| message),
            None => Ok(None),
        }
    }

    /// What the command's start has come to: its memory is its own from here on, and
    /// it has had no input yet.
    fn limit_memory(&mut self) -> Event {
        if self.cgroup.as_ref().is_none_or(Cgroup::limit_memory) {
            return Event::Started;
        }
        self.kill();
        Event::Failed(Step::LimitMemory, libc::ENOMEM)
    }

    /// Has the kernel killed it, or something that it started, because it wanted
    /// more memory than it may have? How many bytes that is.
    pub fn ran_out_of_memory(&self) -> Option<u64> {
        (self.cgroup.as_ref()).and_then(Cgroup::ran_out_of_memory)
    }

    /// Kills the process and all that it started; needs no wait. `Gone` follows,
    /// unless the command was faster.
    pub fn kill(&mut self) {
        if self.is_over {
            return;
        }
        self.places = Weak::new();
        if self.pidfd.is_none() {
            // Not started yet. From here on init's word that it has does not get
            // through, and then it exits; and if it has got through, it is here.
            let _ = shutdown(self.control(), Shutdown::Read);
            loop {
                match self.receive_event() {
                    Ok(None | Some(Event::Gone)) => break,
                    Ok(Some(event)) => self.early.push_back(event),
                    Err(error) => {
                        if error.raw_os_error() == Some(libc::EMFILE) {
                            self.kill_elsewhere();
                        }
                        break;
                    }
                }
            }
        }
        if let Some(pidfd) = &self.pidfd {
            // "No such process" is what we want.
            let _ = pidfd_send_signal(pidfd, Signal::KILL);
        }
    }

    /// Kills it where there is a pidfd, and no room for it.
    fn kill_elsewhere(&mut self) {
        let (killed, is_killed) = sync_channel(1);
        let thread = sys::with_room_for_descriptors(self.control(), kill_whose_pidfd_comes, killed);
        // It ends by itself as well if it could do nothing.
        let _ = is_killed.recv();
        self.killing = thread.ok();
        self.early.push_back(Event::Started);
    }

    /// Kills the process and waits until nothing of it runs any more, so that it
    /// cannot see what is closed afterwards. Blocks, as a rule for microseconds,
    /// for 2 s at most.
    pub fn kill_and_wait(&mut self) {
        self.kill();
        if let Some(pidfd) = &self.pidfd
            && !self.is_over
        {
            wait_until_gone(pidfd);
        }
        if let Some(killing) = self.killing.take() {
            let _ = killing.join();
        }
    }
}

/// The moment that is so many nanoseconds of `CLOCK_MONOTONIC`, and not later than now.
fn instant(nanoseconds: u64) -> Instant {
    let ago = sys::in_our_memory::monotonic_time().saturating_sub(nanoseconds);
    let (now, ago) = (Instant::now(), Duration::from_nanos(ago));
    now.checked_sub(ago).unwrap_or(now)
}

fn wait_until_gone(pidfd: &OwnedFd) {
    // Init's is readable when the kernel has killed all that is left in its
    // namespace, and not before.
    let mut wanted = [PollFd::new(pidfd, PollFlags::IN)];
    let limit = Timespec::try_from(KILL_WAIT_MAX).ok();
    let _ = rustix::io::retry_on_intr(|| poll(&mut wanted, limit.as_ref()));
}

/// For a thread with room for what comes over `control` next: the pidfd of a process
/// that is to be killed.
fn kill_whose_pidfd_comes(control: io::Result<OwnedFd>, killed: SyncSender<()>) {
    let message = control.and_then(|control| receive(&control, RecvFlags::DONTWAIT));
    let Ok(Some(message)) = message else {
        return;
    };
    if let Some(pidfd) = message.descriptors.first() {
        let _ = pidfd_send_signal(pidfd, Signal::KILL);
        let _ = killed.send(());
        wait_until_gone(pidfd);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if self.is_over
            && let Some(places) = self.places.upgrade()
            && let (Some(control), Some(pidfd)) = (self.control.take(), self.pidfd.take())
        {
            places.give_back(IdlePlace::let_go(control, pidfd));
        }
    }
}

impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.control()
    }
}

/// For those who wait for descriptors by their number.
impl AsRawFd for Process {
    fn as_raw_fd(&self) -> RawFd {
        self.control().as_raw_fd()
    }
}
