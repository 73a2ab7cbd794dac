//! What every [`Transport`] must do, as checks that any backend can run.
//!
//! They use nothing but the trait, and hold a transport to nothing but what the
//! trait's documentation says. A check waits for what may take time (a
//! registration that has to travel, a reader that has to be told), so it holds
//! for transports over a network too; under a paused clock it takes no time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use chain::LinkId;
use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use super::{
    Body, Cut, Ending, Following, Limit, Outcome, PendingOutcome, RefusalReason, Registration,
    Reply, Request, STDERR_TAIL_BYTES_MAX, Service, Transport, Usage,
};
use crate::conformance::run_checks;
use crate::trace::Trace;

pub mod fake;

/// How much of a body that nobody reads a transport may have pulled. Over NATS that is one
/// message, since it takes as much to know that a body does not fit into one, and the chunk
/// that made it too much; of what does not fit, half as much is on its way at a time.
const UNREAD_BYTES_MAX: usize = 1024 * 1024 + COUNTED_CHUNK_BYTES;

/// The size of the chunks of a body that is [`counted`].
const COUNTED_CHUNK_BYTES: usize = 64 * 1024;

/// How long to wait before looking again at what takes time to be true.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// How long to look whether something happens that must not.
const LOOK_FOR: Duration = Duration::from_millis(300);

/// Holds the transport to everything that a transport promises.
///
/// # Panics
/// It breaks a promise; the message starts with the name of the check.
pub async fn all(transport: &dyn Transport) {
    run_checks!(transport;
        carries_bodies_of_every_size,
        carries_tiny_chunks_in_order,
        carries_an_answer_that_waits_for_the_whole_body,
        carries_both_directions_at_once,
        resolves_when_the_call_is_taken,
        resolves_no_earlier_than_the_call_is_taken,
        never_ends_a_request_that_was_cut,
        never_ends_a_reply_that_was_cut,
        tells_the_service_that_nobody_reads_its_reply,
        tells_the_caller_that_nobody_reads_its_request,
        pulls_no_more_of_a_request_than_it_has_room_for,
        pulls_no_more_of_a_reply_than_it_has_room_for,
        hands_on_the_deadline,
        hands_on_every_ending,
        hands_on_the_end_of_stderr_and_what_was_used,
        hands_on_the_outcome_of_a_dropped_reply,
        hands_on_values_of_parameters,
        hands_on_the_links_that_follow,
        hands_on_how_links_ended_that_were_joined,
        hands_on_stderr_while_it_is_written,
        ignores_a_stderr_receiver_that_is_gone,
        reports_a_lost_runner,
        refuses_a_link_that_nobody_serves,
        gives_a_refused_request_back,
        tells_that_a_call_has_to_wait,
        tells_whether_a_link_is_served,
        takes_no_call_after_withdrawal,
        finishes_what_is_in_flight_after_withdrawal,
        keeps_links_apart,
        keeps_concurrent_calls_apart,
    );
}

async fn carries_bodies_of_every_size(transport: &dyn Transport) {
    const KIB_64: usize = 64 * 1024;
    const MIB: usize = 1024 * 1024;
    let link = Served::new(transport, fake::echo());
    for size in [0, 1, KIB_64 - 1, KIB_64, KIB_64 + 1, MIB - 1, MIB, MIB + 1] {
        let sent = bytes_of(size);
        let reply = link.call(Request::new(sent.clone())).await;
        let received = reply.body.collect().await.expect("a complete body");
        assert!(
            received == sent,
            "{size} bytes came back as {} other",
            received.len()
        );
        assert_eq!(reply.outcome.await.ending, Ending::Exited(0));
    }
}

async fn carries_tiny_chunks_in_order(transport: &dyn Transport) {
    let link = Served::new(transport, fake::echo());
    let sent = bytes_of(5_000);
    let chunks: Vec<_> = sent
        .chunks(1)
        .map(|chunk| Ok(Bytes::copy_from_slice(chunk)))
        .collect();
    let reply = link
        .call(Request::new(Body::new(stream::iter(chunks))))
        .await;
    assert!(reply.body.collect().await.expect("a complete body") == sent);
}

