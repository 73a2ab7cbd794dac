//! The runner's side: opens zygotes and asks them for processes.

use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio as Inherited};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use rustix::fs::MemfdFlags;
use rustix::net::{RecvFlags, SendFlags};
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, kill_process_group, pidfd_send_signal, waitid,
};

use crate::about::About;
use crate::cgroup::{Cgroup, CgroupError, Cgroups};
use crate::failure::{Failure, Step, with_causes};
use crate::idle_places::{IdlePlace, IdlePlaces};
use crate::joint::Successor;
use crate::mounts;
use crate::process::{Process, Stdio};
use crate::program::Program;
use crate::spec::{Ids, Limits, Spec};
use crate::strings::{Strings, StringsError};
use crate::wire::{Found, ORDER_BYTES_MAX, Opened, Order, PREPARE, receive, send, socket_pair};
use crate::zygote;

/// How long a zygote may take to enter its sandbox; it takes milliseconds.
const OPEN_WAIT_MAX: Duration = Duration::from_secs(20);

/// How long to retry while a child of another thread still has the program open for
/// writing. That usually takes microseconds.
const BUSY_WAIT_MAX: Duration = Duration::from_secs(1);

/// The most processes and threads of a link if no cgroup counts those of each process
/// separately. So a fork bomb hurts only its own link, and does not use up the host's
/// processes.
pub(crate) const LINK_PROCESSES_MAX: u64 = 4096;

/// Opens zygotes.
#[derive(Debug, Clone)]
pub struct Launcher {
    program: Arc<Program>,
    /// Whether the zygotes execute this same program.
    is_own_program: bool,
    cgroups: Arc<Cgroups>,
}

impl Launcher {
    /// A launcher whose zygotes execute this same program, which must call
    /// [`run_zygote_if_asked`](crate::run_zygote_if_asked) first thing in `main`.
    pub fn new() -> Launcher {
        Launcher {
            is_own_program: true,
            ..Launcher::with_program("/proc/self/exe")
        }
    }

    /// A launcher whose zygotes execute `program`.
    pub fn with_program(program: impl Into<PathBuf>) -> Launcher {
        Launcher {
            program: Arc::new(Program::new(program.into())),
            is_own_program: false,
            cgroups: Arc::new(Cgroups::new()),
        }
    }

    /// Checks, by trying, whether memory can be limited here.
    pub(crate) fn limits_memory(&self) -> Result<(), CgroupError> {
        let some = Limits {
            memory_bytes: Some(1 << 30),
            ..Limits::default()
        };
        Cgroups::keepable(&self.cgroups, &some).map(drop)
    }

    /// The folder of the links' cgroups, if it is outside our own cgroup: then our cgroup's
    /// limits do not apply to links. Looks for cgroups if that was not done before.
    pub fn cgroup_outside_of_own(&self) -> Option<PathBuf> {
        let places = self.cgroups.controllers().into_iter();
        let mut places = places.filter_map(|(_, place)| place);
        places
            .find(|place| !place.is_in_own)
            .map(|place| place.folder)
    }

