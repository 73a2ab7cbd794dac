//! System calls that rustix does not offer, or that must be made where the C
//! library's state is shared with another process. The only `unsafe` of the
//! project.
//!
//! Init and the command's process before its exec run in the zygote's memory
//! (`CLONE_VM`), on a stack of their own but with the zygote's thread-local
//! storage, *while the zygote goes on*. Code there must not allocate, must not
//! touch `errno`, and must not panic. So the calls here are made directly, and
//! their errors are returned as numbers.
//!
//! Some calls carry a [`MountToken`] in their sixth argument register, which the
//! kernel ignores and the system call filter checks: only who knows it may
//! mount or make namespaces (see `seccomp.rs`).

use std::arch::asm;
use std::ffi::{CStr, CString, c_char};
use std::sync::atomic::AtomicPtr;
use std::thread::{self, JoinHandle};
use std::{io, mem, ptr};

use rustix::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use rustix::mount::MountAttrFlags;

pub(crate) mod in_our_memory;
mod spawn;
pub(crate) mod standard_streams;
mod strings_room;

pub(crate) use strings_room::StringsRoom;

pub(crate) use spawn::{ProcessMain, Stack, spawn};

/// The kernel's error number.
pub(crate) type Errno = i32;

/// A secret of the zygote that its filter wants to see with a privileged call.
#[derive(Clone, Copy)]
pub(crate) struct MountToken(pub(crate) u64);

/// Makes a system call with six arguments and nothing else.
///
/// # Safety
/// As for the call that `number` stands for.
#[cfg(target_arch = "x86_64")]
unsafe fn syscall(number: libc::c_long, arguments: [usize; 6]) -> Result<usize, Errno> {
    let result: isize;
    // SAFETY: the registers are those of the x86-64 system call convention; the
    // kernel overwrites rcx and r11 and keeps the rest. What the call itself
    // does to memory is the caller's to answer for.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number as isize => result,
            in("rdi") arguments[0],
            in("rsi") arguments[1],
            in("rdx") arguments[2],
            in("r10") arguments[3],
            in("r8") arguments[4],
            in("r9") arguments[5],
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    outcome(result)
}

/// Makes a system call with six arguments and nothing else.
///
/// # Safety
/// As for the call that `number` stands for.
#[cfg(target_arch = "aarch64")]
unsafe fn syscall(number: libc::c_long, arguments: [usize; 6]) -> Result<usize, Errno> {
    let result: isize;
    // SAFETY: the registers are those of the AArch64 system call convention; the
    // kernel keeps all but x0. What the call itself does to memory is the
    // caller's to answer for.
    unsafe {
        asm!(
            "svc #0",
            in("x8") number,
            inlateout("x0") arguments[0] => result,
            in("x1") arguments[1],
            in("x2") arguments[2],
            in("x3") arguments[3],
            in("x4") arguments[4],
            in("x5") arguments[5],
            options(nostack),
        );
    }
    outcome(result)
}

/// The kernel returns errors as -4095 to -1.
fn outcome(result: isize) -> Result<usize, Errno> {
    if (-4095..0).contains(&result) {
        Err(-(result as i32))
    } else {
        Ok(result.cast_unsigned())
    }
}

/// Makes a copy of this process, as its child. `None` in the copy, its process id here.
///
/// Only for a process with a single thread: others would be missing in the copy.
pub(crate) fn fork() -> Result<Option<i32>, Errno> {
    let arguments = [libc::SIGCHLD as usize, 0, 0, 0, 0, 0];
    // SAFETY: without CLONE_VM the child has a copy of our memory, and the null stack
    // means that it keeps its own.
    match unsafe { syscall(libc::SYS_clone, arguments) }? {
        0 => Ok(None),
        pid => Ok(Some(pid as i32)),
    }
}

/// Leaves namespaces for new ones (`CLONE_NEW…`).
pub(crate) fn unshare(flags: i32) -> Result<(), Errno> {
    // SAFETY: changes nothing but the namespaces of this process.
    unsafe { syscall(libc::SYS_unshare, [flags as usize, 0, 0, 0, 0, 0]) }.map(drop)
}

