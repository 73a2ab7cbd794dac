//! Clients and proxies that we did not write: what each sends comes back whole,
//! whichever way it went, whether they read while they send or not.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use crate::support::chain::{chain, chain_with, link, shell};
use crate::support::command::finish;
use crate::support::http::{Client, Served, serve, serve_with};
use crate::support::proxy::{self, Proxy};
use test_support::eventually;

/// What a debug build and a busy machine may take for all bodies of a client: a
/// little less than any test may take.
const PATIENCE: Duration = Duration::from_secs(170);

/// In bytes: one that is a single packet, one that pipes hold, and two that
/// nothing between a client and a link holds.
const SIZES: [usize; 4] = [1 << 10, 64 << 10, 4 << 20, 48 << 20];

/// More than the 64 MiB that are kept in memory for all calls together, and what
/// pipes, sockets and proxies may hold besides.
const HUGE: usize = 96 << 20;

/// A chain that gives back what it gets, directly and behind each proxy.
struct Ways {
    served: Served,
    proxies: Vec<Proxy>,
}

impl Ways {
    fn open(options: &[&str]) -> Result<Ways, &'static str> {
        let served = serve_with(&[&chain([link(&["cat"]), link(&["cat"])])], options);
        let proxies = proxy::all(served.address)
            .into_iter()
            .collect::<Result<_, _>>()?;
        Ok(Ways { served, proxies })
    }

    fn urls(&self) -> Vec<String> {
        let direct = format!("http://{}/", self.served.address);
        std::iter::once(direct)
            .chain(self.proxies.iter().map(Proxy::url))
            .collect()
    }
}

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/http/clients")
        .join(name)
}

/// Has a client send bodies of those sizes each way, and look at what comes back.
/// It is one process for all of them, since some take seconds to start.
#[track_caller]
fn there_and_back(ways: &Ways, program: &str, file: &str, sizes: &[usize]) {
    let (urls, sizes) = (ways.urls(), sizes.iter().map(usize::to_string));
    let sizes: Vec<_> = sizes.collect();
    let mut client = Command::new(program);
    client.arg(source(file)).arg(sizes.join(",")).args(&urls);
    let finished = finish(client, b"", PATIENCE);
    let said = finished.text();
    assert_eq!(finished.code(), 0, "{said}{}", finished.stderr);
    for url in &urls {
        for size in &sizes {
            let came_back = |line: &str| line.starts_with(&format!("{url} {size} "));
            assert!(said.lines().any(came_back), "{url}, {size} bytes: {said}");
        }
    }
}

/// A test of all ways, where the program is here.
macro_rules! ways_for {
    ($program:literal) => {
        ways_for!($program, &[])
    };
    ($program:literal, $options:expr) => {{
        if Command::new($program).arg("--version").output().is_err() {
            cannot_run_here!("there is no {}", $program);
        }
        match Ways::open($options) {
            Ok(ways) => ways,
            Err(missing) => cannot_run_here!("there is no {missing}"),
        }
    }};
}

#[test]
fn python() {
    let ways = ways_for!("python3");
    there_and_back(&ways, "python3", "client.py", &SIZES);
}

#[test]
fn bodies_that_no_memory_keeps() {
    let ways = ways_for!("python3");
    there_and_back(&ways, "python3", "client.py", &[HUGE]);
}

#[test]
fn java() {
    let ways = ways_for!("java");
    there_and_back(&ways, "java", "Client.java", &SIZES);
}

#[test]
fn node() {
    let ways = ways_for!("node");
    there_and_back(&ways, "node", "client.mjs", &SIZES);
}

#[test]
fn chromium() {
    let ways = ways_for!("chromium", &["--cors-origin", "*"]);
    let task = format!(r#"{{"urls":{:?},"sizes":{SIZES:?}}}"#, ways.urls());
    let page = std::fs::read_to_string(source("page.html")).unwrap();
    let (address, results) = host(page.replace("TASK", &task));
    let profile = tempfile::tempdir().unwrap();
    let mut browser = Command::new("chromium");
    browser.args(["--headless=new", "--no-sandbox", "--disable-gpu"]);
    browser.args(["--no-first-run", "--disable-dev-shm-usage"]);
    browser.arg(format!("--user-data-dir={}", profile.path().display()));
    browser.arg(format!("http://{address}/"));
    browser
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let _browser = Killed(browser.spawn().unwrap());
    let result = results
        .recv_timeout(PATIENCE)
        .expect("the page says nothing");
    assert!(result.ends_with("all came back"), "{result}");
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Gives a page to whoever asks, and passes on what is posted.
fn host(page: String) -> (SocketAddr, Receiver<String>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, results) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (page, sender) = (page.clone(), sender.clone());
            std::thread::spawn(move || answer(stream.unwrap(), &page, &sender));
        }
    });
    (address, results)
}

