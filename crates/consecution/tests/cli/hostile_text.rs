//! Promise: what strangers name things, and what they say, does not reach a
//! terminal or a log as anything but text on one line.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;

use crate::support::command::{Finished, consecution, finish};
use crate::support::home;
use test_support::PATIENCE;
use test_support::tars::tar_of;

/// Begins a line, clears the screen in two ways, turns text around.
const EVIL: &str = "evil\n\u{1b}[2J\u{9b}2J\u{202e}\u{2028}end";
/// What is shown of it.
const SHOWN: &str = r"evil\n\u001b[2J\u009b2J\u202e\u2028end";

fn import(home: &Path, input: &[u8]) -> Finished {
    let mut import = consecution(home);
    import.args(["image", "import", "x", "-"]);
    finish(import, input, PATIENCE)
}

/// Asserts that what was said is a number of lines with nothing raw in them, and
/// shows what strangers said.
#[track_caller]
fn assert_harmless(said: &str) {
    let is_raw = |character: char| !matches!(character, '\n' | ' '..='~' | '…');
    assert!(!said.chars().any(is_raw), "{said:?}");
    assert!(said.contains(SHOWN), "{said}");
    for line in said.lines() {
        let is_ours = ["consecution: ", "{\""]
            .iter()
            .any(|begin| line.starts_with(begin))
            || line.starts_with("20") && line.contains("Z  WARN ");
        assert!(is_ours, "{said}");
    }
}

#[test]
fn names_in_archives_are_text() {
    let home = home::empty();
    let path = format!("{EVIL}/../out");
    let root = tar_of(&[(&path, b"")]);
    let tags = serde_json::json!([
        {"Config": "a", "RepoTags": [EVIL], "Layers": []},
        {"Config": "b", "RepoTags": ["other"], "Layers": []},
    ]);
    let saved = tar_of(&[("manifest.json", tags.to_string().as_bytes())]);
    let config = serde_json::json!([{"Config": EVIL, "RepoTags": [], "Layers": []}]);
    let without = tar_of(&[("manifest.json", config.to_string().as_bytes())]);
    let entries = serde_json::json!({"schemaVersion": 2, "mediaType": EVIL});
    let layout = tar_of(&[
        ("oci-layout", b"{}"),
        ("index.json", entries.to_string().as_bytes()),
    ]);
    for archive in [root, saved, without, layout] {
        let imported = import(home.path(), &archive);
        assert_eq!(imported.code(), 125, "{}", imported.stderr);
        assert_harmless(&imported.stderr);
    }
}

/// A registry that answers everything with this document; its address.
fn registry(document: String) -> String {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json";
    answering(head, document)
}

/// A server that answers everything with these; its address.
fn answering(head: &'static str, document: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 8192]);
            let length = document.len();
            let _ = write!(
                stream,
                "{head}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{document}"
            );
        }
    });
    address
}

#[test]
fn what_a_registry_says_is_text_in_errors_and_in_the_log() {
    let home = home::empty();
    let document = serde_json::json!({"schemaVersion": 2, "mediaType": EVIL});
    let address = registry(document.to_string());
    for format in ["text", "json"] {
        let mut pull = consecution(home.path());
        pull.args(["image", "pull", &format!("{address}/x")]);
        pull.args(["--mirror", &format!("{address}=http://{address}")]);
        pull.args(["--log-format", format]);
        let pulled = finish(pull, b"", PATIENCE);
        assert_eq!(pulled.code(), 125);
        assert_harmless(&pulled.stderr);
        let (logged, error) = pulled.stderr.split_once('\n').unwrap();
        assert!(logged.contains("mirror failed"), "{logged}");
        assert!(error.starts_with("consecution: failed to"), "{error}");
        if format == "json" {
            let logged: serde_json::Value = serde_json::from_str(logged).unwrap();
            let said = logged["fields"]["error"].as_str().unwrap();
            assert!(said.contains(EVIL), "{said:?}");
        }
    }
}

#[test]
fn what_a_credential_helper_says_is_text_and_logged_once() {
    let home = home::empty();
    let head = "HTTP/1.1 401 No\r\nWWW-Authenticate: Basic realm=\"x\"";
    let address = answering(head, String::new());
    let said = EVIL.replace(char::is_whitespace, "");
    let helper = home.path().join("docker-credential-evil");
    let script = format!("#!/bin/sh\nprintf '%s' '{said}' >&2\nexit 1\n");
    std::fs::write(&helper, script).unwrap();
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&helper, executable).unwrap();
    let config = home.path().join("config.json");
    std::fs::write(config, r#"{"credsStore":"evil"}"#).unwrap();
    let mut pull = consecution(home.path());
    pull.args(["image", "pull", &format!("{address}/x")]);
    pull.args(["--mirror", &format!("{address}=http://{address}")]);
    pull.env("DOCKER_CONFIG", home.path());
    let path = std::env::var("PATH").unwrap();
    pull.env("PATH", format!("{}:{path}", home.path().display()));
    let pulled = finish(pull, b"", PATIENCE);
    assert_eq!(pulled.code(), 125);
    let is_raw = |character: char| !matches!(character, '\n' | ' '..='~' | '…');
    assert!(!pulled.stderr.chars().any(is_raw), "{:?}", pulled.stderr);
    let shown = r"says: evil\u001b[2J\u009b2J\u202eend";
    assert!(pulled.stderr.contains(shown), "{}", pulled.stderr);
    // The mirror and the registry ask alike.
    let logged = pulled
        .stderr
        .matches("going on without credentials")
        .count();
    assert_eq!(logged, 1, "{}", pulled.stderr);
    let error = pulled.stderr.lines().last().unwrap();
    assert!(error.contains("401") && error.contains(shown), "{error}");
}
