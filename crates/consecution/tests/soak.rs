//! A bad day: load of many kinds while runners are killed and NATS is restarted.
//! No answer may be wrong, lost, doubled or late, and nothing may grow.
//!
//! `CONSECUTION_SOAK_SECONDS=600` makes the day longer.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

#[macro_use]
extern crate test_support;

mod support;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use std::{env, fs};

use rustix::process::Signal;

use support::home;
use support::http::{Served, listen};
use support::leftovers::{cgroups_of, files_in, mounts_of};
use support::load::{self, End, Kind, Tally};
use support::network::{Servers, until_ready};
use support::running::Running;
use test_support::eventually;
use test_support::processes::{descendants, expect_gone};

/// How long the day is, unless `CONSECUTION_SOAK_SECONDS` says otherwise.
const SECONDS_DEFAULT: u64 = 45;

/// How often a runner is killed, and another one started.
const KILL_EVERY: Duration = Duration::from_secs(5);

/// How often it is looked at what the processes use.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Callers at a time.
const CALLERS: usize = 6;

/// How often NATS is restarted.
const NATS_RESTARTS: u32 = 2;

/// Links that the runners serve.
const LINKS: usize = 5;

/// Files of the cgroups that a runner keeps for its next processes.
const KEPT_FILES_MAX: usize = 64;

/// Links of the pipelines that a runner keeps warm for the chains of several links: two
/// of three and two of two.
const LEARNT_LINKS: usize = 10;

/// A command and its init.
const PROCESSES_A_LINK: usize = 2;

/// Files of the runner for each process, as it counts them itself, and some to spare.
const FILES_A_LINK: usize = 9;

/// How much memory a process may gain: what its allocator does not give back.
const GAIN_BYTES_MAX: u64 = 24 * 1024 * 1024;

#[test]
fn a_bad_day_gives_no_wrong_answer_and_leaves_nothing_behind() {
    let Some(mut servers) = Servers::start() else {
        cannot_run_here!("nats-server, etcd or etcdctl is missing");
    };
    let seconds = env::var("CONSECUTION_SOAK_SECONDS").map(|text| text.parse().unwrap());
    let length = Duration::from_secs(seconds.unwrap_or(SECONDS_DEFAULT));
    let home = home::with_busybox();
    let portal = {
        let chains = load::chains();
        let mut command = servers.command("portal");
        command.args(["--listen", "127.0.0.1:0"]);
        command.args(chains.iter().map(|chain| chain.path()));
        listen(command)
    };
    // One that stays, so that it can be seen whether it grows.
    let stays = runner(&servers, home.path(), "stays");
    let mut killed: Vec<_> = ["first", "second"]
        .map(|name| runner(&servers, home.path(), name))
        .into();
    until_ready(&portal);
    for name in ["stays", "first", "second"] {
        servers.until_serving(name, LINKS);
    }
    let quiet = Usage::of(&portal, &stays);
    let files = files_in(home.path());

    let mut history = Vec::new();
    let tally = with_load(&portal, || {
        let restarts = (1..=NATS_RESTARTS).map(|at| length * at / (NATS_RESTARTS + 1));
        let mut nats_restarts = restarts.peekable();
        let begun = Instant::now();
        let mut kills = 0;
        while begun.elapsed() < length {
            thread::sleep(LOOK_EVERY);
            history.push(Usage::of(&portal, &stays));
            if nats_restarts.next_if(|at| begun.elapsed() > *at).is_some() {
                servers.nats.run_again();
            }
            if begun.elapsed() > KILL_EVERY * (kills + 1) {
                kills += 1;
                let processes = descendants(killed[0].process());
                drop(killed.remove(0));
                expect_gone(&processes);
                let name = format!("runner-{kills}");
                killed.push(runner(&servers, home.path(), &name));
            }
        }
    });
    eprintln!("{length:?}, {CALLERS} callers\n{tally}");
    expect_few_losses(&tally);
    expect_flat("portal", &history, |usage| usage.portal_bytes);
    expect_flat("runner", &history, |usage| usage.runner_bytes);

    let is_quiet_again = eventually("everything to be as it was before", || {
        let now = Usage::of(&portal, &stays);
        now.is_within(&quiet).then_some(now)
    });
    eprintln!("{quiet:?} before, {is_quiet_again:?} after");
    killed.push(stays);
    for runner in &killed {
        runner.signal(Signal::TERM);
    }
    for runner in killed {
        let (process, processes) = (runner.process(), descendants(runner.process()));
        runner.end().expect_success();
        expect_gone(&processes);
        assert!(cgroups_of(process).is_empty());
    }
    portal.signal(Signal::TERM);
    portal.end().expect_success();
    assert_eq!(mounts_of(home.path()), [""; 0]);
    assert_eq!(files_in(home.path()), files);
}