async fn carries_an_answer_that_waits_for_the_whole_body(transport: &dyn Transport) {
    let link = Served::new(transport, fake::reverse());
    let sent = bytes_of(300_000);
    let reply = link.call(Request::new(sent.clone())).await;
    let mut received = Vec::from(reply.body.collect().await.expect("a complete body"));
    received.reverse();
    assert!(received == sent);
}

async fn carries_both_directions_at_once(transport: &dyn Transport) {
    let link = Served::new(transport, fake::echo());
    let (sender, receiver) = mpsc::channel(1);
    let mut reply = link.call(Request::new(fake::receiving(receiver))).await;
    for word in ["ping", "pong", "done"] {
        sender.send(Ok(word.into())).await.expect("a reader");
        let chunk = reply.body.next().await.expect("no end yet");
        assert_eq!(chunk.expect("no cut"), word);
    }
    drop(sender);
    assert!(reply.body.next().await.is_none());
}

async fn resolves_when_the_call_is_taken(transport: &dyn Transport) {
    let link = Served::new(transport, fake::reverse());
    let (sender, receiver) = mpsc::channel(1);
    // Neither has the request ended, nor the reply begun.
    let reply = link.call(Request::new(fake::receiving(receiver))).await;
    sender.send(Ok("abc".into())).await.expect("a reader");
    drop(sender);
    assert_eq!(reply.body.collect().await.expect("a complete body"), "cba");
}

async fn resolves_no_earlier_than_the_call_is_taken(transport: &dyn Transport) {
    let taken = Arc::new(AtomicUsize::new(0));
    let (count, echo) = (Arc::clone(&taken), fake::echo());
    let link = Served::new(
        transport,
        fake::service(move |request| {
            let (count, echo) = (Arc::clone(&count), Arc::clone(&echo));
            async move {
                sleep(LOOK_FOR).await;
                count.fetch_add(1, Ordering::SeqCst);
                echo.call(request).await
            }
        }),
    );
    let reply = link.call(Request::new("slow")).await;
    assert_eq!(taken.load(Ordering::SeqCst), 1);
    assert_eq!(reply.body.collect().await.expect("a complete body"), "slow");
}

async fn never_ends_a_request_that_was_cut(transport: &dyn Transport) {
    let (seen, mut seen_by_service) = mpsc::channel(1);
    let link = Served::new(
        transport,
        fake::process(move |process| {
            let seen = seen.clone();
            async move {
                let stdin = process.stdin.collect().await;
                seen.send(stdin).await.expect("a check that listens");
                Err(Ending::Cut)
            }
        }),
    );
    for chunks in [vec![], vec!["some", "thing"]] {
        let reply = link
            .call(Request::new(fake::cut_off(chunks, "on purpose")))
            .await;
        let seen = seen_by_service.recv().await.expect("a service that tells");
        assert!(seen.is_err(), "the service took a cut for an end");
        drop(reply.body);
        assert_eq!(reply.outcome.await.ending, Ending::Cut);
    }
}

async fn never_ends_a_reply_that_was_cut(transport: &dyn Transport) {
    let link = Served::new(
        transport,
        fake::process(async |mut process| {
            process.write("some").await?;
            // The receiver is gone if the cut has not been needed.
            let _ = process.stdout.send(Err(Cut::new("on purpose"))).await;
            Ok(0)
        }),
    );
    let mut reply = link.call(Request::new("")).await;
    let mut received = Vec::new();
    loop {
        match reply.body.next().await {
            Some(Ok(chunk)) => received.extend_from_slice(&chunk),
            Some(Err(_)) => break,
            None => panic!("the caller took a cut for an end"),
        }
    }
    assert!(b"some".starts_with(&received[..]));
}

