//! The attack suite: a program that tries all that is denied, in every
//! configuration. What it gets at is listed here, and is what that configuration
//! is meant to give.

use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::process::Command;
use std::{fs, iter};

use rustix::fs::inotify;
use rustix::process::{Resource, Rlimit, setrlimit};
use sandbox::{Event, Ids, Limits, Network, Spec};

use crate::support::{Running, Setup, is_root, promises, skip};

/// The attempts that worked; all others must have been made, and have failed.
fn broken(setup: &Setup, spec: &Spec) -> Vec<String> {
    broken_under(setup, spec, Limits::default())
}

fn broken_under(setup: &Setup, spec: &Spec, limits: Limits) -> Vec<String> {
    fs::write(setup.folder.path().join("marker"), "secret").unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let name = format!("attacked-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let abstract_socket = UnixListener::bind_addr(&address).unwrap();
    let folder = setup.folder.path().to_str().unwrap().to_owned();
    let port = tcp.local_addr().unwrap().port().to_string();
    let mut spec = spec.clone();
    spec.command = ["attack", "all", &folder, &port, &name]
        .map(str::to_owned)
        .into();
    let zygote = setup.open_limited(&spec, limits);
    let output = Running::start(&zygote).finish(b"").success();
    drop((tcp, abstract_socket));
    assert!(output.lines().count() >= 66, "{output}");
    let (held, broken): (Vec<_>, Vec<_>) = output.lines().partition(|line| line.ends_with(" held"));
    assert!(held.len() + broken.len() == output.lines().count());
    broken
        .into_iter()
        .map(|line| line.strip_suffix(" BROKEN").unwrap_or(line).to_owned())
        .collect()
}

/// What the kernel itself can keep from a process on the host's network.
fn knows_scopes() -> bool {
    let version = sandbox::facilities().landlock;
    version >= 6
}

/// Are there cgroups for it here?
fn counts_processes() -> bool {
    let controllers = sandbox::facilities().controllers;
    controllers
        .iter()
        .any(|(name, place)| *name == "pids" && place.is_some())
}

/// A host without cgroups, for root, who has them wherever there are any.
#[test]
fn without_cgroups_root_is_as_safe() {
    if !is_root() {
        return skip("this test needs root");
    }
    for test in ["nothing_gives_way", "a_fork_bomb_stops_and_hurts_nobody"] {
        let script =
            "umount -l /sys/fs/cgroup && ! grep -q cgroup /proc/self/mounts && exec \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", script, "sh"]);
        command.arg(std::env::current_exe().unwrap());
        command.args(["--exact", &format!("attack::{test}::as_root")]);
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && said.contains("1 passed"),
            "{output:?}"
        );
    }
}

/// What `attack leave` leaves where another process might see it, of which its own
/// `attack look` finds all; a root only where that is writable.
const SIGNS: &[&str] = &[
    "connect-to-its-abstract-socket",
    "its-abstract-name-is-listed",
    "its-abstract-name-is-taken",
    "its-netlink-port-is-taken",
    "its-shared-memory",
    "its-messages",
    "its-named-memory",
    "its-private-folder",
    "its-root",
    "its-unnamed-file",
    "its-process",
];

fn of_users(setup: &Setup) -> impl Iterator<Item = Spec> {
    ["", "www"]
        .map(|user| Spec {
            user: user.into(),
            ..setup.spec(&[])
        })
        .into_iter()
}

const OF_THE_HOSTS_NETWORK: [&str; 4] = [
    "host-tcp",
    "host-tcp-any-address",
    "host-tcp-mapped",
    "host-udp",
];
/// The last one: the program is in that root, and so the process's own, too.
const OF_A_WRITABLE_ROOT: [&str; 4] = [
    "write-to-the-root",
    "write-to-the-image",
    "write-to-the-image-by-proc",
    "own-program-cve-2019-5736",
];

