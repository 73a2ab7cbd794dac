//! The steps for each process. Init, PID 1 of the process's own namespaces, makes the
//! private mounts and starts the command's process. Then it waits, and reaps processes that
//! the command leaves behind. It exits when the command does, and the kernel then kills all
//! processes that are left. Only if the command has left no trace, init stays and waits for
//! the next command.
//!
//! Init shares the zygote's memory while the zygote runs on, so everything here keeps to
//! the rules of `sys.rs`: no allocation, no `errno`, no panic.

use std::ffi::CString;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};
use std::time::Duration;

use rustix::fd::{AsRawFd, OwnedFd};

use crate::completion::Completion;
use crate::failure::Step;
use crate::handover::{Handover, Left};
use crate::landlock::{self, Domain};
use crate::mounts::{MountPlan, Operation, SCRATCH};
use crate::network;
use crate::rlimits::{self, ProcessLimits};
use crate::sys::in_our_memory::{self as call, Reaped};
use crate::sys::{self, Errno, MountToken, ProcessMain, Stack, StringArray, StringsRoom};
use crate::traces::Traces;
use crate::user::Identity;
use crate::wire::{
    CGROUPS_MAX, Found, LET_GO, Passed, Report, START_BYTES, STDIO, SUCCESSOR_DESCRIPTORS, Start,
};
use crate::zygote::UMASK;

/// The settings that are the same for all processes of a link.
pub(crate) struct Plan {
    pub(crate) program: CString,
    pub(crate) arguments: StringArray,
    pub(crate) environment: StringArray,
    /// How many of the first variables may differ from process to process, and with them
    /// all arguments; `None` if they are always the link's.
    pub(crate) own_variables: Option<usize>,
    pub(crate) working_directory: CString,
    pub(crate) identity: Identity,
    /// Whether groups can be set. They cannot be set or dropped if only one id is mapped.
    pub(crate) set_groups: bool,
    pub(crate) limits: ProcessLimits,
    pub(crate) mounts: MountPlan,
    /// One of the private folders, which all are in one file system.
    pub(crate) private_folder: CString,
    pub(crate) handover: Handover,
    /// How places are reused; `None` if they are not.
    pub(crate) reuse: Option<Reuse>,
    pub(crate) found: Found,
    /// `None` if the kernel has no Landlock.
    pub(crate) domain: Option<Domain>,
    pub(crate) token: MountToken,
}

/// How the places of a link are reused.
pub(crate) struct Reuse {
    /// The folders in which a process may leave something, in its file system in memory.
    pub(crate) changeable: Vec<CString>,
    /// The file for the last process id that the kernel has assigned in the PID namespace of
    /// the process that accesses the file. A descriptor in the zygote's table.
    pub(crate) last_process: OwnedFd,
    /// Makes the kernel forget which names were looked up in `/proc`.
    pub(crate) forget: Operation,
}

/// The place of one process in the zygote's memory.
pub(crate) struct Place {
    pub(crate) plan: &'static Plan,
    init_stack: Stack,
    /// The stack of the command's process until its exec. It cannot use init's: if init is
    /// killed, the kernel releases init's stack before it kills the command's process.
    command_stack: Stack,
    /// The process id of the last init here; 0 before the first.
    init: AtomicI32,
    /// The first process has been asked for along with its init.
    is_asked: AtomicBool,
    /// The control socket, a descriptor in init's own table.
    pub(crate) control: AtomicI32,
    /// The descriptors for a process, in init's own table: standard input, output and
    /// error, and the cgroups to join; -1 if there is none.
    handed: [AtomicI32; STDIO + CGROUPS_MAX],
    /// The file with the process's own strings, likewise.
    strings: AtomicI32,
    /// Room for them, if processes of the link have some of their own.
    strings_room: Option<StringsRoom>,
    /// The descriptors for the process that reads this process's output.
    completion: Completion,
    /// The Landlock rules of this place, a descriptor in init's own table; -1 if none.
    rules: AtomicI32,
    /// A process in the place has made a socket of the internet's: neither the place nor its
    /// network is for another process. Only the zygote sets it.
    pub(crate) network_is_used: AtomicBool,
    /// Why the command's process could not be executed: a step and an error.
    failed_step: AtomicU32,
    failed_errno: AtomicI32,
}

/// The most descriptors for a process: standard input, output and error, the strings, those
/// for the successor, and the cgroups.
const HANDED_DESCRIPTORS_MAX: usize = STDIO + 1 + SUCCESSOR_DESCRIPTORS + CGROUPS_MAX;