async fn tells_the_service_that_nobody_reads_its_reply(transport: &dyn Transport) {
    let (told, mut told_service) = mpsc::channel(1);
    let link = Served::new(
        transport,
        fake::service(move |request| {
            let (body, dropped) = fake::watched();
            let (sender, outcome) = PendingOutcome::channel();
            let told = told.clone();
            tokio::spawn(async move {
                let _ = dropped.await;
                drop(request);
                let _ = sender.send(fake::ended(Ending::Unread));
                told.send(()).await
            });
            std::future::ready(Ok(Reply::new(body, outcome)))
        }),
    );
    let reply = link.call(Request::new("")).await;
    drop(reply.body);
    told_service.recv().await.expect("a service that is told");
    assert_eq!(reply.outcome.await.ending, Ending::Unread);
}

async fn tells_the_caller_that_nobody_reads_its_request(transport: &dyn Transport) {
    let link = Served::new(
        transport,
        fake::process(async |process| {
            drop(process.stdin);
            Ok(0)
        }),
    );
    let (body, dropped) = fake::watched();
    let reply = link.call(Request::new(body)).await;
    dropped
        .await
        .expect_err("the body is dropped, and says nothing more");
    assert_eq!(reply.outcome.await.ending, Ending::Exited(0));
}

async fn pulls_no_more_of_a_request_than_it_has_room_for(transport: &dyn Transport) {
    let link = Served::new(
        transport,
        fake::process(async |process| {
            let _unread = process.stdin;
            std::future::pending().await
        }),
    );
    let (body, pulled) = counted();
    let _reply = link.call(Request::new(body)).await;
    sleep(LOOK_FOR).await;
    let pulled = pulled.load(Ordering::SeqCst);
    assert!(pulled <= UNREAD_BYTES_MAX, "{pulled} bytes");
}

async fn pulls_no_more_of_a_reply_than_it_has_room_for(transport: &dyn Transport) {
    let (body, pulled) = counted();
    let body = Mutex::new(Some(body));
    let outcome = Mutex::new(None);
    let link = Served::new(
        transport,
        fake::service(move |_| {
            let (sender, pending) = PendingOutcome::channel();
            *outcome.lock() = Some(sender);
            let body = body.lock().take().expect("one call");
            std::future::ready(Ok(Reply::new(body, pending)))
        }),
    );
    let _reply = link.call(Request::new("")).await;
    sleep(LOOK_FOR).await;
    let pulled = pulled.load(Ordering::SeqCst);
    assert!(pulled <= UNREAD_BYTES_MAX, "{pulled} bytes");
}

async fn hands_on_the_deadline(transport: &dyn Transport) {
    const TOLERANCE: Duration = Duration::from_secs(2);
    let (seen, mut seen_by_service) = mpsc::channel(1);
    let link = Served::new(
        transport,
        fake::process(move |process| {
            let seen = seen.clone();
            async move {
                seen.send(process.deadline)
                    .await
                    .expect("a check that listens");
                Ok(0)
            }
        }),
    );
    let deadline = Instant::now() + Duration::from_secs(600);
    for sent in [Some(deadline), None] {
        let request = Request {
            deadline: sent,
            ..Request::new("")
        };
        let _reply = link.call(request).await;
        match (
            sent,
            seen_by_service.recv().await.expect("a service that tells"),
        ) {
            (None, None) => {}
            (Some(sent), Some(seen)) => {
                let apart = sent.duration_since(seen).max(seen.duration_since(sent));
                assert!(apart <= TOLERANCE, "{apart:?} apart");
            }
            (sent, seen) => panic!("{sent:?} became {seen:?}"),
        }
    }
}

