//! Who may do what: keys in a file, and what is answered to everyone else.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::chain::{chain_with, link, shell};
use crate::support::command::{PROGRAM, finish};
use crate::support::http::{Reply, Served, serve_with};
use tempfile::TempDir;
use test_support::{PATIENCE, eventually};

/// A file with keys, made by `consecution key new`.
struct KeyFile {
    folder: TempDir,
    entries: String,
}

impl KeyFile {
    fn new() -> KeyFile {
        KeyFile {
            folder: tempfile::tempdir().unwrap(),
            entries: "Keys:\n".to_owned(),
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("keys.yaml")
    }

    /// Adds a key to the file, and returns its token.
    fn add(&mut self, name: &str, may: &[&str]) -> String {
        let (token, entry) = new_key(name, may);
        self.entries += &entry;
        self.write(&self.entries);
        token
    }

    /// Replaces the file.
    fn write(&self, text: &str) {
        let new = self.folder.path().join("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, self.path()).unwrap();
    }

    fn options(&self) -> [String; 2] {
        ["--keys".to_owned(), self.path().display().to_string()]
    }
}

/// A token and its entry, as the command prints them.
fn new_key(name: &str, may: &[&str]) -> (String, String) {
    let mut command = Command::new(PROGRAM);
    command.args(["key", "new", name]);
    for right in may {
        command.args(["--may", right]);
    }
    let finished = finish(command, b"", PATIENCE).expect_success();
    let mut parts = finished.text().split("\n\n");
    let token = parts.nth(1).unwrap().to_owned();
    assert_eq!(token.len(), 43, "{}", finished.text());
    (token, parts.nth(1).unwrap().to_owned())
}

fn serve_keyed(keys: &KeyFile, more: &[&str]) -> Served {
    let one = chain_with("Name: one", [link(&["cat"])]);
    let two = chain_with("Name: two", [shell("cat; echo bad >&2; exit 3")]);
    let options = keys.options();
    let mut options: Vec<_> = options.iter().map(String::as_str).collect();
    options.extend(more);
    serve_with(&[&one, &two], &options)
}

trait Ask {
    fn ask(&self, method: &str, path: &str, fields: &[&str]) -> Reply;
}

impl Ask for Served {
    fn ask(&self, method: &str, path: &str, fields: &[&str]) -> Reply {
        let mut client = self.connect();
        let body: &[u8] = if method == "POST" { b"some" } else { b"" };
        client.send_request(method, path, fields, body);
        client.reply()
    }
}

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}")
}

#[test]
fn each_key_opens_what_it_may() {
    let mut keys = KeyFile::new();
    let all = bearer(&keys.add("all", &["view", "call:*", "metrics"]));
    let shop = bearer(&keys.add("shop", &["call:o*"]));
    let eye = bearer(&keys.add("eye", &["view"]));
    let scraper = bearer(&keys.add("scraper", &["metrics"]));
    let served = serve_keyed(&keys, &["--admin-listen", "127.0.0.1:0"]);
    // Of what each gets there: all, shop, eye, scraper.
    for (request, wanted) in [
        ("GET /healthz", [200, 200, 200, 200]),
        ("GET /readyz", [200, 200, 200, 200]),
        ("GET /chains", [200, 200, 200, 403]),
        ("GET /chains/one/readyz", [200, 200, 200, 403]),
        ("GET /chains/two/readyz", [200, 403, 200, 403]),
        ("GET /metrics", [200, 403, 403, 200]),
        ("POST /", [200, 200, 403, 403]),
        ("POST /chains/one", [200, 200, 403, 403]),
        ("POST /chains/two", [502, 403, 403, 403]),
        // Who may not call a chain does not learn that there is none.
        ("POST /chains/three", [404, 403, 403, 403]),
        ("GET /nothing", [404, 404, 404, 404]),
        ("DELETE /", [405, 405, 405, 405]),
    ] {
        let (method, path) = request.split_once(' ').unwrap();
        for (key, wanted) in [&all, &shop, &eye, &scraper].into_iter().zip(wanted) {
            let reply = served.ask(method, path, &[key]);
            assert_eq!(reply.status, wanted, "{request} {key}: {}", reply.text());
        }
        let is_open = matches!(path, "/healthz" | "/readyz");
        let without = served.ask(method, path, &[]);
        assert_eq!(without.status, if is_open { 200 } else { 401 }, "{request}");
    }
    let missing = served.ask("POST", "/chains/two", &[&shop]).problem(403);
    assert_eq!(missing["missing"], "call:two");
    let detail = "the key 'shop' has no `call:two` among what it may do";
    assert_eq!(missing["detail"], detail);
    let names = |key: &str| {
        let listed = served.ask("GET", "/chains", &[key]).expect(200);
        let listed: serde_json::Value = serde_json::from_slice(&listed.body).unwrap();
        let names = listed.as_array().unwrap().iter();
        let names: Vec<_> = names
            .map(|it| it["name"].as_str().unwrap().to_owned())
            .collect();
        names.join(" ")
    };
    assert_eq!(
        (names(&eye), names(&shop)),
        ("one two".into(), "one".into())
    );
    // Without a key nobody learns which chains there are.
    let ready = |fields: &[&str]| served.ask("GET", "/readyz", fields).text().to_owned();
    assert_eq!(ready(&[]), "{\"ready\":true}\n");
    assert_eq!(ready(&[&shop]), "{\"ready\":true}\n");
    assert!(ready(&[&eye]).contains("\"missing\":[]"));
    log_and_metrics(&served, &all, &shop);
}

