//! What a process has used, and what it has lacked, is told of it and of no other.

use std::time::Duration;

use sandbox::{Event, Limits, Spec, WaitStatus, Zygote};

use crate::support::{Running, Setup, exited, promises};

/// Does what it is told, and by then has no other children.
const ON_REQUEST: &str = "read what; eval \"$what\"";

const MIB: u64 = 1 << 20;

/// Waits until nobody runs the probe any more: until init has reaped the last one.
const UNTIL_REAPED: &str = "while grep -q probe /proc/[0-9]*/comm 2>/dev/null; do :; done";

fn ended(zygote: &Zygote, what: &str) -> Running {
    let mut running = Running::start(zygote);
    running.tell(what);
    running.last_event();
    running.wait_until_looked_through();
    running
}

fn cpu_time(zygote: &Zygote, what: &str) -> Duration {
    ended(zygote, what).process.cpu_time().unwrap()
}

/// One whose private folders hold little.
fn small(setup: &Setup) -> Spec {
    Spec {
        scratch_bytes: MIB,
        ..setup.script(ON_REQUEST)
    }
}

promises! {
    fn the_processor_time_of_all_that_was_waited_for_is_told(setup) {
        let zygote = setup.open(&setup.script(ON_REQUEST));
        let (little, some) = (Duration::from_millis(90), Duration::from_millis(100));
        let orphan = format!("(probe burn 100 & ) | cat; {UNTIL_REAPED}");
        for what in [
            "exec probe burn 100",
            "probe burn 100; true",
            "probe burn 50 & probe burn 50; wait",
            "sh -c 'sh -c \"probe burn 100; true\"; true'; exit 3",
            &orphan,
        ] {
            let time = cpu_time(&zygote, what);
            assert!(time >= some, "{what}: {time:?}");
            assert!(time < 20 * some, "{what}: {time:?}");
            // The next one has the same place.
            let time = cpu_time(&zygote, "true");
            assert!(time < little, "after {what}: {time:?}");
        }
    }

    fn what_was_used_until_a_kill_can_be_looked_up(setup) {
        let zygote = setup.open(&setup.script(ON_REQUEST));
        for what in [
            "probe burn 100; echo burnt; sleep 1000",
            "(probe burn 100; sleep 1000) & until grep -q sleep /proc/[0-9]*/comm 2>/dev/null; do :; done; echo burnt; sleep 1000",
        ] {
            let mut running = Running::start(&zygote);
            running.tell(what);
            assert_eq!(running.event(), Event::Started);
            assert_eq!(running.line(), "burnt");
            assert_eq!(running.process.cpu_time(), None);
            running.process.look_up_cpu_time();
            let time = running.process.cpu_time().unwrap();
            assert!(time >= Duration::from_millis(90), "{what}: {time:?}");
            running.process.kill();
            assert_eq!(running.last_event(), Event::Gone);
        }
        let time = cpu_time(&zygote, "true");
        assert!(time < Duration::from_millis(90), "{time:?}");
    }

    fn what_was_used_before_in_the_same_place_is_not_looked_up(setup) {
        let zygote = setup.open(&setup.script(ON_REQUEST));
        assert!(cpu_time(&zygote, "probe burn 300") >= Duration::from_millis(290));
        let mut running = Running::start(&zygote);
        running.tell("echo ready; sleep 1000");
        assert_eq!(running.event(), Event::Started);
        assert_eq!(running.line(), "ready");
        running.process.look_up_cpu_time();
        let time = running.process.cpu_time().unwrap();
        assert!(time < Duration::from_millis(90), "{time:?}");
    }

    fn the_most_memory_is_told_if_it_has_a_limit(setup) {
        let limits = Limits { memory_bytes: Some(32 * MIB), ..Limits::default() };
        let unlimited = setup.open(&setup.script(ON_REQUEST));
        assert_eq!(ended(&unlimited, "probe hog 12").process.memory_peak(), None);
        let Ok(zygote) = setup.launcher.open(&setup.script(ON_REQUEST), limits) else {
            return;
        };
        let peak = |what: &str| ended(&zygote, what).process.memory_peak();
        let Some(large) = peak("probe hog 12; true") else {
            // Version 2 before Linux 5.19.
            return;
        };
        assert!((12 * MIB..=32 * MIB).contains(&large), "{large}");
        // Also in the same place again.
        let little = peak("true").unwrap();
        assert!(little < 12 * MIB, "{little}");
        // What the kernel kills has reached its limit, or nearly.
        let killed = peak("probe hog 100; true").unwrap();
        assert!((30 * MIB..=32 * MIB).contains(&killed), "{killed}");
    }

    fn a_cgroup_counts_what_nobody_waits_for(setup) {
        let limits = Limits { counts_cpu_time: true, ..Limits::default() };
        let zygote = match setup.launcher.open(&setup.script(ON_REQUEST), limits) {
            Ok(zygote) => zygote,
            Err(error) => {
                let error = error.to_string();
                assert!(error.contains("limit processor time in all"), "{error}");
                return;
            }
        };
        let some = Duration::from_millis(100);
        for what in [
            "exec probe burn 100".to_owned(),
            "probe burn 100; true".to_owned(),
            format!("(probe burn 100 & ) | cat; {UNTIL_REAPED}"),
            // It ignores the ends of its children.
            "exec probe burn-unseen 100".to_owned(),
        ] {
            let time = cpu_time(&zygote, &what);
            assert!(time >= some && time < 20 * some, "{what}: {time:?}");
            // The next one has the same place, and the same cgroup.
            let time = cpu_time(&zygote, "true");
            assert!(time < some, "after {what}: {time:?}");
        }
        // While it runs, and of one that is killed.
        let mut running = Running::start(&zygote);
        running.tell("probe burn 100; echo burnt; sleep 1000");
        assert_eq!(running.event(), Event::Started);
        assert_eq!(running.line(), "burnt");
        assert!(running.process.cpu_time_by_now().unwrap() >= some);
        running.process.look_up_cpu_time();
        assert!(running.process.cpu_time().unwrap() >= some);
        running.process.kill_and_wait();
        drop(running);
        let time = cpu_time(&zygote, "true");
        assert!(time < some, "{time:?}");
    }

    fn open_files_are_as_many_as_the_link_asks_for(setup) {
        for files in [16, 64, 2000] {
            let limits = Limits { open_files: Some(files), ..Limits::default() };
            let zygote = match setup.launcher.open(&setup.script(ON_REQUEST), limits) {
                Ok(zygote) => zygote,
                Err(error) => {
                    let error = error.to_string();
                    assert!(error.contains("open files here at most, half of the runner's"), "{error}");
                    assert!(files > 1000, "{error}");
                    continue;
                }
            };
            let prints = |what: &str| Running::start(&zygote).finish(format!("{what}\n").as_bytes()).stdout;
            assert_eq!(prints("ulimit -n; ulimit -Hn"), format!("{files}\n{files}\n"));
            assert_eq!(prints(&format!("ulimit -n {}; ulimit -n", files + 1)), format!("{files}\n"));
            let open = "i=3; while eval \"exec $i</dev/null\"; do echo $i; i=$((i+1)); done 2>/dev/null | tail -n 1";
            if files == 16 {
                // The shell keeps one for itself.
                let last: u32 = prints(open).trim().parse().unwrap();
                assert!((9..16).contains(&last), "{last}");
            }
        }
        let limits = Limits { open_files: Some(1 << 20), ..Limits::default() };
        let error = setup.launcher.open(&setup.script("true"), limits).unwrap_err().to_string();
        assert!(error.contains("set the resource limits \"1048576 open files\""), "{error}");
    }

    fn full_private_folders_are_told_of_a_failure(setup) {
        let zygote = setup.open(&small(setup));
        let fill = "dd if=/dev/zero of=/tmp/x bs=4k 2>/dev/null";
        for (what, is_full) in [
            (format!("{fill}; exit 1"), true),
            // What is there no more is no matter, and what has succeeded did not need it.
            (format!("{fill}; rm /tmp/x; exit 1"), false),
            (format!("{fill}; exit 0"), false),
            ("exit 1".to_owned(), false),
            (format!("{fill}; kill -9 $$"), true),
            (fill.replace("/tmp", "/dev/shm") + "; exit 2", true),
            ("i=0; while : >/tmp/$i; do i=$((i+1)); done".to_owned() + " 2>/dev/null; exit 3", true),
        ] {
            let ended = ended(&zygote, &what);
            assert_eq!(ended.process.has_filled_its_folders(), is_full, "{what}");
        }
    }

    fn a_refused_process_is_told_once(setup) {
        let limits = Limits { processes: Some(5), ..Limits::default() };
        let Ok(zygote) = setup.launcher.open(&setup.script(ON_REQUEST), limits) else {
            return;
        };
        for _ in 0..3 {
            let was_refused = |what: &str| ended(&zygote, what).process.was_refused_a_process();
            assert!(!was_refused("exit 1"));
            assert!(was_refused("for i in 1 2 3 4 5 6; do sleep 1000 & done; exit 1"));
            assert!(!was_refused("sleep 0 & sleep 0 & wait; exit 1"));
        }
    }

    fn what_the_filter_kills_has_its_signal(setup) {
        if cfg!(target_arch = "x86_64") {
            let zygote = setup.open(&setup.script(ON_REQUEST));
            let mut running = Running::start(&zygote);
            running.tell("exec probe int80");
            assert_eq!(running.last_event(), Event::Exited(WaitStatus::Signalled(libc::SIGSYS)));
            assert_eq!(Running::start(&zygote).finish(b"true\n").last, exited(0));
        }
    }
}
