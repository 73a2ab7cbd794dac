//! Entering the sandbox: the steps in their order, on one screen. The order *is*
//! the design; each step's why stands with its facility.

use std::io::{Read, Write};
use std::path::Path;

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::thread::UnshareFlags;

use crate::failure::{Failure, Step};
use crate::init::Plan;
use crate::spec::{Ids, Network, Spec};
use crate::sys::MountToken;
use crate::user::{self, Identity};
use crate::wire::{Found, Opened, Order, send_opened};
use crate::{capabilities, command, mounts, network, rlimits, seccomp, sys};

/// What remains to be done for each process.
pub(crate) struct Entered {
    pub(crate) plan: Plan,
    /// Where the filter asks before a command gets a socket of the internet's.
    pub(crate) listener: Option<OwnedFd>,
}

/// Takes this process into the sandbox that is ordered, and says what remains to be
/// done for each process there. The process that returns is another than the
/// one that called, which has exited.
pub(crate) fn enter(order: &Order, socket: &OwnedFd) -> Result<Entered, Failure> {
    let spec = &order.spec;
    // As the user of the host that we are: the way to the root may be his alone.
    let root = open_root(&spec.root)?;
    let identity = user::resolve(&root, spec)?;
    // A folder of the host's own mounts: `/proc/self/fd/N/..` would lead from there to
    // all of the host.
    drop(root);

    rlimits::raise();
    // While we still have the privileges of the host, if we had them.
    let devices = mounts::own_devices(spec.ids);
    // A time namespace of the link's own, for what it makes next: it changes no clock, but
    // the host's is a file under /proc that others can lock. Where it cannot be had, it is
    // the host's.
    let _ = sys::unshare(libc::CLONE_NEWTIME);
    let is_bounded = enter_bounds(spec.ids, socket)?;
    enter_namespaces(spec, &identity, socket)?;
    become_root(spec.ids)?;

    let outside = mounts::gather(spec, devices)?;
    let found = Found {
        is_bounded,
        ..outside.found
    };
    mounts::change_root(&outside)?;

    // Inside: from here on every path is the image's.
    mounts::furnish(outside)?;
    set_hostname(&spec.hostname)?;
    // Whether it can or not: a link on a host without inotify has nothing to bound.
    rlimits::bound_user_namespace();
    let limits = rlimits::set(order.link_processes_max)
        .map_err(|error| Failure::new(Step::SetLimits, "", error.raw_os_error()))?;

    let token = MountToken(random()?);
    let uid = identity.uid;
    let mut plan = command::plan(spec, identity, limits, found, token)?;

    let counts_processes = order.link_processes_max.is_none();
    let kept = capabilities::kept(uid, spec.ids, is_bounded && counts_processes);
    capabilities::drop_for_good(kept)
        .map_err(|error| Failure::new(Step::DropCapabilities, "", error.raw_os_error()))?;
    let listener = seccomp::install(token, spec.network)?;
    if spec.network == Network::Loopback && listener.is_none() {
        // Nobody would know who has used the network of a place.
        plan.reuse = None;
    }
    Ok(Entered { plan, listener })
}

