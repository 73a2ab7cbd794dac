//! Replies whose chain writes before its request is complete, for clients that do
//! one thing after the other.

use std::fs;
use std::process::Command;

use crate::support::chain::{chain, chain_with, link, shell};
use crate::support::command::finish;
use crate::support::http::{Client, Served, serve, serve_with};
use test_support::{PATIENCE, eventually};

/// More than a call may keep in memory.
const LARGE_BYTES: usize = 48 << 20;

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at / 7 % 251) as u8).collect()
}

fn metric(served: &Served, name: &str) -> u64 {
    let metrics = served.request("GET", "/metrics", b"").expect(200);
    let mut lines = metrics.text().lines();
    let value = lines
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
        .map(str::to_owned);
    value
        .unwrap_or_else(|| panic!("no {name}"))
        .parse()
        .unwrap()
}

/// The unnamed files of the server that are in the spool's folder.
fn spool_files(served: &Served) -> usize {
    let open = fs::read_dir(format!("/proc/{}/fd", served.process())).unwrap();
    let targets = open.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    let is_gone = |target: &std::path::PathBuf| target.to_string_lossy().ends_with(" (deleted)");
    targets
        .filter(is_gone)
        .filter(|target| !target.starts_with("/memfd:"))
        .count()
}

/// Nothing waits any more.
fn expect_empty(served: &Served) {
    eventually("an empty spool", || {
        let is_empty = metric(served, "consecution_http_spool_bytes") == 0;
        (is_empty && spool_files(served) == 0).then_some(())
    });
}

/// Begins a call without saying that its reply may begin before it is sent.
fn begin(served: &Served, path: &str) -> Client {
    let mut client = served.connect();
    client.send(format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\n\r\n"
    ));
    client
}

