//! Data and secrets that some runners have and others have not, and what is told of them.

use std::fs;

use crate::support::chain::{ChainFile, chain_with, shell};
use crate::support::http::{Served, serve_with};
use crate::support::network::{Servers, until_ready};
use test_support::eventually;
use test_support::processes::descendants;

const SECRET: &str = "s3cret-91ac3f";

fn secrets() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("key"), SECRET).unwrap();
    folder
}

fn option(folder: &tempfile::TempDir) -> String {
    format!("stripe={}", folder.path().join("key").display())
}

fn chain() -> ChainFile {
    let link = shell("cat; cat /run/secrets/key | cut -c 1-6; exit 3");
    let link = link.with("Secrets", "{/run/secrets/key: stripe}");
    chain_with("Name: keyed", [link.with("AcceptedExitCodes", "[3]")])
}

fn everything_in_etcd(servers: &Servers) -> String {
    servers.etcd.ctl(["get", "--prefix", ""])
}

#[test]
fn a_secret_is_only_where_its_command_is() {
    let Some(servers) = Servers::start() else {
        cannot_run_here!("nats-server, etcd or etcdctl is missing");
    };
    let folder = secrets();
    let chain = chain();
    let runner = servers.runner_with("one", &["--secret", &option(&folder), "--log", "trace"]);
    let portal = servers.portal_with(&[&chain], &["--log", "trace"]);
    until_ready(&portal);
    let reply = portal.post("/chains/keyed", b"x\n").expect(200);
    assert_eq!(reply.text(), "x\ns3cret\n");
    servers.send(&chain, b"x\n").expect_success();
    let link = servers.link(&["list"]).expect_success().text().to_owned();
    let told = [
        portal
            .request("GET", "/chains", b"")
            .expect(200)
            .text()
            .to_owned(),
        portal
            .request("GET", "/metrics", b"")
            .expect(200)
            .text()
            .to_owned(),
        everything_in_etcd(&servers),
        link,
        runner.said(),
    ];
    assert!(told[2].contains("/run/secrets/key: stripe"), "{}", told[2]);
    for told in &told {
        assert!(!told.contains(SECRET), "{told}");
    }
    for process in descendants(runner.process()) {
        for name in ["environ", "cmdline", "mountinfo", "maps", "status"] {
            let shown = fs::read(format!("/proc/{}/{name}", process.id)).unwrap_or_default();
            assert!(!String::from_utf8_lossy(&shown).contains(SECRET), "{name}");
        }
    }
    runner.signal(rustix::process::Signal::TERM);
    assert!(!runner.end().stderr.contains(SECRET));
}

#[test]
fn a_runner_without_a_secret_does_not_serve_the_link_and_says_so() {
    let Some(servers) = Servers::start() else {
        cannot_run_here!("nats-server, etcd or etcdctl is missing");
    };
    let folder = secrets();
    let chain = chain();
    let without = servers.runner("without");
    let portal = servers.portal(&[&chain]);
    let line = without.await_line("the link is broken");
    assert!(
        line.contains("the secret \"stripe\"") && line.contains("--secret"),
        "{line}"
    );
    assert!(!line.contains(SECRET));
    let state = eventually("the state of the link", || {
        let told = everything_in_etcd(&servers);
        told.contains("the secret").then_some(told)
    });
    assert!(state.contains("stripe"), "{state}");
    let _with = servers.runner_with("with", &["--secret", &option(&folder)]);
    until_ready(&portal);
    for _ in 0..5 {
        portal.post("/chains/keyed", b"x\n").expect(200);
    }
}

fn says(served: &Served, wanted: &str) {
    eventually(&format!("a reply with {wanted:?}"), || {
        let reply = served.post("/chains/keyed", b"").expect(200);
        (reply.text() == wanted).then_some(())
    });
}

#[test]
fn what_has_changed_is_there_soon_without_a_restart() {
    let folder = secrets();
    let at = |name: &str| folder.path().join(name);
    for version in ["one", "two"] {
        fs::create_dir(at(version)).unwrap();
        fs::write(at(version).join("model"), version).unwrap();
    }
    std::os::unix::fs::symlink("one", at("current")).unwrap();
    let everyone = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(folder.path(), everyone).unwrap();
    let link = shell("cat /run/secrets/key /models/model; cat");
    let link = link.with("Secrets", "{/run/secrets/key: stripe}");
    let chain = chain_with("Name: keyed", [link.with("Data", "{/models: whisper}")]);
    let data = format!("whisper={}", at("current").display());
    let served = serve_with(&[&chain], &["--secret", &option(&folder), "--data", &data]);
    says(&served, &format!("{SECRET}one"));
    fs::write(at("new"), "another").unwrap();
    fs::rename(at("new"), at("key")).unwrap();
    says(&served, "anotherone");
    std::os::unix::fs::symlink("two", at("next")).unwrap();
    fs::rename(at("next"), at("current")).unwrap();
    says(&served, "anothertwo");
    // What cannot be read does not take the place of what could.
    fs::remove_file(at("key")).unwrap();
    served.await_line("goes on with the data and secrets that it had");
    says(&served, "anothertwo");
    fs::write(at("key"), "last").unwrap();
    says(&served, "lasttwo");
}
