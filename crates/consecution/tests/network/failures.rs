//! What a caller learns of a failure: over HTTP, in `send`, in the
//! library's error, and to a client that only knows NATS.

use std::time::{Duration, Instant};

use consecution::portal::{FailureReason, Portal};

use crate::support::chain::{ChainFile, chain_with, link, shell};
use crate::support::command::finish;
use crate::support::network::{Servers, until_ready};
use crate::support::plain_nats::PlainClient;
use test_support::PATIENCE;

/// How soon a caller knows that nobody serves a link.
const AT_ONCE: Duration = Duration::from_secs(1);

/// A chain whose second link writes to standard error and ends so.
fn words(end: &str) -> ChainFile {
    let picky = shell(&format!("cat >/dev/null; echo oh no >&2; {end}"));
    let links = [
        link(&["/bin/cat"]),
        picky.with("Name", "picky"),
        link(&["/bin/cat"]),
    ];
    chain_with("Name: words\nDeadline: 5s", links)
}

#[test]
fn http_tells_all_that_is_known_of_a_failure() {
    let Some(servers) = Servers::start() else {
        cannot_run_here!("nats-server, etcd or etcdctl is missing");
    };
    let words = words("exit 3");
    let killed = chain_with("Name: killed", [shell("cat >/dev/null; kill -9 $$")]);
    let fixed = chain_with("Name: fixed", [shell("touch /x").with("Writable", "never")]);
    let portal = servers.portal(&[&words, &killed, &fixed]);
    let _runner = servers.runner("north");
    until_ready(&portal);
    let reply = portal.post("/", b"data");
    // The last link may not have been called yet.
    let pipestatus = reply.header("consecution-pipestatus").unwrap().to_owned();
    assert!(pipestatus.starts_with("0,3,"), "{pipestatus}");
    let problem = reply.problem(502);
    for (member, wanted) in [
        ("title", "a link failed".into()),
        ("chain", "words".into()),
        ("link_index", serde_json::Value::from(1)),
        ("link_name", "picky".into()),
        ("runner", "north".into()),
        ("exit_code", 3.into()),
        ("stderr", "oh no\n".into()),
        ("pipestatus", pipestatus.into()),
    ] {
        assert_eq!(problem[member], wanted, "{member} of {problem}");
    }
    let detail = problem["detail"].as_str().unwrap();
    assert!(
        detail.starts_with("link 2 'picky' (busybox /bin/sh -c"),
        "{detail}"
    );
    assert!(
        detail.ends_with("on runner 'north' exited with code 3"),
        "{detail}"
    );

    let problem = portal.post("/chains/fixed", b"").problem(502);
    let hint = problem["hint"].as_str().unwrap();
    assert!(hint.starts_with("its root cannot be written"), "{hint}");
    let problem = portal.post("/chains/killed", b"data").problem(502);
    assert!(problem.get("hint").is_none(), "{problem}");
    assert_eq!(
        (&problem["signal"], &problem["runner"]),
        (&9.into(), &"north".into())
    );
}

#[test]
fn send_tells_all_that_is_known_of_a_failure_and_exits_as_the_link_did() {
    let Some(servers) = Servers::start() else {
        cannot_run_here!("nats-server, etcd or etcdctl is missing");
    };
    let _runner = servers.runner("north");
    servers
        .send(&words("exit 3"), b"data")
        .expect_code(3)
        .expect_output("")
        .expect_stderr(&[
            "oh no\nconsecution: link 2 'picky' (busybox /bin/sh -c",
            "on runner 'north' exited with code 3\n",
        ]);
    servers
        .send(&words("kill -9 $$"), b"data")
        .expect_code(137)
        .expect_stderr(&["was ended by signal 9 (SIGKILL)"]);
    let sleepy = chain_with("Deadline: 3s", [shell("echo zzz >&2; sleep 1000")]);
    servers
        .send(&sleepy, b"")
        .expect_code(124)
        .expect_stderr(&["zzz\n", "on runner 'north' was not done by its deadline"]);
    let mut nowhere = servers.command("send");
    let broken = chain_with("", [link(&["/bin/nowhere"])]);
    nowhere.args(["--wait", "1s"]).arg(broken.path());
    finish(nowhere, b"", PATIENCE)
        .expect_code(125)
        .expect_stderr(&[
            "link 1 'nowhere' (busybox) cannot be called: runner 'north' cannot serve it",
        ]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_library_tells_all_that_is_known_of_a_failure() {
    let Some(servers) = Servers::start() else {
        cannot_run_here!("nats-server, etcd or etcdctl is missing");
    };
    let _runner = servers.runner("north");
    let etcds = servers.etcd.options().endpoints;
    let words = words("exit 3");
    let portal = Portal::connect(words.path(), &servers.nats.url(), etcds).await;
    let error = portal.unwrap().send("data").await.unwrap_err();
    assert_eq!(
        (error.chain.as_str(), error.index, error.name.as_str()),
        ("words", 1, "picky")
    );
    assert_eq!(error.reason, FailureReason::Exited(3));
    assert_eq!(error.stderr, "oh no\n");
    assert_eq!(error.runner.as_deref(), Some("north"));
    let first = &error.report.links[0];
    assert_eq!(first.runner.as_deref(), Some("north"));
}

#[test]
fn a_client_that_knows_only_nats_gets_the_output_or_the_failure() {
    let Some(servers) = Servers::start() else {
        cannot_run_here!("nats-server, etcd or etcdctl is missing");
    };
    let _runner = servers.runner("north");
    let words = words("exit 3");
    servers.send(&words, b"").expect_code(3);
    let subjects: Vec<_> = (words.ids().iter())
        .map(|id| format!("consecution.link.{id}"))
        .collect();
    let mut client = PlainClient::connect(servers.nats.port);

    let reply = client.request(&subjects[0], b"", b"\0plain\xff\n");
    assert_eq!(reply.payload, b"\0plain\xff\n");
    assert_eq!(reply.header("Nats-Service-Error-Code"), None);
    assert_eq!(reply.header("Consecution-Runner"), Some("north"));

    let reply = client.request(&subjects[1], b"", b"data");
    assert_eq!(reply.payload, b"");
    assert_eq!(reply.header("Nats-Service-Error-Code"), Some("502"));
    let error = reply.header("Nats-Service-Error").unwrap();
    assert!(
        error.contains("exited with code 3") && error.contains("oh no"),
        "{error}"
    );
    assert_eq!(reply.header("Consecution-Ending"), Some("exited 3"));
    assert_eq!(reply.header("Consecution-Runner"), Some("north"));

    // The server itself says that nobody serves a link.
    let nobody = format!("consecution.link.{:032x}", 0);
    assert_eq!(client.request(&nobody, b"", b"data").status(), Some("503"));
}

#[test]
fn that_nobody_serves_a_link_is_known_at_once() {
    let Some(servers) = Servers::start() else {
        cannot_run_here!("nats-server, etcd or etcdctl is missing");
    };
    let words = words("exit 3");
    let portal = servers.portal(&[&words]);
    // The first call may have to wait for the connection to NATS.
    portal.post("/", b"data").problem(503);
    let asked = Instant::now();
    let reply = portal.post("/", b"data");
    assert!(asked.elapsed() < AT_ONCE, "{:?}", asked.elapsed());
    assert_eq!(reply.header("retry-after"), Some("1"));
    let problem = reply.problem(503);
    assert_eq!(
        (&problem["title"], &problem["link_name"]),
        (&"no runner".into(), &"cat".into())
    );
    let problem = portal.post("/chains/nothing", b"data").problem(404);
    assert_eq!(problem["title"], "there is nothing of that name");
}
