//! Many links on one runner: how soon all of them are served, and what they cost
//! while nobody calls them.
//!
//! `CONSECUTION_MANY_CHAINS=100` is the full measure, for a release build.

use std::time::{Duration, Instant};
use std::{env, fs, thread};

use crate::support::chain::{ChainFile, chain_with, link};
use crate::support::network::{Servers, until_ready};
use test_support::eventually;
use test_support::processes::{HostProcess, descendants};

/// Chains, unless `CONSECUTION_MANY_CHAINS` says otherwise, and links of each.
const CHAINS_DEFAULT: usize = 20;
const LINKS: usize = 10;

/// How soon all links must be served.
const READY_MAX: Duration = Duration::from_secs(60);

/// How much memory a link may take while nobody calls it: its zygote, and its
/// share of the runner and of the processes that are kept warm. A release build
/// takes less than half of it.
const IDLE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// And how many of the runner's descriptors: eight for each of two processes, one
/// of them for the cgroup that bounds it, and its zygote's.
const IDLE_FILES_MAX: usize = 18;

/// How long it is measured what an idle runner does.
const MEASURE_TIME: Duration = Duration::from_secs(3);

/// A chain whose links are nobody else's.
fn distinct(number: usize) -> ChainFile {
    let links = (0..LINKS).map(|at| link(&["sed", &format!("s/$/ {number}.{at}/")]));
    chain_with(&format!("Name: chain-{number}"), links)
}

#[test]
fn many_links_are_soon_served_and_cheap_to_keep() {
    let Some(servers) = Servers::start() else {
        cannot_run_here!("nats-server, etcd or etcdctl is missing");
    };
    let chains = env::var("CONSECUTION_MANY_CHAINS").map(|text| text.parse().unwrap());
    let chains = chains.unwrap_or(CHAINS_DEFAULT);
    let files: Vec<_> = (0..chains).map(distinct).collect();
    let portal = servers.portal(&files.iter().collect::<Vec<_>>());
    eventually("all chains to be published", || {
        let published = portal.said().matches("are published").count();
        (published == chains).then_some(())
    });
    let links = chains * LINKS;
    let begun = Instant::now();
    let runner = servers.runner("one");
    until_ready(&portal);
    let ready = begun.elapsed();
    assert!(ready < READY_MAX, "{links} links took {ready:?}");

    let mut calls = Vec::new();
    for number in 0..chains {
        let begun = Instant::now();
        let reply = portal.post(&format!("/chains/chain-{number}"), b"x\n");
        calls.push(begun.elapsed());
        let marks: String = (0..LINKS).map(|at| format!(" {number}.{at}")).collect();
        assert_eq!(reply.expect(200).text(), format!("x{marks}\n"));
    }
    calls.sort();

    let processes = descendants(runner.process());
    let own_memory = processes.iter().filter(|seen| has_own_memory(seen));
    let ids = own_memory.map(|seen| seen.id).chain([runner.process()]);
    let bytes: u64 = ids.map(proportional_bytes).sum();
    let files = open_files(runner.process());
    let before = ticks(runner.process());
    thread::sleep(MEASURE_TIME);
    let busy = ticks(runner.process()) - before;
    eprintln!(
        "{links} links ready after {ready:.1?}; first calls of {LINKS} links: {:.1?} (median), \
         {:.1?} (slowest)\n\
         idle: {} processes, {} kB a link, {} kB the runner itself, {files} descriptors, \
         {} ms of processor time a second",
        calls[chains / 2],
        calls[chains - 1],
        processes.len(),
        bytes / links as u64 / 1024,
        proportional_bytes(runner.process()) / 1024,
        busy * 10 / MEASURE_TIME.as_secs(),
    );
    assert!(bytes < links as u64 * IDLE_BYTES_MAX, "{bytes} bytes");
    assert!(files < links * IDLE_FILES_MAX, "{files} descriptors");
}

/// A process's memory, with its share of what it shares; 0 where it is gone.
fn proportional_bytes(process: u32) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{process}/smaps_rollup")).unwrap_or_default();
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
    let kilobytes = line.map_or("0", |line| line.trim().trim_end_matches(" kB"));
    kilobytes.parse::<u64>().unwrap() * 1024
}

fn open_files(process: u32) -> usize {
    fs::read_dir(format!("/proc/{process}/fd")).unwrap().count()
}

/// Whether its memory is not that of its parent: the first process of a sandbox
/// shares its zygote's.
fn has_own_memory(seen: &HostProcess) -> bool {
    let parent = stat(seen.id, 1);
    fs::read(format!("/proc/{parent}/cmdline")).is_ok_and(|command| {
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        command != seen.command
    })
}

/// The processor time that a process has used, in hundredths of a second.
fn ticks(process: u32) -> u64 {
    stat(process, 11) + stat(process, 12)
}

/// A number that proc(5) has behind a process's name; 0 where it is gone.
fn stat(process: u32, index: usize) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let field = fields.split_whitespace().nth(index);
    field.map_or(0, |field| field.parse().unwrap())
}
