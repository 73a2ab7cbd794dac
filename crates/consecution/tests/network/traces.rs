//! Calls can be followed through portals and runners in traces, which cost calls nothing.

use std::net::TcpListener;
use std::process::Command;
use std::time::Duration;

use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use rustix::process::Signal;

use crate::support::chain::{ChainFile, chain, chain_with, link, shell};
use crate::support::command::{finish, run};
use crate::support::faults::{at_work, let_finish, slow};
use crate::support::http::{Client, Served, listen, serving};
use crate::support::network::{AT_WORK, Servers, until_at_work, until_ready};
use crate::support::otlp::{Collector, Found};
use crate::support::running::Running;
use test_support::ports::free_port;
use test_support::{PATIENCE, eventually};

const MISSING: &str = "nats-server, etcd or etcdctl is missing";

/// A caller's trace, its span in it, and what its tracing system adds.
const TRACE_ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";
const STATE: &str = "vendor=1,other=a b";

fn traceparent(flags: &str) -> String {
    format!("traceparent: 00-{TRACE_ID}-{CALLER}-{flags}")
}

fn runner(servers: &Servers, collector: &Collector, name: &str, options: &[&str]) -> Running {
    let mut command = servers.command("runner");
    command.args(["--name", name]).args(options);
    collector.tell(&mut command, name);
    Running::start(command)
}

fn portal(servers: &Servers, collector: &Collector, chains: &[&ChainFile]) -> Served {
    let portal = listen(portal_command(servers, collector, chains));
    until_ready(&portal);
    portal
}

fn portal_command(servers: &Servers, collector: &Collector, chains: &[&ChainFile]) -> Command {
    let mut command = servers.command("portal");
    command.args(["--listen", "127.0.0.1:0", "--log-format", "json"]);
    command.args(chains.iter().map(|chain| chain.path()));
    collector.tell(&mut command, "portal");
    command
}

/// The spans of a trace, once there are so many.
#[track_caller]
fn trace_of(collector: &Collector, trace_id: &str, count: usize) -> Vec<Found> {
    let spans = collector.until(&format!("{count} spans of {trace_id}"), |spans| {
        let of_trace = spans.iter().filter(|span| span.trace_id == trace_id);
        let of_trace: Vec<_> = of_trace.cloned().collect();
        (of_trace.len() >= count).then_some(of_trace)
    });
    assert_eq!(spans.len(), count, "{spans:#?}");
    for span in &spans {
        assert!(span.began <= span.ended && span.began > 0, "{span:#?}");
    }
    spans
}

/// The spans inside of that one, by when they began.
fn inside<'a>(spans: &'a [Found], parent: &str, kind: SpanKind) -> Vec<&'a Found> {
    let mut inside: Vec<_> = spans.iter().filter(|span| span.parent == parent).collect();
    inside.sort_by_key(|span| span.began);
    let is_other = inside.iter().find(|span| span.kind != kind);
    assert!(is_other.is_none(), "{is_other:#?}");
    inside
}

#[track_caller]
fn only<'a>(spans: &[&'a Found]) -> &'a Found {
    assert_eq!(spans.len(), 1, "{spans:#?}");
    spans[0]
}

#[track_caller]
fn expect_overlaps(spans: &[&Found]) {
    for one in spans {
        for other in spans {
            assert!(one.overlaps(other), "{one:#?} and {other:#?}");
        }
    }
}

/// Calls a chain with these fields in its head, and has all of its links at work at a time.
#[track_caller]
fn call_at_length(served: &Served, fields: &[&str]) {
    let mut client = served.connect();
    let fields: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
    client.send(format!(
        "POST / HTTP/1.1\r\nHost: x\r\nPrefer: duplex\r\nTransfer-Encoding: chunked\r\n{fields}\r\n"
    ));
    client.send_chunk(b"data\n");
    assert!(client.head().starts_with("HTTP/1.1 200"));
    assert_eq!(client.chunk().unwrap(), b"data\n");
    client.end_chunks();
    assert_eq!(client.chunk().unwrap(), b"");
}

fn call(served: &Served, path: &str, fields: &[&str]) -> Client {
    let mut client = served.connect();
    client.send_request("POST", path, fields, b"data\n");
    client
}