    /// Starts a zygote and waits until it is ready: some milliseconds, 20 s at
    /// most. Blocks the thread.
    ///
    /// # Errors
    /// [`OpenError::Failed`] says which step failed, on what and why; nothing is
    /// left behind.
    pub fn open(&self, spec: &Spec, limits: Limits) -> Result<Zygote, OpenError> {
        // Such a zygote would be one more process that begins with this program's `main`.
        if zygote::asked() || (self.is_own_program && !zygote::is_called()) {
            return Err(OpenError::NoZygote);
        }
        mounts::check_data(spec).map_err(OpenError::Failed)?;
        let open_files = limits.open_files;
        // A limit that cannot be kept is found now, not with the first request.
        let limits = Cgroups::keepable(&self.cgroups, &limits)?;
        let cgroups = limits.any().then(|| self.cgroups.clone());
        let order = Order {
            spec: spec.clone(),
            memory_bytes: limits.memory_bytes,
            cpu_millicores: limits.cpu_millicores,
            open_files,
            link_processes_max: match limits.processes {
                Some(_) => None,
                None => Some(LINK_PROCESSES_MAX),
            },
        };
        let io = |what| move |source: io::Error| OpenError::Io { what, source };
        let (ours, theirs) = socket_pair().map_err(io("make a socket"))?;
        rustix::net::sockopt::set_socket_timeout(
            &ours,
            rustix::net::sockopt::Timeout::Recv,
            Some(OPEN_WAIT_MAX),
        )
        .map_err(|error| io("make a socket")(error.into()))?;

        let mut entering = self.spawn(theirs, spec.ids)?;
        let mut zygote = Zygote {
            socket: Some(ours),
            pidfd: None,
            about: Arc::new(About::new(spec)),
            found: Found::default(),
            limits,
            cgroups,
            places: Arc::default(),
        };
        let sent = match send_order(zygote.socket(), &order) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(OpenError::Silent),
            sent => sent.map_err(io("send the order to the zygote")),
        };
        let opened = sent.and_then(|()| zygote.await_ready());
        if opened.is_err() {
            end(&mut entering);
        }
        let _ = entering.wait();
        opened.map(|()| zygote)
    }

    /// Executes the program, which will fork the zygote and exit.
    fn spawn(&self, socket: OwnedFd, ids: Ids) -> Result<Child, OpenError> {
        let io = |what| move |source: io::Error| OpenError::Io { what, source };
        let program = self.program.path(ids);
        let program = program.map_err(io("copy this program for a zygote"))?;
        let mut command = Command::new(program);
        command
            .arg0(zygote::NAME)
            .env_clear()
            .current_dir("/")
            .stdin(socket)
            .stdout(Inherited::null());
        let give_up = Instant::now() + BUSY_WAIT_MAX;
        loop {
            match command.spawn() {
                // Another thread has forked while the copy was still written, and
                // its child has not executed its own program yet.
                Err(error)
                    if error.kind() == io::ErrorKind::ExecutableFileBusy
                        && Instant::now() < give_up =>
                {
                    std::thread::yield_now();
                }
                spawned => return spawned.map_err(io("execute this program as a zygote")),
            }
        }
    }
}

impl Default for Launcher {
    fn default() -> Launcher {
        Launcher::new()
    }
}

/// A zygote could not be opened. Its text does not repeat that of its `source()`.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each text says it")]
pub enum OpenError {
    #[error(transparent)]
    Failed(Failure),
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error("{what}")]
    Io {
        what: &'static str,
        source: io::Error,
    },
    #[error(
        "start a zygote: it went away without a word; has the system run out of memory or processes?"
    )]
    Silent,
    #[error("start a zygote: it was not ready within {} s", OPEN_WAIT_MAX.as_secs())]
    TooSlow,
    #[error(
        "start a zygote: no descriptor is left for it; raise the limit on open files (ulimit -n), \
         or have fewer links or processes"
    )]
    NoDescriptor,
    #[error("start a zygote: this program must call run_zygote_if_asked first thing in main")]
    NoZygote,
}

/// A link's zygote. Dropping it ends it, and every process that it started.
///
/// It may be waited for through its descriptor: readable means that it is gone.
#[derive(Debug)]
pub struct Zygote {
    /// `None` only while it is dropped.
    socket: Option<OwnedFd>,
    pidfd: Option<OwnedFd>,
    about: Arc<About>,
    found: Found,
    limits: Limits,
    cgroups: Option<Arc<Cgroups>>,
    /// The places of processes that have left no trace, for the next ones.
    places: Arc<IdlePlaces>,
}

