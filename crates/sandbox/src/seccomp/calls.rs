//! The lists behind the filter. They follow Docker's default profile for a
//! container without capabilities (moby, `profiles/seccomp`), and are shorter:
//! asynchronous I/O of both kinds, keyrings, most of `ptrace` and what reads other
//! processes' memory are out as well. Calls that only x86-64 has are marked.

/// A call: its name in the kernel's headers, for tests, and its number.
pub(super) type Call = (&'static str, i64);

macro_rules! calls {
    ($($(#[$condition:meta])? $name:ident),* $(,)?) => {
        &[$($(#[$condition])? (stringify!($name), libc::$name)),*]
    };
}

/// What a command may do. A call that is added here needs a row in the table of
/// docs/sandbox.md, "What the kernel keeps", which a test asks for: what of its
/// arguments does the kernel store, where, for how long, and who can read it back?
pub(super) const ALLOWED: &[Call] = calls![
    SYS_accept,
    SYS_accept4,
    SYS_adjtimex,
    SYS_bind,
    SYS_brk,
    SYS_capget,
    SYS_capset,
    SYS_chdir,
    SYS_clock_adjtime,
    SYS_clock_getres,
    SYS_clock_gettime,
    SYS_clock_nanosleep,
    SYS_clone,
    SYS_close,
    SYS_close_range,
    SYS_connect,
    SYS_copy_file_range,
    SYS_dup,
    SYS_dup3,
    SYS_epoll_create1,
    SYS_epoll_ctl,
    SYS_epoll_pwait,
    SYS_epoll_pwait2,
    SYS_eventfd2,
    SYS_execve,
    SYS_execveat,
    SYS_exit,
    SYS_exit_group,
    SYS_faccessat,
    SYS_faccessat2,
    SYS_fadvise64,
    SYS_fallocate,
    SYS_fchdir,
    SYS_fchmod,
    SYS_fchmodat,
    SYS_fchown,
    SYS_fchownat,
    SYS_fcntl,
    SYS_fdatasync,
    SYS_fgetxattr,
    SYS_flistxattr,
    SYS_flock,
    SYS_fremovexattr,
    SYS_fsetxattr,
    SYS_fstat,
    SYS_fstatfs,
    SYS_fsync,
    SYS_ftruncate,
    SYS_futex,
    SYS_futex_waitv,
    SYS_get_robust_list,
    SYS_getcpu,
    SYS_getcwd,
    SYS_getdents64,
    SYS_getegid,
    SYS_geteuid,
    SYS_getgid,
    SYS_getgroups,
    SYS_getitimer,
    SYS_getpeername,
    SYS_getpgid,
    SYS_getpid,
    SYS_getppid,
    SYS_getpriority,
    SYS_getrandom,
    SYS_getresgid,
    SYS_getresuid,
    SYS_getrusage,
    SYS_getsid,
    SYS_getsockname,
    SYS_getsockopt,
    SYS_gettid,
    SYS_gettimeofday,
    SYS_getuid,
    SYS_getxattr,
    SYS_inotify_add_watch,
    SYS_inotify_init1,
    SYS_inotify_rm_watch,
    SYS_ioctl,
    SYS_ioprio_get,
    SYS_ioprio_set,
    SYS_kill,
    SYS_landlock_add_rule,
    SYS_landlock_create_ruleset,
    SYS_landlock_restrict_self,
    SYS_lgetxattr,
    SYS_linkat,
    SYS_listen,
    SYS_listxattr,
    SYS_llistxattr,
    SYS_lremovexattr,
    SYS_lseek,
    SYS_lsetxattr,
    SYS_madvise,
    SYS_membarrier,
    SYS_memfd_create,
    SYS_memfd_secret,
    SYS_mincore,
    SYS_mkdirat,
    SYS_mknodat,
    SYS_mlock,
    SYS_mlock2,
    SYS_mlockall,
    SYS_mmap,
    SYS_mprotect,
    SYS_mremap,
    SYS_mseal,
    SYS_msgctl,
    SYS_msgget,
    SYS_msgrcv,
    SYS_msgsnd,
    SYS_msync,
    SYS_munlock,
    SYS_munlockall,
    SYS_munmap,
    SYS_name_to_handle_at,
    SYS_nanosleep,
    SYS_newfstatat,
    SYS_openat,
    SYS_openat2,
    SYS_personality,
    SYS_pidfd_open,
    SYS_pidfd_send_signal,
    SYS_pipe2,
    SYS_pkey_alloc,
    SYS_pkey_free,
    SYS_pkey_mprotect,
    SYS_ppoll,
    SYS_prctl,
    SYS_pread64,
    SYS_preadv,
    SYS_preadv2,
    SYS_prlimit64,
    SYS_process_mrelease,
    SYS_pselect6,
    SYS_ptrace,
    SYS_pwrite64,
    SYS_pwritev,
    SYS_pwritev2,
    SYS_read,
    SYS_readahead,
    SYS_readlinkat,
    SYS_readv,
    SYS_recvfrom,
    SYS_recvmmsg,
    SYS_recvmsg,
    SYS_remap_file_pages,
    SYS_removexattr,
    SYS_renameat2,
    SYS_restart_syscall,
    SYS_rseq,
    SYS_rt_sigaction,
    SYS_rt_sigpending,
    SYS_rt_sigprocmask,
    SYS_rt_sigqueueinfo,
    SYS_rt_sigreturn,
    SYS_rt_sigsuspend,
    SYS_rt_sigtimedwait,
    SYS_rt_tgsigqueueinfo,
    SYS_sched_get_priority_max,
    SYS_sched_get_priority_min,
    SYS_sched_getaffinity,
    SYS_sched_getattr,
    SYS_sched_getparam,
    SYS_sched_getscheduler,
    SYS_sched_rr_get_interval,
    SYS_sched_setaffinity,
    SYS_sched_setattr,
    SYS_sched_setparam,
    SYS_sched_setscheduler,
    SYS_sched_yield,
    SYS_seccomp,
    SYS_semctl,
    SYS_semget,
    SYS_semop,
    SYS_semtimedop,
    SYS_sendfile,
    SYS_sendmmsg,
    SYS_sendmsg,
    SYS_sendto,
    SYS_set_robust_list,
    SYS_set_tid_address,
    SYS_setfsgid,
    SYS_setfsuid,
    SYS_setgid,
    SYS_setgroups,
    SYS_setitimer,
    SYS_setpgid,
    SYS_setpriority,
    SYS_setregid,
    SYS_setresgid,
    SYS_setresuid,
    SYS_setreuid,
    SYS_setsid,
    SYS_setsockopt,
    SYS_setuid,
    SYS_setxattr,
    SYS_shmat,
    SYS_shmctl,
    SYS_shmdt,
    SYS_shmget,
    SYS_shutdown,
    SYS_sigaltstack,
    SYS_signalfd4,
    SYS_socket,
    SYS_socketpair,
    SYS_splice,
    SYS_statfs,
    SYS_statx,
    SYS_symlinkat,
    SYS_sync,
    SYS_syncfs,
    SYS_sysinfo,
    SYS_tee,
    SYS_tgkill,
    SYS_timer_create,
    SYS_timer_delete,
    SYS_timer_getoverrun,
    SYS_timer_gettime,
    SYS_timer_settime,
    SYS_timerfd_create,
    SYS_timerfd_gettime,
    SYS_timerfd_settime,
    SYS_times,
    SYS_tkill,
    SYS_truncate,
    SYS_umask,
    SYS_uname,
    SYS_unlinkat,
    SYS_utimensat,
    SYS_vmsplice,
    SYS_wait4,
    SYS_waitid,
    SYS_write,
    SYS_writev,
    #[cfg(target_arch = "x86_64")]
    SYS_access,
    #[cfg(target_arch = "x86_64")]
    SYS_alarm,
    #[cfg(target_arch = "x86_64")]
    SYS_arch_prctl,
    #[cfg(target_arch = "x86_64")]
    SYS_chmod,
    #[cfg(target_arch = "x86_64")]
    SYS_chown,
    #[cfg(target_arch = "x86_64")]
    SYS_creat,
    #[cfg(target_arch = "x86_64")]
    SYS_dup2,
    #[cfg(target_arch = "x86_64")]
    SYS_epoll_create,
    #[cfg(target_arch = "x86_64")]
    SYS_epoll_wait,
    #[cfg(target_arch = "x86_64")]
    SYS_eventfd,
    #[cfg(target_arch = "x86_64")]
    SYS_fchmodat2,
    #[cfg(target_arch = "x86_64")]
    SYS_fork,
    #[cfg(target_arch = "x86_64")]
    SYS_futimesat,
    #[cfg(target_arch = "x86_64")]
    SYS_getdents,
    #[cfg(target_arch = "x86_64")]
    SYS_getpgrp,
    #[cfg(target_arch = "x86_64")]
    SYS_getrlimit,
    #[cfg(target_arch = "x86_64")]
    SYS_inotify_init,
    #[cfg(target_arch = "x86_64")]
    SYS_lchown,
    #[cfg(target_arch = "x86_64")]
    SYS_link,
    #[cfg(target_arch = "x86_64")]
    SYS_lstat,
    #[cfg(target_arch = "x86_64")]
    SYS_mkdir,
    #[cfg(target_arch = "x86_64")]
    SYS_mknod,
    #[cfg(target_arch = "x86_64")]
    SYS_modify_ldt,
    #[cfg(target_arch = "x86_64")]
    SYS_open,
    #[cfg(target_arch = "x86_64")]
    SYS_pause,
    #[cfg(target_arch = "x86_64")]
    SYS_pipe,
    #[cfg(target_arch = "x86_64")]
    SYS_poll,
    #[cfg(target_arch = "x86_64")]
    SYS_readlink,
    #[cfg(target_arch = "x86_64")]
    SYS_rename,
    #[cfg(target_arch = "x86_64")]
    SYS_renameat,
    #[cfg(target_arch = "x86_64")]
    SYS_rmdir,
    #[cfg(target_arch = "x86_64")]
    SYS_select,
    #[cfg(target_arch = "x86_64")]
    SYS_setrlimit,
    #[cfg(target_arch = "x86_64")]
    SYS_signalfd,
    #[cfg(target_arch = "x86_64")]
    SYS_stat,
    #[cfg(target_arch = "x86_64")]
    SYS_symlink,
    #[cfg(target_arch = "x86_64")]
    SYS_sync_file_range,
    #[cfg(target_arch = "x86_64")]
    SYS_time,
    #[cfg(target_arch = "x86_64")]
    SYS_unlink,
    #[cfg(target_arch = "x86_64")]
    SYS_utime,
    #[cfg(target_arch = "x86_64")]
    SYS_utimes,
    #[cfg(target_arch = "x86_64")]
    SYS_vfork,
];

/// Calls that only the zygote and init may make: they have the mount token.
pub(super) const PRIVILEGED: &[Call] = calls![SYS_chroot, SYS_mount, SYS_setns, SYS_unshare,];

/// Calls that are refused with `EPERM` rather than `ENOSYS`, as by Docker's profile.
pub(super) const FORBIDDEN: &[i64] = &[
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_bpf,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_fanotify_init,
    libc::SYS_fanotify_mark,
    libc::SYS_finit_module,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_init_module,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_kcmp,
    libc::SYS_kexec_file_load,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_lookup_dcookie,
    libc::SYS_mbind,
    libc::SYS_migrate_pages,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_move_pages,
    libc::SYS_nfsservctl,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_perf_event_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pivot_root,
    libc::SYS_process_madvise,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_set_mempolicy,
    libc::SYS_setdomainname,
    libc::SYS_sethostname,
    libc::SYS_settimeofday,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_syslog,
    libc::SYS_umount2,
    libc::SYS_userfaultfd,
    libc::SYS_vhangup,
    #[cfg(target_arch = "x86_64")]
    libc::SYS__sysctl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_sysfs,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_uselib,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ustat,
];

/// The flags of `clone` that make namespaces.
pub(super) const NAMESPACE_FLAGS: [i32; 7] = [
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWNS,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWUTS,
];

/// The execution domains that a command may ask for: Linux, Linux in 32 bits,
/// either as it was called before version 3, and "which is it now?".
pub(super) const PERSONALITIES: [u64; 5] = [0x0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// The commands of `fcntl` that a command may use, in ranges: those of duplicates, flags,
/// locks, signals, pipes, seals and change notices. Not those that leave a hint about
/// lifetimes in an inode (`F_SET_RW_HINT`), which later processes could read. From
/// linux/fcntl.h; 1024 is `F_SETLEASE`, which is forbidden.
pub(super) const FILE_COMMANDS: &[(u32, u32)] =
    &[(0, 17), (36, 38), (1024, 1028), (1030, 1035), (1037, 1037)];

/// The requests of `ptrace` that a command may make, in ranges: what it takes to stop
/// threads and to read their registers, as LeakSanitizer does when a program exits. Not
/// `PTRACE_TRACEME`, by which init would have to trace its command. From linux/ptrace.h.
pub(super) const TRACES: &[(u32, u32)] = &[
    (7, 8),           // PTRACE_CONT, _KILL
    (12, 12),         // PTRACE_GETREGS
    (16, 17),         // PTRACE_ATTACH, _DETACH
    (0x4204, 0x4204), // PTRACE_GETREGSET
];

/// The requests of `ioctl` that a command may make, in ranges: those that read something,
/// and those on objects of the process's own. Not those that set flags, keys, labels or
/// policies of a file or its file system, and not those that tell of namespaces and
/// processes. From linux/fs.h, linux/sockios.h, asm/ioctls.h, linux/seccomp.h,
/// linux/eventpoll.h and linux/random.h.
#[rustfmt::skip]
pub(super) const REQUESTS: &[(u32, u32)] = &[
    (0x2, 0x2),                     // FIGETBSZ
    (0x5400, 0x54ff),               // of terminals and of any file: FIONREAD, FIOCLEX, …
    (0x8900, 0x893f),               // of sockets and interfaces: SIOCGIFCONF, …
    (0x8942, 0x897f),               // and more of them; those between load a module
    (0x4004_5400, 0x4004_54ff),     // of terminals, with an argument of 4 bytes
    (0x4004_9409, 0x4004_9409),     // FICLONE
    (0x4008_2102, 0x4008_2104),     // SECCOMP_IOCTL_NOTIF_ID_VALID, _SET_FLAGS
    (0x4008_5400, 0x4008_54ff),     // TFD_IOC_SET_TICKS
    (0x4008_8a01, 0x4008_8a01),     // EPIOCSPARAMS
    (0x4018_2103, 0x4018_2103),     // SECCOMP_IOCTL_NOTIF_ADDFD
    (0x4020_940d, 0x4020_940d),     // FICLONERANGE
    (0x402c_5400, 0x402c_54ff),     // TCSETS2
    (0x8004_5200, 0x8004_5200),     // RNDGETENTCNT
    (0x8004_5400, 0x8004_54ff),     // TIOCGPTN, …
    (0x8004_6601, 0x8004_6601),     // FS_IOC32_GETFLAGS
    (0x8008_6601, 0x8008_6601),     // FS_IOC_GETFLAGS
    (0x8008_7601, 0x8008_7601),     // FS_IOC_GETVERSION
    (0x8008_8a02, 0x8008_8a02),     // EPIOCGPARAMS
    (0x801c_581f, 0x801c_581f),     // FS_IOC_FSGETXATTR
    (0x802c_5400, 0x802c_54ff),     // TCGETS2
    (0xc018_2101, 0xc018_2101),     // SECCOMP_IOCTL_NOTIF_SEND
    (0xc050_2100, 0xc050_2100),     // SECCOMP_IOCTL_NOTIF_RECV
];

/// Calls whose first argument is a clock.
pub(super) const OF_A_CLOCK: &[i64] = &[
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_timer_create,
];

/// Options of sockets that load a program into the kernel.
pub(super) const SOCKET_FILTERS: &[i32] = &[
    libc::SO_ATTACH_FILTER,
    libc::SO_ATTACH_BPF,
    libc::SO_ATTACH_REUSEPORT_CBPF,
    libc::SO_ATTACH_REUSEPORT_EBPF,
];

/// The families of sockets that a command may have, and their protocols. Netlink,
/// since C libraries list network interfaces with it.
pub(super) const SOCKETS: [(i32, &[i32]); 4] = [
    (libc::AF_UNIX, &[0, libc::AF_UNIX]),
    (
        libc::AF_INET,
        &[0, libc::IPPROTO_TCP, libc::IPPROTO_UDP, libc::IPPROTO_ICMP],
    ),
    (
        libc::AF_INET6,
        &[
            0,
            libc::IPPROTO_TCP,
            libc::IPPROTO_UDP,
            libc::IPPROTO_ICMPV6,
        ],
    ),
    (libc::AF_NETLINK, &[libc::NETLINK_ROUTE]),
];

/// Kinds of sockets that are neither streams nor datagrams: `SOCK_RAW`, `SOCK_RDM`,
/// `SOCK_SEQPACKET`, `SOCK_DCCP` and `SOCK_PACKET`.
pub(super) const BARE_SOCKETS: &[u64] = &[3, 4, 5, 6, 10];

/// Options of sockets that a command with a loopback may not set: for each level, ranges.
/// Group memberships take memory that no cgroup counts, and the host has 4,096 IPv6 flow
/// labels for all programs. `TCP_ULP` loads a module; `TCP_MD5SIG`, `TCP_TX_DELAY`,
/// `TCP_AO_…` and `UDP_ENCAP` change the kernel's code for the whole host; and IPsec has
/// no use here. From linux/in.h, in6.h, tcp.h and udp.h.
pub(super) const OPTIONS_BEYOND_LOOPBACK: &[(i32, &[(u32, u32)])] = &[
    // IP_IPSEC_POLICY, IP_XFRM_POLICY; IP_ADD_MEMBERSHIP to MCAST_MSFILTER.
    (libc::IPPROTO_IP, &[(16, 17), (35, 48)]),
    // IPV6_JOIN_GROUP, IPV6_LEAVE_GROUP; those of anycast; IPV6_FLOWLABEL_MGR;
    // IPV6_IPSEC_POLICY, IPV6_XFRM_POLICY; MCAST_JOIN_GROUP to MCAST_MSFILTER.
    (
        libc::IPPROTO_IPV6,
        &[(20, 21), (27, 28), (32, 32), (34, 35), (42, 48)],
    ),
    // TCP_MD5SIG, TCP_ULP, TCP_MD5SIG_EXT, TCP_TX_DELAY to TCP_AO_REPAIR.
    (libc::IPPROTO_TCP, &[(14, 14), (31, 32), (37, 42)]),
    // UDP_ENCAP, UDP_GRO: the first socket that has one changes code of the kernel, for all
    // processors.
    (libc::IPPROTO_UDP, &[(100, 100), (104, 104)]),
];

/// Calls that ask for huge pages: the call, the argument, and its flag. All programs of a
/// host share one pool of huge pages, which no memory cgroup counts. The calls are
/// answered as by a kernel that does not let this user have any.
pub(super) const HUGE_PAGES: &[(i64, u8, i32)] = &[
    (libc::SYS_memfd_create, 1, libc::MFD_HUGETLB.cast_signed()),
    (libc::SYS_shmget, 2, libc::SHM_HUGETLB),
];

/// Calls that change something of a process, which their first argument names.
pub(super) const ON_A_PROCESS: &[i64] = &[
    libc::SYS_prlimit64,
    libc::SYS_sched_setaffinity,
    libc::SYS_sched_setattr,
    libc::SYS_sched_setparam,
    libc::SYS_sched_setscheduler,
];

/// Calls that set priorities. Their first argument tells what the second one names: here
/// its values for a process, and for all processes of a user.
pub(super) const PRIORITIES: &[(i64, i32, i32)] = &[
    (libc::SYS_setpriority, 0, 2),
    // From linux/ioprio.h.
    (libc::SYS_ioprio_set, 1, 3),
];
