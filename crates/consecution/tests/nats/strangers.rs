//! Others than runners who listen to links' subjects: streams that keep requests,
//! responders, subscribers on wildcards. They take no call away from runners, and
//! hide neither that there is one nor that there is none.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::nats::{NatsServer, Proxy, Two, connect, serve, until_served};
use async_nats::{Client, HeaderMap, Message, Subscriber};
use bytes::Bytes;
use chain::LinkId;
use consecution::transport::conformance::fake;
use consecution::transport::nats::Role;
use consecution::transport::nats::subject;
use consecution::transport::{Ending, RefusalReason, Reply, Request, Service, Transport};
use futures_util::StreamExt;
use test_support::PATIENCE;
use tokio::time::{Instant, sleep, timeout};

/// How soon it must be known that there is no runner, whoever else listens.
const NOBODY_WAIT_MAX: Duration = Duration::from_secs(4);

macro_rules! server {
    ($started:expr) => {
        match $started {
            Some(server) => server,
            None => cannot_run_here!("there is no nats-server"),
        }
    };
    () => {
        server!(NatsServer::start(""))
    };
}

/// Gives back what it gets, after a while, and counts.
fn counting(wait: Duration) -> (Arc<dyn Service>, Arc<AtomicUsize>) {
    let (runs, echo) = (Arc::<AtomicUsize>::default(), fake::echo());
    let count = Arc::clone(&runs);
    let service = fake::service(move |request| {
        count.fetch_add(1, Ordering::SeqCst);
        let echo = Arc::clone(&echo);
        async move {
            sleep(wait).await;
            echo.call(request).await
        }
    });
    (service, runs)
}

fn repeatable(body: impl Into<consecution::transport::Body>) -> Request {
    Request {
        is_repeatable: true,
        ..Request::new(body)
    }
}

async fn expect_echo(transport: &dyn Transport, id: LinkId, request: Request) {
    let reply = transport.call(id, request).await.unwrap();
    assert_eq!(reply.body.collect().await.unwrap(), "hello");
    assert_eq!(reply.outcome.await.ending, Ending::Exited(0));
}

/// Nobody serves the link, which is known soon, for every kind of call.
async fn expect_nobody(transport: &dyn Transport, id: LinkId) {
    let probed = transport.probe(id).await.unwrap_err();
    assert!(matches!(probed, RefusalReason::NoRunner), "{probed:?}");
    for request in [repeatable("hello"), Request::new("hello")] {
        let asked = Instant::now();
        let refusal = transport.call(id, request).await.unwrap_err();
        assert!(asked.elapsed() < NOBODY_WAIT_MAX, "{:?}", asked.elapsed());
        let reason = refusal.reason;
        assert!(matches!(reason, RefusalReason::NoRunner), "{reason:?}");
        let body = refusal.request.body.collect().await.unwrap();
        assert_eq!(body, "hello", "the request is given back");
    }
}

async fn client(server: &NatsServer) -> Client {
    async_nats::connect(server.url()).await.unwrap()
}

/// Has a stream keep what is published there, and acknowledge it.
async fn keep(client: &Client, name: &str, subjects: &str) {
    let stream = format!(
        r#"{{"name":"{name}","subjects":["{subjects}"],"storage":"memory","retention":"limits"}}"#
    );
    let subject = format!("$JS.API.STREAM.CREATE.{name}");
    let created = client.request(subject, stream.into()).await.unwrap();
    let created = String::from_utf8_lossy(&created.payload).into_owned();
    assert!(!created.contains("\"error\""), "{created}");
}

fn header<'a>(message: &'a Message, name: &str) -> Option<&'a str> {
    let headers = message.headers.as_ref()?;
    headers.get(name).map(|value| value.as_str())
}

