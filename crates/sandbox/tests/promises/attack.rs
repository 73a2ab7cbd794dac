//! The attack suite: a program that tries all that is denied, in every
//! configuration. What it gets at is listed here, and is what that configuration
//! is meant to give.

use std::net::{TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{SocketAddr, UnixListener};
use std::process::Command;
use std::{fs, iter};

use rustix::fs::inotify;
use rustix::process::{Resource, Rlimit, setrlimit};
use sandbox::{Event, Ids, Input, Limits, Network, Output, Spec, SpecData, SpecFile, Writable};

use crate::handover;
use crate::support::{Running, Setup, counts_processes, is_root, promises};
use test_support::processes::descendants;
use test_support::{skip, until};

/// The attempts that worked; all others must have been made, and have failed.
fn broken(setup: &Setup, spec: &Spec) -> Vec<String> {
    broken_under(setup, spec, Limits::default())
}

fn broken_under(setup: &Setup, spec: &Spec, limits: Limits) -> Vec<String> {
    fs::write(setup.folder.path().join("marker"), "secret").unwrap();
    let (tcp, udp) = tcp_and_udp();
    let name = format!("attacked-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let abstract_socket = UnixListener::bind_addr(&address).unwrap();
    let folder = setup.folder.path().to_str().unwrap().to_owned();
    let port = tcp.local_addr().unwrap().port().to_string();
    let null = fs::metadata("/dev/null").unwrap();
    let null = format!("{}:{}", null.dev(), null.ino());
    let clocks = fs::read_link("/proc/self/ns/time").unwrap_or_default();
    let clocks = clocks.to_str().unwrap();
    // A lock of an open file, which /proc/locks shows to all.
    let locked = fs::File::create(setup.folder.path().join("locked")).unwrap();
    locked.lock().unwrap();
    let mut spec = spec.clone();
    spec.command = ["attack", "all", &folder, &port, &name, &null, clocks]
        .map(str::to_owned)
        .into();
    let zygote = setup.open_limited(&spec, limits);
    let running = match spec.input {
        Input::Pipe => Running::start(&zygote),
        _ => handover::start(&zygote, b"input"),
    };
    let output = running.finish(b"").success();
    drop((tcp, udp, abstract_socket));
    assert!(output.lines().count() >= 80, "{output}");
    let (held, broken): (Vec<_>, Vec<_>) = output.lines().partition(|line| line.ends_with(" held"));
    assert!(held.len() + broken.len() == output.lines().count());
    // Whose ids are not shifted has the devices and clocks of the host.
    let hosts = |name: &String| spec.ids == Ids::Own && OF_THE_HOST.contains(&name.as_str());
    broken
        .into_iter()
        .map(|line| line.strip_suffix(" BROKEN").unwrap_or(line).to_owned())
        .filter(|name| !hosts(name))
        .collect()
}

/// Sockets of the host's with the same port.
fn tcp_and_udp() -> (TcpListener, UdpSocket) {
    loop {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()) {
            return (tcp, udp);
        }
    }
}

/// What only root can give a link of its own.
const OF_THE_HOST: [&str; 2] = ["null-of-the-host", "clocks-of-the-host"];

/// What the kernel itself can keep from a process on the host's network.
fn knows_scopes() -> bool {
    let version = sandbox::facilities().landlock;
    version >= 6
}

/// A host without cgroups, for root, who has them wherever there are any.
#[test]
fn without_cgroups_root_is_as_safe() {
    if !is_root() {
        return skip("this test needs root");
    }
    for test in [
        "nothing_gives_way",
        "a_writable_root_gives_a_root_to_write_to",
        "the_hosts_network_gives_the_hosts_network",
        "a_fork_bomb_stops_and_hurts_nobody",
    ] {
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
    "its-network-has-counted",
    "its-port-is-taken",
    "its-port-answers",
    "connect-to-its-abstract-socket",
    "its-abstract-name-is-listed",
    "its-abstract-name-is-taken",
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
/// Behind what else it gives.
const NETLINK: &str = "netlink";
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
            for network in [Network::Loopback, Network::Sealed] {
                let spec = Spec { network, ..spec.clone() };
                assert_eq!(broken(setup, &spec), [""; 0], "as {:?}, {network:?}", spec.user);
            }
        }
    }

    fn files_in_the_place_of_pipes_give_a_file(setup) {
        for spec in of_users(setup) {
            for input in [Input::Seekable, Input::File("/tmp/in".into())] {
                let output = Output::File("/tmp/out".into());
                let spec = Spec { input, output, ..spec.clone() };
                let given = ["anything-but-pipes-open"];
                assert_eq!(broken(setup, &spec), given, "as {:?}", spec.user);
            }
        }
    }

    fn a_writable_root_gives_a_root_to_write_to(setup) {
        for spec in of_users(setup) {
            let spec = Spec { writable: Writable::Private, ..spec };
            // Another user may not write to what is root's, here or anywhere;
            // without root, the files are whoever's the link runs as.
            let owns = spec.user.is_empty() || Ids::detect() == Ids::Own;
            let given: &[&str] = if owns { &OF_A_WRITABLE_ROOT } else { &[] };
            assert_eq!(broken(setup, &spec), given, "as {:?}", spec.user);
        }
    }

    // The data is a folder beside the marker, which stays out of reach.
    fn files_data_and_secrets_give_nothing_but_themselves(setup) {
        let data = setup.folder.path().join("data");
        fs::create_dir(&data).unwrap();
        fs::write(data.join("model"), "of the host").unwrap();
        for path in [&data, &data.join("model")] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let file = |path: &str, mode, of_user| SpecFile {
            path: path.into(),
            mode,
            content: b"key".to_vec().into(),
            of_user,
        };
        let placed = |path: &str, source: &std::path::Path| SpecData { path: path.into(), source: source.into() };
        for spec in of_users(setup) {
            for writable in [Writable::No, Writable::Private] {
                let spec = Spec {
                    files: vec![file("/etc/app.conf", 0o644, false), file("/run/secrets/key", 0o400, true), file("/tmp/x", 0o755, false)],
                    data: vec![placed("/models", &data), placed("/tmp/deep/model", &data.join("model"))],
                    writable,
                    ..spec.clone()
                };
                let owns = spec.user.is_empty() || Ids::detect() == Ids::Own;
                let given: &[&str] = match writable {
                    Writable::Private if owns => &OF_A_WRITABLE_ROOT,
                    _ => &[],
                };
                assert_eq!(broken(setup, &spec), given, "as {:?}, {writable:?}", spec.user);
            }
        }
        assert_eq!(fs::read_to_string(data.join("model")).unwrap(), "of the host");
    }

    fn the_hosts_network_gives_the_hosts_network(setup) {
        for writable in [Writable::No, Writable::Private] {
            let spec = Spec { network: Network::Host, writable, ..setup.spec(&[]) };
            let root = OF_A_WRITABLE_ROOT.into_iter().filter(|_| writable == Writable::Private);
            let scoped = iter::once("host-abstract-socket").filter(|_| !knows_scopes());
            let given: Vec<_> = root.chain(OF_THE_HOSTS_NETWORK).chain(scoped).chain([NETLINK]).collect();
            assert_eq!(broken(setup, &spec), given);
        }
    }

    fn limits_take_nothing_away_from_it(setup) {
        // Where none can be kept, none is asked for either.
        let limits = Limits {
            memory_bytes: Some(256 << 20),
            cpu_millicores: Some(2000),
            processes: Some(64),
            counts_cpu_time: true,
            open_files: None,
            best_effort: true,
        };
        for spec in of_users(setup) {
            assert_eq!(broken_under(setup, &spec, limits), [""; 0], "as {:?}", spec.user);
        }
        let writable = Spec { writable: Writable::Private, ..setup.spec(&[]) };
        assert_eq!(broken_under(setup, &writable, limits), OF_A_WRITABLE_ROOT);
    }

    fn two_processes_never_meet(setup) {
        for writable in [Writable::No, Writable::Private] {
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
                let is_there = *sign != "its-root" || writable == Writable::Private;
                assert_eq!(found, format!("{sign} {}", if is_there { "BROKEN" } else { "held" }));
            }
            for zygote in [&zygote, &other_link] {
                let output = Running::start(zygote).finish(b"look\n").success();
                assert!(output.lines().count() >= 13, "{output}");
                assert!(!output.contains("BROKEN"), "{output}");
            }
            // Nor does a later one meet what is left of it.
            one.process.kill();
            while one.event() != Event::Gone {}
            let output = Running::start(&zygote).finish(b"look\n").success();
            assert!(!output.contains("BROKEN"), "{output}");
        }
    }

    // runc's CVE-2021-30465. Places are made for others while one swaps all that it can.
    fn mount_points_that_are_swapped_move_nobodys_mounts(setup) {
        let look = "cut -d' ' -f3-6 /proc/self/mountinfo | cut -d' ' -f2- | sort; ls -A / /tmp /run /var /var/tmp /dev";
        for writable in [Writable::No, Writable::Private] {
            let spec = Spec { writable, ..setup.script("read what; eval \"$what\"") };
            let zygote = setup.open(&spec);
            let looks = || Running::start(&zygote).finish(format!("{look}\n").as_bytes()).success();
            let before = looks();
            let mut swapping = Running::start(&zygote);
            swapping.tell("attack swap");
            let mut swapped = Vec::new();
            while swapped.last().is_none_or(|line| line != "swapping") {
                swapped.push(swapping.line());
            }
            // What it has for itself it can swap; not what a mount lies on.
            let own = ["/tmp/root", "/tmp/upper", "/tmp/work"];
            assert!(own.iter().all(|own| swapped.iter().any(|line| line == own)), "{swapped:?}");
            assert!(writable == Writable::Private || swapped.len() == own.len() + 1, "{swapped:?}");
            for _ in 0..20 {
                assert_eq!(looks(), before);
            }
            assert_eq!(swapping.event(), Event::Started);
            assert_eq!(swapping.process.next_event().unwrap(), None, "it swaps still");
            assert_eq!(swapping.finish(b"").success(), "");
        }
    }

    fn a_fork_bomb_stops_and_hurts_nobody(setup) {
        let zygote = setup.open(&setup.script("read what; exec $what"));
        let mut bomb = Running::start(&zygote);
        bomb.tell("attack bomb");
        let made: u32 = bomb.line().parse().unwrap();
        if counts_processes() {
            // All of them, but for itself.
            assert_eq!(made, sandbox::PROCESSES_DEFAULT - 1);
            // All others of the link have as many as ever.
            let output = Running::start(&zygote).finish(b"probe allowed\n").success();
            assert!(output.contains("fork ok"), "{output}");
        } else {
            // Without cgroups the link as a whole is bounded, and goes on. All of it
            // but for itself and the zygote's own, unless this host has less for us.
            let here = rustix::process::getrlimit(Resource::Nproc).maximum;
            assert!(made < 4096 && (made > 4000 || here.is_some_and(|here| here < 4096)), "{made}");
        }
        assert_eq!(Running::start(&zygote).finish(b"cat /etc/resolv.conf\n").success(), "");
        assert_eq!(bomb.event(), Event::Started);
        bomb.process.kill_and_wait();
        // Thousands may take longer than anybody waits for.
        until("the bomb to be gone", || descendants(std::process::id()).len() < 100);
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
            assert_eq!(one.line(), "another user has none");
            let number = signals.strip_prefix("signals ").and_then(|rest| rest.strip_suffix(" EAGAIN"));
            assert!(number.is_some_and(|number| number.parse::<u32>().unwrap() <= 1024), "{signals}");
            // The runner, and so the host, still has some.
            inotify::init(inotify::CreateFlags::CLOEXEC).unwrap();
            held.push((one, zygote));
        }
    }
}
