//! `serve` over TLS: versions, certificates of the server and of clients, their renewal, and
//! all that holds over plain HTTP.

use std::io::{self, Read};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::support::chain::{ChainFile, chain_with, link, shell};
use crate::support::command::{Finished, finish};
use crate::support::http::{Client, Served, listen, serve_with, serving};
use crate::support::https::{Authority, Pair};
use crate::support::tls_relay::TlsRelay;
use test_support::{PATIENCE, eventually};

/// Serves a chain over TLS.
fn serve_tls(chain: &ChainFile, pair: &Pair, more: &[&str]) -> Served {
    let options = pair.options();
    let mut options: Vec<_> = options.iter().map(String::as_str).collect();
    options.extend(more);
    serve_with(&[chain], &options)
}

fn cat() -> ChainFile {
    chain_with("Name: one", [link(&["cat"])])
}

/// Posts `some` with curl, which trusts that authority; the output ends with the status.
fn curl(served: &Served, authority: &Authority, path: &str, more: &[&str]) -> Finished {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--max-time", "60", "--cacert"]);
    curl.arg(authority.ca()).args(["--data-binary", "some"]);
    curl.args(["--write-out", " %{http_code}"]).args(more);
    curl.arg(format!("https://localhost:{}{path}", served.address.port()));
    finish(curl, b"", PATIENCE)
}

fn as_client(pair: &Pair) -> [String; 4] {
    let path = |path: &std::path::Path| path.display().to_string();
    let (certificate, key) = (path(&pair.certificate), path(&pair.key));
    ["--cert".to_owned(), certificate, "--key".to_owned(), key]
}

#[test]
fn calls_are_encrypted_with_either_version() {
    let (authority, chain) = (Authority::new(), cat());
    let served = serve_tls(&chain, &authority.server("server"), &[]);
    assert!(served.said().contains("listening on https://127.0.0.1:"));
    for version in ["1.2", "1.3"] {
        let options = [&format!("--tlsv{version}"), "--tls-max", version];
        curl(&served, &authority, "/", &options).expect_output("some 200");
    }
    let old = curl(&served, &authority, "/", &["--tls-max", "1.1"]);
    assert_ne!(old.code(), 0);
    // Whom nobody has signed is not believed.
    let other = Authority::new();
    assert_eq!(curl(&served, &other, "/", &[]).code(), 60);
    // Who does not encrypt is told so.
    let reply = served.request("GET", "/healthz", b"").expect(400);
    assert!(reply.text().contains("write https://"), "{}", reply.text());
    let garbage = [&b"\x16\x03\x01\x00\x05hello"[..], b"\x16", b""];
    for bytes in garbage {
        let mut client = served.connect();
        client.send(bytes);
        client.shut_down();
        client.rest();
    }
    curl(&served, &authority, "/", &[]).expect_output("some 200");
}

#[test]
fn without_keys_a_certificate_is_the_key() {
    let (authority, other, chain) = (Authority::new(), Authority::new(), cat());
    let ca = authority.ca().display().to_string();
    let server = authority.server("server");
    let served = serve_tls(&chain, &server, &["--tls-client-ca", &ca]);
    let ask = |path: &str, pair: Option<&Pair>| {
        let options = pair.map(as_client).unwrap_or_default();
        let options = options.iter().filter(|it| !it.is_empty());
        let options: Vec<_> = options.map(String::as_str).collect();
        curl(&served, &authority, path, &options)
    };
    let batch = authority.client("batch");
    ask("/", Some(&batch)).expect_output("some 200");
    let refused = ask("/", None);
    assert!(
        refused.text().contains("it takes a client certificate"),
        "{}",
        refused.text()
    );
    assert!(refused.text().ends_with(" 401"), "{}", refused.text());
    assert!(ask("/healthz", None).text().ends_with(" 405"));
    // Others, and those that are valid no more, do not even get that far.
    for pair in [other.client("batch"), authority.expired("expired")] {
        let refused = ask("/", Some(&pair));
        assert_ne!(refused.code(), 0, "{}", refused.text());
    }
    let metrics = Command::new("curl");
    let mut metrics = metrics;
    metrics.args(["--silent", "--cacert"]).arg(authority.ca());
    metrics.args(as_client(&batch));
    metrics.arg(format!(
        "https://localhost:{}/metrics",
        served.address.port()
    ));
    let metrics = finish(metrics, b"", PATIENCE);
    let count = "consecution_http_handshake_failures_total 2";
    assert!(metrics.text().contains(count), "{}", metrics.text());
}

