//! What the portal makes of its links: bytes, ends, failures, deadlines.
//!
//! The links are fakes on the in-process transport, and time is paused: what
//! takes seconds here takes none.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::portal::{link, open, open_with};
use bytes::Bytes;
use chain::{Chain, ChainLink, Deadline, LinkId};
use consecution::link_store::{LinkStore, memory::Memory};
use consecution::portal::{ChainReply, ChainRequest, FailureReason, Portal, PortalError};
use consecution::transport::conformance::fake;
use consecution::transport::in_process::InProcess;
use consecution::transport::{
    Body, Cut, Ending, Outcome, PendingOutcome, Refusal, RefusalReason, Registration, Reply,
    Request, Service, Transport,
};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

/// Reads nothing, runs for so long, and exits with this code.
fn sleeping(seconds: u64, code: u8) -> Arc<dyn Service> {
    fake::process(move |process| async move {
        sleep(Duration::from_secs(seconds)).await;
        drop(process);
        Ok(code)
    })
}

/// Reads one chunk, writes it, and exits, as `head` does.
fn head() -> Arc<dyn Service> {
    fake::process(async |mut process| {
        if let Some(chunk) = process.read().await? {
            process.write(chunk).await?;
        }
        Ok(0)
    })
}

/// Reads all of its input, and adds what became of it.
fn witness(seen: &mpsc::UnboundedSender<Result<Bytes, Cut>>) -> Arc<dyn Service> {
    let seen = seen.clone();
    fake::process(move |process| {
        let seen = seen.clone();
        async move {
            let stdin = process.stdin.collect().await;
            let cut = stdin.is_err();
            seen.send(stdin).expect("a test that listens");
            if cut { Err(Ending::Cut) } else { Ok(0) }
        }
    })
}

/// Ends at once, with an outcome and a body of this choice.
fn replying(outcome: Outcome, body: fn() -> Body) -> Arc<dyn Service> {
    fake::service(move |_| {
        let (sender, pending) = PendingOutcome::channel();
        sender
            .send(outcome.clone())
            .expect("an outcome that is held");
        std::future::ready(Ok(Reply::new(body(), pending)))
    })
}

fn endings(error: &consecution::portal::ChainError) -> Vec<Option<Ending>> {
    error
        .report
        .links
        .iter()
        .map(|link| link.ending.clone())
        .collect()
}

#[tokio::test(start_paused = true)]
async fn bytes_pass_through_all_links() {
    let chain = open([fake::reverse(), fake::echo(), fake::reverse()]).await;
    assert_eq!(chain.portal.send("some bytes").await.unwrap(), "some bytes");
    assert_eq!(chain.portal.send("").await.unwrap(), "");
}

#[tokio::test(start_paused = true)]
async fn all_links_run_at_the_same_time() {
    let chain = open([fake::echo(), fake::echo(), fake::echo()]).await;
    let (sender, receiver) = mpsc::channel(1);
    let ChainReply { mut body, report } = chain
        .portal
        .stream(ChainRequest::new(fake::receiving(receiver)));
    for word in ["one", "two", "three"] {
        sender.send(Ok(word.into())).await.unwrap();
        assert_eq!(body.next().await.unwrap().unwrap(), word);
    }
    drop(sender);
    assert!(body.next().await.is_none());
    let report = report.await.unwrap();
    assert!(
        report
            .links
            .iter()
            .all(|link| link.ending == Some(Ending::Exited(0)))
    );
    assert_eq!(report.links[2].name, "third");
}

#[tokio::test(start_paused = true)]
async fn opening_publishes_the_links() {
    let links = [0, 1].map(link);
    let chain = Chain {
        deadline: Deadline::None,
        ..Chain::new("test", links.clone().map(ChainLink::new))
    };
    let store = Memory::new();
    Portal::open(chain.clone(), Arc::new(InProcess::new()), &store)
        .await
        .unwrap();
    let listed = store.list().await.unwrap();
    assert!(
        links
            .iter()
            .all(|link| listed.iter().any(|listed| **listed == *link))
    );

    let empty = Chain {
        links: Vec::new(),
        ..chain
    };
    let error = Portal::open(empty, Arc::new(InProcess::new()), &store)
        .await
        .err()
        .unwrap();
    assert!(matches!(error, PortalError::NoLinks));
}

