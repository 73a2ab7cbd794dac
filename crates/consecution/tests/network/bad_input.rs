//! Whatever comes from outside: a clear answer to whoever sent it, a log line,
//! nothing else disturbed.

use crate::support::chain::{ChainFile, chain_with, file, link, shell};
use crate::support::command::finish;
use crate::support::http::Served;
use crate::support::network::{AT_WORK, Servers, until_at_work, until_ready};
use crate::support::plain_nats::{Message, PlainClient, head};
use test_support::processes::expect_gone;
use test_support::{PATIENCE, eventually};

fn good() -> ChainFile {
    chain_with("Name: good\nDeadline: 5s", [link(&["/bin/cat"])])
}

#[track_caller]
fn expect_undisturbed(portal: &Served) {
    let reply = portal.post("/chains/good", b"word").expect(200);
    assert_eq!(reply.text(), "word");
}

#[test]
fn what_is_no_chain_is_refused_before_anything_is_asked() {
    let Some(mut servers) = Servers::start() else {
        cannot_run_here!("nats-server, etcd or etcdctl is missing");
    };
    servers.nats.stop();
    servers.etcd.stop();
    for (text, problem) in [
        (&b"Chain: ["[..], "error"),
        (b"\xff\xfe\0", "UTF-8"),
        (b"Chain: []", "error"),
        (
            b"Name: ../../etc/passwd\nChain: [{Image: busybox}]",
            "a chain cannot be called",
        ),
        (
            b"Name: a\\b\nChain: [{Image: busybox}]",
            "a chain cannot be called",
        ),
        (b"Chain: [{Image: busybox, Comand: cat}]", "Command"),
    ] {
        let wrong = file(text);
        for name in ["portal", "send"] {
            let mut command = servers.command(name);
            command.arg(wrong.path());
            let name = wrong.path_buf();
            finish(command, b"", PATIENCE)
                .expect_code(125)
                .expect_output("")
                .expect_stderr(&[problem, name.to_str().unwrap()]);
        }
    }
    let (one, two) = (good(), good());
    let mut portal = servers.command("portal");
    portal.args([one.path(), two.path()]);
    let (one, two) = (one.path_buf(), two.path_buf());
    finish(portal, b"", PATIENCE)
        .expect_code(125)
        .expect_stderr(&[
            "two chains named 'good'",
            one.to_str().unwrap(),
            two.to_str().unwrap(),
        ]);
}

#[test]
fn clients_of_a_portal_may_do_what_they_like() {
    let Some(servers) = Servers::start() else {
        cannot_run_here!("nats-server, etcd or etcdctl is missing");
    };
    let slow = chain_with("Name: slow", [shell(&format!("read line; {AT_WORK}"))]);
    let good = good();
    let portal = servers.portal_with(&[&good, &slow], &["--header-timeout", "300ms"]);
    let runner = servers.runner("one");
    until_ready(&portal);

    for path in [
        "/chains/..",
        "/chains/%2e%2e%2fgood",
        "/chains/../good",
        "/chains/good/",
        "//",
    ] {
        portal.post(path, b"word").problem(404);
    }
    let mut oversized = portal.connect();
    let _ = oversized.try_send(format!(
        "POST / HTTP/1.1\r\nA: {}\r\n\r\n",
        "a".repeat(70_000)
    ));
    assert!(oversized.line().contains(" 431 "));
    let mut slow_head = portal.connect();
    slow_head.send("POST / HT");
    assert_eq!(slow_head.rest(), b"");

    // Bodies that end too early: the link never sees an end.
    let mut early = portal.begin("/chains/slow");
    early.send("5\r\nwor");
    early.shut_down();
    assert!(!early.rest().starts_with(b"HTTP/1.1 200"));
    let mut garbled = portal.begin("/chains/slow");
    garbled.send("zz\r\nword\r\n");
    assert!(!garbled.rest().starts_with(b"HTTP/1.1 200"));

    // Who closes the half that sends has given up.
    let mut half_closed = portal.connect();
    half_closed.send_request("POST", "/chains/slow", &[], b"word\n");
    let processes = until_at_work(&[&runner], 1);
    half_closed.shut_down();
    expect_gone(&processes);
    expect_undisturbed(&portal);
}

#[test]
fn garbage_on_the_subject_of_a_link_is_answered_and_forgotten() {
    let Some(servers) = Servers::start() else {
        cannot_run_here!("nats-server, etcd or etcdctl is missing");
    };
    let good = good();
    let (portal, _runner) = (servers.portal(&[&good]), servers.runner("one"));
    until_ready(&portal);
    let subject = format!("consecution.link.{}", good.ids()[0]);
    let mut client = PlainClient::connect(servers.nats.port);
    for (name, value) in [
        ("Consecution-Timeout-Ms", "-1"),
        ("Consecution-Timeout-Ms", "soon"),
        ("Consecution-Timeout-Ms", "99999999999999999999999999"),
        ("Consecution-Stream", "1 whole"),
        ("Consecution-Stream", "7 whole 100"),
        ("Consecution-Stream", "1 half 99999999999999999999999"),
        ("Consecution-Stderr", "dead"),
    ] {
        let reply = client.request(&subject, &head(&[(name, value)]), b"word");
        assert_eq!(
            reply.header("Nats-Service-Error-Code"),
            Some("400"),
            "{name}: {value}"
        );
        let error = reply.header("Nats-Service-Error").unwrap();
        assert!(error.contains(name), "{error}");
    }
    // What can be meant is done.
    for (name, value) in [
        ("Consecution-Timeout-Ms", "18446744073709551615"),
        ("Consecution-Call-Id", "not one\tat all"),
        ("traceparent", "00-zz"),
        ("Something-Else", "\u{fffd}"),
    ] {
        let reply = client.request(&subject, &head(&[(name, value)]), b"word");
        assert_eq!(reply.payload, b"word", "{name}: {value}");
    }
    for head in [
        &b"NATS/1.0\r\nA: \xff\xfe\r\n\r\n"[..],
        b"NATS/1.0\r\nno colon\r\n\r\n",
        b"NATS/9.9\r\n\r\n",
        b"\r\n\r\n",
    ] {
        client.publish(&subject, "_INBOX.nobody", head, b"word");
        client.flush();
    }
    client.publish(&subject, "", b"", b"nobody waits for it");
    client.flush();
    expect_undisturbed(&portal);
}

