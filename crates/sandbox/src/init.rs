//! What happens for each process: init, PID 1 of the process's own namespaces,
//! makes its private mounts and the command's process, and then does what an
//! init does: it waits, reaps what the command leaves behind, and exits when the
//! command does, whereupon the kernel kills all the rest. Only where the command
//! has left no trace, init waits for the next one.
//!
//! Init lives in the zygote's memory while the zygote goes on, so everything
//! here keeps to the rules of `sys.rs`: no allocation, no `errno`, no panic.

use std::ffi::CString;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};
use std::time::Duration;

use rustix::fd::{AsRawFd, OwnedFd};

use crate::completion::Completion;
use crate::failure::Step;
use crate::landlock::{self, Domain};
use crate::mounts::Operation;
use crate::network;
use crate::rlimits::{self, ProcessLimits};
use crate::sys::{self, Errno, MountToken, ProcessMain, Stack, StringArray, in_our_memory as call};
use crate::traces::{self, Traces};
use crate::user::Identity;
use crate::wire::{
    CGROUPS_MAX, Found, LET_GO, Report, START_BYTES, STDIO, SUCCESSOR_DESCRIPTORS, Start,
};
use crate::zygote::UMASK;

/// What is the same for all processes of a link.
pub(crate) struct Plan {
    pub(crate) program: CString,
    pub(crate) arguments: StringArray,
    pub(crate) environment: StringArray,
    pub(crate) working_directory: CString,
    pub(crate) identity: Identity,
    /// Where one id is mapped only, groups can neither be set nor dropped.
    pub(crate) set_groups: bool,
    pub(crate) limits: ProcessLimits,
    pub(crate) mounts: Vec<Operation>,
    /// How a place is used again; `None` where none is.
    pub(crate) reuse: Option<Reuse>,
    pub(crate) found: Found,
    /// `None` where the kernel has no Landlock.
    pub(crate) domain: Option<Domain>,
    pub(crate) token: MountToken,
}

/// How the places of a link are used again.
pub(crate) struct Reuse {
    /// Where a process may leave something.
    pub(crate) changeable: Vec<CString>,
    /// The file in which the kernel keeps the last process id given away in a
    /// namespace, of whoever writes it. In the zygote's table.
    pub(crate) last_process: OwnedFd,
    /// Lets go of what the kernel remembers of who looked for what in `/proc`.
    pub(crate) forget: Operation,
}

/// The place of one process in the zygote's memory.
pub(crate) struct Place {
    pub(crate) plan: &'static Plan,
    init_stack: Stack,
    /// Of the command's process until its exec. Not init's: when init is killed
    /// the kernel lets go of init's stack before it kills the other.
    command_stack: Stack,
    /// The last init here; 0 before the first.
    init: AtomicI32,
    /// The control socket, in init's own table.
    pub(crate) control: AtomicI32,
    /// What a process is handed, in init's own table: standard input, output and
    /// error, and the cgroups to join; -1 where there is none.
    handed: [AtomicI32; STDIO + CGROUPS_MAX],
    /// What it is handed for who reads what the process writes.
    completion: Completion,
    /// The rules of Landlock here, in init's own table; -1 where there are none.
    rules: AtomicI32,
    /// What kept the command's process from its exec: a step and an error.
    failed_step: AtomicU32,
    failed_errno: AtomicI32,
}

/// Standard input, output, error, what is for the successor, and the cgroups.
const HANDED_DESCRIPTORS_MAX: usize = STDIO + SUCCESSOR_DESCRIPTORS + CGROUPS_MAX;

impl Place {
    pub(crate) fn new(plan: &'static Plan) -> Result<Place, Errno> {
        Ok(Place {
            plan,
            init_stack: Stack::new()?,
            command_stack: Stack::new()?,
            init: AtomicI32::new(0),
            control: AtomicI32::new(-1),
            handed: [const { AtomicI32::new(-1) }; STDIO + CGROUPS_MAX],
            completion: Completion::new(),
            rules: AtomicI32::new(-1),
            failed_step: AtomicU32::new(0),
            failed_errno: AtomicI32::new(0),
        })
    }

