//! Clients and proxies that we did not write, over TLS: those that know HTTP/2 use it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::support::chain::{chain, link};
use crate::support::command::finish;
use crate::support::http::{Served, serve_with};
use crate::support::https::Authority;
use crate::support::proxy::{self, Proxy};
use test_support::PATIENCE;

/// What a debug build and a busy machine may take for all bodies of a client.
const LONG: Duration = Duration::from_secs(170);

/// In bytes: one that is a single packet, and two that no window holds.
const SIZES: &str = "1024,300000,12000000";

/// A chain that gives back what it gets, over TLS, and behind each proxy.
struct Ways {
    served: Served,
    authority: Authority,
    proxies: Vec<Proxy>,
}

impl Ways {
    fn open() -> Result<Ways, &'static str> {
        let authority = Authority::new();
        let options = authority.server("server").options();
        let options: Vec<_> = options.iter().map(String::as_str).collect();
        let served = serve_with(&[&chain([link(&["cat"]), link(&["cat"])])], &options);
        let proxies = proxy::all_encrypted(served.address, &authority.ca());
        let proxies = proxies.into_iter().collect::<Result<_, _>>()?;
        Ok(Ways {
            served,
            authority,
            proxies,
        })
    }

    fn direct(&self) -> String {
        format!("https://localhost:{}/", self.served.address.port())
    }

    /// Has a client send bodies each way, and look at what comes back.
    #[track_caller]
    fn there_and_back(&self, mut client: Command, urls: &[String]) {
        client.arg(SIZES).args(urls);
        let finished = finish(client, b"", LONG);
        let said = finished.text();
        assert_eq!(finished.code(), 0, "{said}{}", finished.stderr);
        for url in urls {
            for size in SIZES.split(',') {
                let came_back = |line: &str| line.starts_with(&format!("{url} {size} "));
                assert!(said.lines().any(came_back), "{url}, {size} bytes: {said}");
            }
        }
    }
}

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/http/clients")
        .join(name)
}

macro_rules! ways_for {
    ($program:literal) => {{
        if Command::new($program).arg("--version").output().is_err() {
            cannot_run_here!("there is no {}", $program);
        }
        match Ways::open() {
            Ok(ways) => ways,
            Err(missing) => cannot_run_here!("there is no {missing}"),
        }
    }};
}

#[test]
fn python_directly_and_behind_proxies_that_encrypt() {
    let ways = ways_for!("python3");
    let mut python = Command::new("python3");
    python.env("SSL_CERT_FILE", ways.authority.ca());
    python.arg(source("client.py"));
    let proxies = ways.proxies.iter().map(Proxy::url);
    let urls: Vec<_> = [ways.direct()].into_iter().chain(proxies).collect();
    ways.there_and_back(python, &urls);
}

#[test]
fn java_with_http2() {
    let ways = ways_for!("java");
    let trusted = ways.authority.path("trusted.p12");
    let mut keytool = Command::new("keytool");
    keytool.args(["-importcert", "-noprompt", "-alias", "ca", "-file"]);
    keytool
        .arg(ways.authority.ca())
        .arg("-keystore")
        .arg(&trusted);
    keytool.args(["-storetype", "PKCS12", "-storepass", "changeit"]);
    finish(keytool, b"", PATIENCE).expect_success();
    let mut java = Command::new("java");
    let trusted = format!("-Djavax.net.ssl.trustStore={}", trusted.display());
    java.arg(trusted)
        .arg("-Djavax.net.ssl.trustStorePassword=changeit");
    java.arg(source("Client.java"));
    ways.there_and_back(java, &[ways.direct()]);
}

#[test]
fn node_with_http2() {
    let ways = ways_for!("node");
    let mut node = Command::new("node");
    node.env("NODE_EXTRA_CA_CERTS", ways.authority.ca());
    node.arg(source("client-http2.mjs"));
    ways.there_and_back(node, &[ways.direct()]);
}
