//! A place may be made ready before anybody knows what its command gets: then the command
//! is executed when its request is there, with arguments and variables of the request.

use std::fs;

use sandbox::{Event, Spec, Step, Strings, StringsError, Zygote};

use crate::support::{Running, Setup, exited, promises};
use test_support::processes::{descendants, memory};
use test_support::until;

/// A place that is prepared.
pub(crate) fn prepared(zygote: &Zygote) -> Running {
    let mut running = Running::piped(|_| zygote.prepare().unwrap());
    assert_eq!(running.event(), Event::Prepared);
    running
}

/// Executes the command there, and gives our ends of its pipes.
pub(crate) fn execute(prepared: Running, strings: Option<&Strings>) -> Running {
    Running::piped(|stdio| {
        let executed = prepared.process.execute(stdio, strings, None);
        executed.unwrap();
        prepared.process
    })
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(ToString::to_string).collect()
}

fn variables(variables: &[(&str, &str)]) -> Vec<(String, String)> {
    let variables = variables.iter();
    variables
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

/// A script with two arguments and a variable of its own.
fn with_strings(setup: &Setup, script: &str) -> Spec {
    Spec {
        command: words(&["/bin/sh", "-c", script, "sh", "first", "second"]),
        environment: variables(&[("OWN", "default")]),
        takes_strings: true,
        ..setup.script("")
    }
}

fn strings(zygote: &Zygote, script: &str, [first, second]: [&str; 2], own: &str) -> Strings {
    let command = words(&["/bin/sh", "-c", script, "sh", first, second]);
    zygote
        .strings(&command, &variables(&[("OWN", own)]))
        .unwrap()
}

const SAY: &str = r#"printf '[%s]' "$1" "$2" "$OWN" "$HOSTNAME" "$HOME"; cat"#;

promises! {
    fn a_command_is_executed_when_its_request_is_there(setup) {
        let zygote = setup.open(&with_strings(setup, SAY));
        for _ in 0..3 {
            let strings = strings(&zygote, SAY, ["-n\n$(id)", ""], "ü=1");
            let running = execute(prepared(&zygote), Some(&strings));
            let said = running.finish(b"input").success();
            assert_eq!(said, "[-n\n$(id)][][ü=1][inside][/root]input");
            // Who brings none has those of the link.
            let running = execute(prepared(&zygote), None);
            assert_eq!(running.finish(b"").success(), "[first][second][default][inside][/root]");
            let running = Running::start(&zygote);
            assert_eq!(running.finish(b"").success(), "[first][second][default][inside][/root]");
        }
    }

    fn it_is_executed_in_a_place_without_a_trace(setup) {
        let script = r#"attack place; [ "$1" = keep ] || echo > /tmp/trace"#;
        let zygote = setup.open(&with_strings(setup, script));
        let run = |first: &str| {
            let strings = strings(&zygote, script, [first, ""], "");
            execute(prepared(&zygote), Some(&strings)).finish(b"").success()
        };
        assert_eq!(run("keep"), run("keep"));
        assert_ne!(run("trace"), run("keep"));
    }

    fn strings_may_be_as_long_as_the_system_takes(setup) {
        let script = r#"echo "${#1} ${#2} ${#OWN}""#;
        let zygote = setup.open(&with_strings(setup, script));
        let longest = sandbox::STRING_BYTES_MAX - 1;
        let long = "x".repeat(longest);
        let strings = strings(&zygote, script, [&long, &long], &long[4..]);
        let running = execute(prepared(&zygote), Some(&strings));
        assert_eq!(running.finish(b"").success(), format!("{longest} {longest} {}\n", longest - 4));
    }

    fn so_many_of_them_as_the_system_takes(setup) {
        let each = "x".repeat(100_000);
        let count = sandbox::STRINGS_BYTES_MAX / (each.len() + 1 + size_of::<usize>()) - 1;
        let spec = |script: &str| {
            let mut command = words(&["/bin/sh", "-c", script, "sh"]);
            command.extend((0..count).map(|_| each.clone()));
            Spec { command, takes_strings: true, ..setup.script("") }
        };
        let spec = spec("echo $#");
        let zygote = setup.open(&spec);
        let strings = zygote.strings(&spec.command, &[]).unwrap();
        let running = execute(prepared(&zygote), Some(&strings));
        assert_eq!(running.finish(b"").success(), format!("{count}\n"));
    }

    fn strings_that_are_not_the_links_are_refused(setup) {
        let zygote = setup.open(&with_strings(setup, SAY));
        let fewer = zygote.strings(&words(&["/bin/sh"]), &variables(&[("OWN", "")]));
        assert!(matches!(fewer, Err(StringsError::Count { given: 2, expected: 7 })));
        let command = words(&["a", "b", "c", "d", "e", "f"]);
        assert!(matches!(zygote.strings(&command, &[]), Err(StringsError::Count { .. })));
        let plain = setup.open(&setup.spec(&["cat"]));
        // Nor does a place take them for which no room was made.
        let theirs = strings(&zygote, SAY, ["", ""], "");
        let mut refused = execute(prepared(&plain), Some(&theirs));
        assert_eq!(refused.event(), Event::Failed(Step::ReadStrings, libc::EINVAL));
        // And others than it has room for.
        let more = setup.open(&Spec { command: words(&["cat", "-u"]), takes_strings: true, ..setup.spec(&[]) });
        let mut refused = execute(prepared(&more), Some(&theirs));
        assert_eq!(refused.event(), Event::Failed(Step::ReadStrings, libc::EINVAL));
    }

    fn what_cannot_be_executed_is_said(setup) {
        setup.write("bin/broken", "not a program", 0o755);
        let zygote = setup.open(&setup.spec(&["/bin/broken"]));
        let mut failed = execute(prepared(&zygote), None);
        assert_eq!(failed.event(), Event::Failed(Step::Execute, libc::ENOEXEC));
        assert_eq!(failed.event(), Event::Gone);
    }

    fn a_place_that_waits_can_be_killed(setup) {
        let zygote = setup.open(&setup.spec(&["cat"]));
        // One that is new, and one that was used before.
        for _ in 0..2 {
            let mut waiting = prepared(&zygote);
            waiting.process.kill_and_wait();
            assert_eq!(waiting.event(), Event::Gone);
            assert_eq!(Running::start(&zygote).finish(b"x").success(), "x");
        }
    }

    fn one_that_nobody_wants_is_gone(setup) {
        let zygote = setup.open(&setup.spec(&["cat"]));
        drop(zygote.prepare().unwrap());
        drop(prepared(&zygote));
        until("both are gone", || descendants(std::process::id()).len() == 1);
        assert_eq!(Running::start(&zygote).finish(b"x").success(), "x");
    }

    fn three_hundred_late_ones_leave_nothing_behind(setup) {
        let script = r#"echo "${#1}"; case $2 in trace) echo > /tmp/trace;; esac"#;
        let zygote = setup.open(&with_strings(setup, script));
        let id = descendants(std::process::id())[0].id;
        let long = "x".repeat(10_000);
        let run = |second: &str| {
            let strings = strings(&zygote, script, [&long, second], "");
            let running = execute(prepared(&zygote), Some(&strings));
            let output = running.finish(b"");
            assert_eq!(output.last, exited(0));
            assert_eq!(output.stdout, "10000\n");
        };
        run("");
        run("trace");
        let own_descriptors = || fs::read_dir("/proc/self/fd").unwrap().count();
        let (descriptors, size) = (own_descriptors(), memory(id));
        for number in 0..300 {
            run(if number % 20 == 0 { "trace" } else { "" });
        }
        until("none is left", || descendants(std::process::id()).len() <= 2);
        assert!(own_descriptors() <= descriptors + 10);
        // Of the strings nothing stays in memory either.
        let grown = memory(id).saturating_sub(size);
        assert!(grown < 1 << 20, "{grown} bytes");
    }
}
