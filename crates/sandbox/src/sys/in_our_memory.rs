//! Calls for init and the command's process: no allocation, no `errno`.

use std::time::Duration;

use super::*;

pub(crate) fn mount(
    source: &CStr,
    target: &CStr,
    file_system: &CStr,
    flags: libc::c_ulong,
    data: &CStr,
    token: MountToken,
) -> Result<(), Errno> {
    let arguments = [
        source.as_ptr() as usize,
        target.as_ptr() as usize,
        file_system.as_ptr() as usize,
        flags as usize,
        data.as_ptr() as usize,
        token.0 as usize,
    ];
    // SAFETY: all are strings that live across the call, which reads them.
    unsafe { syscall(libc::SYS_mount, arguments) }.map(drop)
}

/// Makes a folder the root of this process, and goes there.
pub(crate) fn change_root(folder: &CStr, token: MountToken) -> Result<(), Errno> {
    change_folder(folder)?;
    let arguments = [c".".as_ptr() as usize, 0, 0, 0, 0, token.0 as usize];
    // SAFETY: a string that lives across the call.
    unsafe { syscall(libc::SYS_chroot, arguments) }.map(drop)
}

/// Makes an empty file, to mount something on.
pub(crate) fn make_empty_file(path: &CStr) -> Result<(), Errno> {
    let (place, path) = (libc::AT_FDCWD as usize, path.as_ptr() as usize);
    let mode = (libc::S_IFREG | 0o400) as usize;
    // SAFETY: a string that lives across the call.
    unsafe { syscall(libc::SYS_mknodat, [place, path, mode, 0, 0, 0]) }.map(drop)
}

pub(crate) fn make_folder(path: &CStr, mode: u32) -> Result<(), Errno> {
    let arguments = [
        libc::AT_FDCWD as usize,
        path.as_ptr() as usize,
        mode as usize,
        0,
        0,
        0,
    ];
    // SAFETY: a string that lives across the call.
    unsafe { syscall(libc::SYS_mkdirat, arguments) }.map(drop)
}

/// Makes a file, and opens it for writing. Nothing may be there, a link neither.
pub(crate) fn make_file(path: &CStr) -> Result<i32, Errno> {
    let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    let place = libc::AT_FDCWD as usize;
    let arguments = [place, path.as_ptr() as usize, flags as usize, 0o644, 0, 0];
    // SAFETY: a string that lives across the call.
    unsafe { syscall(libc::SYS_openat, arguments) }.map(|file| file as i32)
}

/// Makes a file without a name in a folder, and opens it for writing.
pub(crate) fn make_unnamed_file(folder: &CStr) -> Result<i32, Errno> {
    let flags = libc::O_WRONLY | libc::O_TMPFILE | libc::O_CLOEXEC;
    let place = libc::AT_FDCWD as usize;
    let arguments = [place, folder.as_ptr() as usize, flags as usize, 0o644, 0, 0];
    // SAFETY: a string that lives across the call.
    unsafe { syscall(libc::SYS_openat, arguments) }.map(|file| file as i32)
}

/// Of what is there itself, should it be a link.
pub(crate) fn change_owner(path: &CStr, user: u32, group: u32) -> Result<(), Errno> {
    let (place, path) = (libc::AT_FDCWD as usize, path.as_ptr() as usize);
    let flags = libc::AT_SYMLINK_NOFOLLOW as usize;
    let arguments = [place, path, user as usize, group as usize, flags, 0];
    // SAFETY: a string that lives across the call.
    unsafe { syscall(libc::SYS_fchownat, arguments) }.map(drop)
}

/// Of an open file.
pub(crate) fn change_owner_of(file: i32, user: u32, group: u32) -> Result<(), Errno> {
    let arguments = [file as usize, user as usize, group as usize, 0, 0, 0];
    // SAFETY: touches no memory.
    unsafe { syscall(libc::SYS_fchown, arguments) }.map(drop)
}

/// Opens what lies below an open folder for reading, whatever it is, without waiting for
/// anybody, and without following any link.
pub(crate) fn open_beneath(folder: i32, path: &CStr) -> Result<i32, Errno> {
    let flags = libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY;
    open_without_links(folder, path, flags, libc::RESOLVE_BENEATH)
}

