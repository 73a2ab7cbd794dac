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
use std::sync::atomic::{AtomicI32, AtomicPtr, Ordering};
use std::thread::{self, JoinHandle};
use std::{io, mem, ptr};

use rustix::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use rustix::mount::MountAttrFlags;

pub(crate) mod in_our_memory;
pub(crate) mod standard_streams;

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

/// `clone` for a child that goes on in `entry(argument)` on its own stack, in
/// the same memory. The kernel writes the child's id to `busy` before the child
/// wakes, and 0 when it has left this memory; where it makes none, it may have
/// written there as well.
///
/// # Safety
/// `stack` is the top, 16-byte aligned, of a writable region that nobody else
/// uses until `busy` is 0 again; both outlive the child. `entry` keeps to the
/// rules of this module, and `argument` is what it expects.
#[cfg(target_arch = "x86_64")]
unsafe fn clone_call(
    flags: usize,
    stack: *mut u8,
    busy: *mut i32,
    token: MountToken,
    entry: extern "C" fn(*const ()) -> !,
    argument: *const (),
) -> Result<i32, Errno> {
    let result: isize;
    // SAFETY: the parent sees an ordinary system call. The child wakes with the
    // same registers but for rax = 0 and rsp = stack, which is 16-byte aligned,
    // as `call` wants it; it leaves this function for `entry` and never returns.
    unsafe {
        asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r13",
            "call r12",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone as isize => result,
            in("rdi") flags,
            in("rsi") stack,
            in("rdx") busy,
            in("r10") busy,
            in("r8") 0usize,
            in("r9") token.0,
            in("r12") entry,
            in("r13") argument,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    outcome(result).map(|pid| pid as i32)
}

/// `clone` for a child that goes on in `entry(argument)` on its own stack, in
/// the same memory. The kernel writes the child's id to `busy` before the child
/// wakes, and 0 when it has left this memory; where it makes none, it may have
/// written there as well.
///
/// # Safety
/// `stack` is the top, 16-byte aligned, of a writable region that nobody else
/// uses until `busy` is 0 again; both outlive the child. `entry` keeps to the
/// rules of this module, and `argument` is what it expects.
#[cfg(target_arch = "aarch64")]
unsafe fn clone_call(
    flags: usize,
    stack: *mut u8,
    busy: *mut i32,
    token: MountToken,
    entry: extern "C" fn(*const ()) -> !,
    argument: *const (),
) -> Result<i32, Errno> {
    let result: isize;
    // SAFETY: the parent sees an ordinary system call. The child wakes with the
    // same registers but for x0 = 0 and sp = stack, which is 16-byte aligned;
    // it leaves this function for `entry` and never returns.
    unsafe {
        asm!(
            "svc #0",
            "cbnz x0, 2f",
            "mov x29, xzr",
            "mov x0, x10",
            "blr x9",
            "brk #1",
            "2:",
            in("x8") libc::SYS_clone,
            inlateout("x0") flags as isize => result,
            in("x1") stack,
            in("x2") busy,
            in("x3") 0usize,
            in("x4") busy,
            in("x5") token.0,
            in("x9") entry,
            in("x10") argument,
            lateout("x30") _,
        );
    }
    outcome(result).map(|pid| pid as i32)
}

/// A stack for a process that shares our memory, with a guard below it that
/// nobody may touch, so that an overflow is a fault and no corruption.
pub(crate) struct Stack {
    lowest: AtomicPtr<u8>,
    /// Not 0 while a process uses this stack. Whoever starts one claims it first;
    /// from then on only the kernel writes it: the process's id, and 0 when that
    /// has left.
    busy: AtomicI32,
}

/// What a stack's `busy` is while a process on it is being started.
const CLAIMED: i32 = -1;

/// Init and the command's process before its exec each use less than 4 KiB in
/// a release build; a debug build wants more.
const STACK_BYTES: usize = 32 * 1024;
const GUARD_BYTES: usize = 64 * 1024;

impl Stack {
    pub(crate) fn new() -> Result<Stack, Errno> {
        let length = GUARD_BYTES + STACK_BYTES;
        let anywhere = ptr::null_mut();
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new anonymous mapping, wherever the kernel likes, touches
        // nothing that exists.
        let lowest = unsafe { libc::mmap(anywhere, length, libc::PROT_NONE, flags, -1, 0) };
        if lowest == libc::MAP_FAILED {
            return Err(last_errno());
        }
        let lowest = lowest.cast::<u8>();
        let usable = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: the range is the upper part of the mapping just made, which
        // nobody else knows yet.
        if unsafe { libc::mprotect(lowest.add(GUARD_BYTES).cast(), STACK_BYTES, usable) } != 0 {
            let errno = last_errno();
            // SAFETY: the mapping just made, to which nothing refers.
            unsafe { libc::munmap(lowest.cast(), length) };
            return Err(errno);
        }
        Ok(Stack {
            lowest: AtomicPtr::new(lowest),
            busy: AtomicI32::new(0),
        })
    }

    /// Takes it for a process that is about to be started, if nobody has it.
    fn claim(&self) -> bool {
        let claimed =
            (self.busy).compare_exchange(0, CLAIMED, Ordering::Acquire, Ordering::Relaxed);
        claimed.is_ok()
    }

    /// Gives it back when none was started.
    fn give_up(&self) {
        self.busy.store(0, Ordering::Release);
    }

    /// Is a process on it, or about to be?
    pub(crate) fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Acquire) != 0
    }

    /// Its top, 16-byte aligned since mappings are page-aligned.
    fn top(&self) -> *mut u8 {
        // SAFETY: one past the end of the mapping that `new` made, which is
        // never unmapped.
        unsafe {
            self.lowest
                .load(Ordering::Relaxed)
                .add(GUARD_BYTES + STACK_BYTES)
        }
    }
}

