//! Links that are asked for together again are warm together: as pipelines whose processes
//! share pipes, and of which nobody can tell by what comes of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::support::runner::{Call, World, is_soon, metrics, shell, soon};
use chain::{Chain, ChainLink, Deadline, Link, Network};
use consecution::portal::{ChainReply, ChainRequest, Portal, Report};
use consecution::runner::{Options, Sandboxing};
use consecution::transport::{Following, Request};
use test_support::processes::{HostProcess, children, descendants};

/// Links that give what they are given.
fn cats(count: usize) -> Vec<Link> {
    (0..count)
        .map(|at| shell(&format!("cat; : {at}")))
        .collect()
}

/// A world that serves those links, and a portal for a chain of them.
async fn serving(options: Options, links: &[Link]) -> (World, Portal) {
    let world = World::start(options);
    let portal = world.portal_of(links.to_vec()).await;
    for link in links {
        world.runner.ready(link.id()).await.unwrap();
    }
    (world, portal)
}

/// The pipes of which one process of the runner has the one end for its output, and another
/// one the other end for its input, which is given with them.
fn joints() -> BTreeMap<PathBuf, HostProcess> {
    let end = |process: &HostProcess, descriptor| {
        let end = fs::read_link(format!("/proc/{}/fd/{descriptor}", process.id)).ok()?;
        end.to_string_lossy().starts_with("pipe:").then_some(end)
    };
    let mut shells = descendants(std::process::id());
    shells.retain(|process| process.command.starts_with("/bin/sh"));
    let outputs: BTreeSet<_> = shells.iter().filter_map(|sh| end(sh, 1)).collect();
    let inputs = shells.into_iter().filter_map(|sh| Some((end(&sh, 0)?, sh)));
    inputs
        .filter(|(input, _)| outputs.contains(input))
        .collect()
}

fn joined() -> usize {
    joints().len()
}

/// Waits until that many of these links' pipelines are in reserve.
async fn until_warm(world: &World, links: &[Link], pipelines: usize) {
    let wanted = pipelines * (links.len() - 1);
    assert!(is_soon(|| joined() == wanted).await, "{}", joined());
    for link in links {
        world
            .until(link, |counts| {
                counts.idle == pipelines && counts.starting == 0
            })
            .await;
    }
}

/// Calls a chain as often as it takes for its links to be warm together.
async fn warm_up(world: &World, links: &[Link], portal: &Portal) {
    for _ in 0..2 {
        assert_eq!(soon(portal.send("some")).await.unwrap(), "some");
    }
    until_warm(world, links, 2).await;
}

/// The count of a link by that name.
fn counted(world: &World, name: &str, link: &Link) -> u64 {
    let text = metrics(&world.runner);
    let start = format!(
        "consecution_runner_{name}_total{{link_id=\"{}\"}} ",
        link.id()
    );
    let line = text.lines().find_map(|line| line.strip_prefix(&start));
    line.unwrap().parse().unwrap()
}

async fn report_of(portal: &Portal, input: &'static str) -> Report {
    let ChainReply { body, report } = portal.stream(ChainRequest::new(input));
    assert_eq!(soon(body.collect()).await.unwrap(), input);
    soon(report).await.unwrap()
}

#[tokio::test]
async fn links_that_are_called_together_again_are_warm_as_one_pipeline() {
    let links = cats(3);
    let (world, portal) = serving(Options::default(), &links).await;
    for link in &links {
        world.until(link, |counts| counts.idle == 2).await;
    }
    assert_eq!(joined(), 0, "each by itself at first");
    warm_up(&world, &links, &portal).await;
    let misses = || -> u64 {
        links
            .iter()
            .map(|of| counted(&world, "warm_misses", of))
            .sum()
    };
    let (hits_before, misses_before) = (counted(&world, "warm_hits", &links[1]), misses());
    for call in 1..=3 {
        let report = report_of(&portal, "words").await;
        let joined: Vec<_> = report.links.iter().map(|link| link.is_joined).collect();
        assert_eq!(joined, [false, true, true]);
        until_warm(&world, &links, 2).await;
        let hits = counted(&world, "warm_hits", &links[1]);
        assert_eq!((hits, misses()), (hits_before + call, misses_before));
    }
}

#[tokio::test]
async fn a_link_that_is_called_by_itself_as_well_is_warm_both_ways() {
    let links = cats(2);
    let (world, portal) = serving(Options::default(), &links).await;
    let alone = world.portal(&links[0]).await;
    for _ in 0..2 {
        assert_eq!(soon(alone.send("some")).await.unwrap(), "some");
    }
    for _ in 0..2 {
        assert_eq!(soon(portal.send("some")).await.unwrap(), "some");
    }
    world.until(&links[0], |counts| counts.idle == 4).await;
    world.until(&links[1], |counts| counts.idle == 2).await;
    assert_eq!(joined(), 2);
}