promises! {
    fn nothing_gives_way(setup) {
        for spec in of_users(setup) {
            assert_eq!(broken(setup, &spec), [""; 0], "as {:?}", spec.user);
        }
    }

    fn a_writable_root_gives_a_root_to_write_to(setup) {
        for spec in of_users(setup) {
            let spec = Spec { writable: true, ..spec };
            // Another user may not write to what is root's, here or anywhere;
            // without root, the files are whoever's the link runs as.
            let owns = spec.user.is_empty() || Ids::detect() == Ids::Own;
            let given: &[&str] = if owns { &OF_A_WRITABLE_ROOT } else { &[] };
            assert_eq!(broken(setup, &spec), given, "as {:?}", spec.user);
        }
    }

    fn the_hosts_network_gives_the_hosts_network(setup) {
        for writable in [false, true] {
            let spec = Spec { network: Network::Host, writable, ..setup.spec(&[]) };
            let root = OF_A_WRITABLE_ROOT.into_iter().filter(|_| writable);
            let scoped = iter::once("host-abstract-socket").filter(|_| !knows_scopes());
            let given: Vec<_> = root.chain(OF_THE_HOSTS_NETWORK).chain(scoped).collect();
            assert_eq!(broken(setup, &spec), given);
        }
    }

    fn a_memory_limit_takes_nothing_away_from_it(setup) {
        // Where none can be kept, none is asked for either.
        let limits = Limits { memory_bytes: Some(256 << 20), best_effort: true, ..Limits::default() };
        assert_eq!(broken_under(setup, &setup.spec(&[]), limits), [""; 0]);
    }

    fn two_processes_never_meet(setup) {
        for writable in [false, true] {
            let spec = Spec {
                writable,
                ..setup.script("read what; exec attack $what")
            };
            let zygote = setup.open(&spec);
            let other_link = setup.open(&spec);
            let mut one = Running::start(&zygote);
            one.tell("leave");
            assert_eq!(one.line(), "left");
            // It finds what it has left itself, or looking would prove nothing.
            for sign in SIGNS {
                let found = one.line();
                let is_there = *sign != "its-root" || writable;
                assert_eq!(found, format!("{sign} {}", if is_there { "BROKEN" } else { "held" }));
            }
            for zygote in [&zygote, &other_link] {
                let output = Running::start(zygote).finish(b"look\n").success();
                assert!(output.lines().count() >= 12, "{output}");
                assert!(!output.contains("BROKEN"), "{output}");
            }
            // Nor does a later one meet what is left of it.
            one.process.kill();
            while one.event() != Event::Gone {}
            let output = Running::start(&zygote).finish(b"look\n").success();
            assert!(!output.contains("BROKEN"), "{output}");
        }
    }

    fn a_fork_bomb_stops_and_hurts_nobody(setup) {
        let zygote = setup.open(&setup.script("read what; exec $what"));
        let mut bomb = Running::start(&zygote);
        bomb.tell("attack bomb");
        let made: u32 = bomb.line().parse().unwrap();
        if counts_processes() {
            assert!(made < sandbox::PROCESSES_DEFAULT, "{made}");
            // All others of the link have as many as ever.
            let output = Running::start(&zygote).finish(b"probe allowed\n").success();
            assert!(output.contains("fork ok"), "{output}");
        } else {
            // Without cgroups the link as a whole is bounded, and goes on.
            assert!(made < 4096, "{made}");
        }
        assert_eq!(Running::start(&zygote).finish(b"cat /etc/hosts\n").success(), "");
        assert_eq!(bomb.event(), Event::Started);
        bomb.process.kill_and_wait();
        let output = Running::start(&zygote).finish(b"probe allowed\n").success();
        assert!(output.contains("fork ok"), "{output}");
    }

    fn descriptors_in_flight_stop_nobody(setup) {
        // Whatever else runs on this host is to be neither hurt nor counted: other
        // ids than those of other tests, or fewer descriptors than they may send.
        let ids = match Ids::detect() {
            Ids::Shifted { base } => Ids::Shifted { base: base + (1 << 16) },
            Ids::Own => {
                let few = Rlimit { current: Some(1000), maximum: Some(1000) };
                setrlimit(Resource::Nofile, few).unwrap();
                Ids::Own
            }
        };
        let spec = Spec { ids, ..setup.script("read what; exec $what") };
        let (zygote, other_link) = (setup.open(&spec), setup.open(&spec));
        let mut flood = Running::start(&zygote);
        flood.tell("attack flood");
        let held = flood.line();
        assert!(held.starts_with("ETOOMANYREFS "), "{held}");
        for zygote in [&zygote, &other_link] {
            assert_eq!(Running::start(zygote).finish(b"true\n").success(), "");
        }
        assert_eq!(flood.event(), Event::Started);
        assert_eq!(flood.process.next_event().unwrap(), None, "it holds them still");
    }

    fn what_is_charged_to_the_runners_user_is_bounded(setup) {
        let spec = setup.script("read what; exec $what");
        // Another link has as many, while the first one has them.
        let mut held = Vec::new();
        for _ in 0..2 {
            let zygote = setup.open(&spec);
            let mut one = Running::start(&zygote);
            one.tell("attack charge");
            assert_eq!(one.line(), "instances 8 EMFILE");
            assert_eq!(one.line(), "watches 8192 ENOSPC");
            let signals = one.line();
            let number = signals.strip_prefix("signals ").and_then(|rest| rest.strip_suffix(" EAGAIN"));
            assert!(number.is_some_and(|number| number.parse::<u32>().unwrap() <= 1024), "{signals}");
            // The runner, and so the host, still has some.
            inotify::init(inotify::CreateFlags::CLOEXEC).unwrap();
            held.push((one, zygote));
        }
    }

    fn calls_that_docker_denies_do_not_exist(setup) {
        let output = setup.run(&setup.spec(&["attack", "calls"]), b"").success();
        let exist: Vec<i64> = output.lines().map(|line| line.parse().unwrap()).collect();
        // read, write, …: or nothing was tried at all.
        assert!(exist.len() > 150, "{output}");
        for (name, number) in DENIED {
            assert!(!exist.contains(number), "{name}");
        }
    }
}