/// Opens a path; no part of it may be a symbolic link.
fn open_without_links(folder: i32, path: &CStr, flags: i32, resolve: u64) -> Result<i32, Errno> {
    /// The kernel's `struct open_how`.
    #[repr(C)]
    struct How {
        flags: u64,
        mode: u64,
        resolve: u64,
    }
    let how = How {
        flags: (flags | libc::O_CLOEXEC) as u64,
        mode: 0,
        resolve: resolve | libc::RESOLVE_NO_SYMLINKS | libc::RESOLVE_NO_MAGICLINKS,
    };
    let arguments = [
        folder as usize,
        path.as_ptr() as usize,
        ptr::from_ref(&how) as usize,
        size_of::<How>(),
        0,
        0,
    ];
    // SAFETY: a string and a structure that live across the call, which reads them.
    unsafe { syscall(libc::SYS_openat2, arguments) }.map(|file| file as i32)
}

/// Kills every process of this namespace but its first one, which calls this.
pub(crate) fn kill_all_others() -> Result<(), Errno> {
    let arguments = [-1isize as usize, libc::SIGKILL as usize, 0, 0, 0, 0];
    // SAFETY: touches no memory; the kernel spares who calls it, and the first process of
    // a namespace.
    unsafe { syscall(libc::SYS_kill, arguments) }.map(drop)
}

pub(crate) fn change_mode(path: &CStr, mode: u32) -> Result<(), Errno> {
    let (place, path) = (libc::AT_FDCWD as usize, path.as_ptr() as usize);
    let arguments = [place, path, mode as usize, 0, 0, 0];
    // SAFETY: a string that lives across the call.
    unsafe { syscall(libc::SYS_fchmodat, arguments) }.map(drop)
}

pub(crate) fn change_folder(path: &CStr) -> Result<(), Errno> {
    // SAFETY: a string that lives across the call.
    unsafe { syscall(libc::SYS_chdir, [path.as_ptr() as usize, 0, 0, 0, 0, 0]) }.map(drop)
}

/// Executes a program; returns only what kept it from doing so.
pub(crate) fn execute(path: &CStr, arguments: Pointers<'_>, environment: Pointers<'_>) -> Errno {
    let call = [
        path.as_ptr() as usize,
        arguments.0.as_ptr() as usize,
        environment.0.as_ptr() as usize,
        0,
        0,
        0,
    ];
    // SAFETY: each array ends with a null, and its strings live across the call;
    // AtomicPtr has the layout of a pointer.
    unsafe { syscall(libc::SYS_execve, call) }
        .err()
        .unwrap_or(libc::EIO)
}

/// A child that has ended.
pub(crate) struct Reaped {
    pub(crate) pid: i32,
    /// Its wait status.
    pub(crate) status: i32,
    /// The processor time of it, and of all that it has waited for, in microseconds.
    pub(crate) cpu_microseconds: u64,
}

/// Waits until a child has ended, whichever signal it sends then.
pub(crate) fn wait_for_any() -> Result<Reaped, Errno> {
    reap(libc::__WALL)
}

/// Whether no child is left. Reaps those that have ended, and adds their processor time.
pub(crate) fn is_childless(cpu_microseconds: &mut u64) -> bool {
    loop {
        match reap(libc::WNOHANG | libc::__WALL) {
            Err(libc::ECHILD) => return true,
            Ok(Reaped { pid: 0, .. }) | Err(_) => return false,
            Ok(reaped) => {
                *cpu_microseconds = cpu_microseconds.saturating_add(reaped.cpu_microseconds);
            }
        }
    }
}