async fn hands_on_every_ending(transport: &dyn Transport) {
    let endings = [
        Ending::Exited(0),
        Ending::Exited(1),
        Ending::Exited(255),
        Ending::Signalled(9),
        Ending::Signalled(11),
        Ending::Unread,
        Ending::Cut,
        Ending::DeadlinePassed,
        Ending::Lost("it fell over".into()),
    ];
    for ending in endings {
        let link = Served::new(transport, answering(fake::ended(ending.clone())));
        let reply = link.call(Request::new("")).await;
        let elsewhere = reply.outcome.clone();
        // Where the service was stopped its output may be cut off as well.
        let _ = reply.body.collect().await;
        assert_eq!(reply.outcome.await.ending, ending);
        assert_eq!(elsewhere.await.ending, ending);
    }
}

async fn hands_on_values_of_parameters(transport: &dyn Transport) {
    let (seen, mut seen_by_service) = mpsc::channel(1);
    let echo = fake::echo();
    let link = Served::new(
        transport,
        fake::service(move |request: Request| {
            let (seen, echo) = (seen.clone(), Arc::clone(&echo));
            async move {
                let parameters = Arc::clone(&request.parameters);
                seen.send(parameters).await.expect("a check that listens");
                echo.call(request).await
            }
        }),
    );
    let long = "\u{e9}\n".repeat(500);
    let values = [
        "",
        "300",
        "a b",
        "-n",
        "${x}&y=%",
        "\0\r\n\"'\u{202e}",
        &long,
    ];
    let values = values.iter().enumerate();
    let values = values.map(|(at, value)| (format!("name-{at}_"), (*value).to_owned()));
    let values: Arc<BTreeMap<_, _>> = Arc::new(values.collect());
    for parameters in [values, Arc::default()] {
        for body in [Bytes::new(), bytes_of(1_000_000)] {
            let request = Request {
                parameters: Arc::clone(&parameters),
                ..Request::new(body.clone())
            };
            let reply = link.call(request).await;
            let seen = seen_by_service.recv().await.expect("a service that tells");
            assert!(seen == parameters);
            assert!(reply.body.collect().await.expect("a complete body") == body);
        }
    }
}

async fn hands_on_the_links_that_follow(transport: &dyn Transport) {
    let following: Arc<[Following]> = [vec![0], vec![0, 1, 255], (0..=100).collect()]
        .map(|accepted| Following {
            id: fake::link_id(),
            accepted,
        })
        .into();
    let (seen, mut seen_by_service) = mpsc::channel(1);
    let echo = fake::echo();
    let link = Served::new(
        transport,
        fake::service(move |request: Request| {
            let (seen, echo) = (seen.clone(), Arc::clone(&echo));
            async move {
                let following = Arc::clone(&request.following);
                seen.send(following).await.expect("a check that listens");
                echo.call(request).await
            }
        }),
    );
    for following in [following, Arc::default()] {
        let request = Request {
            following: Arc::clone(&following),
            ..Request::new("")
        };
        let reply = link.call(request).await;
        let seen = seen_by_service.recv().await.expect("a service that tells");
        assert_eq!(seen, following);
        // None was taken: that is up to the service.
        assert_eq!(reply.joined, 0);
        assert!(reply.outcome.await.joined.is_empty());
    }
}

async fn hands_on_how_links_ended_that_were_joined(transport: &dyn Transport) {
    let following = || Following {
        id: fake::link_id(),
        accepted: vec![0],
    };
    // What is said at once, and what takes a while, may travel in other ways.
    for delay in [Duration::ZERO, LOOK_FOR] {
        let joined = [
            Ending::Exited(7),
            Ending::Cut,
            Ending::Lost("for no reason".into()),
        ];
        let mut joined = joined.map(fake::ended);
        joined[0].usage = usage();
        let outcome = Outcome {
            joined: joined.into(),
            stderr: "the first".into(),
            ..fake::ended(Ending::Exited(0))
        };
        let sent = outcome.clone();
        let link = Served::new(
            transport,
            fake::service(move |_| {
                let sent = sent.clone();
                let outcome = PendingOutcome::new(async move {
                    sleep(delay).await;
                    sent
                });
                std::future::ready(Ok(Reply {
                    joined: 3,
                    ..Reply::new(Body::empty(), outcome)
                }))
            }),
        );
        let request = Request {
            following: (0..5).map(|_| following()).collect(),
            ..Request::new("")
        };
        let reply = link.call(request).await;
        assert_eq!(reply.joined, 3);
        assert!(reply.body.collect().await.is_ok());
        assert_eq!(reply.outcome.await, outcome);
    }
}