impl Place {
    pub(crate) fn new(plan: &'static Plan) -> Result<Place, Errno> {
        let room = |count| StringsRoom::new(&plan.arguments, &plan.environment, count);
        Ok(Place {
            plan,
            init_stack: Stack::new()?,
            command_stack: Stack::new()?,
            init: AtomicI32::new(0),
            is_asked: AtomicBool::new(false),
            control: AtomicI32::new(-1),
            handed: [const { AtomicI32::new(-1) }; STDIO + CGROUPS_MAX],
            strings: AtomicI32::new(-1),
            strings_room: plan.own_variables.map(room).transpose()?,
            completion: Completion::new(),
            rules: AtomicI32::new(-1),
            network_is_used: AtomicBool::new(false),
            failed_step: AtomicU32::new(0),
            failed_errno: AtomicI32::new(0),
        })
    }

    /// Whether no process uses the place any more. Checks init first, because init starts the
    /// command's process. The kernel removes init only when all processes of its namespace
    /// are gone, so the next process here does not share a network with them.
    pub(crate) fn is_free(&self) -> bool {
        let init = self.init.load(Ordering::Relaxed);
        !self.init_stack.is_busy()
            && !self.command_stack.is_busy()
            && (init == 0 || !call::exists(init))
    }

    /// Stores the descriptors for the next process, in the order of a [`Start`].
    pub(crate) fn hand(&self, asked: Start, mut descriptors: impl Iterator<Item = i32>) {
        let (stdio, cgroups) = self.handed.split_at(STDIO);
        for handed in stdio {
            handed.store(descriptors.next().unwrap_or(-1), Ordering::Relaxed);
        }
        let strings = if asked.has_strings {
            descriptors.next()
        } else {
            None
        };
        self.strings.store(strings.unwrap_or(-1), Ordering::Relaxed);
        self.completion.hand(asked.successor, &mut descriptors);
        for handed in cgroups {
            handed.store(descriptors.next().unwrap_or(-1), Ordering::Relaxed);
        }
    }

    /// Starts an init in this place, without waiting for it: for the process whose
    /// descriptors it has, or to wait for that one.
    pub(crate) fn start(&'static self, is_asked: bool) -> Result<(), Errno> {
        self.is_asked.store(is_asked, Ordering::Relaxed);
        if let Some(room) = &self.strings_room {
            // Those of an init that was killed.
            room.empty();
        }
        let init = sys::spawn::<Init>(self, &self.init_stack, NAMESPACES, self.plan.token)?;
        self.init.store(init, Ordering::Relaxed);
        Ok(())
    }
}

/// The namespaces that each process has of its own.
const NAMESPACES: i32 = libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWIPC;

/// The process id of init in its own namespace.
const OWN_PID: i32 = 1;
const OWN_PID_AS_TEXT: &[u8] = b"1";

type Failed = (Step, Errno);

enum Init {}

impl ProcessMain for Init {
    type Argument = Place;

    fn main(place: &'static Place) -> ! {
        let Err((step, errno)) = run(place);
        // This fails only if the runner is gone; then nobody needs the report.
        let _ = tell(place, Report::Failed(step, errno), None);
        call::exit(1)
    }
}