/// What a process in our memory does. It must keep to the rules of this module.
pub(crate) trait ProcessMain {
    /// What it is given.
    type Argument: Sync + 'static;

    /// The whole of it.
    fn main(argument: &'static Self::Argument) -> !;
}

extern "C" fn begin<M: ProcessMain>(argument: *const ()) -> ! {
    // SAFETY: only `spawn::<M>` passes this function on, and with it an
    // `&'static M::Argument`.
    M::main(unsafe { &*argument.cast::<M::Argument>() })
}

/// Starts a process in our memory, on `stack`, with what `flags` say;
/// gives its process id. `EBUSY` where there is one on that stack already.
pub(crate) fn spawn<M: ProcessMain>(
    argument: &'static M::Argument,
    stack: &'static Stack,
    flags: i32,
    token: MountToken,
) -> Result<i32, Errno> {
    if !stack.claim() {
        return Err(libc::EBUSY);
    }
    let flags = flags
        | libc::CLONE_VM
        | libc::CLONE_PARENT_SETTID
        | libc::CLONE_CHILD_CLEARTID
        | libc::SIGCHLD;
    // SAFETY: stack, its `busy` and the argument live for ever ('static). `busy`
    // was 0, so no earlier process is on this stack any more, and nobody but us
    // has claimed it; it is not 0 again before the new process has left.
    let started = unsafe {
        clone_call(
            flags as usize,
            stack.top(),
            stack.busy.as_ptr(),
            token,
            begin::<M>,
            ptr::from_ref(argument).cast(),
        )
    };
    if started.is_err() {
        stack.give_up();
    }
    started
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

/// Starts a thread whose table of descriptors is its own and has nothing in it but a
/// copy of `kept`: where the process has no room for another one, the thread has.
///
/// `work` must not know of any descriptor but the one that it gets, and must let the
/// one who called this know, who has to wait for it, when it has got that far.
pub(crate) fn with_room_for_descriptors<T: Send + 'static>(
    kept: BorrowedFd<'_>,
    work: fn(io::Result<OwnedFd>, T),
    argument: T,
) -> io::Result<JoinHandle<()>> {
    let kept = kept.as_raw_fd();
    thread::Builder::new().spawn(move || work(keep_only(kept), argument))
}

/// For a thread beside others, which keep the table that they share.
fn keep_only(kept: i32) -> io::Result<OwnedFd> {
    let (number, unshare) = (kept as usize, libc::CLOSE_RANGE_UNSHARE as usize);
    let above = [number + 1, u32::MAX as usize, unshare, 0, 0, 0];
    // SAFETY: closes descriptors of this thread alone, in whose new table no others
    // are known to anything but `kept`. Others wait for this one, so that the table
    // is one that is shared, and the kernel makes another.
    let mut closed = unsafe { syscall(libc::SYS_close_range, above) };
    if closed.is_ok() && number > 0 {
        // SAFETY: as above; the table is our own by now.
        closed = unsafe { syscall(libc::SYS_close_range, [0, number - 1, 0, 0, 0, 0]) };
    }
    closed.map_err(io::Error::from_raw_os_error)?;
    // SAFETY: in this table it is nobody else's.
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

/// Turns on attributes (`MOUNT_ATTR_*`) of a mount that is open as a whole.
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
    let listener = install(filter, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER as usize)?;
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

/// The kernel's `struct landlock_ruleset_attr`. Older kernels know less of it,
/// and take the rest where it is zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct LandlockRules {
    pub(crate) files: u64,
    pub(crate) net: u64,
    pub(crate) scoped: u64,
}

/// Which version of Landlock the kernel has; 0 where it has none.
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
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Some seconds.
    const TURNS_MAX: u32 = 10_000_000;

    enum Waiting {}

    impl ProcessMain for Waiting {
        type Argument = AtomicI32;

        fn main(go_on: &'static AtomicI32) -> ! {
            // Not for ever, should the test have failed.
            for _ in 0..TURNS_MAX {
                if go_on.load(Ordering::Acquire) != 0 {
                    break;
                }
                // Never fails, and so leaves errno alone.
                std::thread::yield_now();
            }
            in_our_memory::exit(0)
        }
    }

    #[test]
    fn a_stack_is_for_one_process_at_a_time() {
        let stack: &Stack = Box::leak(Box::new(Stack::new().unwrap()));
        let go_on: &AtomicI32 = Box::leak(Box::new(AtomicI32::new(0)));
        let start = |flags| spawn::<Waiting>(go_on, stack, flags, MountToken(0));
        let barrier = std::sync::Barrier::new(4);
        for _ in 0..20 {
            go_on.store(0, Ordering::Release);
            // All at once: one has it.
            let started: Vec<_> = std::thread::scope(|scope| {
                let thread = || {
                    barrier.wait();
                    start(0)
                };
                let threads = [(); 4].map(|()| scope.spawn(thread));
                threads.map(|thread| thread.join().unwrap()).into()
            });
            let busy = started.iter().filter(|result| **result == Err(libc::EBUSY));
            assert_eq!(busy.count(), 3, "{started:?}");
            assert!(stack.is_busy());
            go_on.store(1, Ordering::Release);
            while stack.is_busy() {
                std::thread::yield_now();
            }
        }
        // What cannot be started leaves it to others: no process has a thread's
        // flags without its signals.
        assert_eq!(start(libc::CLONE_THREAD), Err(libc::EINVAL));
        assert!(!stack.is_busy());
        assert!(start(0).is_ok());
    }
}
