//! Chains over HTTP: what a request gets for a reply.

use crate::support::chain::{ChainFile, Link, chain, chain_with, file, link, shell};
use crate::support::command::finish;
use crate::support::home;
use crate::support::http::{Client, Reply, listen, serve, serve_with, serving};
use test_support::{PATIENCE, eventually};

/// A chain of that name.
fn named(name: &str, links: impl IntoIterator<Item = Link>) -> ChainFile {
    chain_with(&format!("Name: {name}"), links)
}

fn json(reply: Reply) -> serde_json::Value {
    serde_json::from_slice(&reply.body).unwrap()
}

#[test]
fn the_seed_chain_answers_the_seed_request() {
    let text = std::fs::read(home::workspace().join("examples/words/chain.yaml")).unwrap();
    let words = file(text);
    let served = serve(&[&words]);
    let data = [
        "-X",
        "POST",
        "-H",
        "Content-Type: text/plain",
        "--data",
        "this is raw data",
    ];
    let post = served.curl("", &data);
    finish(post, b"", PATIENCE)
        .expect_success()
        .expect_output("this\nis\nraw\ndata\n");

    // Where the machine is busy, a run may not end within what a reply waits.
    let reply = eventually("a reply that is complete when it begins", || {
        let reply = served.post("/", b"this is raw data").expect(200);
        assert_eq!(reply.text(), "this\nis\nraw\ndata\n");
        reply.header("content-length").is_some().then_some(reply)
    });
    assert_eq!(reply.header("content-length"), Some("17"));
    assert_eq!(reply.header("consecution-pipestatus"), Some("0,0,0"));
    let timing = reply.header("server-timing").unwrap();
    let names: Vec<_> = timing
        .split(", ")
        .map(|each| each.split_once(";dur=").unwrap().0)
        .collect();
    assert_eq!(names, ["cat", "grep", "xargs"]);
    assert!(reply.header("consecution-call-id").is_some());
}

#[test]
fn chains_have_names_and_are_listed() {
    let (one, two) = (
        named("one", [link(&["cat"])]),
        named("two", [link(&["tr", "a", "b"])]),
    );
    let served = serve(&[&one, &two]);
    assert_eq!(served.post("/", b"a").expect(200).text(), "a");
    assert_eq!(served.post("/chains/one", b"a").expect(200).text(), "a");
    assert_eq!(served.post("/chains/two?x=1", b"a").expect(200).text(), "b");
    assert_eq!(served.post("/chains/one", b"").expect(200).text(), "");

    let listed = served.request("GET", "/chains", b"").expect(200);
    let listed: serde_json::Value = serde_json::from_slice(&listed.body).unwrap();
    assert_eq!(listed[1]["name"], "two");
    assert_eq!(listed[0]["links"][0]["name"], "cat");
    assert_eq!(listed[0]["links"][0]["image"], "busybox");
    assert_eq!(listed[0]["links"][0]["id"].as_str().unwrap().len(), 32);

    assert_eq!(
        served.request("GET", "/healthz", b"").expect(200).text(),
        "ok\n"
    );
    let ready = served.request("GET", "/readyz", b"").expect(200);
    assert_eq!(ready.text(), "{\"ready\":true,\"missing\":[]}\n");
}

#[test]
fn two_chains_of_one_name_are_refused() {
    let (one, two) = (
        named("one", [link(&["cat"])]),
        named("one", [link(&["cat"])]),
    );
    finish(serving(&[&one, &two], &[]), b"", PATIENCE)
        .expect_code(125)
        .expect_stderr(&["two chains named 'one'"]);
}

