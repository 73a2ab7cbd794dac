//! Parameters over NATS: portals give them, plain clients too, and runners believe neither.

use crate::support::chain::{ChainFile, chain, chain_with, link};
use crate::support::command::finish;
use crate::support::network::{Servers, until_ready};
use crate::support::plain_nats::{Message, PlainClient, head};
use test_support::PATIENCE;

/// The most bytes of one argument.
const ARGUMENT_BYTES_MAX: usize = 128 * 1024 - 1;

/// Two links, each of which uses one of two parameters.
fn two() -> ChainFile {
    let top = "Name: two\nDeadline: 20s\nParameters:\n  \
               width: {Pattern: '[1-9][0-9]{0,3}', Default: '200'}\n  title: {Pattern: '(?s).*'}";
    let links = [
        link(&["/bin/printf", "<%s>", "${title}"]),
        link(&["/bin/sed", "s/$/-${width}/"]),
    ];
    chain_with(top, links)
}

#[test]
fn a_portal_and_send_give_values_to_runners() {
    let Some(servers) = Servers::start() else {
        cannot_run_here!("nats-server, etcd or etcdctl is missing");
    };
    let two = two();
    let (portal, _runner) = (servers.portal(&[&two]), servers.runner("one"));
    until_ready(&portal);
    for (query, wanted) in [
        ("title=a%20b", "<a b>-200\n"),
        ("title=${width}&width=3", "<${width}>-3\n"),
        ("title=-n%26x=y%3d%25&width=3", "<-n&x=y=%>-3\n"),
    ] {
        let reply = portal.post(&format!("/?{query}"), b"").expect(200);
        assert_eq!(reply.text().trim_end(), wanted.trim_end(), "{query}");
        assert_eq!(reply.header("consecution-pipestatus"), Some("0,0"));
    }
    let problem = portal.post("/?title=a&width=x", b"").problem(400);
    assert_eq!(problem["parameter"], "width");

    // The longest value that there can be on a command line, of bytes that are all escaped.
    let longest = "\n".repeat(ARGUMENT_BYTES_MAX - "title=".len());
    let mut send = servers.command("send");
    send.arg(two.path());
    send.args(["--set", &format!("title={longest}"), "--set", "width=7"]);
    let sent = finish(send, b"", PATIENCE).expect_success();
    assert_eq!(
        sent.stdout.len(),
        "<>".len() + longest.len() + longest.len() * 2 + 2
    );
    let mut send = servers.command("send");
    send.arg(two.path()).args(["--set", "titel=x"]);
    finish(send, b"", PATIENCE)
        .expect_code(2)
        .expect_stderr(&["did you mean `title`?"]);
}

#[test]
fn what_does_not_fit_into_a_message_is_refused_before_it_is_sent() {
    let Some(servers) = Servers::start() else {
        cannot_run_here!("nats-server, etcd or etcdctl is missing");
    };
    let names: Vec<_> = (0..5).map(|at| format!("p{at}")).collect();
    let parameters = names
        .iter()
        .map(|name| format!("{name}: {{Pattern: '(?s).*'}}"));
    let top = format!(
        "Parameters: {{{}}}",
        parameters.collect::<Vec<_>>().join(", ")
    );
    let words = names.iter().map(|name| format!("${{{name}}}"));
    let words: Vec<_> = ["/bin/echo".to_owned()].into_iter().chain(words).collect();
    let large = chain_with(&top, [link(&words)]);
    let _runner = servers.runner("one");
    let mut send = servers.command("send");
    send.arg(large.path());
    for name in &names {
        let value = "\n".repeat(40_000);
        send.args(["--set", &format!("{name}={value}")]);
    }
    finish(send, b"", PATIENCE)
        .expect_code(125)
        .expect_output("")
        .expect_stderr(&[
            "the values of its parameters take 600019 bytes",
            "at most 524288",
        ]);
}

/// What a runner answers to a plain client that sets this.
fn set(client: &mut PlainClient, id: &str, values: &str) -> Message {
    let head = head(&[("Consecution-Set", values)]);
    client.request(&format!("consecution.link.{id}"), &head, b"")
}