    /// Is nobody here any more? Init first: it is init that starts the other. And
    /// the kernel lets init go only when all that it leaves behind is gone, so
    /// that the next one here does not share a network with it.
    pub(crate) fn is_free(&self) -> bool {
        let init = self.init.load(Ordering::Relaxed);
        !self.init_stack.is_busy()
            && !self.command_stack.is_busy()
            && (init == 0 || !call::exists(init))
    }

    /// What the next process is handed, in the order of a [`Start`].
    pub(crate) fn hand(&self, asked: Start, mut descriptors: impl Iterator<Item = i32>) {
        let (stdio, cgroups) = self.handed.split_at(STDIO);
        for handed in stdio {
            handed.store(descriptors.next().unwrap_or(-1), Ordering::Relaxed);
        }
        self.completion.hand(asked.successor, &mut descriptors);
        for handed in cgroups {
            handed.store(descriptors.next().unwrap_or(-1), Ordering::Relaxed);
        }
    }

    /// Starts an init here, and does not wait for it.
    pub(crate) fn start(&'static self) -> Result<(), Errno> {
        let init = sys::spawn::<Init>(self, &self.init_stack, NAMESPACES, self.plan.token)?;
        self.init.store(init, Ordering::Relaxed);
        Ok(())
    }
}

/// The namespaces that each process has for itself.
const NAMESPACES: i32 = libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWIPC;

/// As what init sees itself in its own namespace.
const OWN_PID: i32 = 1;
const OWN_PID_AS_TEXT: &[u8] = b"1";

type Failed = (Step, Errno);

enum Init {}

impl ProcessMain for Init {
    type Argument = Place;

    fn main(place: &'static Place) -> ! {
        let Err((step, errno)) = run(place);
        // If the runner has gone away, it does not care.
        let _ = tell(place, Report::Failed(step, errno), None);
        call::exit(1)
    }
}

/// Sees a process through, from its private mounts to the command's end; and the
/// next ones, as long as none has left a trace.
fn run(place: &'static Place) -> Result<std::convert::Infallible, Failed> {
    // The zygote ignores it, so as not to have to reap; init has to.
    sys::set_signal_action(libc::SIGCHLD, false);
    for operation in &place.plan.mounts {
        mount(operation, place.plan.token)?;
    }
    let rules = match &place.plan.domain {
        Some(domain) => landlock::open_rules(domain),
        None => Ok(-1),
    };
    let rules = rules.map_err(|errno| (Step::EnterDomain, errno))?;
    place.rules.store(rules, Ordering::Relaxed);
    // Without an answer there is nothing to compare with, and the place is not used again.
    let mut watch = (place.plan.reuse.as_ref()).and_then(|reuse| Watch::open(reuse).ok());
    let mut command = start_command(place)?;
    let (pidfd, kept) = let_go(place, &mut watch).map_err(|errno| (Step::StartCommand, errno))?;
    // The runner kills us by our pidfd. If it has gone away before it got that,
    // nobody else will.
    if tell(place, Report::Started, Some(pidfd)).is_err() || call::close(pidfd).is_err() {
        call::exit(1);
    }
    loop {
        let status = reap_until_gone(command);
        let at = call::monotonic_time();
        let is_alone = call::is_childless();
        let completes = place.completion.is_earned(status);
        let exited = Report::Exited {
            status,
            is_alone,
            completes,
            at,
        };
        if tell(place, exited, None).is_err() {
            call::exit(0);
        }
        // Only now: whoever sees the end of its input finds the report.
        place.completion.settle(completes);
        if !is_alone || place.completion.drop_from(kept).is_err() {
            call::exit(0);
        }
        let is_as_before = watch.as_mut().is_some_and(|watch| {
            wait_until_let_go(place);
            watch.finds_no_trace() && watch.takes_back(place.plan.token)
        });
        if !is_as_before || tell(place, Report::Traceless, None).is_err() || !is_asked_again(place)?
        {
            call::exit(0);
        }
        command = start_command(place)?;
        let let_go = place.completion.keep_from(kept).and_then(call::close_from);
        if let_go.is_err() || tell(place, Report::Started, None).is_err() {
            call::exit(1);
        }
    }
}

