//! Connections over HTTP: slow, broken, many, and what becomes of them when the
//! server is told to end.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod support;

use std::net::TcpStream;
use std::sync::RwLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::process::Signal;
use support::chain::{chain, chain_with, link, shell};
use support::command::{PATIENCE, eventually};
use support::http::{listen, serve, serve_with, serving};
use support::leftovers;

#[test]
fn a_connection_is_used_again() {
    let served = serve(&[&chain([link(&["cat"])])]);
    let mut client = served.connect();
    for number in 0..20 {
        let body = format!("call {number}");
        client.send_request("POST", "/", &[], body.as_bytes());
        assert_eq!(client.reply().expect(200).text(), body);
    }
    // Also behind a failure, and with the next request sent ahead.
    client.send_request("POST", "/none", &[], b"x");
    client.send_request("POST", "/", &[], b"y");
    client.reply().problem(404);
    assert_eq!(client.reply().expect(200).text(), "y");
    // Not where the client wants otherwise.
    client.send_request("POST", "/", &["Connection: close"], b"z");
    assert_eq!(client.reply().expect(200).text(), "z");
    assert_eq!(client.rest(), b"");
}

#[test]
fn a_head_that_is_too_large_is_refused() {
    let served = serve(&[&chain([link(&["cat"])])]);
    let many: String = (0..200).map(|at| format!("X-{at}: y\r\n")).collect();
    for fields in [format!("X: {}\r\n", "y".repeat(200_000)), many] {
        let mut client = served.connect();
        // It may be refused before it is all there.
        let _ = client.try_send(format!("POST / HTTP/1.1\r\nHost: x\r\n{fields}\r\n"));
        assert!(client.line().starts_with("HTTP/1.1 431 "));
    }
    let mut client = served.connect();
    let _ = client.try_send(format!("POST /{} HTTP/1.1\r\n\r\n", "y".repeat(200_000)));
    let line = client.line();
    assert!(line.starts_with("HTTP/1.1 4"), "{line}");
    served.post("/", b"x").expect(200);
}

#[test]
fn a_head_that_does_not_come_ends_its_connection() {
    let chain = chain([link(&["cat"])]);
    let served = serve_with(&[&chain], &["--header-timeout", "200ms"]);
    for beginning in ["", "POST", "POST / HTTP/1.1\r\nHost: x\r\n"] {
        let mut client = served.connect();
        client.send(beginning);
        let rest = client.rest();
        assert!(
            rest.is_empty() || rest.starts_with(b"HTTP/1.1 4"),
            "{}",
            rest.escape_ascii()
        );
    }
    served.post("/", b"x").expect(200);
}

#[test]
fn what_is_no_http_is_refused() {
    let served = serve(&[&chain([link(&["cat"])])]);
    let garbage: [&[u8]; 6] = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS hello \r\n\r\n",
        b"\0\0\0\0\0\0\0\0\r\n\r\n",
        b"hello\r\n\r\n",
        b"POST / HTTP/9.9\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: nine\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
    ];
    for bytes in garbage {
        let mut client = served.connect();
        client.send(bytes);
        client.shut_down();
        let rest = client.rest();
        assert!(
            rest.is_empty() || rest.starts_with(b"HTTP/1.1 4"),
            "{}: {}",
            bytes.escape_ascii(),
            rest.escape_ascii()
        );
    }
    served.post("/", b"x").expect(200);
}

#[test]
fn connections_beyond_the_bound_wait() {
    let chain = chain([link(&["cat"])]);
    let served = serve_with(&[&chain], &["--connections-max", "1"]);
    let mut first = served.connect();
    first.send_request("POST", "/", &[], b"1");
    first.reply().expect(200);
    let mut second = served.connect();
    second.send_request("POST", "/", &[], b"2");
    drop(first);
    assert_eq!(second.reply().expect(200).text(), "2");
}

