//! What a server passes on as a request though it is none: whoever sent it may be
//! told, and nobody else notices. Not one connection is lost over it, not one call
//! waits for another try.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::nats::{
    NatsServer, Two, connect, serve, until_connected, until_served, until_waiting,
};
use crate::support::plain_nats::{PlainClient, head};
use chain::LinkId;
use consecution::config::NatsOptions;
use consecution::transport::conformance::fake;
use consecution::transport::nats::Role;
use consecution::transport::nats::subject;
use consecution::transport::{Ending, Request, Service, Transport};
use test_support::PATIENCE;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

macro_rules! server {
    () => {
        match NatsServer::start("") {
            Some(server) => server,
            None => cannot_run_here!("there is no nats-server"),
        }
    };
}

/// Blocks of headers that are none.
fn heads() -> Vec<Vec<u8>> {
    let many: String = (0..20_000).map(|at| format!("A{at}: b\r\n")).collect();
    vec![
        b"NATS/1.0\r\nA: \xff\xfe\r\n\r\n".into(),
        b"NATS/1.0\r\nA: b\rc\r\n\r\n".into(),
        b"NATS/1.0\r\n\x01: b\r\n\r\n".into(),
        b"NATS/1.0\r\nno colon\r\n\r\n".into(),
        b"NATS/1.0\r\nA: b\r\n folded\r\n\r\n".into(),
        b"NATS/1.0\r\n: b\r\n\r\n".into(),
        "NATS/1.0\r\né: b\r\n\r\n".into(),
        b"NATS/1.0 abc\r\n\r\n".into(),
        b"NATS/1.0 99999 x\r\n\r\n".into(),
        b"NATS/1.0503\r\n\r\n".into(),
        b"NATS/9.9\r\n\r\n".into(),
        b"nats/1.0\r\n\r\n".into(),
        b"\r\n\r\n".into(),
        b"\0".into(),
        b"\xff".into(),
        format!("NATS/1.0\r\n{many}\r\n").into(),
        format!("NATS/1.0\r\nA: {}\r\n\r\n", "x".repeat(500_000)).into(),
    ]
}

/// Reply subjects that nobody can, or should, answer to.
fn replies() -> Vec<Vec<u8>> {
    vec![
        b"\xff\xfe".into(),
        b"_INBOX.\xc3".into(),
        "a\u{a0}b".into(),
        "\u{2028}".into(),
        b"a\x0bb".into(),
        b"a\x0cb".into(),
        b"a\rb".into(),
        b"\0".into(),
        b"\x1b[2J".into(),
        b">".into(),
        b"a.*".into(),
        b"a..b".into(),
        b".".into(),
        vec![b'r'; 4020],
    ]
}

/// Every sort of request that is none, as a client sends it.
fn poison(id: LinkId) -> Vec<u8> {
    let subject = subject::of_link(id);
    let mut sorts = Vec::new();
    let mut add = |reply: &[u8], head: &[u8]| {
        let line = match head.len() {
            0 => " 0\r\n".to_owned(),
            length => format!(" {length} {length}\r\n"),
        };
        let word: &[u8] = if head.is_empty() { b"PUB " } else { b"HPUB " };
        sorts.push(
            [
                word,
                subject.as_bytes(),
                b" ",
                reply,
                line.as_bytes(),
                head,
                b"\r\n",
            ]
            .concat(),
        );
    };
    let fair = head(&[("Consecution-Stream", "1 open 100000")]);
    for block in heads() {
        add(b"_INBOX.x", &block);
    }
    for reply in replies() {
        add(&reply, b"");
        add(&reply, &fair);
    }
    sorts.push(format!("HPUB {subject} 0003 0003\r\nA:b\r\n").into());
    sorts.push(format!("PUB {subject} 000000000\r\n\r\n").into());
    sorts.concat()
}

/// Sends all sorts of it again and again, until it is dropped; as fast as the runner
/// gets through with it, since more would just wait in the server.
struct Poisoner {
    rounds: Arc<AtomicUsize>,
    is_over: Arc<AtomicBool>,
    sending: Option<std::thread::JoinHandle<()>>,
}

