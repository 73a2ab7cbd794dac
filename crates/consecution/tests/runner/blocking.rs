//! Nothing that takes long keeps the runtime's threads from their other work: processes,
//! zygotes and trees of files are ended and deleted elsewhere.
//!
//! Each case runs on a runtime with one worker, where whatever keeps that busy is seen as a
//! gap between the ticks of a timer. What keeps it from running that is no fault of ours is
//! left out: the time for which it waited for a processor. Since a busy machine has other
//! ways to be late, such as a hypervisor that runs others meanwhile, one good run of several
//! is enough. What blocks by itself does so in all of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::support::runner::{World, images, is_soon, shell, soon};
use crate::support::{home, slow_registry};
use chain::Link;
use consecution::error::with_causes;
use consecution::open_store;
use consecution::runner::PoolConfig;
use consecution::runner::{Images, Options};
use test_support::eventually;
use test_support::processes::{HostProcess, descendants, expect_gone, memory, parent_of};
use test_support::tars::tar_of;

/// How long a runtime's thread may be kept from its other work.
const GAP_MAX: Duration = Duration::from_millis(20);

/// How often a case is tried.
const TRIES: usize = 5;

/// How many files the image has that is given up half-way.
const FILES: usize = 50_000;

/// A timer that ticks each millisecond, and how late it was at most.
struct Ticks {
    is_over: Arc<AtomicBool>,
    ticking: JoinHandle<Duration>,
}

impl Ticks {
    async fn start() -> Ticks {
        let is_over = Arc::new(AtomicBool::new(false));
        let (told, has_begun) = oneshot::channel();
        let ticking = tokio::spawn(tick(told, Arc::clone(&is_over)));
        has_begun.await.unwrap();
        Ticks { is_over, ticking }
    }

    /// The longest gap between two ticks until now.
    async fn longest(self) -> Duration {
        self.is_over.store(true, Ordering::Relaxed);
        self.ticking.await.unwrap()
    }
}

async fn tick(begun: oneshot::Sender<()>, is_over: Arc<AtomicBool>) -> Duration {
    let mut longest = Duration::ZERO;
    let mut last = (Instant::now(), waited());
    begun.send(()).unwrap();
    while !is_over.load(Ordering::Relaxed) {
        sleep(Duration::from_millis(1)).await;
        let now = (Instant::now(), waited());
        let gap = now.0 - last.0;
        longest = longest.max(gap.saturating_sub(now.1.saturating_sub(last.1)));
        last = now;
    }
    longest
}

/// For how long this thread has waited for a processor so far.
fn waited() -> Duration {
    // proc(5): nanoseconds on a processor, nanoseconds of waiting for one, turns.
    let schedstat = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    let waited = schedstat.split(' ').nth(1).unwrap();
    Duration::from_nanos(waited.parse().unwrap())
}

/// One run of that, at least, keeps the only worker of its runtime from nothing.
#[track_caller]
fn expect_no_gap<Case>(case: impl Fn() -> Case)
where
    Case: Future<Output = Duration> + Send + 'static,
{
    let mut gaps = Vec::new();
    for _ in 0..TRIES {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).enable_all().build().unwrap();
        // On the worker, and not on this thread.
        let case = runtime.spawn(case());
        let gap = runtime.block_on(case).unwrap();
        eprintln!("the longest gap: {gap:?}");
        if gap < GAP_MAX {
            return;
        }
        gaps.push(gap);
    }
    panic!("the timer had gaps of {gaps:?}, each time");
}

/// A runner that has that many processes of each of its links in reserve.
fn start(processes: usize) -> World {
    let pool = PoolConfig {
        floor: processes,
        idle_max: processes,
    };
    World::start(Options {
        pool,
        ..Options::default()
    })
}

/// Has a link served there, with all of its reserve.
async fn serve(world: &World, script: &str, processes: usize) -> Link {
    let link = shell(script);
    world.links.put(Arc::new(link.clone())).await.unwrap();
    world.runner.ready(link.id()).await.unwrap();
    world.until(&link, |counts| counts.idle == processes).await;
    link
}

/// The processes whose command line has that in it.
fn processes(marker: &str) -> Vec<HostProcess> {
    let mut all = descendants(std::process::id());
    all.retain(|process| process.command.contains(marker));
    all
}

/// Waits until nothing runs that has that in its command line; looks elsewhere.
async fn until_gone(marker: &'static str) {
    let looking = tokio::task::spawn_blocking(move || {
        eventually("the processes to be gone", || {
            processes(marker).is_empty().then_some(())
        });
    });
    looking.await.unwrap();
}