async fn hands_on_the_end_of_stderr_and_what_was_used(transport: &dyn Transport) {
    let outcome = Outcome {
        ending: Ending::Exited(3),
        stderr: bytes_of(STDERR_TAIL_BYTES_MAX),
        elapsed: Duration::from_millis(1_234),
        usage: usage(),
        limit: Some(Limit::Output),
        ..fake::ended(Ending::Unread)
    };
    let link = Served::new(transport, answering(outcome.clone()));
    let reply = link.call(Request::new("")).await;
    let _ = reply.body.collect().await;
    let received = reply.outcome.await;
    assert!(received.stderr == outcome.stderr);
    assert_eq!(received.elapsed, outcome.elapsed);
    assert_eq!(received.usage, outcome.usage);
    assert_eq!(received.limit, outcome.limit);
}

fn usage() -> Usage {
    Usage {
        cpu: Some(Duration::from_micros(1_234_567)),
        memory: None,
        bytes_in: Some(0),
        bytes_out: Some(u64::MAX),
    }
}

async fn hands_on_the_outcome_of_a_dropped_reply(transport: &dyn Transport) {
    let link = Served::new(transport, fake::endless());
    let reply = link.call(Request::new("")).await;
    drop(reply.body);
    assert_eq!(reply.outcome.await.ending, Ending::Unread);
}

async fn hands_on_stderr_while_it_is_written(transport: &dyn Transport) {
    let link = Served::new(transport, complaining());
    let (stderr, mut received) = mpsc::channel(1);
    let (sender, input) = mpsc::channel(1);
    let request = Request {
        stderr: Some(stderr),
        ..Request::new(fake::receiving(input))
    };
    let reply = link.call(request).await;
    for word in ["first", "second"] {
        sender.send(Ok(word.into())).await.expect("a reader");
        assert_eq!(received.recv().await.expect("a complaint"), word);
    }
    drop(sender);
    reply.body.collect().await.expect("a complete body");
    assert_eq!(reply.outcome.await.ending, Ending::Exited(0));
    assert!(
        received.recv().await.is_none(),
        "stderr is over when the process is"
    );
}

async fn ignores_a_stderr_receiver_that_is_gone(transport: &dyn Transport) {
    let link = Served::new(transport, complaining());
    let (stderr, received) = mpsc::channel(1);
    drop(received);
    let request = Request {
        stderr: Some(stderr),
        ..Request::new("word")
    };
    let reply = link.call(request).await;
    reply.body.collect().await.expect("a complete body");
    assert_eq!(reply.outcome.await.ending, Ending::Exited(0));
}

async fn reports_a_lost_runner(transport: &dyn Transport) {
    let link = Served::new(
        transport,
        fake::service(|_| {
            let (_, outcome) = PendingOutcome::channel();
            let body = fake::cut_off([], "the runner is gone");
            std::future::ready(Ok(Reply::new(body, outcome)))
        }),
    );
    let reply = link.call(Request::new("")).await;
    assert!(reply.body.collect().await.is_err());
    let ending = reply.outcome.await.ending;
    assert!(matches!(ending, Ending::Lost(_)), "{ending:?}");
}

