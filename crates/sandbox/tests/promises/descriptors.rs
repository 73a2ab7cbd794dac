//! Where no descriptor is left, nothing is lost that came with one: neither the hold
//! on a process, nor a limit.

use std::fs;
use std::process::Command;

use rustix::process::{Resource, Rlimit, getrlimit, prlimit, setrlimit};
use sandbox::{Event, Step};

use crate::support::{self, Running, Setup, counts_processes, readable, without_crate};
use test_support::processes::{HostProcess, descendants};
use test_support::skip;

/// Not a test: what is started by two, so that nobody else is short of descriptors.
#[test]
#[ignore = "is started by another test"]
fn who_is_short_of_descriptors() {
    let setup = Setup::new();
    let zygote = setup.open(&setup.script("sleep 1000 & echo ready; wait"));
    let deadline = std::time::Instant::now() + test_support::PATIENCE;
    for keeps_it in [false, true] {
        let mut running = Running::start(&zygote);
        assert_eq!(running.line(), "ready");
        assert!(readable(&running.process, deadline));
        let family = descendants(std::process::id());
        assert_eq!(
            family.len(),
            4,
            "the zygote, init, the shell, and its child"
        );
        let limit = getrlimit(Resource::Nofile);
        let no_more = fs::File::open("/dev/null").unwrap();
        let no_more = std::os::fd::AsRawFd::as_raw_fd(&no_more);
        let used_up = Rlimit {
            current: Some(u64::try_from(no_more).unwrap()),
            ..limit
        };
        setrlimit(Resource::Nofile, used_up).unwrap();
        for _ in 0..2 {
            let error = running.process.next_event().unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EMFILE));
        }
        if keeps_it {
            setrlimit(Resource::Nofile, limit).unwrap();
            assert_eq!(running.event(), Event::Started);
            drop(running);
        } else {
            running.process.kill_and_wait();
            assert!(family[1..].iter().all(HostProcess::is_gone));
            assert_eq!(running.last_event(), Event::Started);
            setrlimit(Resource::Nofile, limit).unwrap();
        }
        family[1..].iter().for_each(HostProcess::wait_until_gone);
        assert!(!family[0].is_gone());
    }
}

mod a_process_whose_descriptor_has_no_room_can_be_killed {
    use super::*;

    fn test() -> String {
        let name = "a_process_whose_descriptor_has_no_room_can_be_killed";
        module_path!().replace(name, "who_is_short_of_descriptors")
    }

    fn pass(mut command: Command) {
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{output:?}");
        assert!(said.contains("1 passed"), "{output:?}");
    }

    #[test]
    fn as_root() {
        support::as_root(|_| {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.args(["--exact", without_crate(&test()), "--include-ignored"]);
            pass(command);
        });
    }

    #[test]
    fn rootless() {
        support::rootless(concat!(module_path!(), "::rootless"), |_| {
            let mut command = Command::new("/proc/self/exe");
            command.args(["--exact", without_crate(&test()), "--include-ignored"]);
            pass(command);
        });
    }
}

/// The highest number that a process has a descriptor of.
fn highest(process: &HostProcess) -> u64 {
    let open = fs::read_dir(format!("/proc/{}/fd", process.id)).unwrap();
    let numbers = open.map(|entry| {
        let name = entry.unwrap().file_name();
        name.to_str().unwrap().parse().unwrap()
    });
    numbers.max().unwrap()
}

/// Lets a process have so many more descriptors, and gives the limit that it had.
fn leave(process: &HostProcess, more: u64) -> Rlimit {
    let limit = |current| {
        let limit = Rlimit {
            current: Some(current),
            maximum: getrlimit(Resource::Nofile).maximum,
        };
        prlimit(Some(process.pid()), Resource::Nofile, limit).unwrap()
    };
    limit(highest(process) + 1 + more)
}

mod a_process_is_not_started_without_what_came_with_its_order {
    use super::*;

    #[test]
    fn as_root() {
        support::as_root(|setup| {
            if !counts_processes() {
                return skip("no cgroups");
            }
            // With the control socket, three pipes and a cgroup. The last one is what
            // would not be missed.
            let zygote = setup.open(&setup.spec(&["cat"]));
            let of_zygote = descendants(std::process::id()).remove(0);
            let limit = leave(&of_zygote, 4);
            let short = Event::Failed(Step::StartInit, libc::EMFILE);
            assert_eq!(Running::start(&zygote).event(), short);
            let advice = zygote.explain(Step::StartInit, libc::EMFILE).to_string();
            assert!(advice.contains("ulimit -n"), "{advice}");
            prlimit(Some(of_zygote.pid()), Resource::Nofile, limit).unwrap();
            assert_eq!(Running::start(&zygote).finish(b"x").success(), "x");

            // The same place once more.
            let of_init = descendants(std::process::id()).remove(1);
            leave(&of_init, 3);
            let short = Event::Failed(Step::StartCommand, libc::EMFILE);
            assert_eq!(Running::start(&zygote).event(), short);
            of_init.wait_until_gone();
            assert_eq!(Running::start(&zygote).finish(b"x").success(), "x");
        });
    }
}
