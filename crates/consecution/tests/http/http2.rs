//! `serve` over HTTP/2: one connection, many calls, and nothing that one of them does is felt
//! by another.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use crate::support::chain::{chain_with, link, shell};
use crate::support::command::finish;
use crate::support::http::{Client, Served, serve_with};
use crate::support::https::Authority;
use crate::support::tls_relay::{TlsRelay, connector};
use bytes::Bytes;
use h2::client::{Builder, ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use test_support::{PATIENCE, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

/// A server, and what it takes to reach it.
struct Site {
    served: Served,
    authority: Arc<Authority>,
    /// For HTTP/1.1.
    relay: TlsRelay,
}

impl Site {
    fn open(chains: &[&crate::support::chain::ChainFile], more: &[&str]) -> Site {
        let authority = Arc::new(Authority::new());
        let options = authority.server("server").options();
        let mut options: Vec<_> = options.iter().map(String::as_str).collect();
        options.extend(more);
        let served = serve_with(chains, &options);
        let relay = TlsRelay::to(served.address, &authority, None);
        Site {
            served,
            authority,
            relay,
        }
    }

    async fn dial(&self) -> TlsStream<TcpStream> {
        let connector = connector(&self.authority, None, &[b"h2"]);
        let stream = TcpStream::connect(self.served.address).await.unwrap();
        let name = self.served.address.ip().into();
        connector.connect(name, stream).await.unwrap()
    }

    async fn connect(&self) -> Connection {
        self.connect_as(&Builder::new()).await
    }

    async fn connect_as(&self, builder: &Builder) -> Connection {
        let (requests, connection) = builder.handshake(self.dial().await).await.unwrap();
        let ended = tokio::spawn(async move {
            let _ = connection.await;
        });
        Connection { requests, ended }
    }

    /// What is asked over HTTP/1.1, on a connection of its own.
    fn metrics(&self) -> String {
        let mut client = Client::to(self.relay.address).unwrap();
        client.send_request("GET", "/metrics", &[], b"");
        client.reply().expect(200).text().to_owned()
    }

    fn at_work(&self) -> u64 {
        let metrics = self.metrics();
        let counts = metrics
            .lines()
            .filter_map(|line| line.split_once(",state=\"in_use\"} "));
        counts.map(|(_, count)| count.parse::<u64>().unwrap()).sum()
    }

    fn until_said(&self, part: &str) {
        tokio::task::block_in_place(|| self.served.until_said(part));
    }

    async fn until_at_work(&self, count: u64) {
        tokio::task::block_in_place(|| {
            eventually(&format!("{count} at work"), || {
                (self.at_work() == count).then_some(())
            });
        });
    }
}

struct Connection {
    requests: SendRequest<Bytes>,
    ended: tokio::task::JoinHandle<()>,
}

impl Connection {
    /// Begins a request; its body is yet to come unless `is_whole`.
    async fn begin(
        &self,
        method: &str,
        path: &str,
        is_whole: bool,
    ) -> (ResponseFuture, SendStream<Bytes>) {
        let request = Request::builder().method(method).header("te", "trailers");
        let request = request.uri(format!("https://localhost{path}"));
        let request = request.header("prefer", "duplex").body(()).unwrap();
        self.begin_with(request, is_whole).await
    }

    async fn begin_with(
        &self,
        request: Request<()>,
        is_whole: bool,
    ) -> (ResponseFuture, SendStream<Bytes>) {
        let mut requests = self.requests.clone().ready().await.unwrap();
        requests.send_request(request, is_whole).unwrap()
    }

    async fn post(&self, path: &str, body: &[u8]) -> (u16, HeaderMap, Vec<u8>) {
        let (status, headers, body, _) = self.post_for_trailers(path, body).await;
        (status, headers, body)
    }

    async fn post_for_trailers(
        &self,
        path: &str,
        body: &[u8],
    ) -> (u16, HeaderMap, Vec<u8>, Option<HeaderMap>) {
        let (reply, mut sender) = self.begin("POST", path, false).await;
        sender
            .send_data(Bytes::copy_from_slice(body), true)
            .unwrap();
        let (head, mut body) = reply.await.unwrap().into_parts();
        let bytes = read(&mut body).await.unwrap();
        let trailers = timeout(PATIENCE, body.trailers()).await;
        let trailers = trailers.expect("nothing comes").unwrap();
        (head.status.as_u16(), head.headers, bytes, trailers)
    }
}

/// A body to its end.
async fn read(body: &mut RecvStream) -> Result<Vec<u8>, h2::Error> {
    let mut bytes = Vec::new();
    while let Some(chunk) = timeout(PATIENCE, body.data()).await.expect("nothing comes") {
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len()).unwrap();
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

fn cat() -> crate::support::chain::ChainFile {
    chain_with("Name: one", [link(&["cat"])])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_has_its_headers_or_trailers() {
    let site = Site::open(&[&cat()], &["--grace", "20s"]);
    let connection = site.connect().await;
    // A run that ends within 10 ms of its output has all in its headers. On a busy machine
    // some take longer, and then have the rest in trailers.
    let mut tries = 0;
    let headers = loop {
        let (status, headers, body, trailers) = connection.post_for_trailers("/", b"some").await;
        assert_eq!((status, &body[..]), (200, &b"some"[..]));
        let Some(trailers) = trailers else {
            break headers;
        };
        assert_eq!(trailers["consecution-pipestatus"], "0");
        tries += 1;
        assert!(tries < 50, "all replies have trailers");
    };
    assert_eq!(headers["consecution-pipestatus"], "0");
    assert_eq!(headers["content-length"], "4");
    assert!(!headers.contains_key("connection"));
    // Both ways at once, and more than any window.
    let (reply, mut sender) = connection.begin("POST", "/chains/one", false).await;
    sender
        .send_data(Bytes::from_static(b"first"), false)
        .unwrap();
    let mut reply = reply.await.unwrap();
    assert_eq!(reply.headers()["preference-applied"], "duplex");
    let much = Bytes::from(vec![b'x'; 1 << 20]);
    let sending = tokio::spawn(async move {
        for _ in 0..8 {
            sender.send_data(much.clone(), false).unwrap();
        }
        sender.send_data(Bytes::new(), true).unwrap();
    });
    let bytes = read(reply.body_mut()).await.unwrap();
    assert_eq!(bytes.len(), 5 + (8 << 20));
    sending.await.unwrap();
    let trailers = reply.body_mut().trailers().await.unwrap().unwrap();
    assert_eq!(trailers["consecution-pipestatus"], "0");
    let (status, headers, _) = connection.post("/chains/two", b"").await;
    assert_eq!(status, 404);
    assert_eq!(headers["content-type"], "application/problem+json");
    assert!(headers.contains_key("consecution-call-id"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_that_breaks_off_is_reset_and_others_go_on() {
    let (one, fails) = (
        cat(),
        chain_with("Name: fails", [shell("echo some; sleep 1; exit 3")]),
    );
    let site = Site::open(&[&one, &fails], &[]);
    let connection = site.connect().await;
    let (reply, _sender) = connection.begin("POST", "/chains/fails", true).await;
    let mut reply = reply.await.unwrap();
    assert_eq!(reply.status(), 200);
    let error = read(reply.body_mut()).await.unwrap_err();
    assert!(error.is_reset(), "{error}");
    assert_eq!(error.reason(), Some(Reason::INTERNAL_ERROR));
    assert_eq!(connection.post("/", b"some").await.2, b"some");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_resets_a_stream_or_leaves_gives_its_calls_up() {
    let one = cat();
    let held = chain_with("Name: held\nDeadline: none", [shell("cat; sleep 1000")]);
    let site = Site::open(&[&one, &held], &[]);
    let connection = site.connect().await;
    // Before its reply has begun, and after.
    for part in [&b""[..], b"some"] {
        let (reply, mut sender) = connection.begin("POST", "/chains/held", false).await;
        sender
            .send_data(Bytes::copy_from_slice(part), false)
            .unwrap();
        site.until_at_work(1).await;
        let reply = match part {
            b"" => None,
            _ => Some(timeout(PATIENCE, reply).await.unwrap().unwrap()),
        };
        sender.send_reset(Reason::CANCEL);
        site.until_at_work(0).await;
        drop(reply);
    }
    assert_eq!(connection.post("/", b"some").await.2, b"some");
    let held: Vec<_> = [
        connection.begin("POST", "/chains/held", true).await,
        connection.begin("POST", "/chains/held", false).await,
    ]
    .into();
    site.until_at_work(2).await;
    connection.ended.abort();
    drop((held, connection.requests));
    site.until_at_work(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_nobody_reads_is_reset_and_others_go_on() {
    let one = cat();
    let endless = chain_with("Name: endless\nDeadline: none", [link(&["yes"])]);
    let site = Site::open(&[&one, &endless], &["--stall-timeout", "1s"]);
    let connection = site
        .connect_as(Builder::new().initial_window_size(1000))
        .await;
    let (reply, _sender) = connection.begin("POST", "/chains/endless", true).await;
    let mut reply: Response<RecvStream> = reply.await.unwrap();
    site.until_said("its stream is reset");
    site.until_at_work(0).await;
    let error = loop {
        match timeout(PATIENCE, reply.body_mut().data())
            .await
            .unwrap()
            .unwrap()
        {
            Ok(chunk) => assert!(chunk.len() <= 1000),
            Err(error) => break error,
        }
    };
    assert!(error.is_reset(), "{error}");
    // One that reads slowly, and less at a time than a piece, is not.
    let body = vec![b'x'; 20_000];
    let (reply, mut sender) = connection.begin("POST", "/", false).await;
    sender.send_data(body.clone().into(), true).unwrap();
    let mut reply = reply.await.unwrap();
    let mut bytes = 0;
    while let Some(chunk) = timeout(PATIENCE, reply.body_mut().data()).await.unwrap() {
        let chunk = chunk.unwrap();
        bytes += chunk.len();
        tokio::time::sleep(Duration::from_millis(20)).await;
        reply
            .body_mut()
            .flow_control()
            .release_capacity(chunk.len())
            .unwrap();
    }
    assert_eq!(bytes, body.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn each_stream_takes_a_place() {
    let held = chain_with("Name: held\nDeadline: none", [shell("cat; sleep 1000")]);
    let site = Site::open(
        &[&held],
        &["--connections-max", "3", "--processes-max", "8"],
    );
    // The relay has left.
    let connection = loop {
        let connection = site.connect().await;
        let (status, ..) = connection.post("/nothing", b"").await;
        if status == 404 {
            break connection;
        }
    };
    let mut held = Vec::new();
    while held.len() < 3 {
        let (reply, mut sender) = connection.begin("POST", "/", false).await;
        sender
            .send_data(Bytes::from_static(b"some"), false)
            .unwrap();
        let reply = timeout(PATIENCE, reply).await.unwrap().unwrap();
        // Others that have asked for metrics may not have left yet.
        if reply.status() == 200 {
            held.push((reply, sender));
        }
    }
    site.until_at_work(3).await;
    let (status, headers, body) = connection.post("/", b"some").await;
    assert_eq!(status, 503, "{}", body.escape_ascii());
    assert!(headers.contains_key("retry-after"));
    let (reply, _) = connection.begin("GET", "/healthz", true).await;
    assert_eq!(reply.await.unwrap().status(), 200);
    for (_, mut sender) in held {
        sender.send_reset(Reason::CANCEL);
    }
    site.until_at_work(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_client_floods_it_with_others_are_served() {
    let site = Site::open(&[&cat()], &[]);
    // Streams that are reset as soon as they are opened.
    let connection = site.connect().await;
    for _ in 0..5000 {
        let Ok(mut requests) = connection.requests.clone().ready().await else {
            break;
        };
        let request = Request::post("https://localhost/").body(()).unwrap();
        let Ok((_, mut sender)) = requests.send_request(request, false) else {
            break;
        };
        sender.send_reset(Reason::CANCEL);
    }
    // A head that goes on and on.
    let mut stream = site.dial().await;
    stream
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .await
        .unwrap();
    stream
        .write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0])
        .await
        .unwrap();
    // HEADERS without its end, and a field that is never indexed: `a: xxx…`.
    stream
        .write_all(&[0, 0, 0, 1, 0, 0, 0, 0, 1])
        .await
        .unwrap();
    let mut piece = vec![0, 0x40, 0, 9, 0, 0, 0, 0, 1];
    for _ in 0..0x4000 / 64 {
        piece.extend_from_slice(&[0, 1, b'a', 60]);
        piece.extend_from_slice(&[b'x'; 60]);
    }
    let flooding = async {
        for _ in 0..10_000 {
            if stream.write_all(&piece).await.is_err() {
                break;
            }
        }
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
    };
    timeout(PATIENCE, flooding)
        .await
        .expect("it is listened to");
    // Large heads.
    let connection = site.connect().await;
    let large = Request::post("https://localhost/").header("a", "x".repeat(80_000));
    let (reply, _) = connection.begin_with(large.body(()).unwrap(), true).await;
    match timeout(PATIENCE, reply).await.unwrap() {
        Ok(reply) => assert_eq!(reply.status(), 431),
        Err(error) => assert!(error.is_reset() || error.is_go_away(), "{error}"),
    }
    assert_eq!(site.connect().await.post("/", b"some").await.2, b"some");
    site.until_at_work(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_uses_is_closed() {
    let site = Site::open(&[&cat()], &["--header-timeout", "300ms"]);
    let connection = site.connect().await;
    connection.post("/", b"some").await;
    timeout(PATIENCE, connection.ended)
        .await
        .expect("it stays")
        .unwrap();
    // Neither does one that says nothing at all, or too little.
    for beginning in [&b""[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        let mut stream = site.dial().await;
        stream.write_all(beginning).await.unwrap();
        let mut rest = Vec::new();
        let reading = stream.read_to_end(&mut rest);
        let _ = timeout(PATIENCE, reading).await.expect("it stays");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_finishes_the_streams_that_are_open() {
    let site = Site::open(&[&cat()], &[]);
    let connection = site.connect().await;
    let (reply, mut sender) = connection.begin("POST", "/", false).await;
    sender
        .send_data(Bytes::from_static(b"this "), false)
        .unwrap();
    let mut reply = reply.await.unwrap();
    site.served.signal(rustix::process::Signal::TERM);
    site.until_said("finishing what is in flight");
    sender.send_data(Bytes::from_static(b"is"), true).unwrap();
    assert_eq!(read(reply.body_mut()).await.unwrap(), b"this is");
    timeout(PATIENCE, connection.ended)
        .await
        .expect("it stays")
        .unwrap();
    tokio::task::block_in_place(|| site.served.end().expect_success());
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_and_hosts_count_there_too() {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys.yaml");
    let sum = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
    let text = format!("Keys:\n- {{Name: page, SHA256: {sum}, May: ['call:*']}}\n");
    std::fs::write(&keys, text).unwrap();
    let keys = keys.display().to_string();
    let authority = Authority::new();
    let options = authority.server("server").options();
    let mut options: Vec<_> = options.iter().map(String::as_str).collect();
    options.extend(["--keys", &keys]);
    let one = cat();
    let served = serve_with(&[&one], &options);
    let curl = |more: &[&str]| {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--http2", "--cacert"])
            .arg(authority.ca());
        curl.args([
            "--data-binary",
            "some",
            "--write-out",
            " %{http_version} %{http_code}",
        ]);
        curl.args(more)
            .arg(format!("https://localhost:{}/", served.address.port()));
        finish(curl, b"", PATIENCE).expect_success()
    };
    let bearer = ["--oauth2-bearer", "test"];
    curl(&bearer).expect_output("some 2 200");
    assert!(curl(&[]).text().ends_with(" 2 401"));
    let origin = |origin: &str| {
        let origin = format!("Origin: {origin}");
        curl(&[&bearer[..], &["--header", &origin]].concat())
            .text()
            .to_owned()
    };
    let own = format!("https://localhost:{}", served.address.port());
    assert!(origin(&own).ends_with(" 2 200"));
    assert!(origin("https://evil.example").ends_with(" 2 403"));
}

/// Whoever has no key holds no place but those of its connections.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_without_a_key_takes_no_place() {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys.yaml");
    let sum = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
    let text = format!("Keys:\n- {{Name: page, SHA256: {sum}, May: ['call:*']}}\n");
    std::fs::write(&keys, text).unwrap();
    let keys = keys.display().to_string();
    let one = cat();
    let site = Site::open(&[&one], &["--keys", &keys, "--connections-max", "4"]);
    // It reads nothing of the replies.
    let stranger = site.connect_as(Builder::new().initial_window_size(0)).await;
    let mut held = Vec::new();
    for _ in 0..20 {
        let (reply, sender) = stranger.begin("POST", "/", true).await;
        let reply = timeout(PATIENCE, reply).await.unwrap().unwrap();
        assert_eq!(reply.status(), 401);
        held.push((reply, sender));
    }
    let known = site.connect().await;
    let mut calls = Vec::new();
    // One in the place of its connection, and one beside it.
    for _ in 0..2 {
        let request = Request::post("https://localhost/").header("authorization", "Bearer test");
        let request = request.header("prefer", "duplex").body(()).unwrap();
        let (reply, mut sender) = known.begin_with(request, false).await;
        let some = Bytes::from_static(b"some");
        sender.send_data(some, false).unwrap();
        let reply = timeout(PATIENCE, reply).await.unwrap().unwrap();
        assert_eq!(reply.status(), 200);
        calls.push((reply, sender));
    }
    drop(held);
}