#[test]
fn what_is_not_there_is_not_found_whatever_tricks_are_in_its_name() {
    let served = serve(&[&named("one", [link(&["cat"])])]);
    let paths = [
        "/x",
        "/chains/two",
        "/chains/..",
        "/chains/../healthz",
        "/chains/%2e%2e",
        "/chains/%00",
        "/chains/one/",
        "/chains/one%00",
        "/chains/%6fne",
        "/chains/%ff",
        "/chains//one",
        "//",
        "/chains/one/../one",
        "/chains/\u{e9}",
        "/..;/chains/one",
    ];
    for path in paths {
        let problem = served.post(path, b"x").problem(404);
        assert!(!problem["detail"].as_str().unwrap().is_empty(), "{path}");
    }
    // Bytes that no path may have.
    for path in ["/chains/one\0", "/chains/\x7f\x01"] {
        assert_eq!(served.post(path, b"x").status, 400, "{path:?}");
    }
    let mut client = served.connect();
    client.send(b"POST /chains/\xff\xfe HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
    let status = client.reply().status;
    assert!([400, 404].contains(&status), "{status}");
    served.post("/", b"x").expect(200);
}

#[test]
fn methods_are_told_apart() {
    let served = serve(&[&named("one", [link(&["cat"])])]);
    for path in ["/", "/chains/one"] {
        served.request("PUT", path, b"x").expect(200);
        for method in ["GET", "DELETE", "OPTIONS", "BREW"] {
            let reply = served.request(method, path, b"");
            assert_eq!(reply.header("allow"), Some("POST, PUT"), "{method} {path}");
            reply.problem(405);
        }
    }
    for path in ["/chains", "/healthz", "/readyz", "/metrics"] {
        let reply = served.post(path, b"");
        assert_eq!(reply.header("allow"), Some("GET, HEAD"), "{path}");
        reply.problem(405);
        let head = served.curl(path, &["--head", "--fail"]);
        finish(head, b"", PATIENCE).expect_success();
    }
}

#[test]
fn a_failed_link_is_named_with_its_exit_code_and_stderr() {
    let failing = named(
        "bad",
        [
            link(&["cat"]),
            shell("cat >/dev/null; echo why >&2; exit 3").with("Name", "mid"),
            link(&["cat"]),
        ],
    );
    let served = serve(&[&failing]);
    let reply = served.post("/", b"x");
    let status = reply.header("consecution-pipestatus").unwrap().to_owned();
    let problem = reply.problem(502);
    assert_eq!(problem["pipestatus"], status);
    assert!(status.starts_with("0,3,"), "{status}");
    assert_eq!(problem["chain"], "bad");
    assert_eq!(problem["link_index"], 1);
    assert_eq!(problem["link_name"], "mid");
    assert_eq!(problem["exit_code"], 3);
    assert_eq!(problem["stderr"], "why\n");
    assert!(problem.get("signal").is_none());
}

#[test]
fn other_failures_have_statuses_of_their_own() {
    let killed = named("killed", [shell("cat >/dev/null; kill -9 $$")]);
    let slow = chain_with(
        "Name: slow\nDeadline: 300ms",
        [shell("cat >/dev/null; sleep 1000")],
    );
    let absent = named("absent", [link(&["/nonesuch"])]);
    let fine = named("fine", [link(&["cat"])]);
    // The image is there, the command is not: loaded or not, nothing else suffers.
    let served = listen(serving(&[&fine, &killed, &slow, &absent], &[]));
    eventually("that only one chain is missing", || {
        let missing = served.request("GET", "/readyz", b"").body;
        let missing: serde_json::Value = serde_json::from_slice(&missing).unwrap();
        let missing = missing["missing"].as_array().unwrap();
        missing
            .iter()
            .all(|link| link["chain"] == "absent")
            .then_some(())
    });
    assert_eq!(
        served.post("/chains/killed", b"x").problem(502)["signal"],
        9
    );
    assert_eq!(
        served.post("/chains/slow", b"x").problem(504)["pipestatus"],
        "deadline"
    );
    let absent = served.post("/chains/absent", b"x");
    assert!([502, 503].contains(&absent.status), "{absent:?}");
    served.post("/chains/fine", b"x").expect(200);
}

#[test]
fn a_link_that_cannot_be_loaded_is_not_ready_and_hurts_no_other() {
    let fine = named("fine", [link(&["cat"])]);
    let broken = named(
        "broken",
        [link(&["cat"]), link(&["cat"]).image("127.0.0.1:1/none:1")],
    );
    let served = listen(serving(&[&fine, &broken], &[]));
    eventually("that one link is broken and the others are served", || {
        let unready = served.request("GET", "/readyz", b"");
        let text = unready.text();
        let is_one = text.matches("link_index").count() == 1 && text.contains("failed to");
        is_one.then_some(())
    });
    // All that can be run are ready.
    let ready = json(served.request("GET", "/readyz", b"").expect(200));
    assert_eq!(ready["ready"], true);
    assert_eq!(ready["missing"][0]["chain"], "broken");
    assert_eq!(ready["missing"][0]["broken"], true);
    let fine = json(
        served
            .request("GET", "/chains/fine/readyz", b"")
            .expect(200),
    );
    assert_eq!(fine, serde_json::json!({"ready": true, "missing": []}));
    served
        .request("GET", "/chains/none/readyz", b"")
        .problem(404);
    served.post("/chains/fine/readyz", b"").problem(405);
    let unready = served.request("GET", "/chains/broken/readyz", b"");
    assert_eq!(unready.header("retry-after"), Some("1"));
    let unready = json(unready.expect(503));
    assert_eq!(unready["ready"], false);
    assert_eq!(unready["reason"], "chain 'broken' cannot be run");
    assert_eq!(unready["missing"][0]["link_index"], 1);
    served.post("/", b"x").expect(200);
    let reply = served.post("/chains/broken", b"x");
    assert_eq!(reply.header("retry-after"), Some("1"));
    let problem = reply.problem(503);
    assert_eq!(problem["link_index"], 1);
    assert_eq!(problem["title"], "no runner");
    let reason = unready["missing"][0]["reason"].as_str().unwrap();
    let detail = problem["detail"].as_str().unwrap();
    let told = format!(" is served by no runner: {reason}");
    assert!(detail.ends_with(&told), "{detail}");
}

#[test]
fn where_no_chain_can_be_run_none_is_ready() {
    let broken = named("broken", [link(&["cat"]).image("127.0.0.1:1/none:1")]);
    let served = listen(serving(&[&broken], &[]));
    eventually("that the link is known to be broken", || {
        let text = served.request("GET", "/readyz", b"").text().to_owned();
        text.contains("\"broken\":true").then_some(())
    });
    let unready = json(served.request("GET", "/readyz", b"").expect(503));
    assert_eq!(unready["reason"], "no chain can be run");
}

#[test]
fn who_waits_for_room_until_the_deadline_has_not_been_run() {
    let holding = chain_with("Name: holding\nDeadline: none", [link(&["cat"])]);
    // One is longer than there are processes.
    let [short, long] = [1, 3].map(|links| {
        let links = (0..links).map(|_| link(&["cat"]));
        chain_with(&format!("Name: of-{}\nDeadline: 300ms", links.len()), links)
    });
    let served = serve_with(&[&holding, &short, &long], &["--processes-max", "2"]);
    let mut long_one = served.connect();
    long_one.send("POST /chains/of-3 HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n");
    let reply = long_one.reply();
    assert_eq!(reply.header("retry-after"), Some("1"));
    let problem = reply.problem(503);
    assert_eq!(problem["title"], "all runners are busy");
    assert_eq!(problem["link_index"], 2);

    let mut held = [(); 2].map(|()| served.begin("/chains/holding"));
    eventually("both processes to be in use", || {
        let metrics = served.request("GET", "/metrics", b"");
        let mut lines = metrics.text().lines();
        let is_full = |line: &str| line.contains("\"in_use\"") && line.ends_with(" 2");
        lines.any(is_full).then_some(())
    });
    let problem = served.post("/chains/of-1", b"x").problem(503);
    assert_eq!(problem["title"], "all runners are busy");
    assert_eq!(problem["pipestatus"], "-");
    let metrics = served.request("GET", "/metrics", b"").expect(200);
    for chain in ["of-1", "of-3"] {
        for (kind, count) in [("busy", 1), ("deadline", 0)] {
            let labels = format!("{{chain=\"{chain}\",kind=\"{kind}\"}} {count}\n");
            let line = format!("consecution_call_failures_total{labels}");
            assert!(metrics.text().contains(&line), "{line}{}", metrics.text());
        }
    }
    held.iter_mut().for_each(Client::end_chunks);
}

#[test]
fn all_busy_until_the_deadline_is_said_so() {
    // The same link, so the same pool.
    let endless = chain_with("Name: endless\nDeadline: none", [link(&["sleep", "1000"])]);
    let hasty = chain_with("Name: hasty\nDeadline: 300ms", [link(&["sleep", "1000"])]);
    let served = serve_with(&[&endless, &hasty], &["--processes-max", "1"]);
    let mut clients: Vec<_> = (0..65).map(|_| served.connect()).collect();
    for client in &mut clients {
        client.send_request("POST", "/", &[], b"");
    }
    eventually("one call at work, and as many waiting as may", || {
        let metrics = served.request("GET", "/metrics", b"");
        let is_there = |start: &str, label: &str, end: &str| {
            let mut lines = metrics.text().lines();
            lines.any(|line| line.starts_with(start) && line.contains(label) && line.ends_with(end))
        };
        // Who waits for a start under way waits too, and leaves room for one more.
        let is_full = is_there("consecution_pool_waiting", "", " 64")
            && is_there("consecution_pool_processes", "\"in_use\"", " 1");
        is_full.then_some(())
    });
    let reply = served.post("/chains/hasty", b"");
    assert_eq!(reply.header("retry-after"), Some("1"));
    assert_eq!(reply.problem(503)["title"], "all runners are busy");
}

#[test]
fn a_limit_on_bodies_is_kept_announced_or_not() {
    // It writes nothing before it has read all, so no reply can have begun.
    let served = serve_with(
        &[&chain([link(&["wc", "-c"])])],
        &["--max-request-bytes", "1K"],
    );
    served.post("/", &[b'x'; 1024]).expect(200);
    served.post("/", &[b'x'; 1025]).problem(413);
    drop(served);
    let served = serve_with(
        &[&chain([link(&["wc", "-c"])])],
        &["--max-request-bytes", "1000"],
    );
    served.post("/", &[b'x'; 1000]).expect(200);
    served.post("/", &[b'x'; 1001]).problem(413);
    let mut client = served.connect();
    client.send("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
    client.send_chunk(&[b'x'; 600]);
    client.send_chunk(&[b'x'; 600]);
    client.reply().problem(413);
}

#[test]
fn a_call_id_is_kept_if_it_is_sane() {
    let served = serve(&[&chain([link(&["cat"])])]);
    let with = |id: &str| {
        let mut client = served.connect();
        client.send_request("POST", "/", &[&format!("Consecution-Call-Id: {id}")], b"x");
        let reply = client.reply().expect(200);
        reply.header("consecution-call-id").unwrap().to_owned()
    };
    assert_eq!(with("my-own/id"), "my-own/id");
    for id in ["two words", "\u{e9}", &"x".repeat(200)] {
        assert_eq!(with(id).len(), 32, "{id}");
    }
}

#[test]
fn what_happened_is_counted() {
    let fine = named("fine", [link(&["cat"])]);
    let bad = named("bad", [shell("cat >/dev/null; exit 3")]);
    let served = serve(&[&fine, &bad]);
    served.post("/", b"x").expect(200);
    served.post("/", b"x").expect(200);
    served.post("/chains/bad", b"x").problem(502);
    for line in [
        "consecution_calls_total{chain=\"fine\"} 2",
        "consecution_calls_in_flight{chain=\"fine\"} 0",
        "consecution_call_failures_total{chain=\"bad\",kind=\"exited\"} 1",
        "consecution_call_duration_seconds_count{chain=\"bad\"} 1",
        "consecution_link_duration_seconds_count{chain=\"fine\",index=\"0\",link=\"cat\"} 2",
        "consecution_http_connections 1",
        ",state=\"in_use\"} 0",
    ] {
        // Connections and processes go a moment after their reply.
        eventually(line, || {
            let metrics = served.request("GET", "/metrics", b"").expect(200);
            metrics.text().contains(line).then_some(())
        });
    }
}

#[test]
fn fifty_requests_at_once_get_each_its_own_reply() {
    let served = serve(&[&chain([link(&["cat"]), link(&["tr", "a-z", "A-Z"])])]);
    std::thread::scope(|scope| {
        for number in 0..50 {
            let served = &served;
            scope.spawn(move || {
                let reply = served
                    .post("/", format!("call {number}").as_bytes())
                    .expect(200);
                assert_eq!(reply.text(), format!("CALL {number}"));
            });
        }
    });
}
