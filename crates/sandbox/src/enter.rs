//! Entering the sandbox: the steps in their order, on one screen. The order *is*
//! the design; each step's why stands with its facility.

use std::io::{Read, Write};
use std::path::Path;

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::thread::UnshareFlags;

use crate::failure::{Failure, Step};
use crate::init::Plan;
use crate::spec::{Ids, Spec};
use crate::sys::Knock;
use crate::user::{self, Identity};
use crate::wire::{Opened, Order, send_opened};
use crate::{capabilities, command, mounts, network, rlimits, seccomp, sys};

/// Takes this process into the sandbox that is ordered, and says what remains to be
/// done for each process there. The process that returns is another than the
/// one that called, which has exited.
pub(crate) fn enter(order: &Order, socket: &OwnedFd) -> Result<Plan, Failure> {
    let spec = &order.spec;
    // As the user of the host that we are: the way to the root may be his alone.
    let root = open_root(&spec.root)?;
    let identity = user::resolve(&root, spec)?;
    // A folder of the host's own mounts: `/proc/self/fd/N/..` would lead from there to
    // all of the host.
    drop(root);

    rlimits::raise();
    enter_namespaces(spec, &identity, socket)?;
    become_root(spec.ids)?;

    let outside = mounts::gather(spec)?;
    let veiled = outside.veiled;
    mounts::change_root(&outside)?;

    // Inside: from here on every path is the image's.
    mounts::furnish(outside)?;
    set_hostname(&spec.hostname)?;
    rlimits::bound_user_namespace();
    let limits = rlimits::set(order.link_processes_max)
        .map_err(|error| Failure::new(Step::SetLimits, "", error.raw_os_error()))?;

    let knock = Knock(random()?);
    let plan = command::plan(spec, identity, limits, veiled, knock)?;

    capabilities::drop_for_good()
        .map_err(|error| Failure::new(Step::DropCapabilities, "", error.raw_os_error()))?;
    seccomp::install(knock, spec.network)?;
    Ok(plan)
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
/// to anyone: it holds the knock.
fn become_root(ids: Ids) -> Result<(), Failure> {
    let failure = |errno| Failure::new(Step::BecomeRoot, "", errno);
    if let Ids::Shifted { .. } = ids {
        sys::in_our_memory::set_groups(&[]).map_err(failure)?;
        sys::in_our_memory::set_group(0).map_err(failure)?;
        sys::in_our_memory::set_user(0).map_err(failure)?;
    }
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
        .map_err(|error| failure(error.raw_os_error()))
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