fn headers<const N: usize>(pairs: [(&'static str, &str); N]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.insert(name, value);
    }
    headers
}

async fn next(messages: &mut Subscriber) -> Message {
    timeout(PATIENCE, messages.next()).await.unwrap().unwrap()
}

#[tokio::test]
async fn a_stream_that_acknowledges_requests_answers_in_nobodys_place() {
    let server = server!(NatsServer::start_with_jetstream());
    keep(&client(&server).await, "audit", "consecution.>").await;
    let two = Two::connect(&server).await;
    expect_nobody(&two, fake::link_id()).await;
    // The acknowledgement is there long before.
    let (service, runs) = counting(Duration::from_millis(50));
    let (id, _registration) = serve(&two, service).await;
    for _ in 0..15 {
        expect_echo(&two, id, repeatable("hello")).await;
        expect_echo(&two, id, Request::new("hello")).await;
    }
    assert_eq!(runs.load(Ordering::SeqCst), 30);
}

#[tokio::test]
async fn a_stream_over_everything_disturbs_no_call() {
    let server = server!(NatsServer::start_with_jetstream());
    let client = client(&server).await;
    keep(&client, "requests", "consecution.>").await;
    keep(&client, "frames", "_INBOX.portal.>").await;
    keep(&client, "more", "_INBOX.runner.>").await;
    let two = Two::connect(&server).await;
    let (id, _registration) = serve(&two, fake::echo()).await;
    for size in [0, 5, 3 << 20] {
        let sent = Bytes::from(vec![b'x'; size]);
        for request in [repeatable(sent.clone()), Request::new(sent.clone())] {
            let reply = two.call(id, request).await.unwrap();
            assert!(reply.body.collect().await.unwrap() == sent, "{size} bytes");
            assert_eq!(reply.outcome.await.ending, Ending::Exited(0));
        }
    }
}

#[tokio::test]
async fn whoever_else_answers_requests_is_passed_over() {
    let server = server!();
    let client = client(&server).await;
    let mut requests = client.subscribe("consecution.link.*").await.unwrap();
    tokio::spawn(async move {
        while let Some(request) = requests.next().await {
            let Some(reply) = request.reply else { continue };
            let send = async |headers: HeaderMap, payload: &'static str| {
                let sent = client.publish_with_headers(reply.clone(), headers, payload.into());
                sent.await.unwrap();
            };
            client.publish(reply.clone(), Bytes::new()).await.unwrap();
            let garbage = Bytes::from_static(b"\xff\x1b[2J{\"stream\":");
            client.publish(reply.clone(), garbage).await.unwrap();
            let error = [
                ("Nats-Service-Error-Code", "500"),
                ("Nats-Service-Error", "no"),
            ];
            send(headers(error), "").await;
            send(headers([("Nats-Service-Error-Code", "404")]), "").await;
            send(headers([("Consecution-Call-Id", "x")]), "hello").await;
            client.flush().await.unwrap();
        }
    });
    let two = Two::connect(&server).await;
    expect_nobody(&two, fake::link_id()).await;
    let (service, runs) = counting(Duration::from_millis(50));
    let (id, _registration) = serve(&two, service).await;
    expect_echo(&two, id, repeatable("hello")).await;
    expect_echo(&two, id, Request::new("hello")).await;
    assert_eq!(runs.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_subscriber_to_everything_hides_neither_a_runner_nor_that_there_is_none() {
    let server = server!();
    let stranger = client(&server).await;
    let mut all = stranger.subscribe(">").await.unwrap();
    let two = Two::connect(&server).await;
    expect_nobody(&two, fake::link_id()).await;
    let (id, _registration) = serve(&two, fake::echo()).await;
    // Behind all that was said so far.
    stranger.publish("mark", Bytes::new()).await.unwrap();
    while next(&mut all).await.subject.as_str() != "mark" {}
    // As where nobody listens: a request, a reply, and nothing else.
    expect_echo(&two, id, repeatable("hello")).await;
    let request = next(&mut all).await;
    assert_eq!(request.subject.as_str(), subject::of_link(id));
    assert_eq!(header(&request, "Consecution-Confirm"), None);
    let reply = next(&mut all).await;
    assert_eq!(Some(&reply.subject), request.reply.as_ref());
    expect_echo(&two, id, Request::new("hello")).await;
    let request = next(&mut all).await;
    assert_eq!(request.subject.as_str(), subject::of_link(id));
    assert_eq!(header(&request, "Consecution-Confirm"), Some("1"));
}

#[tokio::test]
async fn a_runner_that_reads_a_request_late_does_not_run_what_may_not_be_run_twice() {
    let server = server!();
    let _all = client(&server).await.subscribe(">").await.unwrap();
    let proxy = Proxy::start(&server).await;
    let portal = connect(&server.options(), Role::Portal).await;
    let runner = connect(&proxy.options(), Role::Runner).await;
    let (service, runs) = counting(Duration::ZERO);
    let id = fake::link_id();
    let _registration = runner.serve(id, service);
    until_served(&portal, id).await;

    proxy.set_open(false);
    let refusal = portal.call(id, Request::new("hello")).await.unwrap_err();
    let reason = refusal.reason;
    assert!(matches!(reason, RefusalReason::NoRunner), "{reason:?}");
    // Now it gets what lies on its way, before anything else.
    proxy.set_open(true);
    until_served(&portal, id).await;
    expect_echo(&portal, id, Request::new("hello")).await;
    assert_eq!(runs.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_runner_that_hangs_beside_another_is_lost_and_does_not_count_as_nobody() {
    let server = server!();
    let _all = client(&server).await.subscribe(">").await.unwrap();
    let proxy = Proxy::start(&server).await;
    let portal = connect(&server.options(), Role::Portal).await;
    let (good, hanging) = (
        connect(&server.options(), Role::Runner).await,
        connect(&proxy.options(), Role::Runner).await,
    );
    let id = fake::link_id();
    let hangs = hanging.serve(id, fake::echo());
    until_served(&portal, id).await;
    let _good = good.serve(id, fake::echo());
    proxy.set_open(false);
    until_served(&portal, id).await;
    let is_lost = async {
        loop {
            let reply = portal.call(id, repeatable("hello")).await.unwrap();
            if matches!(reply.outcome.await.ending, Ending::Lost(_)) {
                return;
            }
        }
    };
    timeout(PATIENCE, is_lost).await.unwrap();
    drop(hangs);
}

#[tokio::test]
async fn a_runner_that_hangs_alone_is_lost_where_nobody_else_listens() {
    let server = server!();
    let proxy = Proxy::start(&server).await;
    let portal = connect(&server.options(), Role::Portal).await;
    let runner = connect(&proxy.options(), Role::Runner).await;
    let (id, _registration) = serve(&runner, fake::echo()).await;
    proxy.set_open(false);
    let reply = portal.call(id, repeatable("hello")).await.unwrap();
    let ending = reply.outcome.await.ending;
    assert!(matches!(ending, Ending::Lost(_)), "{ending:?}");
}

#[tokio::test]
async fn a_portal_that_is_cut_off_does_not_take_that_for_nobody() {
    let server = server!();
    let proxy = Proxy::start(&server).await;
    let portal = connect(&proxy.options(), Role::Portal).await;
    let runner = connect(&server.options(), Role::Runner).await;
    let (id, _registration) = serve(&runner, fake::echo()).await;
    until_served(&portal, id).await;
    proxy.set_open(false);
    let reply = portal.call(id, repeatable("hello")).await.unwrap();
    let ending = reply.outcome.await.ending;
    assert!(matches!(ending, Ending::Lost(_)), "{ending:?}");
    let probed = portal.probe(id).await.unwrap_err();
    assert!(!matches!(probed, RefusalReason::NoRunner), "{probed:?}");
}

#[tokio::test]
async fn a_runner_asks_before_it_starts_what_must_be_confirmed() {
    let server = server!();
    let runner = connect(&server.options(), Role::Runner).await;
    let (service, runs) = counting(Duration::ZERO);
    let (id, _registration) = serve(&runner, service).await;
    let client = client(&server).await;
    let (link, inbox) = (subject::of_link(id), client.new_inbox());
    let mut answers = client.subscribe(inbox.clone()).await.unwrap();
    let request = async || {
        let head = headers([
            ("Consecution-Stream", "1 whole 1000"),
            ("Consecution-Confirm", "1"),
        ]);
        let (link, inbox) = (link.clone(), inbox.clone());
        let sent = client.publish_with_reply_and_headers(link, inbox, head, "hello".into());
        sent.await.unwrap();
    };
    request().await;
    let alive = next(&mut answers).await;
    assert_eq!(header(&alive, "Consecution-Frame"), Some("alive 0"));
    // It goes on asking.
    let alive = next(&mut answers).await;
    assert_eq!(header(&alive, "Consecution-Frame"), Some("alive 1"));
    assert_eq!(runs.load(Ordering::SeqCst), 0);
    // What is no frame confirms nothing.
    let runners = alive.reply.unwrap();
    client.publish(runners.clone(), "+OK".into()).await.unwrap();
    next(&mut answers).await;
    assert_eq!(runs.load(Ordering::SeqCst), 0);
    let head = headers([("Consecution-Frame", "alive 0")]);
    let sent = client.publish_with_reply_and_headers(runners, inbox.clone(), head, Bytes::new());
    sent.await.unwrap();
    let reply = loop {
        let message = next(&mut answers).await;
        if header(&message, "Consecution-Frame").is_none() {
            break message;
        }
    };
    assert_eq!(header(&reply, "Consecution-Ending"), Some("exited 0"));
    assert_eq!(reply.payload, "hello");

    // Whoever is told that nobody waits runs nothing.
    request().await;
    let alive = next(&mut answers).await;
    let gone = headers([("Nats-Service-Error-Code", "404")]);
    let runners = alive.reply.unwrap();
    let sent = client.publish_with_headers(runners.clone(), gone, Bytes::new());
    sent.await.unwrap();
    // Its inbox is gone with that.
    let head = headers([("Consecution-Frame", "alive 0")]);
    let is_gone = async {
        loop {
            let (to, head) = (runners.clone(), head.clone());
            let told = client.request_with_headers(to, head, Bytes::new());
            let told = timeout(Duration::from_millis(100), told).await;
            if let Ok(Ok(told)) = told {
                return told;
            }
        }
    };
    let told = timeout(PATIENCE, is_gone).await.unwrap();
    assert_eq!(header(&told, "Nats-Service-Error-Code"), Some("404"));
    assert_eq!(runs.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn to_confirm_needs_somebody_who_can() {
    let server = server!();
    let runner = connect(&server.options(), Role::Runner).await;
    let (id, _registration) = serve(&runner, fake::echo()).await;
    let client = client(&server).await;
    let head = headers([("Consecution-Confirm", "1")]);
    let answer = client.request_with_headers(subject::of_link(id), head, Bytes::new());
    let answer = answer.await.unwrap();
    assert_eq!(header(&answer, "Consecution-Ending"), Some("malformed"));
}

/// A runner of our own making, and what comes to it.
async fn by_hand(client: &Client, id: LinkId) -> Subscriber {
    let link = subject::of_link(id);
    let requests = client.queue_subscribe(link, subject::QUEUE_GROUP.to_owned());
    let requests = requests.await.unwrap();
    // What comes back to us has been behind that at the server.
    let inbox = client.new_inbox();
    let mut back = client.subscribe(inbox.clone()).await.unwrap();
    client.publish(inbox, Bytes::new()).await.unwrap();
    next(&mut back).await;
    requests
}

#[tokio::test]
async fn a_runner_that_knows_nothing_of_confirming_answers_as_ever() {
    let server = server!();
    let portal = connect(&server.options(), Role::Portal).await;
    let (client, id) = (client(&server).await, fake::link_id());
    let mut requests = by_hand(&client, id).await;
    let answering = async {
        let request = next(&mut requests).await;
        assert_eq!(header(&request, "Consecution-Confirm"), Some("1"));
        let head = headers([("Consecution-Ending", "exited 0")]);
        let reply = request.reply.unwrap();
        let sent = client.publish_with_headers(reply, head, request.payload);
        sent.await.unwrap();
    };
    tokio::join!(expect_echo(&portal, id, Request::new("hello")), answering);
}

#[tokio::test]
async fn a_runner_that_has_shown_itself_and_is_gone_may_have_run_the_call() {
    let server = server!();
    let portal = connect(&server.options(), Role::Portal).await;
    let (client, id) = (client(&server).await, fake::link_id());
    let mut requests = by_hand(&client, id).await;
    let showing = async {
        let request = next(&mut requests).await;
        let head = headers([
            ("Consecution-Frame", "alive 0"),
            ("Consecution-Runner", "north"),
        ]);
        let (to, nobodys) = (request.reply.unwrap(), "_INBOX.runner.nobody");
        let sent = client.publish_with_reply_and_headers(to, nobodys, head, Bytes::new());
        sent.await.unwrap();
    };
    let called = async {
        let reply: Reply = portal.call(id, Request::new("hello")).await.unwrap();
        assert_eq!(reply.runner.as_deref(), Some("north"));
        reply.outcome.await.ending
    };
    let (ending, ()) = tokio::join!(called, showing);
    assert!(matches!(ending, Ending::Lost(_)), "{ending:?}");
}