/// What init watches its place with.
struct Watch {
    reuse: &'static Reuse,
    /// In init's own table: the file with the last process id, the one that says how many
    /// sockets there are, and the folders.
    files: [i32; WATCHED_FILES_MAX],
    count: usize,
    /// What was found last.
    traces: Traces,
}

/// Of `files`, before the folders.
const LAST_PROCESS: usize = 0;
const SOCKETS: usize = 1;
const FOLDERS: usize = 2;
const WATCHED_FILES_MAX: usize = FOLDERS + traces::FOLDERS_MAX;

/// What init keeps open, by number: the control socket, the rules of Landlock, and from
/// then on what it watches with. No number between is free: what is handed to the next
/// command lies above, to be let go of with all that does, but for what is for its
/// successor: that lies next while the command runs.
const CONTROL: i32 = 0;
const RULES: i32 = 1;
const FIRST_WATCHED: i32 = 2;

/// So that what is for the successor is never moved up, over what is to be moved next: the
/// zygote has the first four numbers, and hands out the control socket and standard input,
/// output and error before it.
const _: () = assert!(FIRST_WATCHED as usize + WATCHED_FILES_MAX <= 4 + 1 + STDIO);

impl Watch {
    /// Each file that is opened has a higher number than the one before.
    fn open(reuse: &'static Reuse) -> Result<Watch, Errno> {
        let mut files = [-1; WATCHED_FILES_MAX];
        files[LAST_PROCESS] = call::duplicate(reuse.last_process.as_raw_fd())?;
        files[SOCKETS] = call::open(network::SOCKETS)?;
        let folders = files.iter_mut().skip(FOLDERS).zip(&reuse.changeable);
        let mut count = FOLDERS;
        for (file, path) in folders {
            *file = call::open(path)?;
            count += 1;
        }
        let traces = Traces::of_new(files.iter().take(count).skip(FOLDERS).copied())?;
        Ok(Watch {
            reuse,
            files,
            count,
            traces,
        })
    }

    /// Moves the files to the lowest numbers but the first. None of them is where another
    /// one goes: the zygote has the first three for itself, so each is above its goal.
    fn move_down(&mut self) -> Result<(), Errno> {
        for (file, goal) in self.files.iter_mut().take(self.count).zip(FIRST_WATCHED..) {
            call::duplicate_to(*file, goal)?;
            *file = goal;
        }
        Ok(())
    }

    /// Is everything here as it was before the last command began? To be asked when
    /// nobody is left who might change something yet.
    fn finds_no_trace(&mut self) -> bool {
        if !network::has_no_sockets(self.files[SOCKETS]) {
            return false;
        }
        let folders = self.files.iter().take(self.count).skip(FOLDERS).copied();
        let Ok(now) = Traces::find(folders) else {
            return false;
        };
        let is_traceless = self.traces.are_followed_by(&now);
        self.traces = now;
        is_traceless
    }

    /// Takes back what the last command has moved on: the next process gets the number
    /// that it had, and nothing in `/proc` has been looked for, which would show in the
    /// times and numbers of its files.
    fn takes_back(&self, token: MountToken) -> bool {
        call::write(self.files[LAST_PROCESS], OWN_PID_AS_TEXT).is_ok()
            && mount(&self.reuse.forget, token).is_ok()
    }
}

/// How long a command's traces may lie where they are while its call goes on without it.
const LET_GO_WAIT_MAX: Duration = Duration::from_millis(100);

/// Waits, but not for ever, until the runner has no more interest in the last process. To
/// look for what that has left takes some 100 us of a processor, and those who wait for
/// its end would wait behind that: the next link, and then the caller. (To yield is of no
/// use: the kernel shares processors out to sessions, and only within those to processes.)
fn wait_until_let_go(place: &Place) {
    call::wait_for_message(place.control.load(Ordering::Relaxed), LET_GO_WAIT_MAX);
}

