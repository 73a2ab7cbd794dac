//! Resource limits that every process of a link inherits from its zygote.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::CapabilitySet;

use crate::sys::{Errno, in_our_memory as call};

/// Open files: enough for any filter, and the soft limit that programs written
/// for `select` expect. Not more, since `poll` takes an array as long as this, and in each
/// thread 72 bytes of the kernel's memory for each of its entries that no cgroup counts.
const OPEN_FILES_SOFT_MAX: u64 = 1024;
const OPEN_FILES_HARD_MAX: u64 = 4096;

/// Open files of the zygote and of inits, which send a descriptor to the runner.
/// The kernel lets nobody pass one over a socket while more are on their way, for
/// the same user of the host, than the *sender* may have open: and of all links
/// the inits and most commands are the same user. So inits have a limit that is
/// well above what commands can have on the way.
const INIT_OPEN_FILES_MAX: u64 = 1024 * 1024;
const INIT_TO_COMMAND_OPEN_FILES: u64 = 4;

/// The kernel's own bound of a limit on open files.
const OPEN_FILES_BOUND: &str = "/proc/sys/fs/nr_open";

/// The stack of a program's first thread: what Linux gives by default, and what
/// a program may raise it to.
const STACK_BYTES_SOFT: u64 = 8 * 1024 * 1024;
const STACK_BYTES_HARD_MAX: u64 = 64 * 1024 * 1024;

/// Memory that cannot be swapped: what Linux gives by default.
const LOCKED_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// Signals that wait with what was sent along, timers among them. Counted for each
/// user of a link, and charged to whoever runs the runner, too.
const WAITING_SIGNALS_MAX: u64 = 1024;

/// What a link's processes may have of inotify, for each user of the link. The
/// kernel charges them to whoever runs the runner as well, and root of the host
/// has 128 instances, for all that it runs.
const INOTIFY_BOUNDS: [(&str, u64); 2] = [
    ("/proc/sys/user/max_inotify_instances", 8),
    ("/proc/sys/user/max_inotify_watches", 8192),
];

/// A core dump of this many bytes is none: it is less than the kernel begins a
/// file for, and where it pipes dumps to a program (`|` in core_pattern), which
/// gets them whatever the limit is, this one alone stops it.
const CORE_BYTES: u64 = 1;

/// What each process sets for itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ProcessLimits {
    open_files_soft: u64,
    open_files_hard: u64,
    /// Counted for the user in the link's user namespace. Not the zygote's: it has
    /// to make processes also where a command has used up this number.
    link_processes_max: Option<u64>,
}

/// Raises what has to be raised, for which it takes a capability of the host
/// (CAP_SYS_RESOURCE): before the process is in a user namespace. Where that is
/// refused, [`set`] goes by what there is.
pub(crate) fn raise() {
    let bound = std::fs::read_to_string(OPEN_FILES_BOUND);
    let bound = bound.ok().and_then(|bound| bound.trim().parse().ok());
    let most = INIT_OPEN_FILES_MAX.min(bound.unwrap_or(INIT_OPEN_FILES_MAX));
    for (resource, most) in [(Resource::Nofile, most), (Resource::Core, CORE_BYTES)] {
        let both = Rlimit {
            current: Some(most),
            maximum: Some(most),
        };
        let _ = setrlimit(resource, both);
    }
}

/// Does [`CORE_BYTES`] hold for processes that this one's zygotes start?
pub(crate) fn stops_dumps_to_programs() -> bool {
    let may_raise = rustix::thread::capabilities(None)
        .is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_RESOURCE));
    may_raise || hard(Resource::Core, CORE_BYTES) == CORE_BYTES
}

/// Sets the limits, whatever the runner's own are: no core dumps, which would
/// take an input's content to disk; a bounded stack, bounded open files; no
/// priority above the others'.
pub(crate) fn set(link_processes_max: Option<u64>) -> rustix::io::Result<ProcessLimits> {
    limit(Resource::Core, CORE_BYTES, CORE_BYTES)?;
    bound_signals()?;
    limit(Resource::Rtprio, 0, 0)?;
    limit(Resource::Nice, 0, 0)?;
    limit(Resource::Memlock, LOCKED_BYTES_MAX, LOCKED_BYTES_MAX)?;
    limit(Resource::Stack, STACK_BYTES_SOFT, STACK_BYTES_HARD_MAX)?;
    limit(Resource::Nofile, INIT_OPEN_FILES_MAX, INIT_OPEN_FILES_MAX)?;
    let inits = hard(Resource::Nofile, INIT_OPEN_FILES_MAX);
    let open_files = OPEN_FILES_HARD_MAX.min(inits / INIT_TO_COMMAND_OPEN_FILES);
    Ok(ProcessLimits {
        open_files_soft: OPEN_FILES_SOFT_MAX.min(open_files),
        open_files_hard: open_files,
        link_processes_max: link_processes_max.map(|most| hard(Resource::Nproc, most)),
    })
}

/// Bounds what is counted for each user of this user namespace, by its own root, with a
/// `/proc` that is still writable. Says whether it could: where there is no inotify there
/// is nothing to bound, and where something keeps root from its settings (a security
/// module might, or a `/proc` that is read-only) a link is not refused for that.
pub(crate) fn bound_user_namespace() -> bool {
    let bound = |(file, most): (&str, u64)| std::fs::write(file, most.to_string()).is_ok();
    INOTIFY_BOUNDS.map(bound) == [true; INOTIFY_BOUNDS.len()]
}

/// Bounds the signals that wait, as [`set`] does. A user namespace takes the bound of
/// whoever makes it for all its users together.
pub(crate) fn bound_signals() -> rustix::io::Result<()> {
    let most = WAITING_SIGNALS_MAX;
    limit(Resource::Sigpending, most, most)
}

/// For a command's process, in the zygote's memory, by the rules of `sys.rs`. When
/// it is its user already: a change of user counts, too.
pub(crate) fn take(limits: ProcessLimits) -> Result<(), Errno> {
    let (soft, hard) = (limits.open_files_soft, limits.open_files_hard);
    call::limit(libc::RLIMIT_NOFILE, soft, hard)?;
    match limits.link_processes_max {
        Some(most) => call::limit(libc::RLIMIT_NPROC, most, most),
        None => Ok(()),
    }
}

/// Never raises what is hard already.
fn limit(resource: Resource, soft: u64, hard_max: u64) -> rustix::io::Result<()> {
    let hard = hard(resource, hard_max);
    let limit = Rlimit {
        current: Some(soft.min(hard)),
        maximum: Some(hard),
    };
    setrlimit(resource, limit)
}

fn hard(resource: Resource, hard_max: u64) -> u64 {
    let found = getrlimit(resource).maximum;
    found.map_or(hard_max, |hard| hard.min(hard_max))
}