fn answer(mut stream: TcpStream, page: &str, results: &std::sync::mpsc::Sender<String>) {
    let mut request = BufReader::new(stream.try_clone().unwrap());
    let (mut head, mut length) = (String::new(), 0);
    while request.read_line(&mut head).unwrap_or(0) > 2 {
        let line = head.lines().last().unwrap_or_default().to_ascii_lowercase();
        if let Some(bytes) = line.strip_prefix("content-length:") {
            length = bytes.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    let _ = request.read_exact(&mut body);
    let page = if head.starts_with("GET / ") { page } else { "" };
    let _ = write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{page}",
        page.len()
    );
    if head.starts_with("POST ") {
        let _ = results.send(String::from_utf8_lossy(&body).into_owned());
    }
}

/// One call over a proxy, read as it came.
fn call(proxy: &Proxy, path: &str, fields: &str, body: &[u8]) -> Client {
    let mut client = Client::to(proxy.address).unwrap();
    client.send(format!(
        "POST /pipes{path} HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n{fields}\r\n",
        body.len()
    ));
    client.send(body);
    client
}

#[test]
fn failures_and_what_is_known_of_links_pass_through_proxies() {
    let fails = chain([shell("cat > /dev/null; echo why >&2; exit 3")]);
    let slow = chain([shell("echo one; sleep 0.3; echo two")]);
    let (fails_name, slow_name) = (name(&fails), name(&slow));
    let served = serve(&[&fails, &slow]);
    for proxy in proxy::all(served.address) {
        let proxy = match proxy {
            Ok(proxy) => proxy,
            Err(missing) => cannot_run_here!("there is no {missing}"),
        };
        let failed = call(&proxy, &format!("/chains/{fails_name}"), "", b"in").reply();
        let problem = failed.problem(502);
        assert_eq!(problem["stderr"], "why\n", "{}", proxy.name);

        let mut client = call(
            &proxy,
            &format!("/chains/{slow_name}"),
            "TE: trailers\r\n",
            b"",
        );
        let reply = client.reply().expect(200);
        assert_eq!(reply.text(), "one\ntwo\n", "{}", proxy.name);
        let passes_trailers = !proxy.name.starts_with("nginx");
        let pipestatus = reply.trailer("Consecution-Pipestatus");
        assert_eq!(pipestatus, passes_trailers.then_some("0"), "{}", proxy.name);
    }
}

#[test]
fn a_body_that_is_cut_off_is_cut_off_behind_proxies() {
    let failing = chain([shell("head -c 100000 /dev/zero; sleep 0.3; exit 3")]);
    let served = serve(&[&failing]);
    for proxy in proxy::all(served.address) {
        let proxy = match proxy {
            Ok(proxy) => proxy,
            Err(missing) => cannot_run_here!("there is no {missing}"),
        };
        let reply = call(&proxy, "/", "TE: trailers\r\n", b"in").reply();
        let is_told = !reply.is_complete || reply.trailer("Consecution-Pipestatus").is_none();
        assert!(is_told, "{}: {}", proxy.name, reply.status);
        // Caddy 2.6 ends it as if nothing had been lost, as the documentation says.
        if proxy.name != "Caddy" {
            assert!(!reply.is_complete, "{}: {}", proxy.name, reply.status);
        }
    }
}

#[test]
fn both_ways_at_once_through_haproxy() {
    let served = serve(&[&chain([link(&["cat"])])]);
    let Some(proxy) = proxy::one("HAProxy", served.address) else {
        cannot_run_here!("there is no haproxy");
    };
    let mut client = Client::to(proxy.address).unwrap();
    client.send(
        "POST /pipes/ HTTP/1.1\r\nHost: test\r\nPrefer: duplex\r\n\
         Transfer-Encoding: chunked\r\n\r\n",
    );
    client.send_chunk(b"one");
    let head = client.head();
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert_eq!(client.chunk().unwrap(), b"one");
    client.send_chunk(b"two");
    assert_eq!(client.chunk().unwrap(), b"two");
    client.end_chunks();
    assert_eq!(client.chunk().unwrap(), b"");
}

#[test]
fn who_asks_for_both_ways_at_once_gets_everything_behind_each_proxy() {
    let served = serve(&[&chain([link(&["cat"])])]);
    let body: Vec<u8> = (0..48_usize << 20).map(|at| (at >> 4) as u8).collect();
    for proxy in proxy::all(served.address) {
        let proxy = match proxy {
            Ok(proxy) => proxy,
            Err(missing) => cannot_run_here!("there is no {missing}"),
        };
        // Left to itself it passes on what it cannot do.
        if proxy.name == "nginx by itself" {
            continue;
        }
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--max-time", "60"]);
        curl.args([
            "-H",
            "Prefer: duplex",
            "-H",
            "Expect:",
            "--data-binary",
            "@-",
        ]);
        curl.arg(proxy.url());
        let finished = finish(curl, &body, PATIENCE);
        assert_eq!(finished.code(), 0, "{}: {}", proxy.name, finished.stderr);
        assert!(finished.stdout == body, "{}", proxy.name);
    }
}

fn name(chain: &crate::support::chain::ChainFile) -> String {
    let stem = chain.path().file_stem().unwrap();
    stem.to_str().unwrap().to_owned()
}

#[test]
fn a_client_that_leaves_a_proxy_leaves_the_call() {
    let served = serve(&[&chain_with("Deadline: none", [shell("sleep 1000")])]);
    for proxy in proxy::all(served.address) {
        let proxy = match proxy {
            Ok(proxy) => proxy,
            Err(missing) => cannot_run_here!("there is no {missing}"),
        };
        let client = call(&proxy, "/", "", b"in");
        until_in_flight(&served, 1);
        drop(client);
        until_in_flight(&served, 0);
        eprintln!("{} has told", proxy.name);
    }
}

/// Waits until so many calls are under way.
#[track_caller]
fn until_in_flight(served: &Served, count: usize) {
    eventually(&format!("{count} calls under way"), || {
        let metrics = served.request("GET", "/metrics", b"");
        let mut lines = metrics.text().lines();
        let line = lines.find(|line| line.starts_with("consecution_calls_in_flight{"))?;
        line.ends_with(&format!(" {count}")).then_some(())
    });
}