#[track_caller]
fn expect_malformed(reply: &Message, parts: &[&str]) {
    assert_eq!(reply.header("Consecution-Ending"), Some("malformed"));
    assert_eq!(reply.header("Nats-Service-Error-Code"), Some("400"));
    let error = reply.header("Nats-Service-Error").unwrap();
    for part in parts {
        assert!(error.contains(part), "no {part:?} in {error}");
    }
    assert_eq!(reply.payload, b"");
}

#[test]
fn a_runner_checks_all_that_a_plain_client_sets() {
    let Some(servers) = Servers::start() else {
        cannot_run_here!("nats-server, etcd or etcdctl is missing");
    };
    let (two, plain) = (two(), chain([link(&["/bin/cat"])]));
    let portal = servers.portal(&[&two, &plain]);
    let _runner = servers.runner("one");
    until_ready(&portal);
    servers.until_serving("one", 3);
    let [title, width] = &two.ids()[..] else {
        panic!("it has two links")
    };
    let mut client = PlainClient::connect(servers.nats.port);

    let reply = set(&mut client, title, "title=a%20b");
    assert_eq!(reply.payload, b"<a b>");
    assert_eq!(set(&mut client, title, "title=a+b").payload, b"<a b>");
    let longest = "x".repeat(ARGUMENT_BYTES_MAX);
    let reply = set(&mut client, title, &format!("title={longest}"));
    assert_eq!(reply.payload.len(), ARGUMENT_BYTES_MAX + 2);

    for (id, values, parts) in [
        (title, "", &["`title`", "give one that matches"][..]),
        (title, "width=3", &["`width`", "none of that name"]),
        (title, "title=a&width=3", &["`width`", "there are title"]),
        (title, "titel=a", &["did you mean `title`?"]),
        (title, "title=a&title=b", &["Consecution-Set", "twice"]),
        (title, "title=%zz", &["Consecution-Set", "hexadecimal"]),
        (title, "title=%ff", &["Consecution-Set", "UTF-8"]),
        (title, "title=a%00", &["`title`", "NUL"]),
        (title, &format!("title={longest}x"), &["`title`", "131071"]),
        (
            title,
            &format!("title={}", "x".repeat(512 * 1024)),
            &["524288"],
        ),
        // A portal that lies.
        (width, "width=0", &["`width`", "`0`", "[1-9][0-9]{0,3}"]),
        (width, "width=3%0a", &["`width`", "`3\\n`"]),
        (width, "width=3%3b%20id", &["`width`"]),
        (&plain.ids()[0], "a=b", &["`a`", "there are no parameters"]),
    ] {
        expect_malformed(&set(&mut client, id, values), parts);
    }

    // For all links of a request at once, and each takes what it uses.
    let both = |client: &mut PlainClient, values: &str| {
        let then = format!("0 {width}");
        let head = head(&[("Consecution-Then", &then), ("Consecution-Set", values)]);
        client.request(&format!("consecution.link.{title}"), &head, b"")
    };
    let reply = both(&mut client, "title=t&width=3");
    assert_eq!(reply.header("Consecution-Ending-2"), Some("exited 0"));
    assert_eq!(reply.payload.trim_ascii_end(), b"<t>-3");
    expect_malformed(
        &both(&mut client, "title=t"),
        &["`width`", "give one that matches"],
    );
    let reply = both(&mut client, "title=t&width=3&zoom=1");
    expect_malformed(&reply, &["`zoom`", "there are title, width"]);

    // Nobody was disturbed, and nothing was run.
    let reply = portal.post("/?title=fine", b"").expect(200);
    assert_eq!(reply.text().trim_end(), "<fine>-200");
}

#[test]
fn links_that_a_runner_does_not_have_may_use_what_those_it_has_do_not() {
    let Some(servers) = Servers::start() else {
        cannot_run_here!("nats-server, etcd or etcdctl is missing");
    };
    let two = two();
    let (portal, _runner) = (servers.portal(&[&two]), servers.runner("one"));
    until_ready(&portal);
    let mut client = PlainClient::connect(servers.nats.port);
    let then = format!("0 {:032x}", 7);
    let head = head(&[
        ("Consecution-Then", &then),
        ("Consecution-Set", "title=t&zoom=3"),
    ]);
    let subject = format!("consecution.link.{}", two.ids()[0]);
    let reply = client.request(&subject, &head, b"");
    assert_eq!(reply.payload, b"<t>");
    assert_eq!(reply.header("Consecution-Ending-2"), None);
}