#[test]
fn a_certificate_may_be_listed_beside_tokens() {
    let (authority, chain) = (Authority::new(), cat());
    let ca = authority.ca().display().to_string();
    let keys = authority.path("keys.yaml");
    let sum = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
    let text = format!(
        "Keys:\n- {{Name: shop, SHA256: {sum}, May: ['call:one']}}\n\
         - {{Certificate: CN=batch, May: ['call:*']}}\n- {{Certificate: CN=eye, May: [view]}}\n"
    );
    std::fs::write(&keys, text).unwrap();
    let keys = keys.display().to_string();
    let options = ["--tls-client-ca", &ca, "--keys", &keys];
    let served = serve_tls(&chain, &authority.server("server"), &options);
    let ask = |more: &[String]| {
        let more: Vec<_> = more.iter().map(String::as_str).collect();
        let finished = curl(&served, &authority, "/", &more).expect_success();
        let status = finished.text().rsplit(' ').next().unwrap();
        (status.to_owned(), finished.text().to_owned())
    };
    let bearer = |token: &str| format!("Authorization: Bearer {token}");
    assert_eq!(ask(&as_client(&authority.client("batch"))).0, "200");
    assert_eq!(ask(&["--header".to_owned(), bearer("test")]).0, "200");
    assert_eq!(ask(&[]).0, "401");
    let (status, text) = ask(&as_client(&authority.client("eye")));
    assert_eq!(status, "403", "{text}");
    assert!(text.contains("the key 'eye' has no `call:one`"), "{text}");
    let (status, text) = ask(&as_client(&authority.client("nobody")));
    assert_eq!(status, "401", "{text}");
    assert!(
        text.contains("no key for the certificate with the name 'nobody'"),
        "{text}"
    );
}

#[test]
fn certificates_are_renewed_while_connections_live() {
    let (authority, other, chain) = (Authority::new(), Authority::new(), cat());
    let pair = authority.server("server");
    let served = serve_tls(&chain, &pair, &[]);
    let relay = TlsRelay::to(served.address, &authority, None);
    let mut kept = Client::to(relay.address).unwrap();
    let mut call = || {
        kept.send_request("POST", "/", &[], b"some");
        assert_eq!(kept.reply().expect(200).text(), "some");
    };
    call();
    other.server("new").replace(&pair);
    served.until_said("the certificates were read again");
    call();
    assert_eq!(curl(&served, &authority, "/", &[]).code(), 60);
    curl(&served, &other, "/", &[]).expect_output("some 200");
    // A key of another certificate changes nothing, and neither does a file that is none.
    std::fs::copy(&authority.server("odd").key, &pair.key).unwrap();
    let line = served.until_said("the certificates stay as they were");
    assert!(line.contains("failed to use the certificate in "), "{line}");
    std::fs::write(&pair.certificate, "no certificate").unwrap();
    served.until_said("failed to find a certificate in ");
    curl(&served, &other, "/", &[]).expect_output("some 200");
    call();
}

