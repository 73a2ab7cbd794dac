//! Runners that are lost in the middle of a call, busy, or out of reach: what the
//! portal makes of them.
//!
//! The links are fakes on the in-process transport, and time is paused.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::support::portal::{LossKind, chunks, in_turn, link, losing, on, open, open_with};
use bytes::Bytes;
use chain::{Chain, Deadline, Link, Network};
use consecution::portal::{ChainError, ChainReply, ChainRequest, FailureReason};
use consecution::transport::conformance::fake;
use consecution::transport::{
    Body, Ending, Limit, Outcome, PendingOutcome, RefusalReason, Reply, Service, Transport, Usage,
};
use futures_util::{FutureExt, StreamExt};
use tokio::sync::mpsc;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, timeout};

const LOSS_KINDS: [LossKind; 3] = [LossKind::Cut, LossKind::Silent, LossKind::Told];

/// How a run of a chain with only one link that does `services` in turn ends,
/// and how often the link was called.
async fn run(
    services: impl IntoIterator<Item = Arc<dyn Service>>,
    input: impl Into<Body>,
    change: impl FnOnce(&mut Chain),
) -> (Result<Bytes, ChainError>, usize) {
    let (service, calls) = in_turn(services);
    let chain = open_with([service], change).await;
    let ChainReply { body, report } = chain.portal.stream(ChainRequest::new(input));
    let received = body.collect().await;
    let result = report.await.map(|_| received.unwrap());
    (result, calls.load(Ordering::SeqCst))
}

/// Says why, if it was a loss.
#[track_caller]
fn loss(result: Result<Bytes, ChainError>) -> String {
    match result.unwrap_err().reason.clone() {
        FailureReason::Lost(reason) => reason.to_string(),
        reason => panic!("{reason:?}"),
    }
}