/// Runs a process, from its private mounts to the command's end; and further commands, as
/// long as none has left a trace.
fn run(place: &'static Place) -> Result<std::convert::Infallible, Failed> {
    // The zygote ignores SIGCHLD so that it need not reap; init must reap.
    sys::set_signal_action(libc::SIGCHLD, false);
    let MountPlan { operations, root } = &place.plan.mounts;
    for operation in operations {
        mount(operation, place.plan.token)?;
    }
    // If this fails, there is no state to compare with, and the place is not reused.
    let scratch = (place.plan.reuse.as_ref()).and_then(|_| call::open(SCRATCH).ok());
    call::change_root(root, place.plan.token).map_err(|errno| (Step::ChangeRoot, errno))?;
    let rules = match &place.plan.domain {
        Some(domain) => landlock::open_rules(domain),
        None => Ok(-1),
    };
    let rules = rules.map_err(|errno| (Step::EnterDomain, errno))?;
    place.rules.store(rules, Ordering::Relaxed);
    let watched = place.plan.reuse.as_ref().zip(scratch);
    let mut watch = watched.and_then(|(reuse, scratch)| Watch::open(reuse, scratch).ok());
    if let Some(input) = place.plan.handover.make()? {
        let passed = tell(place, Report::Passed(Passed::Input), Some(input));
        passed.map_err(|errno| (Step::MakeInput, errno))?;
    }
    if place.plan.handover.has_folders() {
        for (path, passed) in [
            (c"/proc/self/ns/mnt", Passed::Mounts),
            (c"/proc/self/ns/pid", Passed::Processes),
        ] {
            let passed = call::open(path)
                .and_then(|namespace| tell(place, Report::Passed(passed), Some(namespace)));
            passed.map_err(|errno| (Step::MakeInput, errno))?;
        }
    }
    let (mut command, kept) = if place.is_asked.load(Ordering::Relaxed) {
        let command = start_command(place)?;
        (command, introduce(place, &mut watch, Report::Started)?)
    } else {
        let kept = introduce(place, &mut watch, Report::Prepared)?;
        (next_command(place, kept)?, kept)
    };
    loop {
        let mut cpu_microseconds = 0;
        let status = reap_until_gone(command, &mut cpu_microseconds);
        let at = call::monotonic_time();
        let completes = place.completion.is_earned(status);
        let handover = &place.plan.handover;
        if handover.leaves_output() {
            end_the_rest(&mut cpu_microseconds);
        }
        let (left, output) = handover.find_output();
        // What is still to be packed keeps its place.
        let is_alone = call::is_childless(&mut cpu_microseconds) && !handover.leaves_folder();
        let exited = Report::Exited {
            status,
            is_alone,
            completes,
            is_full: status != 0 && call::is_full(&place.plan.private_folder),
            left,
            at,
            cpu_microseconds,
        };
        if tell(place, exited, output).is_err() {
            call::exit(0);
        }
        if left == Left::There && handover.leaves_folder() {
            wait_until_nobody_asks(place);
        }
        // Only after the report: when the next process sees its end of input, the runner can
        // find the report.
        place.completion.settle(completes);
        if !is_alone || place.completion.drop_from(kept).is_err() {
            call::exit(0);
        }
        let is_as_before = watch.as_mut().is_some_and(|watch| {
            wait_until_let_go(place);
            !place.network_is_used.load(Ordering::Acquire)
                && watch.finds_no_trace()
                && watch.takes_back(place.plan.token)
        });
        if !is_as_before || tell(place, Report::Traceless, None).is_err() {
            call::exit(0);
        }
        command = next_command(place, kept)?;
    }
}

/// Closes all that init does not need, and sends its pidfd with this report. Returns the
/// first number that is not kept.
fn introduce(place: &Place, watch: &mut Option<Watch>, report: Report) -> Result<u32, Failed> {
    let (pidfd, kept) = let_go(place, watch).map_err(|errno| (Step::StartCommand, errno))?;
    // The runner kills us through our pidfd. If it is gone before it got that, nobody else
    // would kill us.
    if tell(place, report, Some(pidfd)).is_err() || call::close(pidfd).is_err() {
        call::exit(1);
    }
    Ok(kept)
}

/// Waits until the next process is asked for, and starts it. Exits if none will be.
fn next_command(place: &'static Place, kept: u32) -> Result<i32, Failed> {
    if !is_asked_again(place)? {
        call::exit(0);
    }
    let command = start_command(place)?;
    let let_go = place.completion.keep_from(kept).and_then(call::close_from);
    if let_go.is_err() || tell(place, Report::Started, None).is_err() {
        call::exit(1);
    }
    Ok(command)
}

/// The files by which init notices traces in its place.
struct Watch {
    reuse: &'static Reuse,
    /// Descriptors in init's own table: the file system in memory, the file with the last
    /// process id, and the file with the number of sockets.
    files: [i32; WATCHED_FILES],
    /// The state found last.
    traces: Traces,
}

/// Of `files`.
const FOLDERS: usize = 0;
const LAST_PROCESS: usize = 1;
const SOCKETS: usize = 2;
const WATCHED_FILES: usize = 3;

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
const _: () = assert!(FIRST_WATCHED as usize + WATCHED_FILES <= 4 + 1 + STDIO);

impl Watch {
    /// Each file that is opened has a higher number than the one before.
    fn open(reuse: &'static Reuse, scratch: i32) -> Result<Watch, Errno> {
        let last_process = call::duplicate(reuse.last_process.as_raw_fd())?;
        let files = [scratch, last_process, call::open(network::SOCKETS)?];
        Ok(Watch {
            reuse,
            files,
            traces: Traces::of_new(scratch, &reuse.changeable)?,
        })
    }