#[test]
fn a_chain_over_two_runners_is_one_tree_from_the_caller_s_span_to_each_process() {
    let Some(servers) = Servers::start() else {
        cannot_run_here!("{MISSING}");
    };
    let collector = Collector::start();
    // Each link can only be run where its data is.
    let cat = |data| link(&["/bin/cat"]).with("Data", format!("{{/data: {data}}}"));
    let chain = chain_with("Name: words", ["here", "there", "here"].map(cat));
    let folder = tempfile::tempdir().unwrap();
    let data = |name| format!("{name}={}", folder.path().display());
    let _north = runner(&servers, &collector, "north", &["--data", &data("here")]);
    let _south = runner(&servers, &collector, "south", &["--data", &data("there")]);
    let portal = portal(&servers, &collector, &[&chain]);
    let state = format!("tracestate: {STATE}");
    call_at_length(&portal, &[&traceparent("01"), &state]);

    let spans = trace_of(&collector, TRACE_ID, 10);
    let server = only(&inside(&spans, CALLER, SpanKind::Server));
    assert_eq!((&*server.service, &*server.name), ("portal", "POST /"));
    for (name, value) in [
        ("http.request.method", "POST"),
        ("http.route", "/"),
        ("http.response.status_code", "200"),
        ("consecution.chain", "words"),
    ] {
        assert_eq!(server.get(name), value, "{server:#?}");
    }
    let calls = inside(&spans, &server.id, SpanKind::Client);
    assert_eq!(calls.len(), 3);
    expect_overlaps(&calls);
    let mut processes = Vec::new();
    for ((index, call), name) in (0..).zip(&calls).zip(["north", "south", "north"]) {
        assert_eq!((&*call.service, &*call.name), ("portal", "call cat"));
        assert_eq!(call.get("consecution.link_index"), index.to_string());
        assert_eq!(call.get("consecution.link_id"), chain.ids()[index]);
        assert_eq!(call.get("consecution.runner"), name);
        let served = only(&inside(&spans, &call.id, SpanKind::Consumer));
        assert_eq!((&*served.service, &*served.name), (name, "run cat"));
        let process = only(&inside(&spans, &served.id, SpanKind::Internal));
        assert_eq!((&*process.service, &*process.name), (name, "cat"));
        assert_eq!(process.get("process.exit.code"), "0");
        processes.push(process);
    }
    expect_overlaps(&processes);
    assert!(
        spans
            .iter()
            .all(|span| span.error.is_none() && span.state == STATE)
    );
}

#[test]
fn joined_links_have_a_span_for_each_process_and_a_call_s_id_is_its_trace_s() {
    let collector = Collector::over_http();
    let chain = chain([["/bin/cat"], ["/bin/tac"], ["/bin/cat"]].map(|words| link(&words)));
    let mut command = serving(&[&chain], &[]);
    collector.tell(&mut command, "here");
    let served = listen(command);
    served.await_line(" INFO ready");
    let mut client = call(&served, "/", &[]);
    let reply = client.reply().expect(200);
    let spans = trace_of(&collector, reply.header("consecution-call-id").unwrap(), 6);
    let server = only(&inside(&spans, "", SpanKind::Server));
    let call = only(&inside(&spans, &server.id, SpanKind::Client));
    assert_eq!(call.get("consecution.joined"), "2");
    let run = only(&inside(&spans, &call.id, SpanKind::Consumer));
    let processes = inside(&spans, &run.id, SpanKind::Internal);
    let mut names: Vec<_> = processes.iter().map(|span| &*span.name).collect();
    names.sort_unstable();
    assert_eq!(names, ["cat", "cat", "tac"]);
    expect_overlaps(&processes);
    let metrics = || {
        served
            .request("GET", "/metrics", b"")
            .expect(200)
            .text()
            .to_owned()
    };
    eventually("the spans to be counted", || {
        metrics()
            .contains("consecution_spans_sent_total 6\n")
            .then_some(())
    });
    assert!(metrics().contains("consecution_spans_dropped_total 0\n"));
    // The histogram of calls leads to the trace.
    let exemplar = format!("# {{trace_id=\"{}\"}} ", server.trace_id);
    let is_there =
        |line: &str| line.starts_with("consecution_call_dur") && line.contains(&exemplar);
    assert!(metrics().lines().any(is_there), "{}", metrics());
}