async fn refuses_a_link_that_nobody_serves(transport: &dyn Transport) {
    let request = Request::new("kept");
    let refusal = transport
        .call(fake::link_id(), request)
        .await
        .expect_err("a refusal");
    assert!(
        matches!(refusal.reason, RefusalReason::NoRunner),
        "{:?}",
        refusal.reason
    );
    assert_eq!(
        refusal
            .request
            .body
            .collect()
            .await
            .expect("a complete body"),
        "kept"
    );
}

async fn gives_a_refused_request_back(transport: &dyn Transport) {
    let sent = bytes_of(1_000_000);
    for reason in [
        RefusalReason::Busy,
        RefusalReason::CannotStart("no such command".into()),
        RefusalReason::Malformed("no such parameter".into()),
    ] {
        let (refusing, echo) = (fake::refusing(reason.clone()), fake::echo());
        let asked = AtomicUsize::new(0);
        // Refuses once, and then is free.
        let link = Served::new(
            transport,
            fake::service(move |request| {
                let first = asked.fetch_add(1, Ordering::SeqCst) == 0;
                let service = Arc::clone(if first { &refusing } else { &echo });
                async move { service.call(request).await }
            }),
        );
        let chunks: Vec<_> = sent
            .chunks(10_000)
            .map(|chunk| Ok(Bytes::copy_from_slice(chunk)))
            .collect();
        let (stderr, _received) = mpsc::channel(1);
        let request = Request {
            trace: Trace::default(),
            body: Body::new(stream::iter(chunks)),
            deadline: Some(Instant::now() + Duration::from_secs(600)),
            stderr: Some(stderr),
            ..Request::new("")
        };
        let refusal = link.try_call(request).await.expect_err("a refusal");
        let text = refusal.reason.to_string();
        assert!(text.contains(&reason.to_string()), "{text}");
        assert!(refusal.request.deadline.is_some() && refusal.request.stderr.is_some());

        let reply = link.call(refusal.request).await;
        assert!(reply.body.collect().await.expect("a complete body") == sent);
    }
}

async fn tells_that_a_call_has_to_wait(transport: &dyn Transport) {
    let full = fake::refusing(RefusalReason::Busy);
    let link = Served::new(
        transport,
        fake::service(move |request| {
            let full = Arc::clone(&full);
            async move {
                request.waiting.tell();
                sleep(Duration::from_secs(1)).await;
                full.call(request).await
            }
        }),
    );
    let request = Request::new("");
    let waiting = request.waiting.clone();
    link.try_call(request).await.expect_err("a refusal");
    assert!(waiting.is_told());
}

async fn tells_whether_a_link_is_served(transport: &dyn Transport) {
    let unknown = transport.probe(fake::link_id()).await;
    assert!(
        matches!(unknown, Err(RefusalReason::NoRunner)),
        "{unknown:?}"
    );
    let called = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&called);
    let link = Served::new(
        transport,
        fake::process(move |_| {
            count.fetch_add(1, Ordering::SeqCst);
            std::future::ready(Ok(0))
        }),
    );
    while transport.probe(link.id).await.is_err() {
        sleep(LOOK_AGAIN).await;
    }
    assert_eq!(called.load(Ordering::SeqCst), 0, "a probe is no call");
    let id = link.id;
    link.registration.withdraw().await;
    while transport.probe(id).await.is_ok() {
        sleep(LOOK_AGAIN).await;
    }
}

async fn takes_no_call_after_withdrawal(transport: &dyn Transport) {
    let link = Served::new(transport, fake::echo());
    link.call(Request::new("")).await;
    let id = link.id;
    drop(link);
    loop {
        match transport.call(id, Request::new("")).await {
            Err(refusal) if matches!(refusal.reason, RefusalReason::NoRunner) => break,
            _ => sleep(LOOK_AGAIN).await,
        }
    }
}

async fn finishes_what_is_in_flight_after_withdrawal(transport: &dyn Transport) {
    let link = Served::new(transport, fake::echo());
    let (sender, receiver) = mpsc::channel(1);
    let reply = link.call(Request::new(fake::receiving(receiver))).await;
    drop(link);
    sleep(LOOK_AGAIN).await;
    sender.send(Ok("late".into())).await.expect("a reader");
    drop(sender);
    assert_eq!(reply.body.collect().await.expect("a complete body"), "late");
    assert_eq!(reply.outcome.await.ending, Ending::Exited(0));
}

