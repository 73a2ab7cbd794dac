//! The pool with fakes for processes, under a paused clock.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::super::pool_state::{COLD_MIN, IDLE_MAX, Look, QUIET, REFILL_PAUSE, SETTLES_WITHIN};
use super::*;
use crate::transport::conformance::fake;

const START_TIME: Duration = Duration::from_millis(5);

/// Room for so many processes, and two who wait.
fn room(processes_max: usize) -> Capacity<Fake> {
    room_to_wait(processes_max, 2)
}

fn room_to_wait(processes_max: usize, waiting_max: usize) -> Capacity<Fake> {
    Capacity::new(Limits {
        processes_max,
        waiting_max,
        refilling_max: usize::MAX,
    })
}

/// What a test decides about the processes of a link, and sees of them.
#[derive(Clone)]
struct Bench {
    fails: Arc<AtomicBool>,
    starves: Arc<AtomicBool>,
    /// When those that are alive were started, by their number.
    born: Arc<Mutex<BTreeMap<usize, Instant>>>,
    spoil: Arc<watch::Sender<bool>>,
    spoiled_by: Arc<Mutex<SpoiledBy>>,
    alive: Arc<AtomicUsize>,
    started: Arc<AtomicUsize>,
    rested: Arc<AtomicUsize>,
    /// For how long they run before they sleep; `None` if nobody can tell.
    runs: Option<Duration>,
    looks: Arc<AtomicUsize>,
}

impl Bench {
    fn new() -> Bench {
        Bench {
            fails: Arc::default(),
            starves: Arc::default(),
            born: Arc::default(),
            spoil: Arc::new(watch::Sender::new(false)),
            spoiled_by: Arc::new(Mutex::new(SpoiledBy::Itself)),
            alive: Arc::default(),
            started: Arc::default(),
            rested: Arc::default(),
            runs: None,
            looks: Arc::default(),
        }
    }

    fn looks(&self) -> usize {
        self.looks.load(Ordering::SeqCst)
    }

    fn alive(&self) -> usize {
        self.alive.load(Ordering::SeqCst)
    }

    fn rested(&self) -> usize {
        self.rested.load(Ordering::SeqCst)
    }

    fn started(&self) -> usize {
        self.started.load(Ordering::SeqCst)
    }

    fn pool(&self, floor: usize, capacity: &Capacity<Fake>) -> Pool<Fake> {
        let config = Config {
            floor,
            ..Config::default()
        };
        Pool::new([fake::link_id()], self.clone(), &config, capacity)
    }
}

struct Fake {
    number: usize,
    runs: Option<Duration>,
    looks: Arc<AtomicUsize>,
    born: Arc<Mutex<BTreeMap<usize, Instant>>>,
    spoil: watch::Receiver<bool>,
    spoiled_by: Arc<Mutex<SpoiledBy>>,
    alive: Arc<AtomicUsize>,
}

impl Starter for Bench {
    type Pipeline = Fake;

    async fn start(&self) -> Result<Fake, TakeError> {
        sleep(START_TIME).await;
        if self.fails.load(Ordering::SeqCst) {
            return Err(TakeError::CannotStart("no such command".into()));
        }
        if self.starves.load(Ordering::SeqCst) {
            return Err(TakeError::Starved("too many open files".into()));
        }
        self.alive.fetch_add(1, Ordering::SeqCst);
        let number = self.started.fetch_add(1, Ordering::SeqCst) + 1;
        self.born.lock().insert(number, Instant::now());
        Ok(Fake {
            number,
            runs: self.runs,
            looks: Arc::clone(&self.looks),
            born: Arc::clone(&self.born),
            spoil: self.spoil.subscribe(),
            spoiled_by: Arc::clone(&self.spoiled_by),
            alive: Arc::clone(&self.alive),
        })
    }

    fn rest(&self) {
        self.rested.fetch_add(1, Ordering::SeqCst);
    }
}

