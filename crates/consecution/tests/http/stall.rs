//! Clients that stop to read, or to send: they are let go, and nobody else is.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::support::chain::{chain_with, link, shell};
use crate::support::http::{Served, serve_with};
use rustix::process::Signal;
use test_support::eventually;

const CONNECTIONS_MAX: usize = 16;

/// Clients that ask for what they do not read.
fn who_do_not_read(served: &Served, path: &str, count: usize) -> Vec<TcpStream> {
    let ask = |_| {
        let mut stream = TcpStream::connect(served.address).unwrap();
        let head = format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        stream
    };
    (0..count).map(ask).collect()
}

fn metric(served: &Served, name: &str) -> Option<u64> {
    let metrics = served.request("GET", "/metrics", b"").expect(200);
    let mut lines = metrics.text().lines();
    lines.find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

/// How many processes are at work.
fn at_work(served: &Served) -> u64 {
    let metrics = served.request("GET", "/metrics", b"").expect(200);
    let lines = metrics.text().lines();
    let counts = lines.filter_map(|line| line.split_once(",state=\"in_use\"} "));
    counts.map(|(_, count)| count.parse::<u64>().unwrap()).sum()
}

/// Waits until so many processes are at work.
#[track_caller]
fn until_at_work(served: &Served, count: u64) {
    eventually(&format!("{count} at work"), || {
        (at_work(served) == count).then_some(())
    });
}

#[test]
fn clients_that_never_read_are_let_go() {
    let endless = chain_with("Name: endless\nDeadline: 1s", [link(&["yes"])]);
    let max = CONNECTIONS_MAX.to_string();
    let options = ["--stall-timeout", "1s", "--connections-max", &max];
    let served = serve_with(&[&endless], &options);
    for _ in 0..3 {
        let clients = who_do_not_read(&served, "/", CONNECTIONS_MAX);
        // All slots are theirs; this one gets the first that is free again.
        served.request("GET", "/healthz", b"").expect(200);
        eventually("that all are gone", || {
            (metric(&served, "consecution_http_connections") == Some(1)).then_some(())
        });
        drop(clients);
    }
    let name = "consecution_calls_in_flight{chain=\"endless\"}";
    assert_eq!(metric(&served, name), Some(0));
    let late = "consecution_call_failures_total{chain=\"endless\",kind=\"deadline\"}";
    let late = metric(&served, late).unwrap();
    let gone = "consecution_call_failures_total{chain=\"endless\",kind=\"client_gone\"}";
    let gone = metric(&served, gone).unwrap();
    assert_eq!(late + gone, 3 * CONNECTIONS_MAX as u64, "{late} and {gone}");
    assert_eq!(metric(&served, "consecution_http_spool_bytes"), Some(0));
}

#[test]
fn a_deadline_holds_although_nobody_reads() {
    let endless = chain_with("Deadline: 1s", [link(&["yes"]), link(&["cat"])]);
    let served = serve_with(&[&endless], &["--stall-timeout", "10m"]);
    let clients = who_do_not_read(&served, "/", 2);
    until_at_work(&served, 4);
    until_at_work(&served, 0);
    // A drain waits for those who read, and not for these.
    served.signal(Signal::TERM);
    let ended = served.end().expect_success();
    assert!(
        ended.elapsed < Duration::from_secs(25),
        "{:?}",
        ended.elapsed
    );
    drop(clients);
}

#[test]
fn a_slow_reader_is_not_cut_off_and_has_longer_than_the_deadline() {
    const LENGTH: usize = 16 << 20;
    let much = link(&["head", "-c", &LENGTH.to_string(), "/dev/zero"]);
    let much = chain_with("Deadline: 3s", [much]);
    let served = serve_with(&[&much], &["--stall-timeout", "1s"]);
    let mut client = TcpStream::connect(served.address).unwrap();
    // Its run is over before it may begin to read.
    let head = "POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 1\r\n\r\n";
    client.write_all(head.as_bytes()).unwrap();
    // Far less than the kernel holds for it, for longer than it may stall.
    let (mut reply, mut bytes, began) = (Vec::new(), vec![0; 256 << 10], Instant::now());
    while began.elapsed() < Duration::from_secs(5) {
        let read = client.read(&mut bytes).unwrap();
        reply.extend_from_slice(&bytes[..read]);
        sleep(Duration::from_millis(100));
    }
    assert!(reply.len() < LENGTH, "{} bytes", reply.len());
    client.read_to_end(&mut reply).unwrap();
    let zeros = reply.iter().filter(|byte| **byte == 0).count();
    assert_eq!(zeros, LENGTH);
}

#[test]
fn an_upload_that_stalls_is_answered_and_let_go() {
    let chain = chain_with("Name: held\nDeadline: none", [shell("cat; sleep 1000")]);
    let served = serve_with(&[&chain], &["--stall-timeout", "1s"]);
    let mut client = served.connect();
    client.send("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
    client.send_chunk(b"early");
    until_at_work(&served, 1);
    let problem = client.reply().problem(408);
    assert_eq!(problem["title"], "the request does not come");
    assert_eq!(client.rest(), b"");
    until_at_work(&served, 0);
    let stalled = "consecution_call_failures_total{chain=\"held\",kind=\"stalled\"}";
    assert_eq!(metric(&served, stalled), Some(1));
}

#[test]
fn who_is_kept_waiting_by_the_chain_may_wait() {
    // It does not read for longer than a client may stall, and so the client cannot
    // send.
    let chain = chain_with("Deadline: none", [shell("/bin/sleep 4; cat | wc -c")]);
    let served = serve_with(&[&chain], &["--stall-timeout", "1s"]);
    let body = vec![b'x'; 32 << 20];
    let mut client = served.connect();
    client.send_request("POST", "/", &[], &body);
    assert_eq!(
        client.reply().expect(200).text().trim(),
        body.len().to_string()
    );
}

#[test]
fn an_open_stream_in_which_nothing_happens_stays() {
    let served = serve_with(
        &[&chain_with("Deadline: none", [link(&["cat"])])],
        &["--stall-timeout", "500ms"],
    );
    let mut client = served.begin("/");
    client.send_chunk(b"one");
    client.head();
    assert_eq!(client.chunk().unwrap(), b"one");
    // Several times what a client may stall.
    sleep(Duration::from_secs(3));
    client.send_chunk(b"two");
    assert_eq!(client.chunk().unwrap(), b"two");
    client.end_chunks();
    assert_eq!(client.chunk().unwrap(), b"");
}
