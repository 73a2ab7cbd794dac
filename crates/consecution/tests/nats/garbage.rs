//! Messages that make no sense, and peers that do not keep to the protocol:
//! whoever sent them is told, nobody else notices.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use crate::support::nats::{NatsServer, Two, connect, serve, until_served};
use async_nats::{Client, HeaderMap, Message, Subscriber};
use bytes::Bytes;
use chain::LinkId;
use consecution::transport::conformance::fake;
use consecution::transport::nats::Role;
use consecution::transport::nats::subject;
use consecution::transport::{Ending, PendingOutcome, Reply, Request, Transport};
use futures_util::{FutureExt, StreamExt};
use test_support::PATIENCE;
use tokio::sync::mpsc;
use tokio::time::timeout;

macro_rules! server {
    () => {
        match NatsServer::start("") {
            Some(server) => server,
            None => cannot_run_here!("there is no nats-server"),
        }
    };
}

/// A peer of our own making, who speaks frames by hand.
struct ByHand {
    client: Client,
    inbox: String,
    messages: Subscriber,
}

impl ByHand {
    async fn connect(server: &NatsServer) -> ByHand {
        let client = async_nats::connect(server.url()).await.unwrap();
        let inbox = client.new_inbox();
        let messages = client.subscribe(inbox.clone()).await.unwrap();
        ByHand {
            client,
            inbox,
            messages,
        }
    }

    async fn send(&self, to: &str, headers: &[(&str, &str)], payload: impl Into<Bytes>) {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, *value);
        }
        let (to, reply) = (to.to_owned(), self.inbox.clone());
        let sent = self
            .client
            .publish_with_reply_and_headers(to, reply, map, payload.into());
        sent.await.unwrap();
    }

    /// The next message but signs of life.
    async fn next(&mut self) -> Message {
        loop {
            let message = timeout(PATIENCE, self.messages.next())
                .await
                .unwrap()
                .unwrap();
            let frame = header(&message, "Consecution-Frame").unwrap_or_default();
            if !frame.starts_with("alive") {
                return message;
            }
        }
    }

    /// Claims a runner for a stream, and says where its frames go.
    async fn claim(&mut self, id: LinkId) -> String {
        let stream = [("Consecution-Stream", "1 open 100000")];
        self.send(&subject::of_link(id), &stream, "").await;
        let accept = self.next().await;
        let frame = header(&accept, "Consecution-Frame").unwrap();
        assert!(frame.starts_with("accept 0 "), "{frame}");
        assert_eq!(header(&accept, "Consecution-Runner").unwrap(), "tester");
        accept.reply.unwrap().to_string()
    }

    async fn frame(&self, to: &str, frame: &str, payload: impl Into<Bytes>) {
        self.send(to, &[("Consecution-Frame", frame)], payload)
            .await;
    }
}

fn header<'a>(message: &'a Message, name: &str) -> Option<&'a str> {
    let headers = message.headers.as_ref()?;
    headers.get(name).map(|value| value.as_str())
}

async fn expect_echo(transport: &dyn Transport, id: LinkId) {
    let reply = transport.call(id, Request::new("hello")).await.unwrap();
    assert_eq!(reply.body.collect().await.unwrap(), "hello");
    assert_eq!(reply.outcome.await.ending, Ending::Exited(0));
}

#[tokio::test]
async fn a_stream_can_be_spoken_by_hand() {
    let server = server!();
    let runner = connect(&server.options(), Role::Runner).await;
    let (id, _registration) = serve(&runner, fake::reverse()).await;
    let mut caller = ByHand::connect(&server).await;
    let runner = caller.claim(id).await;
    caller.frame(&runner, "data 0", "abc").await;
    caller.frame(&runner, "data 1", "def").await;
    caller.frame(&runner, "end 2", "").await;
    let (mut frames, mut output) = (Vec::new(), Vec::new());
    loop {
        let message = caller.next().await;
        let frame = header(&message, "Consecution-Frame").unwrap().to_owned();
        let kind = frame.split(' ').next().unwrap().to_owned();
        output.extend_from_slice(&message.payload);
        if kind == "outcome" {
            assert_eq!(header(&message, "Consecution-Ending"), Some("exited 0"));
            break;
        }
        frames.push(kind);
    }
    assert_eq!(output, b"fedcba");
    assert_eq!(frames, ["data", "end"]);
}