/// The log names the key of a call that has failed, and no token; refusals are counted.
fn log_and_metrics(served: &Served, all: &str, shop: &str) {
    let line = served.until_said("a call failed");
    assert!(line.contains("key=\"all\""), "{line}");
    for key in [all, shop] {
        let token = key.rsplit(' ').next().unwrap();
        assert!(!served.said().contains(token));
    }
    let metrics = served.ask("GET", "/metrics", &[all]).expect(200);
    for (reason, least) in [("no_key", 5), ("not_allowed", 10)] {
        let name = format!("consecution_http_refusals_total{{reason=\"{reason}\"}} ");
        let line = metrics
            .text()
            .lines()
            .find_map(|line| line.strip_prefix(&name));
        assert!(
            line.unwrap().parse::<u32>().unwrap() >= least,
            "{reason}: {line:?}"
        );
    }
    let admin = served.until_said("looked after at http://");
    let admin = admin.rsplit("http://").next().unwrap().parse().unwrap();
    let mut client = crate::support::http::Client::to(admin).unwrap();
    client.send_request("GET", "/metrics", &[], b"");
    assert_eq!(client.reply().status, 401);
}

#[test]
fn a_key_is_a_bearers_or_a_password() {
    let mut keys = KeyFile::new();
    let token = keys.add("shop", &["call:one"]);
    let served = serve_keyed(&keys, &[]);
    let user = format!("anyone:{token}");
    let mut curl = served.curl("/", &["--user", &user, "--data-binary", "some"]);
    curl.args(["--write-out", " %{http_code}"]);
    finish(curl, b"", PATIENCE).expect_output("some 200");
    let wrong = served.ask("POST", "/", &["Authorization: Bearer guess"]);
    assert_eq!(
        wrong.header("www-authenticate"),
        Some("Bearer realm=\"consecution\"")
    );
    let problem = wrong.problem(401);
    assert_eq!(problem["detail"], "nobody has this key");
    for (field, wanted) in [
        ("Authorization: Digest x", "neither `Bearer TOKEN` nor"),
        ("Authorization: Basic !", "no user and password in Base64"),
    ] {
        let problem = served.ask("POST", "/", &[field]).problem(401);
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains(wanted), "{detail}");
    }
    // A browser opens its own dialog for a password, but not above a page's script.
    let basic = |fields: &[&str]| {
        let mut client = served.connect();
        client.send_request("GET", "/chains", fields, b"");
        client.head().contains("Basic realm=")
    };
    assert!(basic(&[]) && basic(&["Sec-Fetch-Mode: navigate"]));
    assert!(!basic(&["Sec-Fetch-Mode: cors"]));
}

#[test]
fn a_client_that_sends_much_before_it_reads_learns_that_it_has_no_key() {
    let mut keys = KeyFile::new();
    keys.add("shop", &["call:one"]);
    let served = serve_keyed(&keys, &[]);
    let body = vec![b'x'; 8 << 20];
    served.request("POST", "/", &body).problem(401);
}

#[test]
fn who_tries_keys_is_slowed_down_and_others_are_not() {
    let mut keys = KeyFile::new();
    let right = bearer(&keys.add("shop", &["call:one"]));
    let served = serve_keyed(&keys, &[]);
    let began = Instant::now();
    let mut guessing: Vec<_> = (0..30).map(|_| served.connect()).collect();
    for (at, client) in guessing.iter_mut().enumerate() {
        let guess = bearer(&format!("guess{at}"));
        client.send_request("POST", "/", &[&guess], b"");
    }
    // Those that are too many are told so at once.
    assert_eq!(
        served.ask("POST", "/", &[&right]).expect(200).text(),
        "some"
    );
    let statuses: Vec<_> = guessing.iter_mut().map(|it| it.reply().status).collect();
    assert!(
        began.elapsed() >= Duration::from_secs(1),
        "{:?}",
        began.elapsed()
    );
    let count = |wanted: u16| statuses.iter().filter(|it| **it == wanted).count();
    assert_eq!((count(401), count(429)), (8, 22), "{statuses:?}");
    let line = served.until_said("a wrong key has come");
    assert!(line.contains("address=127.0.0.1"), "{line}");
    let said = served.said();
    assert_eq!(said.matches("a wrong key has come").count(), 1, "{said}");
    assert!(!said.contains("guess1"), "{said}");
}

