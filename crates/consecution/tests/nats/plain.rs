//! A client that knows nothing of Consecution: bytes in, bytes out.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::nats::{NatsServer, connect, serve};
use async_nats::{Client, HeaderMap, Message};
use bytes::Bytes;
use chain::LinkId;
use consecution::transport::conformance::fake;
use consecution::transport::nats::Role;
use consecution::transport::nats::subject;
use consecution::transport::{
    Ending, Limit, Outcome, PendingOutcome, RefusalReason, Registration, Reply, Service, Usage,
};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// A client of another make, and a link that is served.
struct Plain {
    client: Client,
    id: LinkId,
    _registration: Registration,
    _server: NatsServer,
}

impl Plain {
    async fn start(config: &str, service: Arc<dyn Service>) -> Option<Plain> {
        let server = NatsServer::start(config)?;
        let runner = connect(&server.options(), Role::Runner).await;
        let (id, registration) = serve(&runner, service).await;
        // The connection lives as long as the runtime does.
        std::mem::forget(runner);
        Some(Plain {
            client: async_nats::connect(server.url()).await.unwrap(),
            id,
            _registration: registration,
            _server: server,
        })
    }

    async fn request(&self, payload: impl Into<Bytes>) -> Message {
        self.request_with(HeaderMap::new(), payload).await
    }

    async fn request_with(&self, headers: HeaderMap, payload: impl Into<Bytes>) -> Message {
        let (link, payload) = (subject::of_link(self.id), payload.into());
        let reply = self.client.request_with_headers(link, headers, payload);
        reply.await.unwrap()
    }
}

fn header<'a>(message: &'a Message, name: &str) -> Option<&'a str> {
    let headers = message.headers.as_ref().unwrap();
    headers.get(name).map(|value| value.as_str())
}