fn runner(servers: &Servers, home: &Path, name: &str) -> Running {
    let mut command = servers.command_with("runner", home);
    command.args(["--name", name]);
    Running::start(command)
}

/// What comes of the load that there is while `day` lasts.
fn with_load(portal: &Served, day: impl FnOnce()) -> Tally {
    let is_over = AtomicBool::new(false);
    let goes_on = || !is_over.load(Ordering::Acquire);
    thread::scope(|scope| {
        let callers: Vec<_> = (0..CALLERS)
            .map(|caller| scope.spawn(move || load::run(portal, caller, goes_on)))
            .collect();
        let over = Over(&is_over);
        day();
        drop(over);
        let mut tally = Tally::default();
        for caller in callers {
            tally.add(caller.join().unwrap());
        }
        tally
    })
}

/// Ends the load, whatever becomes of the day.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Only what is too large to be kept may be lost, and only a call whose deadline
/// is shorter than a restart of NATS may be refused.
#[track_caller]
fn expect_few_losses(tally: &Tally) {
    let all = tally.count(|_| true, |_| true);
    assert!(all > 100, "only {all} calls were made");
    let lost = tally.count(
        |end| matches!(end, End::Lost | End::CutOff),
        |kind| kind != Kind::Large,
    );
    assert_eq!(lost, 0, "calls were lost that can be made again");
    let refused = tally.count(|end| end == End::Refused, |kind| kind != Kind::Late);
    assert_eq!(refused, 0, "calls were refused that could wait");
    let refused = tally.count(|end| end == End::Refused, |_| true);
    let refused_max = u64::from(NATS_RESTARTS) * CALLERS as u64;
    assert!(refused <= refused_max, "{refused} calls were refused");
}

/// What a portal and a runner use.
#[derive(Debug)]
struct Usage {
    portal_bytes: u64,
    portal_files: usize,
    runner_bytes: u64,
    runner_files: usize,
    processes: usize,
}

impl Usage {
    fn of(portal: &Served, runner: &Running) -> Usage {
        let (portal, runner) = (portal.process(), runner.process());
        Usage {
            portal_bytes: resident_bytes(portal),
            portal_files: open_files(portal),
            runner_bytes: resident_bytes(runner),
            runner_files: open_files(runner),
            processes: descendants(runner).len(),
        }
    }

    /// It uses no more than that, memory and what a runner keeps for later apart, such as
    /// the pipelines of chains that were not called before.
    fn is_within(&self, other: &Usage) -> bool {
        self.portal_files <= other.portal_files
            && self.runner_files
                <= other.runner_files + KEPT_FILES_MAX + LEARNT_LINKS * FILES_A_LINK
            && self.processes <= other.processes + LEARNT_LINKS * PROCESSES_A_LINK
    }
}

fn resident_bytes(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let mut lines = status.lines();
    let line = lines.find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
    kilobytes * 1024
}

fn open_files(process: u32) -> usize {
    fs::read_dir(format!("/proc/{process}/fd")).unwrap().count()
}

/// The last third of the day takes no more memory than the first one.
#[track_caller]
fn expect_flat(what: &str, history: &[Usage], bytes: impl Fn(&Usage) -> u64) {
    let most = |usages: &[Usage]| usages.iter().map(&bytes).max().unwrap();
    let third = history.len() / 3;
    let (first, last) = (most(&history[..third]), most(&history[2 * third..]));
    eprintln!(
        "the {what} has used {} kB, then {} kB",
        first / 1024,
        last / 1024
    );
    assert!(
        last < first + first / 4 + GAIN_BYTES_MAX,
        "the {what} grows: {first} bytes at first, {last} in the end"
    );
}
