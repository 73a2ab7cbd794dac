//! Processes in reserve: how many there are, and when they count as ready.

use std::fs;

use crate::support::chain::{chain, link, shell as chain_shell};
use crate::support::http::{Served, serve, serve_with};
use crate::support::network::until_ready;
use crate::support::runner::{World, is_soon, metrics, shell, soon};
use chain::{Link, Warm};
use consecution::portal::Portal;
use consecution::runner::{Counts, Options, processes_that_fit};
use futures_util::future::join_all;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use test_support::eventually;

/// Spins for some tenths of a second before it reads its input, as a program that imports
/// much.
const SLOW: &str = "i=0; while [ $i -lt 100000 ]; do i=$((i + 1)); done; cat";

/// Reads its input at once, but something of it runs all the time.
const RESTLESS: &str = "(while :; do usleep 2000; done) & cat; kill $!";

fn warm(count: u16, script: &str) -> Link {
    Link {
        warm: Warm::Count(count),
        ..shell(script)
    }
}

/// Warm hits, calls with a process that was still starting, and misses.
fn found(world: &World, link: &Link) -> [u64; 3] {
    let text = metrics(&world.runner);
    ["hits", "starting", "misses"].map(|result| {
        let id = link.id();
        let start = format!("consecution_runner_warm_{result}_total{{link_id=\"{id}\"}} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&start));
        line.unwrap().parse().unwrap()
    })
}

/// Calls a chain so many times at once.
async fn burst(portal: &Portal, calls: usize) {
    let calls = (0..calls).map(|_| portal.send("some"));
    for result in soon(join_all(calls)).await {
        assert_eq!(result.unwrap(), "some");
    }
}

#[tokio::test]
async fn ten_calls_at_once_of_a_slow_starter_find_ten_that_have_settled() {
    let world = World::start(Options::default());
    let link = warm(10, SLOW);
    let portal = world.portal(&link).await;
    // They are started ahead of any call, and again after a burst.
    for hits in [10, 20] {
        world.until(&link, |counts| counts.idle == 10).await;
        burst(&portal, 10).await;
        assert_eq!(found(&world, &link), [hits, 0, 0]);
    }
    // None of those that are there now has had the time that it needs.
    burst(&portal, 3).await;
    let [hits, starting, misses] = found(&world, &link);
    assert_eq!((hits, starting + misses), (20, 3));
}

#[tokio::test]
async fn one_that_never_rests_is_no_warm_hit_until_its_time_is_over() {
    let world = World::start(Options::default());
    let link = warm(1, RESTLESS);
    let portal = world.portal(&link).await;
    let has_started = |times: usize| {
        let counted = format!("consecution_runner_start_duration_seconds_count {times}\n");
        metrics(&world.runner).contains(&counted)
    };
    assert!(is_soon(|| has_started(1)).await);
    world.until(&link, |counts| counts.starting == 1).await;
    burst(&portal, 1).await;
    let [hits, starting, misses] = found(&world, &link);
    assert_eq!((hits, starting + misses), (0, 1));
    world.until(&link, |counts| counts.idle == 1).await;
    burst(&portal, 1).await;
    assert_eq!(found(&world, &link), [1, starting, misses]);
}

#[tokio::test]
async fn a_reserve_in_the_middle_of_a_chain_is_for_all_chains() {
    let world = World::start(Options::default());
    let cats = |names: [&str; 2]| names.map(|name| shell(&format!("cat; : {name}")));
    let middle = warm(5, "cat; : middle");
    let around = [cats(["a", "b"]), cats(["c", "d"])];
    let mut portals = Vec::new();
    for [first, last] in &around {
        let links = vec![first.clone(), middle.clone(), last.clone()];
        portals.push(world.portal_of(links.clone()).await);
        for link in &links {
            world.runner.ready(link.id()).await.unwrap();
        }
    }
    for portal in &portals {
        // Twice, so that other links would be warm together.
        burst(portal, 1).await;
        burst(portal, 1).await;
    }
    let has = |idle: usize| move |counts: Counts| counts.idle == idle && counts.starting == 0;
    world.until(&middle, has(5)).await;
    for link in around.iter().flatten() {
        world.until(link, has(2)).await;
    }
    let before = found(&world, &middle);
    burst(&portals[0], 2).await;
    let [hits, starting, misses] = found(&world, &middle);
    assert_eq!([hits - 2, starting, misses], before);
}

#[tokio::test]
async fn places_of_a_link_with_a_stored_input_are_kept_in_reserve_as_well() {
    let world = World::start(Options::default());
    let link = Link {
        input: Some("/tmp/in".to_owned()),
        ..warm(4, "cat /tmp/in")
    };
    let portal = world.portal(&link).await;
    world.until(&link, |counts| counts.idle == 4).await;
    burst(&portal, 4).await;
    assert_eq!(found(&world, &link), [4, 0, 0]);
}

/// How many processes of a state a runner has, over all links.
fn processes(served: &Served, state: &str) -> u64 {
    let metrics = served.request("GET", "/metrics", b"").expect(200);
    let state = format!("state=\"{state}\"");
    let lines = metrics.text().lines();
    let lines = lines
        .filter(|line| line.starts_with("consecution_pool_processes") && line.contains(&state));
    lines
        .map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap())
        .sum()
}