#[test]
fn files_that_do_not_fit_are_an_error_at_the_start() {
    let (authority, chain) = (Authority::new(), cat());
    let (one, two) = (authority.server("one"), authority.server("two"));
    let path = |path: &std::path::Path| path.display().to_string();
    let (certificate, key) = (path(&one.certificate), path(&one.key));
    let (other, missing) = (path(&two.key), path(&authority.path("missing")));
    for (options, code, wanted) in [
        (vec!["--tls-cert", &certificate], 2, "--tls-key"),
        (vec!["--tls-client-ca", &certificate], 2, "--tls-cert"),
        (
            vec!["--tls-cert", &missing, "--tls-key", &key],
            125,
            "No such file",
        ),
        (
            vec!["--tls-cert", &key, "--tls-key", &key],
            125,
            "find a certificate in",
        ),
        (
            vec!["--tls-cert", &certificate, "--tls-key", &certificate],
            125,
            "the private key in",
        ),
        (
            vec!["--tls-cert", &certificate, "--tls-key", &other],
            125,
            "use the certificate in",
        ),
    ] {
        let finished = finish(serving(&[&chain], &options), b"", PATIENCE);
        finished.expect_code(code).expect_stderr(&[wanted]);
    }
}

#[test]
fn slow_handshakes_keep_nobody_out() {
    let (authority, chain) = (Authority::new(), cat());
    let options = ["--connections-max", "2"];
    let served = serve_tls(&chain, &authority.server("server"), &options);
    let silent = || TcpStream::connect(served.address).unwrap();
    let mut silent: Vec<_> = (0..300).map(|_| silent()).collect();
    // They hold no places, and who comes behind them is not kept waiting for long.
    let began = Instant::now();
    curl(&served, &authority, "/", &[]).expect_output("some 200");
    assert!(
        began.elapsed() < Duration::from_secs(30),
        "{:?}",
        began.elapsed()
    );
    // The first of them had to go.
    silent[0].set_read_timeout(Some(PATIENCE)).unwrap();
    let _ = silent[0].read(&mut [0]);
}

