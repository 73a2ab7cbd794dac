//! Resource limits that every process of a link inherits from its zygote.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::CapabilitySet;

use crate::failure::{Failure, Step};
use crate::sys::{Errno, in_our_memory as call};

/// Open files: enough for any filter, and the soft limit that programs written
/// for `select` expect. Not more, since `poll` takes an array as long as this, and in each
/// thread 72 bytes of the kernel's memory for each of its entries that no cgroup counts.
const OPEN_FILES_SOFT_MAX: u64 = 1024;
const OPEN_FILES_HARD_MAX: u64 = 4096;

/// Open files of the zygote and of inits, which send a descriptor to the runner. The
/// kernel refuses to send one over a socket while the same user of the host has more of
/// them in flight than the *sender* may have open; and the inits of all links, and most
/// commands, are the same user. So inits have a limit well above what commands can have
/// in flight.
const INIT_OPEN_FILES_MAX: u64 = 1024 * 1024;

/// If the host allows inits fewer, commands get a quarter of that.
const INIT_TO_COMMAND_OPEN_FILES: u64 = 4;

/// If a link asks for a number, its commands get no more than half of that: inits still
/// have room then for what commands have in flight, and for what they add to that at the
/// same moment.
const INIT_TO_ASKED_OPEN_FILES: u64 = 2;

/// The kernel's own bound of a limit on open files.
const OPEN_FILES_BOUND: &str = "/proc/sys/fs/nr_open";

/// The stack of a program's first thread: what Linux gives by default. A program may raise
/// it as it likes: the stack is memory like any other.
const STACK_BYTES_SOFT: u64 = 8 * 1024 * 1024;

/// Memory that cannot be swapped: what Linux gives by default.
const LOCKED_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// Queued signals, of which each timer takes one. The kernel counts them for each user of
/// a link, and for the user who runs the runner, too, who may have some ten thousand by
/// default: so one link cannot use them up.
const WAITING_SIGNALS_MAX: u64 = 1024;

/// Inotify instances and watches of a link's processes, for each user of the link. The
/// kernel counts them for the user who runs the runner as well, and root of the host has
/// 128 instances, for everything that it runs.
const INOTIFY_BOUNDS: [(&str, u64); 2] = [
    ("/proc/sys/user/max_inotify_instances", 8),
    ("/proc/sys/user/max_inotify_watches", 8192),
];

/// The limit on core dumps that stops all of them. The kernel writes no file with 1 byte
/// or less; and if it pipes dumps to a program (`|` in core_pattern), it ignores every
/// limit but this one.
const CORE_BYTES: u64 = 1;

/// What each process sets for itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ProcessLimits {
    open_files_soft: u64,
    open_files_hard: u64,
    /// Counted for the user in the link's user namespace. Not set for the zygote, which
    /// has to make processes even if commands have used up this number.
    link_processes_max: Option<u64>,
}

/// Raises limits, which takes a capability on the host (CAP_SYS_RESOURCE); so it is done
/// before the process enters a user namespace. If it is refused, [`set`] makes do with
/// the limits there are.
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

/// Whether the limit [`CORE_BYTES`] can be set for processes of this process's zygotes.
pub(crate) fn stops_dumps_to_programs() -> bool {
    let may_raise = rustix::thread::capabilities(None)
        .is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_RESOURCE));
    may_raise || hard(Resource::Core, CORE_BYTES) == CORE_BYTES
}

/// Sets the limits, whatever the runner's own are: no core dumps, which would
/// take an input's content to disk; bounded open files; no
/// priority above the others'.
pub(crate) fn set(
    link_processes_max: Option<u64>,
    open_files: Option<u32>,
) -> Result<ProcessLimits, Failure> {
    set_for_all().map_err(|error| Failure::new(Step::SetLimits, "", error.raw_os_error()))?;
    let inits = hard(Resource::Nofile, INIT_OPEN_FILES_MAX);
    let (open_files_soft, open_files_hard) = match open_files {
        Some(wanted) => asked_for(wanted.into(), inits)?,
        None => {
            let hard = OPEN_FILES_HARD_MAX.min(inits / INIT_TO_COMMAND_OPEN_FILES);
            (OPEN_FILES_SOFT_MAX.min(hard), hard)
        }
    };
    Ok(ProcessLimits {
        open_files_soft,
        open_files_hard,
        link_processes_max: link_processes_max.map(|most| hard(Resource::Nproc, most)),
    })
}

fn set_for_all() -> rustix::io::Result<()> {
    limit(Resource::Core, CORE_BYTES, CORE_BYTES)?;
    bound_signals()?;
    limit(Resource::Rtprio, 0, 0)?;
    limit(Resource::Nice, 0, 0)?;
    limit(Resource::Memlock, LOCKED_BYTES_MAX, LOCKED_BYTES_MAX)?;
    limit(Resource::Stack, STACK_BYTES_SOFT, u64::MAX)?;
    limit(Resource::Nofile, INIT_OPEN_FILES_MAX, INIT_OPEN_FILES_MAX)
}

/// The soft and the hard limit of a command that is to have so many open files.
fn asked_for(wanted: u64, inits: u64) -> Result<(u64, u64), Failure> {
    let most = inits / INIT_TO_ASKED_OPEN_FILES;
    if wanted <= most {
        return Ok((wanted, wanted));
    }
    let reason = format!(
        "a process may have {most} open files here at most, half of the runner's hard limit \
         (ulimit -Hn, systemd's LimitNOFILE): raise that, or lower OpenFiles"
    );
    Err(Failure::because(
        Step::SetLimits,
        format!("{wanted} open files"),
        reason,
    ))
}

/// Bounds what the kernel counts for each user of this user namespace. The namespace's
/// root calls this while `/proc` is still writable. Returns whether all bounds were set.
/// If not, the link is not refused: on a kernel without inotify there is nothing to
/// bound, and a security module or a read-only `/proc` may keep root from these settings.
pub(crate) fn bound_user_namespace() -> bool {
    let bound = |(file, most): (&str, u64)| std::fs::write(file, most.to_string()).is_ok();
    INOTIFY_BOUNDS.map(bound) == [true; INOTIFY_BOUNDS.len()]
}

/// Bounds queued signals, as [`set`] does. A user namespace inherits the bound of the
/// process that makes it, for all its users together.
pub(crate) fn bound_signals() -> rustix::io::Result<()> {
    let most = WAITING_SIGNALS_MAX;
    limit(Resource::Sigpending, most, most)
}

/// Sets the limits of a command's process, in the zygote's memory, by the rules of
/// `sys.rs`. Comes after the change of user, since the limit on processes would count for
/// that, too.
pub(crate) fn take(limits: ProcessLimits) -> Result<(), Errno> {
    let (soft, hard) = (limits.open_files_soft, limits.open_files_hard);
    call::limit(libc::RLIMIT_NOFILE, soft, hard)?;
    match limits.link_processes_max {
        Some(most) => call::limit(libc::RLIMIT_NPROC, most, most),
        None => Ok(()),
    }
}

/// Sets a limit, without raising the hard limit there is.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_files_as_asked_for_are_given_or_it_is_said_how_many_could_be() {
        for (wanted, inits) in [(16, 32), (512, 1024), (524_288, 1_048_576)] {
            assert_eq!(asked_for(wanted, inits).unwrap(), (wanted, wanted));
            let error = asked_for(wanted + 1, inits).unwrap_err().to_string();
            assert!(
                error.contains(&format!("{wanted} open files here at most")),
                "{error}"
            );
            assert!(error.contains("ulimit -Hn"), "{error}");
        }
    }
}
