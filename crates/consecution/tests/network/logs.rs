//! A call can be followed through the logs.

use crate::support::chain::{chain_with, link, shell};
use crate::support::http::listen;
use crate::support::network::{Servers, until_ready};
use crate::support::running::Running;
use test_support::eventually;

/// The lines about a call, as JSON.
fn lines_about(process: &Running, call_id: &str) -> Vec<serde_json::Value> {
    let said = process.said();
    let lines = said
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line of JSON"));
    let is_about = |line: &serde_json::Value| line["fields"]["call_id"] == call_id;
    lines.filter(is_about).collect()
}

#[test]
fn json_lines_of_a_portal_have_the_id_of_the_call() {
    let Some(servers) = Servers::start() else {
        cannot_run_here!("nats-server, etcd or etcdctl is missing");
    };
    let picky = shell("printf 'what\\n\\033[2Jelse\\n' >&2; exit 3").with("Name", "picky");
    let links = [link(&["/bin/cat"]), picky];
    let words = chain_with("Name: words", links);
    let _runner = servers.runner("north");
    let mut portal = servers.command("portal");
    portal.args(["--listen", "127.0.0.1:0", "--log-format", "json"]);
    portal.arg(words.path());
    let portal = listen(portal);
    until_ready(&portal);

    let mut client = portal.connect();
    client.send_request("POST", "/", &["Consecution-Call-Id: seven"], b"data");
    client.reply().problem(502);
    let line = eventually("the portal to tell of the call", || {
        lines_about(&portal, "seven").pop()
    });
    let fields = &line["fields"];
    let id = words.ids()[1].to_string();
    for (field, wanted) in [
        ("chain", "words"),
        ("link", "picky"),
        ("link_id", &id),
        ("runner", "north"),
        ("stderr", "what\n\u{1b}[2Jelse"),
    ] {
        assert_eq!(fields[field], wanted, "{line}");
    }
    assert_eq!(
        (&fields["status"], &fields["exit_code"], &line["level"]),
        (&502.into(), &3.into(), &"WARN".into())
    );
    // Nothing, where the process had ended by itself before it was given its call.
    assert!(fields["elapsed_ms"].as_f64() >= Some(0.0), "{line}");
    assert!(line["timestamp"].is_string(), "{line}");
}
