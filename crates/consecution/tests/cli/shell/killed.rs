//! The same while processes are killed: of most of the chains, at random moments, the
//! command of a link, its init or its zygote, as an operator may, or the kernel where
//! memory runs out. The others must not notice.
//!
//! A call of which something was killed is made again and gives what the shell gives, or
//! says that it was killed or lost; never less that counts as success. In the end nothing
//! is left.
//!
//! Calls come in days, each with chains of its own: `CONSECUTION_TEST_CASES=10000` makes
//! that many calls.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use chain::Chain;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use rustix::process::Signal;

use super::inputs::Random;
use super::reference::{Evaluated, Pipeline};
use super::served::{failed_link, judge_reply};
use super::{cases, from_environment, links};
use crate::support::chain::{ChainFile, Link, chain_with, shell};
use crate::support::home;
use crate::support::http::{Reply, Served, serve};
use crate::support::leftovers::{cgroups_of, mounts_of};
use test_support::eventually;
use test_support::processes::{HostProcess, descendants, expect_gone, parent_of};

/// How many calls there are, unless the environment says otherwise; and a day has at most.
const CALLS: usize = 300;
const CALLS_A_DAY: usize = 500;

/// How many chains a day has, and how many calls there are at a time.
const CHAINS: usize = 20;
const CALLERS: usize = 4;

/// Of so many kills, one is of a zygote: while there is none, nothing else can be tried.
const KILLS_A_ZYGOTE: u64 = 30;

/// How long to rest between two kills at random moments, at most.
const REST_MAX: Duration = Duration::from_millis(100);

/// Of an input below that, all of the output may be sent before any is read.
const EARLY_BYTES_MAX: usize = 16 * 1024;

/// Files that a runner keeps for its next processes: of cgroups, and of the places of each
/// link; and of each process in reserve.
const KEPT_FILES_MAX: usize = 64;
const KEPT_FILES_A_LINK_MAX: usize = 32;
const FILES_A_PROCESS: usize = 9;

/// How the links of a chain are called.
#[derive(Debug, Clone, Copy)]
struct Kind {
    /// Each by itself.
    go_alone: bool,
    /// Started with their requests.
    is_late: bool,
    /// Something of them is killed now and then.
    is_mortal: bool,
}

impl Kind {
    fn of(number: usize) -> Kind {
        Kind {
            go_alone: number & 1 != 0,
            is_late: number & 2 != 0,
            is_mortal: !number.is_multiple_of(3),
        }
    }
}

/// A chain, what it is given, and what the shell makes of that.
struct Case {
    kind: Kind,
    file: ChainFile,
    input: Vec<u8>,
    pipeline: Pipeline,
}

fn random_cases(seed: u64, day: usize) -> Vec<Case> {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    bytes[8..16].copy_from_slice(&(day as u64 + 1_000).to_le_bytes());
    let random = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(Config::default(), random);
    let one = |number| {
        let case = cases().new_tree(&mut runner).unwrap().current();
        let input = case.input.bytes();
        let mut pipeline = Pipeline::evaluate(&case.stages, &input);
        let kind = Kind::of(number);
        let mut random = Random(seed ^ (day * CHAINS + number) as u64);
        let links: Vec<_> = links(&pipeline).collect();
        let links = links.into_iter().zip(&mut pipeline.stages).enumerate();
        let links = links.map(|(at, (link, stage))| {
            let link = match stage.words == ["cat"] {
                true => like_cat(link, stage, &mut random),
                false => link,
            };
            let link = link.with("Environment", format!("{{{MARK}: 'of {number}.{at}'}}"));
            let link = match kind.go_alone {
                true => link.with("Deadline", "1h"),
                false => link,
            };
            match kind.is_late {
                true => link.with("Warm", false),
                false => link,
            }
        });
        let file = chain_with(&format!("Name: case{number}"), links);
        Case {
            kind,
            file,
            input,
            pipeline,
        }
    };
    (0..CHAINS).map(one).collect()
}

/// The variable by which a process is known: of which chain and link it is.
const MARK: &str = "CONSECUTION_CASE";