/// Without a child that has ended, its `pid` is 0.
fn reap(flags: i32) -> Result<Reaped, Errno> {
    // The kernel's `struct rusage` of 64-bit systems: time in user mode and in the kernel,
    // each in seconds and microseconds, and 14 other numbers.
    let mut usage = [0u64; 18];
    let mut status = 0i32;
    let (status_to, usage_to) = ((&raw mut status) as usize, usage.as_mut_ptr() as usize);
    let arguments = [usize::MAX, status_to, flags as usize, usage_to, 0, 0];
    // SAFETY: the kernel writes the status and the usage during the call.
    let pid = unsafe { syscall(libc::SYS_wait4, arguments) }?;
    let [user_seconds, user, kernel_seconds, kernel, ..] = usage;
    let seconds = user_seconds.saturating_add(kernel_seconds);
    Ok(Reaped {
        pid: pid as i32,
        status,
        cpu_microseconds: seconds
            .saturating_mul(1_000_000)
            .saturating_add(user)
            .saturating_add(kernel),
    })
}

/// Whether the file system that a path leads to has no room left, or none for another
/// file. False if that cannot be found out.
pub(crate) fn is_full(path: &CStr) -> bool {
    // The kernel's `struct statfs` of 64-bit systems: 15 words.
    let mut found = [1u64; 15];
    let arguments = [
        path.as_ptr() as usize,
        found.as_mut_ptr() as usize,
        0,
        0,
        0,
        0,
    ];
    // SAFETY: a string that lives across the call, and room for what the kernel writes.
    let asked = unsafe { syscall(libc::SYS_statfs, arguments) };
    let [_, _, blocks, _, free_blocks, files, free_files, ..] = found;
    let is_full = (blocks > 0 && free_blocks == 0) || (files > 0 && free_files == 0);
    asked.is_ok() && is_full
}

/// The kernel's `struct msghdr`; the C libraries differ in theirs.
#[repr(C)]
struct MessageHeader {
    name: usize,
    name_length: i32,
    parts: usize,
    parts_length: usize,
    control: usize,
    control_length: usize,
    flags: u32,
}

/// A `struct cmsghdr` with one descriptor behind it.
#[repr(C)]
struct ControlMessage {
    length: usize,
    level: i32,
    kind: i32,
    descriptor: i32,
    padding: i32,
}

/// Sends a message, with a descriptor if there is one to send.
pub(crate) fn send(socket: i32, bytes: &[u8], passed: Option<i32>) -> Result<(), Errno> {
    let control = ControlMessage {
        length: mem::offset_of!(ControlMessage, padding),
        level: libc::SOL_SOCKET,
        kind: libc::SCM_RIGHTS,
        descriptor: passed.unwrap_or(-1),
        padding: 0,
    };
    let part = [bytes.as_ptr() as usize, bytes.len()];
    let message = MessageHeader {
        name: 0,
        name_length: 0,
        parts: part.as_ptr() as usize,
        parts_length: 1,
        control: ptr::from_ref(&control) as usize,
        control_length: if passed.is_some() {
            size_of::<ControlMessage>()
        } else {
            0
        },
        flags: 0,
    };
    let arguments = [
        socket as usize,
        ptr::from_ref(&message) as usize,
        libc::MSG_NOSIGNAL as usize,
        0,
        0,
        0,
    ];
    // SAFETY: the message, and what its addresses lead to, live across the
    // call, which only reads them.
    unsafe { syscall(libc::SYS_sendmsg, arguments) }.map(drop)
}

/// What came with a message.
pub(crate) struct Received {
    /// How long it is, or 0 where the other end is closed.
    pub(crate) length: usize,
    /// How many descriptors came.
    pub(crate) descriptors: usize,
    /// There were more descriptors, for which there was no room.
    pub(crate) is_short: bool,
}