/// Starts a thread with a descriptor table of its own, which holds nothing but a copy of
/// `kept`. So the thread has room for a descriptor even if the process has none.
///
/// `work` must not use any descriptor but the one that it gets. The caller has to wait
/// until `work` says that it has that one.
pub(crate) fn with_room_for_descriptors<T: Send + 'static>(
    kept: BorrowedFd<'_>,
    work: fn(io::Result<OwnedFd>, T),
    argument: T,
) -> io::Result<JoinHandle<()>> {
    let kept = kept.as_raw_fd();
    thread::Builder::new().spawn(move || work(keep_only(kept), argument))
}

/// Closes all other descriptors for this thread alone; other threads keep the shared
/// table.
fn keep_only(kept: i32) -> io::Result<OwnedFd> {
    let (number, unshare) = (kept as usize, libc::CLOSE_RANGE_UNSHARE as usize);
    let above = [number + 1, u32::MAX as usize, unshare, 0, 0, 0];
    // SAFETY: closes descriptors of this thread alone: its new table has none that is in
    // use but `kept`. The caller waits for this thread, so the table is shared, and the
    // kernel gives this thread a new one.
    let mut closed = unsafe { syscall(libc::SYS_close_range, above) };
    if closed.is_ok() && number > 0 {
        // SAFETY: as above; the table is our own by now.
        closed = unsafe { syscall(libc::SYS_close_range, [0, number - 1, 0, 0, 0, 0]) };
    }
    closed.map_err(io::Error::from_raw_os_error)?;
    // SAFETY: nobody else owns it in this thread's table.
    Ok(unsafe { OwnedFd::from_raw_fd(kept) })
}

/// Makes a copy of this process (`fork`) in the namespaces of `flags`, with our
/// own parent for a parent. `None` in the copy; its process id and pidfd here.
///
/// Only for a process with a single thread: others would be missing in the copy.
pub(crate) fn fork_into_namespaces(flags: i32) -> Result<Option<(i32, OwnedFd)>, Errno> {
    let flags = flags | libc::CLONE_PARENT | libc::CLONE_PIDFD | libc::SIGCHLD;
    let mut pidfd = -1i32;
    let arguments = [flags as usize, 0, (&raw mut pidfd) as usize, 0, 0, 0];
    // SAFETY: without CLONE_VM the child has a copy of our memory and goes on
    // like a forked process; the null stack means that it keeps its own. The
    // kernel writes the pidfd, here only, during the call.
    match unsafe { syscall(libc::SYS_clone, arguments) }? {
        0 => Ok(None),
        // SAFETY: the kernel has just made this descriptor for us.
        pid => Ok(Some((pid as i32, unsafe { OwnedFd::from_raw_fd(pidfd) }))),
    }
}

/// Turns on attributes (`MOUNT_ATTR_*`) of a mount, given by a descriptor of its root.
pub(crate) fn mount_set_attributes(
    mount: BorrowedFd<'_>,
    attributes: MountAttrFlags,
) -> Result<(), Errno> {
    let set = libc::mount_attr {
        attr_set: u64::from(attributes.bits()),
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    let empty = c"";
    let arguments = [
        mount.as_raw_fd() as usize,
        empty.as_ptr() as usize,
        libc::AT_EMPTY_PATH as usize,
        ptr::from_ref(&set) as usize,
        size_of::<libc::mount_attr>(),
        0,
    ];
    // SAFETY: the path and the attributes live across the call, which reads them.
    unsafe { syscall(libc::SYS_mount_setattr, arguments) }.map(drop)
}

/// Installs a compiled filter for this process and what it makes.
pub(crate) fn install_filter(filter: &[seccompiler::sock_filter]) -> Result<(), Errno> {
    install(filter, 0).map(drop)
}

/// The same for a filter that asks about some calls (`SECCOMP_RET_USER_NOTIF`): where
/// it asks.
pub(crate) fn install_asking_filter(filter: &[seccompiler::sock_filter]) -> Result<OwnedFd, Errno> {
    let asks = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    // Once a call is being answered, only a signal that kills interrupts it. Before Linux
    // 5.19 any signal does.
    let waits = libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
    let listener = match install(filter, (asks | waits) as usize) {
        Err(libc::EINVAL) => install(filter, asks as usize),
        listener => listener,
    }?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(listener as i32) })
}