impl Idle for Fake {
    async fn spoiled(&self) {
        let mut spoil = self.spoil.clone();
        spoil.wait_for(|spoil| *spoil).await.expect("a bench");
    }

    fn probe(&self) -> Option<Box<dyn Probe>> {
        Some(Box::new(FakeProbe {
            sleeps_at: Instant::now() + self.runs?,
            was_asleep: false,
            looks: Arc::clone(&self.looks),
        }))
    }

    async fn spoiled_by(&mut self) -> SpoiledBy {
        *self.spoiled_by.lock()
    }
}

struct FakeProbe {
    sleeps_at: Instant,
    was_asleep: bool,
    looks: Arc<AtomicUsize>,
}

impl Probe for FakeProbe {
    fn look(&mut self) -> Look {
        self.looks.fetch_add(1, Ordering::SeqCst);
        if Instant::now() < self.sleeps_at {
            return Look::Awake;
        }
        match std::mem::replace(&mut self.was_asleep, true) {
            true => Look::Unchanged,
            false => Look::Asleep,
        }
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.born.lock().remove(&self.number);
        self.alive.fetch_sub(1, Ordering::SeqCst);
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_process_is_taken_at_once_and_replaced_later() {
    let bench = Bench::new();
    let pool = bench.pool(2, &room(10));
    sleep(START_TIME * 2).await;
    assert_eq!(pool.counts().idle, 2);

    let before = Instant::now();
    let _one = pool.take().await.unwrap();
    let _two = pool.take().await.unwrap();
    assert_eq!(before.elapsed(), Duration::ZERO);
    assert_eq!(
        pool.counts(),
        Counts {
            idle: 0,
            starting: 1,
            in_use: 2,
            waiting: 0
        }
    );
    sleep(START_TIME * 2).await;
    assert_eq!(
        pool.counts(),
        Counts {
            idle: 2,
            starting: 0,
            in_use: 2,
            waiting: 0
        }
    );
}

#[tokio::test(start_paused = true)]
async fn a_short_call_is_over_before_its_process_is_replaced() {
    let bench = Bench::new();
    let pool = bench.pool(2, &room(10));
    sleep(START_TIME * 2).await;
    drop(pool.take().await.unwrap());
    assert_eq!(pool.counts().starting, 0);
    sleep(REFILL_PAUSE + Duration::from_millis(1)).await;
    assert_eq!(pool.counts().starting, 1);
    sleep(START_TIME * 2).await;
    assert_eq!(pool.counts().idle, 2);
}

#[tokio::test(start_paused = true)]
async fn what_is_kept_for_speed_is_given_up_when_it_is_quiet() {
    let bench = Bench::new();
    let pool = bench.pool(2, &room(10));
    for rested in 1..3 {
        let long = pool.take().await.unwrap();
        sleep(REST_AFTER - START_TIME * 2).await;
        drop(long);
        sleep(REST_AFTER - START_TIME).await;
        assert_eq!(bench.rested(), rested - 1);
        sleep(START_TIME * 2).await;
        assert_eq!(bench.rested(), rested);
        sleep(REST_AFTER * 2).await;
        assert_eq!(bench.rested(), rested);
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_floor_nothing_is_left_behind() {
    let bench = Bench::new();
    let pool = bench.pool(0, &room(10));
    sleep(START_TIME * 2).await;
    assert_eq!(bench.started(), 0);
    drop(pool.take().await.unwrap());
    sleep(START_TIME * 2).await;
    assert_eq!((bench.started(), bench.alive()), (1, 0));
    assert_eq!(pool.counts(), Counts::default());
}

#[tokio::test(start_paused = true)]
async fn room_comes_back_with_the_permit_and_not_with_the_process() {
    let bench = Bench::new();
    let pool = bench.pool(0, &room(1));
    let Taken {
        pipeline, permit, ..
    } = pool.take().await.unwrap();
    drop(pipeline);
    assert!(timeout(Duration::from_secs(1), pool.take()).await.is_err());
    drop(permit);
    pool.take().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_waits_beyond_the_bound_is_told_at_once() {
    let bench = Bench::new();
    let pool = Arc::new(bench.pool(0, &room(1)));
    let taken = pool.take().await.unwrap();
    let waiting: Vec<_> = (0..2)
        .map(|_| {
            let pool = Arc::clone(&pool);
            tokio::spawn(async move { pool.take().await.map(drop) })
        })
        .collect();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(pool.take().await.err(), Some(TakeError::Busy));
    drop(taken);
    for waiting in waiting {
        waiting.await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_pushed_out_by_another_link_is_told() {
    let (one, two) = (Bench::new(), Bench::new());
    let capacity = room(1);
    let (one, two) = (Arc::new(one.pool(0, &capacity)), two.pool(0, &capacity));
    let taken = one.take().await.unwrap();
    let wait = || {
        let pool = Arc::clone(&one);
        tokio::spawn(async move { pool.take().await.map(drop) })
    };
    let first = wait();
    sleep(START_TIME).await;
    let second = wait();
    sleep(START_TIME).await;
    let mut other = std::pin::pin!(two.take());
    assert!(timeout(START_TIME, &mut other).await.is_err());
    assert_eq!(second.await.unwrap(), Err(TakeError::Busy));
    drop(taken);
    first.await.unwrap().unwrap();
    other.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_stops_waiting_leaves_nothing_behind() {
    let bench = Bench::new();
    let pool = bench.pool(0, &room(1));
    // Before the process is started, and at the very moment at which it is.
    for patience in [START_TIME / 2, START_TIME] {
        let _ = timeout(patience, pool.take()).await;
        sleep(START_TIME * 2).await;
        assert_eq!(pool.counts(), Counts::default());
        assert_eq!(bench.alive(), 0);
    }
    let taken = pool.take().await.unwrap();
    assert!(timeout(START_TIME, pool.take()).await.is_err());
    assert_eq!(pool.counts().waiting, 0);
    drop(taken);
}

#[tokio::test(start_paused = true)]
async fn a_start_that_fails_is_told_and_tried_again_later() {
    let bench = Bench::new();
    bench.fails.store(true, Ordering::SeqCst);
    let pool = bench.pool(1, &room(10));
    let error = pool.take().await.err();
    assert_eq!(
        error,
        Some(TakeError::CannotStart("no such command".into()))
    );
    bench.fails.store(false, Ordering::SeqCst);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(pool.counts().idle, 1);
}

#[tokio::test(start_paused = true)]
async fn a_start_that_panics_gives_its_room_back() {
    struct Panicking;
    impl Starter for Panicking {
        type Pipeline = Fake;
        async fn start(&self) -> Result<Fake, TakeError> {
            panic!("on purpose");
        }

        fn rest(&self) {}
    }
    let config = Config {
        floor: 0,
        ..Config::default()
    };
    let pool = Pool::new([fake::link_id()], Panicking, &config, &room(1));
    for _ in 0..3 {
        assert_eq!(pool.take().await.err(), Some(TakeError::Busy));
    }
    assert_eq!(pool.counts(), Counts::default());
}

#[tokio::test(start_paused = true)]
async fn a_process_that_spoils_itself_leaves_its_link_cold_for_a_while() {
    let bench = Bench::new();
    let pool = bench.pool(3, &room(10));
    sleep(START_TIME * 2).await;
    assert_eq!(bench.alive(), 3);
    bench.spoil.send_replace(true);
    sleep(START_TIME * 2).await;
    assert_eq!((bench.alive(), bench.started()), (0, 3));
    bench.spoil.send_replace(false);

    drop(pool.take().await.unwrap());
    sleep(START_TIME * 2).await;
    assert_eq!((bench.alive(), bench.started()), (0, 4));
    sleep(COLD_MIN).await;
    assert_eq!(pool.counts().idle, 3);
}

#[tokio::test(start_paused = true)]
async fn a_process_that_others_have_killed_is_replaced_and_its_link_stays_warm() {
    let bench = Bench::new();
    *bench.spoiled_by.lock() = SpoiledBy::Others;
    let pool = bench.pool(3, &room(10));
    sleep(START_TIME * 2).await;
    bench.spoil.send_replace(true);
    sleep(START_TIME * 2).await;
    assert_eq!((bench.alive(), bench.started()), (0, 3));
    bench.spoil.send_replace(false);
    sleep(Duration::from_secs(1)).await;
    assert_eq!((pool.counts().idle, bench.started()), (3, 6));
}

#[tokio::test(start_paused = true)]
async fn the_youngest_is_taken_and_none_waits_for_longer_than_it_may() {
    let bench = Bench::new();
    let pool = bench.pool(2, &room(10));
    let mut last = 0;
    for _ in 0..20 {
        sleep(IDLE_MAX / 4).await;
        let newest = bench.started();
        let taken = pool.take().await.unwrap();
        assert_eq!(taken.pipeline.number, newest);
        assert!(newest > last);
        last = newest;
        drop(taken);
        let ages = bench.born.lock().values().map(Instant::elapsed).max();
        assert!(
            ages.unwrap_or_default() <= IDLE_MAX + START_TIME,
            "{ages:?}"
        );
    }
    // Also where nobody takes any.
    sleep(IDLE_MAX * 10).await;
    let ages = bench.born.lock().values().map(Instant::elapsed).max();
    assert!(ages.unwrap() <= IDLE_MAX + START_TIME, "{ages:?}");
    assert_eq!(pool.counts().idle, 2);
}

#[tokio::test(start_paused = true)]
async fn a_start_that_finds_too_little_is_told_and_others_are_not_tried_at_once() {
    let bench = Bench::new();
    bench.starves.store(true, Ordering::SeqCst);
    let pool = bench.pool(0, &room_to_wait(10, 0));
    let error = pool.take().await.err();
    assert_eq!(
        error,
        Some(TakeError::Starved("too many open files".into()))
    );
    let before = Instant::now();
    assert_eq!(pool.take().await.err(), Some(TakeError::Busy));
    assert_eq!(before.elapsed(), Duration::ZERO);
    bench.starves.store(false, Ordering::SeqCst);
    sleep(Duration::from_secs(1)).await;
    pool.take().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_process_that_is_spoiled_is_not_given_to_a_taker() {
    let bench = Bench::new();
    let pool = bench.pool(3, &room(10));
    sleep(START_TIME * 2).await;
    bench.spoil.send_replace(true);
    // The taker is here before the one who looks after the pool.
    let _taken = pool.take().await.unwrap();
    assert_eq!((bench.alive(), bench.started()), (1, 4));
    assert_eq!(
        pool.counts(),
        Counts {
            in_use: 1,
            ..Counts::default()
        }
    );
}

#[tokio::test(start_paused = true)]
async fn links_share_the_room_and_none_starves() {
    let (rich, poor) = (Bench::new(), Bench::new());
    let capacity = room(3);
    let rich_pool = rich.pool(3, &capacity);
    sleep(START_TIME * 2).await;
    let poor_pool = poor.pool(2, &capacity);
    let taken = poor_pool.take().await.unwrap();
    assert_eq!((rich.alive(), poor.alive()), (2, 1));
    drop(taken);
    sleep(START_TIME * 2).await;
    assert_eq!((rich_pool.counts().idle, poor_pool.counts().idle), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn a_dropped_pool_leaves_what_is_in_use_alone_and_nothing_else() {
    let bench = Bench::new();
    let capacity = room(4);
    let pool = bench.pool(3, &capacity);
    sleep(START_TIME * 2).await;
    let taken = pool.take().await.unwrap();
    // While a replacement is being started.
    drop(pool);
    sleep(START_TIME * 2).await;
    assert_eq!(bench.alive(), 1);
    drop(taken);
    let pool = Bench::new().pool(0, &capacity);
    let all: Vec<_> = join_all((0..4).map(|_| pool.take())).await;
    assert!(all.iter().all(Result::is_ok), "all the room is back");
}

#[tokio::test(start_paused = true)]
async fn a_drained_pool_sends_away_who_waits() {
    let bench = Bench::new();
    let pool = Arc::new(bench.pool(0, &room(1)));
    let _taken = pool.take().await.unwrap();
    let waiting = Arc::clone(&pool);
    let waiting = tokio::spawn(async move { waiting.take().await.map(drop) });
    sleep(START_TIME).await;
    pool.drain();
    assert_eq!(waiting.await.unwrap(), Err(TakeError::Busy));
    assert_eq!(pool.take().await.err(), Some(TakeError::Busy));
}

#[tokio::test(start_paused = true)]
async fn a_drained_pool_is_unused_only_when_what_was_started_is_gone() {
    let bench = Bench::new();
    let pool = bench.pool(2, &room(10));
    // Both are on their way.
    sleep(START_TIME / 2).await;
    pool.drain();
    pool.until_unused().await;
    assert_eq!((bench.started(), bench.alive()), (2, 0));
}

#[tokio::test]
async fn many_takers_at_once_each_get_a_process_of_their_own() {
    let bench = Bench::new();
    let pool = Arc::new(bench.pool(2, &room_to_wait(8, 1_000)));
    let takers = (0..200).map(|_| {
        let (pool, bench) = (Arc::clone(&pool), bench.clone());
        tokio::spawn(async move {
            let taken = pool.take().await.unwrap();
            assert!(bench.alive() <= 8);
            tokio::task::yield_now().await;
            let Taken {
                pipeline, permit, ..
            } = taken;
            drop(pipeline);
            drop(permit);
        })
    });
    for taker in takers.collect::<Vec<_>>() {
        taker.await.unwrap();
    }
    assert!(bench.started() >= 200);
}

#[tokio::test(start_paused = true)]
async fn a_process_that_still_starts_is_taken_where_none_is_ready() {
    let mut bench = Bench::new();
    bench.runs = Some(Duration::from_millis(500));
    let pool = bench.pool(2, &room(10));
    assert_eq!(pool.take().await.unwrap().warmth, Warmth::Cold);
    sleep(START_TIME * 4).await;
    let before = Instant::now();
    let taken = pool.take().await.unwrap();
    assert_eq!(taken.warmth, Warmth::Starting);
    assert_eq!(before.elapsed(), Duration::ZERO);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(pool.take().await.unwrap().warmth, Warmth::Ready);
}

#[tokio::test(start_paused = true)]
async fn who_has_settled_is_not_looked_at_again() {
    let (mut quick, mut slow, mut restless) = (Bench::new(), Bench::new(), Bench::new());
    quick.runs = Some(Duration::ZERO);
    slow.runs = Some(Duration::from_millis(500));
    restless.runs = Some(SETTLES_WITHIN * 2);
    let capacity = room(10);
    let all = [&quick, &slow, &restless];
    let pools = all.map(|bench| bench.pool(2, &capacity));
    let until_settled = async |pool: &Pool<Fake>| {
        while pool.warmth() != Warmth::Ready {
            sleep(QUIET).await;
        }
    };
    let began = Instant::now();
    let took = pools.iter().map(async |pool| {
        until_settled(pool).await;
        began.elapsed()
    });
    let took = join_all(took).await;
    assert!(took[0] <= QUIET * 4, "{took:?}");
    assert!(
        took[1] <= Duration::from_millis(500) + QUIET * 6,
        "{took:?}"
    );
    let last = START_TIME + SETTLES_WITHIN;
    assert!(last <= took[2] && took[2] <= last + QUIET * 4, "{took:?}");
    sleep(QUIET * 4).await;
    let looks = all.map(Bench::looks);
    assert!(looks[2] < 100, "{looks:?}");
    sleep(IDLE_MAX / 2).await;
    assert_eq!(all.map(Bench::looks), looks);
}