#[tokio::test]
async fn frames_out_of_order_stop_their_call_and_no_other() {
    let server = server!();
    let two = Two::connect(&server).await;
    for wrong in [
        "data 1",
        "data 7",
        "alive 18446744073709551615",
        "accept 0 1",
        "outcome 0",
        "stderr 0",
        "data x",
        "nonsense",
        "",
    ] {
        let (told, mut cut) = mpsc::channel(1);
        let service = fake::process(move |process| {
            let told = told.clone();
            async move {
                let whole = process.stdin.collect().await;
                told.send(whole.is_err()).await.unwrap();
                Err(Ending::Cut)
            }
        });
        let (id, _registration) = serve(&two, service).await;
        let (echo, _echoing) = serve(&two, fake::echo()).await;
        let (sender, receiver) = mpsc::channel(1);
        let other = two
            .call(echo, Request::new(fake::receiving(receiver)))
            .await;

        let mut caller = ByHand::connect(&server).await;
        let runner = caller.claim(id).await;
        caller.frame(&runner, wrong, "payload").await;
        assert!(
            timeout(PATIENCE, cut.recv()).await.unwrap().unwrap(),
            "{wrong}"
        );
        // What comes then is for nobody, and that is said.
        caller.frame(&runner, "end 1", "").await;
        let answer = caller.next().await;
        assert_eq!(header(&answer, "Nats-Service-Error-Code"), Some("404"));

        sender.send(Ok("undisturbed".into())).await.unwrap();
        drop(sender);
        let output = other.unwrap().body.collect().await.unwrap();
        assert_eq!(output, "undisturbed");
    }
}

#[tokio::test]
async fn more_than_was_allowed_stops_its_call() {
    let server = server!();
    let runner = connect(&server.options(), Role::Runner).await;
    let (told, mut stopped) = mpsc::channel(1);
    let service = fake::service(move |request: Request| {
        let (body, dropped) = fake::watched();
        let (sender, outcome) = PendingOutcome::channel();
        let told = told.clone();
        tokio::spawn(async move {
            let _ = dropped.await;
            // Held until now, and not read: no credit is given.
            drop((request, sender));
            told.send(()).await.unwrap();
        });
        std::future::ready(Ok(Reply::new(body, outcome)))
    });
    let (id, _registration) = serve(&runner, service).await;
    let mut caller = ByHand::connect(&server).await;
    let to = caller.claim(id).await;
    for number in 0..20 {
        let frame = format!("data {number}");
        caller.frame(&to, &frame, vec![b'x'; 100_000]).await;
    }
    timeout(PATIENCE, stopped.recv()).await.unwrap().unwrap();
    caller.frame(&to, "end 20", "").await;
    let answer = caller.next().await;
    assert_eq!(header(&answer, "Nats-Service-Error-Code"), Some("404"));
}