#[test]
fn a_call_that_is_made_again_has_a_span_for_each_try() {
    let Some(servers) = Servers::start() else {
        cannot_run_here!("{MISSING}");
    };
    let collector = Collector::start();
    let chain = chain([slow()]);
    let portal = listen(portal_command(&servers, &collector, &[&chain]));
    let start = |name| runner(&servers, &collector, name, &[]);
    let mut runners: Vec<_> = ["one", "two"].into_iter().map(start).collect();
    for name in ["one", "two"] {
        servers.until_serving(name, 1);
    }
    until_ready(&portal);
    let mut client = call(&portal, "/", &[&traceparent("01")]);
    drop(runners.swap_remove(at_work(&runners)));
    let_finish(&runners);
    client.reply().expect(200);
    // The runner that was killed has sent nothing.
    let spans = trace_of(&collector, TRACE_ID, 5);
    let server = only(&inside(&spans, CALLER, SpanKind::Server));
    assert_eq!(server.error, None);
    let calls = inside(&spans, &server.id, SpanKind::Client);
    let [lost, good] = calls[..] else {
        panic!("{calls:#?}");
    };
    assert!(
        lost.error.as_ref().unwrap().contains("was lost"),
        "{lost:#?}"
    );
    assert_eq!(lost.get("error.type"), "lost");
    assert_eq!((&good.error, good.get("consecution.retries")), (&None, "1"));
    assert_eq!(inside(&spans, &lost.id, SpanKind::Consumer).len(), 0);
    assert_eq!(inside(&spans, &good.id, SpanKind::Consumer).len(), 1);
}

#[test]
fn a_try_that_is_refused_is_an_error_and_the_next_one_is_not() {
    let Some(servers) = Servers::start() else {
        cannot_run_here!("{MISSING}");
    };
    let collector = Collector::start();
    let chain = chain([shell(&format!(
        "read x; [ $x = data ] || {AT_WORK}; echo $x"
    ))]);
    let runner = runner(&servers, &collector, "only", &["--processes-max", "1"]);
    let portal = portal(&servers, &collector, &[&chain]);
    let mut first = portal.connect();
    first.send_request("POST", "/", &[], b"other\n");
    let working = until_at_work(&[&runner], 1);
    let mut second = call(&portal, "/", &[&traceparent("01")]);
    collector.until("a try that was refused", |spans| {
        let is_refused = |span: &Found| span.get("error.type") == "busy";
        spans.iter().any(is_refused).then_some(())
    });
    working[0].kill();
    second.reply().expect(200);
    drop(first);
    let tries = collector.until("the try that was accepted", |spans| {
        let tries = inside(
            spans,
            &spans.iter().find(|span| span.parent == CALLER)?.id,
            SpanKind::Client,
        );
        let tries: Vec<Found> = tries.into_iter().cloned().collect();
        tries
            .last()
            .is_some_and(|last| last.error.is_none())
            .then_some(tries)
    });
    let (accepted, refused) = tries.split_last().unwrap();
    assert!((1..=16).contains(&refused.len()), "{refused:#?}");
    assert!(
        accepted
            .get("consecution.refusals")
            .parse::<usize>()
            .unwrap()
            >= refused.len()
    );
    for refused in refused {
        assert!(
            refused.error.as_ref().unwrap().contains("busy"),
            "{refused:#?}"
        );
        let run = collector.until("the runner's span of it", |spans| {
            spans.iter().find(|span| span.parent == refused.id).cloned()
        });
        assert_eq!(run.kind, SpanKind::Consumer);
        assert!(run.error.is_some(), "{run:#?}");
    }
}

