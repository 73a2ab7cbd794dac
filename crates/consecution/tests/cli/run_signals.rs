//! Whoever ends a run ends everything that it started, and nothing is left.

use std::collections::BTreeSet;
use std::io::Read;
use std::process::{Child, Command, Stdio};

use crate::support::chain::{ChainFile, chain_with, link, shell};
use crate::support::command::{self, finish, run_on};
use crate::support::home;
use crate::support::leftovers;
use rustix::process::{Pid, Signal, kill_process};
use test_support::processes::HostProcess;
use test_support::{PATIENCE, eventually, is_readable_within, processes};

/// A chain that never ends by itself, with children that leave their session
/// and ignore what can be ignored. It writes a line when it is under way.
fn endless() -> ChainFile {
    let stubborn = "trap '' INT TERM HUP; setsid sleep 100000 & (sleep 100000 &); echo ready; cat; sleep 100000";
    chain_with(
        "Deadline: none",
        [link(&["cat"]), shell(stubborn), link(&["cat"])],
    )
}

/// Starts a run and waits until its processes work.
fn start(mut run: Command) -> (Child, Vec<HostProcess>) {
    let mut child = run
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = [0; 6];
    let stdout = child.stdout.as_mut().unwrap();
    assert!(is_readable_within(stdout, PATIENCE), "it does not begin");
    stdout.read_exact(&mut line).unwrap();
    assert_eq!(&line, b"ready\n");
    let processes = eventually("both children of the link", || {
        let all = processes::descendants(child.id());
        (all.iter()
            .filter(|process| process.command.contains("sleep 100000"))
            .count()
            >= 3)
            .then_some(all)
    });
    (child, processes)
}

fn send(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

#[test]
fn a_signal_that_asks_to_end_ends_everything() {
    let chain = endless();
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)] {
        let (mut child, processes) = start(command::run(chain.path()));
        send(&child, signal);
        let status = command::wait(&mut child, PATIENCE).expect("it ends");
        let ran = command::finish_child(child, PATIENCE);
        assert_eq!(ran.code(), code, "{status}");
        processes::expect_gone(&processes);
    }
}

#[test]
fn a_signal_while_input_is_awaited_ends_it_too() {
    let chain = chain_with(
        "Deadline: none",
        [shell(
            "echo ready; cat; sleep 100000 & sleep 100000 & sleep 100000",
        )],
    );
    let mut run = command::run(chain.path());
    let mut child = run
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = [0; 6];
    child
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut line)
        .unwrap();
    let processes = processes::descendants(child.id());
    let stdin = child.stdin.take();
    send(&child, Signal::TERM);
    assert_eq!(command::finish_child(child, PATIENCE).code(), 143);
    processes::expect_gone(&processes);
    drop(stdin);
}

#[test]
fn a_run_that_is_killed_leaves_no_process() {
    let (child, processes) = start(command::run(endless().path()));
    send(&child, Signal::KILL);
    assert_eq!(command::finish_child(child, PATIENCE).code(), 137);
    processes::expect_gone(&processes);
}

#[test]
fn runs_that_are_killed_leave_nothing_that_adds_up() {
    let home = home::with_busybox();
    let temporary = tempfile::tempdir().unwrap();
    let run_in_home = |chain: &ChainFile| {
        let mut run = command::consecution(home.path());
        run.arg("run")
            .arg(chain.path())
            .env("TMPDIR", temporary.path());
        run
    };
    let clean = chain_with("", [link(&["cat"]).with("Writable", true)]);
    finish(run_in_home(&clean), b"x", PATIENCE)
        .expect_success()
        .expect_output("x");
    let before = leftovers::files_in(home.path());

    for _ in 0..3 {
        let (child, processes) = start(run_in_home(&endless()));
        send(&child, Signal::KILL);
        command::finish_child(child, PATIENCE);
        processes::expect_gone(&processes);
    }
    finish(run_in_home(&clean), b"x", PATIENCE).expect_success();

    assert_eq!(leftovers::mounts_of(home.path()), Vec::<String>::new());
    assert_eq!(leftovers::files_in(temporary.path()), BTreeSet::new());
    let after = leftovers::files_in(home.path());
    let new: Vec<_> = after.difference(&before).collect();
    assert!(new.is_empty(), "{new:?}");
}

#[test]
fn cgroups_of_a_killed_run_are_removed_by_the_next_one() {
    let limited = |chain_links: &str| {
        chain_with(
            "Deadline: none",
            [shell(chain_links).with("Constraints", "{Memory: 64M, Processes: 64}")],
        )
    };
    let stubborn = limited("sleep 100000 & sleep 100000 & echo ready; sleep 100000");
    let simple = limited("cat");
    let probe = run_on(&simple, b"x");
    if probe.code() == 125 && probe.stderr.contains("cgroup") {
        cannot_run_here!("no cgroups to be had: {}", probe.stderr);
    }
    probe.expect_success();

    let (child, processes) = start(command::run(stubborn.path()));
    let killed = child.id();
    assert_ne!(
        leftovers::cgroups_of(killed),
        Vec::<std::path::PathBuf>::new()
    );
    send(&child, Signal::KILL);
    command::finish_child(child, PATIENCE);
    processes::expect_gone(&processes);
    run_on(&simple, b"x").expect_success();
    assert_eq!(
        leftovers::cgroups_of(killed),
        Vec::<std::path::PathBuf>::new()
    );
}

#[test]
fn a_run_that_ends_by_itself_leaves_no_process() {
    let chain = chain_with(
        "",
        [shell(
            "setsid sleep 100000 & (sleep 100000 &); sleep 100000 & echo ready; cat",
        )],
    );
    let (mut child, processes) = start(command::run(chain.path()));
    drop(child.stdin.take());
    command::finish_child(child, PATIENCE).expect_success();
    processes::expect_gone(&processes);
}