/// Does what `cat` does, and more that nobody may notice but on standard error.
fn like_cat(link: Link, stage: &mut Evaluated, random: &mut Random) -> Link {
    let script = match random.next() % 4 {
        0 => return link,
        // Holds the output, and would for long.
        1 => "sleep 1000 & cat",
        // Closes its output before it ends.
        2 => "cat; code=$?; exec >&- 2>&-; sleep 0.02; exit $code",
        _ => {
            stage.stderr = Some("noise\n".to_owned());
            "echo noise >&2; cat"
        }
    };
    let accepted: Vec<_> = stage.accepted.iter().map(u8::to_string).collect();
    shell(script).with("AcceptedExitCodes", format!("[{}]", accepted.join(", ")))
}

/// How a call ended, of the ways in which it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    /// As in the shell.
    Right,
    /// It says that a link was killed.
    Killed,
    /// It says that a link was lost.
    Lost,
    /// It says that there was nobody to run it.
    Refused,
    /// Its reply is cut off, and right so far.
    CutOff,
}

impl Case {
    fn path(&self, number: usize) -> String {
        format!("/chains/case{number}")
    }

    /// Calls it, and has something killed in the middle now and then.
    fn call(&self, served: &Served, number: usize, random: &mut Random) -> Result<End, String> {
        let began = Instant::now();
        let mut client = served.connect();
        // Then what comes early is given on at once, and cannot be taken back.
        let is_early = self.input.len() < EARLY_BYTES_MAX && random.below(2) == 0;
        let head = format!(
            "POST {} HTTP/1.1\r\nHost: test\r\n{}Content-Length: {}\r\n\r\n",
            self.path(number),
            if is_early { "Prefer: duplex\r\n" } else { "" },
            self.input.len()
        );
        let (first, second) = self.input.split_at(self.input.len() / 2);
        // One that has failed may not want all of it.
        let _ = client.try_send([head.as_bytes(), first].concat());
        if self.kind.is_mortal && random.below(4) > 0 {
            kill_some(served, number, random);
        }
        let _ = client.try_send(second);
        let reply = client.reply();
        self.judge(&reply, began.elapsed())
    }

    fn judge(&self, reply: &Reply, elapsed: Duration) -> Result<End, String> {
        let as_shell = judge_reply(&self.pipeline, reply, elapsed);
        let is_cut = reply.status == 200 && !reply.is_complete;
        // One that fails in the shell may be cut off.
        let may_fail = (self.pipeline.outcomes(true).into_iter()).any(|code| code != 0);
        match as_shell {
            Ok(()) if !is_cut || may_fail => return Ok(End::Right),
            Ok(()) if self.kind.is_mortal => return Ok(End::CutOff),
            Ok(()) => return Err(format!("cut off after {} bytes", reply.body.len())),
            Err(problem) if !self.kind.is_mortal => return Err(problem),
            Err(_) => {}
        }
        let wrong = || as_shell.unwrap_err();
        let problem = serde_json::from_slice::<serde_json::Value>(&reply.body);
        let problem = problem.map_err(|_| format!("status {}", reply.status));
        match (reply.status, problem) {
            (200, _) => Err(wrong()),
            (502, Ok(problem)) if problem["signal"] == 9 => {
                let (at, stderr) = failed_link(&problem);
                match self.pipeline.may_have_begun_to_say(at, stderr) {
                    true => Ok(End::Killed),
                    false => Err(format!("link {at} was killed, and had said {stderr:?}")),
                }
            }
            (502, Ok(problem)) if problem["title"] == "a link was lost" => Ok(End::Lost),
            (503, Ok(_)) if reply.header("retry-after").is_some() => Ok(End::Refused),
            _ => Err(wrong()),
        }
    }
}

/// The commands of links that run there, by chain and link.
fn commands(served: &Served) -> BTreeMap<(usize, usize), Vec<HostProcess>> {
    let all = descendants(served.process());
    let marked = all.into_iter().filter_map(|process| {
        let environment = fs::read(format!("/proc/{}/environ", process.id)).ok()?;
        let environment = String::from_utf8_lossy(&environment).into_owned();
        let mut variables = environment.split('\0');
        let mark = variables.find_map(|variable| variable.strip_prefix(MARK))?;
        let (chain, link) = mark.strip_prefix("=of ")?.split_once('.')?;
        Some(((chain.parse().ok()?, link.parse().ok()?), process))
    });
    let marked: Vec<((usize, usize), HostProcess)> = marked.collect();
    let ids: BTreeSet<_> = marked.iter().map(|(_, process)| process.id).collect();
    let mut commands: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (of, process) in marked {
        // Not what it has started itself: who loses such a one may go on as it likes.
        if parent_of(process.id).is_some_and(|parent| !ids.contains(&parent)) {
            commands.entry(of).or_default().push(process);
        }
    }
    commands
}

