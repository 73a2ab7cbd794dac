//! Concurrency is bounded on every runner, and work goes where there is room.

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, prlimit};

use crate::support::chain::{ChainFile, chain, chain_with, link, shell};
use crate::support::http::{Client, Served, listen};
use crate::support::network::{Servers, until_ready};
use crate::support::running::Running;
use test_support::eventually;

/// The deadline of calls that are not to wait long.
const SOON: Duration = Duration::from_secs(1);

/// Chains of one link, which is at work until its input ends: for calls that may
/// take their time, and for those that may not.
fn chains() -> [ChainFile; 2] {
    [("held", "none"), ("soon", "1s")].map(|(name, deadline)| {
        let top = format!("Name: {name}\nDeadline: {deadline}");
        chain_with(&top, [shell("echo begun; cat")])
    })
}

/// A call that holds a process.
#[track_caller]
fn hold(portal: &Served) -> Client {
    let mut client = portal.begin("/chains/held");
    assert!(client.head().starts_with("HTTP/1.1 200"));
    assert_eq!(client.chunk().unwrap(), b"begun\n");
    client
}

#[track_caller]
fn release(mut client: Client) {
    client.end_chunks();
    assert_eq!(client.chunk().unwrap(), b"");
}

#[test]
fn where_all_are_busy_a_call_is_refused_at_its_deadline_and_taken_when_one_is_free() {
    let Some(servers) = Servers::start() else {
        cannot_run_here!("nats-server, etcd or etcdctl is missing");
    };
    let [held, soon] = &chains();
    let portal = servers.portal(&[held, soon]);
    let _runner = servers.runner_with("one", &["--processes-max", "2"]);
    until_ready(&portal);
    let [first, second] = [(); 2].map(|()| hold(&portal));

    let asked = Instant::now();
    let reply = portal.post("/chains/soon", b"word");
    assert!(asked.elapsed() >= SOON, "{:?}", asked.elapsed());
    assert_eq!(reply.header("retry-after"), Some("1"));
    let problem = reply.problem(503);
    assert_eq!(problem["title"], "all runners are busy");
    servers
        .send(soon, b"")
        .expect_code(125)
        .expect_stderr(&["found every runner busy"]);

    let mut waiting = portal.connect();
    waiting.send_request("POST", "/chains/held", &[], b"word");
    release(first);
    assert_eq!(waiting.reply().expect(200).text(), "begun\nword");
    release(second);
}

#[test]
fn a_chain_that_is_longer_than_a_runner_has_processes_finds_it_busy() {
    let Some(servers) = Servers::start() else {
        cannot_run_here!("nats-server, etcd or etcdctl is missing");
    };
    let long = chain_with("Deadline: 1s", [(); 3].map(|()| shell("cat")));
    let portal = servers.portal(&[&long]);
    let _runner = servers.runner_with("one", &["--processes-max", "2"]);
    until_ready(&portal);
    let mut client = portal.begin("/");
    client.send_chunk(b"word");
    let problem = client.reply().problem(503);
    assert_eq!(problem["title"], "all runners are busy");
    assert_eq!(problem["link_index"], 2);
}

#[test]
fn who_waits_on_a_runner_until_the_deadline_has_not_been_run() {
    let Some(servers) = Servers::start() else {
        cannot_run_here!("nats-server, etcd or etcdctl is missing");
    };
    let [held, soon] = &chains();
    let portal = servers.portal(&[held, soon]);
    let options = ["--processes-max", "1", "--waiting-max", "8"];
    let _runner = servers.runner_with("one", &options);
    until_ready(&portal);
    let first = hold(&portal);
    let problem = portal.post("/chains/soon", b"word").problem(503);
    assert_eq!(problem["title"], "all runners are busy");
    release(first);
}

