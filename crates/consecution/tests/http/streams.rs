//! Bodies over HTTP: as long as they are, and whichever end breaks off first.

use std::time::Duration;

use crate::support::chain::{chain, chain_with, link, shell};
use crate::support::command::finish;
use crate::support::http::{Client, Served, serve};
use test_support::processes::HostProcess;
use test_support::{PATIENCE, eventually, processes};

const CHUNKED: &str = "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n";

/// A body that is larger than everything between here and the link can hold.
const LARGE_BYTES: usize = 32 * 1024 * 1024;

/// What `serve` takes of memory for streams of any length, and the program itself.
const MEMORY_BYTES_MAX: u64 = 48 << 20;

/// The processes that have this in their command.
fn at_work(served: &Served, part: &str, count: usize) -> Vec<HostProcess> {
    eventually(part, || {
        let all = processes::descendants(served.process()).into_iter();
        let found: Vec<_> = all
            .filter(|process| process.command.contains(part))
            .collect();
        (found.len() >= count).then_some(found)
    })
}

/// Sends a head and the beginning of a body, and waits for the reply's head, which
/// comes while the rest is yet to be sent.
fn begin(served: &Served, head: &str, chunk: &[u8]) -> (Client, String) {
    let mut client = served.connect();
    client.send(format!("{CHUNKED}Prefer: duplex\r\n{head}\r\n"));
    client.send_chunk(chunk);
    let reply = client.head();
    (client, reply)
}

#[test]
fn the_first_byte_comes_back_while_the_upload_still_runs() {
    let served = serve(&[&chain([link(&["cat"]), link(&["cat"])])]);
    let (mut client, head) = begin(&served, "TE: trailers\r\n", b"one");
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert!(
        head.contains("Trailer: Consecution-Pipestatus, Server-Timing"),
        "{head}"
    );
    assert!(head.contains("Preference-Applied: duplex"), "{head}");
    assert!(!head.contains("Content-Length"), "{head}");
    assert_eq!(client.chunk().unwrap(), b"one");
    for word in ["two", "three"] {
        client.send_chunk(word.as_bytes());
        assert_eq!(client.chunk().unwrap(), word.as_bytes());
    }
    client.send("0\r\n\r\n");
    assert_eq!(client.chunk().unwrap(), b"");
    let trailers = client.head();
    assert!(
        trailers.contains("Consecution-Pipestatus: 0,0\r\n"),
        "{trailers}"
    );
    assert!(trailers.contains("Server-Timing: cat;dur="), "{trailers}");
}

#[test]
fn a_call_that_fails_after_its_first_byte_is_logged_with_what_its_link_said() {
    let served = serve(&[&chain([link(&["cat"]), shell("cat; echo why >&2; exit 3")])]);
    let (mut client, head) = begin(&served, "Consecution-Call-Id: seven\r\n", b"one");
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert_eq!(client.chunk().unwrap(), b"one");
    client.send("0\r\n\r\n");
    assert_eq!(client.chunk(), None);
    let line = served.until_said("a call was aborted");
    let (time, _) = line.split_once("  WARN ").unwrap();
    assert!(time.starts_with("20") && time.ends_with('Z'), "{line}");
    for shown in [
        "call_id=seven",
        "link=\"sh\"",
        "link_id=",
        "exit_code=3",
        "elapsed_ms=",
        "stderr=\"why\"",
    ] {
        assert!(line.contains(shown), "{shown} in {line}");
    }
}

#[test]
fn trailers_are_for_those_who_ask_for_them() {
    let served = serve(&[&chain([link(&["cat"])])]);
    let (mut client, _) = begin(&served, "", b"one");
    assert_eq!(client.chunk().unwrap(), b"one");
    client.send("0\r\n\r\n");
    assert_eq!(client.chunk().unwrap(), b"");
    assert_eq!(client.head(), "");
}