#[test]
fn a_client_may_send_everything_before_it_reads() {
    let served = serve(&[&chain([link(&["cat"]), link(&["cat"])])]);
    let body = pattern(LARGE_BYTES);
    let mut client = served.connect();
    client.send_request("POST", "/", &[], &body);
    let reply = client.reply().expect(200);
    assert!(reply.body == body);
    // The same connection, in chunks.
    client.send("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
    for chunk in body.chunks(1 << 20) {
        client.send_chunk(chunk);
    }
    client.end_chunks();
    let reply = client.reply().expect(200);
    assert!(reply.body == body);
    assert_eq!(metric(&served, "consecution_http_spool_full_total"), 0);
    expect_empty(&served);
}

#[test]
fn python_may_send_everything_before_it_reads() {
    const SCRIPT: &str = "
import http.client, sys
c = http.client.HTTPConnection(sys.argv[1], timeout=60)
body = b'x' * (48 << 20)
c.request('POST', '/', body=body)
reply = c.getresponse()
assert reply.status == 200, reply.status
assert reply.read() == body
";
    let version = Command::new("python3").arg("--version").output();
    if !version.is_ok_and(|output| output.status.success()) {
        cannot_run_here!("python3 is missing");
    }
    let served = serve(&[&chain([link(&["cat"])])]);
    let mut python = Command::new("python3");
    python.args(["-c", SCRIPT, &served.address.to_string()]);
    finish(python, b"", PATIENCE).expect_success();
}

#[test]
fn what_is_over_by_then_has_a_length_whatever_its_size() {
    // It reads a line more than it needs for its output, so that its end comes with
    // the end of the request.
    let served = serve(&[&chain([shell("head -c 2000000 /dev/zero; cat >/dev/null")])]);
    let mut client = begin(&served, "/");
    client.send_chunk(b"x");
    eventually("that it waits", || {
        (metric(&served, "consecution_http_spool_bytes") == 2_000_000).then_some(())
    });
    client.end_chunks();
    let reply = client.reply().expect(200);
    assert_eq!(reply.body.len(), 2_000_000);
    // Its end came in time, or ten milliseconds were not enough for this machine.
    if reply.header("content-length").is_some() {
        assert_eq!(reply.header("content-length"), Some("2000000"));
        assert_eq!(reply.header("consecution-pipestatus"), Some("0"));
        assert!(reply.header("server-timing").is_some());
    } else {
        assert_eq!(reply.trailer("consecution-pipestatus"), Some("0"));
    }
    // A run that is over waits for nobody.
    let over = chain_with("Name: over", [shell("head -c 2000000 /dev/zero")]);
    let served = serve(&[&over]);
    let mut client = begin(&served, "/");
    client.send_chunk(b"x");
    let reply = client.reply().expect(200);
    assert_eq!(reply.header("content-length"), Some("2000000"));
    assert_eq!(reply.header("consecution-pipestatus"), Some("0"));
    expect_empty(&served);
}

#[test]
fn a_failure_after_much_output_has_its_status() {
    let failing = chain([shell(
        "head -c 2000000 /dev/zero; head -c 1 >/dev/null; exit 3",
    )]);
    let served = serve(&[&failing]);
    let mut client = begin(&served, "/");
    client.send_chunk(b"x");
    let problem = client.reply().problem(502);
    assert_eq!(problem["exit_code"], 3);
    // Also at the deadline.
    let late = chain_with("Deadline: 300ms", [shell("echo early; sleep 1000")]);
    let served = serve(&[&late]);
    let mut client = begin(&served, "/");
    client.send_chunk(b"x");
    client.reply().problem(504);
    expect_empty(&served);
}

#[test]
fn a_full_spool_lets_the_reply_begin_and_is_counted() {
    for options in [
        &["--spool-max", "1M"][..],
        &["--spool-max", "1048576", "--spool", "/proc/none"],
    ] {
        let served = serve_with(&[&chain([link(&["cat"])])], options);
        let body = pattern(4 << 20);
        let mut client = begin(&served, "/");
        let mut sender = client.sender();
        let sent = body.clone();
        let sending = std::thread::spawn(move || {
            for chunk in sent.chunks(1 << 16) {
                sender.send_chunk(chunk);
            }
            sender
        });
        // It comes although more is yet to be sent.
        let head = client.head();
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        assert!(!head.contains("Preference-Applied"), "{head}");
        let mut received = Vec::new();
        while received.len() < body.len() {
            received.extend(client.chunk().unwrap());
        }
        assert!(received == body);
        sending.join().unwrap().end_chunks();
        assert_eq!(client.chunk().unwrap(), b"");
        assert!(client.head().contains("Consecution-Pipestatus: 0"));
        assert_eq!(metric(&served, "consecution_http_spool_full_total"), 1);
        served.until_said("the spool is full");
        assert_eq!(
            served
                .said()
                .contains("failed to write to the spool's folder '/proc/none'"),
            options.len() > 2
        );
        expect_empty(&served);
    }
}

#[test]
fn without_a_spool_every_reply_begins_with_its_first_byte() {
    let served = serve_with(&[&chain([link(&["cat"])])], &["--spool-max", "0"]);
    let mut client = begin(&served, "/");
    client.send_chunk(b"one");
    assert!(client.head().starts_with("HTTP/1.1 200 "));
    assert_eq!(client.chunk().unwrap(), b"one");
    assert_eq!(metric(&served, "consecution_http_spool_full_total"), 0);
}

#[test]
fn a_client_that_goes_away_takes_what_waits_with_it() {
    let endless = chain_with("Deadline: none", [shell("head -c 50000000 /dev/zero; cat")]);
    let served = serve(&[&endless]);
    let mut client = begin(&served, "/");
    client.send_chunk(b"x");
    eventually("a file", || (spool_files(&served) > 0).then_some(()));
    drop(client);
    expect_empty(&served);
}

#[test]
fn duplex_may_be_one_of_many_preferences() {
    let served = serve(&[&chain([link(&["cat"])])]);
    let mut client = served.connect();
    client.send("POST / HTTP/1.1\r\nHost: x\r\nPrefer: wait=5; a=\"b, c\"\r\nprefer: foo, DUPLEX\r\nTransfer-Encoding: chunked\r\n\r\n");
    client.send_chunk(b"one");
    let head = client.head();
    assert!(head.contains("Preference-Applied: duplex"), "{head}");
    // Also where it makes no difference.
    let mut client = served.connect();
    client.send_request("POST", "/", &["Prefer: duplex"], b"small");
    let reply = client.reply().expect(200);
    assert_eq!(reply.header("preference-applied"), Some("duplex"));
    let mut client = served.connect();
    client.send_request("POST", "/", &["Prefer: wait=5"], b"small");
    assert_eq!(
        client.reply().expect(200).header("preference-applied"),
        None
    );
}
