//! What happens at a deadline, also where a runner does not keep to it.
//!
//! The links are fakes on the in-process transport, and time is paused.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::portal::{Manner, in_turn, losing, open_with};
use chain::{Chain, Deadline};
use consecution::portal::{ChainReply, ChainRequest, FailureReason};
use consecution::transport::conformance::fake;
use consecution::transport::{Body, Outcome, PendingOutcome, Reply, Service};
use futures_util::StreamExt;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

/// How long after a deadline all of a call must be over.
const GRACE: Duration = Duration::from_secs(1);

/// A runner that does nothing, and goes on with that whatever it is told.
struct Stubborn {
    service: Arc<dyn Service>,
    seen: Arc<Mutex<Vec<HostProcess>>>,
}

/// What a stubborn runner sees of a call.
struct HostProcess {
    /// The call's input, which it holds and does not read.
    input: Body,
    /// Resolves when its output is not wanted any more.
    unread: oneshot::Receiver<()>,
    _outcome: oneshot::Sender<Outcome>,
}

impl Stubborn {
    fn new() -> Stubborn {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sees = Arc::clone(&seen);
        let service = fake::service(move |request| {
            let (body, unread) = fake::watched();
            let (sender, outcome) = PendingOutcome::channel();
            sees.lock().unwrap().push(HostProcess {
                input: request.body,
                unread,
                _outcome: sender,
            });
            std::future::ready(Ok(Reply::new(body, outcome)))
        });
        Stubborn { service, seen }
    }

    /// Nobody wants anything of it any more.
    async fn is_let_go(&self) {
        let seen = std::mem::take(&mut *self.seen.lock().unwrap());
        assert_eq!(seen.len(), 1);
        for mut call in seen {
            timeout(Duration::ZERO, call.unread)
                .await
                .unwrap()
                .unwrap_err();
            let input = timeout(Duration::ZERO, call.input.next()).await.unwrap();
            assert!(input.unwrap().is_err(), "it is no end");
        }
    }
}

/// Runs a chain of these, and says after what time, where and why it failed.
async fn run(
    services: impl IntoIterator<Item = Arc<dyn Service>>,
    change: impl FnOnce(&mut Chain),
) -> (Duration, usize, FailureReason) {
    let chain = open_with(services, change).await;
    let before = Instant::now();
    // The caller's own input does not end either.
    let (input, _unread) = fake::watched();
    let ChainReply { body, report } = chain.portal.stream(ChainRequest::new(input));
    let received = timeout(Duration::from_secs(3600), body.collect()).await;
    assert!(received.expect("an end").is_err());
    let error = report.await.unwrap_err();
    (before.elapsed(), error.index, error.reason.clone())
}

#[tokio::test(start_paused = true)]
async fn at_the_chain_s_deadline_everything_is_let_go_whoever_obeys() {
    let deadline = Duration::from_secs(5);
    let links = [Stubborn::new(), Stubborn::new(), Stubborn::new()];
    let services = links.each_ref().map(|link| Arc::clone(&link.service));
    let (elapsed, index, reason) =
        run(services, |chain| chain.deadline = Deadline::After(deadline)).await;
    assert_eq!((index, reason), (0, FailureReason::DeadlinePassed));
    assert!(
        elapsed >= deadline && elapsed < deadline + GRACE,
        "{elapsed:?}"
    );
    for link in &links {
        link.is_let_go().await;
    }
}

#[tokio::test(start_paused = true)]
async fn at_a_link_s_own_deadline_too() {
    let deadline = Duration::from_secs(5);
    for position in 0..3 {
        for whole in [Deadline::None, Deadline::After(Duration::from_secs(60))] {
            let stubborn = Stubborn::new();
            let mut services = vec![fake::endless(), fake::echo(), fake::echo()];
            services[position] = Arc::clone(&stubborn.service);
            let (elapsed, index, reason) = run(services, |chain| {
                chain.deadline = whole;
                chain.links[position].deadline = Some(deadline);
            })
            .await;
            assert_eq!((index, reason), (position, FailureReason::DeadlinePassed));
            assert!(
                elapsed >= deadline && elapsed < deadline + GRACE,
                "{elapsed:?}"
            );
            stubborn.is_let_go().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_link_that_is_called_again_gets_no_more_time() {
    let deadline = Duration::from_secs(5);
    let slow_loss = fake::service(|request| async {
        sleep(Duration::from_secs(3)).await;
        losing(0, &[], Manner::Cut).call(request).await
    });
    let stubborn = Stubborn::new();
    let (service, _) = in_turn([slow_loss, Arc::clone(&stubborn.service)]);
    let own = |chain: &mut Chain| chain.links[0].deadline = Some(deadline);
    let (elapsed, _, reason) = run([service], own).await;
    assert_eq!(reason, FailureReason::DeadlinePassed);
    assert!(
        elapsed >= deadline && elapsed < deadline + GRACE,
        "{elapsed:?}"
    );
    stubborn.is_let_go().await;
}

#[tokio::test(start_paused = true)]
async fn a_link_that_waited_for_room_until_the_deadline_was_not_running() {
    let deadline = Duration::from_secs(5);
    let full = || {
        fake::service(|request| async move {
            request.waiting.tell();
            std::future::pending().await
        })
    };
    for before in 0..3 {
        let holding: Vec<_> = (0..before).map(|_| Stubborn::new()).collect();
        let services = holding.iter().map(|link| Arc::clone(&link.service));
        let services = services.chain([full()]);
        let (elapsed, index, reason) =
            run(services, |chain| chain.deadline = Deadline::After(deadline)).await;
        assert_eq!((index, reason), (before, FailureReason::Busy));
        assert!(
            elapsed >= deadline && elapsed < deadline + GRACE,
            "{elapsed:?}"
        );
        for link in &holding {
            link.is_let_go().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_deadline_nobody_waits_for_room_for_ever() {
    let full = fake::service(|_| std::future::pending());
    let holding = Stubborn::new();
    let services = [Arc::clone(&holding.service), full];
    let (elapsed, index, reason) = run(services, |chain| chain.deadline = Deadline::None).await;
    assert_eq!((index, reason), (1, FailureReason::Busy));
    assert!(elapsed < Duration::from_secs(60), "{elapsed:?}");
    holding.is_let_go().await;
}
