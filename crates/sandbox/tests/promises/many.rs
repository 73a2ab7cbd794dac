//! A zygote starts any number of processes, one after the other or at the same
//! time, and nothing of them stays.

use std::fs;

use sandbox::{Event, Spec};

use crate::support::{Running, Setup, exited, is_root, promises};
use test_support::processes::{address_space, descendants};
use test_support::until;

fn own_descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

promises! {
    fn two_hundred_leave_nothing_behind(setup) {
        leave_nothing_behind(setup, &setup.spec(&["cat"]), 1);
    }

    fn two_hundred_with_traces_leave_nothing_behind(setup) {
        leave_nothing_behind(setup, &setup.script("echo > /tmp/trace; cat"), 0);
    }

    fn fifty_run_at_the_same_time(setup) {
        let zygote = setup.open(&setup.script("echo $$; cat"));
        let mut running: Vec<_> = (0..50).map(|_| Running::start(&zygote)).collect();
        for process in &mut running {
            assert_eq!(process.line(), "2");
            assert_eq!(process.event(), Event::Started);
        }
        for (at, process) in running.into_iter().enumerate() {
            let output = process.finish(at.to_string().as_bytes());
            assert_eq!(output.stdout, at.to_string());
            assert_eq!(output.last, exited(0));
        }
        // A bound number of places waits for the next ones; in them, too.
        until("the others are gone", || descendants(std::process::id()).len() <= 1 + 16);
        for _ in 0..100 {
            let output = Running::start(&zygote).finish(b"x");
            assert!(output.stdout.ends_with("\nx"), "{output:?}");
        }
    }

    // A place in the zygote's memory is used again while others are being killed.
    fn starting_and_killing_do_not_disturb_each_other(setup) {
        let zygote = setup.open(&setup.spec(&["cat"]));
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let zygote = &zygote;
                scope.spawn(move || {
                    for round in 0..50 {
                        drop(Running::start(zygote));
                        let mut killed = Running::start(zygote);
                        if round % 3 == 0 {
                            assert_eq!(killed.event(), Event::Started);
                        }
                        killed.process.kill();
                        let word = format!("{thread} {round}");
                        let output = Running::start(zygote).finish(word.as_bytes());
                        assert_eq!(output.success(), word);
                    }
                });
            }
        });
    }
}

/// Runs two hundred processes that print their input. Afterwards `waiting` places are
/// kept.
fn leave_nothing_behind(setup: &Setup, spec: &Spec, waiting: usize) {
    let zygote = setup.open(spec);
    let id = descendants(std::process::id())[0].id;
    assert_eq!(Running::start(&zygote).finish(b"x").success(), "x");
    let (descriptors, size) = (own_descriptors(), address_space(id));
    // Its table belongs to root alone, as do all files of what is not dumpable.
    let zygotes_descriptors = || match fs::read_dir(format!("/proc/{id}/fd")) {
        Ok(open) => Some(open.count()),
        Err(error) => {
            assert!(!is_root(), "{error}");
            None
        }
    };
    let its_descriptors = zygotes_descriptors();
    for _ in 0..200 {
        assert_eq!(Running::start(&zygote).finish(b"x").success(), "x");
    }
    let left = 1 + waiting;
    until("the processes are gone", || {
        descendants(std::process::id()).len() == left
    });
    // A cgroup is kept for the next process, a network for its place; another
    // one is made where the last one is in use for a moment longer.
    assert!(own_descriptors() <= descriptors + 10);
    if let Some(count) = its_descriptors {
        assert!(zygotes_descriptors().unwrap() <= count + 10);
    }
    // A place is 192 KiB. The last one may be in use for a moment longer.
    let grown = address_space(id).saturating_sub(size);
    assert!(grown <= 10 * 192 * 1024, "{grown} bytes");
}