/// Kills something of a link of that chain: one command or all, its init or its zygote.
fn kill_some(served: &Served, chain: usize, random: &mut Random) {
    let commands = commands(served);
    let of_chain: Vec<_> = commands.range((chain, 0)..(chain + 1, 0)).collect();
    let Some((_, of_link)) = of_chain.get(random.below(of_chain.len())) else {
        return;
    };
    let all = random.below(2) == 0;
    let one = random.below(of_link.len());
    for (at, command) in of_link.iter().enumerate() {
        if all || at == one {
            kill(served, command, random);
        }
    }
}

/// How many commands, inits and zygotes were killed, to be told.
static KILLS: [AtomicUsize; 3] = [const { AtomicUsize::new(0) }; 3];

/// Kills a command, its init or its zygote.
fn kill(served: &Served, command: &HostProcess, random: &mut Random) {
    let generation = match random.next() % KILLS_A_ZYGOTE {
        0 => 2,
        even if even % 2 == 0 => 1,
        _ => 0,
    };
    KILLS[generation].fetch_add(1, Ordering::Relaxed);
    if generation == 0 {
        return command.kill();
    }
    let ancestor = (0..generation).try_fold(command.id, |process, _| parent_of(process));
    // By what is there now: an id may have come to mean another one.
    let all = descendants(served.process());
    let ancestor = ancestor.and_then(|id| all.iter().find(|process| process.id == id));
    let is_still = (0..generation).try_fold(command.id, |process, _| parent_of(process));
    if let Some(ancestor) = ancestor.filter(|ancestor| is_still == Some(ancestor.id)) {
        ancestor.kill();
    }
}

/// How many processes a runner counts as in that state, of those links that `is_meant`
/// says yes to, given a link's id.
fn counted(served: &Served, state: &str, is_meant: impl Fn(&str) -> bool) -> usize {
    let metrics = served.request("GET", "/metrics", b"").expect(200);
    let state = format!("state=\"{state}\"");
    let lines = metrics.text().lines();
    let lines = lines.filter(|line| {
        let id = line.split("link_id=\"").nth(1);
        let id = id.and_then(|id| id.split('"').next());
        line.starts_with("consecution_pool_processes")
            && line.contains(&state)
            && id.is_some_and(&is_meant)
    });
    let numbers = lines.map(|line| line.rsplit_once(' ').unwrap().1.parse::<usize>().unwrap());
    numbers.sum()
}

/// The ids of links of which places are in reserve whose command is still to be executed.
fn late_links(cases: &[Case]) -> BTreeSet<String> {
    let late = cases.iter().filter(|case| case.kind.is_late);
    let ids = late.flat_map(|case| {
        let text = fs::read(case.file.path()).unwrap();
        let chain = Chain::parse(text, "", "case").unwrap();
        chain.links.into_iter().map(|link| link.id.to_string())
    });
    ids.collect()
}

/// Waits until each chain is served, and nothing runs but what is in reserve. Gives the
/// files that the runner has open, and how many processes are in reserve.
fn until_quiet(served: &Served, cases: &[Case]) -> (usize, usize) {
    for (number, case) in cases.iter().enumerate() {
        eventually(&format!("chain {number} to be served"), || {
            let path = format!("{}/readyz", case.path(number));
            (served.request("GET", &path, b"").status == 200).then_some(())
        });
    }
    let files = || {
        let files = fs::read_dir(format!("/proc/{}/fd", served.process()));
        files.unwrap().count()
    };
    let late = late_links(cases);
    let all = |_: &str| true;
    let in_reserve = || counted(served, "idle", all);
    eventually("nothing to run but what is in reserve", || {
        let is_busy = counted(served, "in_use", all) + counted(served, "starting", all) > 0;
        let idle = in_reserve();
        let executed = counted(served, "idle", |id| !late.contains(id));
        let running: usize = commands(served).values().map(Vec::len).sum();
        let quiet = (files(), idle);
        (!is_busy && running == executed && in_reserve() == idle).then_some(quiet)
    })
}

/// How many calls ended how, of chains that are mortal or not.
type Tally = BTreeMap<(bool, End), usize>;

/// Chains, and who serves them.
struct Day {
    seed: u64,
    number: usize,
    cases: Vec<Case>,
    served: Served,
}