impl Zygote {
    fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_ref().expect("there until dropped").as_fd()
    }

    fn await_ready(&mut self) -> Result<(), OpenError> {
        loop {
            let message = match receive(self.socket(), RecvFlags::empty()) {
                Ok(Some(message)) => message,
                Ok(None) => return Err(OpenError::Silent),
                // It died with our message unread.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                    return Err(OpenError::Silent);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(OpenError::TooSlow);
                }
                Err(source) => {
                    let what = "wait for the zygote";
                    return Err(OpenError::Io { what, source });
                }
            };
            match serde_json::from_slice(&message.bytes) {
                Ok(Opened::Forked) => {
                    // Without it, it could neither be killed nor reaped.
                    let pidfd = message.descriptors.into_iter().next();
                    self.pidfd = Some(pidfd.ok_or(OpenError::NoDescriptor)?);
                }
                Ok(Opened::Ready { .. }) if self.pidfd.is_none() => return Err(OpenError::Silent),
                Ok(Opened::Ready { owner, found }) => {
                    if let Some(about) = Arc::get_mut(&mut self.about) {
                        about.owner = owner;
                    }
                    self.found = found;
                    return Ok(());
                }
                Ok(Opened::Failed(failure)) => return Err(OpenError::Failed(failure)),
                Err(_) => return Err(OpenError::Silent),
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
        self.start_as(&stdio, None)
    }

    /// As [`start`](Zygote::start), for a process whose standard output is another one's
    /// input. The first one's init gives the other one the end of that input.
    ///
    /// # Errors
    /// As those of [`start`](Zygote::start).
    pub fn start_before(
        &self,
        stdio: Stdio,
        successor: Successor<'_>,
    ) -> Result<Process, StartError> {
        self.start_as(&stdio, Some(successor))
    }

    fn start_as(
        &self,
        stdio: &Stdio,
        successor: Option<Successor<'_>>,
    ) -> Result<Process, StartError> {
        let cgroup = self.cgroup()?;
        let (start, mut descriptors) =
            self.about
                .start_message(stdio, None, successor, cgroup.as_ref());
        while let Some(place) = self.places.take() {
            // If the init of this one was killed, there may be another place.
            if send(&place.control, &start, &descriptors, SendFlags::DONTWAIT).is_ok() {
                let IdlePlace { control, pidfd } = place;
                return Ok(self.process(control, Some(pidfd), cgroup));
            }
        }
        let (control, theirs) = socket_pair().map_err(StartError::Zygote)?;
        descriptors.insert(0, theirs.as_fd());
        send(self.socket(), &start, &descriptors, SendFlags::DONTWAIT)
            .map_err(StartError::Zygote)?;
        Ok(self.process(control, None, cgroup))
    }

    /// Asks for a place in which nothing is left to do but to execute the command, for
    /// [`Process::execute`]. Does not wait for it: its first event is
    /// [`Event::Prepared`](crate::Event::Prepared).
    ///
    /// # Errors
    /// As those of [`start`](Zygote::start).
    pub fn prepare(&self) -> Result<Process, StartError> {
        let cgroup = self.cgroup()?;
        if let Some(IdlePlace { control, pidfd }) = self.places.take() {
            return Ok(self.process(control, Some(pidfd), cgroup).prepared());
        }
        let (control, theirs) = socket_pair().map_err(StartError::Zygote)?;
        let asked = send(
            self.socket(),
            PREPARE,
            &[theirs.as_fd()],
            SendFlags::DONTWAIT,
        );
        asked.map_err(StartError::Zygote)?;
        Ok(self.process(control, None, cgroup))
    }

    /// Arguments and environment for one process, instead of those of the link: as many as
    /// there are in the spec, the command's name first and the variables by the same names
    /// in the same order.
    ///
    /// # Errors
    /// [`StringsError`] says what is too much, or missing.
    pub fn strings(
        &self,
        command: &[String],
        environment: &[(String, String)],
    ) -> Result<Strings, StringsError> {
        let given = command.len() + environment.len();
        let own_command = self.about.command.len();
        let own_variables = self.about.own_variables.unwrap_or(0);
        let expected = own_command + own_variables;
        if (command.len(), environment.len()) != (own_command, own_variables) {
            return Err(StringsError::Count { given, expected });
        }
        Strings::new(command, environment)
    }

    fn process(&self, control: OwnedFd, pidfd: Option<OwnedFd>, cgroup: Option<Cgroup>) -> Process {
        // Where it cannot be had, its folders cannot be packed, which says so.
        let zygote = (self.about.has_folders).then(|| self.socket().try_clone_to_owned().ok());
        Process::new(
            control,
            pidfd,
            &self.places,
            cgroup,
            &self.about,
            zygote.flatten(),
        )
    }

    fn cgroup(&self) -> Result<Option<Cgroup>, StartError> {
        let cgroups = self.cgroups.as_ref();
        let cgroup = cgroups.map(|cgroups| Cgroups::create(cgroups, &self.limits));
        Ok(cgroup.transpose()?)
    }

    /// Kills it and every process that it started, without waiting. To end several
    /// zygotes, kill all of them first: dropping the first one then waits for all.
    pub fn kill(&self) {
        if let Some(pidfd) = &self.pidfd {
            // "No such process" is what we want.
            let _ = pidfd_send_signal(pidfd, Signal::KILL);
        }
    }

    /// Drops the idle places, which frees memory; the next starts take longer.
    pub fn rest(&self) {
        self.places.clear();
    }

    /// What this host gives to its processes.
    pub(crate) fn found(&self) -> Found {
        self.found
    }

    /// Puts into words why a process could not be started.
    pub fn explain(&self, step: Step, errno: i32) -> Failure {
        self.about.explain(step, errno)
    }
}

