//! Limits hold, for each process by itself, and what they need on the host is
//! gone afterwards.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use sandbox::{Event, Limits, OpenError, Step, WaitStatus, Zygote};

use crate::support::{
    self, Running, Setup, attack_outside, exited, is_root, kernel, promises, without_crate,
};
use test_support::processes::descendants;
use test_support::{skip, until};

const MIB: u64 = 1 << 20;

fn memory(bytes: u64) -> Limits {
    Limits {
        memory_bytes: Some(bytes),
        ..Limits::default()
    }
}

/// Whether limits can be kept here. If they cannot, they are refused with the reason.
fn kept(setup: &Setup, limits: Limits) -> bool {
    match setup.launcher.open(&setup.spec(&["true"]), limits) {
        Ok(_) => true,
        Err(OpenError::Cgroup(error)) => {
            let error = error.to_string();
            assert!(error.starts_with("limit "), "{error}");
            assert!(
                error.contains("run as root, or have the cgroup of this process delegated"),
                "{error}"
            );
            if is_root() || std::env::var_os("SANDBOX_TEST_LIMITS").is_some() {
                skip(&error);
            }
            false
        }
        Err(error) => panic!("failed to {error}"),
    }
}

/// The folders of a process's cgroups on the host, by file that a limit is in.
fn cgroup_file(process: u32, file: &str) -> Vec<PathBuf> {
    let cgroups = fs::read_to_string(format!("/proc/{process}/cgroup")).unwrap();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let points = mounts.lines().filter(|line| line.contains(" - cgroup"));
    let points: Vec<&str> = points.filter_map(|line| line.split(' ').nth(4)).collect();
    let paths = cgroups
        .lines()
        .filter_map(|line| line.splitn(3, ':').nth(2));
    paths
        .filter(|path| path.contains("/consecution/"))
        .flat_map(|path| {
            points
                .iter()
                .map(move |point| Path::new(point).join(&path[1..]).join(file))
        })
        .filter(|path| path.exists())
        .collect()
}

/// Sees the process through, and says how it ended and what is said of its memory,
/// as the runner does it.
fn end_with_memory(zygote: &Zygote, input: &str) -> (Event, Option<u64>) {
    let mut running = Running::start(zygote);
    running.tell(input);
    let last = running.last_event();
    (last, running.process.ran_out_of_memory())
}

