//! Connections, servers and peers that go away in the middle of a call.

use std::sync::Arc;
use std::time::Duration;

use crate::support::nats::{
    NatsServer, Proxy, Two, connect, serve, until_connected, until_served, until_waiting,
};
use bytes::Bytes;
use chain::LinkId;
use consecution::config::NatsOptions;
use consecution::transport::conformance::fake;
use consecution::transport::nats::{Connection, Nats, Role};
use consecution::transport::{
    Body, Ending, PendingOutcome, RefusalReason, Reply, Request, Service, Transport,
};
use futures_util::{StreamExt, stream};
use test_support::PATIENCE;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

macro_rules! server {
    () => {
        match NatsServer::start("") {
            Some(server) => server,
            None => cannot_run_here!("there is no nats-server"),
        }
    };
}

/// Reads its input and says when that was cut off, and when its output is not
/// read any more: a process that would otherwise stay for ever.
fn lingering() -> (Arc<dyn Service>, mpsc::Receiver<&'static str>) {
    let (told, events) = mpsc::channel(16);
    let service = fake::service(move |request: Request| {
        let (body, dropped) = fake::watched();
        let (sender, outcome) = PendingOutcome::channel();
        let told = told.clone();
        tokio::spawn(async move {
            told.send("taken").await.unwrap();
            let mut input = request.body;
            tokio::select! {
                _ = dropped => told.send("unread").await.unwrap(),
                () = async {
                    loop {
                        match input.next().await {
                            Some(Ok(_)) => {}
                            Some(Err(_)) => return,
                            None => std::future::pending().await,
                        }
                    }
                } => told.send("cut").await.unwrap(),
            }
            drop(sender);
        });
        std::future::ready(Ok(Reply::new(body, outcome)))
    });
    (service, events)
}

/// A body that gives something and then never ends.
fn unending() -> Body {
    let start = stream::iter([Ok(Bytes::from("start"))]);
    Body::new(start.chain(stream::pending()))
}

