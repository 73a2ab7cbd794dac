//! The page, and the figures behind it. `make test-page` looks at it in a browser.

use std::io::{Read, Write};
use std::net::TcpListener;

use serde_json::Value;

use crate::support::chain::{chain_with, link};
use crate::support::command::{Finished, consecution, finish};
use crate::support::home;
use crate::support::http::{Client, Served, serve};
use crate::support::running::Running;
use rustix::process::Signal;
use test_support::{PATIENCE, eventually};

/// How many may follow at a time.
const FOLLOWERS_MAX: usize = 32;

fn stats(served: &Served) -> Value {
    let reply = served.request("GET", "/stats", b"").expect(200);
    assert_eq!(reply.header("content-type"), Some("application/json"));
    assert_eq!(reply.header("cache-control"), Some("no-store"));
    serde_json::from_str(reply.text()).unwrap()
}

/// Begins to follow; the reply's head is read.
fn follow(served: &Served) -> (Client, String) {
    let mut client = served.connect();
    client.send_request("GET", "/stats", &["Accept: text/event-stream"], b"");
    let head = client.head();
    (client, head)
}

fn event(client: &mut Client) -> Value {
    let chunk = client.chunk().unwrap();
    let text = String::from_utf8(chunk).unwrap();
    let data = text.strip_prefix("data: ").unwrap();
    serde_json::from_str(data.strip_suffix("\n\n").unwrap()).unwrap()
}

#[test]
fn the_page_may_do_no_more_than_it_needs() {
    let served = serve(&[&chain_with("Name: one", [link(&["cat"])])]);
    for (path, kind) in [
        ("/ui/", "text/html; charset=utf-8"),
        ("/ui/page.css", "text/css; charset=utf-8"),
        ("/ui/page.js", "text/javascript; charset=utf-8"),
    ] {
        let reply = served.request("GET", path, b"").expect(200);
        assert_eq!(reply.header("content-type"), Some(kind));
        let policy = reply.header("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'none'; script-src 'self';"));
        assert!(policy.contains("frame-ancestors 'none'"));
        assert!(!policy.contains("unsafe"));
        assert_eq!(reply.header("x-content-type-options"), Some("nosniff"));
        // Nothing in it leads elsewhere.
        assert!(!reply.text().contains("//cdn") && !reply.text().contains("src=\"http"));
        assert!(!reply.text().contains("innerHTML"));
    }
    let mut browser = served.connect();
    browser.send_request("GET", "/", &["Accept: text/html,*/*;q=0.8"], b"");
    let reply = browser.reply();
    assert_eq!((reply.status, reply.header("location")), (303, Some("ui/")));
}

#[test]
fn figures_tell_of_calls_links_and_failures() {
    let good = chain_with("Name: good", [link(&["cat"]), link(&["sort"])]);
    let script = "cat > /dev/null; echo '<b>no</b>' >&2; exit 3";
    let bad = chain_with("Name: bad", [link(&["sh", "-c", script])]);
    let served = serve(&[&good, &bad]);
    for _ in 0..3 {
        served.post("/chains/good", b"x").expect(200);
    }
    served.post("/chains/bad", b"x").expect(502);
    let stats = eventually("figures of all calls", || {
        let stats = stats(&served);
        (stats["chains"][1]["times"]["count"] == 1).then_some(stats)
    });
    assert_eq!(stats["ready"], true);
    let (good, bad) = (&stats["chains"][0], &stats["chains"][1]);
    assert_eq!((&good["name"], &good["calls"]), (&"good".into(), &3.into()));
    assert_eq!(good["times"]["count"], 3);
    let buckets = good["times"]["buckets"].as_array().unwrap();
    assert_eq!(buckets.len(), stats["bounds"].as_array().unwrap().len() + 1);
    let counted: u64 = buckets.iter().map(|count| count.as_u64().unwrap()).sum();
    assert_eq!(counted, 3);
    let sort = &good["links"][1];
    assert_eq!((&sort["name"], &sort["runs"]), (&"sort".into(), &3.into()));
    assert!(sort["command"].as_str().unwrap().ends_with("sort"));
    assert_eq!(bad["failures"]["exited"], 1);
    let failures = stats["failures"].as_array().unwrap();
    let [failure] = &failures[..] else {
        panic!("{failures:?}")
    };
    assert_eq!(failure["chain"], "bad");
    assert_eq!(failure["stderr"], "<b>no</b>");
    assert_eq!(failure["pipestatus"], "3");
    assert_eq!(failure["reason"], "exited with code 3");
    let [runner] = &stats["runners"].as_array().unwrap()[..] else {
        panic!("{}", stats["runners"])
    };
    assert_eq!(runner["serving"], 3);
}