fn with_network(chain: &mut Chain) {
    let link = Link {
        network: Network::Host,
        ..link(0)
    };
    chain.links[0] = chain::ChainLink::new(link);
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_runner_is_lost_succeeds_on_another() {
    for kind in LOSS_KINDS {
        for reads in 0..6 {
            let before = Instant::now();
            let input = chunks(["some ", "input ", "in ", "pieces"]);
            let services = [losing(reads, &[], kind), fake::echo()];
            let (result, calls) = run(services, input, |_| {}).await;
            assert_eq!(result.unwrap(), "some input in pieces", "{kind:?} {reads}");
            assert_eq!(calls, 2);
            assert!(before.elapsed() < Duration::from_millis(100));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn usage_is_of_the_call_that_counted() {
    let using = |bytes, ending: Ending| {
        let usage = Usage {
            bytes_in: Some(bytes),
            ..Usage::default()
        };
        let limit = Some(Limit::Memory).filter(|_| bytes == 1);
        let outcome = Outcome {
            usage,
            limit,
            ..Outcome::new(ending)
        };
        fake::service(move |_| {
            let outcome = PendingOutcome::new(std::future::ready(outcome.clone()));
            std::future::ready(Ok(Reply::new(Body::empty(), outcome)))
        })
    };
    let (service, _) = in_turn([
        using(1, Ending::Lost("it was killed".into())),
        using(2, Ending::Exited(0)),
    ]);
    let chain = open([service]).await;
    let ChainReply { body, report } = chain.portal.stream(ChainRequest::new("x"));
    assert!(body.collect().await.is_ok());
    let report = report.await.unwrap();
    assert_eq!(report.links[0].usage.bytes_in, Some(2));
    assert_eq!(report.links[0].limit, None);
}

#[tokio::test(start_paused = true)]
async fn every_link_of_a_chain_may_lose_its_runner() {
    let lossy = |service| {
        in_turn([
            losing(1, &[], LossKind::Cut),
            losing(0, &[], LossKind::Told),
            service,
        ])
        .0
    };
    let chain = open([
        lossy(fake::reverse()),
        lossy(fake::echo()),
        lossy(fake::reverse()),
    ])
    .await;
    assert_eq!(chain.portal.send("some bytes").await.unwrap(), "some bytes");
    assert_eq!(chain.portal.send("").await.unwrap(), "");
}

#[tokio::test(start_paused = true)]
async fn links_that_were_taken_together_are_made_again_together() {
    // Who takes the call when it is made again may go on with all of them, with
    // some, or with none.
    for taken_again in 0..3 {
        for lost in 0..3 {
            let links = (0..3).map(|at| match at == lost {
                true => losing(1, &[], LossKind::Told),
                false => fake::echo(),
            });
            let again = (0..=taken_again).map(|_| fake::reverse());
            let (first, calls) = in_turn([fake::joining(links), fake::joining(again)]);
            let chain = open([first, fake::reverse(), fake::reverse()]).await;
            let ChainReply { body, report } = chain.portal.stream(ChainRequest::new("some"));
            assert_eq!(body.collect().await.unwrap(), "emos");
            assert_eq!(calls.load(Ordering::SeqCst), 2);
            let report = report.await.unwrap();
            let joined: Vec<_> = report.links.iter().map(|link| link.is_joined).collect();
            let wanted: Vec<_> = (0..3).map(|at| (1..=taken_again).contains(&at)).collect();
            assert_eq!(joined, wanted);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_lost_call_did_not_write_does_not_count_once_it_is_made_again() {
    for kind in LOSS_KINDS {
        let (first, calls) = in_turn([
            fake::joining([losing(1, &[], kind), fake::reverse()]),
            // Taken alone: the link behind it is asked for, and gets a cut.
            losing(1, &["so"], kind),
            fake::joining([fake::echo(), fake::reverse()]),
        ]);
        let chain = open([first, fake::reverse()]).await;
        let result = timeout(Duration::from_secs(5), chain.portal.send("some"));
        assert_eq!(result.await.unwrap().unwrap(), "emos", "{kind:?}");
        assert_eq!(calls.load(Ordering::SeqCst), 3);
    }
}

#[tokio::test(start_paused = true)]
async fn a_chain_of_calls_that_were_taken_together_goes_on_behind_them() {
    let (first, calls) = in_turn([
        fake::joining([losing(1, &["so"], LossKind::Cut), fake::echo()]),
        fake::joining([fake::echo(), fake::echo()]),
    ]);
    let chain = open([
        first,
        fake::refusing(RefusalReason::NoRunner),
        fake::joining([fake::reverse(), fake::reverse()]),
        fake::refusing(RefusalReason::NoRunner),
    ])
    .await;
    assert_eq!(chain.portal.send("some").await.unwrap(), "some");
    assert_eq!(calls.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn input_that_is_still_coming_goes_to_the_next_runner() {
    let (service, _) = in_turn([losing(1, &[], LossKind::Cut), fake::echo()]);
    let chain = open([service]).await;
    let (sender, input) = mpsc::channel(1);
    let ChainReply { mut body, report } = chain
        .portal
        .stream(ChainRequest::new(fake::receiving(input)));
    let mut received = Vec::new();
    for word in ["one", "two", "three"] {
        sender.send(Ok(word.into())).await.unwrap();
        received.push(body.next().await.unwrap().unwrap());
    }
    drop(sender);
    assert!(body.next().await.is_none());
    report.await.unwrap();
    assert_eq!(received, ["one", "two", "three"]);
}

#[tokio::test(start_paused = true)]
async fn output_that_had_begun_goes_on_where_it_was() {
    for kind in LOSS_KINDS {
        let services = [
            losing(1, &["so", "me "], kind),
            losing(1, &["some"], kind),
            losing(1, &["some in"], kind),
            fake::echo(),
        ];
        let (result, calls) = run(services, chunks(["some ", "input"]), |_| {}).await;
        assert_eq!(result.unwrap(), "some input", "{kind:?}");
        assert_eq!(calls, 4);
    }
}

#[tokio::test(start_paused = true)]
async fn a_link_that_does_not_write_the_same_again_is_lost() {
    for kind in LOSS_KINDS {
        for first in ["sum", "input and more"] {
            let words: &[&str] = Box::leak(Box::new([first]));
            let services = [losing(1, words, kind), fake::echo()];
            let chain = open([in_turn(services).0]).await;
            let ChainReply { mut body, report } = chain.portal.stream(ChainRequest::new("input"));
            assert_eq!(body.next().await.unwrap().unwrap(), first);
            body.next().await.unwrap().unwrap_err();
            let loss = loss(report.await.map(|_| Bytes::new()));
            let why = "; called again, it wrote other output than was already passed on";
            assert!(loss.ends_with(why), "{loss}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_is_not_made_again_once_its_output_is_too_large_to_be_compared() {
    let piece: &str = "x".repeat(700 * 1024).leak();
    let words: &[&str] = Box::leak(Box::new([piece, piece]));
    for kind in LOSS_KINDS {
        let services = [losing(1, words, kind), fake::echo()];
        let (result, calls) = run(services, "input", |_| {}).await;
        let loss = loss(result);
        let why = "; not called again, since too much of its output was already passed on";
        assert!(loss.ends_with(why), "{loss}");
        assert_eq!(calls, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_is_not_made_again_when_its_input_was_too_large_to_be_kept() {
    let chunk = Bytes::from(vec![7; 128 * 1024]);
    let large = |chunks| vec![chunk.clone(); chunks];
    let (result, calls) = run(
        [losing(8, &[], LossKind::Cut), fake::echo()],
        chunks(large(9)),
        |_| {},
    )
    .await;
    assert_eq!((result.unwrap().len(), calls), (9 * chunk.len(), 2));
    let (result, calls) = run(
        [losing(9, &[], LossKind::Cut), fake::echo()],
        chunks(large(9)),
        |_| {},
    )
    .await;
    let loss = loss(result);
    assert!(
        loss.contains("not called again, since its input is too large"),
        "{loss}"
    );
    assert_eq!(calls, 1);
}

#[tokio::test(start_paused = true)]
async fn a_link_with_a_network_is_called_again_only_if_it_says_so() {
    let lost = || [losing(0, &[], LossKind::Cut)];
    let (result, calls) = run(lost(), "x", with_network).await;
    assert!(loss(result).ends_with("not called again, since it has a network"));
    assert_eq!(calls, 1);

    let twice = |chain: &mut Chain| {
        with_network(chain);
        chain.links[0].retries = Some(2);
    };
    let (result, calls) = run(lost(), "x", twice).await;
    assert!(loss(result).ends_with("called again 2 times before"));
    assert_eq!(calls, 3);

    // Nothing has been run where nobody took the call.
    let refused = [fake::refusing(RefusalReason::Busy), fake::echo()];
    let (result, calls) = run(refused, "x", with_network).await;
    assert_eq!((result.unwrap(), calls), ("x".into(), 2));
}

#[tokio::test(start_paused = true)]
async fn retries_bound_a_pure_link_too() {
    for (retries, calls_made) in [(Some(0), 1), (Some(3), 4), (None, 11)] {
        let set = |chain: &mut Chain| chain.links[0].retries = retries;
        let (result, calls) = run([losing(1, &[], LossKind::Told)], "x", set).await;
        let loss = loss(result);
        assert!(loss.starts_with("it was killed; "), "{loss}");
        assert_eq!(calls, calls_made, "{loss}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_made_again_waits_for_a_runner_to_have_room() {
    let busy = || fake::refusing(RefusalReason::Busy);
    let away = || fake::refusing(RefusalReason::Unreachable("NATS is gone".into()));
    let lost = || losing(1, &[], LossKind::Cut);
    let services = [lost(), busy(), busy(), lost(), away(), busy(), fake::echo()];
    let (result, calls) = run(services, "kept", |_| {}).await;
    assert_eq!((result.unwrap(), calls), ("kept".into(), 7));
}

#[tokio::test(start_paused = true)]
async fn a_runner_that_is_restarted_gets_the_call_again() {
    let mut chain = open([fake::echo()]).await;
    let id = chain.portal.chain().links[0].id;
    let doomed = chain.transport.serve(id, losing(1, &[], LossKind::Cut));
    chain.registrations = vec![doomed];
    let ChainReply { mut body, report } = chain.portal.stream(ChainRequest::new("input"));
    let mut chunk = std::pin::pin!(body.next());
    assert!(timeout(Duration::from_millis(1), &mut chunk).await.is_err());
    chain.registrations.clear();
    assert!(timeout(Duration::from_secs(5), &mut chunk).await.is_err());
    chain
        .registrations
        .push(chain.transport.serve(id, fake::echo()));
    assert_eq!(chunk.await.unwrap().unwrap(), "input");
    assert!(body.next().await.is_none());
    report.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_runner_of_the_last_call_is_named() {
    let doomed = |name| on(name, losing(1, &[], LossKind::Told));
    let services = [
        doomed("north"),
        doomed("east"),
        on("south", fake::exiting(1)),
    ];
    let (result, _) = run(services, "x", |_| {}).await;
    let error = result.unwrap_err();
    let text = "link 1 'first' (fake /bin/first) on runner 'south' exited with code 1";
    assert_eq!(error.to_string(), text);
    assert_eq!(error.runner.as_deref(), Some("south"));
    assert_eq!(error.report.links[0].runner, error.runner);

    let services = [doomed("north"), fake::refusing(RefusalReason::NoRunner)];
    let (result, _) = run(services, "x", |_| {}).await;
    let text = "link 1 'first' (fake /bin/first) on runner 'north' was lost: \
                it was killed; called again, it is served by no runner";
    assert_eq!(result.unwrap_err().to_string(), text);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_nobody_takes_again_was_lost_and_says_so() {
    let refusals = [
        (RefusalReason::NoRunner, "it is served by no runner"),
        (
            RefusalReason::Unreachable("NATS is gone".into()),
            "it cannot be asked for: NATS is gone",
        ),
        (
            RefusalReason::CannotStart("no such file".into()),
            "it cannot be started: no such file",
        ),
    ];
    for (refusal, said) in refusals {
        let before = Instant::now();
        let services = [losing(0, &[], LossKind::Told), fake::refusing(refusal)];
        let (result, _) = run(services, "x", |_| {}).await;
        let loss = loss(result);
        assert_eq!(loss, format!("it was killed; called again, {said}"));
        assert!(before.elapsed() < Duration::from_secs(11));
    }
}

#[tokio::test(start_paused = true)]
async fn the_deadline_bounds_all_of_it() {
    let deadline = Duration::from_secs(2);
    let lost = || losing(0, &[], LossKind::Cut);
    let cases = [
        (vec![lost()], FailureReason::DeadlinePassed),
        (
            vec![lost(), fake::refusing(RefusalReason::Busy)],
            FailureReason::Busy,
        ),
        (
            vec![lost(), fake::refusing(RefusalReason::NoRunner)],
            FailureReason::NoRunner,
        ),
    ];
    for (services, reason) in cases {
        let before = Instant::now();
        let set = |chain: &mut Chain| {
            chain.deadline = Deadline::After(deadline);
            chain.links[0].retries = Some(1_000);
        };
        let (result, _) = run(services, "x", set).await;
        assert_eq!(result.unwrap_err().reason, reason);
        let elapsed = before.elapsed();
        assert!(
            elapsed >= deadline && elapsed < deadline + Duration::from_secs(1),
            "{elapsed:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_link_that_reads_nothing_holds_its_input_only_while_it_may_be_called_again() {
    let closing = |seconds, word: &'static str| {
        fake::process(move |mut process| async move {
            process.stdin = Body::empty();
            sleep(Duration::from_secs(seconds)).await;
            process.write(word).await?;
            sleep(Duration::from_secs(seconds)).await;
            Ok(0)
        })
    };
    let closes_and_is_lost = fake::service(|request| {
        drop(request);
        async {
            losing(0, &[], LossKind::Cut)
                .call(consecution::transport::Request::new(""))
                .await
        }
    });
    let (service, calls) = in_turn([closes_and_is_lost, closing(5, "word")]);
    let chain = open([service]).await;
    let (input, mut dropped) = fake::watched();
    let ChainReply { mut body, report } = chain.portal.stream(ChainRequest::new(input));
    assert!(timeout(Duration::from_secs(1), body.next()).await.is_err());
    assert!((&mut dropped).now_or_never().is_none());
    assert_eq!(body.next().await.unwrap().unwrap(), "word");
    assert!((&mut dropped).now_or_never().is_none());
    assert!(body.next().await.is_none());
    report.await.unwrap();
    assert!(dropped.now_or_never().is_some());
    assert_eq!(calls.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn a_link_that_nobody_reads_is_not_called_again() {
    let (service, calls) = in_turn([losing(0, &[], LossKind::Cut)]);
    let chain = open([service]).await;
    let ChainReply { mut body, report } = chain.portal.stream(ChainRequest::new("x"));
    assert!(
        timeout(Duration::from_millis(100), body.next())
            .await
            .is_err()
    );
    // Not in the middle of a call that is lost, but before the next one.
    for _ in 0..10 {
        yield_now().await;
        assert!(body.next().now_or_never().is_none());
    }
    drop(body);
    report.await.unwrap();
    let made = calls.load(Ordering::SeqCst);
    sleep(Duration::from_secs(60)).await;
    assert!((2..11).contains(&made));
    assert_eq!(calls.load(Ordering::SeqCst), made);
}

#[tokio::test(start_paused = true)]
async fn input_that_breaks_off_is_no_reason_to_call_again() {
    let (service, calls) = in_turn([losing(3, &[], LossKind::Cut), fake::echo()]);
    let chain = open([service]).await;
    let input = fake::cut_off(["half of it"], "the client hung up");
    let ChainReply { body, report } = chain.portal.stream(ChainRequest::new(input));
    assert!(body.collect().await.is_err());
    let error = report.await.unwrap_err();
    assert!(
        error.to_string().ends_with("its input is incomplete"),
        "{error}"
    );
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_ever_where_there_is_no_deadline() {
    let away = RefusalReason::Unreachable("NATS is gone".into());
    let cases = [
        (RefusalReason::Busy, FailureReason::Busy, 30),
        (away, FailureReason::Unreachable("NATS is gone".into()), 10),
    ];
    for (refusal, reason, seconds) in cases {
        let before = Instant::now();
        let (result, _) = run([fake::refusing(refusal)], "x", |_| {}).await;
        let error = result.unwrap_err();
        assert_eq!(error.reason, reason);
        assert_eq!(before.elapsed().as_secs(), seconds, "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_is_out_of_reach_is_asked_again_for_a_while() {
    let away = || fake::refusing(RefusalReason::Unreachable("NATS is gone".into()));
    // Everybody comes back one after the other.
    let services = [
        away(),
        away(),
        fake::refusing(RefusalReason::NoRunner),
        fake::echo(),
    ];
    let (result, calls) = run(services, "x", |_| {}).await;
    assert_eq!((result.unwrap(), calls), ("x".into(), 4));

    for (deadline, waited) in [(5, 5), (100, 10)] {
        let before = Instant::now();
        let set =
            |chain: &mut Chain| chain.deadline = Deadline::After(Duration::from_secs(deadline));
        let (result, _) = run([away()], "x", set).await;
        let error = result.unwrap_err();
        assert_eq!(
            error.to_string(),
            "link 1 'first' (fake /bin/first) cannot be asked for: NATS is gone"
        );
        assert_eq!(before.elapsed().as_secs(), waited);
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_goes_on_and_ends_though_nobody_asks_for_its_reply() {
    let (service, calls) = in_turn([losing(1, &[], LossKind::Told), fake::echo()]);
    let deadline = Deadline::After(Duration::from_secs(5));
    let chain = open_with([service], |chain| chain.deadline = deadline).await;
    let (running, mut over) = mpsc::channel::<()>(1);
    let reply = chain.portal.stream(ChainRequest {
        guard: Some(Box::new(running)),
        ..ChainRequest::new("some")
    });
    let over = timeout(Duration::from_secs(6), over.recv()).await;
    assert!(over.unwrap().is_none());
    assert_eq!(calls.load(Ordering::SeqCst), 2);
    assert!(reply.body.collect().await.is_err());
    let error = reply.report.await.unwrap_err();
    assert_eq!(error.reason, FailureReason::DeadlinePassed);
}
