//! A runner among others: what it says of itself, and how it takes its leave,
//! or that of a link, without losing a call.
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::runner::{Call, World, is_soon, shell, soon};
use chain::Link;
use consecution::link_store::RunnerState;
use consecution::portal::FailureReason;
use consecution::runner::{Options, RunnerName};
use consecution::transport::{RefusalReason, Request};
use futures_util::FutureExt;
use test_support::processes;

/// Whether nobody takes calls of that link.
async fn is_unserved(world: &World, link: &Link) -> bool {
    let probed = world.transport.probe(link.id()).await;
    matches!(probed, Err(RefusalReason::NoRunner))
}

/// The processes of links that were started by this one.
fn processes() -> Vec<processes::HostProcess> {
    processes::descendants(std::process::id())
}

/// All of these end, and soon, while the runner goes on.
async fn expect_gone(processes: Vec<processes::HostProcess>) {
    let waiting = tokio::task::spawn_blocking(move || processes::expect_gone(&processes));
    waiting.await.unwrap();
}

#[tokio::test]
async fn a_drained_runner_takes_no_more_and_finishes_what_it_has() {
    let world = World::start(Options::default());
    let links = [shell("cat"), shell("cat; exit 0")];
    let portals = [world.portal(&links[0]).await, world.portal(&links[1]).await];
    let calls = [
        Call::begin(&portals[0]).await,
        Call::begin(&portals[1]).await,
    ];
    let mut draining = world.runner.drain().boxed();
    assert!((&mut draining).now_or_never().is_none());
    for link in &links {
        while !is_unserved(&world, link).await {
            assert!((&mut draining).now_or_never().is_none());
            tokio::task::yield_now().await;
        }
    }
    let later = shell("cat; true");
    world.links.put(Arc::new(later.clone())).await.unwrap();
    let seen = processes();
    assert!(!seen.is_empty());
    for call in calls {
        assert!((&mut draining).now_or_never().is_none());
        call.finish().await;
    }
    soon(draining).await;
    expect_gone(seen).await;
    assert!(is_unserved(&world, &later).await);
    assert!(world.runner.ready(later.id()).await.is_err());
    // It stays so.
    soon(world.runner.drain()).await;
}

#[tokio::test]
async fn a_drain_does_not_wait_for_links_that_are_not_served() {
    let world = World::start(Options::default());
    let broken = Link {
        command: Some("/nonesuch".to_owned()),
        ..Link::new("busybox")
    };
    world.links.put(Arc::new(broken.clone())).await.unwrap();
    world.runner.ready(broken.id()).await.unwrap_err();
    soon(world.runner.drain()).await;
}

#[tokio::test]
async fn a_dropped_runner_ends_the_calls_that_it_has() {
    let world = World::start(Options::default());
    let portal = world.portal(&shell("cat")).await;
    let call = Call::begin(&portal).await;
    let seen = processes();
    drop(world.runner);
    expect_gone(seen).await;
    drop(call);
}

#[tokio::test]
async fn a_link_that_is_removed_finishes_its_calls_and_no_other_is_served() {
    let world = World::start(Options::default());
    let link = shell("cat");
    let portal = world.portal(&link).await;
    let call = Call::begin(&portal).await;
    let seen = processes();
    assert!(world.links.remove(link.id()).await.unwrap());
    while !is_unserved(&world, &link).await {
        tokio::task::yield_now().await;
    }
    assert!(world.runner.counts(link.id()).is_none());
    let error = portal.send("x").await.unwrap_err();
    assert_eq!(error.reason, FailureReason::NoRunner);
    call.finish().await;
    expect_gone(seen).await;
}

#[tokio::test]
async fn a_link_that_is_put_again_while_it_is_drained_is_served_anew() {
    let world = World::start(Options::default());
    let link = shell("cat");
    let portal = world.portal(&link).await;
    let call = Call::begin(&portal).await;
    assert!(world.links.remove(link.id()).await.unwrap());
    while !is_unserved(&world, &link).await {
        tokio::task::yield_now().await;
    }
    let portal = world.portal(&link).await;
    assert_eq!(soon(portal.send("x")).await.unwrap(), "x");
    call.finish().await;
    // The end of the old one does not touch the new one.
    for _ in 0..3 {
        assert_eq!(soon(portal.send("x")).await.unwrap(), "x");
    }
    assert!(world.runner.counts(link.id()).is_some());
}

