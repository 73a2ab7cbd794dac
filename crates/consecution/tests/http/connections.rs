//! Connections over HTTP: slow, broken, many, and what becomes of them when the
//! server is told to end.

use std::net::TcpStream;
use std::sync::RwLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::chain::{chain, chain_with, link, shell};
use crate::support::http::{Client, listen, serve, serve_with, serving};
use rustix::process::Signal;
use test_support::{PATIENCE, eventually, processes};

/// What there is to see, where there is a chain called `one`.
const LOOKS: [&str; 5] = [
    "/healthz",
    "/readyz",
    "/metrics",
    "/chains",
    "/chains/one/readyz",
];

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
fn on_connections_beyond_the_bound_one_may_look_and_not_call() {
    let chain = chain_with("Name: one", [link(&["cat"])]);
    let served = serve_with(&[&chain], &["--connections-max", "1"]);
    let mut first = eventually("the only place", || {
        let mut first = served.connect();
        first.send_request("POST", "/", &[], b"1");
        let reply = first.reply();
        (reply.status == 200).then_some(first)
    });
    for path in LOOKS {
        let mut client = served.connect();
        client.send_request("GET", path, &[], b"");
        let reply = client.reply().expect(200);
        assert_eq!(reply.header("connection"), Some("close"), "{path}");
        assert_eq!(client.rest(), b"");
    }
    for path in ["/", "/chains/one", "/nothing"] {
        let mut client = served.connect();
        client.send_request("POST", path, &[], b"2");
        let reply = client.reply();
        assert_eq!(reply.header("connection"), Some("close"), "{path}");
        assert_eq!(reply.header("retry-after"), Some("1"), "{path}");
        assert_eq!(reply.problem(503)["title"], "too many connections");
        assert_eq!(client.rest(), b"");
    }
    let metrics = served.request("GET", "/metrics", b"").expect(200);
    let turned_away = "consecution_http_turned_away_total ";
    assert!(metrics.text().contains(turned_away), "{}", metrics.text());

    // Who is there has its place, and leaves it to others.
    first.send_request("POST", "/", &[], b"3");
    assert_eq!(first.reply().expect(200).text(), "3");
    drop(first);
    eventually("the place to be free", || {
        (served.post("/", b"4").status == 200).then_some(())
    });
}

#[test]
fn however_many_say_nothing_who_looks_is_answered() {
    const SILENT: usize = 200;
    let chain = chain_with("Name: one", [link(&["cat"])]);
    let options = ["--connections-max", "8", "--header-timeout", "10m"];
    let served = serve_with(&[&chain], &options);
    let silent = || {
        let mut client = served.connect();
        client.send("POST / HTTP/1.1\r\nHost: ");
        client
    };
    let silent: Vec<_> = (0..SILENT).map(|_| silent()).collect();
    for path in LOOKS {
        served.request("GET", path, b"").expect(200);
    }
    served.post("/", b"x").problem(503);
    drop(silent);
    eventually("a place to be free", || {
        (served.post("/", b"x").status == 200).then_some(())
    });
}

#[test]
fn who_looks_after_it_may_have_an_address_of_their_own() {
    let chain = chain_with("Name: one", [shell("cat; sleep 100008")]);
    let options = ["--connections-max", "1", "--admin-listen", "localhost:0"];
    let served = serve_with(&[&chain], &options);
    let line = served.until_said("looked after at http://");
    let (_, address) = line.split_once("http://").unwrap();
    let address = address.parse().unwrap();
    let look = |method: &str, path: &str| {
        let mut client = Client::to(address).unwrap();
        client.send_request(method, path, &[], b"");
        client.reply()
    };
    for path in LOOKS {
        let here = eventually("the place of the one before", || {
            let reply = served.request("GET", path, b"");
            (reply.status == 200).then_some(reply)
        });
        let there = look("GET", path).expect(200);
        if path != "/metrics" {
            assert_eq!(there.text(), here.text(), "{path}");
        }
        look("POST", path).problem(405);
    }
    look("GET", "/chains/two/readyz").problem(404);
    for (method, path) in [
        ("POST", "/"),
        ("POST", "/chains/one"),
        ("GET", "/"),
        ("GET", "/x"),
    ] {
        let problem = look(method, path).problem(404);
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains("chains are called at another"), "{detail}");
    }

    // To the end, so that it can be seen how it leaves.
    let mut client = served.connect();
    client.send_request("POST", "/", &[], b"x");
    client.head();
    served.signal(Signal::TERM);
    served.await_line("finishing what is in flight");
    let unready = eventually("that it says so", || {
        let reply = look("GET", "/readyz");
        (reply.status == 503).then_some(reply)
    });
    let unready: serde_json::Value = serde_json::from_slice(&unready.body).unwrap();
    assert_eq!(unready["reason"], "it finishes what is in flight, and ends");
    look("GET", "/chains/one/readyz").expect(503);
    look("GET", "/healthz").expect(200);
    eventually("that it takes no more", || {
        TcpStream::connect(served.address).err()
    });
    drop(client);
    served.end().expect_success();
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
    let processes = processes::descendants(served.process());
    served.signal(Signal::INT);
    served.await_line("cut off");
    assert_eq!(client.chunk(), None);
    served.end().expect_success();
    processes::expect_gone(&processes);
}

#[test]
fn a_second_signal_leaves_at_once() {
    let endless = chain_with("Deadline: none", [shell("cat; sleep 100004")]);
    let served = serve(&[&endless]);
    let mut client = served.connect();
    client.send_request("POST", "/", &[], b"x");
    client.head();
    let processes = processes::descendants(served.process());
    served.signal(Signal::TERM);
    served.await_line("finishing what is in flight");
    served.signal(Signal::TERM);
    served.await_line("leaving at once");
    let ended = served.end().expect_success();
    assert!(ended.elapsed < PATIENCE);
    processes::expect_gone(&processes);
}

