//! What links have used, and the limits that they have met, from a runner over NATS to whoever
//! calls: over HTTP, and in `send`. The runner is a fake where its figures must be known.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use consecution::chain::{Chain, LinkId};
use consecution::transport::conformance::fake;
use consecution::transport::nats::{Nats, Role};
use consecution::transport::{
    self, Body, Ending, Limit, Outcome, PendingOutcome, Registration, Service, Transport, Usage,
};
use test_support::{PATIENCE, eventually};

use crate::support::chain::{ChainFile, chain_with, link, shell};
use crate::support::command::finish;
use crate::support::http::{Reply, Served};
use crate::support::nats::connect;
use crate::support::network::{Servers, until_ready};

const USAGE: &str = "one;cpu=1.000250;mem=1048576;in=4;out=4";

fn used() -> Usage {
    Usage {
        cpu: Some(Duration::from_micros(1_000_250)),
        memory: Some(1 << 20),
        bytes_in: Some(4),
        bytes_out: Some(4),
    }
}

/// What a fake link does: ends like this, after it has echoed its input.
fn ending(outcome: Outcome) -> Arc<dyn Service> {
    fake::service(move |request| {
        let (sender, pending) = PendingOutcome::channel();
        // The last `joined` links are run with the first.
        let joined = outcome.joined.len();
        let _ = sender.send(outcome.clone());
        let body: Body = request.body;
        std::future::ready(Ok(transport::Reply {
            joined,
            ..transport::Reply::new(body, pending)
        }))
    })
}

/// A chain of two links, whose first has this as its command.
fn two(command: &str) -> ChainFile {
    let first = link(&[command]).with("Name", "one");
    let first = first.with("Constraints", "{Memory: 64M}");
    let top = format!("Name: {command}\nDeadline: 20s");
    chain_with(&top, [first, link(&["two"]).with("Name", "two")])
}

fn ids(chain: &ChainFile) -> Vec<LinkId> {
    let text = std::fs::read_to_string(chain.path()).unwrap();
    let chain = Chain::parse(&text, "", "").unwrap();
    chain.links.iter().map(|link| link.id).collect()
}

/// A runner for the first link of each chain, which runs the second one with it. `send` looks
/// whether somebody serves that one too.
async fn runner(
    servers: &Servers,
    chains: [(&ChainFile, Outcome); 2],
) -> (Nats, Vec<Registration>) {
    let nats = connect(&servers.nats.options(), Role::Runner).await;
    let second = nats.serve(ids(chains[0].0)[1], fake::echo());
    let serve = |(chain, outcome)| nats.serve(ids(chain)[0], ending(outcome));
    let serving = chains.map(serve).into_iter().chain([second]).collect();
    (nats, serving)
}

fn good() -> Outcome {
    Outcome {
        usage: used(),
        joined: vec![Outcome {
            usage: Usage {
                cpu: Some(Duration::ZERO),
                ..Usage::default()
            },
            ..Outcome::new(Ending::Exited(0))
        }],
        ..Outcome::new(Ending::Exited(0))
    }
}