#[tokio::test]
async fn a_runner_sends_no_more_than_it_was_given_credit_for() {
    let server = server!();
    let runner = connect(&server.options(), Role::Runner).await;
    let (id, _registration) = serve(&runner, fake::endless()).await;
    let mut caller = ByHand::connect(&server).await;
    let to = caller.claim(id).await;
    let mut sent = 0;
    // Credit for 100000 bytes, each frame costing 512 more than its bytes.
    let mut next = async |caller: &mut ByHand| loop {
        let message = caller.next().now_or_never();
        match message {
            Some(message) => sent += message.payload.len() + 512,
            None => break sent,
        }
    };
    // It may leave up to a quarter of it until there is more.
    for allowed in [100_000, 150_000] {
        let deadline = std::time::Instant::now() + PATIENCE;
        while next(&mut caller).await <= allowed - 25_000 {
            assert!(std::time::Instant::now() < deadline, "it sends too little");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        let sent = next(&mut caller).await;
        assert!(sent <= allowed, "{sent} of {allowed}");
        if allowed == 100_000 {
            caller.frame(&to, "credit 0 50000", "").await;
        }
    }
}

#[tokio::test]
async fn garbage_for_inboxes_that_nobody_has_is_answered_where_it_can_be() {
    let server = server!();
    let two = Two::connect(&server).await;
    let (id, _registration) = serve(&two, fake::echo()).await;
    let mut stranger = ByHand::connect(&server).await;
    let runner = stranger.claim(id).await;
    let (inboxes, _) = runner.rsplit_once('.').unwrap();
    for token in [
        "ffffffff",
        "zz",
        "0",
        "-1",
        "é",
        "99999999999999999999999999",
    ] {
        let to = format!("{inboxes}.{token}");
        stranger.send(&to, &[], "garbage").await;
        let answer = stranger.next().await;
        assert_eq!(
            header(&answer, "Nats-Service-Error-Code"),
            Some("404"),
            "{token}"
        );
    }
    expect_echo(&two, id).await;
}

/// A message with that header block, as no proper client would send it.
fn publish_raw(server: &NatsServer, subject: &str, headers: &[u8]) {
    let mut stream = TcpStream::connect(("127.0.0.1", server.port)).unwrap();
    let mut lines = BufReader::new(stream.try_clone().unwrap());
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    let connect = r#"CONNECT {"verbose":false,"headers":true}"#;
    let length = headers.len();
    let hpub = format!("{connect}\r\nHPUB {subject} _INBOX.x {length} {length}\r\n");
    stream.write_all(hpub.as_bytes()).unwrap();
    stream.write_all(headers).unwrap();
    stream.write_all(b"\r\nPING\r\n").unwrap();
    line.clear();
    lines.read_line(&mut line).unwrap();
    assert_eq!(line.trim(), "PONG");
}

/// To do that one must know a private inbox, and be let write to it.
#[tokio::test]
async fn headers_in_an_inbox_that_the_client_library_cannot_bear_are_survived() {
    let server = server!();
    let two = Two::connect(&server).await;
    let (id, _registration) = serve(&two, fake::echo()).await;
    let mut stranger = ByHand::connect(&server).await;
    for headers in [
        &b"NATS/1.0\r\nA: \xff\xfe\r\n\r\n"[..],
        b"NATS/1.0\r\nA: b\rc\r\n\r\n",
        b"NATS/1.0\r\nno colon\r\n\r\n",
        b"NATS/9.9\r\n\r\n",
    ] {
        let runner = stranger.claim(id).await;
        publish_raw(&server, &runner, headers);
        until_served(&two, id).await;
        let call = timeout(PATIENCE, two.call(id, Request::new("hello")));
        let _ = call.await.unwrap();
        until_served(&two, id).await;
        expect_echo(&two, id).await;
    }
}

#[tokio::test]
async fn a_slow_reader_of_one_call_does_not_hold_up_another() {
    let server = server!();
    let two = Arc::new(Two::connect(&server).await);
    let (endless, _registration) = serve(&*two, fake::endless()).await;
    let (echo, _echoing) = serve(&*two, fake::echo()).await;
    let mut unread = Vec::new();
    for _ in 0..20 {
        unread.push(two.call(endless, Request::new("")).await.unwrap());
    }
    for _ in 0..100 {
        let quick = timeout(Duration::from_secs(5), expect_echo(&*two, echo));
        quick.await.unwrap();
    }
    // Those that wait are still whole.
    for reply in &mut unread {
        let chunk = reply.body.next().await.unwrap().unwrap();
        assert!(chunk.starts_with(b"y\n"));
    }
}