#[test]
fn a_full_runner_leaves_work_to_one_with_room() {
    let Some(servers) = Servers::start() else {
        cannot_run_here!("nats-server, etcd or etcdctl is missing");
    };
    let [held, soon] = &chains();
    let portal = servers.portal(&[held, soon]);
    let _small = servers.runner_with("small", &["--processes-max", "2"]);
    until_ready(&portal);
    let full = [(); 2].map(|()| hold(&portal));
    let _large = servers.runner_with("large", &["--processes-max", "8"]);
    servers.until_serving("large", 1);
    // Half of them ask the small one first.
    for _ in 0..20 {
        let reply = portal.post("/chains/held", b"word").expect(200);
        assert_eq!(reply.text(), "begun\nword");
    }
    let more = [(); 8].map(|()| hold(&portal));
    portal.post("/chains/soon", b"word").problem(503);
    full.into_iter().chain(more).for_each(release);
}

/// The same command, where so many open files are allowed and no more.
fn with_open_files(limit: u64, command: &Command) -> Command {
    let mut limited = Command::new("sh");
    let script = format!("ulimit -n {limit}; exec \"$0\" \"$@\"");
    limited.args(["-c", &script]);
    limited.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => limited.env(name, value),
            None => limited.env_remove(name),
        };
    }
    limited
}

/// How many open files it may have from now on.
fn limit_open_files(process: u32, limit: u64) {
    let limit = Rlimit {
        current: Some(limit),
        maximum: Some(150),
    };
    let process = Pid::from_raw(process.cast_signed());
    prlimit(process, Resource::Nofile, limit).unwrap();
}

/// Calls from several callers at once, none of which may fail.
fn call_all(portal: &Served) {
    thread::scope(|scope| {
        for caller in 0..8 {
            scope.spawn(move || {
                for call in 0..25 {
                    let body = format!("{caller} {call}");
                    let reply = portal.post("/", body.as_bytes()).expect(200);
                    assert_eq!(reply.text(), body);
                }
            });
        }
    });
}

#[test]
fn a_starved_runner_leaves_its_calls_to_others_and_says_so() {
    let Some(servers) = Servers::start() else {
        cannot_run_here!("nats-server, etcd or etcdctl is missing");
    };
    let portal = servers.portal(&[&chain([link(&["cat"])])]);
    let mut command = servers.command("runner");
    command.args(["--name", "starved", "--listen", "127.0.0.1:0"]);
    let starved = listen(with_open_files(150, &command));
    starved.until_said("processes at most, and not 256");
    let healthy = servers.runner("healthy");
    for runner in ["starved", "healthy"] {
        servers.until_serving(runner, 1);
    }
    until_ready(&portal);
    // More than it has open files for.
    let full = [(); 20].map(|()| {
        let mut client = portal.begin("/");
        client.send_chunk(b"begun\n");
        client.head();
        assert_eq!(client.chunk().unwrap(), b"begun\n");
        client
    });
    call_all(&portal);
    full.into_iter().for_each(release);
    let is_ready = || starved.request("GET", "/readyz", b"").status == 200;
    assert!(is_ready());

    // From now on it can start nothing at all.
    let process = starved.process();
    limit_open_files(process, 10);
    call_all(&portal);
    let of = |runner: &Running| {
        runner
            .said()
            .matches("processes cannot be started, and calls are refused")
            .count()
    };
    eventually("it to be said", || (of(&starved) == 1).then_some(()));
    let state = || servers.runner_state("starved")["Starved"].to_string();
    eventually("the same in etcd", || {
        state().contains("ulimit -n").then_some(())
    });
    assert!(servers.runner_state("healthy")["Starved"].is_null());
    assert_eq!(of(&healthy), 0);

    limit_open_files(process, 150);
    eventually("it to be over", || {
        portal.post("/", b"word").expect(200);
        is_ready().then_some(())
    });
    let said = starved.said();
    assert_eq!(of(&starved), 1, "{said}");
    assert!(said.contains("processes can be started again"), "{said}");
    eventually("the same in etcd", || (state() == "null").then_some(()));
}
