//! A place whose last process has left no trace is used again, and only then.

use std::fs;
use std::os::unix::fs::symlink;

use sandbox::{Event, Network, Spec, Writable};

use crate::support::{Output, Running, Setup, exited, promises, with_listener};

/// Says which place it is in.
const ON_REQUEST: &str = "attack place; read what; $what";

fn place(output: &Output) -> &str {
    output.stdout.lines().next().unwrap()
}

/// Traces that the kernel may remove by itself some time after their process is gone.
const COLLECTED: [&str; 2] = ["socket", "unnamed-file"];

/// Traces that init takes back, so that the place is used again.
const TAKEN_BACK: [&str; 2] = ["ids", "looked-for"];

/// Leaves one of `traces` after the other. After each, the next process must not see it.
fn nobody_sees(setup: &Setup, spec: &Spec, traces: &[&str]) {
    let zygote = setup.open(spec);
    for trace in traces {
        let run = |input: &str| Running::start(&zygote).finish(input.as_bytes());
        let output = run(&format!("attack trace {trace}\n"));
        let said = output.stdout.lines().nth(1);
        assert_eq!(said, Some("left"), "{trace}: {output:?}");
        let next = run("attack look\n");
        // Sockets may be collected before init looks, and then are no trace.
        if !COLLECTED.contains(trace) {
            let is_another = place(&next) != place(&output);
            assert_eq!(is_another, !TAKEN_BACK.contains(trace), "{trace}");
        }
        assert!(!next.stdout.contains("BROKEN"), "{trace}: {next:?}");
    }
}

/// In some containers somebody listens to a filter already, and the kernel lets nobody else.
#[test]
fn where_nobody_hears_of_sockets_no_network_is_used_again() {
    for test in [
        "network::a_loopback_answers_and_nothing_else",
        "places::sockets_of_a_killed_process_are_not_met_in_its_network",
    ] {
        for user in ["as_root", "rootless"] {
            with_listener(&format!("promises::{test}::{user}"));
        }
    }
}

