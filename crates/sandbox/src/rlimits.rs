//! Resource limits that every process of a link inherits from its zygote.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::sys::{Errno, in_our_memory as call};

/// Open files: enough for any filter, and the soft limit that programs written
/// for `select` expect.
const OPEN_FILES_SOFT_MAX: u64 = 1024;
const OPEN_FILES_HARD_MAX: u64 = 65536;

/// The stack of a program's first thread: what Linux gives by default, and what
/// a program may raise it to.
const STACK_BYTES_SOFT: u64 = 8 * 1024 * 1024;
const STACK_BYTES_HARD_MAX: u64 = 64 * 1024 * 1024;

/// Memory that cannot be swapped: what Linux gives by default.
const LOCKED_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// What each process sets for itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ProcessLimits {
    /// The zygote itself needs some for each process, and so has the hard limit.
    open_files_soft: u64,
    open_files_hard: u64,
    /// Counted for the user in the link's user namespace. Not the zygote's: it has
    /// to make processes also where a command has used up this number.
    link_processes_max: Option<u64>,
}

/// Sets the limits, whatever the runner's own are: no core dumps, which would
/// take an input's content to disk; a bounded stack, bounded open files; no
/// priority above the others'.
pub(crate) fn set(link_processes_max: Option<u64>) -> rustix::io::Result<ProcessLimits> {
    limit(Resource::Core, 0, 0)?;
    limit(Resource::Rtprio, 0, 0)?;
    limit(Resource::Nice, 0, 0)?;
    limit(Resource::Memlock, LOCKED_BYTES_MAX, LOCKED_BYTES_MAX)?;
    limit(Resource::Stack, STACK_BYTES_SOFT, STACK_BYTES_HARD_MAX)?;
    limit(Resource::Nofile, OPEN_FILES_HARD_MAX, OPEN_FILES_HARD_MAX)?;
    let open_files = hard(Resource::Nofile, OPEN_FILES_HARD_MAX);
    Ok(ProcessLimits {
        open_files_soft: OPEN_FILES_SOFT_MAX.min(open_files),
        open_files_hard: open_files,
        link_processes_max: link_processes_max.map(|most| hard(Resource::Nproc, most)),
    })
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
