//! A command behaves as it would under `docker run --init`: orphans are reaped,
//! its exit status is what counts, and what it leaves behind dies with it.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use sandbox::{Event, WaitStatus};

use crate::support::{Running, exited, promises, readable};
use test_support::PATIENCE;

fn signalled(signal: i32) -> Event {
    Event::Exited(WaitStatus::Signalled(signal))
}

fn notices_closed_input(mut running: Running) -> bool {
    let stdin = running.stdin.take().unwrap();
    let mut wanted = [PollFd::new(&stdin, PollFlags::empty())];
    let patience = Timespec::try_from(PATIENCE).unwrap();
    poll(&mut wanted, Some(&patience)).unwrap() == 1 && wanted[0].revents().contains(PollFlags::ERR)
}

promises! {
    fn the_exit_status_is_the_commands(setup) {
        for code in [0, 1, 3, 127, 255] {
            let output = setup.run(&setup.script(&format!("exit {code}")), b"");
            assert_eq!(output.last, exited(code));
        }
    }

    fn events_come_in_order(setup) {
        let mut running = setup.start(&setup.spec(&["cat"]));
        assert_eq!(running.event(), Event::Started);
        assert_eq!(running.process.next_event().unwrap(), None);
        drop(running.stdin.take());
        assert_eq!(running.event(), exited(0));
        assert_eq!(running.event(), Event::Gone);
        assert_eq!(running.event(), Event::Gone);
    }

    fn a_signal_that_kills_the_command_is_told(setup) {
        for signal in [libc::SIGKILL, libc::SIGSEGV, libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
            let output = setup.run(&setup.script(&format!("kill -{signal} $$")), b"");
            assert_eq!(output.last, signalled(signal));
        }
    }

    fn orphans_are_reaped(setup) {
        let script = "(sleep 0 & sleep 0 & exec true); (setsid sleep 0 &); \
            i=0; while [ $(echo /proc/[0-9]* | wc -w) -gt 3 ] && [ $i -lt 2000 ]; do i=$((i+1)); done; \
            grep -l '^State:.*zombie' /proc/[0-9]*/status; true";
        assert_eq!(setup.prints(script), "");
    }

    fn children_die_with_the_command_and_hold_nothing_open(setup) {
        for behind in [
            "sleep 1000 &",
            "setsid sleep 1000 &",
            "(setsid sh -c '(setsid sleep 1000 &)' &)",
            "sh -c 'trap \"\" TERM HUP INT; while :; do sleep 1000; done' &",
        ] {
            // Its output ends, though the child has it too: finish() waits for it.
            let output = setup.run(&setup.script(&format!("{behind}\necho done")), b"");
            assert_eq!(output.success(), "done\n", "{behind}");
        }
    }

    fn a_closed_input_is_noticed_outside(setup) {
        let mut running = setup.start(&setup.script("exec <&-; echo closed; sleep 1000"));
        assert_eq!(running.line(), "closed");
        assert!(notices_closed_input(running));
    }

    // Init keeps open what it looks at between two commands: with as many private folders
    // as there may be, and with fewer.
    fn a_closed_input_is_noticed_in_a_place_that_is_used_again(setup) {
        for folders in [4, 3] {
            if folders == 3 {
                fs::remove_dir_all(setup.root.join("var/tmp")).unwrap();
                symlink("/tmp", setup.root.join("var/tmp")).unwrap();
                setup.give_to_sandbox();
            }
            let zygote = setup.open(&setup.script("attack place; read word; exec <&-; $word"));
            let first = Running::start(&zygote).finish(b"true\n").success();
            let mut second = Running::start(&zygote);
            assert_eq!(format!("{}\n", second.line()), first);
            second.tell("sleep 1000");
            assert!(notices_closed_input(second), "{folders} folders");
        }
    }

    fn a_signal_to_all_hurts_nobody_else(setup) {
        let spec = setup.script("read word; trap '' TERM; $word; echo alive");
        let zygote = setup.open(&spec);
        let other = Running::start(&zygote);
        for word in ["kill -TERM -1", "kill -KILL -1", "kill -KILL 0", "kill -KILL 1"] {
            let output = Running::start(&zygote).finish(format!("{word}\n").as_bytes());
            // To all but itself, or to itself as well; init is out of reach.
            assert!(output.stdout == "alive\n" || output.last == signalled(libc::SIGKILL), "{word} {output:?}");
        }
        assert_eq!(other.finish(b"true\n").success(), "alive\n");
    }

    fn a_stopped_process_can_be_killed(setup) {
        let mut running = setup.start(&setup.script("echo stopping; kill -STOP $$; echo on"));
        assert_eq!(running.line(), "stopping");
        running.process.kill();
        while running.event() != Event::Gone {}
        assert!(readable(&running.stdout, Instant::now() + PATIENCE));
        assert_eq!(running.finish(b"").stdout, "");
    }
}