#[tokio::test(start_paused = true)]
async fn a_link_behind_a_failed_one_never_sees_an_end() {
    let (seen, mut seen_by_last) = mpsc::unbounded_channel();
    let chain = open([fake::echo(), fake::exiting(1), witness(&seen)]).await;
    let error = chain.portal.send("data").await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "link 2 'second' (fake /bin/second) exited with code 1"
    );
    assert_eq!(error.reason, FailureReason::Exited(1));
    assert_eq!((error.index, error.chain.as_str()), (1, "test"));
    assert!(seen_by_last.recv().await.unwrap().is_err());
}

#[tokio::test(start_paused = true)]
async fn an_accepted_code_is_a_success() {
    let accept = |chain: &mut Chain| chain.links[0].accepted_exit_codes = vec![0, 1];
    let chain = open_with([fake::exiting(1), fake::echo()], accept).await;
    assert_eq!(chain.portal.send("data").await.unwrap(), "data");
    let chain = open_with([fake::exiting(2), fake::echo()], accept).await;
    assert_eq!(
        chain.portal.send("data").await.unwrap_err().reason,
        FailureReason::Exited(2)
    );
}

#[tokio::test(start_paused = true)]
async fn a_signal_is_named_and_stderr_is_kept() {
    let outcome = Outcome {
        stderr: "oh no".into(),
        ..fake::ended(Ending::Signalled(11))
    };
    let chain = open([replying(outcome, Body::empty)]).await;
    let error = chain.portal.send("").await.unwrap_err();
    let text = "link 1 'first' (fake /bin/first) was ended by signal 11 (SIGSEGV)";
    assert_eq!(error.to_string(), text);
    assert_eq!(error.stderr, "oh no");
}

#[tokio::test(start_paused = true)]
async fn a_link_that_nobody_reads_any_more_has_not_failed() {
    let chain = open([fake::endless(), fake::echo(), head()]).await;
    let ChainReply { body, report } = chain.portal.stream(ChainRequest::new(Body::empty()));
    assert_eq!(body.collect().await.unwrap(), "y\n");
    let links = report.await.unwrap().links;
    assert_eq!(links[0].ending, Some(Ending::Unread));
    assert_eq!(links[2].ending, Some(Ending::Exited(0)));
}