#[test]
fn large_bodies_pass_through_in_constant_memory() {
    const BODY_BYTES: usize = 192 << 20;
    let served = serve(&[&chain([link(&["cat"]), link(&["cat"])])]);
    // Of a length that no buffer has, so that no two are alike.
    let pattern: Vec<u8> = (0..65_521).map(|at| (at / 7) as u8).collect();
    let body = pattern.repeat(BODY_BYTES / pattern.len());
    let duplex = ["-H", "Prefer: duplex"];
    for upload in [
        &["--data-binary", "@-"][..],
        // In chunks, of unknown length.
        &["-X", "POST", "-T", "-"],
    ] {
        let curl = served.curl("/", &[upload, &duplex].concat());
        let ran = finish(curl, &body, PATIENCE).expect_success();
        assert!(ran.stdout == body, "{} other bytes", ran.stdout.len());
        let peak = processes::peak_memory(served.process());
        assert!(peak < MEMORY_BYTES_MAX, "{peak} bytes");
    }
}

#[test]
fn a_reply_may_be_over_before_its_upload() {
    let served = serve(&[&chain([link(&["head", "-c", "3"])])]);
    let body = vec![b'x'; LARGE_BYTES];
    finish(served.curl("/", &["--data-binary", "@-"]), &body, PATIENCE)
        .expect_success()
        .expect_output("xxx");
    let unknown = served.curl("/chains/none", &["--data-binary", "@-", "-H", "Expect:"]);
    let reply = finish(unknown, &body, PATIENCE).expect_success();
    assert!(reply.text().contains("\"status\":404"), "{}", reply.text());
}

#[test]
fn a_link_that_fails_in_mid_stream_aborts_the_body() {
    // What it leaves of its input fits into a pipe: all of the request is taken, and
    // so the reply begins.
    let failing = chain([
        link(&["cat"]),
        shell("head -c 100000; /bin/sleep 1; exit 3"),
    ]);
    let served = serve(&[&failing]);
    let mut client = served.connect();
    client.send_request("POST", "/", &["TE: trailers"], &vec![b'x'; 120_000]);
    let reply = client.reply();
    assert_eq!(reply.status, 200);
    assert_eq!(reply.body.len(), 100_000);
    assert!(!reply.is_complete);
    assert_eq!(reply.trailers, "");
    served.await_line("aborted: link 2 'sh'");

    let curl = served.curl("/", &["--data-binary", "@-"]);
    finish(curl, &vec![b'x'; 120_000], PATIENCE).expect_code(18);
}

#[test]
fn an_old_client_does_not_take_an_abort_for_an_end() {
    let failing = chain([shell("head -c 100000; /bin/sleep 1; exit 3")]);
    let served = serve(&[&failing]);
    let curl = served.curl("/", &["--http1.0", "--data-binary", "@-"]);
    let ran = finish(curl, &vec![b'x'; 120_000], PATIENCE);
    assert_eq!(ran.code(), 56, "{}", ran.stderr);
    let fine = serve(&[&chain([link(&["cat"])])]);
    let curl = fine.curl("/", &["--http1.0", "--data-binary", "@-"]);
    let body = vec![b'x'; 120_000];
    finish(curl, &body, PATIENCE)
        .expect_success()
        .expect_output(&body);
}

#[test]
fn a_client_that_goes_away_stops_its_processes() {
    let endless = chain_with(
        "Deadline: none",
        [shell("echo up; cat; sleep 100001"), link(&["cat"])],
    );
    let served = serve(&[&endless]);
    // While it uploads.
    let (client, _) = begin(&served, "", b"x");
    let processes = at_work(&served, "sleep 100001", 1);
    drop(client);
    processes::expect_gone(&processes);
    // While it waits for the rest.
    let mut client = served.connect();
    client.send_request("POST", "/", &[], b"x");
    client.head();
    assert!(client.chunk().unwrap().starts_with(b"up\n"));
    let processes = at_work(&served, "sleep 100001", 1);
    drop(client);
    processes::expect_gone(&processes);
}