promises! {
    fn a_place_without_a_trace_is_used_again(setup) {
        let zygote = setup.open(&setup.script(ON_REQUEST));
        for nothing in ["true", "false", "cat /proc/self/stat", "ls /tmp", "ls /dev/shm"] {
            let run = || Running::start(&zygote).finish(format!("{nothing}\n").as_bytes());
            assert_eq!(place(&run()), place(&run()), "{nothing}");
        }
    }

    // Also after as many requests as make the kernel begin its ids anew.
    fn the_first_process_has_the_same_number_each_time(setup) {
        let zygote = setup.open(&setup.script("attack place; echo $$; cat"));
        let run = || Running::start(&zygote).finish(b"").success();
        let first = run();
        assert!(first.ends_with("\n2\n"), "{first}");
        for _ in 0..150 {
            assert_eq!(run(), first);
        }
    }

    fn a_place_with_a_trace_is_not_used_again(setup) {
        let traces = [
            "file", "removed-file", "folder", "mode", "mode-and-back", "times",
            "memory", "semaphores", "messages", "process", "socket", "unnamed-file",
            "files", "ids", "objects", "looked-for", "internet", "no-route", "packets", "terminal",
        ];
        nobody_sees(setup, &setup.script(ON_REQUEST), &traces);
    }

    // What lies between one private folder and another is the outer one's.
    fn a_place_with_folders_in_folders_is_not_used_again(setup) {
        fs::remove_dir(setup.root.join("var/tmp")).unwrap();
        symlink("../run/between/inner", setup.root.join("var/tmp")).unwrap();
        fs::create_dir_all(setup.root.join("run/between/inner")).unwrap();
        setup.give_to_sandbox();
        let zygote = setup.open(&setup.script("ls /run/between; echo it > /run/between/trace; ls /run/between"));
        for _ in 0..2 {
            assert_eq!(Running::start(&zygote).finish(b"").success(), "inner\ninner\ntrace\n");
        }
    }

    fn a_place_on_the_hosts_network_is_not_used_again(setup) {
        let zygote = setup.open(&Spec { network: Network::Host, ..setup.script(ON_REQUEST) });
        let run = || Running::start(&zygote).finish(b"true\n");
        assert_ne!(place(&run()), place(&run()));
    }

    fn traces_of_a_user_that_is_not_root_are_found_too(setup) {
        let traces = [
            "file", "removed-file", "folder", "memory", "semaphores", "messages", "process", "socket", "unnamed-file",
            "files", "ids", "objects", "looked-for",
        ];
        let spec = Spec { user: "www".into(), ..setup.script(ON_REQUEST) };
        nobody_sees(setup, &spec, &traces);
    }

    // A link without a loopback has nothing to be asked about.
    fn one_of_a_sealed_link_is(setup) {
        let spec = Spec { network: Network::Sealed, ..setup.script(ON_REQUEST) };
        let zygote = setup.open(&spec);
        let run = || Running::start(&zygote).finish(b"attack trace internet\n");
        let first = run();
        assert_eq!(first.stdout.lines().nth(1), Some("Address family not supported by protocol"));
        assert_eq!(place(&run()), place(&first));
    }

    fn one_with_a_root_that_was_not_written_to_is(setup) {
        let zygote = setup.open(&Spec { writable: Writable::Private, ..setup.script(ON_REQUEST) });
        for nothing in ["true", "ls -lR /etc /home", "ls -la /", "cat /etc/passwd", "chmod 755 /nonesuch", "head -c 1 /bin/busybox"] {
            let run = || Running::start(&zygote).finish(format!("{nothing}\n").as_bytes());
            assert_eq!(place(&run()), place(&run()), "{nothing}");
        }
    }

    // Whatever is written, to the root itself or deep inside, and whether it is as before.
    fn one_with_a_root_that_was_written_to_is_not(setup) {
        setup.write("home/deep/er/file", "as it was", 0o644);
        let zygote = setup.open(&Spec { writable: Writable::Private, ..setup.script(ON_REQUEST) });
        for change in [
            "touch /new", "chmod 700 /", "touch -d @1 /", "chmod 700 /home", "chown 33 /home/deep",
            "eval echo x >> /home/deep/er/file", "eval : >> /home/deep/er/file", "rm /home/deep/er/file",
            "mv /home/deep/er/file /home/deep/er/another", "ln -s x /home/deep/link", "touch /home/deep/er/file",
            "ln /home/deep/er/file /home/deep/er/hard", "eval touch /new; rm /new", "mkdir /home/deep/er/folder",
            "eval exec 5<> /home/deep/er/file",
        ] {
            if change.starts_with("chown") && setup.spec(&[]).ids == sandbox::Ids::Own {
                continue;
            }
            let run = |what: &str| Running::start(&zygote).finish(format!("{what}\n").as_bytes());
            let before = run(change);
            assert_eq!(before.last, exited(0), "{change}: {before:?}");
            let after = run("eval ls -ld / /home/deep; ls -lR /home; cat /home/deep/er/file; ls -A /");
            assert_ne!(place(&before), place(&after), "{change}");
            assert!(after.stdout.contains("as it was"), "{change}: {after:?}");
        }
    }

    // Its network is used again with the place of another init.
    fn sockets_of_a_killed_process_are_not_met_in_its_network(setup) {
        let zygote = setup.open(&setup.script("read what; exec $what"));
        for trace in ["socket", "packets", "socket", "no-route", "socket"] {
            let mut killed = Running::start(&zygote);
            killed.tell(&format!("attack trace {trace} and-wait"));
            assert_eq!(killed.line(), "left");
            killed.process.kill();
            while killed.event() != Event::Gone {}
            let next = Running::start(&zygote).finish(b"attack look\n");
            assert!(!next.stdout.contains("BROKEN"), "{next:?}");
        }
    }

    fn a_place_whose_process_was_killed_is_not_used_again(setup) {
        let zygote = setup.open(&setup.script(ON_REQUEST));
        let mut places = Vec::new();
        for _ in 0..2 {
            let mut killed = Running::start(&zygote);
            places.push(killed.line());
            killed.process.kill();
            while killed.event() != Event::Gone {}
        }
        assert_ne!(places[0], places[1]);
        // Killed when it was over: there is nothing to kill any more.
        let mut over = Running::start(&zygote);
        let before = over.line();
        over.tell("true");
        while over.event() != exited(0) {}
        assert!(over.process.is_over());
        over.wait_until_looked_through();
        over.process.kill_and_wait();
        drop(over);
        assert_eq!(place(&Running::start(&zygote).finish(b"true\n")), before);
    }
}