#[tokio::test(start_paused = true)]
async fn dropping_the_body_stops_the_links_and_is_no_failure() {
    let chain = open([fake::endless(), fake::echo()]).await;
    let ChainReply { mut body, report } = chain.portal.stream(ChainRequest::new(Body::empty()));
    body.next().await.unwrap().unwrap();
    drop(body);
    let links = report.await.unwrap().links;
    assert!(
        links.iter().all(|link| link.ending == Some(Ending::Unread)),
        "{links:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn dropping_the_reply_cancels_everything() {
    let (running, mut stopped) = mpsc::channel::<()>(1);
    let hanging = fake::process(move |process| {
        let running = running.clone();
        async move {
            let _held = (running, process);
            std::future::pending().await
        }
    });
    let chain = open([Arc::clone(&hanging), hanging]).await;
    let (input, dropped) = fake::watched();
    let ChainReply { mut body, report } = chain.portal.stream(ChainRequest::new(input));
    assert!(timeout(Duration::from_secs(1), body.next()).await.is_err());
    drop((body, report));
    dropped.await.unwrap_err();
    drop(chain);
    assert!(stopped.recv().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn an_earlier_link_that_fails_late_cuts_the_reply() {
    // It writes, closes its output, and fails a second later.
    let late = fake::service(|_| {
        let (sender, outcome) = PendingOutcome::channel();
        tokio::spawn(async move {
            sleep(Duration::from_secs(1)).await;
            let _ = sender.send(fake::ended(Ending::Exited(3)));
        });
        std::future::ready(Ok(Reply::new("line\n".into(), outcome)))
    });
    let chain = open([late, head()]).await;
    let ChainReply { mut body, report } = chain.portal.stream(ChainRequest::new(Body::empty()));
    assert_eq!(body.next().await.unwrap().unwrap(), "line\n");
    assert!(body.next().await.unwrap().is_err());
    assert!(body.next().await.is_none());
    let error = report.await.unwrap_err();
    assert_eq!((error.index, &error.reason), (0, &FailureReason::Exited(3)));
    assert_eq!(
        endings(&error),
        [Some(Ending::Exited(3)), Some(Ending::Exited(0))]
    );
}

#[tokio::test(start_paused = true)]
async fn the_first_failed_link_in_chain_order_is_named() {
    // The second fails first; the first notices, takes its time, and fails too.
    let slow = fake::service(|_| {
        let (sender, outcome) = PendingOutcome::channel();
        let (body, unread) = fake::watched();
        tokio::spawn(async move {
            let _ = unread.await;
            sleep(Duration::from_secs(1)).await;
            let _ = sender.send(fake::ended(Ending::Exited(4)));
        });
        std::future::ready(Ok(Reply::new(body, outcome)))
    });
    let chain = open([slow, sleeping(0, 5), fake::echo()]).await;
    let error = chain.portal.send("").await.unwrap_err();
    assert_eq!((error.index, &error.reason), (0, &FailureReason::Exited(4)));
}

#[tokio::test(start_paused = true)]
async fn an_earlier_link_that_does_not_end_is_not_waited_for_long() {
    let hanging = fake::service(|_| {
        let (sender, outcome) = PendingOutcome::channel();
        tokio::spawn(async move {
            sleep(Duration::from_secs(3600)).await;
            drop(sender);
        });
        std::future::ready(Ok(Reply::new(fake::watched().0, outcome)))
    });
    let chain = open([hanging, sleeping(0, 5)]).await;
    let before = Instant::now();
    let error = chain.portal.send("").await.unwrap_err();
    assert_eq!((error.index, &error.reason), (1, &FailureReason::Exited(5)));
    assert!(before.elapsed() < Duration::from_secs(10));
}

#[tokio::test(start_paused = true)]
async fn all_that_a_failing_last_link_wrote_arrives() {
    let chain = open([fake::exiting(1)]).await;
    let chunks: Vec<_> = (0..100).map(|_| Ok("0123456789".into())).collect();
    let ChainReply { mut body, report } = chain
        .portal
        .stream(ChainRequest::new(Body::new(stream::iter(chunks))));
    let mut received = 0;
    while let Some(Ok(chunk)) = body.next().await {
        received += chunk.len();
        // A reader that is slower than the link.
        sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(received, 1000);
    assert_eq!(report.await.unwrap_err().reason, FailureReason::Exited(1));
}

#[tokio::test(start_paused = true)]
async fn a_busy_link_is_called_again_with_all_of_its_input() {
    let asked = AtomicUsize::new(0);
    let (busy, echo) = (fake::refusing(RefusalReason::Busy), fake::echo());
    let busy_at_first = fake::service(move |request| {
        let first = asked.fetch_add(1, Ordering::SeqCst) < 20;
        let service = Arc::clone(if first { &busy } else { &echo });
        async move { service.call(request).await }
    });
    let chain = open([fake::echo(), busy_at_first]).await;
    assert_eq!(chain.portal.send("kept").await.unwrap(), "kept");
}

#[tokio::test(start_paused = true)]
async fn a_link_that_stays_busy_fails_at_the_deadline() {
    for services in [
        vec![fake::refusing(RefusalReason::Busy)],
        vec![
            fake::endless(),
            fake::refusing(RefusalReason::Busy),
            fake::echo(),
        ],
    ] {
        let busy = services.len() / 2;
        let deadline = Duration::from_secs(5);
        let chain = open_with(services, |chain| chain.deadline = Deadline::After(deadline)).await;
        let before = Instant::now();
        let error = chain.portal.send("").await.unwrap_err();
        assert_eq!((error.index, &error.reason), (busy, &FailureReason::Busy));
        let elapsed = before.elapsed();
        assert!(elapsed >= deadline && elapsed < deadline * 2, "{elapsed:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_nobody_can_run_fails_at_once() {
    let refusals = [
        (RefusalReason::NoRunner, FailureReason::NoRunner),
        (
            RefusalReason::CannotStart("no such command".into()),
            FailureReason::CannotStart("no such command".into()),
        ),
    ];
    for (refusal, reason) in refusals {
        for position in 0..3 {
            let mut services = vec![fake::endless(), fake::echo(), fake::echo()];
            services[position] = fake::refusing(refusal.clone());
            let chain = open(services).await;
            let before = Instant::now();
            let error = chain.portal.send("").await.unwrap_err();
            assert_eq!((error.index, &error.reason), (position, &reason));
            assert!(before.elapsed() < Duration::from_millis(100));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_failure_ends_the_wait_for_a_busy_link() {
    let chain = open([fake::exiting(7), fake::refusing(RefusalReason::Busy)]).await;
    let error = chain.portal.send("").await.unwrap_err();
    assert_eq!((error.index, &error.reason), (0, &FailureReason::Exited(7)));
}

#[tokio::test(start_paused = true)]
async fn the_chain_s_deadline_names_the_first_link_still_running() {
    let deadline = Duration::from_secs(5);
    let chain = open_with(
        [fake::saying("x"), sleeping(60, 0), fake::echo()],
        |chain| {
            chain.deadline = Deadline::After(deadline);
        },
    )
    .await;
    let before = Instant::now();
    let error = chain.portal.send("").await.unwrap_err();
    assert_eq!(
        (error.index, &error.reason),
        (1, &FailureReason::DeadlinePassed)
    );
    assert!(before.elapsed() < deadline * 2);

    // The third is killed first, and the first has only lost its reader.
    let chain = open_with([fake::endless(), fake::echo(), sleeping(60, 0)], |chain| {
        chain.deadline = Deadline::After(deadline);
    })
    .await;
    let error = chain.portal.send("").await.unwrap_err();
    assert_eq!(
        (error.index, &error.reason),
        (0, &FailureReason::DeadlinePassed)
    );
}

#[tokio::test(start_paused = true)]
async fn a_link_s_own_deadline_counts_if_it_is_earlier() {
    let chain = open_with([fake::echo(), sleeping(60, 0)], |chain| {
        chain.deadline = Deadline::After(Duration::from_secs(30));
        chain.links[1].deadline = Some(Duration::from_secs(2));
    })
    .await;
    let before = Instant::now();
    let error = chain.portal.send("").await.unwrap_err();
    assert_eq!(
        (error.index, &error.reason),
        (1, &FailureReason::DeadlinePassed)
    );
    assert!(before.elapsed() < Duration::from_secs(4));
}

#[tokio::test(start_paused = true)]
async fn a_deadline_holds_although_the_transport_hangs() {
    struct Hanging;
    impl Transport for Hanging {
        fn call(&self, _: LinkId, _: Request) -> BoxFuture<'_, Result<Reply, Refusal>> {
            Box::pin(std::future::pending())
        }
        fn serve(&self, _: LinkId, _: Arc<dyn Service>) -> Registration {
            Registration::new((), std::future::ready(()))
        }

        fn probe(&self, _: LinkId) -> BoxFuture<'_, Result<(), RefusalReason>> {
            Box::pin(std::future::ready(Ok(())))
        }
    }
    let never = fake::service(|_| {
        let (sender, outcome) = PendingOutcome::channel();
        std::mem::forget(sender);
        let body = Body::new(stream::pending());
        std::future::ready(Ok(Reply::new(body, outcome)))
    });
    let deadline = Deadline::After(Duration::from_secs(5));
    let fixture = open_with([fake::echo(), never], |chain| chain.deadline = deadline).await;
    let chain = Chain::clone(fixture.portal.chain());
    let hanging = Portal::open(chain, Arc::new(Hanging), &Memory::new())
        .await
        .unwrap();
    for (portal, index) in [(&fixture.portal, 1), (&hanging, 0)] {
        let before = Instant::now();
        let error = portal.send("").await.unwrap_err();
        assert_eq!(
            (error.index, &error.reason),
            (index, &FailureReason::DeadlinePassed)
        );
        assert!(before.elapsed() < Duration::from_secs(10));
    }
}

#[tokio::test(start_paused = true)]
async fn input_that_the_caller_cuts_off_is_no_link_s_fault() {
    let (seen, mut seen_by_last) = mpsc::unbounded_channel();
    let chain = open([fake::echo(), witness(&seen)]).await;
    let input = fake::cut_off(["half of it"], "the client hung up");
    let ChainReply { body, report } = chain.portal.stream(ChainRequest::new(input));
    assert!(body.collect().await.is_err());
    let error = report.await.unwrap_err();
    assert_eq!(
        error.reason,
        FailureReason::InputCut("the client hung up".into())
    );
    assert_eq!(
        error.to_string(),
        "the input was cut off: the client hung up"
    );
    // It may be stopped before it has seen the cut, but it sees no end.
    drop(chain);
    assert!(!matches!(seen_by_last.try_recv(), Ok(Ok(_))));
}

#[tokio::test(start_paused = true)]
async fn output_that_is_lost_on_its_way_is_a_failure() {
    let lossy = || {
        let exited = fake::ended(Ending::Exited(0));
        replying(exited, || fake::cut_off(["half"], "the wire broke"))
    };
    let lost = FailureReason::Lost("the wire broke".into());
    for (services, index) in [
        (vec![fake::echo(), lossy(), fake::reverse()], 1),
        (vec![fake::echo(), lossy()], 1),
        (vec![lossy()], 0),
    ] {
        let chain = open(services).await;
        let error = chain.portal.send("").await.unwrap_err();
        assert_eq!((error.index, &error.reason), (index, &lost));
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_runner_is_a_failure() {
    let vanishing = fake::service(|_| {
        let (_, outcome) = PendingOutcome::channel();
        std::future::ready(Ok(Reply::new(Body::empty(), outcome)))
    });
    let chain = open([fake::echo(), vanishing, fake::reverse()]).await;
    let error = chain.portal.send("data").await.unwrap_err();
    assert_eq!(error.index, 1);
    assert!(matches!(error.reason, FailureReason::Lost(_)), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_link_that_was_stopped_for_no_reason_is_a_failure() {
    for (ending, body) in [(Ending::Unread, "x"), (Ending::Cut, "")] {
        let odd = fake::service(move |_| {
            let (sender, outcome) = PendingOutcome::channel();
            sender.send(fake::ended(ending.clone())).unwrap();
            std::future::ready(Ok(Reply::new(body.into(), outcome)))
        });
        let chain = open([odd, fake::reverse()]).await;
        let error = chain.portal.send("").await.unwrap_err();
        assert_eq!(error.index, 0);
        assert!(matches!(error.reason, FailureReason::Lost(_)), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn body_and_report_may_be_awaited_together_or_apart() {
    let chain = open([fake::echo(), fake::echo()]).await;
    let ChainReply { body, report } = chain.portal.stream(ChainRequest::new("data"));
    let (body, report) = tokio::join!(body.collect(), report);
    assert_eq!(
        (body.unwrap(), report.unwrap().links.len()),
        ("data".into(), 2)
    );

    let ChainReply { body, report } = chain.portal.stream(ChainRequest::new("data"));
    let report = tokio::spawn(report);
    let body = tokio::spawn(body.collect());
    assert!(report.await.unwrap().is_ok());
    assert_eq!(body.await.unwrap().unwrap(), "data");

    // Nothing keeps the run alive but what is read of it.
    let ChainReply { body, report } = chain.portal.stream(ChainRequest::new("data"));
    drop(report);
    assert_eq!(body.collect().await.unwrap(), "data");
}

#[tokio::test(start_paused = true)]
async fn input_is_pulled_no_faster_than_the_reply_is_read() {
    let pulled = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&pulled);
    let input = stream::repeat_with(move || {
        count.fetch_add(1, Ordering::SeqCst);
        Ok(Bytes::from_static(b"chunk"))
    });
    let chain = open([fake::echo(), fake::echo(), fake::echo()]).await;
    let ChainReply {
        mut body,
        report: _report,
    } = chain.portal.stream(ChainRequest::new(Body::new(input)));
    body.next().await.unwrap().unwrap();
    sleep(Duration::from_secs(1)).await;
    let pulled = pulled.load(Ordering::SeqCst);
    assert!(pulled <= 12, "{pulled} chunks for one that was read");
}

/// A link that uses these parameters, each of which may have any digits as its value.
fn using(index: usize, parameters: &[&str]) -> ChainLink {
    let pattern = chain::Pattern::new("[0-9]*").unwrap();
    let parameters = parameters
        .iter()
        .map(|name| ((*name).to_owned(), pattern.clone()));
    ChainLink::new(chain::Link {
        parameters: parameters.collect(),
        ..link(index)
    })
}

/// The values that come with each request.
type Taken = mpsc::UnboundedReceiver<Vec<(String, String)>>;

/// A portal of these links, the chain's parameter `a` with a default; and the values that come
/// with each request.
fn taking(links: Vec<ChainLink>) -> (Portal, Taken, InProcess, Vec<Registration>) {
    let (seen, received) = mpsc::unbounded_channel();
    let transport = InProcess::new();
    let registrations = links.iter().map(|link| {
        let (seen, echo) = (seen.clone(), fake::echo());
        let service = fake::service(move |request: Request| {
            let values = request.parameters.iter();
            let values = values.map(|(name, value)| (name.clone(), value.clone()));
            seen.send(values.collect()).unwrap();
            let echo = Arc::clone(&echo);
            async move { echo.call(request).await }
        });
        transport.serve(link.id, service)
    });
    let registrations = registrations.collect();
    let mut chain = Chain::new("test", links);
    for (name, default) in [("a", Some("1".to_owned())), ("b", None)] {
        let pattern = chain::Pattern::new("[0-9]*").unwrap();
        let parameter = chain::Parameter { pattern, default };
        chain.parameters.insert(name.to_owned(), parameter);
    }
    let portal = Portal::new(chain, Arc::new(transport.clone())).unwrap();
    (portal, received, transport, registrations)
}

fn with_values<const N: usize>(values: [(&str, &str); N]) -> ChainRequest {
    ChainRequest {
        parameters: values
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
        ..ChainRequest::new("data")
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_has_the_values_of_its_links_and_no_others() {
    let alone = Some(Duration::from_secs(5));
    let links = vec![
        // A deadline of its own keeps it out of the others' requests.
        ChainLink {
            deadline: alone,
            ..using(0, &[])
        },
        ChainLink {
            deadline: alone,
            ..using(1, &["b"])
        },
        using(2, &["a"]),
        using(3, &["a", "b"]),
    ];
    let (portal, mut seen, _transport, _registrations) = taking(links);
    let ChainReply { body, report } = portal.stream(with_values([("b", "22")]));
    assert_eq!(body.collect().await.unwrap(), "data");
    report.await.unwrap();
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let (a, b) = (pair("a", "1"), pair("b", "22"));
    let mut all = Vec::new();
    while let Ok(values) = seen.try_recv() {
        all.push(values);
    }
    // The third one may be run with the fourth, whose fake runs no others.
    let both = vec![a, b.clone()];
    assert_eq!(all, [vec![], vec![b], both.clone(), both]);
}

#[tokio::test(start_paused = true)]
async fn values_that_a_chain_cannot_have_fail_without_a_run() {
    let (portal, mut seen, _transport, _registrations) = taking(vec![using(0, &["a", "b"])]);
    for (request, name, part) in [
        (with_values([]), "b", "find a value of the parameter `b`"),
        (
            with_values([("b", "x")]),
            "b",
            "to `x`, which does not match `[0-9]*`",
        ),
        (with_values([("b", "1\n")]), "b", "to `1\\n`"),
        (with_values([("b", "1"), ("c", "1")]), "c", "there are a, b"),
    ] {
        let ChainReply { body, report } = portal.stream(request);
        let cut = body.collect().await.unwrap_err();
        let error = report.await.unwrap_err();
        let FailureReason::Parameter(parameter) = &error.reason else {
            panic!("{error}");
        };
        assert_eq!(parameter.name(), Some(name));
        assert!(error.to_string().contains(part), "{error}");
        assert!(cut.to_string().contains(part), "{cut}");
        assert!(error.report.links.iter().all(|link| link.ending.is_none()));
    }
    assert!(seen.try_recv().is_err());
    // A chain without parameters takes none.
    let chain = open([fake::echo()]).await;
    let report = chain.portal.stream(with_values([("a", "1")])).report;
    let error = report.await.unwrap_err().to_string();
    assert!(error.contains("there are no parameters"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn stderr_of_all_links_reaches_the_caller() {
    let complaining = |what: &'static str| {
        fake::process(move |mut process| async move {
            process
                .stderr
                .take()
                .unwrap()
                .send(what.into())
                .await
                .unwrap();
            while let Some(chunk) = process.read().await? {
                process.write(chunk).await?;
            }
            Ok(0)
        })
    };
    let chain = open([complaining("one"), complaining("two")]).await;
    let (stderr, mut received) = mpsc::channel(4);
    let ChainReply { body, report } = chain.portal.stream(ChainRequest {
        stderr: Some(stderr),
        ..ChainRequest::new("data")
    });
    body.collect().await.unwrap();
    report.await.unwrap();
    let mut complaints = Vec::new();
    while let Ok(complaint) = received.try_recv() {
        complaints.push(complaint);
    }
    complaints.sort();
    assert_eq!(complaints, ["one", "two"]);
}

#[tokio::test]
async fn a_hundred_calls_at_once_do_not_mix() {
    let chain = open([fake::reverse(), fake::echo(), fake::reverse()]).await;
    let calls = (0..100).map(|number| {
        let portal = chain.portal.clone();
        tokio::spawn(async move {
            let sent = format!("{number:>1000}");
            assert_eq!(portal.send(sent.clone()).await.unwrap(), sent);
        })
    });
    for call in calls.collect::<Vec<_>>() {
        call.await.unwrap();
    }
}