async fn keeps_links_apart(transport: &dyn Transport) {
    let one = Served::new(transport, fake::saying("one"));
    let two = Served::new(transport, fake::saying("two"));
    for _ in 0..4 {
        for (link, said) in [(&one, "one"), (&two, "two")] {
            let reply = link.call(Request::new("")).await;
            assert_eq!(reply.body.collect().await.expect("a complete body"), said);
        }
    }
}

async fn keeps_concurrent_calls_apart(transport: &dyn Transport) {
    let link = Served::new(transport, fake::echo());
    let calls = (0..100_usize).map(async |number| {
        let chunk = Bytes::from(format!("{number:08}"));
        let sent = stream::repeat(Ok(chunk.clone())).take(100 + number);
        let reply = link.call(Request::new(Body::new(sent))).await;
        let received = reply.body.collect().await.expect("a complete body");
        assert_eq!(received.len(), chunk.len() * (100 + number));
        assert!(
            received
                .chunks(chunk.len())
                .all(|received| received == chunk)
        );
        assert_eq!(reply.outcome.await.ending, Ending::Exited(0));
    });
    join_all(calls).await;
}

/// A link of its own that is served for as long as this is held.
struct Served<'a> {
    transport: &'a dyn Transport,
    id: LinkId,
    registration: Registration,
}

impl Served<'_> {
    fn new(transport: &dyn Transport, service: Arc<dyn Service>) -> Served<'_> {
        let id = fake::link_id();
        let registration = transport.serve(id, service);
        Served {
            transport,
            id,
            registration,
        }
    }

    /// Calls it; a registration may take a while to be known.
    async fn try_call(&self, mut request: Request) -> Result<Reply, super::Refusal> {
        loop {
            match self.transport.call(self.id, request).await {
                Err(refusal) if matches!(refusal.reason, RefusalReason::NoRunner) => {
                    request = refusal.request;
                    sleep(LOOK_AGAIN).await;
                }
                result => return result,
            }
        }
    }

    async fn call(&self, request: Request) -> Reply {
        self.try_call(request).await.expect("a call that is taken")
    }
}

/// A service that writes nothing and ends like that.
fn answering(outcome: Outcome) -> Arc<dyn Service> {
    fake::service(move |_| {
        let (sender, pending) = PendingOutcome::channel();
        sender
            .send(outcome.clone())
            .expect("an outcome that is held");
        let body = Body::empty();
        std::future::ready(Ok(Reply::new(body, pending)))
    })
}

/// A service that writes its input to standard error.
fn complaining() -> Arc<dyn Service> {
    fake::process(async |mut process| {
        while let Some(chunk) = process.read().await? {
            if let Some(stderr) = &process.stderr {
                // One that is gone is ignored.
                let _ = stderr.send(chunk).await;
            }
        }
        Ok(0)
    })
}

/// Bytes of no pattern that a mistake could keep.
fn bytes_of(size: usize) -> Bytes {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    };
    std::iter::repeat_with(next).take(size).collect()
}

/// A body without end, and how many of its bytes have been pulled.
fn counted() -> (Body, Arc<AtomicUsize>) {
    let chunk = Bytes::from(vec![b'x'; COUNTED_CHUNK_BYTES]);
    let pulled = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&pulled);
    let chunks = stream::repeat_with(move || {
        count.fetch_add(chunk.len(), Ordering::SeqCst);
        Ok(chunk.clone())
    });
    // Yields now and then, or it would starve a single-threaded test.
    let chunks = chunks.then(async |chunk| {
        tokio::task::yield_now().await;
        chunk
    });
    (Body::new(chunks), pulled)
}
