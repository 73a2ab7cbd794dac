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
use crate::activity::Observer;
use crate::archive;
use crate::cgroup::Cgroup;
use crate::failure::{Failure, Step};
use crate::handover::Left;
use crate::idle_places::{IdlePlace, IdlePlaces};
use crate::joint::Successor;
use crate::process_tree;
use crate::strings::Strings;
use crate::sys;
use crate::wire::{Archive, Message, Passed, Report, receive, send, skip, socket_pair};

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

/// A requested process. Dropping it kills it, with all that it started.
///
/// If there is no event yet, wait until its descriptor is readable.
#[derive(Debug)]
pub struct Process {
    /// `None` only while it is dropped.
    control: Option<OwnedFd>,
    /// Of its init, which sends it when the command has been executed, the first one in
    /// a place, or when the place is prepared.
    pidfd: Option<OwnedFd>,
    /// Where its place goes, to be used again if the process has left no trace there.
    places: Weak<IdlePlaces>,
    is_over: bool,
    /// Whether it has completed the input of its successor.
    has_completed: bool,
    /// When its command ended, once that is known.
    ended_at: Option<Instant>,
    /// The processor time that it has taken, once that is known.
    cpu_time: Option<Duration>,
    has_filled_its_folders: bool,
    /// Events that were received before anybody asked for them.
    early: VecDeque<Event>,
    about: Arc<About>,
    /// The zygote's socket, and the namespaces of mounts and processes of the place, where
    /// a folder is packed or unpacked there.
    zygote: Option<OwnedFd>,
    namespaces: [Option<OwnedFd>; 2],
    input: Option<OwnedFd>,
    output: Option<LeftOutput>,
    /// Given back when the process is gone.
    cgroup: Option<Cgroup>,
    /// The thread that kills it, if this process had no room for its pidfd.
    killing: Option<JoinHandle<()>>,
}

/// What becomes of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Its place is there, and waits for [`Process::execute`].
    Prepared,
    /// The command has been executed.
    Started,
    /// The command could not be executed. [`Zygote::explain`](crate::Zygote::explain)
    /// puts into words why.
    Failed(Step, i32),
    /// The command has ended, and what it started is being killed.
    Exited(WaitStatus),
    /// Init has ended without a report on the command: both were killed.
    Gone,
}

/// A folder that is being packed or unpacked in the place of a process, and is no more
/// when that is killed. Its descriptor is readable when it is over.
#[derive(Debug)]
pub struct Archiving(OwnedFd);

impl Archiving {
    /// What has become of it, once it is over: why not, in a text that reads well after
    /// "failed to".
    pub fn result(&self) -> Result<(), String> {
        match receive(&self.0, RecvFlags::DONTWAIT) {
            Ok(Some(message)) if message.bytes == archive::DONE => Ok(()),
            Ok(Some(message)) => Err(String::from_utf8_lossy(&message.bytes).into_owned()),
            Ok(None) | Err(_) => Err("pack or unpack a folder: it was killed".to_owned()),
        }
    }
}