/// Waits until the runner wants another process here, or wants none any more.
fn is_asked_again(place: &Place) -> Result<bool, Failed> {
    let mut bytes = [0; START_BYTES + 1];
    let mut descriptors = [-1; HANDED_DESCRIPTORS_MAX];
    let control = place.control.load(Ordering::Relaxed);
    let received = loop {
        match call::receive(control, &mut bytes, &mut descriptors) {
            Err(libc::EINTR) => {}
            Ok(received) if bytes.get(..received.length) == Some(LET_GO) => {}
            received => break received,
        }
    };
    let Ok(received) = received else {
        return Ok(false);
    };
    if received.is_short {
        // What is missing may be a cgroup, and with it a limit.
        return Err((Step::StartCommand, libc::EMFILE));
    }
    let count = received.descriptors;
    let asked = bytes.get(..received.length).and_then(Start::from_bytes);
    let Some(asked) = asked.filter(|asked| asked.comes_with(count)) else {
        return Ok(false);
    };
    place.hand(asked, descriptors.into_iter().take(count));
    Ok(true)
}

fn tell(place: &Place, report: Report, passed: Option<i32>) -> Result<(), Errno> {
    let control = place.control.load(Ordering::Relaxed);
    call::send(control, &report.to_bytes(), passed)
}

fn mount(operation: &Operation, token: MountToken) -> Result<(), Failed> {
    match operation {
        Operation::Mount(mount) => call::mount(
            &mount.source,
            &mount.target,
            &mount.file_system,
            mount.flags,
            &mount.data,
            token,
        )
        .map_err(|errno| (mount.step, errno)),
        Operation::MakeFolder { path, mode, step } => match call::make_folder(path, *mode) {
            // What the zygote's umask has taken away.
            Ok(()) if mode & UMASK != 0 => call::change_mode(path, *mode),
            Ok(()) => Ok(()),
            Err(libc::EEXIST) => Ok(()),
            Err(errno) => Err(errno),
        }
        .map_err(|errno| (*step, errno)),
        Operation::ChangeRoot(path) => {
            change_root(path, token).map_err(|errno| (Step::MountOverlay, errno))
        }
    }
}

/// The old root comes to lie on the new one, and goes.
fn change_root(path: &CString, token: MountToken) -> Result<(), Errno> {
    call::change_folder(path)?;
    call::pivot_root(c".", c".", token)?;
    call::unmount_detached(c".", token)?;
    call::change_folder(c"/")
}

/// Starts the command's process and waits until it has executed the program.
fn start_command(place: &'static Place) -> Result<i32, Failed> {
    place.failed_errno.store(0, Ordering::Relaxed);
    let wait_for_exec = libc::CLONE_VFORK;
    let command =
        sys::spawn::<Command>(place, &place.command_stack, wait_for_exec, place.plan.token)
            .map_err(|errno| (Step::StartCommand, errno))?;
    match place.failed_errno.load(Ordering::Relaxed) {
        0 => Ok(command),
        errno => {
            let step = Step::from_number(place.failed_step.load(Ordering::Relaxed));
            Err((step.unwrap_or(Step::Execute), errno))
        }
    }
}

/// Keeps nothing open but what it needs for the next command, and so nothing that the
/// command has: else nobody upstream would notice when it closes its input. Gives a
/// pidfd of init, and the first number that it does not keep for the next one.
fn let_go(place: &Place, watch: &mut Option<Watch>) -> Result<(i32, u32), Errno> {
    call::duplicate_to(place.control.load(Ordering::Relaxed), CONTROL)?;
    place.control.store(CONTROL, Ordering::Relaxed);
    let rules = place.rules.load(Ordering::Relaxed);
    // Else it stays what it was in the zygote: /dev/null.
    if rules >= 0 {
        call::duplicate_to(rules, RULES)?;
        place.rules.store(RULES, Ordering::Relaxed);
    }
    let mut kept = FIRST_WATCHED as u32;
    if let Some(watch) = watch {
        watch.move_down()?;
        kept += watch.count as u32;
    }
    call::close_from(place.completion.keep_from(kept)?)?;
    Ok((call::open_process(OWN_PID, place.plan.token)?, kept))
}

