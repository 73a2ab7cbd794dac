//! What happens for each process: init, PID 1 of the process's own namespaces,
//! makes its private mounts and the command's process, and then does what an
//! init does: it waits, reaps what the command leaves behind, and exits when the
//! command does, whereupon the kernel kills all the rest.
//!
//! Init lives in the zygote's memory while the zygote goes on, so everything
//! here keeps to the rules of `sys.rs`: no allocation, no `errno`, no panic.

use std::ffi::CString;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

use crate::failure::Step;
use crate::mounts::{OVERLAY_FOLDERS, OVERLAY_ROOT, PrivateMount, PrivateMounts};
use crate::sys::{self, Errno, Knock, Stack, StringArray, in_our_memory as call};
use crate::user::Identity;
use crate::wire::{CGROUPS_MAX, Report};

/// What is the same for all processes of a link.
pub(crate) struct Plan {
    pub(crate) program: CString,
    pub(crate) arguments: StringArray,
    pub(crate) environment: StringArray,
    pub(crate) working_directory: CString,
    pub(crate) identity: Identity,
    /// Where one id is mapped only, groups can neither be set nor dropped.
    pub(crate) set_groups: bool,
    pub(crate) mounts: PrivateMounts,
    pub(crate) knock: Knock,
}

/// The place of one process: its stack, and what differs from the others.
pub(crate) struct Slot {
    pub(crate) plan: &'static Plan,
    pub(crate) stack: Stack,
    /// 1 while a process is here; the kernel sets it to 0.
    pub(crate) busy: AtomicI32,
    /// Descriptors in init's own table.
    pub(crate) stdin: AtomicI32,
    pub(crate) stdout: AtomicI32,
    pub(crate) stderr: AtomicI32,
    pub(crate) control: AtomicI32,
    /// -1 where there is none.
    pub(crate) cgroups: [AtomicI32; CGROUPS_MAX],
    /// What kept the command's process from its exec: a step and an error.
    failed_step: AtomicU32,
    failed_errno: AtomicI32,
}

impl Slot {
    pub(crate) fn new(plan: &'static Plan) -> Result<Slot, Errno> {
        let none = || AtomicI32::new(-1);
        Ok(Slot {
            plan,
            stack: Stack::new()?,
            busy: AtomicI32::new(0),
            stdin: none(),
            stdout: none(),
            stderr: none(),
            control: none(),
            cgroups: [none(), none(), none()],
            failed_step: AtomicU32::new(0),
            failed_errno: AtomicI32::new(0),
        })
    }
}

/// The namespaces that each process has for itself.
pub(crate) const NAMESPACES: i32 = libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWIPC;

type Failed = (Step, Errno);

/// Init.
pub(crate) extern "C" fn init(slot: *const ()) -> ! {
    let slot: &'static Slot = sys::argument(slot);
    let report = |report: Report| {
        call::send(slot.control.load(Ordering::Relaxed), &report.to_bytes());
    };
    match start(slot) {
        Err((step, errno)) => {
            report(Report::Failed(step, errno));
            call::exit(1)
        }
        Ok(command) => {
            report(Report::Started);
            report(Report::Exited(reap_until_gone(command)));
            call::exit(0)
        }
    }
}

/// Starts the command's process, and afterwards holds on to nothing of its.
fn start(slot: &'static Slot) -> Result<i32, Failed> {
    // The zygote ignores it, so as not to have to reap; init has to.
    sys::set_signal_action(libc::SIGCHLD, false);
    join_cgroups(slot)?;
    mount(&slot.plan.mounts, slot.plan.knock)?;
    slot.failed_errno.store(0, Ordering::Relaxed);
    let command = sys::spawn_and_wait_for_exec(run_command, slot)
        .map_err(|errno| (Step::ForkCommand, errno))?;
    match slot.failed_errno.load(Ordering::Relaxed) {
        0 => {}
        errno => {
            let step = Step::from_number(slot.failed_step.load(Ordering::Relaxed));
            return Err((step.unwrap_or(Step::Execute), errno));
        }
    }
    // Else nobody upstream would notice when the command closes its input.
    let control = slot.control.load(Ordering::Relaxed);
    call::duplicate_to(control, 0).map_err(|errno| (Step::ForkCommand, errno))?;
    call::close_from(1).map_err(|errno| (Step::ForkCommand, errno))?;
    slot.control.store(0, Ordering::Relaxed);
    Ok(command)
}

fn join_cgroups(slot: &Slot) -> Result<(), Failed> {
    for cgroup in &slot.cgroups {
        let file = cgroup.load(Ordering::Relaxed);
        if file >= 0 {
            // "0" is whoever writes.
            call::write(file, b"0").map_err(|errno| (Step::JoinCgroup, errno))?;
        }
    }
    Ok(())
}

fn mount(mounts: &PrivateMounts, knock: Knock) -> Result<(), Failed> {
    let one = |mount: &PrivateMount| {
        call::mount(
            &mount.source,
            &mount.target,
            &mount.file_system,
            mount.flags,
            &mount.data,
            knock,
        )
        .map_err(|errno| (mount.step, errno))
    };
    let overlay = |errno| (Step::MountOverlay, errno);
    if let Some([scratch, root]) = &mounts.base {
        one(scratch)?;
        for folder in OVERLAY_FOLDERS {
            call::make_folder(folder, 0o755).map_err(overlay)?;
        }
        one(root)?;
    }
    for folder in &mounts.folders {
        one(folder)?;
    }
    if mounts.base.is_some() {
        // As in mounts.rs: the old root comes to lie on the new one, and goes.
        call::change_folder(OVERLAY_ROOT).map_err(overlay)?;
        call::pivot_root(c".", c".", knock).map_err(overlay)?;
        call::unmount_detached(c".", knock).map_err(overlay)?;
        call::change_folder(c"/").map_err(overlay)?;
    }
    Ok(())
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
extern "C" fn run_command(slot: *const ()) -> ! {
    let slot: &'static Slot = sys::argument(slot);
    let (step, errno) = execute(slot);
    slot.failed_step.store(step as u32, Ordering::Relaxed);
    slot.failed_errno.store(errno, Ordering::Relaxed);
    call::exit(127)
}

fn execute(slot: &Slot) -> Failed {
    let plan = slot.plan;
    if let Err(errno) = take_stdio(slot) {
        return (Step::ForkCommand, errno);
    }
    if let Err(errno) = take_identity(plan) {
        return (Step::SetUser, errno);
    }
    if let Err(errno) = call::change_folder(&plan.working_directory) {
        return (Step::EnterWorkingDirectory, errno);
    }
    (
        Step::Execute,
        call::execute(&plan.program, &plan.arguments, &plan.environment),
    )
}

fn take_stdio(slot: &Slot) -> Result<(), Errno> {
    // A session of its own: a signal to its process group stays within.
    call::new_session()?;
    for (from, to) in [(&slot.stdin, 0), (&slot.stdout, 1), (&slot.stderr, 2)] {
        call::duplicate_to(from.load(Ordering::Relaxed), to)?;
    }
    call::close_from(3)
}

fn take_identity(plan: &Plan) -> Result<(), Errno> {
    if plan.set_groups {
        call::set_groups(&plan.identity.groups)?;
    }
    call::set_group(plan.identity.gid)?;
    call::set_user(plan.identity.uid)
}
