//! Work goes where there is room: between runners, and between the links of one.
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::support::runner::{Call, World, images, is_soon, join, shell, soon};
use chain::LinkId;
use consecution::portal::Portal;
use consecution::runner::Options;
use consecution::transport::{
    Refusal, RefusalReason, Registration, Reply, Request, Service, Transport,
};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};
use tokio::task::JoinSet;

/// A transport as one runner has it, which counts the calls that it takes.
struct Counted {
    transport: Arc<dyn Transport>,
    taken: Arc<AtomicUsize>,
}

struct CountedService {
    service: Arc<dyn Service>,
    taken: Arc<AtomicUsize>,
}

impl Transport for Counted {
    fn call(&self, id: LinkId, request: Request) -> BoxFuture<'_, Result<Reply, Refusal>> {
        self.transport.call(id, request)
    }

    fn serve(&self, id: LinkId, service: Arc<dyn Service>) -> Registration {
        let taken = Arc::clone(&self.taken);
        self.transport
            .serve(id, Arc::new(CountedService { service, taken }))
    }

    fn probe(&self, id: LinkId) -> BoxFuture<'_, Result<(), RefusalReason>> {
        self.transport.probe(id)
    }
}

impl Service for CountedService {
    fn call(&self, request: Request) -> BoxFuture<'_, Result<Reply, Refusal>> {
        async move {
            let reply = self.service.call(request).await?;
            self.taken.fetch_add(1, Ordering::Relaxed);
            Ok(reply)
        }
        .boxed()
    }
}

fn room_for(processes_max: usize) -> Options {
    Options {
        processes_max,
        ..Options::default()
    }
}

/// So many callers, each of which makes so many calls.
async fn load(portal: &Portal, callers: usize, calls: usize) {
    let callers = (0..callers).map(|caller| async move {
        for call in 0..calls {
            let payload = format!("{caller} {call}");
            assert_eq!(portal.send(payload.clone()).await.unwrap(), payload);
        }
    });
    join_all(callers).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_runners_the_larger_one_does_more() {
    const WORK: Duration = Duration::from_millis(50);
    let (small, large) = (2, 8);
    let world = World::start(room_for(small));
    let taken = Arc::new(AtomicUsize::new(0));
    let counted: Arc<dyn Transport> = Arc::new(Counted {
        transport: Arc::clone(&world.transport),
        taken: Arc::clone(&taken),
    });
    let larger = join(room_for(large), images(), &counted, &world.links);
    let link = shell("cat; sleep 0.05");
    let portal = world.portal(&link).await;
    soon(larger.ready(link.id())).await.unwrap();

    let (callers, calls) = (20, 20);
    let began = Instant::now();
    load(&portal, callers, calls).await;
    let took = began.elapsed();
    let by_larger = taken.load(Ordering::Relaxed);
    let by_smaller = callers * calls - by_larger;
    assert!(by_larger > 2 * by_smaller, "{by_larger} to {by_smaller}");
    assert!(by_smaller > 0, "it has its part in it");
    let alone = WORK * u32::try_from(callers * calls / small).unwrap();
    assert!(
        took < alone,
        "{took:?}, and {alone:?} by the smaller one alone"
    );
}

#[tokio::test]
async fn a_full_runner_says_so_at_once() {
    let world = World::start(room_for(2));
    let link = shell("cat");
    let portal = world.portal(&link).await;
    let calls = [Call::begin(&portal).await, Call::begin(&portal).await];
    for _ in 0..10 {
        let call = world.transport.call(link.id(), Request::new("x"));
        // At once: it is ready when it is asked for the first time.
        let refusal = call.now_or_never().unwrap().unwrap_err();
        assert!(matches!(refusal.reason, RefusalReason::Busy), "{refusal:?}");
        assert_eq!(refusal.request.body.collect().await.unwrap(), "x");
    }
    for call in calls {
        call.finish().await;
    }
    assert_eq!(soon(portal.send("x")).await.unwrap(), "x");
}

#[tokio::test]
async fn a_runner_that_is_alone_lets_some_wait() {
    let world = World::start(Options {
        waiting_max: 1,
        ..room_for(1)
    });
    let link = shell("cat");
    let portal = world.portal(&link).await;
    let call = Call::begin(&portal).await;
    let mut waiting = world.transport.call(link.id(), Request::new("x"));
    assert!((&mut waiting).now_or_never().is_none());
    let refused = world.transport.call(link.id(), Request::new("y"));
    assert!(refused.now_or_never().unwrap().is_err());
    call.finish().await;
    let reply = soon(waiting).await.unwrap();
    assert_eq!(soon(reply.body.collect()).await.unwrap(), "x");
}

/// Calls are counted, not timed: if the runner gave its room to whoever asks at the right
/// moment, each call of the modest link would see one of about every greedy caller.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_in_great_demand_does_not_starve_another() {
    const GREEDY_CALLERS: usize = 32;
    const MODEST_CALLS: usize = 20;
    let world = World::start(room_for(2));
    let (greedy, modest) = (shell("cat; sleep 0.02"), shell("cat; exit 0"));
    let greedy = world.portal(&greedy).await;
    let modest = world.portal(&modest).await;
    let greedy_calls = Arc::new(AtomicUsize::new(0));
    let demand: JoinSet<()> = (0..GREEDY_CALLERS)
        .map(|_| {
            let (greedy, greedy_calls) = (greedy.clone(), Arc::clone(&greedy_calls));
            async move {
                loop {
                    assert_eq!(greedy.send("x").await.unwrap(), "x");
                    greedy_calls.fetch_add(1, Ordering::Relaxed);
                }
            }
        })
        .collect();
    let done = || greedy_calls.load(Ordering::Relaxed);
    assert!(is_soon(|| done() >= GREEDY_CALLERS).await);
    let before = done();
    soon(load(&modest, 1, MODEST_CALLS)).await;
    let meanwhile = done() - before;
    drop(demand);
    assert!(
        meanwhile < MODEST_CALLS * GREEDY_CALLERS / 4,
        "{meanwhile} calls of the greedy link during {MODEST_CALLS} of the modest one"
    );
}

#[tokio::test]
async fn more_links_than_there_is_room_for_are_all_served() {
    let world = World::start(room_for(4));
    let mut portals = Vec::new();
    for number in 0..12 {
        portals.push(world.portal(&shell(&format!("cat; echo {number}"))).await);
    }
    for _ in 0..2 {
        for (number, portal) in portals.iter().enumerate() {
            let said = soon(portal.send("n")).await.unwrap();
            assert_eq!(said, format!("n{number}\n"));
        }
    }
}
