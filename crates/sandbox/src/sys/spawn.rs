//! Starting a process in our own memory, on a stack of its own.

use std::arch::asm;
use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicPtr, Ordering};

use super::{Errno, MountToken, last_errno, outcome};

/// `clone` for a child that goes on in `entry(argument)` on its own stack, in
/// the same memory. The kernel writes the child's id to `busy` before the child
/// wakes, and 0 when it has left this memory. If the call fails, it may have written
/// there as well.
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
/// wakes, and 0 when it has left this memory. If the call fails, it may have written
/// there as well.
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

/// Init and the command's process before its exec each use less than 4 KiB in a release
/// build; a debug build uses several times that. Pages that are not used take no memory.
const STACK_BYTES: usize = 32 * 1024;

/// Larger than any frame, so that an overflow cannot jump over the guard.
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

    /// Claims the stack for a process that is about to be started; false if another has
    /// it.
    fn claim(&self) -> bool {
        let claimed =
            (self.busy).compare_exchange(0, CLAIMED, Ordering::Acquire, Ordering::Relaxed);
        claimed.is_ok()
    }

    /// Gives the stack back if no process was started.
    fn give_up(&self) {
        self.busy.store(0, Ordering::Release);
    }

    /// Whether a process is on the stack, or about to be.
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

    /// Runs the process from its start to its end.
    fn main(argument: &'static Self::Argument) -> !;
}

extern "C" fn begin<M: ProcessMain>(argument: *const ()) -> ! {
    // SAFETY: only `spawn::<M>` passes this function on, and with it an
    // `&'static M::Argument`.
    M::main(unsafe { &*argument.cast::<M::Argument>() })
}

/// Starts a process in our memory, on `stack`, with `flags`, and returns its process id.
/// Fails with `EBUSY` if another process is on that stack.
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

#[cfg(test)]
mod tests {
    use super::super::in_our_memory;
    use super::*;

    /// So many take some seconds.
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
        // A failed start gives the stack back: the kernel makes no process with a
        // thread's flags but without its signals.
        assert_eq!(start(libc::CLONE_THREAD), Err(libc::EINVAL));
        assert!(!stack.is_busy());
        assert!(start(0).is_ok());
    }
}
