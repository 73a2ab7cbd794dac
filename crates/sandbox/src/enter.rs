//! Entering the sandbox: the steps in their order, on one screen. The order *is*
//! the design; each step's why stands with its facility.

use std::io::{Read, Write};
use std::path::Path;

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::thread::UnshareFlags;

use crate::failure::{Failure, Step};
use crate::init::Plan;
use crate::mounts::View;
use crate::spec::{Ids, Network, Spec};
use crate::sys::MountToken;
use crate::user::{self, Identity};
use crate::wire::{Opened, Order, send_opened};
use crate::{capabilities, command, mounts, network, rlimits, seccomp, sys};

/// What a zygote has when it is inside.
pub(crate) struct Entered {
    /// What remains to be done for each process.
    pub(crate) plan: Plan,
    /// The descriptor on which the system call filter asks about internet sockets.
    pub(crate) listener: Option<OwnedFd>,
}

/// Enters the sandbox that `order` describes. Forks on the way: a copy of this process
/// returns, and the caller exits.
pub(crate) fn enter(order: &Order, socket: &OwnedFd) -> Result<Entered, Failure> {
    let spec = &order.spec;
    // Still as our own user of the host: maybe only this user may reach the root.
    let root = open_root(&spec.root)?;
    let identity = user::resolve(&root, spec)?;
    // The descriptor is of the host's mounts: `/proc/self/fd/N/..` would lead from it to
    // every file of the host.
    drop(root);

    rlimits::raise();
    // Before we give up our privileges on the host, if we have any.
    let devices = mounts::own_devices(spec.ids);
    // Whose id is not there inside could not walk to it later. Without privileges a mount
    // takes a mount namespace of our own, and we stay who we are.
    let data = match spec.ids {
        Ids::Shifted { .. } => Some(mounts::open_data(spec)?),
        Ids::Own => None,
    };
    // Our next child gets a time namespace of the link's own. That changes no clock; but
    // the host's time namespace is a file under /proc that other links could lock, too.
    // If the kernel refuses, the link stays in the host's.
    let _ = sys::unshare(libc::CLONE_NEWTIME);
    let is_bounded = enter_bounds(spec.ids, socket)?;
    enter_namespaces(spec, &identity, socket)?;
    become_root(spec.ids)?;

    let outside = mounts::gather(order, devices, data)?;
    mounts::change_root(&outside)?;

    // Inside: from here on no path leads to the host.
    let furnished = mounts::furnish(outside, spec, &identity)?;
    set_hostname(&spec.hostname)?;
    // A failure does not matter: on a host without inotify there is nothing to bound.
    rlimits::bound_user_namespace();
    let limits = rlimits::set(order.link_processes_max, order.open_files)?;

    let token = MountToken(random()?);
    let uid = identity.uid;
    // And here each path is the image's.
    let view = View::enter()?;
    let mut plan = command::plan(spec, identity, limits, &furnished, is_bounded, token)?;
    view.leave()?;

    let counts_processes = order.link_processes_max.is_none();
    let kept = capabilities::kept(uid, spec.ids, is_bounded && counts_processes);
    capabilities::drop_for_good(kept)
        .map_err(|error| Failure::new(Step::DropCapabilities, "", error.raw_os_error()))?;
    let kind = seccomp::Kind {
        network: spec.network,
        ignores_owners: spec.ids == Ids::Own && uid == 0,
    };
    let listener = seccomp::install(token, kind)?;
    if spec.network == Network::Loopback && listener.is_none() {
        // Nobody would know who has used the network of a place.
        plan.reuse = None;
    }
    Ok(Entered { plan, listener })
}

/// Opens the image's root and makes it the current folder. In the new namespaces we may
/// no longer have the right to walk its path, but the current folder stays.
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

/// Enters a user namespace around the link's own. What the kernel counts for each user of
/// a namespace, it also counts for the user who created that namespace. So a bound on one
/// user out here bounds the link as a whole, however many users its processes become.
/// Returns whether the bounds could be set.
///
/// Only a process outside of a user namespace may map ids into it, so a child stays
/// outside until that is done.
fn enter_bounds(ids: Ids, socket: &OwnedFd) -> Result<bool, Failure> {
    let Ids::Shifted { base } = ids else {
        // The link has one user, so there is nothing to add up.
        return Ok(false);
    };
    let failure = |errno| Failure::new(Step::CreateNamespaces, "", errno);
    let io_failure = |error| Failure::io(Step::CreateNamespaces, "", &error);
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
    // The pipe ended without a byte: the child has failed, and has reported it.
    if mapped.read_exact(&mut [0]).is_err() {
        std::process::exit(1);
    }
    // Only a user of this namespace may make a namespace within it, and map that one's
    // ids. The latter is done through our files under /proc, which belong to our user
    // only if we are dumpable.
    take_first_id().map_err(failure)?;
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::Dumpable)
        .map_err(|error| failure(error.raw_os_error()))?;
    // The link's own namespace inherits this bound from the process that makes it.
    rlimits::bound_signals().map_err(|error| failure(error.raw_os_error()))?;
    Ok(rlimits::bound_user_namespace())
}

/// Forks into new namespaces. The parent still has the privilege to map ids into the new
/// user namespace: it does so, and exits. The copy goes on.
fn enter_namespaces(spec: &Spec, identity: &Identity, socket: &OwnedFd) -> Result<(), Failure> {
    // No IPC namespace here: each process gets one of its own.
    let flags = UnshareFlags::NEWUSER
        | UnshareFlags::NEWNS
        | UnshareFlags::NEWPID
        | UnshareFlags::NEWUTS
        | UnshareFlags::NEWCGROUP
        | network::namespace(spec.network);
    let failure = |errno| Failure::new(Step::CreateNamespaces, "", errno);
    let io_failure = |error| Failure::io(Step::CreateNamespaces, "", &error);
    let (mut mapped, mut tell_mapped) = std::io::pipe().map_err(io_failure)?;
    match sys::fork_into_namespaces(flags.bits().cast_signed()).map_err(failure)? {
        Some((zygote, pidfd)) => {
            // First of all, because the runner is the copy's parent and has to kill and
            // reap it.
            send_opened(socket, &Opened::Forked, &[pidfd.as_fd()]);
            user::map_ids(zygote, spec.ids, identity)?;
            tell_mapped.write_all(&[1]).map_err(io_failure)?;
            std::process::exit(0)
        }
        None => {
            drop(tell_mapped);
            // The pipe ended without a byte: the parent has failed, and has reported it.
            if mapped.read_exact(&mut [0]).is_err() {
                std::process::exit(1);
            }
            Ok(())
        }
    }
}

/// Becomes the sandbox's root, who is nobody outside. From here on nobody else may
/// inspect this process's memory, because it will hold the mount token.
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

/// A secret for the mount token.
fn random() -> Result<u64, Failure> {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|error| Failure::new(Step::InstallFilter, "", error.raw_os_error()))?;
    Ok(u64::from_ne_bytes(bytes))
}