/// Receives a message, up to the length of `bytes`, and descriptors with it.
pub(crate) fn receive<const DESCRIPTORS_MAX: usize>(
    socket: i32,
    bytes: &mut [u8],
    descriptors: &mut [i32; DESCRIPTORS_MAX],
) -> Result<Received, Errno> {
    /// A `struct cmsghdr` with room for descriptors behind it.
    #[repr(C)]
    struct ControlMessage<const DESCRIPTORS_MAX: usize> {
        length: usize,
        level: i32,
        kind: i32,
        descriptors: [i32; DESCRIPTORS_MAX],
    }
    let mut control = ControlMessage {
        length: 0,
        level: 0,
        kind: 0,
        descriptors: [-1; DESCRIPTORS_MAX],
    };
    let part = [bytes.as_mut_ptr() as usize, bytes.len()];
    let mut message = MessageHeader {
        name: 0,
        name_length: 0,
        parts: part.as_ptr() as usize,
        parts_length: 1,
        control: (&raw mut control) as usize,
        // Without the padding behind them.
        control_length: mem::offset_of!(ControlMessage<DESCRIPTORS_MAX>, descriptors)
            + size_of_val(&control.descriptors),
        flags: 0,
    };
    let flags = libc::MSG_CMSG_CLOEXEC as usize;
    let arguments = [socket as usize, (&raw mut message) as usize, flags, 0, 0, 0];
    // SAFETY: the kernel writes to the message, the bytes and the control
    // message, no more than their lengths say, during the call.
    let length = unsafe { syscall(libc::SYS_recvmsg, arguments) }?;
    let is_there = message.control_length
        >= mem::offset_of!(ControlMessage<DESCRIPTORS_MAX>, descriptors)
        && control.level == libc::SOL_SOCKET
        && control.kind == libc::SCM_RIGHTS;
    *descriptors = control.descriptors;
    let came = descriptors
        .iter()
        .take_while(|descriptor| **descriptor >= 0);
    Ok(Received {
        length,
        descriptors: if is_there { came.count() } else { 0 },
        is_short: message.flags & libc::MSG_CTRUNC as u32 != 0,
    })
}

/// How a file looks that has this name in an open folder, or with none an open file.
pub(crate) fn file_status(folder: i32, name: &CStr) -> Result<FileStatus, Errno> {
    let mut status = FileStatus::EMPTY;
    let arguments = [
        folder as usize,
        name.as_ptr() as usize,
        libc::AT_EMPTY_PATH as usize,
        (libc::STATX_BASIC_STATS | libc::STATX_BTIME) as usize,
        (&raw mut status) as usize,
        0,
    ];
    // SAFETY: a string that lives across the call, and room for the kernel's
    // `struct statx`, of 256 bytes.
    unsafe { syscall(libc::SYS_statx, arguments) }.map(|_| status)
}

/// Makes and removes a private System V object of each kind: a segment of shared memory,
/// a set of one semaphore, and a message queue. Returns their ids; `none` for a kind that
/// the kernel does not have.
pub(crate) fn next_ipc_ids(none: i32) -> Result<[i32; 3], Errno> {
    const PRIVATE: usize = libc::IPC_PRIVATE as usize;
    const MODE: usize = 0o600;
    const REMOVE: usize = libc::IPC_RMID as usize;
    // How to make one, and where the request to remove it is among the arguments.
    const KINDS: [(libc::c_long, [usize; 3], libc::c_long, usize); 3] = [
        (libc::SYS_shmget, [PRIVATE, 1, MODE], libc::SYS_shmctl, 1),
        (libc::SYS_semget, [PRIVATE, 1, MODE], libc::SYS_semctl, 2),
        (libc::SYS_msgget, [PRIVATE, MODE, 0], libc::SYS_msgctl, 1),
    ];
    let mut ids = [none; 3];
    for (found, (get, [key, second, third], control, at)) in ids.iter_mut().zip(KINDS) {
        // SAFETY: makes an object and touches no memory.
        let id = match unsafe { syscall(get, [key, second, third, 0, 0, 0]) } {
            Ok(id) => id,
            Err(libc::ENOSYS) => continue,
            Err(errno) => return Err(errno),
        };
        let mut arguments = [id, 0, 0, 0, 0, 0];
        arguments[at] = REMOVE;
        // SAFETY: to remove an object, the calls read nothing else.
        unsafe { syscall(control, arguments) }?;
        *found = id as i32;
    }
    Ok(ids)
}

/// Makes a file without a name in an open folder, and returns its inode number. The file
/// is gone at the end.
pub(crate) fn next_file_number(folder: i32) -> Result<u64, Errno> {
    let flags = (libc::O_TMPFILE | libc::O_RDWR | libc::O_CLOEXEC) as usize;
    let arguments = [folder as usize, c".".as_ptr() as usize, flags, 0o600, 0, 0];
    // SAFETY: a string that lives across the call.
    let file = unsafe { syscall(libc::SYS_openat, arguments) }? as i32;
    let status = file_status(file, c"");
    close(file)?;
    status.map(|status| status.file_number())
}