fn install(filter: &[seccompiler::sock_filter], flags: usize) -> Result<usize, Errno> {
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len()).map_err(|_| libc::EINVAL)?,
        filter: filter.as_ptr().cast_mut().cast(),
    };
    let arguments = [
        libc::SECCOMP_SET_MODE_FILTER as usize,
        flags,
        ptr::from_ref(&program) as usize,
        0,
        0,
        0,
    ];
    // SAFETY: the kernel copies the program, which has the layout of the
    // kernel's own `sock_filter`, during the call.
    unsafe { syscall(libc::SYS_seccomp, arguments) }
}

/// A call that waits for an answer: its number, which no other one has, and the process
/// that makes it.
#[derive(Clone, Copy)]
pub(crate) struct WaitingCall {
    id: u64,
    pub(crate) process: i32,
}

/// The next call that a filter asks about. `ENOENT` if the process that made it is gone.
pub(crate) fn receive_waiting_call(listener: BorrowedFd<'_>) -> Result<WaitingCall, Errno> {
    // The kernel wants all of it to be zero.
    let mut call = libc::seccomp_notif {
        id: 0,
        pid: 0,
        flags: 0,
        data: libc::seccomp_data {
            nr: 0,
            arch: 0,
            instruction_pointer: 0,
            args: [0; 6],
        },
    };
    let (listener, request) = (
        listener.as_raw_fd() as usize,
        libc::SECCOMP_IOCTL_NOTIF_RECV as usize,
    );
    let arguments = [listener, request, (&raw mut call) as usize, 0, 0, 0];
    // SAFETY: the kernel writes a `struct seccomp_notif` during the call.
    unsafe { syscall(libc::SYS_ioctl, arguments) }?;
    Ok(WaitingCall {
        id: call.id,
        process: call.pid.cast_signed(),
    })
}

/// Lets a call that waits go on, as if no filter had asked. `ENOENT` if the process is gone.
pub(crate) fn let_call_go_on(listener: BorrowedFd<'_>, call: WaitingCall) -> Result<(), Errno> {
    let answer = libc::seccomp_notif_resp {
        id: call.id,
        val: 0,
        error: 0,
        flags: libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32,
    };
    let (listener, request) = (
        listener.as_raw_fd() as usize,
        libc::SECCOMP_IOCTL_NOTIF_SEND as usize,
    );
    let arguments = [listener, request, ptr::from_ref(&answer) as usize, 0, 0, 0];
    // SAFETY: the kernel reads a `struct seccomp_notif_resp` during the call.
    unsafe { syscall(libc::SYS_ioctl, arguments) }.map(drop)
}

/// Brings up the loopback of this process's network, which gives it its addresses. It
/// takes a socket of the internet's, which a filter asks about unless it sees the token.
pub(crate) fn bring_up_loopback(token: MountToken) -> Result<(), Errno> {
    let kind = (libc::SOCK_DGRAM | libc::SOCK_CLOEXEC) as usize;
    let arguments = [libc::AF_INET as usize, kind, 0, 0, 0, token.0 as usize];
    // SAFETY: makes a new descriptor and touches no memory.
    let socket = unsafe { syscall(libc::SYS_socket, arguments) }?;
    // SAFETY: the kernel has just made this descriptor for us.
    let socket = unsafe { OwnedFd::from_raw_fd(socket as i32) };
    /// The kernel's `struct ifreq`, with flags.
    #[repr(C)]
    struct Interface {
        name: [u8; libc::IFNAMSIZ],
        flags: i16,
        rest: [u8; 22],
    }
    let mut interface = Interface {
        name: [0; libc::IFNAMSIZ],
        flags: libc::IFF_UP as i16,
        rest: [0; 22],
    };
    interface.name[..2].copy_from_slice(b"lo");
    let (socket, request) = (socket.as_raw_fd() as usize, libc::SIOCSIFFLAGS as usize);
    let arguments = [socket, request, (&raw const interface) as usize, 0, 0, 0];
    // SAFETY: the kernel reads a `struct ifreq`, of 40 bytes, during the call.
    unsafe { syscall(libc::SYS_ioctl, arguments) }.map(drop)
}