#[test]
fn a_drain_finishes_what_is_in_flight_and_takes_no_more() {
    let served = serve(&[&chain([link(&["cat"])])]);
    let mut idle = served.connect();
    idle.send_request("POST", "/", &[], b"x");
    idle.reply().expect(200);
    let mut busy = served.connect();
    busy.send("POST / HTTP/1.1\r\nHost: x\r\nPrefer: duplex\r\nTransfer-Encoding: chunked\r\n\r\n");
    busy.send_chunk(b"one");
    busy.head();
    assert_eq!(busy.chunk().unwrap(), b"one");

    served.signal(Signal::TERM);
    served.await_line("finishing what is in flight");
    eventually("that it takes no more", || {
        TcpStream::connect(served.address).err()
    });
    // A request that was on its way is answered, and told not to send another.
    idle.send_request("POST", "/", &[], b"late");
    let reply = idle.reply().expect(200);
    assert_eq!(
        (reply.text(), reply.header("connection")),
        ("late", Some("close"))
    );
    assert_eq!(idle.rest(), b"");

    busy.send_chunk(b"two");
    assert_eq!(busy.chunk().unwrap(), b"two");
    busy.send("0\r\n\r\n");
    assert_eq!(busy.chunk().unwrap(), b"");
    served.await_line("everything in flight is finished");
    served.end().expect_success();
}

#[test]
fn a_drain_under_load_loses_no_request() {
    let served = serve(&[&chain([link(&["cat"]), link(&["cat"])])]);
    let answered = AtomicUsize::new(0);
    // Held by who connects. Where a server closes its door the kernel refuses those
    // whom it has let in by then without the server's knowing of them.
    let door = RwLock::new(());
    let connect = || {
        let _held = door.read().unwrap();
        served.try_connect()
    };
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                // Each request on a connection of its own, until none is taken.
                while let Some(mut client) = connect() {
                    client.send_request("POST", "/", &[], b"payload");
                    assert_eq!(client.reply().expect(200).text(), "payload");
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        eventually("some load", || {
            (answered.load(Ordering::Relaxed) > 100).then_some(())
        });
        let _held = door.write().unwrap();
        served.signal(Signal::TERM);
        eventually("that it takes no more", || {
            TcpStream::connect(served.address).err()
        });
    });
    served.end().expect_success();
}

#[test]
fn who_is_not_done_in_the_grace_period_is_cut_off() {
    let endless = chain_with("Deadline: none", [shell("cat; sleep 100003")]);
    let served = serve_with(&[&endless], &["--grace", "100ms"]);
    let mut client = served.connect();
    client.send_request("POST", "/", &[], b"x");
    client.head();
    assert_eq!(client.chunk().unwrap(), b"x");
    let processes = leftovers::descendants(served.process());
    served.signal(Signal::INT);
    served.await_line("cut off");
    assert_eq!(client.chunk(), None);
    served.end().expect_success();
    leftovers::expect_gone(&processes);
}

#[test]
fn a_second_signal_leaves_at_once() {
    let endless = chain_with("Deadline: none", [shell("cat; sleep 100004")]);
    let served = serve(&[&endless]);
    let mut client = served.connect();
    client.send_request("POST", "/", &[], b"x");
    client.head();
    let processes = leftovers::descendants(served.process());
    served.signal(Signal::TERM);
    served.await_line("finishing what is in flight");
    served.signal(Signal::TERM);
    served.await_line("leaving at once");
    let ended = served.end().expect_success();
    assert!(ended.elapsed < PATIENCE);
    leftovers::expect_gone(&processes);
}

#[test]
fn an_address_that_is_taken_is_said() {
    let chain = chain([link(&["cat"])]);
    let served = serve(&[&chain]);
    let mut other = support::command::consecution(support::home::shared());
    other.arg("serve").arg(chain.path());
    other.env("CONSECUTION_LISTEN", served.address.to_string());
    let address = served.address.to_string();
    support::command::finish(other, b"", PATIENCE)
        .expect_code(125)
        .expect_stderr(&["failed to listen on", &address]);
}

#[test]
fn log_lines_may_be_json_and_name_the_call() {
    let failing = chain_with("Name: bad", [shell("cat >/dev/null; exit 3")]);
    let served = listen(serving(&[&failing], &["--log-format", "json"]));
    served.await_line("\"ready\"");
    let mut client = served.connect();
    client.send_request("POST", "/", &["Consecution-Call-Id: seven"], b"x");
    client.reply().problem(502);
    let line = served.await_line("seven");
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(line["level"], "INFO");
    assert!(line["timestamp"].is_string(), "{line}");
    let fields = &line["fields"];
    assert_eq!(fields["call_id"], "seven");
    assert_eq!(
        (&fields["chain"], &fields["link"]),
        (&"bad".into(), &"sh".into())
    );
    assert_eq!(fields["status"], 502);
}