/// A descriptor for a process.
pub(crate) fn open_process(pid: i32, token: MountToken) -> Result<i32, Errno> {
    let arguments = [pid as usize, 0, 0, 0, 0, token.0 as usize];
    // SAFETY: makes a new descriptor and touches no memory.
    unsafe { syscall(libc::SYS_pidfd_open, arguments) }.map(|fd| fd as i32)
}

/// Leaves the cgroup namespace for a new one, whose root is where we are.
pub(crate) fn new_cgroup_namespace(token: MountToken) -> Result<(), Errno> {
    let flags = libc::CLONE_NEWCGROUP as usize;
    // SAFETY: changes nothing but the namespaces of this process.
    unsafe { syscall(libc::SYS_unshare, [flags, 0, 0, 0, 0, token.0 as usize]) }.map(drop)
}

/// Goes into a new network namespace.
pub(crate) fn new_network_namespace(token: MountToken) -> Result<(), Errno> {
    let flags = libc::CLONE_NEWNET as usize;
    // SAFETY: changes nothing but the namespaces of this process.
    unsafe { syscall(libc::SYS_unshare, [flags, 0, 0, 0, 0, token.0 as usize]) }.map(drop)
}

/// Goes into a namespace of that kind (`CLONE_NEW…`).
pub(crate) fn enter_namespace(
    namespace: &OwnedFd,
    kind: i32,
    token: MountToken,
) -> Result<(), Errno> {
    let namespace = namespace.as_raw_fd() as usize;
    let arguments = [namespace, kind as usize, 0, 0, 0, token.0 as usize];
    // SAFETY: changes nothing but the namespaces of this process, and of what it makes.
    unsafe { syscall(libc::SYS_setns, arguments) }.map(drop)
}

/// Goes into the network namespace that a descriptor stands for.
pub(crate) fn enter_network_namespace(
    namespace: BorrowedFd<'_>,
    token: MountToken,
) -> Result<(), Errno> {
    let (namespace, kind) = (namespace.as_raw_fd() as usize, libc::CLONE_NEWNET as usize);
    let arguments = [namespace, kind, 0, 0, 0, token.0 as usize];
    // SAFETY: changes nothing but the namespaces of this process.
    unsafe { syscall(libc::SYS_setns, arguments) }.map(drop)
}

/// Whether there is a process with that id, even if it has ended and is not reaped yet.
pub(crate) fn exists(pid: i32) -> bool {
    // SAFETY: signal 0 is none.
    let asked = unsafe { syscall(libc::SYS_kill, [pid as usize, 0, 0, 0, 0, 0]) };
    asked != Err(libc::ESRCH)
}

/// Sets a limit on resources (`RLIMIT_*`) of this process.
pub(crate) fn limit(
    resource: libc::__rlimit_resource_t,
    soft: u64,
    hard: u64,
) -> Result<(), Errno> {
    let limit = [soft, hard];
    let arguments = [0, resource as usize, limit.as_ptr() as usize, 0, 0, 0];
    // SAFETY: reads the kernel's `struct rlimit64`, which lives across the
    // call.
    unsafe { syscall(libc::SYS_prlimit64, arguments) }.map(drop)
}

/// Writes to the beginning of a file of the kernel's, which takes all bytes or none.
pub(crate) fn write(file: i32, bytes: &[u8]) -> Result<(), Errno> {
    let arguments = [file as usize, bytes.as_ptr() as usize, bytes.len(), 0, 0, 0];
    // SAFETY: reads bytes that live across the call.
    unsafe { syscall(libc::SYS_pwrite64, arguments) }.map(drop)
}

/// Adds one to an eventfd. If that would block, its reader is woken already.
pub(crate) fn raise(event: i32) -> Result<(), Errno> {
    let one = 1u64;
    let (bytes, length) = (ptr::from_ref(&one) as usize, size_of::<u64>());
    // SAFETY: reads a number that lives across the call.
    unsafe { syscall(libc::SYS_write, [event as usize, bytes, length, 0, 0, 0]) }.map(drop)
}