/// The next request that is not only asked whether somebody is there, as where an
/// answer was none of a runner's.
fn next_call(runner: &mut PlainClient) -> Message {
    loop {
        let request = runner.next();
        if request.header("Consecution-Probe").is_none() {
            return request;
        }
    }
}

#[test]
fn garbage_for_an_answer_fails_that_call_and_no_other() {
    let Some(servers) = Servers::start() else {
        cannot_run_here!("nats-server, etcd or etcdctl is missing");
    };
    let links = [link(&["/bin/cat"]).with("Retries", "0")];
    let once = chain_with("Name: good\nDeadline: 20s", links);
    let portal = servers.portal(&[&once]);
    // A runner of ill will.
    let mut runner = PlainClient::connect(servers.nats.port);
    runner.queue_subscribe(&format!("consecution.link.{}", once.ids()[0]), "runners");
    for (answer, payload) in [
        (Vec::new(), &b"word"[..]),
        (head(&[("Consecution-Ending", "exited 256")]), b""),
        (head(&[("Consecution-Ending", "exploded")]), b""),
        (head(&[("Consecution-Frame", "data 7 0")]), b"word"),
        (head(&[("Consecution-Frame", "\u{fffd}")]), b""),
        (b"NATS/1.0 999 What\r\n\r\n".to_vec(), b""),
        (b"NATS/1.0\r\nA: \xff\r\n\r\n".to_vec(), b""),
    ] {
        let mut client = portal.connect();
        client.send_request("POST", "/", &[], b"word");
        let request = next_call(&mut runner);
        runner.publish(&request.reply, "", &answer, payload);
        let problem = client.reply().problem(502);
        assert_eq!(problem["title"], "a link was lost", "{problem}");
    }

    // Two at a time: what is said to one is not heard by the other.
    let mut clients = [(); 2].map(|()| portal.connect());
    for client in &mut clients {
        client.send_request("POST", "/", &[], b"word");
    }
    let requests = [(); 2].map(|()| next_call(&mut runner));
    let well = head(&[("Consecution-Ending", "exited 0")]);
    runner.publish(&requests[0].reply, "", b"", b"garbage");
    runner.publish(&format!("{}x", requests[1].reply), "", &well, b"wrong");
    runner.publish(&requests[1].reply, "", &well, b"right");
    let mut statuses: Vec<_> = (clients.iter_mut())
        .map(|client| client.reply())
        .map(|reply| (reply.status, reply.text().contains("right")))
        .collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [(200, true), (502, false)]);

    drop(runner);
    let _runner = servers.runner("one");
    until_ready(&portal);
    expect_undisturbed(&portal);
}

#[test]
fn garbage_in_etcd_is_said_and_skipped() {
    let Some(servers) = Servers::start() else {
        cannot_run_here!("nats-server, etcd or etcdctl is missing");
    };
    let good = good();
    let key = |digit: u32| format!("/consecution/links/{digit:032x}");
    let too_large = format!("Image: busybox\nArguments:\n{}", "- a\n".repeat(20_000));
    let runner = servers.runner("one");
    servers.until_serving("one", 0);
    servers.etcd.ctl_put(&key(1), b"\xff\x00 no YAML");
    servers
        .etcd
        .ctl_put(&key(2), b"Image: busybox\nCommand: /bin/cat\n");
    servers.etcd.ctl_put(&key(3), too_large.as_bytes());
    servers
        .etcd
        .ctl_put("/consecution/links/../../etc", b"Image: busybox\n");
    let portal = servers.portal(&[&good]);
    until_ready(&portal);
    expect_undisturbed(&portal);
    for (key, why) in [
        (key(1), "no link"),
        (
            key(2),
            "its content is link 188b0237c1423313d2eff0dbfb4d426a",
        ),
        (key(3), "no link"),
        ("/consecution/links/../../etc".to_owned(), "link id"),
    ] {
        let said = runner.until_said(&format!("skipping {key}"));
        assert!(said.contains(why), "{said}");
    }
    let list = servers.link(&["list"]).expect_success();
    assert_eq!(list.text().lines().count(), 2, "{}", list.text());

    // Garbage in the place of a link removes it, until the portal misses it.
    let key = format!("/consecution/links/{}", good.ids()[0]);
    servers.etcd.ctl_put(&key, b"[");
    eventually("the link to be put again", || {
        portal.post("/", b"word");
        servers
            .etcd
            .ctl(["get", &key])
            .contains("/bin/cat")
            .then_some(())
    });
    eventually("the link to be served again", || {
        let reply = portal.post("/", b"word");
        (reply.status == 200).then_some(())
    });
}
