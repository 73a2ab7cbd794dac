//! When a call becomes a stream, and when it stays one message each way: that must
//! not depend on how busy its runner is.

use std::sync::Arc;
use std::time::Duration;

use crate::support::nats::{NatsServer, Two, connect, serve};
use async_nats::{Client, HeaderMap, Message, Subscriber};
use bytes::Bytes;
use chain::LinkId;
use consecution::transport::conformance::fake;
use consecution::transport::nats::subject;
use consecution::transport::nats::{Nats, Role};
use consecution::transport::{
    Body, Ending, Following, PendingOutcome, Registration, Reply, Request, Service, Transport,
};
use futures_util::StreamExt;
use futures_util::future::join_all;
use test_support::PATIENCE;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

/// Longer than output waits for its end, and shorter than a call may be without any
/// before its runner shows that it lives.
const A_WHILE: Duration = Duration::from_millis(150);

/// When a runner shows that it lives.
const ALIVE_EVERY: Duration = Duration::from_millis(400);

const WHOLE: (&str, &str) = ("Consecution-Stream", "1 whole 100000");

/// A link that is served, and a caller that writes its messages by hand.
struct ByHand {
    client: Client,
    inbox: String,
    messages: Subscriber,
    id: LinkId,
    _runner: Nats,
    _registration: Registration,
    _server: NatsServer,
}

impl ByHand {
    async fn start(service: Arc<dyn Service>) -> Option<ByHand> {
        let server = NatsServer::start("")?;
        let runner = connect(&server.options(), Role::Runner).await;
        let (id, registration) = serve(&runner, service).await;
        let client = async_nats::connect(server.url()).await.unwrap();
        let inbox = client.new_inbox();
        let messages = client.subscribe(inbox.clone()).await.unwrap();
        Some(ByHand {
            client,
            inbox,
            messages,
            id,
            _runner: runner,
            _registration: registration,
            _server: server,
        })
    }

    async fn send(&self, to: &str, header: (&str, &str), payload: &'static str) {
        self.send_all(to, &[header], payload).await;
    }

    async fn send_all(&self, to: &str, pairs: &[(&str, &str)], payload: &'static str) {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.insert(*name, *value);
        }
        let (to, inbox) = (to.to_owned(), self.inbox.clone());
        let client = &self.client;
        let sent = client.publish_with_reply_and_headers(to, inbox, headers, payload.into());
        sent.await.unwrap();
    }

    async fn request(&self) {
        self.send(&subject::of_link(self.id), WHOLE, "word").await;
    }

    async fn next(&mut self) -> Message {
        let next = timeout(PATIENCE, self.messages.next());
        next.await.unwrap().unwrap()
    }

    /// The frame that comes next, without its number.
    async fn next_frame(&mut self) -> (String, Message) {
        let message = self.next().await;
        let frame = header(&message, "Consecution-Frame").unwrap();
        let kind = frame.split(' ').next().unwrap().to_owned();
        (kind, message)
    }
}

macro_rules! by_hand {
    ($service:expr) => {
        match ByHand::start($service).await {
            Some(by_hand) => by_hand,
            None => cannot_run_here!("there is no nats-server"),
        }
    };
}

fn header<'a>(message: &'a Message, name: &str) -> Option<&'a str> {
    let headers = message.headers.as_ref()?;
    headers.get(name).map(|value| value.as_str())
}

/// Gives back what it gets, after a while in which it says nothing.
fn slow_echo() -> Arc<dyn Service> {
    fake::process(async |mut process| {
        sleep(A_WHILE).await;
        let all = process.read_all().await?;
        process.write(all).await?;
        Ok(0)
    })
}