/// Waits for the command, reaping whatever else dies meanwhile.
fn reap_until_gone(command: i32) -> i32 {
    loop {
        match call::wait_for_any() {
            Ok((process, status)) if process == command => return status,
            Ok(_) | Err(libc::EINTR) => {}
            // There is none left, though none was the command: cannot be, and
            // must not become an endless loop.
            Err(_) => return libc::SIGKILL,
        }
    }
}

/// The command's process, from its start to its exec.
enum Command {}

impl ProcessMain for Command {
    type Argument = Place;

    fn main(place: &'static Place) -> ! {
        let Err((step, errno)) = execute(place);
        place.failed_step.store(step as u32, Ordering::Relaxed);
        place.failed_errno.store(errno, Ordering::Relaxed);
        call::exit(127)
    }
}

fn execute(place: &Place) -> Result<std::convert::Infallible, Failed> {
    let at = |step| move |errno| (step, errno);
    let plan = place.plan;
    join_cgroups(place).map_err(at(Step::JoinCgroup))?;
    if let Some(domain) = &plan.domain {
        let rules = place.rules.load(Ordering::Relaxed);
        landlock::enter(domain, rules).map_err(at(Step::EnterDomain))?;
    }
    let closed = take_stdio(place).map_err(at(Step::KeepDescriptors))?;
    take_identity(plan).map_err(at(Step::SetUser))?;
    rlimits::take(plan.limits).map_err(at(Step::TakeLimits))?;
    enter_working_directory(plan, closed).map_err(at(Step::EnterWorkingDirectory))?;
    let errno = call::execute(&plan.program, &plan.arguments, &plan.environment);
    Err((Step::Execute, errno))
}

/// Says that nothing is open but standard input, output and error.
struct AllElseIsClosed;

/// Goes where the image says: not before all else is closed, since a path may lead
/// over `/proc/self/fd`.
fn enter_working_directory(plan: &Plan, _: AllElseIsClosed) -> Result<(), Errno> {
    call::change_folder(&plan.working_directory)
}

/// The command joins its cgroups, and init does not: where memory runs out, the
/// kernel kills a process there with all that share its memory, which for init
/// would be the zygote and the inits of all others.
fn join_cgroups(place: &Place) -> Result<(), Errno> {
    let mut joined = false;
    for cgroup in place.handed.iter().skip(STDIO) {
        let file = cgroup.load(Ordering::Relaxed);
        if file >= 0 {
            // "0" is whoever writes.
            call::write(file, b"0")?;
            joined = true;
        }
    }
    if joined {
        // Else /proc/self/cgroup would show which runner it is under.
        call::new_cgroup_namespace(place.plan.token)?;
    }
    Ok(())
}

fn take_stdio(place: &Place) -> Result<AllElseIsClosed, Errno> {
    // A session of its own: a signal to its process group stays within.
    call::new_session()?;
    // In this order: an init that was asked again has them one further up.
    for (from, to) in place.handed.iter().take(STDIO).zip(0..) {
        call::duplicate_to(from.load(Ordering::Relaxed), to)?;
    }
    call::close_from(STDIO as u32)?;
    Ok(AllElseIsClosed)
}

fn take_identity(plan: &Plan) -> Result<(), Errno> {
    if plan.set_groups {
        call::set_groups(&plan.identity.groups)?;
    }
    call::set_group(plan.identity.gid)?;
    call::set_user(plan.identity.uid)?;
    // A change of user may have made this memory, which is the zygote's and holds
    // the mount token, as inspectable as fs.suid_dumpable of the host says. What is
    // executed has memory of its own, which is inspectable as ever.
    call::set_not_dumpable()
}