#[tokio::test]
async fn made_up_sequences_do_not_take_the_place_of_those_in_use() {
    let links = cats(3);
    let (world, portal) = serving(Options::default(), &links).await;
    warm_up(&world, &links, &portal).await;
    for made_up in 0..60 {
        let at = |place: usize| &links[(made_up / 3_usize.pow(u32::try_from(place).unwrap())) % 3];
        let following = (1..4).map(|place| Following {
            id: at(place).id(),
            accepted: vec![0, u8::try_from(made_up).unwrap()],
        });
        let request = Request {
            following: following.collect(),
            ..Request::new("words")
        };
        let reply = soon(world.transport.call(at(0).id(), request))
            .await
            .unwrap();
        assert_eq!(reply.joined, 3);
        assert_eq!(soon(reply.body.collect()).await.unwrap(), "words");
        soon(reply.outcome).await;
    }
    until_warm(&world, &links, 2).await;
    let misses = || counted(&world, "warm_misses", &links[0]);
    let before = misses();
    assert_eq!(soon(portal.send("some")).await.unwrap(), "some");
    assert_eq!(misses(), before);
}

#[tokio::test]
async fn a_link_that_is_removed_ends_no_call_and_takes_its_idle_pipelines_with_it() {
    let links = cats(3);
    let (world, portal) = serving(Options::default(), &links).await;
    warm_up(&world, &links, &portal).await;
    let call = Call::begin(&portal).await;
    assert!(world.links.remove(links[1].id()).await.unwrap());
    assert!(is_soon(|| world.runner.counts(links[1].id()).is_none()).await);
    // Those at work are left alone.
    assert!(is_soon(|| joined() == 2).await, "{}", joined());
    for link in [&links[0], &links[2]] {
        world
            .until(link, |counts| counts.idle == 2 && counts.in_use == 1)
            .await;
    }
    call.finish().await;
    assert!(is_soon(|| joined() == 0).await);
}

#[tokio::test]
async fn pipelines_whose_zygote_is_killed_are_warm_again() {
    let links = cats(2);
    let (world, portal) = serving(Options::default(), &links).await;
    warm_up(&world, &links, &portal).await;
    let processes = descendants(std::process::id());
    children(std::process::id())[0].kill();
    let is_left = |process: &HostProcess| fs::exists(format!("/proc/{}", process.id)).unwrap();
    let idle = processes
        .iter()
        .filter(|process| process.command.starts_with("/bin/sh"));
    let idle: Vec<_> = idle.collect();
    assert!(is_soon(|| !idle.iter().any(|process| is_left(process))).await);
    until_warm(&world, &links, 2).await;
    assert_eq!(soon(portal.send("some")).await.unwrap(), "some");
}

#[tokio::test]
async fn a_pipeline_of_which_one_process_is_killed_is_replaced() {
    let links = cats(2);
    let (world, portal) = serving(Options::default(), &links).await;
    warm_up(&world, &links, &portal).await;
    for killed in 1..=3 {
        joints().values().next().unwrap().kill();
        let spoiled = || counted(&world, "spoiled", &links[0]);
        assert!(is_soon(|| spoiled() >= killed).await, "{}", spoiled());
        assert_eq!(spoiled(), killed);
        until_warm(&world, &links, 2).await;
    }
    assert_eq!(counted(&world, "spoiled", &links[1]), 3);
}

#[tokio::test]
async fn where_there_is_no_room_for_all_the_longest_beginning_is_taken() {
    let options = Options {
        processes_max: 3,
        waiting_max: 8,
        ..Options::default()
    };
    let links = cats(5);
    let (world, portal) = serving(options, &links).await;
    let mut taken = Vec::new();
    // What is on its way into the reserve just then takes room as well.
    while !taken.starts_with(&[false, true, true]) {
        assert!(taken.len() <= links.len(), "{taken:?}");
        let report = report_of(&portal, "words").await;
        taken = report.links.iter().map(|link| link.is_joined).collect();
        for link in &links {
            world.until(link, |counts| counts.in_use == 0).await;
        }
    }
}

#[tokio::test]
async fn what_is_counted_passes_the_runner() {
    let options = Options {
        sandboxing: Sandboxing {
            output_bytes_max: Some(100),
            ..Sandboxing::default()
        },
        ..Options::default()
    };
    let links = [shell("cat; : 0"), shell("cat; yes"), shell("cat; : 2")];
    let (_world, portal) = serving(options, &links).await;
    for _ in 0..3 {
        let error = soon(portal.send("some")).await.unwrap_err();
        assert_eq!(error.index, 1, "{error}");
        assert_eq!(joined(), 0);
    }
}

#[tokio::test]
async fn links_with_another_network_share_no_pipe() {
    let options = Options {
        sandboxing: Sandboxing {
            host_network: true,
            ..Sandboxing::default()
        },
        ..Options::default()
    };
    let world = World::start(options);
    let mut links = cats(4);
    for link in &mut links[2..] {
        link.network = Network::Host;
    }
    // As one call, which those are that may be made again as often.
    let together = links.iter().cloned().map(|link| ChainLink {
        retries: Some(0),
        ..ChainLink::new(link)
    });
    let chain = Chain {
        deadline: Deadline::After(Duration::from_secs(20)),
        ..Chain::new("test", together)
    };
    let portal = Portal::open(chain, Arc::clone(&world.transport), &*world.links);
    let portal = portal.await.unwrap();
    for link in &links {
        world.runner.ready(link.id()).await.unwrap();
    }
    for _ in 0..2 {
        let report = report_of(&portal, "words").await;
        assert!(report.links[1..].iter().all(|link| link.is_joined));
    }
    // Two pipelines of two, twice.
    assert!(is_soon(|| joined() == 4).await, "{}", joined());
    for link in &links {
        world.until(link, |counts| counts.idle == 2).await;
    }
    let report = report_of(&portal, "words").await;
    assert!(report.links[1..].iter().all(|link| link.is_joined));
}