/// The pidfd of its process, readable once that and all that it started are gone, whoever
/// ended them.
impl AsFd for Zygote {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_ref().expect("there once it is open").as_fd()
    }
}

/// For event loops that wait for descriptors by number.
impl AsRawFd for Zygote {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

impl Drop for Zygote {
    fn drop(&mut self) {
        self.socket.take();
        self.kill();
        if let Some(pidfd) = &self.pidfd {
            // All that it started is gone before it is.
            let _ = rustix::io::retry_on_intr(|| {
                waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED)
            });
        }
        if let Some(cgroups) = &self.cgroups {
            cgroups.remove_retired();
        }
    }
}

/// A process could not be requested. Its text has those of its causes.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each text says it")]
pub enum StartError {
    #[error("ask the zygote for a process: {0}")]
    Zygote(io::Error),
    #[error("{}", with_causes(.0))]
    Cgroup(CgroupError),
}

impl From<CgroupError> for StartError {
    fn from(error: CgroupError) -> StartError {
        StartError::Cgroup(error)
    }
}

/// Kills and reaps a process that was to become a zygote, and what it has forked. That
/// may be our child without our having a descriptor of it; but both are in one process
/// group, since a zygote leaves ours first of all.
fn end(entering: &mut Child) {
    let group = Pid::from_child(entering);
    let _ = entering.kill();
    // There is no such group if it has not got that far.
    let _ = kill_process_group(group, Signal::KILL);
    let reap = || waitid(WaitId::Pgid(Some(group)), WaitIdOptions::EXITED);
    while rustix::io::retry_on_intr(reap).is_ok() {}
}

fn send_order(socket: BorrowedFd<'_>, order: &Order) -> io::Result<()> {
    let json = serde_json::to_vec(order)?;
    if json.len() > ORDER_BYTES_MAX {
        // More than the kernel would take with any program.
        return Err(rustix::io::Errno::TOOBIG.into());
    }
    let mut file = std::fs::File::from(rustix::fs::memfd_create("order", MemfdFlags::CLOEXEC)?);
    file.write_all(&json)?;
    rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(0))?;
    send(socket, b"order", &[file.as_fd()], SendFlags::empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::send_opened;

    #[test]
    fn an_error_tells_each_cause_once() {
        let refused = || CgroupError::Refused {
            what: "memory",
            path: "/c".into(),
            source: io::Error::other("full"),
        };
        let opened: OpenError = refused().into();
        assert_eq!(with_causes(&opened), "limit memory: /c: full");
        let started: StartError = refused().into();
        assert_eq!(with_causes(&started), "limit memory: /c: full");
    }

    #[test]
    fn a_zygote_whose_descriptor_does_not_come_is_not_taken() {
        let ready = Opened::Ready {
            owner: None,
            found: Found::default(),
        };
        for said in [&[Opened::Forked][..], &[ready]] {
            let (ours, theirs) = socket_pair().unwrap();
            for opened in said {
                send_opened(&theirs, opened, &[]);
            }
            let mut zygote = Zygote {
                socket: Some(ours),
                pidfd: None,
                about: Arc::default(),
                found: Found::default(),
                limits: Limits::default(),
                cgroups: None,
                places: Arc::default(),
            };
            // Not to wait for ever where it goes on instead.
            drop(theirs);
            let refused = zygote.await_ready().unwrap_err();
            let expected = match said {
                [Opened::Forked] => matches!(refused, OpenError::NoDescriptor),
                _ => matches!(refused, OpenError::Silent),
            };
            assert!(expected, "{refused}");
        }
    }

    #[test]
    fn what_could_not_be_opened_is_ended_with_what_it_has_forked() {
        let sleep = |group| {
            let mut sleep = Command::new("sleep");
            sleep.arg("1000").process_group(group).spawn().unwrap()
        };
        let mut entering = sleep(0);
        let forked = sleep(Pid::from_child(&entering).as_raw_nonzero().get());
        end(&mut entering);
        for mut child in [entering, forked] {
            let gone = child.try_wait().unwrap_err();
            assert_eq!(gone.raw_os_error(), Some(libc::ECHILD));
        }
    }
}
