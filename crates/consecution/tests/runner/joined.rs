//! Links of one chain on one runner go on from one to the next by themselves,
//! and nobody can tell by what comes of it.
use std::sync::Arc;
use std::time::Duration;

use crate::support::runner::{World, is_soon, shell, soon};
use bytes::Bytes;
use chain::{Chain, ChainLink, Deadline, Link};
use consecution::portal::{ChainReply, ChainRequest, FailureReason, Portal, Report};
use consecution::runner::Options;
use consecution::transport::Ending;
use consecution::transport::conformance::fake;
use futures_util::StreamExt;
use tokio::sync::mpsc;

/// A chain, one that is the same but for links that go alone, and how many of
/// the first one's links are joined.
struct Twins {
    together: Portal,
    alone: Portal,
    joined: usize,
}

impl Twins {
    async fn open(world: &World, links: Vec<ChainLink>) -> Twins {
        let chain = |change: fn(&mut ChainLink)| Chain {
            deadline: Deadline::After(Duration::from_secs(20)),
            ..Chain::new(
                "test",
                links.iter().cloned().map(|mut link| {
                    change(&mut link);
                    link
                }),
            )
        };
        let alone = chain(|link| link.deadline = Some(Duration::from_secs(20)));
        let open = |chain| Portal::open(chain, Arc::clone(&world.transport), &*world.links);
        let twins = Twins {
            together: open(chain(|_| {})).await.unwrap(),
            alone: open(alone).await.unwrap(),
            joined: links.len() - 1,
        };
        for link in &links {
            world.runner.ready(link.id).await.unwrap();
        }
        twins
    }

    /// What comes of the same input in both, which must be the same.
    async fn run(&self, input: &Bytes) -> Result<Bytes, (usize, FailureReason)> {
        let mut ends = Vec::new();
        for (portal, joined) in [(&self.together, self.joined), (&self.alone, 0)] {
            let (result, report) = run(portal, input).await;
            let found = report.links.iter().filter(|link| link.is_joined).count();
            assert_eq!(found, joined);
            let endings = report.links.into_iter().map(|link| link.ending);
            ends.push((result, endings.collect::<Vec<_>>()));
        }
        let (result, endings) = ends.pop().unwrap();
        let (result_together, endings_together) = ends.pop().unwrap();
        assert_eq!(result_together, result);
        match &result {
            Ok(_) => assert_eq!(endings_together, endings),
            // Of links behind a failed one nobody waits to hear, and those before it
            // may have been stopped for being unread, or have been faster.
            Err((index, _)) => {
                assert_eq!(endings_together[*index], endings[*index]);
                let is_well = |ending: &Option<Ending>| {
                    matches!(ending, Some(Ending::Exited(0) | Ending::Unread))
                };
                for before in [&endings_together[..*index], &endings[..*index]] {
                    assert!(before.iter().all(is_well), "{before:?}");
                }
            }
        }
        result
    }
}

async fn run(portal: &Portal, input: &Bytes) -> (Result<Bytes, (usize, FailureReason)>, Report) {
    let ChainReply { body, report } = portal.stream(ChainRequest::new(input.clone()));
    let body = soon(body.collect()).await;
    match soon(report).await {
        Ok(report) => (Ok(body.unwrap()), report),
        Err(error) => {
            let end = (error.index, error.reason.clone());
            (Err(end), error.report.clone())
        }
    }
}

fn link(script: &str) -> ChainLink {
    ChainLink::new(shell(script))
}

fn accepting(script: &str, codes: &[u8]) -> ChainLink {
    ChainLink {
        accepted_exit_codes: codes.to_vec(),
        ..link(script)
    }
}

#[tokio::test]
async fn what_comes_of_a_chain_is_the_same() {
    let world = World::start(Options::default());
    let large = Bytes::from(vec![b'x'; 3 << 20]);
    let small = Bytes::from_static(b"one\ntwo\n");
    let exited = |index, code| Err((index, FailureReason::Exited(code)));
    for (links, input, wanted) in [
        (vec![link("cat"); 3], &small, Ok(small.clone())),
        (vec![link("cat"); 5], &large, Ok(large.clone())),
        (
            vec![link("cat"), link("exit 3"), link("cat; echo end")],
            &small,
            exited(1, 3),
        ),
        (
            vec![link("cat; exit 4"), link("cat; echo end")],
            &large,
            exited(0, 4),
        ),
        (
            vec![accepting("cat; exit 4", &[0, 4]), link("cat; echo end")],
            &small,
            Ok("one\ntwo\nend\n".into()),
        ),
        (
            vec![link("cat"), accepting("exit 0", &[1]), link("cat")],
            &small,
            exited(1, 0),
        ),
        (
            vec![link("yes"), link("head -n 1"), link("cat")],
            &small,
            Ok("y\n".into()),
        ),
        (
            vec![link("cat"), link("kill -9 $$"), link("cat")],
            &small,
            Err((1, FailureReason::Signalled(9))),
        ),
    ] {
        let twins = Twins::open(&world, links).await;
        assert_eq!(twins.run(input).await, wanted);
    }
}

#[tokio::test]
async fn stopping_the_last_link_stops_all_of_them() {
    let world = World::start(Options::default());
    let links = [shell("yes"), shell("cat"), shell("cat; true")];
    let portal = world.portal_of(links.to_vec()).await;
    for link in &links {
        world.runner.ready(link.id()).await.unwrap();
    }
    let (_open, input) = mpsc::channel(1);
    let input = fake::receiving(input);
    let ChainReply { mut body, report } = portal.stream(ChainRequest::new(input));
    let first = soon(body.next()).await;
    assert!(first.unwrap().unwrap().starts_with(b"y\ny\n"));
    drop(body);
    let report = soon(report).await.unwrap();
    assert!(report.links.iter().skip(1).all(|link| link.is_joined));
    for link in &report.links {
        assert_eq!(link.ending, Some(Ending::Unread));
    }
    for link in &links {
        world.until(link, |counts| counts.in_use == 0).await;
    }
}

#[tokio::test]
async fn a_runner_without_room_for_all_takes_what_it_can() {
    // Two processes at a time, and four links that wait for one another.
    let world = World::start(Options {
        processes_max: 2,
        waiting_max: 8,
        ..Options::default()
    });
    let links: Vec<Link> = (0..4).map(|at| shell(&format!("cat; : {at}"))).collect();
    let portal = world.portal_of(links.clone()).await;
    for link in &links {
        world.runner.ready(link.id()).await.unwrap();
    }
    // Each gives its place up when it has written all.
    assert_eq!(soon(portal.send("some")).await.unwrap(), "some");
    for link in &links {
        world.until(link, |counts| counts.in_use == 0).await;
    }
}

#[tokio::test]
async fn a_link_that_is_removed_is_not_gone_on_to() {
    let world = World::start(Options::default());
    let links = [shell("cat"), shell("cat; true")];
    let portal = world.portal_of(links.to_vec()).await;
    for link in &links {
        world.runner.ready(link.id()).await.unwrap();
    }
    assert_eq!(soon(portal.send("some")).await.unwrap(), "some");
    assert!(world.links.remove(links[1].id()).await.unwrap());
    let removed = || world.runner.counts(links[1].id()).is_none();
    assert!(is_soon(removed).await);
    let error = soon(portal.send("some")).await.unwrap_err();
    assert_eq!((error.index, &error.reason), (1, &FailureReason::NoRunner));
}