impl Poisoner {
    fn start(server: &NatsServer, id: LinkId) -> Poisoner {
        let mut stream = TcpStream::connect(("127.0.0.1", server.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut lines = BufReader::new(stream.try_clone().unwrap());
        let (rounds, is_over) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let (counted, ended) = (Arc::clone(&rounds), Arc::clone(&is_over));
        let sending = std::thread::spawn(move || {
            let hello =
                b"CONNECT {\"verbose\":false,\"headers\":true}\r\nSUB _INBOX.poisoner 1\r\n";
            stream.write_all(hello).unwrap();
            let probe = head(&[("Consecution-Probe", "1")]);
            let length = probe.len();
            let link = subject::of_link(id);
            let line = format!("HPUB {link} _INBOX.poisoner {length} {length}\r\n");
            let round = [&poison(id), line.as_bytes(), &probe, b"\r\n"].concat();
            let mut line = String::new();
            while !ended.load(Ordering::Relaxed) {
                stream.write_all(&round).unwrap();
                line.clear();
                // The answer to the probe.
                while !line.starts_with("HMSG ") {
                    line.clear();
                    lines.read_line(&mut line).unwrap();
                    assert!(!line.starts_with("-ERR"), "the server says {line:?}");
                    if line.starts_with("PING") {
                        stream.write_all(b"PONG\r\n").unwrap();
                    }
                }
                counted.fetch_add(1, Ordering::Relaxed);
            }
        });
        Poisoner {
            rounds,
            is_over,
            sending: Some(sending),
        }
    }

    /// Waits until so many more rounds of it are sent.
    async fn rounds(&self, more: usize) {
        let enough = self.rounds.load(Ordering::Relaxed) + more;
        let sent = async {
            while self.rounds.load(Ordering::Relaxed) < enough {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(PATIENCE, sent).await.unwrap();
    }
}

impl Drop for Poisoner {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        let ended = self.sending.take().unwrap().join();
        assert!(std::thread::panicking() || ended.is_ok());
    }
}

/// An echo that counts its runs.
fn counted() -> (Arc<dyn Service>, Arc<AtomicUsize>) {
    let runs = Arc::<AtomicUsize>::default();
    let counted = Arc::clone(&runs);
    let service = fake::service(move |request| {
        counted.fetch_add(1, Ordering::Relaxed);
        async { fake::echo().call(request).await }
    });
    (service, runs)
}

async fn expect_echo(transport: &dyn Transport, id: LinkId) {
    let call = timeout(PATIENCE, transport.call(id, Request::new("hello")));
    let reply = call.await.unwrap().unwrap();
    let ending = reply.outcome.await.ending;
    assert_eq!(ending, Ending::Exited(0));
    assert_eq!(reply.body.collect().await.unwrap(), "hello");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_are_none_cost_no_call_of_any_link_anything() {
    let server = server!();
    let two = Two::connect(&server).await;
    let (service, poisoned_runs) = counted();
    let (poisoned, _poisoned_registration) = serve(&two, service).await;
    let (service, other_runs) = counted();
    let (other, _other_registration) = serve(&two, service).await;
    let (mut portal_state, mut runner_state) = (two.portal.connection(), two.runner.connection());
    portal_state.mark_unchanged();
    runner_state.mark_unchanged();

    let mut long = Vec::new();
    for id in [poisoned, other] {
        let (sender, receiver) = mpsc::channel(1);
        let request = Request::new(fake::receiving(receiver));
        long.push((sender, two.call(id, request).await.unwrap()));
    }
    let poisoner = Poisoner::start(&server, poisoned);
    const SHORT: usize = 200;
    for _ in 0..SHORT {
        poisoner.rounds(1).await;
        expect_echo(&two, poisoned).await;
        expect_echo(&two, other).await;
    }
    for (sender, reply) in long {
        poisoner.rounds(1).await;
        sender.send(Ok("to the end".into())).await.unwrap();
        drop(sender);
        assert_eq!(reply.body.collect().await.unwrap(), "to the end");
        assert_eq!(reply.outcome.await.ending, Ending::Exited(0));
    }
    drop(poisoner);
    assert!(
        !portal_state.has_changed().unwrap(),
        "the portal's connection was lost"
    );
    assert!(
        !runner_state.has_changed().unwrap(),
        "the runner's connection was lost"
    );
    assert_eq!(other_runs.load(Ordering::Relaxed), SHORT + 1);
    assert_eq!(poisoned_runs.load(Ordering::Relaxed), SHORT + 1);
}

#[tokio::test]
async fn who_sends_a_request_that_is_none_is_told() {
    let server = server!();
    let runner = connect(&server.options(), Role::Runner).await;
    let (service, runs) = counted();
    let (id, _registration) = serve(&runner, service).await;
    let asked = tokio::task::spawn_blocking(move || {
        let mut stranger = PlainClient::connect(server.port);
        for block in heads() {
            let answer = stranger.request(&subject::of_link(id), &block, b"");
            let start = String::from_utf8_lossy(&block[..block.len().min(40)]).into_owned();
            assert_eq!(
                answer.header("Nats-Service-Error-Code"),
                Some("400"),
                "{start:?}"
            );
            assert_eq!(answer.header("Consecution-Ending"), Some("malformed"));
        }
        let fair = stranger.request(&subject::of_link(id), &head(&[("A", "é")]), b"fair");
        assert_eq!(fair.payload, b"fair");
    });
    asked.await.unwrap();
    assert_eq!(runs.load(Ordering::Relaxed), 1);
}

/// Stands between a runner and the server, and can cut the connections of one
/// name.
struct Cutter {
    port: u16,
    cuts: watch::Sender<usize>,
}

impl Cutter {
    async fn start(server: &NatsServer, name: &'static str) -> Cutter {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (cuts, cut) = watch::channel(0);
        let target = server.port;
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let mut cut = cut.clone();
                tokio::spawn(async move {
                    cut.mark_unchanged();
                    let server = tokio::net::TcpStream::connect(("127.0.0.1", target));
                    let mut server = server.await.unwrap();
                    let mut greeting = vec![0; 4096];
                    let length = server.read(&mut greeting).await.unwrap();
                    client.write_all(&greeting[..length]).await.unwrap();
                    let length = client.read(&mut greeting).await.unwrap();
                    server.write_all(&greeting[..length]).await.unwrap();
                    let is_it = String::from_utf8_lossy(&greeting[..length]).contains(name);
                    tokio::select! {
                        _ = copy_bidirectional(&mut client, &mut server) => {}
                        _ = cut.changed(), if is_it => {}
                    }
                });
            }
        });
        Cutter { port, cuts }
    }

    fn options(&self) -> NatsOptions {
        NatsOptions {
            servers: vec![format!("nats://127.0.0.1:{}", self.port)],
            ..NatsOptions::default()
        }
    }

    fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }
}

#[tokio::test]
async fn a_lost_connection_for_requests_costs_no_call_under_way_and_is_made_again() {
    let server = server!();
    let cutter = Cutter::start(&server, "consecution runner tester requests").await;
    let two = Two {
        portal: connect(&server.options(), Role::Portal).await,
        runner: connect(&cutter.options(), Role::Runner).await,
    };
    let (service, runs) = counted();
    let (id, registration) = serve(&two, service).await;
    let (sender, receiver) = mpsc::channel(1);
    let request = Request::new(fake::receiving(receiver));
    let reply = two.call(id, request).await.unwrap();
    for _ in 0..5 {
        cutter.cut();
        let why = until_waiting(&two.runner).await;
        assert!(why.contains("for requests"), "{why}");
        until_connected(&two.runner).await;
        until_served(&two, id).await;
        expect_echo(&two, id).await;
    }
    sender.send(Ok("to the end".into())).await.unwrap();
    drop(sender);
    assert_eq!(reply.body.collect().await.unwrap(), "to the end");
    assert_eq!(runs.load(Ordering::Relaxed), 6);
    // And a drain does not wait for what a lost connection cannot say.
    cutter.cut();
    timeout(PATIENCE, registration.withdraw()).await.unwrap();
}