async fn next_event(events: &mut mpsc::Receiver<&'static str>) -> &'static str {
    timeout(PATIENCE, events.recv()).await.unwrap().unwrap()
}

/// Its input is cut off and its output dropped; it is told of one of them first.
async fn expect_stopped(events: &mut mpsc::Receiver<&'static str>) {
    let stopped = next_event(events).await;
    assert!(["cut", "unread"].contains(&stopped), "{stopped}");
}

/// The call ends as lost, its reply as cut off, and that within so long.
async fn expect_lost(reply: Reply, since: Instant, within: Duration) {
    let ending = timeout(PATIENCE, reply.outcome).await.unwrap().ending;
    assert!(matches!(ending, Ending::Lost(_)), "{ending:?}");
    let taken = since.elapsed();
    assert!(taken <= within, "known only after {taken:?}");
    assert!(
        reply.body.collect().await.is_err(),
        "a lost call's output ended"
    );
}

async fn expect_echo(transport: &dyn Transport, id: LinkId) {
    let reply = transport.call(id, Request::new("hello")).await.unwrap();
    assert_eq!(reply.body.collect().await.unwrap(), "hello");
    assert_eq!(reply.outcome.await.ending, Ending::Exited(0));
}

#[tokio::test]
async fn nobody_there_is_known_at_once() {
    let server = server!();
    let portal = connect(&server.options(), Role::Portal).await;
    let started = Instant::now();
    let refusal = portal.call(fake::link_id(), Request::new("x")).await;
    let refusal = refusal.unwrap_err();
    assert!(matches!(refusal.reason, RefusalReason::NoRunner));
    assert!(started.elapsed() < Duration::from_secs(1));
}

#[tokio::test]
async fn a_runner_whose_connection_breaks_is_lost_to_its_callers_soon() {
    let server = server!();
    let portal = connect(&server.options(), Role::Portal).await;
    for request in [Request::new(unending()), Request::new("whole")] {
        let proxy = Proxy::start(&server).await;
        let runner = connect(&proxy.options(), Role::Runner).await;
        let (service, mut events) = lingering();
        let (id, _registration) = serve(&runner, service).await;
        let reply = portal.call(id, request).await.unwrap();
        assert_eq!(next_event(&mut events).await, "taken");
        let broken = Instant::now();
        drop(proxy);
        expect_lost(reply, broken, Duration::from_secs(2)).await;
        // And the process is stopped, since nobody can be told of it.
        expect_stopped(&mut events).await;
    }
}

#[tokio::test]
async fn a_runner_that_is_dropped_is_lost_to_its_callers_soon() {
    let server = server!();
    let Two { portal, runner } = Two::connect(&server).await;
    let (service, _events) = lingering();
    let (id, _registration) = serve(&runner, service).await;
    let reply = portal.call(id, Request::new("x")).await.unwrap();
    let dropped = Instant::now();
    drop(runner);
    expect_lost(reply, dropped, Duration::from_secs(2)).await;
}

#[tokio::test]
async fn a_process_whose_caller_is_gone_is_stopped_within_a_second() {
    let server = server!();
    let runner = connect(&server.options(), Role::Runner).await;
    let (service, mut events) = lingering();
    let (id, _registration) = serve(&runner, service).await;
    for body in [Body::from("whole"), unending()] {
        let proxy = Proxy::start(&server).await;
        let portal = connect(&proxy.options(), Role::Portal).await;
        let _reply = portal.call(id, Request::new(body)).await.unwrap();
        assert_eq!(next_event(&mut events).await, "taken");
        let gone = Instant::now();
        drop(proxy);
        next_event(&mut events).await;
        assert!(
            gone.elapsed() < Duration::from_secs(1),
            "{:?}",
            gone.elapsed()
        );
    }
}

struct TellWhenDropped(mpsc::Sender<()>);

impl Drop for TellWhenDropped {
    fn drop(&mut self) {
        let _ = self.0.try_send(());
    }
}

#[tokio::test]
async fn a_process_that_writes_now_and_then_is_stopped_as_soon() {
    let server = server!();
    let runner = connect(&server.options(), Role::Runner).await;
    let (told, mut stopped) = mpsc::channel(1);
    let service = fake::process(move |mut process| {
        let told = TellWhenDropped(told.clone());
        async move {
            let _told = told;
            loop {
                sleep(Duration::from_millis(50)).await;
                process.write("tick").await?;
            }
        }
    });
    let (id, _registration) = serve(&runner, service).await;
    let proxy = Proxy::start(&server).await;
    let portal = connect(&proxy.options(), Role::Portal).await;
    let mut reply = portal.call(id, Request::new("")).await.unwrap();
    reply.body.next().await.unwrap().unwrap();
    let gone = Instant::now();
    drop(proxy);
    timeout(PATIENCE, stopped.recv()).await.unwrap().unwrap();
    assert!(
        gone.elapsed() < Duration::from_secs(1),
        "{:?}",
        gone.elapsed()
    );
}

#[tokio::test]
async fn a_call_that_is_given_up_before_it_is_taken_is_not_run_for_nobody() {
    let server = server!();
    let two = Two::connect(&server).await;
    let (service, mut events) = lingering();
    let (id, _registration) = serve(&two, service).await;
    let request = Request {
        is_repeatable: true,
        ..Request::new("x")
    };
    let call = two.call(id, request);
    // Sent, and given up long before an answer.
    assert!(timeout(Duration::from_millis(2), call).await.is_err());
    assert_eq!(next_event(&mut events).await, "taken");
    let given_up = Instant::now();
    assert_eq!(next_event(&mut events).await, "unread");
    assert!(given_up.elapsed() < Duration::from_secs(1));
}

#[tokio::test]
async fn a_cable_that_is_pulled_is_noticed_and_one_that_is_plugged_in_used() {
    let server = server!();
    let proxy = Proxy::start(&server).await;
    let portal = connect(&server.options(), Role::Portal).await;
    let runner = connect(&proxy.options(), Role::Runner).await;
    let (service, mut events) = lingering();
    let (id, _registration) = serve(&runner, service).await;
    let (echo, _echoing) = serve(&runner, fake::echo()).await;
    let reply = portal.call(id, Request::new(unending())).await.unwrap();
    assert_eq!(next_event(&mut events).await, "taken");
    let pulled = Instant::now();
    proxy.set_open(false);
    expect_lost(reply, pulled, Duration::from_secs(8)).await;
    expect_stopped(&mut events).await;
    until_waiting(&runner).await;
    proxy.set_open(true);
    until_connected(&runner).await;
    until_served(&portal, echo).await;
    expect_echo(&portal, echo).await;
}

#[tokio::test]
async fn a_server_that_restarts_is_found_again_with_all_that_was_served() {
    let mut server = server!();
    let two = Two::connect(&server).await;
    let (id, _registration) = serve(&two, fake::echo()).await;
    let (lingering, _events) = lingering();
    let (lingering, _lingers) = serve(&two, lingering).await;
    for _ in 0..2 {
        expect_echo(&two, id).await;
        let reply = two.call(lingering, Request::new(unending())).await.unwrap();
        let stopped = Instant::now();
        server.stop();
        expect_lost(reply, stopped, Duration::from_secs(2)).await;

        let refusal = two.call(id, Request::new("kept")).await.unwrap_err();
        let RefusalReason::Unreachable(why) = refusal.reason else {
            panic!("{:?}", refusal.reason);
        };
        assert!(why.contains("refused") || why.contains("lost"), "{why}");
        assert_eq!(refusal.request.body.collect().await.unwrap(), "kept");

        server.run_again();
        until_connected(&two.portal).await;
        // Whoever comes back first must not take the other for gone.
        let mut request = Request::new("again");
        let reply = loop {
            let refusal = match two.call(id, request).await {
                Ok(reply) => break reply,
                Err(refusal) => refusal,
            };
            let reason = &refusal.reason;
            assert!(matches!(reason, RefusalReason::Unreachable(_)), "{reason}");
            request = refusal.request;
            sleep(Duration::from_millis(5)).await;
        };
        assert_eq!(reply.body.collect().await.unwrap(), "again");
        until_connected(&two.runner).await;
    }
}

#[tokio::test]
async fn a_server_that_comes_late_is_waited_for_and_that_is_said() {
    let mut server = server!();
    server.stop();
    let portal = Nats::new(&server.options(), Role::Portal, "late").unwrap();
    let runner = Nats::new(&server.options(), Role::Runner, "late").unwrap();
    // A link may be offered before there is anywhere to offer it.
    let id = fake::link_id();
    let _registration = runner.serve(id, fake::echo());
    let mut connection = portal.connection();
    let says_why = |connection: &Connection| match connection {
        Connection::Waiting(why) => why.contains("refused") && why.contains("127.0.0.1"),
        Connection::Connected => false,
    };
    let waited = timeout(PATIENCE, connection.wait_for(says_why)).await;
    drop(waited.unwrap().unwrap());
    let deadline = Instant::now() + Duration::from_millis(50);
    let request = Request {
        deadline: Some(deadline),
        ..Request::new("x")
    };
    let refusal = portal.call(id, request).await.unwrap_err();
    assert!(matches!(refusal.reason, RefusalReason::Unreachable(_)));
    assert!(Instant::now() < deadline + Duration::from_millis(500));
    server.run_again();
    until_connected(&portal).await;
    until_served(&portal, id).await;
    expect_echo(&portal, id).await;
}

#[tokio::test]
async fn another_server_of_the_list_takes_over() {
    let (mut one, two) = (server!(), server!());
    let options = NatsOptions {
        servers: vec![one.url(), two.url()],
        ..NatsOptions::default()
    };
    let runner = connect(&two.options(), Role::Runner).await;
    let (id, _registration) = serve(&runner, fake::echo()).await;
    let portal = connect(&options, Role::Portal).await;
    one.stop();
    until_served(&portal, id).await;
    expect_echo(&portal, id).await;
}

#[tokio::test]
async fn a_deadline_is_kept_whatever_the_runner_does() {
    let server = server!();
    let two = Two::connect(&server).await;
    // It forgets its deadline, before and after it has taken the call.
    let never = fake::service(|_| std::future::pending());
    let (lingering, _events) = lingering();
    for (service, is_taken) in [(never, false), (lingering, true)] {
        let (id, _registration) = serve(&two, service).await;
        let started = Instant::now();
        let request = Request {
            deadline: Some(started + Duration::from_millis(300)),
            ..Request::new("x")
        };
        let reply = timeout(PATIENCE, two.call(id, request)).await.unwrap();
        assert!(started.elapsed() < Duration::from_secs(3));
        match reply {
            Ok(reply) if is_taken => {
                let ending = timeout(PATIENCE, reply.outcome).await.unwrap();
                assert_eq!(ending.ending, Ending::DeadlinePassed);
            }
            // It was waited for, and nothing was run.
            Err(refusal) if !is_taken => assert!(matches!(refusal.reason, RefusalReason::Busy)),
            other => panic!("{other:?}"),
        }
        assert!(started.elapsed() < Duration::from_secs(3));
    }
}

#[tokio::test]
async fn a_runner_that_takes_its_time_is_waited_for() {
    let server = server!();
    let two = Two::connect(&server).await;
    let service = fake::service(|request| async {
        // Longer than any first sign may take.
        sleep(Duration::from_secs(4)).await;
        fake::echo().call(request).await
    });
    let (id, _registration) = serve(&two, service).await;
    expect_echo(&two, id).await;
}

#[tokio::test]
async fn a_connection_that_is_closed_takes_no_more_calls() {
    let server = server!();
    let two = Two::connect(&server).await;
    let (id, registration) = serve(&two, fake::echo()).await;
    expect_echo(&two, id).await;
    timeout(PATIENCE, registration.withdraw()).await.unwrap();
    timeout(PATIENCE, two.runner.close()).await.unwrap();
    let gone = two.call(id, Request::new("x")).await.unwrap_err();
    assert!(matches!(gone.reason, RefusalReason::NoRunner));
    timeout(PATIENCE, two.portal.close()).await.unwrap();
    let refusal = two.call(id, Request::new("x")).await.unwrap_err();
    assert!(matches!(refusal.reason, RefusalReason::Unreachable(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn runners_that_come_and_go_lose_no_call() {
    let server = server!();
    let portal = connect(&server.options(), Role::Portal).await;
    let steady = connect(&server.options(), Role::Runner).await;
    let (id, _registration) = serve(&steady, fake::echo()).await;
    let calling = (0..8).map(|_| {
        let portal = portal.clone();
        tokio::spawn(async move {
            for _ in 0..500 {
                // No retry: whoever was asked must answer.
                expect_echo(&portal, id).await;
            }
        })
    });
    let calling: Vec<_> = calling.collect();
    let coming_and_going = async {
        while !calling.iter().all(|calls| calls.is_finished()) {
            let runner = connect(&server.options(), Role::Runner).await;
            let registration = runner.serve(id, fake::echo());
            sleep(Duration::from_millis(10)).await;
            timeout(PATIENCE, registration.withdraw()).await.unwrap();
            runner.close().await;
        }
    };
    timeout(PATIENCE, coming_and_going).await.unwrap();
    for calls in calling {
        calls.await.unwrap();
    }
}

#[tokio::test]
async fn a_drain_ends_when_what_was_taken_is_answered() {
    let server = server!();
    let two = Two::connect(&server).await;
    let (id, registration) = serve(&two, fake::echo()).await;
    let (sender, receiver) = mpsc::channel(1);
    let reply = two.call(id, Request::new(fake::receiving(receiver))).await;
    let reply = reply.unwrap();
    let mut draining = std::pin::pin!(registration.withdraw());
    let still = timeout(Duration::from_millis(300), &mut draining).await;
    assert!(still.is_err(), "drained while a call is under way");
    sender.send(Ok("late".into())).await.unwrap();
    drop(sender);
    assert_eq!(reply.body.collect().await.unwrap(), "late");
    timeout(PATIENCE, draining).await.unwrap();
}

/// How long this thread has been at work, in clock ticks of 10 ms.
fn ticks_at_work() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
    let fields = stat.rsplit(')').next().unwrap().split_whitespace();
    fields
        .skip(11)
        .take(2)
        .map(|ticks| ticks.parse::<u64>().unwrap())
        .sum()
}

/// All of it on this thread: the calling and the answering side.
#[tokio::test]
async fn a_call_that_is_over_and_read_slowly_costs_no_processor() {
    const BYTES: usize = 4 << 20;
    let server = server!();
    let two = Two::connect(&server).await;
    let service = fake::service(|_| {
        let chunks = (0..BYTES / 4096).map(|_| Ok(vec![b'x'; 4096].into()));
        let outcome = PendingOutcome::new(std::future::ready(fake::ended(Ending::Exited(0))));
        std::future::ready(Ok(Reply::new(Body::new(stream::iter(chunks)), outcome)))
    });
    let (id, _registration) = serve(&two, service).await;
    let (stderr, _listener) = mpsc::channel(1);
    let request = Request {
        stderr: Some(stderr),
        ..Request::new("")
    };
    let reply = two.call(id, request).await.unwrap();
    let before = ticks_at_work();
    // Longer than anything of a call that is over is waited for.
    sleep(Duration::from_secs(3)).await;
    let ticks = ticks_at_work() - before;
    assert!(ticks < 50, "{ticks} ticks of 300");
    assert_eq!(reply.body.collect().await.unwrap().len(), BYTES);
}