#[test]
fn keys_are_read_again_while_calls_run() {
    let mut keys = KeyFile::new();
    let first = bearer(&keys.add("first", &["call:one"]));
    let served = serve_keyed(&keys, &[]);
    // One that has begun, and a connection that stays open.
    let mut running = served.connect();
    running.send(format!(
        "POST / HTTP/1.1\r\nHost: test\r\n{first}\r\nTransfer-Encoding: chunked\r\n\r\n"
    ));
    running.send_chunk(b"this");
    let mut kept = served.connect();
    kept.send_request("POST", "/", &[&first], b"some");
    kept.reply().expect(200);

    let mut others = KeyFile::new();
    let second = bearer(&others.add("second", &["call:one"]));
    keys.write(&others.entries);
    served.until_said("the keys were read again");
    kept.send_request("POST", "/", &[&first], b"some");
    kept.reply().problem(401);
    kept.send_request("POST", "/", &[&second], b"some");
    assert_eq!(kept.reply().expect(200).text(), "some");
    running.end_chunks();
    assert_eq!(running.reply().expect(200).text(), "this");

    // A broken file changes nothing, and neither does one that is away.
    keys.write("Keys:\n- Name: hidden\n  SHA256: hidden\n");
    let line = served.until_said("the keys stay as they were");
    assert!(
        line.contains("ERROR") && line.contains("line 2, column 3: the key has no `May`"),
        "{line}"
    );
    assert_eq!(served.ask("POST", "/", &[&second]).status, 200);
    std::fs::remove_file(keys.path()).unwrap();
    eventually("it is said that the file is away", || {
        served.said().contains("No such file").then_some(())
    });
    assert_eq!(served.ask("POST", "/", &[&second]).status, 200);
    keys.write("Keys: []");
    eventually("nobody has a key", || {
        (served.ask("POST", "/", &[&second]).status == 401).then_some(())
    });
    assert!(!served.said().contains("hidden"));
}

#[test]
fn a_file_that_is_broken_at_the_start_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.yaml");
    let fails = |path: &Path, wanted: &str| {
        let one = chain_with("Name: one", [link(&["cat"])]);
        let option = format!("--keys={}", path.display());
        let command = crate::support::http::serving(&[&one], &[&option]);
        let finished = finish(command, b"", PATIENCE).expect_code(125);
        finished.expect_stderr(&["consecution: failed to ", wanted]);
    };
    fails(&path, "read the keys in ");
    std::fs::write(&path, "Keys:\n- Name: a\n  SHA256: hidden\n  May: [veiw]\n").unwrap();
    fails(
        &path,
        "line 3, column 11: `SHA256` is no SHA-256 sum; line 4, column 9: `veiw` is no right",
    );
    let finished = finish(Command::new(PROGRAM), b"", PATIENCE);
    assert_eq!(finished.code(), 2);
}

#[test]
fn what_is_open_to_all_is_said_where_others_can_reach_it() {
    let one = chain_with("Name: one", [link(&["cat"])]);
    let listen = |options: &[&str]| {
        let mut command = crate::support::command::consecution(crate::support::home::shared());
        command
            .args(["serve", "--listen"])
            .args(options)
            .arg(one.path());
        let served = crate::support::http::listen(command);
        served.await_line(" INFO ready");
        served.said()
    };
    let open = "may do everything there";
    assert!(!listen(&["127.0.0.1:0"]).contains(open));
    let said = listen(&["0.0.0.0:0"]);
    assert!(said.contains(open) && said.contains("WARN"), "{said}");
    let keys = KeyFile::new();
    keys.write("Keys: []");
    let file = keys.path().display().to_string();
    let said = listen(&["0.0.0.0:0", "--keys", &file]);
    assert!(!said.contains(open), "{said}");
    assert!(said.contains("keys travel unencrypted"), "{said}");
}

#[test]
fn the_documented_files_are_key_files() {
    let of_http = format!("Keys:\n{}", crate::support::documented_for_http("Keys:"));
    let of_operations = crate::support::documented("# /etc/consecution/keys.yaml");
    for text in [of_http, of_operations] {
        let file = consecution::chain::KeyFile::parse(&text, "the document").unwrap();
        assert!(file.keys[0].may_call("words"), "{text}");
    }
}