#[test]
fn a_failure_is_an_error_from_its_process_up_and_its_log_lines_have_its_ids() {
    let Some(servers) = Servers::start() else {
        cannot_run_here!("{MISSING}");
    };
    let collector = Collector::start();
    let (killed, picky) = (shell("kill -9 $$"), shell("cat >/dev/null; exit 3"));
    let fine = picky.clone().with("AcceptedExitCodes", "[3]");
    let chains = [
        chain_with("Name: picky", [fine.clone(), picky]),
        chain_with("Name: killed", [killed]),
    ];
    let mut command = servers.command("runner");
    command.args(["--name", "only", "--log", "debug"]);
    collector.tell(&mut command, "only");
    let runner = Running::start(command);
    let portal = portal(&servers, &collector, &[&chains[0], &chains[1]]);
    let problem = call(&portal, "/chains/picky", &["Consecution-Call-Id: seven"]);
    let problem = { problem }.reply().problem(502);
    assert_eq!(problem["call_id"], "seven");
    let server = collector.until("the call's span", |spans| {
        let found = spans.iter().find(|span| span.name == "POST /chains/picky");
        found.cloned()
    });
    assert_eq!(server.get("http.response.status_code"), "502");
    assert_eq!(server.get("error.type"), "exited");
    assert_eq!(server.get("consecution.call_id"), "seven");
    assert!(
        server
            .error
            .as_ref()
            .unwrap()
            .contains("exited with code 3")
    );
    let spans = trace_of(&collector, &server.trace_id, 5);
    let call = only(&inside(&spans, &server.id, SpanKind::Client));
    assert_eq!(call.error.as_deref(), Some("link 'sh' exited with code 3"));
    let run = only(&inside(&spans, &call.id, SpanKind::Consumer));
    let processes = inside(&spans, &run.id, SpanKind::Internal);
    assert!(
        processes
            .iter()
            .all(|span| span.get("process.exit.code") == "3")
    );
    let errors: Vec<_> = processes
        .iter()
        .filter_map(|span| span.error.as_deref())
        .collect();
    // The first link's code is accepted.
    assert_eq!(errors, ["exited with code 3"]);

    let said = portal.said();
    let lines = said.lines().map(|line| serde_json::from_str(line).unwrap());
    let of_call = |line: &serde_json::Value| line["fields"]["call_id"] == "seven";
    let line = lines
        .into_iter()
        .find(of_call)
        .expect("a line about the call");
    let fields = &line["fields"];
    assert_eq!(fields["trace_id"], server.trace_id, "{line}");
    assert_eq!(fields["span_id"], server.id, "{line}");
    let line = runner.until_said("a call ended");
    let ids = format!("trace_id=\"{}\" span_id=\"{}\"", server.trace_id, run.id);
    assert!(line.contains(&ids), "{line}");

    let mut killed = portal.connect();
    killed.send_request("POST", "/chains/killed", &[&traceparent("01")], b"");
    killed.reply().problem(502);
    let spans = trace_of(&collector, TRACE_ID, 4);
    let process = spans.iter().find(|span| span.name == "sh").unwrap();
    assert_eq!(process.get("consecution.signal"), "9");
    assert_eq!(process.error.as_deref(), Some("was ended by signal 9"));
}

#[test]
fn what_is_not_sampled_is_not_sent_by_the_portal_nor_by_the_runner() {
    let Some(servers) = Servers::start() else {
        cannot_run_here!("{MISSING}");
    };
    let collector = Collector::start();
    let chain = chain([link(&["/bin/cat"])]);
    // By itself it would record everything.
    let _runner = runner(&servers, &collector, "only", &[]);
    let mut command = portal_command(&servers, &collector, &[&chain]);
    command.env("OTEL_TRACES_SAMPLER", "parentbased_always_off");
    let portal = listen(command);
    until_ready(&portal);
    call(&portal, "/", &[]).reply().expect(200);
    call(&portal, "/", &[&traceparent("00")])
        .reply()
        .expect(200);
    // A caller decides that one is recorded.
    let other = "0af7651916cd43dd8448eb211c80319c";
    let sampled = format!("traceparent: 00-{other}-{CALLER}-01");
    call(&portal, "/", &[&sampled]).reply().expect(200);
    trace_of(&collector, other, 4);
    let others = collector.spans();
    assert!(
        others.iter().all(|span| span.trace_id == other),
        "{others:#?}"
    );
}

#[test]
fn without_variables_nothing_is_there_but_the_caller_s_ids_in_the_log() {
    let chain = chain([shell("exit 3")]);
    let served = listen(serving(&[&chain], &["--log-format", "json"]));
    served.until_said("\"ready\"");
    call(&served, "/", &[&traceparent("01")])
        .reply()
        .problem(502);
    let line = served.until_said("a call failed");
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(line["fields"]["trace_id"], TRACE_ID, "{line}");
    assert_eq!(line["fields"]["span_id"], CALLER, "{line}");
    let metrics = served.request("GET", "/metrics", b"").expect(200);
    assert!(!metrics.text().contains("spans"), "{}", metrics.text());
    assert!(!served.said().contains("traces"), "{}", served.said());
}