/// The kernel's `struct landlock_ruleset_attr`. Older kernels know fewer fields, and
/// accept the others if they are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct LandlockRules {
    pub(crate) files: u64,
    pub(crate) net: u64,
    pub(crate) scoped: u64,
}

/// The version of Landlock that the kernel has; 0 if it has none.
pub(crate) fn landlock_version() -> u32 {
    const CREATE_RULESET_VERSION: usize = 1;
    let arguments = [0, 0, CREATE_RULESET_VERSION, 0, 0, 0];
    // SAFETY: with this flag and no attributes the call only answers.
    let version = unsafe { syscall(libc::SYS_landlock_create_ruleset, arguments) };
    version.map_or(0, |version| version as u32)
}

/// What the kernel says of a file: its `struct statx`, for comparing as a whole.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct FileStatus([u64; 32]);

impl FileStatus {
    pub(crate) const EMPTY: FileStatus = FileStatus([0; 32]);

    /// Of which kind it is (`S_IF…`), from `stx_mode`.
    pub(crate) fn kind(&self) -> u32 {
        (self.0[3].to_le() >> 32) as u32 & libc::S_IFMT
    }

    /// The number of its inode, `stx_ino`.
    pub(crate) fn file_number(&self) -> u64 {
        self.0[4]
    }
}

/// Sets what a signal does to its default or to "ignored".
pub(crate) fn set_signal_action(signal: i32, ignored: bool) {
    // The kernel's own structure: the action comes first, the rest may be zero.
    let mut action = [0usize; 4];
    action[0] = if ignored {
        libc::SIG_IGN
    } else {
        libc::SIG_DFL
    };
    let arguments = [
        signal as usize,
        action.as_ptr() as usize,
        0,
        KERNEL_SIGSET_BYTES,
        0,
        0,
    ];
    // SAFETY: no function of ours becomes a handler; the structure lives across
    // the call. Signals whose action cannot be set are left as they are.
    let _ = unsafe { syscall(libc::SYS_rt_sigaction, arguments) };
}

/// Lets all signals through.
pub(crate) fn unblock_signals() {
    let none = [0u8; KERNEL_SIGSET_BYTES];
    let arguments = [
        libc::SIG_SETMASK as usize,
        none.as_ptr() as usize,
        0,
        KERNEL_SIGSET_BYTES,
        0,
        0,
    ];
    // SAFETY: reads an empty set that lives across the call.
    let _ = unsafe { syscall(libc::SYS_rt_sigprocmask, arguments) };
}

const KERNEL_SIGSET_BYTES: usize = 8;

fn last_errno() -> Errno {
    std::io::Error::last_os_error()
        .raw_os_error()
        .unwrap_or(libc::EIO)
}

/// Strings as `execve` wants them: an array of pointers with a null at its end.
pub(crate) struct StringArray {
    _strings: Vec<CString>,
    pointers: Vec<AtomicPtr<c_char>>,
}

impl StringArray {
    pub(crate) fn new(strings: Vec<CString>) -> StringArray {
        let pointers = strings
            .iter()
            .map(|string| string.as_ptr().cast_mut())
            .chain([ptr::null_mut()])
            .map(AtomicPtr::new)
            .collect();
        StringArray {
            _strings: strings,
            pointers,
        }
    }

    pub(crate) fn pointers(&self) -> Pointers<'_> {
        Pointers(&self.pointers)
    }
}

/// Pointers to strings that live as long, with a null at their end.
#[derive(Clone, Copy)]
pub(crate) struct Pointers<'a>(&'a [AtomicPtr<c_char>]);