#[test]
fn an_address_that_is_taken_is_said() {
    let chain = chain([link(&["cat"])]);
    let served = serve(&[&chain]);
    let mut other = crate::support::command::consecution(crate::support::home::shared());
    other.arg("serve").arg(chain.path());
    other.env("CONSECUTION_LISTEN", served.address.to_string());
    let address = served.address.to_string();
    crate::support::command::finish(other, b"", PATIENCE)
        .expect_code(125)
        .expect_stderr(&["failed to listen on", &address]);
}

#[test]
fn where_to_listen_may_be_a_name_or_every_address() {
    let chain = chain([link(&["cat"])]);
    for address in ["localhost:0", ":0"] {
        let mut command = crate::support::command::consecution(crate::support::home::shared());
        command.args(["serve", "--listen", address]);
        command.arg(chain.path());
        let served = listen(command);
        let port = served.address.port();
        let mut client = Client::to(([127, 0, 0, 1], port).into()).unwrap();
        client.send_request("GET", "/healthz", &[], b"");
        client.reply().expect(200);
    }
    for (address, told) in [
        ("8080", "write `127.0.0.1:8080`"),
        ("localhost", "it has no port"),
        ("::1:80", "in brackets"),
    ] {
        let mut command = crate::support::command::consecution(crate::support::home::shared());
        command.args(["serve", "--listen", address]);
        command.arg(chain.path());
        crate::support::command::finish(command, b"", PATIENCE)
            .expect_code(2)
            .expect_stderr(&["--listen", told]);
    }
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
    assert_eq!(line["level"], "WARN");
    assert!(line["timestamp"].is_string(), "{line}");
    let fields = &line["fields"];
    assert_eq!(fields["call_id"], "seven");
    assert_eq!(
        (&fields["chain"], &fields["link"]),
        (&"bad".into(), &"sh".into())
    );
    assert_eq!(fields["status"], 502);
}

#[test]
fn who_only_listens_any_more_is_answered_where_nothing_is_run() {
    let served = serve(&[&chain([link(&["cat"])])]);
    for _ in 0..200 {
        for (path, status) in [
            ("/healthz", 200),
            ("/readyz", 200),
            ("/metrics", 200),
            ("/chains", 200),
            ("/nothing", 404),
            ("/", 405),
        ] {
            let mut client = served.connect();
            client.send(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n"));
            client.shut_down();
            assert_eq!(client.reply().status, status, "{path}");
            assert_eq!(client.rest(), b"");
        }
    }
    // Also where several are sent ahead, and where a body is refused.
    for _ in 0..20 {
        let mut client = served.connect();
        client.send("GET /healthz HTTP/1.1\r\nHost: test\r\n\r\n".repeat(3));
        client.send_request("POST", "/none", &[], &[b'x'; 100_000]);
        client.shut_down();
        for _ in 0..3 {
            assert_eq!(client.reply().expect(200).text(), "ok\n");
        }
        client.reply().problem(404);
        assert_eq!(client.rest(), b"");
    }
}

#[test]
fn who_only_listens_any_more_is_answered_where_the_run_is_over() {
    let chain = chain_with("Name: one", [link(&["cat"])]);
    let served = serve_with(&[&chain], &["--max-request-bytes", "10"]);
    for number in 1..=20 {
        let mut client = served.connect();
        client.send_request("POST", "/", &[], b"x");
        let over = format!("consecution_call_duration_seconds_count{{chain=\"one\"}} {number}");
        eventually("the run to be over", || {
            let metrics = served.request("GET", "/metrics", b"");
            metrics.text().contains(&over).then_some(())
        });
        client.shut_down();
        assert_eq!(client.reply().expect(200).text(), "x");
        assert_eq!(client.rest(), b"");
    }
    for _ in 0..20 {
        let mut refused = served.connect();
        refused.send_request("POST", "/", &[], &[b'x'; 11]);
        refused.shut_down();
        refused.reply().problem(413);
    }
}

#[test]
fn who_only_listens_any_more_has_given_a_run_up() {
    let sleeping = chain_with("Deadline: none", [shell("cat; sleep 100007")]);
    let served = serve(&[&sleeping]);
    let asleep = || {
        let all = processes::descendants(served.process());
        let mut all = all.into_iter();
        all.find(|process| process.command.trim_end() == "sleep 100007")
    };
    // Before the reply has begun, and while it is being read.
    for body in [&b""[..], b"x"] {
        let mut client = served.connect();
        client.send_request("POST", "/", &[], body);
        let process = eventually("a process that sleeps", asleep);
        if !body.is_empty() {
            client.head();
        }
        client.shut_down();
        processes::expect_gone(&[process]);
        client.rest();
    }
}

#[test]
fn clients_that_vanish_are_noticed() {
    let served = serve(&[&chain([link(&["cat"])])]);
    let mut client = served.connect();
    client.send_request("GET", "/healthz", &[], b"");
    client.reply().expect(200);
    // proc(5): addresses, state (1 is established), queues, and which timer runs:
    // 2 is that of keepalive.
    let port = format!(":{:04X} ", served.address.port());
    eventually("a timer of keepalive", || {
        let sockets = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let mut sockets = sockets.lines().map(str::trim);
        sockets.find_map(|socket| {
            let mut fields = socket.split_ascii_whitespace().skip(1);
            let is_ours = format!("{} ", fields.next()?).ends_with(&port);
            let (state, timer) = (fields.nth(1)?, fields.nth(1)?);
            (is_ours && state == "01" && timer.starts_with("02:")).then_some(())
        })
    });
}