/// What Docker's default profile denies to a container without capabilities, by
/// name and number; and, from `io_uring_setup` on, what it allows.
#[rustfmt::skip]
const DENIED: &[(&str, i64)] = &[
    ("acct", libc::SYS_acct), ("add_key", libc::SYS_add_key), ("bpf", libc::SYS_bpf),
    ("chroot", libc::SYS_chroot), ("clock_settime", libc::SYS_clock_settime), ("clone3", libc::SYS_clone3),
    ("delete_module", libc::SYS_delete_module), ("fanotify_init", libc::SYS_fanotify_init),
    ("finit_module", libc::SYS_finit_module), ("fsconfig", libc::SYS_fsconfig), ("fsmount", libc::SYS_fsmount),
    ("fsopen", libc::SYS_fsopen), ("fspick", libc::SYS_fspick), ("get_mempolicy", libc::SYS_get_mempolicy),
    ("init_module", libc::SYS_init_module), ("kcmp", libc::SYS_kcmp), ("kexec_file_load", libc::SYS_kexec_file_load),
    ("kexec_load", libc::SYS_kexec_load), ("keyctl", libc::SYS_keyctl), ("lookup_dcookie", libc::SYS_lookup_dcookie),
    ("mbind", libc::SYS_mbind), ("migrate_pages", libc::SYS_migrate_pages), ("mount", libc::SYS_mount),
    ("mount_setattr", libc::SYS_mount_setattr), ("move_mount", libc::SYS_move_mount), ("move_pages", libc::SYS_move_pages),
    ("nfsservctl", libc::SYS_nfsservctl), ("open_by_handle_at", libc::SYS_open_by_handle_at),
    ("open_tree", libc::SYS_open_tree), ("perf_event_open", libc::SYS_perf_event_open),
    ("pidfd_getfd", libc::SYS_pidfd_getfd), ("pivot_root", libc::SYS_pivot_root),
    ("process_madvise", libc::SYS_process_madvise), ("quotactl", libc::SYS_quotactl),
    ("quotactl_fd", libc::SYS_quotactl_fd), ("reboot", libc::SYS_reboot), ("request_key", libc::SYS_request_key),
    ("set_mempolicy", libc::SYS_set_mempolicy), ("set_mempolicy_home_node", 450),
    ("setdomainname", libc::SYS_setdomainname), ("sethostname", libc::SYS_sethostname), ("setns", libc::SYS_setns),
    ("settimeofday", libc::SYS_settimeofday), ("swapoff", libc::SYS_swapoff), ("swapon", libc::SYS_swapon),
    ("syslog", libc::SYS_syslog), ("umount2", libc::SYS_umount2), ("unshare", libc::SYS_unshare),
    ("userfaultfd", libc::SYS_userfaultfd), ("vhangup", libc::SYS_vhangup),
    #[cfg(target_arch = "x86_64")] ("_sysctl", libc::SYS__sysctl),
    #[cfg(target_arch = "x86_64")] ("create_module", 174),
    #[cfg(target_arch = "x86_64")] ("get_kernel_syms", 177),
    #[cfg(target_arch = "x86_64")] ("ioperm", libc::SYS_ioperm),
    #[cfg(target_arch = "x86_64")] ("iopl", libc::SYS_iopl),
    #[cfg(target_arch = "x86_64")] ("query_module", 178),
    #[cfg(target_arch = "x86_64")] ("sysfs", libc::SYS_sysfs),
    #[cfg(target_arch = "x86_64")] ("uselib", libc::SYS_uselib),
    #[cfg(target_arch = "x86_64")] ("ustat", libc::SYS_ustat),
    // Newer than any list: not before somebody has looked at them.
    ("lsm_get_self_attr", 459), ("listmount", 458), ("statmount", 457), ("open_tree_attr", 467),
    // Docker allows these.
    ("mq_open", libc::SYS_mq_open), ("mq_unlink", libc::SYS_mq_unlink),
    ("io_uring_setup", libc::SYS_io_uring_setup), ("io_uring_enter", libc::SYS_io_uring_enter),
    ("io_uring_register", libc::SYS_io_uring_register), ("fanotify_mark", libc::SYS_fanotify_mark),
    ("process_vm_readv", libc::SYS_process_vm_readv), ("process_vm_writev", libc::SYS_process_vm_writev),
    ("ptrace", libc::SYS_ptrace), ("io_pgetevents", if cfg!(target_arch = "x86_64") { 333 } else { 292 }),
];