impl AsFd for Archiving {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// For those who wait for descriptors by their number.
impl AsRawFd for Archiving {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
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
    /// A requested process, whose init has the other end of `control`; with the init's
    /// pidfd, if the place has been used before.
    pub(crate) fn new(
        control: OwnedFd,
        pidfd: Option<OwnedFd>,
        places: &Arc<IdlePlaces>,
        cgroup: Option<Cgroup>,
        about: &Arc<About>,
        zygote: Option<OwnedFd>,
    ) -> Process {
        Process {
            control: Some(control),
            pidfd,
            places: Arc::downgrade(places),
            is_over: false,
            has_completed: false,
            ended_at: None,
            cpu_time: None,
            has_filled_its_folders: false,
            early: VecDeque::new(),
            about: Arc::clone(about),
            zygote,
            namespaces: [None, None],
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

    /// Unpacks the tar that comes from this pipe into the folder that is its input; before
    /// its command is executed.
    ///
    /// # Errors
    /// Nobody can be asked to, or the place is gone.
    pub fn unpack(&self, source: OwnedFd) -> io::Result<Archiving> {
        self.archive(Archive::Unpack, &source)
    }

    /// Packs what it has left in the folder that is its output into a tar, and writes that
    /// to this pipe; when it is over, and not killed yet.
    ///
    /// # Errors
    /// Nobody can be asked to, or the place is gone.
    pub fn pack(&self, target: OwnedFd) -> io::Result<Archiving> {
        self.archive(Archive::Pack, &target)
    }

    fn archive(&self, archive: Archive, pipe: &OwnedFd) -> io::Result<Archiving> {
        let (Some(zygote), [Some(mounts), Some(processes)]) = (&self.zygote, &self.namespaces)
        else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        let (ours, theirs) = socket_pair()?;
        let mut descriptors = vec![
            theirs.as_fd(),
            pipe.as_fd(),
            mounts.as_fd(),
            processes.as_fd(),
        ];
        let joins = self.cgroup.as_ref().map_or(&[][..], Cgroup::join_files);
        descriptors.extend(joins.iter().map(AsFd::as_fd));
        send(
            zygote,
            archive.to_bytes(),
            &descriptors,
            SendFlags::DONTWAIT,
        )?;
        Ok(Archiving(ours))
    }

    /// What its failure to start was about.
    pub fn explain(&self, step: Step, errno: i32) -> Failure {
        self.about.explain(step, errno)
    }

    fn control(&self) -> BorrowedFd<'_> {
        self.control.as_ref().expect("there until dropped").as_fd()
    }

    /// Whether its command has ended and nothing that it started runs any more.
    pub fn is_over(&self) -> bool {
        self.is_over
    }

    /// Whether its successor has all of its input. Known with the event that tells how it
    /// has ended, and before the successor sees the end.
    pub fn has_completed(&self) -> bool {
        self.has_completed
    }

    /// When its command ended, by the time that its init took. Known with the event that
    /// tells how it has ended.
    pub fn ended_at(&self) -> Option<Instant> {
        self.ended_at
    }

    /// The processor time of its command and of what that has started, as far as it has
    /// ended and somebody has waited for it: known with the event that tells how it has
    /// ended, or once it was [looked up](Process::look_up_cpu_time).
    pub fn cpu_time(&self) -> Option<Duration> {
        self.cpu_time
    }

    /// Looks up what it has used until now, if that can be found out: for one that is to be
    /// killed, of which nobody is told any more what it has used.
    pub fn look_up_cpu_time(&mut self) {
        if self.cpu_time.is_none() {
            self.cpu_time = self.pidfd.as_ref().and_then(process_tree::cpu_time);
        }
    }

    /// Whether its command has failed and there was no room left in its private folders
    /// then. Known with the event that tells how it has ended.
    pub fn has_filled_its_folders(&self) -> bool {
        self.has_filled_its_folders
    }

    /// The most memory at a time, in bytes, that it and all that it has started had until
    /// now; `None` if their memory has no limit, or this kernel does not tell.
    pub fn memory_peak(&self) -> Option<u64> {
        self.cgroup.as_ref().and_then(Cgroup::memory_peak)
    }

    /// Whether the kernel has refused it a process or thread, because it had as many as it
    /// may, since this was last asked of it or of an earlier process in the same cgroup.
    pub fn was_refused_a_process(&mut self) -> bool {
        self.cgroup
            .as_mut()
            .is_some_and(Cgroup::has_refused_a_process)
    }

    /// A descriptor that is readable once init is gone; `None` before the command was
    /// executed. Whoever only has to notice that a process was killed waits for this one,
    /// and is not woken by init's reports.
    pub fn lifeline(&self) -> Option<BorrowedFd<'_>> {
        self.pidfd.as_ref().map(AsFd::as_fd)
    }

    /// Looks whether it sleeps; `None` before its init has sent its pidfd. Use it only while
    /// this process is there.
    pub fn observer(&self) -> Option<Observer> {
        let pidfd = self.pidfd.as_ref()?;
        Some(Observer::new(pidfd.as_raw_fd()))
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
    /// This process has no descriptor left for the one that comes with the event. The
    /// event is not lost: the next call tries again. Killing the process needs no
    /// descriptor.
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
                is_full,
                left,
                at,
                cpu_microseconds,
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
                self.cpu_time = Some(Duration::from_micros(cpu_microseconds));
                self.has_filled_its_folders = is_full;
                Ok(Some(Event::Exited(WaitStatus::from_raw(status))))
            }
            Some(Report::Passed(passed)) => {
                let descriptor = message.descriptors.into_iter().next();
                match passed {
                    Passed::Input => self.input = descriptor,
                    Passed::Mounts => self.namespaces[0] = descriptor,
                    Passed::Processes => self.namespaces[1] = descriptor,
                }
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

    /// Limits memory that could not be limited before the command was executed. It has
    /// its own memory from here on, and has had no input yet.
    fn limit_memory(&mut self) -> Event {
        if self.cgroup.as_ref().is_none_or(Cgroup::limit_memory) {
            return Event::Started;
        }
        self.kill();
        Event::Failed(Step::LimitMemory, libc::ENOMEM)
    }

    /// The limit on memory, in bytes, if the kernel has killed the process, or something
    /// that it started, for going over it.
    pub fn ran_out_of_memory(&self) -> Option<u64> {
        (self.cgroup.as_ref()).and_then(Cgroup::ran_out_of_memory)
    }

    /// Kills the process and all that it started. Returns at once; `Gone` follows, unless
    /// the command was faster.
    pub fn kill(&mut self) {
        if self.is_over {
            return;
        }
        self.places = Weak::new();
        if self.pidfd.is_none() {
            // Not started yet. From here on init cannot report a start any more, and
            // exits instead. If it reported one before, the report is here.
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

    /// Kills it if a pidfd has come for which there is no room.
    fn kill_elsewhere(&mut self) {
        let (killed, is_killed) = sync_channel(1);
        let thread = sys::with_room_for_descriptors(self.control(), kill_whose_pidfd_comes, killed);
        // This returns also if the thread could do nothing, since its sender is gone
        // then.
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

/// The moment at which `CLOCK_MONOTONIC` had so many nanoseconds; not later than now.
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

/// Runs in a thread with room for a descriptor: receives the pidfd of a process over
/// `control`, and kills that process.
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

/// For event loops that wait for descriptors by number.
impl AsRawFd for Process {
    fn as_raw_fd(&self) -> RawFd {
        self.control().as_raw_fd()
    }
}