promises! {
    fn running_out_of_memory_is_told_and_nothing_else_is(setup) {
        if !kept(setup, memory(32 * MIB)) {
            return;
        }
        let killed = Event::Exited(WaitStatus::Signalled(libc::SIGKILL));
        let script = setup.script("read what; eval \"exec $what\"");
        let limited = setup.open_limited(&script, memory(32 * MIB));
        assert_eq!(end_with_memory(&limited, "probe hog 100"), (killed, Some(32 * MIB)));
        assert_eq!(end_with_memory(&limited, "probe hog 8"), (exited(0), None));
        assert_eq!(end_with_memory(&limited, "sh -c 'kill -9 $$'"), (killed, None));
        // What it has started counts for it; whether it survives that or not.
        let (_, of_child) = end_with_memory(&limited, "sh -c 'probe hog 100; true'");
        assert_eq!(of_child, Some(32 * MIB));
        let unlimited = setup.open(&script);
        assert_eq!(end_with_memory(&unlimited, "probe hog 100"), (exited(0), None));
    }

    // Before the command is executed, its memory is the zygote's.
    fn too_little_memory_for_a_command_kills_no_other(setup) {
        if !kept(setup, memory(MIB)) {
            return;
        }
        let argument = "x".repeat(120 << 10);
        let mut command = vec!["/bin/sh", "-c", "read line; echo $line"];
        let large = setup.spec(&[&command[..], &[argument.as_str(); 15]].concat());
        for (bytes, is_enough) in [(MIB, false), (8 * MIB, true)] {
            let zygote = setup.open_limited(&large, memory(bytes));
            for _ in 0..3 {
                let mut running = Running::start(&zygote);
                let first = running.event();
                if is_enough {
                    assert_eq!(first, Event::Started);
                    assert_eq!(running.finish(b"x\n").success(), "x\n");
                } else {
                    assert_eq!(first, Event::Failed(Step::LimitMemory, libc::ENOMEM));
                }
            }
        }
        // The least that a chain file may ask for is enough for a program.
        command.pop();
        command.push("head -c 1000000 | wc -c");
        let zygote = setup.open_limited(&setup.spec(&command), memory(MIB));
        for _ in 0..3 {
            assert_eq!(Running::start(&zygote).finish(&[7; MIB as usize]).success(), "1000000\n");
        }
        let mut running = Running::start(&zygote);
        assert_eq!(running.event(), Event::Started);
        let command = descendants(std::process::id()).pop().unwrap();
        let one = cgroup_file(command.id, "memory.limit_in_bytes");
        let two = cgroup_file(command.id, "memory.max");
        let found = one.iter().chain(&two).next().unwrap();
        assert_eq!(fs::read_to_string(found).unwrap(), "1048576\n");
    }

    // Its pages in the page cache would keep a cgroup that has been removed.
    fn what_a_process_was_first_to_read_keeps_no_cgroup(setup) {
        if !kept(setup, memory(64 * MIB)) {
            return;
        }
        let file = setup.root.join("home/large");
        fs::write(&file, vec![7; 1 << 20]).unwrap();
        setup.give_to_sandbox();
        let opened = fs::File::open(&file).unwrap();
        opened.sync_all().unwrap();
        let is_cached = || attack_outside(&["cached", file.to_str().unwrap()]) == "yes\n";
        rustix::fs::fadvise(&opened, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        if is_cached() {
            // A file system in memory.
            return;
        }
        let zygote = setup.open_limited(&setup.spec(&["cat", "/home/large"]), memory(64 * MIB));
        assert_eq!(Running::start(&zygote).finish(b"").success().len(), 1 << 20);
        // Before Linux 5.19, version 2 has no way to ask for it.
        let reclaims = Path::new("/sys/fs/cgroup/memory").exists() || kernel() >= (5, 19);
        drop(zygote);
        until("the pages to be let go of", || !is_cached() || !reclaims);
    }

    fn memory_is_limited(setup) {
        if !kept(setup, memory(32 * MIB)) {
            return;
        }
        let zygote = setup.open_limited(&setup.script("read what; probe hog $what"), memory(32 * MIB));
        let beside = Running::start(&zygote);
        assert_eq!(Running::start(&zygote).finish(b"8\n").success(), "got it\n");
        let output = Running::start(&zygote).finish(b"100\n");
        assert_eq!(output.stdout, "", "{output:?}");
        assert_ne!(output.last, exited(0));
        assert_eq!(beside.finish(b"8\n").success(), "got it\n");
    }

    // Or it is killed for it, where all that sockets hold is counted as memory.
    fn what_waits_in_sockets_is_limited(setup) {
        if !kept(setup, memory(32 * MIB)) {
            return;
        }
        let zygote = setup.open_limited(&setup.spec(&["attack", "fill-sockets"]), memory(32 * MIB));
        let output = Running::start(&zygote).finish(b"");
        if output.last == exited(0) {
            let filled: u64 = output.stdout.trim().parse().unwrap();
            assert!(filled <= 40, "{filled} MiB");
        } else {
            assert_eq!(output.last, Event::Exited(WaitStatus::Signalled(libc::SIGKILL)));
        }
        let unlimited = setup.open(&setup.spec(&["attack", "fill-sockets"]));
        let filled: u64 = Running::start(&unlimited).finish(b"").success().trim().parse().unwrap();
        assert!(filled > 40, "{filled} MiB: this shows nothing");
    }

    fn private_folders_count_as_memory_and_hurt_nobody_else(setup) {
        if !kept(setup, memory(32 * MIB)) {
            return;
        }
        let script = "read megabytes; exec dd if=/dev/zero of=/tmp/file bs=1M count=$megabytes 2>/dev/null";
        let zygote = setup.open_limited(&setup.script(script), memory(32 * MIB));
        let beside = Running::start(&zygote);
        // The writer itself is small; whoever is larger must not be its init.
        for _ in 0..3 {
            let killed = Event::Exited(WaitStatus::Signalled(libc::SIGKILL));
            assert_eq!(Running::start(&zygote).finish(b"100\n").last, killed);
        }
        beside.finish(b"8\n").success();
    }

    fn processes_are_limited(setup) {
        let limits = Limits { processes: Some(5), ..Limits::default() };
        if !kept(setup, limits) {
            return;
        }
        let script = "i=1; while [ $i -lt 50 ]; do sleep 1000 & i=$((i+1)); echo $i; done";
        let zygote = setup.open_limited(&setup.script(script), limits);
        let output = Running::start(&zygote).finish(b"");
        assert_eq!(output.stdout, "2\n3\n4\n5\n");
        assert!(output.stderr.contains("can't fork"), "{output:?}");
        // As many for the next one.
        assert_eq!(Running::start(&zygote).finish(b"").stdout, "2\n3\n4\n5\n");
    }

    fn processor_time_is_limited(setup) {
        let limits = Limits { cpu_millicores: Some(250), ..Limits::default() };
        if !kept(setup, limits) {
            return;
        }
        let zygote = setup.open_limited(&setup.spec(&["cat"]), limits);
        let mut running = Running::start(&zygote);
        assert_eq!(running.event(), Event::Started);
        let command = descendants(std::process::id()).pop().unwrap();
        let quotas = cgroup_file(command.id, "cpu.cfs_quota_us");
        let both = cgroup_file(command.id, "cpu.max");
        let found = quotas.iter().chain(&both).next().unwrap();
        assert!(fs::read_to_string(found).unwrap().starts_with("25000"));
    }

    fn neither_cgroups_nor_their_names_are_left_or_seen(setup) {
        let limits = Limits { memory_bytes: Some(64 * MIB), cpu_millicores: Some(1000), processes: Some(50), ..Limits::default() };
        if !kept(setup, limits) {
            return;
        }
        let zygote = setup.open_limited(&setup.script("cut -d: -f3 /proc/self/cgroup | sort -u; cat"), limits);
        let mut first = Running::start(&zygote);
        assert_eq!(first.event(), Event::Started);
        // Behind the zygote and init; and before what the command has started.
        let command = descendants(std::process::id()).into_iter().nth(2).unwrap();
        let files = cgroup_file(command.id, "cgroup.procs");
        assert!(!files.is_empty());
        let own = files[0].parent().unwrap().parent().unwrap().to_owned();
        assert!(own.file_name().unwrap().to_str().unwrap().starts_with(&std::process::id().to_string()));
        let shown = Running::start(&zygote).finish(b"").success();
        assert!(!shown.contains("consecution"), "{shown}");
        drop(first);
        for _ in 0..20 {
            drop(Running::start(&zygote));
        }
        drop(zygote);
        let left: Vec<_> = fs::read_dir(&own).unwrap().flatten().filter(|entry| entry.path().is_dir()).collect();
        assert!(left.is_empty(), "{left:?}");
    }

    fn what_a_killed_runner_left_is_removed_by_the_next(setup) {
        if !kept(setup, memory(64 * MIB)) {
            return;
        }
        let zygote = setup.open_limited(&setup.spec(&["cat"]), memory(64 * MIB));
        let mut running = Running::start(&zygote);
        assert_eq!(running.event(), Event::Started);
        let command = descendants(std::process::id()).pop().unwrap();
        let procs = cgroup_file(command.id, "cgroup.procs").remove(0);
        let [ours, all] = [2, 3].map(|up| procs.ancestors().nth(up).unwrap());
        // Nothing is in it, so that it could be removed.
        let spare = ours.join("spare");
        fs::create_dir(&spare).unwrap();
        // No process can have this id.
        let stale = all.join("4194305-1");
        // A runner of another test may remove what is half made.
        until("what a runner left", || fs::create_dir_all(stale.join("7")).is_ok());
        // Version 2: where a runner had gone to that was in the way.
        let way = all.with_file_name("consecution-runner-4194305-1");
        if all.join("cgroup.controllers").exists() {
            fs::create_dir(&way).unwrap();
        }
        let next = Setup::new();
        drop(next.open_limited(&next.spec(&["true"]), memory(64 * MIB)));
        until("what was left to be gone", || !stale.exists() && !way.exists());
        assert!(spare.exists(), "of a runner that lives");
        fs::remove_dir(&spare).unwrap();
        assert_eq!(running.finish(b"x").success(), "x");
    }
}

mod what_limits_a_runner_limits_its_links {
    use super::*;

    /// Our own cgroups, by hierarchy; not where we go that were in the way.
    fn own() -> Vec<(String, String)> {
        let own = fs::read_to_string("/proc/self/cgroup").unwrap();
        own.lines().map(split).collect()
    }

    fn split(line: &str) -> (String, String) {
        let (hierarchy, path) = line.rsplit_once(':').unwrap();
        (hierarchy.to_owned(), path.to_owned())
    }

    /// Here in each hierarchy, and on Debian's kernel also alone in a cgroup of
    /// version 2.
    #[test]
    fn as_root() {
        support::as_root(|setup| {
            let own = own();
            let limits = Limits {
                memory_bytes: Some(64 * MIB),
                cpu_millicores: Some(1000),
                processes: Some(50),
                ..Limits::default()
            };
            if !kept(setup, limits) {
                return;
            }
            assert_eq!(setup.launcher.cgroup_outside_of_own(), None);
            let zygote = setup.open_limited(&setup.spec(&["cat"]), limits);
            let mut running = Running::start(&zygote);
            assert_eq!(running.event(), Event::Started);
            let command = descendants(std::process::id()).pop().unwrap();
            let cgroups = fs::read_to_string(format!("/proc/{}/cgroup", command.id)).unwrap();
            let its: Vec<_> = cgroups
                .lines()
                .map(split)
                .filter(|(_, path)| path.contains("/consecution/"))
                .collect();
            assert!(!its.is_empty(), "{cgroups}");
            for (hierarchy, path) in its {
                let (_, ours) = own.iter().find(|(own, _)| *own == hierarchy).unwrap();
                let expected = format!("{}/consecution/", ours.trim_end_matches('/'));
                assert!(path.starts_with(&expected), "{path} in {ours}");
            }
        });
    }
}

mod a_runner_leaves_those_of_another_pid_namespace_alone {
    use super::*;

    #[test]
    fn as_root() {
        support::as_root(|setup| {
            if !kept(setup, memory(64 * MIB)) {
                return;
            }
            let zygote = setup.open_limited(&setup.spec(&["cat"]), memory(64 * MIB));
            let mut running = Running::start(&zygote);
            assert_eq!(running.event(), Event::Started);
            let command = descendants(std::process::id()).pop().unwrap();
            let procs = cgroup_file(command.id, "cgroup.procs").remove(0);
            let spare = procs.ancestors().nth(2).unwrap().join("spare");
            fs::create_dir(&spare).unwrap();
            // There, none of our processes can be seen.
            let test = concat!(module_path!(), "::as_root").replace(
                "a_runner_leaves_those_of_another_pid_namespace_alone::as_root",
                "another_runner",
            );
            let another = Command::new("unshare")
                .args(["-p", "-f", "--mount-proc"])
                .arg(std::env::current_exe().unwrap())
                .args(["--exact", without_crate(&test), "--include-ignored"])
                .output()
                .unwrap();
            assert!(another.status.success(), "{another:?}");
            assert!(spare.exists());
            fs::remove_dir(&spare).unwrap();
        });
    }
}

/// Not a test: what is started by one.
#[test]
#[ignore = "is started by another test"]
fn another_runner() {
    let setup = Setup::new();
    setup.open_limited(&setup.spec(&["true"]), memory(64 * MIB));
}