    /// Moves the files to the lowest numbers but the first. None of them is where another
    /// one goes: the zygote has the first three for itself, so each is above its goal.
    fn move_down(&mut self) -> Result<(), Errno> {
        for (file, goal) in self.files.iter_mut().zip(FIRST_WATCHED..) {
            call::duplicate_to(*file, goal)?;
            *file = goal;
        }
        Ok(())
    }

    /// Whether everything is as it was before the last command began. Call this only when no
    /// process is left that could still change something.
    fn finds_no_trace(&mut self) -> bool {
        if !network::has_no_sockets(self.files[SOCKETS]) {
            return false;
        }
        let Ok(now) = Traces::find(self.files[FOLDERS], &self.reuse.changeable) else {
            return false;
        };
        let is_traceless = self.traces.are_followed_by(&now);
        self.traces = now;
        is_traceless
    }

    /// Resets what every command changes: the next process gets the id that the last command
    /// had, and the kernel forgets which names were looked up in `/proc`, which would show
    /// in the times and numbers of its files.
    fn takes_back(&self, token: MountToken) -> bool {
        call::write(self.files[LAST_PROCESS], OWN_PID_AS_TEXT).is_ok()
            && mount(&self.reuse.forget, token).is_ok()
    }
}

/// How long init waits before it checks for traces while the call continues without the
/// command.
const LET_GO_WAIT_MAX: Duration = Duration::from_millis(100);

/// Waits, for a bounded time, until the runner has dropped the last process. Checking for
/// traces takes about 100 µs of a processor, and would delay those that wait for the
/// command's end: the next link, and then the caller. (Yielding does not help: the kernel
/// divides processors among sessions first, and only within these among processes.)
fn wait_until_let_go(place: &Place) {
    call::wait_for_message(place.control.load(Ordering::Relaxed), LET_GO_WAIT_MAX);
}

/// Waits for the runner's next order. False if it wants no more processes here.
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
        // The missing descriptor may be a cgroup's, and with it a limit.
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
            // Restore the bits that the zygote's umask has removed.
            Ok(()) if mode & UMASK != 0 => call::change_mode(path, *mode),
            Ok(()) => Ok(()),
            Err(libc::EEXIST) => Ok(()),
            Err(errno) => Err(errno),
        }
        .map_err(|errno| (*step, errno)),
        Operation::MakeFile { path, step } => {
            call::make_empty_file(path).map_err(|errno| (*step, errno))
        }
    }
}

/// Starts the command's process and waits until it has executed the program.
fn start_command(place: &'static Place) -> Result<i32, Failed> {
    place.failed_errno.store(0, Ordering::Relaxed);
    let own_strings = read_strings(place).map_err(|errno| (Step::ReadStrings, errno))?;
    let wait_for_exec = libc::CLONE_VFORK;
    let command =
        sys::spawn::<Command>(place, &place.command_stack, wait_for_exec, place.plan.token)
            .map_err(|errno| (Step::StartCommand, errno))?;
    // The program has a copy of its own by now.
    if let Some(room) = own_strings {
        room.empty();
    }
    match place.failed_errno.load(Ordering::Relaxed) {
        0 => Ok(command),
        errno => {
            let step = Step::from_number(place.failed_step.load(Ordering::Relaxed));
            Err((step.unwrap_or(Step::Execute), errno))
        }
    }
}

/// Reads the strings of the next command, if it has some of its own: their room.
fn read_strings(place: &Place) -> Result<Option<&StringsRoom>, Errno> {
    let file = place.strings.load(Ordering::Relaxed);
    if file < 0 {
        return Ok(None);
    }
    let room = place.strings_room.as_ref().ok_or(libc::EINVAL)?;
    room.fill(file)?;
    Ok(Some(room))
}

/// Closes everything except the descriptors for the next command. In particular it closes
/// the command's own: otherwise the sender would not notice when the command closes its
/// input. Returns a pidfd of init, and the first number that is not kept.
fn let_go(place: &Place, watch: &mut Option<Watch>) -> Result<(i32, u32), Errno> {
    call::duplicate_to(place.control.load(Ordering::Relaxed), CONTROL)?;
    place.control.store(CONTROL, Ordering::Relaxed);
    let rules = place.rules.load(Ordering::Relaxed);
    // Without rules, this number stays /dev/null, as in the zygote.
    if rules >= 0 {
        call::duplicate_to(rules, RULES)?;
        place.rules.store(RULES, Ordering::Relaxed);
    }
    let mut kept = FIRST_WATCHED as u32;
    if let Some(watch) = watch {
        watch.move_down()?;
        kept += watch.files.len() as u32;
    }
    call::close_from(place.completion.keep_from(kept)?)?;
    Ok((call::open_process(OWN_PID, place.plan.token)?, kept))
}