#[tokio::test]
async fn a_call_that_comes_too_late_is_refused_and_can_be_made_elsewhere() {
    let world = World::start(Options::default());
    let link = shell("cat");
    drop(world.portal(&link).await);
    soon(world.runner.drain()).await;
    let refused = world.transport.call(link.id(), Request::new("x")).await;
    let refusal = refused.unwrap_err();
    assert_eq!(refusal.request.body.collect().await.unwrap(), "x");
}

/// Log lines, as they are written.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// Gets what this thread logs while the guard is held.
    fn start(&self) -> tracing::subscriber::DefaultGuard {
        let log = self.clone();
        let lines = tracing_subscriber::fmt().with_ansi(false);
        let lines = lines.with_writer(move || log.clone());
        tracing::subscriber::set_default(lines.finish())
    }

    fn lines_with(&self, part: &str) -> Vec<String> {
        let log = self.0.lock().unwrap();
        let lines = String::from_utf8_lossy(&log);
        let lines = lines.lines().filter(|line| line.contains(part));
        lines.map(str::to_owned).collect()
    }
}

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_broken_link_is_said_once_however_often_it_is_tried() {
    let log = Log::default();
    let _logging = log.start();
    let world = World::start(Options::default());
    let broken = Link::new("NOT an image");
    world.links.put(Arc::new(broken.clone())).await.unwrap();
    world.runner.ready(broken.id()).await.unwrap_err();
    let id = broken.id().to_string();
    assert_eq!(log.lines_with(&id).len(), 1);
    // A hundred attempts and more.
    tokio::time::sleep(Duration::from_secs(6_000)).await;
    let lines = log.lines_with(&id);
    assert_eq!(lines.len(), 1, "{lines:?}");
    for part in ["WARN", "NOT an image", "failed to read image name"] {
        assert!(lines[0].contains(part), "{lines:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_runner_that_nobody_is_to_know_of_leaves_it_to_who_asks() {
    let log = Log::default();
    let _logging = log.start();
    let world = World::start(Options::one_shot());
    let broken = Link::new("NOT an image");
    world.links.put(Arc::new(broken.clone())).await.unwrap();
    world.runner.ready(broken.id()).await.unwrap_err();
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(log.lines_with(""), [""; 0]);
}

/// What the store knows of the runner of that name, when that is so.
async fn announced(world: &World, name: &str, wanted: impl Fn(&RunnerState) -> bool) {
    let looking = async {
        loop {
            let runners = world.links.runners().await.unwrap();
            if runners.get(name).is_some_and(&wanted) {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    let found = tokio::time::timeout(Duration::from_secs(30), looking).await;
    assert!(found.is_ok(), "{:?}", world.links.runners().await);
}

#[tokio::test]
async fn a_runner_says_how_it_is_with_its_links() {
    let name: RunnerName = "one".parse().unwrap();
    let world = World::start(Options {
        name: Some(name),
        processes_max: 7,
        ..Options::default()
    });
    announced(&world, "one", |state| state.processes_max == 7).await;
    let good = shell("cat");
    let portal = world.portal(&good).await;
    let broken = Link {
        command: Some("/nonesuch".to_owned()),
        ..Link::new("busybox")
    };
    world.links.put(Arc::new(broken.clone())).await.unwrap();
    announced(&world, "one", |state| {
        let reason = state.broken.get(&broken.id().to_string());
        state.serving == 1 && reason.is_some_and(|reason| reason.contains("/nonesuch"))
    })
    .await;
    let call = Call::begin(&portal).await;
    let mut draining = world.runner.drain().boxed();
    assert!((&mut draining).now_or_never().is_none());
    announced(&world, "one", |state| state.draining && state.serving == 0).await;
    call.finish().await;
    soon(draining).await;
    drop(world.runner);
    assert!(world.links.runners().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_runner_for_one_run_is_not_announced() {
    let world = World::start(Options::one_shot());
    let link = shell("cat");
    let portal = world.portal(&link).await;
    assert_eq!(portal.send("x").await.unwrap(), "x");
    assert!(world.links.runners().await.unwrap().is_empty());
    assert!(is_soon(|| world.runner.state().serving == 1).await);
}