#[test]
fn one_chain_that_always_fails_does_not_hide_the_others() {
    let fails = |name: &str| chain_with(&format!("Name: {name}"), [link(&["false"])]);
    let (rare, common) = (fails("rare"), fails("common"));
    let served = serve(&[&rare, &common]);
    served.post("/chains/rare", b"").expect(502);
    for _ in 0..20 {
        served.post("/chains/common", b"").expect(502);
    }
    eventually("all failures to be known", || {
        let stats = stats(&served);
        let failures = stats["failures"].as_array().unwrap().clone();
        let of = |chain: &str| failures.iter().filter(|it| it["chain"] == chain).count();
        let is_counted = stats["chains"][1]["failures"]["exited"] == 20;
        is_counted.then(|| assert_eq!((of("rare"), of("common")), (1, 8)))
    });
}

#[test]
fn what_a_caller_is_to_blame_for_is_no_failure() {
    let text = "Name: one\nParameters: {n: {Pattern: '[0-9]'}}";
    let served = serve(&[&chain_with(text, [link(&["head", "-c", "${n}"])])]);
    served.post("/chains/one?n=x", b"").expect(400);
    served.post("/chains/one?n=1", b"ab").expect(200);
    assert_eq!(stats(&served)["failures"], Value::Array(Vec::new()));
}

#[test]
fn followers_are_told_every_second_and_are_bounded() {
    let served = serve(&[&chain_with("Name: one", [link(&["cat"])])]);
    let mut all: Vec<_> = (0..FOLLOWERS_MAX).map(|_| follow(&served)).collect();
    for (client, head) in &mut all {
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        assert!(head.contains("Content-Type: text/event-stream"), "{head}");
        let first = event(client)["now"].as_f64().unwrap();
        let second = event(client)["now"].as_f64().unwrap();
        assert!(second > first);
    }
    let (_, head) = follow(&served);
    assert!(head.starts_with("HTTP/1.1 503"), "{head}");
    // All others, and calls, are unhurt.
    stats(&served);
    served.post("/", b"x").expect(200);
    // One that leaves makes room.
    all.pop();
    eventually("room for one more", || {
        let (_, head) = follow(&served);
        head.starts_with("HTTP/1.1 200").then_some(())
    });
}

#[test]
fn followers_do_not_hold_up_the_end() {
    let served = serve(&[&chain_with("Name: one", [link(&["cat"])])]);
    let (mut client, _) = follow(&served);
    event(&mut client);
    Running::signal(&served, Signal::TERM);
    // The stream ends as it should, and does not break off.
    while client.chunk().is_some() {}
    served.end().expect_success();
}

/// `consecution top` of that server, to its end.
fn top(served: &Served, options: &[&str]) -> Finished {
    let mut top = consecution(home::shared());
    top.args(["top", "--url", &format!("http://{}", served.address)]);
    top.args(options);
    finish(top, b"", PATIENCE)
}

#[test]
fn a_terminal_shows_the_same() {
    let good = chain_with("Name: good", [link(&["cat"])]);
    let bad = chain_with("Name: bad", [link(&["false"])]);
    let served = serve(&[&good, &bad]);
    served.post("/chains/bad", b"").expect(502);
    let shown = top(&served, &["--once"]).expect_success();
    let shown = shown.text();
    assert!(shown.starts_with("all is well | version "), "{shown}");
    for part in [
        "CHAIN",
        "CALLS/S",
        "\ngood ",
        "\nbad ",
        "link 1 'false' exited with code 1",
    ] {
        assert!(shown.contains(part), "{shown}");
    }
    let json = top(&served, &["--once", "--json"]).expect_success();
    let lines: Vec<_> = json.text().lines().collect();
    let [line] = lines[..] else {
        panic!("{lines:?}")
    };
    let stats: Value = serde_json::from_str(line).unwrap();
    assert_eq!(stats["chains"][1]["failures"]["exited"], 1);
}

#[test]
fn who_cannot_be_asked_is_said() {
    let top = |url: &str, options: &[&str]| {
        let mut top = consecution(home::shared());
        top.args(["top", "--once", "--url", url]).args(options);
        finish(top, b"", PATIENCE).expect_code(125).stderr
    };
    // Port 1 is nobody's.
    let said = top("http://127.0.0.1:1", &[]);
    assert!(
        said.contains("http://127.0.0.1:1/stats") && said.contains("--url"),
        "{said}"
    );
    let said = top("nonsense", &[]);
    assert!(said.contains("nonsense/stats"), "{said}");
    let said = top("http://127.0.0.1:1", &["--key-file", "/none/key"]);
    assert!(said.contains("/none/key"), "{said}");
    // Something else that answers.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let answers = std::thread::spawn(move || {
        for reply in ["404 Not Found", "401 Unauthorized", "200 OK"] {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let body = "data: hello\n\n";
            let head = format!("HTTP/1.1 {reply}\r\nContent-Length: {}\r\n\r\n", body.len());
            stream.write_all((head + body).as_bytes()).unwrap();
        }
    });
    for part in ["no portal of this version", "--key-file", "it is no portal"] {
        let said = top(&format!("http://{address}"), &[]);
        assert!(said.contains(part), "{said}");
    }
    answers.join().unwrap();
}