#[test]
fn fifty_idle_processes_are_thrown_away_elsewhere() {
    let _ = home::shared();
    expect_no_gap(|| async {
        let world = start(50);
        serve(&world, "cat; : fifty", 50).await;
        let ticks = Ticks::start().await;
        drop(world);
        until_gone("fifty").await;
        ticks.longest().await
    });
}

#[test]
fn a_link_of_thirty_processes_is_removed_elsewhere() {
    let _ = home::shared();
    expect_no_gap(|| async {
        let world = start(30);
        let link = serve(&world, "cat; : thirty", 30).await;
        let ticks = Ticks::start().await;
        assert!(world.links.remove(link.id()).await.unwrap());
        until_gone("thirty").await;
        soon(world.runner.drain()).await;
        ticks.longest().await
    });
}

/// A script that holds that much memory, in powers of two of 16 bytes, and then does what
/// `cat` does: the kernel takes a while to end its process.
fn heavy(doublings: usize, marker: &str) -> String {
    let double = "x=$x$x; ".repeat(doublings);
    format!("x=0123456789abcdef; {double}cat; : {marker}")
}

#[test]
fn what_a_killed_zygote_leaves_is_cleared_away_elsewhere() {
    const PROCESSES: usize = 16;
    const DOUBLINGS: usize = 21;
    let _ = home::shared();
    let script: &str = heavy(DOUBLINGS, "orphaned").leak();
    expect_no_gap(move || async move {
        let world = start(PROCESSES);
        let link = serve(&world, script, PROCESSES).await;
        let loaded = tokio::task::spawn_blocking(|| {
            eventually("all of them to hold their memory", || {
                let found = processes("orphaned");
                let is_loaded = |process: &HostProcess| memory(process.id) > 16 << DOUBLINGS;
                found.iter().all(is_loaded).then_some(found)
            })
        });
        let old = loaded.await.unwrap();
        assert_eq!(old.len(), PROCESSES);
        let zygote = parent_of(old[0].id).and_then(parent_of);
        let all = descendants(std::process::id());
        let zygote = all.into_iter().find(|process| Some(process.id) == zygote);
        let ticks = Ticks::start().await;
        zygote.unwrap().kill();
        let looking = tokio::task::spawn_blocking(move || expect_gone(&old));
        looking.await.unwrap();
        let is_served_again = || {
            let counts = world.runner.counts(link.id());
            counts.is_some_and(|counts| counts.idle == PROCESSES)
        };
        assert!(is_soon(is_served_again).await);
        let gap = ticks.longest().await;
        soon(world.runner.drain()).await;
        gap
    });
}

/// A tar of that many empty files, in folders of a thousand.
fn tar_of_files(files: usize) -> Vec<u8> {
    let names = (0..files).map(|number| format!("f{:03}/{number}", number / 1_000));
    let names: Vec<String> = names.collect();
    let files: Vec<_> = names.iter().map(|name| (&**name, &b""[..])).collect();
    tar_of(&files)
}

/// The roots that are being unpacked there.
fn unpacked(home: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(home.join("images/tmp")).into_iter().flatten();
    entries.flatten().map(|entry| entry.path()).collect()
}

#[test]
fn the_tree_of_a_pull_that_fails_half_way_is_deleted_elsewhere() {
    let tar = tar_of_files(FILES);
    expect_no_gap(|| {
        // In memory: how fast disks are is not what is tested.
        let home = tempfile::tempdir_in("/dev/shm").unwrap();
        let folder = home.path().to_owned();
        let last = format!("root/f{:03}/{}", (FILES - 1) / 1_000, FILES - 1);
        let half_way = move || {
            eventually("the first layer to be unpacked", || {
                let mut roots = unpacked(&folder).into_iter();
                roots.any(|root| root.join(&last).exists()).then_some(())
            });
        };
        let registry = slow_registry::start(tar.clone(), half_way);
        let images = Images {
            store: open_store(home.path()).unwrap(),
            ..images()
        };
        async move {
            let world = World::start_with(Options::default(), images);
            let link = Link::new(format!("{registry}/many"));
            world.links.put(Arc::new(link.clone())).await.unwrap();
            let ticks = Ticks::start().await;
            let error = world.runner.ready(link.id()).await.unwrap_err();
            let error = with_causes(&*error);
            assert!(error.contains("404"), "{error}");
            // Else it is soon tried again.
            assert!(world.links.remove(link.id()).await.unwrap());
            let folder = home.path().to_owned();
            let looking = tokio::task::spawn_blocking(move || {
                eventually("the tree to be deleted", || {
                    unpacked(&folder).is_empty().then_some(())
                });
            });
            looking.await.unwrap();
            let gap = ticks.longest().await;
            drop(world);
            gap
        }
    });
}