impl Day {
    fn begin(seed: u64, number: usize) -> Day {
        let cases = random_cases(seed, number);
        let files: Vec<_> = cases.iter().map(|case| &case.file).collect();
        let served = serve(&files);
        Day {
            seed,
            number,
            cases,
            served,
        }
    }

    /// Other numbers for everybody who wants some.
    fn random(&self, of: usize) -> Random {
        let mut seeds = Random(self.seed ^ (self.number * 1_000 + of) as u64);
        Random(seeds.next())
    }

    fn call(&self, number: usize, random: &mut Random) -> (bool, End) {
        let Day {
            seed, number: day, ..
        } = self;
        let case = &self.cases[number];
        let kind = case.kind;
        match case.call(&self.served, number, random) {
            Ok(end) => (kind.is_mortal, end),
            Err(problem) => panic!(
                "CONSECUTION_TEST_SEED={seed}, day {day}, chain {number}, {kind:?}: {problem}\n\
                 pipeline: {}",
                case.pipeline.script()
            ),
        }
    }

    /// Makes that many calls, several at a time, while something is killed.
    fn spend(&self, calls: usize) -> Tally {
        let made = AtomicUsize::new(0);
        let tally = Mutex::new(Tally::new());
        let caller = &|number| {
            let mut random = self.random(number);
            while made.fetch_add(1, Ordering::Relaxed) < calls {
                let end = self.call(random.below(CHAINS), &mut random);
                *tally.lock().unwrap().entry(end).or_default() += 1;
            }
        };
        thread::scope(|scope| {
            for number in 0..CALLERS {
                scope.spawn(move || caller(number));
            }
            let mut random = self.random(CALLERS);
            while made.load(Ordering::Relaxed) < calls {
                let chain = random.below(CHAINS);
                if self.cases[chain].kind.is_mortal {
                    kill_some(&self.served, chain, &mut random);
                }
                thread::sleep(REST_MAX.mul_f64(random.below(1_000) as f64 / 1_000.0));
            }
        });
        tally.into_inner().unwrap()
    }

    /// Ends it. Nothing may be left.
    fn end(self) {
        let (process, left) = (self.served.process(), descendants(self.served.process()));
        self.served.signal(Signal::TERM);
        self.served.end().expect_success();
        expect_gone(&left);
        assert_eq!(cgroups_of(process), Vec::<PathBuf>::new());
    }
}

/// Makes that many calls of new chains.
fn spend_day(seed: u64, number: usize, calls: usize) -> Tally {
    let mounts = mounts_of(home::shared());
    let day = Day::begin(seed, number);
    let (files_before, idle_before) = until_quiet(&day.served, &day.cases);
    let tally = day.spend(calls);
    let (files, idle) = until_quiet(&day.served, &day.cases);
    let links: usize = (day.cases.iter())
        .map(|case| case.pipeline.stages.len())
        .sum();
    let files_max = files_before
        + idle.saturating_sub(idle_before) * FILES_A_PROCESS
        + links * KEPT_FILES_A_LINK_MAX
        + KEPT_FILES_MAX;
    assert!(
        files <= files_max,
        "CONSECUTION_TEST_SEED={seed}, day {number}: {files_before} files and {idle_before} idle \
         processes before, {files} and {idle} after"
    );
    day.end();
    assert_eq!(mounts_of(home::shared()), mounts);
    tally
}

#[test]
fn a_chain_of_which_something_is_killed_gives_what_the_shell_gives_or_says_so() {
    let seed = from_environment("CONSECUTION_TEST_SEED").unwrap_or(20_261_130);
    let calls = from_environment("CONSECUTION_TEST_CASES");
    let mut left = calls.map_or(CALLS, |calls| usize::try_from(calls).unwrap());
    println!("CONSECUTION_TEST_SEED={seed}");
    let mut sum = Tally::new();
    for day in 0.. {
        let calls = left.min(CALLS_A_DAY);
        left -= calls;
        let began = Instant::now();
        let tally = spend_day(seed, day, calls);
        println!(
            "day {day}: {calls} calls in {:.1?}: {tally:?}",
            began.elapsed()
        );
        for (end, count) in tally {
            *sum.entry(end).or_default() += count;
        }
        if left == 0 {
            break;
        }
    }
    println!("of all: {sum:?}, with kills of commands, inits and zygotes: {KILLS:?}");
    assert!(
        sum[&(false, End::Right)] > 0 && sum[&(true, End::Right)] > 0,
        "{sum:?}"
    );
}