fn headers<const N: usize>(pairs: [(&'static str, &str); N]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.insert(name, value);
    }
    headers
}

macro_rules! plain {
    ($config:expr, $service:expr) => {
        match Plain::start($config, $service).await {
            Some(plain) => plain,
            None => cannot_run_here!("there is no nats-server"),
        }
    };
}

#[tokio::test]
async fn a_request_gets_what_the_link_writes() {
    let plain = plain!("", fake::reverse());
    let reply = plain.request("abc").await;
    assert_eq!(reply.payload, "cba");
    assert_eq!(header(&reply, "Consecution-Ending"), Some("exited 0"));
    assert_eq!(header(&reply, "Consecution-Runner"), Some("tester"));
    assert!(header(&reply, "Consecution-Call-Id").is_some());
    assert!(header(&reply, "Consecution-Elapsed-Us").is_some());
    assert_eq!(header(&reply, "Nats-Service-Error-Code"), None);
    // Nothing was counted.
    assert_eq!(header(&reply, "Consecution-Usage"), None);
    assert_eq!(header(&reply, "Consecution-Limit"), None);
    let reply = plain.request("").await;
    assert_eq!(reply.payload, "");
    let own = headers([("Consecution-Call-Id", "mine")]);
    let reply = plain.request_with(own, "x").await;
    assert_eq!(header(&reply, "Consecution-Call-Id"), Some("mine"));
}

#[tokio::test]
async fn a_failed_link_says_why_as_nats_services_do() {
    let service = fake::service(|_| {
        let (sender, outcome) = PendingOutcome::channel();
        sender
            .send(Outcome {
                stderr: "first\nsecond\nlast: é\n".into(),
                elapsed: Duration::from_micros(17),
                hint: Some("try é".into()),
                usage: Usage {
                    cpu: Some(Duration::from_micros(1_234)),
                    memory: None,
                    bytes_in: Some(0),
                    bytes_out: Some(13),
                },
                limit: Some(Limit::Scratch),
                ..Outcome::new(Ending::Exited(3))
            })
            .unwrap();
        std::future::ready(Ok(Reply::new("what it wrote".into(), outcome)))
    });
    let plain = plain!("", service);
    let reply = plain.request("").await;
    assert_eq!(reply.payload, "what it wrote");
    assert_eq!(header(&reply, "Consecution-Ending"), Some("exited 3"));
    assert_eq!(header(&reply, "Consecution-Elapsed-Us"), Some("17"));
    assert_eq!(header(&reply, "Consecution-Hint"), Some("try %C3%A9"));
    assert_eq!(
        header(&reply, "Consecution-Usage"),
        Some("cpu=0.001234;in=0;out=13")
    );
    assert_eq!(header(&reply, "Consecution-Limit"), Some("scratch"));
    assert_eq!(
        header(&reply, "Consecution-Stderr"),
        Some("first%0Asecond%0Alast: %C3%A9%0A")
    );
    assert_eq!(header(&reply, "Nats-Service-Error-Code"), Some("502"));
    assert_eq!(
        header(&reply, "Nats-Service-Error"),
        Some("the link exited with code 3 at its limit scratch: first … last: é, on runner tester")
    );
}

#[tokio::test]
async fn a_link_that_cannot_be_run_now_or_ever_is_told_apart() {
    for (reason, code, part) in [
        (RefusalReason::Busy, "503", "busy"),
        (
            RefusalReason::CannotStart("no\nsuch command".into()),
            "502",
            "no such command",
        ),
    ] {
        let plain = plain!("", fake::refusing(reason));
        let reply = plain.request("").await;
        assert_eq!(header(&reply, "Nats-Service-Error-Code"), Some(code));
        let error = header(&reply, "Nats-Service-Error").unwrap();
        assert!(error.contains(part), "{error}");
        assert_eq!(reply.payload, "");
    }
}

#[tokio::test]
async fn an_output_too_large_for_one_message_is_said_so_and_its_process_stopped() {
    let (told, mut dropped) = mpsc::channel(1);
    let service = fake::process(move |mut process| {
        let told = told.clone();
        async move {
            loop {
                if let Err(ending) = process.write(vec![b'x'; 10_000]).await {
                    told.send(()).await.unwrap();
                    return Err(ending);
                }
            }
        }
    });
    let plain = plain!("max_payload: 65536", service);
    let reply = plain.request("").await;
    assert_eq!(header(&reply, "Nats-Service-Error-Code"), Some("413"));
    assert_eq!(header(&reply, "Consecution-Ending"), Some("too-large"));
    dropped.recv().await.unwrap();
}

#[tokio::test]
async fn an_output_that_is_cut_off_is_not_given_as_a_whole() {
    let service = fake::service(|_| {
        let (sender, outcome) = PendingOutcome::channel();
        sender.send(fake::ended(Ending::Exited(0))).unwrap();
        std::future::ready(Ok(Reply::new(
            fake::cut_off(["some"], "on purpose"),
            outcome,
        )))
    });
    let plain = plain!("", service);
    let reply = plain.request("").await;
    assert_eq!(header(&reply, "Nats-Service-Error-Code"), Some("502"));
    assert_eq!(reply.payload, "");
}

#[tokio::test]
async fn a_request_may_name_its_deadline() {
    let service = fake::process(async |_process| std::future::pending().await);
    let plain = plain!("", service);
    let started = Instant::now();
    let soon = headers([("Consecution-Timeout-Ms", "100")]);
    let reply = plain.request_with(soon, "").await;
    assert_eq!(header(&reply, "Nats-Service-Error-Code"), Some("504"));
    assert_eq!(header(&reply, "Consecution-Ending"), Some("deadline"));
    assert!(started.elapsed() >= Duration::from_millis(100));
}

#[tokio::test]
async fn a_request_without_a_deadline_is_given_one() {
    let service = fake::process(async |mut process| {
        let left = process.deadline.unwrap() - Instant::now();
        process.write(left.as_secs().to_string()).await?;
        Ok(0)
    });
    let plain = plain!("", service);
    let left: u64 = plain
        .request("")
        .await
        .payload
        .iter()
        .fold(0, |all, digit| all * 10 + u64::from(digit - b'0'));
    assert!((20..=30).contains(&left), "{left}");
}

#[tokio::test]
async fn a_request_that_makes_no_sense_is_answered_and_not_run() {
    let runs = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&runs);
    let service = fake::process(move |_| {
        count.fetch_add(1, Ordering::SeqCst);
        std::future::ready(Ok(0))
    });
    let plain = plain!("", service);
    for (name, value) in [
        ("Consecution-Timeout-Ms", "soon"),
        ("Consecution-Timeout-Ms", "-1"),
        ("Consecution-Timeout-Ms", "99999999999999999999999"),
        ("Consecution-Stream", ""),
        ("Consecution-Stream", "2 whole 1"),
        ("Consecution-Stream", "1 whole"),
        ("Consecution-Stream", "1 half 100"),
        ("Consecution-Stream", "1 whole 1 1"),
        ("Consecution-Stderr", "later"),
    ] {
        let reply = plain.request_with(headers([(name, value)]), "x").await;
        assert_eq!(
            header(&reply, "Nats-Service-Error-Code"),
            Some("400"),
            "{name}: {value}"
        );
        let error = header(&reply, "Nats-Service-Error").unwrap();
        assert!(error.contains(name), "{error}");
    }
    // What cannot be an id, or is none of ours, does no harm.
    for (name, value) in [
        ("Consecution-Call-Id", "ünfit\tfor anything"),
        ("traceparent", "é"),
        ("Anything", "at all"),
    ] {
        let reply = plain.request_with(headers([(name, value)]), "x").await;
        assert_eq!(header(&reply, "Consecution-Ending"), Some("exited 0"));
    }
    assert_eq!(runs.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_request_that_nobody_waits_for_is_not_run() {
    let runs = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&runs);
    let service = fake::process(move |_| {
        count.fetch_add(1, Ordering::SeqCst);
        std::future::ready(Ok(0))
    });
    let plain = plain!("", service);
    let link = subject::of_link(plain.id);
    plain.client.publish(link, "x".into()).await.unwrap();
    // Requests arrive in order.
    plain.request("x").await;
    assert_eq!(runs.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_link_that_nobody_serves_is_known_at_once() {
    let plain = plain!("", fake::echo());
    let nobody = subject::of_link(fake::link_id());
    let error = plain.client.request(nobody, "".into()).await.unwrap_err();
    assert_eq!(error.kind(), async_nats::RequestErrorKind::NoResponders);
}