fn bad() -> Outcome {
    Outcome {
        ending: Ending::Signalled(9),
        limit: Some(Limit::Memory),
        hint: Some("it may have more".into()),
        ..good()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_and_limits_reach_who_calls() {
    let Some(servers) = Servers::start() else {
        cannot_run_here!("nats-server, etcd or etcdctl is missing");
    };
    let (fine, killed) = (two("fine"), two("killed"));
    let _runner = runner(&servers, [(&fine, good()), (&killed, bad())]).await;
    tokio::task::block_in_place(|| {
        over_http(&servers, &fine, &killed);
        in_send(&servers, &fine, &killed);
    });
}

fn over_http(servers: &Servers, fine: &ChainFile, killed: &ChainFile) {
    let portal = servers.portal(&[fine, killed]);
    let usage = format!("{USAGE}, two;cpu=0.000000");
    let reply = call(&portal, "/chains/fine", b"data");
    assert_eq!(usage_of(&reply), Some(&*usage));
    let mut client = portal.connect();
    client.send(
        "POST /chains/fine HTTP/1.1\r\nHost: x\r\nTE: trailers\r\nPrefer: duplex\r\n\
         Transfer-Encoding: chunked\r\n\r\n",
    );
    client.send_chunk(b"data");
    client.end_chunks();
    let reply = client.reply().expect(200);
    if let Some(names) = reply.header("trailer") {
        assert!(names.ends_with(", Consecution-Usage"), "{names}");
    }
    assert_eq!(usage_of(&reply), Some(&*usage));
    let reply = portal.post("/chains/killed", b"data");
    assert_eq!(reply.header("consecution-usage"), Some(&*usage));
    let problem = reply.problem(502);
    assert_eq!(problem["limit"], "memory");
    assert_eq!(problem["title"], "a link needed too much memory");
    assert_eq!(problem["signal"], 9);
    let detail = problem["detail"].as_str().unwrap();
    let wanted = "(SIGKILL): it needed more memory than `Constraints: {Memory: 64M}` allows";
    assert!(detail.ends_with(wanted), "{detail}");
    portal.await_line("limit=\"memory\"");
}

fn in_send(servers: &Servers, fine: &ChainFile, killed: &ChainFile) {
    let send = |chain: &ChainFile| {
        let mut send = servers.command("send");
        send.args(["--stats", "--wait", "5s"]).arg(chain.path());
        finish(send, b"data", PATIENCE)
    };
    let sent = send(fine).expect_success().expect_output("data");
    let lines: Vec<_> = sent.stderr.lines().collect();
    assert_eq!(lines.len(), 3, "{}", sent.stderr);
    assert!(lines[0].starts_with("LINK  STATUS"), "{}", sent.stderr);
    let cells: Vec<_> = lines[1].split("  ").map(str::trim).collect();
    let cells: Vec<_> = cells.into_iter().filter(|cell| !cell.is_empty()).collect();
    assert_eq!(cells[..2], ["one", "0"]);
    assert_eq!(cells[3..], ["1.00 s", "1.00 MiB", "4 B", "4 B"]);
    assert!(lines[2].ends_with("-    -    -"), "{}", sent.stderr);
    let sent = send(killed).expect_code(137);
    let (error, rest) = sent.stderr.split_once('\n').unwrap();
    assert!(
        error.ends_with("`Constraints: {Memory: 64M}` allows"),
        "{error}"
    );
    let (hint, table) = rest.split_once('\n').unwrap();
    assert_eq!(hint, "consecution: hint: it may have more");
    assert!(table.starts_with("LINK  STATUS"), "{table}");
    assert!(table.contains("\none   137  "), "{table}");
}

/// Calls a chain. Its usage comes with the head, or, if its end was not known then, behind the
/// reply.
#[track_caller]
fn call(portal: &Served, path: &str, body: &[u8]) -> Reply {
    let mut client = portal.connect();
    client.send_request("POST", path, &["TE: trailers"], body);
    client.reply().expect(200)
}

fn usage_of(reply: &Reply) -> Option<&str> {
    let name = "consecution-usage";
    reply.header(name).or_else(|| reply.trailer(name))
}

/// The elements of `Consecution-Usage`, by parameter.
fn parameters(usage: &str) -> Vec<BTreeMap<&str, f64>> {
    let parameter = |text| {
        let (name, value) = str::split_once(text, '=').unwrap();
        (name, value.parse().unwrap())
    };
    (usage.split(", "))
        .map(|element| element.split(';').skip(1).map(parameter).collect())
        .collect()
}

#[test]
fn a_real_runner_counts_and_names_each_limit() {
    let Some(servers) = Servers::start() else {
        cannot_run_here!("nats-server, etcd or etcdctl is missing");
    };
    let limited = |name: &str, script: &str, constraints: &str| {
        let link = shell(script).with("Constraints", format!("{{{constraints}}}"));
        chain_with(&format!("Name: {name}"), [link])
    };
    let spin = "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; cat";
    let joined = [link(&["cat"]), shell(spin), link(&["wc", "-c"])];
    let forks = "for i in 1 2 3 4 5 6 7 8 9; do sleep 1000 & done; exit 3";
    let chains = [
        chain_with("Name: joined", joined),
        limited("alone", "cat", "Memory: 64M"),
        limited(
            "memory",
            "dd if=/dev/zero of=/dev/null bs=99M count=1",
            "Memory: 48M",
        ),
        limited("scratch", "cat /dev/zero > /tmp/x", "Scratch: 1M"),
        limited("processes", forks, "Processes: 8"),
        limited("filter", "kill -SYS $$", "Processes: 8"),
    ];
    let portal = servers.portal(&chains.iter().collect::<Vec<_>>());
    let _runner = servers.runner("north");
    until_ready(&portal);

    // Once they have been called together, they share their pipes.
    eventually("bytes between links not to be counted", || {
        let reply = call(&portal, "/chains/joined", &[b'x'; 70_000]);
        let usage = parameters(usage_of(&reply).unwrap());
        assert_eq!((usage[0]["in"], usage[2]["out"]), (70_000.0, 6.0));
        assert!(usage[1]["cpu"] > 0.001, "{usage:?}");
        let names = |at: usize| usage[at].keys().copied().collect::<Vec<_>>();
        let names = [names(0), names(1), names(2)];
        (names == [vec!["cpu", "in"], vec!["cpu"], vec!["cpu", "out"]]).then_some(())
    });

    let reply = call(&portal, "/chains/alone", b"data");
    let usage = parameters(usage_of(&reply).unwrap());
    assert_eq!((usage[0]["in"], usage[0]["out"]), (4.0, 4.0));
    // Version 2 before Linux 5.19 does not tell.
    if let Some(memory) = usage[0].get("mem") {
        assert!((10_000.0..64e6).contains(memory), "{usage:?}");
    }

    for limit in ["memory", "scratch", "processes", "filter"] {
        let reply = portal.post(&format!("/chains/{limit}"), b"");
        assert!(reply.header("consecution-usage").is_some(), "{limit}");
        let problem = reply.problem(502);
        assert_eq!(problem["limit"], limit, "{problem}");
        assert!(problem["hint"].is_string(), "{problem}");
    }
}