/// Opens the image's root and goes there: the current folder is what survives
/// the change of namespaces, when its path may no longer be walked.
fn open_root(root: &Path) -> Result<OwnedFd, Failure> {
    let failure = |error: rustix::io::Errno| {
        Failure::new(
            Step::OpenRoot,
            root.display().to_string(),
            error.raw_os_error(),
        )
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rustix::fs::open(root, flags, Mode::empty()).map_err(failure)?;
    rustix::process::fchdir(&folder).map_err(failure)?;
    Ok(folder)
}

/// Enters a user namespace around the link's own. What the kernel counts for each user
/// of a namespace it counts for whoever made the namespace as well: so bounds that hold
/// for a user here hold for the link as a whole, however many users its processes
/// become. Says whether it could set them.
///
/// Only who is outside may map ids into it, so somebody stays there until that is done.
fn enter_bounds(ids: Ids, socket: &OwnedFd) -> Result<bool, Failure> {
    let Ids::Shifted { base } = ids else {
        // One user.
        return Ok(false);
    };
    let failure = |errno| Failure::new(Step::CreateNamespaces, "", errno);
    let io_failure = |error: std::io::Error| failure(error.raw_os_error().unwrap_or(libc::EIO));
    let (mut entered, mut tell_entered) = std::io::pipe().map_err(io_failure)?;
    let (mut mapped, mut tell_mapped) = std::io::pipe().map_err(io_failure)?;
    if sys::fork().map_err(failure)?.is_none() {
        drop((tell_entered, mapped));
        let parent = rustix::process::getppid().map_or(0, |parent| parent.as_raw_nonzero().get());
        if entered.read_exact(&mut [0]).is_ok() {
            match user::map_range(parent, base) {
                Ok(()) => drop(tell_mapped.write_all(&[1])),
                Err(failure) => send_opened(socket, &Opened::Failed(failure), &[]),
            }
        }
        std::process::exit(0)
    }
    drop((entered, tell_mapped));
    sys::unshare(libc::CLONE_NEWUSER).map_err(failure)?;
    tell_entered.write_all(&[1]).map_err(io_failure)?;
    // An end without a byte: the other has failed, and has said so.
    if mapped.read_exact(&mut [0]).is_err() {
        std::process::exit(1);
    }
    // Only who is in this namespace may make one in it, and give that its ids: for which
    // our files under /proc have to be ours.
    take_first_id().map_err(failure)?;
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::Dumpable)
        .map_err(|error| failure(error.raw_os_error()))?;
    // The link's own namespace takes this one from whoever makes it.
    rlimits::bound_signals().map_err(|error| failure(error.raw_os_error()))?;
    Ok(rlimits::bound_user_namespace())
}

/// Forks into new namespaces. Who forks still has the privilege to map ids into
/// the new user namespace, does so, and exits; the copy goes on.
fn enter_namespaces(spec: &Spec, identity: &Identity, socket: &OwnedFd) -> Result<(), Failure> {
    // No IPC namespace here: each process gets one of its own.
    let flags = UnshareFlags::NEWUSER
        | UnshareFlags::NEWNS
        | UnshareFlags::NEWPID
        | UnshareFlags::NEWUTS
        | UnshareFlags::NEWCGROUP
        | network::namespace(spec.network);
    let failure = |errno| Failure::new(Step::CreateNamespaces, "", errno);
    let io_failure = |error: std::io::Error| failure(error.raw_os_error().unwrap_or(libc::EIO));
    let (mut mapped, mut tell_mapped) = std::io::pipe().map_err(io_failure)?;
    match sys::fork_into_namespaces(flags.bits().cast_signed()).map_err(failure)? {
        Some((zygote, pidfd)) => {
            // First of all: the runner is its parent, and has to reap it.
            send_opened(socket, &Opened::Forked, &[pidfd.as_fd()]);
            user::map_ids(zygote, spec.ids, identity)?;
            tell_mapped.write_all(&[1]).map_err(io_failure)?;
            std::process::exit(0)
        }
        None => {
            drop(tell_mapped);
            // An end without a byte: the other has failed, and has said so.
            if mapped.read_exact(&mut [0]).is_err() {
                std::process::exit(1);
            }
            Ok(())
        }
    }
}

/// Becomes root inside, which is nobody outside; and no longer shows its memory
/// to anyone: it holds the mount token.
fn become_root(ids: Ids) -> Result<(), Failure> {
    let failure = |errno| Failure::new(Step::BecomeRoot, "", errno);
    if let Ids::Shifted { .. } = ids {
        take_first_id().map_err(failure)?;
    }
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
        .map_err(|error| failure(error.raw_os_error()))
}

fn take_first_id() -> Result<(), sys::Errno> {
    sys::in_our_memory::set_groups(&[])?;
    sys::in_our_memory::set_group(0)?;
    sys::in_our_memory::set_user(0)
}

fn set_hostname(name: &str) -> Result<(), Failure> {
    rustix::system::sethostname(name.as_bytes())
        .map_err(|error| Failure::new(Step::SetHostname, name, error.raw_os_error()))
}

fn random() -> Result<u64, Failure> {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|error| Failure::new(Step::InstallFilter, "", error.raw_os_error()))?;
    Ok(u64::from_ne_bytes(bytes))
}