/// Drops the next message of a socket. A descriptor that came with it is closed by the
/// kernel, since there is no room for one.
pub(crate) fn discard_message(socket: i32) -> Result<(), Errno> {
    let flags = libc::MSG_DONTWAIT as usize;
    // SAFETY: with no bytes to write and no address it touches no memory.
    unsafe { syscall(libc::SYS_recvfrom, [socket as usize, 0, 0, flags, 0, 0]) }.map(drop)
}

/// The time of `CLOCK_MONOTONIC`, in nanoseconds.
pub(crate) fn monotonic_time() -> u64 {
    let mut time = [0u64; 2];
    let arguments = [
        libc::CLOCK_MONOTONIC as usize,
        time.as_mut_ptr() as usize,
        0,
        0,
        0,
        0,
    ];
    // SAFETY: room for the kernel's `struct timespec` of 64-bit systems: seconds, and
    // nanoseconds. It never fails.
    let _ = unsafe { syscall(libc::SYS_clock_gettime, arguments) };
    let [seconds, nanoseconds] = time;
    seconds
        .saturating_mul(1_000_000_000)
        .saturating_add(nanoseconds)
}

/// Opens a file for reading.
pub(crate) fn open(path: &CStr) -> Result<i32, Errno> {
    let (place, flags) = (libc::AT_FDCWD as usize, libc::O_RDONLY | libc::O_CLOEXEC);
    let arguments = [place, path.as_ptr() as usize, flags as usize, 0, 0, 0];
    // SAFETY: a string that lives across the call.
    unsafe { syscall(libc::SYS_openat, arguments) }.map(|file| file as i32)
}

/// Reads the beginning of a file, wherever it has been read before: how many bytes.
pub(crate) fn read_beginning(file: i32, bytes: &mut [u8]) -> Result<usize, Errno> {
    read_at(file, bytes, 0)
}

/// Reads from that offset of a file on: how many bytes, none at its end.
pub(crate) fn read_at(file: i32, bytes: &mut [u8], offset: usize) -> Result<usize, Errno> {
    let arguments = [
        file as usize,
        bytes.as_mut_ptr() as usize,
        bytes.len(),
        offset,
        0,
        0,
    ];
    // SAFETY: the kernel writes to the bytes, no more than there are, during the
    // call.
    unsafe { syscall(libc::SYS_pread64, arguments) }
}

/// Makes a Landlock ruleset: a descriptor.
pub(crate) fn landlock_create(rules: &LandlockRules) -> Result<i32, Errno> {
    let size = size_of::<LandlockRules>();
    let arguments = [ptr::from_ref(rules) as usize, size, 0, 0, 0, 0];
    // SAFETY: reads the rules, which live across the call.
    unsafe { syscall(libc::SYS_landlock_create_ruleset, arguments) }.map(|fd| fd as i32)
}

/// Allows `rights` on all that lies below a folder.
pub(crate) fn landlock_allow_below(ruleset: i32, folder: i32, rights: u64) -> Result<(), Errno> {
    /// The kernel's `struct landlock_path_beneath_attr`, which is packed.
    #[repr(C, packed)]
    struct Below {
        rights: u64,
        folder: i32,
    }
    const PATH_BENEATH: usize = 1;
    let below = Below { rights, folder };
    let rule = (&raw const below) as usize;
    let arguments = [ruleset as usize, PATH_BENEATH, rule, 0, 0, 0];
    // SAFETY: reads the rule, which lives across the call.
    unsafe { syscall(libc::SYS_landlock_add_rule, arguments) }.map(drop)
}

/// Restricts this process, and what it makes, to a ruleset.
pub(crate) fn landlock_enter(ruleset: i32, flags: u32) -> Result<(), Errno> {
    let arguments = [ruleset as usize, flags as usize, 0, 0, 0, 0];
    // SAFETY: changes nothing but what this process may do.
    unsafe { syscall(libc::SYS_landlock_restrict_self, arguments) }.map(drop)
}