#[test]
fn a_client_that_goes_away_before_the_first_byte_stops_its_processes() {
    let served = serve(&[&chain_with("Deadline: none", [shell("cat; sleep 100002")])]);
    let mut client = served.connect();
    client.send_request("POST", "/", &[], b"");
    eventually("the call", || {
        let metrics = served.request("GET", "/metrics", b"");
        metrics
            .text()
            .contains(",state=\"in_use\"} 1")
            .then_some(())
    });
    drop(client);
    eventually("the call's end", || {
        let metrics = served.request("GET", "/metrics", b"");
        let text = metrics.text();
        let is_counted = text.contains("kind=\"client_gone\"} 1");
        (is_counted && text.contains(",state=\"in_use\"} 0")).then_some(())
    });
}

#[test]
fn a_body_that_ends_early_is_never_an_end() {
    // It would say so if it had seen an end-of-file.
    let told = chain([shell("cat >/dev/null && echo complete >&2; echo over")]);
    let served = serve(&[&told]);
    let length = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nonly";
    let chunks = format!("{CHUNKED}\r\n4\r\nonly\r\n");
    let half = format!("{CHUNKED}\r\nff\r\nonly");
    for request in [length, &chunks, &half] {
        let mut client = served.connect();
        client.send(request);
        client.shut_down();
        let rest = String::from_utf8(client.rest()).unwrap();
        assert!(!rest.contains("over"), "{rest}");
        assert!(
            rest.is_empty() || rest.starts_with("HTTP/1.1 400 "),
            "{rest}"
        );
    }
    // What is no chunk breaks it off, too, and can be told.
    let mut client = served.connect();
    client.send(format!("{CHUNKED}\r\n4\r\nonly\r\nnonsense\r\n"));
    let problem = client.reply().problem(400);
    assert_eq!(problem["pipestatus"], "cut");
}

#[test]
fn who_asks_to_be_told_to_continue_is() {
    let served = serve(&[&chain([link(&["cat"])])]);
    let mut client = served.connect();
    client.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n");
    assert!(client.line().starts_with("HTTP/1.1 100 "));
    client.line();
    client.send("abc");
    assert_eq!(client.reply().expect(200).text(), "abc");
    // Not where it would send for nothing.
    client.send("POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n");
    assert!(client.line().starts_with("HTTP/1.1 404 "));
}

#[test]
fn a_reply_that_nobody_reads_holds_the_upload_back() {
    let served = serve(&[&chain_with("Deadline: none", [link(&["cat"])])]);
    let (mut client, _) = begin(&served, "", b"x");
    client.give_up_sending_after(Duration::from_millis(500));
    let block = vec![b'x'; 1024 * 1024];
    let mut sent = 0;
    while client.try_send(format!("{:x}\r\n", block.len())).is_ok()
        && client.try_send(&block).is_ok()
        && client.try_send("\r\n").is_ok()
    {
        sent += block.len();
        assert!(sent < LARGE_BYTES, "nothing holds it back");
    }
    let peak = processes::peak_memory(served.process());
    assert!(peak < MEMORY_BYTES_MAX, "{peak} bytes");
}

#[test]
fn a_body_in_tiny_pieces_holds_about_as_much_as_it_is_long() {
    const CLIENTS: usize = 8;
    const PIECES: usize = 1000;
    const GROWTH_BYTES_MAX: u64 = 24 << 20;
    let served = serve(&[&chain_with("Deadline: none", [link(&["cat"])])]);
    served.post("/", b"x").expect(200);
    let before = processes::memory(served.process());
    // Each byte comes by itself: the next one is sent when it has come back. All of
    // them are kept for another try, both ways.
    let echo = || {
        let mut client = served.begin("/");
        for at in 0..PIECES {
            client.send_chunk(b"x");
            if at == 0 {
                client.head();
            }
            assert_eq!(client.chunk().unwrap(), b"x");
        }
        client
    };
    let clients: Vec<Client> = std::thread::scope(|scope| {
        let echoing: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(echo)).collect();
        let ended = echoing.into_iter().map(|echoing| echoing.join().unwrap());
        ended.collect()
    });
    let growth = processes::memory(served.process()).saturating_sub(before);
    assert!(growth < GROWTH_BYTES_MAX, "{growth} bytes");
    drop(clients);
}