#[test]
fn of_a_reserve_that_does_not_fit_as_many_are_kept_as_there_is_room_for() {
    let many = chain([chain_shell("cat").with("Warm", 9)]);
    let served = serve_with(&[&many], &["--processes-max", "3"]);
    let said = served.until_said("`Warm: 9`");
    for part in [
        "not all 9 processes",
        "ask for 9 in all",
        "3 processes at most",
    ] {
        assert!(said.contains(part), "{said}");
    }
    until_ready(&served);
    eventually("all that there is room for", || {
        (processes(&served, "idle") == 3).then_some(())
    });
    for _ in 0..3 {
        assert_eq!(served.post("/", b"word").expect(200).text(), "word");
    }
    eventually("the reserve again", || {
        (processes(&served, "idle") == 3).then_some(())
    });
    assert_eq!(served.said().matches("`Warm: 9`").count(), 1);
}

#[test]
fn a_reserve_gives_way_to_calls_of_other_links() {
    let greedy = chain([chain_shell("cat").with("Warm", 4)]);
    let modest = chain([link(&["/bin/cat"])]);
    let served = serve_with(&[&greedy, &modest], &["--processes-max", "4"]);
    until_ready(&served);
    let names = served.request("GET", "/chains", b"").expect(200);
    let names: serde_json::Value = serde_json::from_slice(&names.body).unwrap();
    for chain in names.as_array().unwrap() {
        let path = format!("/chains/{}", chain["name"].as_str().unwrap());
        for _ in 0..4 {
            assert_eq!(served.post(&path, b"word").expect(200).text(), "word");
        }
    }
}

/// The files that a process has open.
fn files(process: u32) -> usize {
    fs::read_dir(format!("/proc/{process}/fd")).unwrap().count()
}

/// The files that a runner has open for each process in reserve of such a link.
fn files_a_process(keys: &[(&str, &str)]) -> usize {
    let with = |count: u16| {
        let link = keys.iter().fold(chain_shell("cat"), |link, (key, value)| {
            link.with(key, value)
        });
        let served = serve(&[&chain([link.with("Warm", count)])]);
        until_ready(&served);
        eventually("the reserve", || {
            (processes(&served, "idle") == u64::from(count)).then_some(())
        });
        files(served.process())
    };
    let (few, more) = (with(4), with(16));
    (more - few).div_ceil(12)
}

#[test]
fn as_many_processes_fit_as_there_are_files_for() {
    let limits = ("Constraints", "{Memory: 64M, CPU: 1, Processes: 9}");
    let plain = files_a_process(&[limits]);
    let stored = files_a_process(&[limits, ("Input", "/tmp/in")]);
    let tar = files_a_process(&[limits, ("Input", "/tmp/in/"), ("Output", "/tmp/out/")]);
    let most = plain.max(stored).max(tar);
    let each = [plain, stored, tar];
    const FILES: u64 = 1200;
    let limit = Rlimit {
        current: Some(FILES + 64),
        ..getrlimit(Resource::Nofile)
    };
    setrlimit(Resource::Nofile, limit).unwrap();
    let fit = processes_that_fit(1000);
    assert!(fit * most <= FILES as usize, "{fit} with {each:?}");
}