/// Serves a chain with traces that go to that port, calls it often, and expects that all calls
/// succeed and that spans are dropped, which is said.
fn expect_calls_unhurt(port: u16, protocol: &str) {
    let chain = chain([link(&["/bin/cat"])]);
    let mut command = serving(&[&chain], &["--grace", "1s"]);
    command.env(
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        format!("http://127.0.0.1:{port}"),
    );
    command.env("OTEL_EXPORTER_OTLP_PROTOCOL", protocol);
    command.env("OTEL_EXPORTER_OTLP_TIMEOUT", "200");
    command.env("OTEL_BSP_SCHEDULE_DELAY", "10");
    command.env("OTEL_BSP_MAX_QUEUE_SIZE", "8");
    command.env("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "4");
    let served = listen(command);
    served.await_line(" INFO ready");
    let mut client = served.connect();
    for _ in 0..50 {
        client.send_request("POST", "/", &[], b"data\n");
        assert_eq!(client.reply().expect(200).text(), "data\n");
    }
    // 200 spans, of which no more than 12 wait or are being sent.
    let metrics = served.request("GET", "/metrics", b"").expect(200);
    let count = "consecution_spans_dropped_total ";
    let dropped = metrics
        .text()
        .lines()
        .find_map(|line| line.strip_prefix(count));
    let dropped: usize = dropped.unwrap().parse().unwrap();
    assert!((180..=200).contains(&dropped), "{dropped}");
    served.until_said("failed to send spans to http://127.0.0.1");
    // The last spans are not waited for longer than a moment.
    let begun = std::time::Instant::now();
    served.signal(Signal::TERM);
    served.end().expect_success();
    assert!(
        begun.elapsed() < Duration::from_secs(20),
        "{:?}",
        begun.elapsed()
    );
}

#[test]
fn a_collector_that_is_away_hurts_no_call() {
    expect_calls_unhurt(free_port(), "grpc");
    expect_calls_unhurt(free_port(), "http/protobuf");
}

#[test]
fn a_collector_that_hangs_hurts_no_call() {
    // Connections are taken by the kernel, and by nobody else.
    let hanging = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = hanging.local_addr().unwrap().port();
    expect_calls_unhurt(port, "grpc");
    expect_calls_unhurt(port, "http/protobuf");
}

#[test]
fn a_run_is_traced_inside_of_the_span_of_whoever_runs_it() {
    let collector = Collector::start();
    let chain = chain_with("Name: words", [shell("cat; exit 3")]);
    let mut command = run(chain.path());
    collector.tell(&mut command, "once");
    command.env("TRACEPARENT", format!("00-{TRACE_ID}-{CALLER}-01"));
    finish(command, b"data\n", PATIENCE).expect_code(3);
    // All have been sent by then.
    let spans = collector.spans();
    let root = only(&inside(&spans, CALLER, SpanKind::Internal));
    assert_eq!((&*root.name, root.get("process.exit.code")), ("words", "3"));
    assert!(root.error.is_some());
    let call = only(&inside(&spans, &root.id, SpanKind::Client));
    let run = only(&inside(&spans, &call.id, SpanKind::Consumer));
    let process = only(&inside(&spans, &run.id, SpanKind::Internal));
    assert_eq!((spans.len(), &*process.name), (4, "sh"));
}

#[test]
fn a_wrong_variable_is_an_error_before_anything_is_served() {
    let chain = chain([link(&["/bin/cat"])]);
    for (variable, value) in [
        ("OTEL_TRACES_SAMPLER", "sometimes"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nowhere/ca.pem"),
    ] {
        let mut command = serving(&[&chain], &[]);
        command.env("OTEL_EXPORTER_OTLP_ENDPOINT", "https://127.0.0.1:1");
        command.env(variable, value);
        let finished = finish(command, b"", PATIENCE).expect_code(125);
        let wanted = format!("consecution: failed to use {variable}");
        assert!(finished.stderr.contains(&wanted), "{}", finished.stderr);
        assert!(
            !finished.stderr.contains("listening"),
            "{}",
            finished.stderr
        );
    }
}