#[tokio::test]
async fn calls_that_say_nothing_until_they_are_over_take_two_messages_each() {
    const CALLS: u64 = 32;
    let Some(server) = NatsServer::start("") else {
        cannot_run_here!("there is no nats-server");
    };
    let two = Two::connect(&server).await;
    let (id, _registration) = serve(&two, slow_echo()).await;
    let client = async_nats::connect(server.url()).await.unwrap();
    let mut all = client.subscribe(">").await.unwrap();
    client.publish("first", Bytes::new()).await.unwrap();
    timeout(PATIENCE, all.next()).await.unwrap().unwrap();
    let calls = (0..CALLS).map(async |_| {
        let request = Request {
            is_repeatable: true,
            ..Request::new("word")
        };
        let reply = two.call(id, request).await.unwrap();
        assert_eq!(reply.body.collect().await.unwrap(), "word");
        assert_eq!(reply.outcome.await.ending, Ending::Exited(0));
    });
    join_all(calls).await;
    // What comes back has been behind all of theirs at the server.
    client.publish("last", Bytes::new()).await.unwrap();
    let mut messages = 0;
    while timeout(PATIENCE, all.next())
        .await
        .unwrap()
        .unwrap()
        .subject
        .as_str()
        != "last"
    {
        messages += 1;
    }
    assert_eq!(messages, 2 * CALLS);
}

#[tokio::test]
async fn what_is_written_is_not_held_back_while_its_link_works_on() {
    let (written, mut writes) = mpsc::channel(1);
    let service = fake::process(move |mut process| {
        let written = written.clone();
        async move {
            sleep(A_WHILE).await;
            written.send(Instant::now()).await.unwrap();
            process.write("first").await?;
            std::future::pending().await
        }
    });
    let mut caller = by_hand!(service);
    caller.request().await;
    let (kind, _) = caller.next_frame().await;
    assert_eq!(kind, "accept");
    let (kind, data) = caller.next_frame().await;
    assert_eq!((&*kind, &data.payload[..]), ("data", &b"first"[..]));
    // Not only when a sign of life is due.
    let waited = writes.recv().await.unwrap().elapsed();
    assert!(waited < ALIVE_EVERY - A_WHILE, "{waited:?}");
}

#[tokio::test]
async fn a_call_without_output_shows_a_sign_of_life_in_one_message() {
    let service = fake::process(async |mut process| {
        sleep(ALIVE_EVERY + A_WHILE).await;
        process.write("late").await?;
        Ok(0)
    });
    let mut caller = by_hand!(service);
    let asked = Instant::now();
    caller.request().await;
    let (kind, accept) = caller.next_frame().await;
    assert_eq!(kind, "accept");
    assert!(asked.elapsed() >= ALIVE_EVERY, "{:?}", asked.elapsed());
    assert_eq!(header(&accept, "Consecution-Runner"), Some("tester"));
    for expected in ["data", "end", "outcome"] {
        assert_eq!(caller.next_frame().await.0, expected);
    }
}

#[tokio::test]
async fn an_output_that_was_closed_early_waits_for_the_end_of_its_call() {
    let service = fake::service(|_| async {
        let outcome = PendingOutcome::new(async {
            sleep(A_WHILE).await;
            fake::ended(Ending::Exited(7))
        });
        Ok(Reply::new(Body::empty(), outcome))
    });
    let mut caller = by_hand!(service);
    caller.request().await;
    let reply = caller.next().await;
    assert_eq!(header(&reply, "Consecution-Ending"), Some("exited 7"));
}

#[tokio::test]
async fn standard_error_goes_to_its_listener_while_it_is_written() {
    let service = fake::process(async |process| {
        let stderr = process.stderr.unwrap();
        stderr.send("oh".into()).await.unwrap();
        std::future::pending().await
    });
    let mut caller = by_hand!(service);
    let asked = Instant::now();
    let live = [WHOLE, ("Consecution-Stderr", "live")];
    caller
        .send_all(&subject::of_link(caller.id), &live, "word")
        .await;
    assert_eq!(caller.next_frame().await.0, "accept");
    let (kind, oh) = caller.next_frame().await;
    assert_eq!((&*kind, &oh.payload[..]), ("stderr", &b"oh"[..]));
    assert!(asked.elapsed() < ALIVE_EVERY, "{:?}", asked.elapsed());
}

