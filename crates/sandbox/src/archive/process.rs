//! The process that packs or unpacks a folder.

use std::panic::{AssertUnwindSafe, catch_unwind};

use rustix::fd::{AsRawFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::net::SendFlags;
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::{ArchiveError, pack, unpack};
use crate::failure::{Failure, Step};
use crate::init::{self, Plan};
use crate::sys::{self, Errno, in_our_memory as call};
use crate::wire::{Archive, send};
use crate::{landlock, rlimits};

/// Said when all went well.
pub(crate) const DONE: &[u8] = b"done";

/// Starts a process that packs or unpacks the folder of a place. With the order came, in
/// this order, a socket for what becomes of it, a pipe, the place's namespaces of mounts
/// and of processes, and a descriptor for each cgroup to join.
///
/// It must be the zygote that calls this, and not an init: a copy of memory that another
/// process is writing to at the same time would be of no use.
pub(crate) fn start(
    plan: &'static Plan,
    archive: Archive,
    descriptors: &[OwnedFd],
) -> Result<(), Errno> {
    let [report, pipe, mounts, processes, cgroups @ ..] = descriptors else {
        return Err(libc::EINVAL);
    };
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let own = rustix::fs::open("/proc/self/ns/pid", flags, Mode::empty());
    let own = own.map_err(rustix::io::Errno::raw_os_error)?;
    // What is forked from here on is in the place, and gone when its init is.
    call::enter_namespace(processes, libc::CLONE_NEWPID, plan.token)?;
    let forked = sys::fork();
    if let Ok(None) = forked {
        let work = || {
            take_pipes(pipe, report)?;
            enter(plan, mounts, cgroups)?;
            work(plan, archive)
        };
        let done = catch_unwind(AssertUnwindSafe(work));
        let said = match &done {
            Ok(Ok(())) => DONE,
            Ok(Err(error)) => error.0.as_bytes(),
            Err(_) => b"pack or unpack a folder: there is a fault in the sandbox",
        };
        // Who does not hear it sees the socket closed.
        let _ = send(rustix::stdio::stdout(), said, &[], SendFlags::empty());
        call::exit(0);
    }
    if call::enter_namespace(&own, libc::CLONE_NEWPID, plan.token).is_err() {
        // What it made from here on would be in that place.
        call::exit(1);
    }
    forked.map(drop)
}

/// Puts the pipe and the socket where nothing else is kept.
fn take_pipes(pipe: &OwnedFd, report: &OwnedFd) -> Result<(), ArchiveError> {
    let taken = rustix::stdio::dup2_stdin(pipe).and_then(|()| rustix::stdio::dup2_stdout(report));
    taken.map_err(|error| ArchiveError::new("use its pipe", "", &error.into()))
}

/// With nothing open but the two.
fn work(plan: &Plan, archive: Archive) -> Result<(), ArchiveError> {
    let pipe = rustix::stdio::stdin().try_clone_to_owned();
    let pipe = pipe.map_err(|error| ArchiveError::new("use its pipe", "", &error))?;
    let no_folder = || ArchiveError::because("find its folder", "", "it has none");
    match archive {
        Archive::Unpack => unpack(plan.handover.input_folder().ok_or_else(no_folder)?, pipe),
        Archive::Pack => pack(plan.handover.output_folder().ok_or_else(no_folder)?, pipe),
    }
}

/// Becomes as the command is: in its place, with its cgroups, domain, user and limits.
/// The filter is the zygote's already.
fn enter(plan: &Plan, mounts: &OwnedFd, cgroups: &[OwnedFd]) -> Result<(), ArchiveError> {
    let at = |step| move |errno| ArchiveError(Failure::new(step, "", errno).to_string());
    call::enter_namespace(mounts, libc::CLONE_NEWNS, plan.token).map_err(at(Step::StartCommand))?;
    // That leads to the root that init had at first; the place's own is below it.
    call::change_root(&plan.mounts.root, plan.token).map_err(at(Step::ChangeRoot))?;
    for cgroup in cgroups {
        call::write(cgroup.as_raw_fd(), b"0").map_err(at(Step::JoinCgroup))?;
    }
    if let Some(domain) = &plan.domain {
        let rules = landlock::open_rules(domain).map_err(at(Step::EnterDomain))?;
        landlock::enter(domain, rules).map_err(at(Step::EnterDomain))?;
    }
    // What is open of the zygote's, and the two namespaces.
    call::close_from(2).map_err(at(Step::KeepDescriptors))?;
    init::take_identity(plan).map_err(at(Step::SetUser))?;
    rlimits::take(plan.limits).map_err(at(Step::TakeLimits))?;
    // It is not executed, and so keeps what it has: the zygote's.
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    let dropped = rustix::thread::set_capabilities(None, none);
    dropped.map_err(|error| at(Step::DropCapabilities)(error.raw_os_error()))
}