/// Keeps that many silent connections open from 127.0.0.1, each reopened as soon as it is
/// closed, until what it returns is dropped: the number of those that were reopened.
fn keep_silent(address: SocketAddr, connections: usize) -> Arc<AtomicUsize> {
    let connect = move || {
        let stream = TcpStream::connect(address)?;
        stream.set_nonblocking(true)?;
        Ok(stream)
    };
    let opened: io::Result<Vec<_>> = (0..connections).map(|_| connect()).collect();
    let mut silent = opened.unwrap();
    let reopened = Arc::new(AtomicUsize::new(0));
    let count = Arc::downgrade(&reopened);
    std::thread::spawn(move || {
        while let Some(count) = count.upgrade() {
            for stream in &mut silent {
                let is_open = stream
                    .read(&mut [0])
                    .is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
                if !is_open && let Ok(again) = connect() {
                    *stream = again;
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    reopened
}

#[test]
fn silent_connections_of_one_address_delay_no_other() {
    let (authority, chain) = (Authority::new(), cat());
    let served = serve_tls(&chain, &authority.server("server"), &[]);
    let reopened = keep_silent(served.address, 300);
    // If all the silent ones were given a second, each of these would wait for more than one.
    let began = Instant::now();
    for _ in 0..10 {
        let other = ["--interface", "127.0.0.2"];
        curl(&served, &authority, "/", &other).expect_output("some 200");
    }
    let took = began.elapsed();
    assert!(took < Duration::from_secs(8), "{took:?}");
    eventually("silent ones make room", || {
        (reopened.load(Ordering::Relaxed) >= 300).then_some(())
    });
}

#[test]
fn who_leaves_gives_the_call_up() {
    let authority = Authority::new();
    let chain = chain_with("Name: one\nDeadline: none", [shell("cat; sleep 1000")]);
    let served = serve_tls(
        &chain,
        &authority.server("server"),
        &["--admin-listen", "127.0.0.1:0"],
    );
    let relay = TlsRelay::to(served.address, &authority, None);
    let at_work = || {
        let mut client = Client::to(relay.address).unwrap();
        client.send_request("GET", "/metrics", &[], b"");
        let metrics = client.reply().expect(200);
        let lines = metrics.text().lines();
        let counts = lines.filter_map(|line| line.split_once(",state=\"in_use\"} "));
        counts
            .map(|(_, count)| count.parse::<u64>().unwrap())
            .sum::<u64>()
    };
    // Each way to leave: with the whole connection, and with the sending half alone.
    for only_half in [false, true] {
        let mut client = Client::to(relay.address).unwrap();
        client.send_request("POST", "/", &[], b"some");
        eventually("it is called", || (at_work() == 1).then_some(()));
        if only_half {
            client.shut_down();
        }
        let kept = only_half.then_some(client);
        eventually("it is given up", || (at_work() == 0).then_some(()));
        drop(kept);
    }
}

#[test]
fn a_reply_that_breaks_off_is_not_complete() {
    let authority = Authority::new();
    let chain = chain_with("Name: one", [shell("echo some; sleep 1; exit 3")]);
    let served = serve_tls(&chain, &authority.server("server"), &[]);
    let relay = TlsRelay::to(served.address, &authority, None);
    let mut client = Client::to(relay.address).unwrap();
    client.send_request("POST", "/", &["TE: trailers"], b"");
    let reply = client.reply();
    assert_eq!((reply.status, reply.text()), (200, "some\n"));
    assert!(!reply.is_complete);
}

#[test]
fn who_reads_nothing_is_let_go() {
    let authority = Authority::new();
    let endless = chain_with("Name: endless\nDeadline: none", [link(&["yes"])]);
    let options = ["--stall-timeout", "1s"];
    let served = serve_tls(&endless, &authority.server("server"), &options);
    let relay = TlsRelay::to(served.address, &authority, None);
    let mut client = Client::to(relay.address).unwrap();
    client.send_request("POST", "/", &[], b"");
    served.until_said("a client has read nothing of its reply");
}

#[test]
fn a_drain_finishes_what_is_under_way() {
    let (authority, chain) = (Authority::new(), cat());
    let served = serve_tls(&chain, &authority.server("server"), &[]);
    let relay = TlsRelay::to(served.address, &authority, None);
    let mut client = Client::to(relay.address).unwrap();
    client.send("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
    client.send_chunk(b"this");
    eventually("it is served", || {
        let mut other = Client::to(relay.address).unwrap();
        other.send_request("GET", "/metrics", &[], b"");
        let metrics = other.reply().expect(200);
        metrics
            .text()
            .contains("consecution_calls_in_flight{chain=\"one\"} 1")
            .then_some(())
    });
    served.signal(rustix::process::Signal::TERM);
    served.until_said("finishing what is in flight");
    client.end_chunks();
    assert_eq!(client.reply().expect(200).text(), "this");
    served.end().expect_success();
}

#[test]
fn a_runners_own_address_is_protected_the_same_way() {
    let authority = Authority::new();
    let keys = authority.path("keys.yaml");
    let sum = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
    let text = format!("Keys:\n- {{Name: scraper, SHA256: {sum}, May: [metrics]}}\n");
    std::fs::write(&keys, text).unwrap();
    let mut command = crate::support::command::consecution(crate::support::home::shared());
    command
        .args(["runner", "--listen", "127.0.0.1:0", "--keys"])
        .arg(&keys);
    command.args(authority.server("server").options());
    // It may start before NATS and etcd.
    command
        .env("NATS_URL", "nats://127.0.0.1:1")
        .env("ETCD_ENDPOINTS", "http://127.0.0.1:1");
    let served = listen(command);
    let relay = TlsRelay::to(served.address, &authority, None);
    for (path, field, wanted) in [
        ("/healthz", "A: b", 200),
        ("/readyz", "A: b", 503),
        ("/metrics", "A: b", 401),
        ("/metrics", "Authorization: Bearer test", 200),
        ("/nothing", "A: b", 401),
    ] {
        let mut client = Client::to(relay.address).unwrap();
        client.send_request("GET", path, &[field], b"");
        let reply = client.reply();
        assert_eq!(reply.status, wanted, "{path}: {}", reply.text());
        if path == "/readyz" {
            assert_eq!(reply.text(), "{\"ready\":false}\n");
        }
    }
}