#[tokio::test]
async fn a_call_that_had_to_wait_for_room_may_still_be_answered_in_one_message() {
    let service = fake::service(|request| async {
        sleep(ALIVE_EVERY + A_WHILE).await;
        slow_echo().call(request).await
    });
    let mut caller = by_hand!(service);
    caller.request().await;
    let (kind, alive) = caller.next_frame().await;
    assert_eq!(kind, "alive");
    assert_eq!(header(&alive, "Consecution-Runner"), Some("tester"));
    let runner = alive.reply.unwrap();
    let frame = ("Consecution-Frame", "alive 0");
    caller.send(&runner, frame, "").await;
    let reply = caller.next().await;
    assert_eq!(header(&reply, "Consecution-Ending"), Some("exited 0"));
    assert_eq!(reply.payload, "word");
}

#[tokio::test]
async fn a_sign_of_life_says_that_the_call_was_taken_once_it_was() {
    let silent = || fake::process(async |_| std::future::pending().await);
    let service = fake::service(move |request| async move {
        sleep(ALIVE_EVERY + A_WHILE).await;
        silent().call(request).await
    });
    let mut caller = by_hand!(service);
    caller.request().await;
    for expected in ["alive", "accept"] {
        assert_eq!(caller.next_frame().await.0, expected);
    }
}

/// A runner as they were before: each call that is not over at once is a stream.
#[tokio::test]
async fn a_runner_that_makes_streams_of_small_calls_is_understood() {
    let Some(server) = NatsServer::start("") else {
        cannot_run_here!("there is no nats-server");
    };
    let portal = connect(&server.options(), Role::Portal).await;
    let client = async_nats::connect(server.url()).await.unwrap();
    let (id, next) = (fake::link_id(), fake::link_id());
    let link = subject::of_link(id);
    let requests = client.queue_subscribe(link, subject::QUEUE_GROUP.to_owned());
    let mut requests = requests.await.unwrap();
    let inbox = client.new_inbox();
    let mut frames = client.subscribe(inbox.clone()).await.unwrap();
    // What comes back to us has been behind both at the server.
    client.publish(inbox.clone(), Bytes::new()).await.unwrap();
    timeout(PATIENCE, frames.next()).await.unwrap().unwrap();
    let answering = async {
        let request = timeout(PATIENCE, requests.next()).await.unwrap().unwrap();
        let then = format!("0,1 {next}");
        assert_eq!(header(&request, "Consecution-Then"), Some(&*then));
        let reply = request.reply.unwrap();
        let ended = [
            ("Consecution-Frame", "outcome 3"),
            ("Consecution-Ending", "exited 1"),
            ("Consecution-Ending-2", "exited 0"),
        ];
        let frames: [(&[(&str, &str)], &str); 4] = [
            (
                &[
                    ("Consecution-Frame", "accept 0 0"),
                    ("Consecution-Runner", "old"),
                    ("Consecution-Joined", "1"),
                ],
                "",
            ),
            (&[("Consecution-Frame", "data 1")], "WORD"),
            (&[("Consecution-Frame", "end 2")], ""),
            (&ended, ""),
        ];
        for (pairs, payload) in frames {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.insert(*name, *value);
            }
            let (to, from) = (reply.clone(), inbox.clone());
            let sent = client.publish_with_reply_and_headers(to, from, headers, payload.into());
            sent.await.unwrap();
        }
    };
    let calling = async {
        let following = Following {
            id: next,
            accepted: vec![0, 1],
        };
        let request = Request {
            is_repeatable: true,
            following: [following].into(),
            ..Request::new("word")
        };
        let reply = portal.call(id, request).await.unwrap();
        assert_eq!((reply.runner.as_deref(), reply.joined), (Some("old"), 1));
        assert_eq!(reply.body.collect().await.unwrap(), "WORD");
        let outcome = reply.outcome.await;
        assert_eq!(outcome.ending, Ending::Exited(1));
        assert_eq!(outcome.joined[0].ending, Ending::Exited(0));
    };
    tokio::join!(calling, answering);
}