/// Kills what the command has left running, and waits until it is gone. Adds its processor
/// time.
fn end_the_rest(cpu_microseconds: &mut u64) {
    if call::is_childless(cpu_microseconds) {
        return;
    }
    // Without anybody to kill there is nobody to wait for either.
    let _ = call::kill_all_others();
    loop {
        match call::wait_for_any() {
            Ok(reaped) => add(cpu_microseconds, &reaped),
            Err(libc::EINTR) => {}
            Err(_) => return,
        }
    }
}

fn add(cpu_microseconds: &mut u64, reaped: &Reaped) {
    *cpu_microseconds = cpu_microseconds.saturating_add(reaped.cpu_microseconds);
}

/// Waits until the runner is done with the place.
fn wait_until_nobody_asks(place: &Place) {
    let control = place.control.load(Ordering::Relaxed);
    loop {
        match call::receive(control, &mut [0; 1], &mut [-1; 1]) {
            Err(libc::EINTR) => {}
            Ok(received) if received.length > 0 => {}
            _ => return,
        }
    }
}

/// Waits for the command, and reaps other processes that end meanwhile. Adds the processor
/// time of all of them.
fn reap_until_gone(command: i32, cpu_microseconds: &mut u64) -> i32 {
    loop {
        match call::wait_for_any() {
            Ok(reaped) => {
                add(cpu_microseconds, &reaped);
                if reaped.pid == command {
                    return reaped.status;
                }
            }
            Err(libc::EINTR) => {}
            // No process is left, but none was the command. This cannot happen, and must
            // not become an endless loop.
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
    let (mut arguments, mut environment) = (plan.arguments.pointers(), plan.environment.pointers());
    if let Some(room) = &place.strings_room
        && place.strings.load(Ordering::Relaxed) >= 0
    {
        (arguments, environment) = (room.arguments(), room.environment());
    }
    let errno = call::execute(&plan.program, arguments, environment);
    Err((Step::Execute, errno))
}

/// Proof that nothing is open except standard input, output and error.
struct AllElseIsClosed;

/// Enters the working directory. All other descriptors must be closed before, because a
/// path may lead through `/proc/self/fd`.
fn enter_working_directory(plan: &Plan, _: AllElseIsClosed) -> Result<(), Errno> {
    call::change_folder(&plan.working_directory)
}

/// The command joins its cgroups; init does not. If memory runs out in a cgroup, the kernel
/// kills a process together with all that share its memory: with init, these would be the
/// zygote and all other inits.
fn join_cgroups(place: &Place) -> Result<(), Errno> {
    let mut joined = false;
    for cgroup in place.handed.iter().skip(STDIO) {
        let file = cgroup.load(Ordering::Relaxed);
        if file >= 0 {
            // "0" means the writing process.
            call::write(file, b"0")?;
            joined = true;
        }
    }
    if joined {
        // Otherwise /proc/self/cgroup would show the runner's cgroup.
        call::new_cgroup_namespace(place.plan.token)?;
    }
    Ok(())
}

fn take_stdio(place: &Place) -> Result<AllElseIsClosed, Errno> {
    // A session of its own: a signal to its process group stays within.
    call::new_session()?;
    // In ascending order: an init that is reused has them one number higher.
    for (from, to) in place.handed.iter().take(STDIO).zip(0..) {
        call::duplicate_to(from.load(Ordering::Relaxed), to)?;
    }
    call::close_from(STDIO as u32)?;
    Ok(AllElseIsClosed)
}

pub(crate) fn take_identity(plan: &Plan) -> Result<(), Errno> {
    if plan.set_groups {
        call::set_groups(&plan.identity.groups)?;
    }
    call::set_group(plan.identity.gid)?;
    call::set_user(plan.identity.uid)?;
    // A change of user may make this memory inspectable, depending on the host's
    // fs.suid_dumpable. It is the zygote's memory and holds the mount token. The executed program
    // gets memory of its own, which is inspectable as usual.
    call::set_not_dumpable()
}