/// Opens a folder with `O_PATH`: as a place, not for reading.
pub(crate) fn open_path(path: &CStr) -> Result<i32, Errno> {
    open_without_links(libc::AT_FDCWD, path, libc::O_PATH | libc::O_DIRECTORY, 0)
}

/// Duplicates a descriptor to the lowest free number above standard error.
pub(crate) fn duplicate(file: i32) -> Result<i32, Errno> {
    let command = libc::F_DUPFD_CLOEXEC as usize;
    let arguments = [file as usize, command, 3, 0, 0, 0];
    // SAFETY: makes a new descriptor and touches no memory.
    unsafe { syscall(libc::SYS_fcntl, arguments) }.map(|file| file as i32)
}

pub(crate) fn duplicate_to(from: i32, to: i32) -> Result<(), Errno> {
    // SAFETY: descriptors are this process's own: init and the command's
    // process have a table each, not the zygote's.
    unsafe { syscall(libc::SYS_dup3, [from as usize, to as usize, 0, 0, 0, 0]) }.map(drop)
}

/// Closes `first` and all above it.
pub(crate) fn close_from(first: u32) -> Result<(), Errno> {
    let arguments = [first as usize, u32::MAX as usize, 0, 0, 0, 0];
    // SAFETY: as in `duplicate_to`.
    unsafe { syscall(libc::SYS_close_range, arguments) }.map(drop)
}

pub(crate) fn close(descriptor: i32) -> Result<(), Errno> {
    // SAFETY: as in `duplicate_to`.
    unsafe { syscall(libc::SYS_close, [descriptor as usize, 0, 0, 0, 0, 0]) }.map(drop)
}

/// Waits until a socket has a message or its other end is closed, at most `wait_max`.
pub(crate) fn wait_for_message(socket: i32, wait_max: Duration) {
    let mut wanted = libc::pollfd {
        fd: socket,
        events: libc::POLLIN,
        revents: 0,
    };
    let mut wait = [wait_max.as_secs(), u64::from(wait_max.subsec_nanos())];
    let (wanted, wait) = (&raw mut wanted as usize, wait.as_mut_ptr() as usize);
    // SAFETY: the kernel writes to the one entry, and to a `struct timespec` of 64-bit
    // systems, during the call. Why it returns is of no interest.
    let _ = unsafe { syscall(libc::SYS_ppoll, [wanted, 1, wait, 0, 0, 0]) };
}

pub(crate) fn new_session() -> Result<(), Errno> {
    // SAFETY: changes nothing but the session of this process.
    unsafe { syscall(libc::SYS_setsid, [0; 6]) }.map(drop)
}

pub(crate) fn set_groups(groups: &[u32]) -> Result<(), Errno> {
    let arguments = [groups.len(), groups.as_ptr() as usize, 0, 0, 0, 0];
    // SAFETY: reads the groups during the call.
    unsafe { syscall(libc::SYS_setgroups, arguments) }.map(drop)
}

pub(crate) fn set_group(gid: u32) -> Result<(), Errno> {
    let gid = gid as usize;
    // SAFETY: changes nothing but this process's own ids.
    unsafe { syscall(libc::SYS_setresgid, [gid, gid, gid, 0, 0, 0]) }.map(drop)
}

pub(crate) fn set_user(uid: u32) -> Result<(), Errno> {
    let uid = uid as usize;
    // SAFETY: changes nothing but this process's own ids.
    unsafe { syscall(libc::SYS_setresuid, [uid, uid, uid, 0, 0, 0]) }.map(drop)
}

/// Lets nobody inspect this memory (`PR_SET_DUMPABLE`), of whoever shares it.
pub(crate) fn set_not_dumpable() -> Result<(), Errno> {
    let option = libc::PR_SET_DUMPABLE as usize;
    // SAFETY: changes nothing but who may inspect this memory.
    unsafe { syscall(libc::SYS_prctl, [option, 0, 0, 0, 0, 0]) }.map(drop)
}

pub(crate) fn exit(code: i32) -> ! {
    loop {
        // SAFETY: ends this process, which is alone in its thread group.
        let _ = unsafe { syscall(libc::SYS_exit_group, [code as usize, 0, 0, 0, 0, 0]) };
    }
}
