//! Servers that ask who is there: the seed chain with no more than
//! `docs/operations.md` gives portals and runners.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use crate::support::chain::{ChainFile, chain, link};
use crate::support::command::{Finished, finish};
use crate::support::etcd::{Certificates, Etcd};
use crate::support::http::listen;
use crate::support::nats::NatsServer;
use crate::support::network::{Servers, until_ready};
use crate::support::running::Running;
use test_support::{PATIENCE, eventually};

const DOCUMENT: &str = include_str!("../../../../docs/operations.md");

/// What all passwords there begin with.
const PASSWORD: &str = "change-me-";

/// More than fits into one message.
const LARGE_BYTES: usize = 3 << 20;

/// The code block that begins with this line.
fn block(language: &str, first_line: &str) -> &'static str {
    let start = format!("```{language}\n{first_line}");
    let (_, block) = DOCUMENT.split_once(&start).unwrap();
    block.split_once("```").unwrap().0
}

/// Both servers as the document has them, with certificates on both sides.
struct Secured {
    servers: Servers,
    folder: TempDir,
}

impl Secured {
    fn start() -> Option<Secured> {
        Secured::start_with(|_| true)
    }

    /// With those lines of etcd's roles only.
    fn start_with(is_in: fn(&&str) -> bool) -> Option<Secured> {
        let folder = tempfile::tempdir().unwrap();
        Certificates::new(folder.path());
        let files = format!("{}/", folder.path().display());
        let config = block("", "# nats-server: ").split_once('\n').unwrap().1;
        let nats = NatsServer::start(&config.replace("/etc/nats/", &files))?;
        let mut etcd = Etcd::reserve()?.with_certificates();
        etcd.run();
        let script = block("sh", "# etcd: users and roles");
        let lines = script.lines().filter(|line| line.starts_with("etcdctl "));
        for line in lines.filter(is_in) {
            etcd.ctl(line.split_whitespace().skip(1));
        }
        etcd.user = Some(format!("root:{PASSWORD}root"));
        let servers = Servers { nats, etcd };
        Some(Secured { servers, folder })
    }

    /// A command of that user, with the right password or another one.
    fn command(&self, name: &str, user: &str, password: &str) -> Command {
        let mut command = self.servers.command(name);
        let etcd = self.servers.etcd.options().tls;
        let (cert, key) = etcd.client_files.unwrap();
        let password = self.file(&format!("password-{user}"), password);
        for (variable, value) in [
            ("NATS_USER", user.into()),
            ("NATS_PASSWORD_FILE", password.clone()),
            ("NATS_CA", self.folder.path().join("ca.pem")),
            ("NATS_CERT", self.folder.path().join("client.pem")),
            ("NATS_KEY", self.folder.path().join("client-key.pem")),
            ("ETCD_USER", user.into()),
            ("ETCD_PASSWORD_FILE", password),
            ("ETCD_CA", etcd.ca_file.unwrap()),
            ("ETCD_CERT", cert),
            ("ETCD_KEY", key),
        ] {
            command.env(format!("CONSECUTION_{variable}"), value);
        }
        command.env("NATS_URL", self.servers.nats.url().replace("nats:", "tls:"));
        command.env("CONSECUTION_LOG", "consecution=trace");
        command
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, format!("{text}\n")).unwrap();
        path
    }
}

fn seed() -> ChainFile {
    chain([
        link(&["/bin/cat"]),
        link(&["/bin/grep", "data"]),
        link(&["/bin/xargs", "-n", "1"]),
    ])
}

#[test]
fn a_password_that_was_changed_is_used_without_a_restart() {
    let config = |password: &str| {
        format!("authorization {{ users: [ {{ user: both, password: {password:?} }} ] }}")
    };
    let (Some(nats), Some(etcd)) = (NatsServer::start(&config("first")), Etcd::start()) else {
        cannot_run_here!("nats-server, etcd or etcdctl is missing");
    };
    let servers = Servers { nats, etcd };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    fs::write(&file, "first\n").unwrap();
    let command = |name: &str| {
        let mut command = servers.command(name);
        command.env("CONSECUTION_NATS_USER", "both");
        command.env("CONSECUTION_NATS_PASSWORD_FILE", &file);
        command
    };
    let seed = seed();
    let runner = Running::start(command("runner"));
    let mut portal = command("portal");
    portal.args(["--listen", "127.0.0.1:0"]).arg(seed.path());
    let portal = listen(portal);
    until_ready(&portal);
    fs::write(&file, "second\n").unwrap();
    servers.nats.reload(&config("second"));
    for process in [&runner, &*portal] {
        eventually("to be connected again", || {
            (process.said().matches("connected to NATS").count() >= 2).then_some(())
        });
    }
    until_ready(&portal);
    let reply = portal.post("/", b"this is raw data").expect(200);
    assert_eq!(reply.text(), "this\nis\nraw\ndata\n");
}

/// What others see of a process's command line.
fn command_line(process: u32) -> String {
    let line = fs::read(format!("/proc/{process}/cmdline")).unwrap();
    String::from_utf8_lossy(&line).into_owned()
}

#[test]
fn the_documented_permissions_are_enough_and_no_secret_is_shown() {
    let Some(secured) = Secured::start() else {
        cannot_run_here!("nats-server, etcd or etcdctl is missing");
    };
    let password = |user: &str| format!("{PASSWORD}{user}");
    let (seed, cat) = (seed(), chain([link(&["/bin/cat"])]));
    let mut runner = secured.command("runner", "runner", &password("runner"));
    runner.args(["--name", "north"]);
    let runner = Running::start(runner);
    let mut portal = secured.command("portal", "portal", &password("portal"));
    portal.args(["--listen", "127.0.0.1:0"]).arg(seed.path());
    let portal = listen(portal);
    until_ready(&portal);
    let reply = portal.post("/", b"this is raw data").expect(200);
    assert_eq!(reply.text(), "this\nis\nraw\ndata\n");

    let mut send = secured.command("send", "portal", &password("portal"));
    send.arg(cat.path());
    let large = b"0123456789abcdef".repeat(LARGE_BYTES / 16);
    let sent = finish(send, &large, PATIENCE).expect_success();
    assert!(
        sent.stdout == large,
        "{} bytes came back",
        sent.stdout.len()
    );

    let mut list = secured.command("link", "operator", &password("operator"));
    list.arg("list");
    let list = finish(list, b"", PATIENCE).expect_success();
    assert!(list.text().contains("served by 1 of 1"), "{}", list.text());

    for process in [&runner, &*portal] {
        assert!(!command_line(process.process()).contains(PASSWORD));
        assert!(!process.said().contains(PASSWORD), "a password was logged");
        assert!(
            !process.said().contains("ermission"),
            "something was refused"
        );
    }
    for said in [sent.stderr, list.stderr] {
        assert!(!said.contains(PASSWORD), "{said}");
    }
}

#[test]
fn what_the_roles_of_earlier_versions_deny_is_off_and_changes_nothing_else() {
    let Some(secured) = Secured::start_with(|line| !line.contains("/portals/")) else {
        cannot_run_here!("nats-server, etcd or etcdctl is missing");
    };
    let password = |user: &str| format!("{PASSWORD}{user}");
    let as_user = |name: &str, user: &str| {
        let mut command = secured.command(name, user, &password(user));
        command.env("CONSECUTION_LOG", "consecution=info");
        command
    };
    let mut runner = as_user("runner", "runner");
    runner.args(["--name", "north"]);
    let runner = Running::start(runner);
    let mut portal = as_user("portal", "portal");
    let seed = seed();
    portal.args(["--listen", "127.0.0.1:0"]).arg(seed.path());
    let portal = listen(portal);
    until_ready(&portal);
    portal.post("/", b"this is raw data").expect(200);
    // Links are found to be missing, and put again.
    let all = ["del", "--prefix", "/consecution/links/"];
    secured.servers.etcd.ctl(all);
    portal.until_said("published 3 links again");
    until_ready(&portal);

    portal.until_said("permission denied");
    assert_eq!(portal.said().matches("ermission").count(), 1);
    assert!(!runner.said().contains("ermission"), "{}", runner.said());
    let link = |user: &str, what: &str| {
        let mut link = as_user("link", user);
        link.arg(what);
        finish(link, b"", PATIENCE)
    };
    let is_without_names = |list: &Finished| {
        let mut rows = list.text().lines().skip(1);
        rows.all(|row| row.split_whitespace().nth(1) == Some("-"))
    };
    let list = link("operator", "list").expect_success();
    assert!(is_without_names(&list), "{}", list.text());
    link("operator", "prune")
        .expect_code(125)
        .expect_stderr(&["no portal says what it offers", "/consecution/portals/"]);
    // Who may not read what portals say.
    let list = link("runner", "list").expect_success();
    assert!(is_without_names(&list), "{}", list.text());
    list.expect_stderr(&["links are listed without their names", "permission denied"]);
    link("runner", "prune")
        .expect_code(125)
        .expect_stderr(&["failed to prune links", "permission denied"]);
}

#[test]
fn a_wrong_password_is_said_and_not_shown() {
    let Some(secured) = Secured::start() else {
        cannot_run_here!("nats-server, etcd or etcdctl is missing");
    };
    let seed = seed();
    let wrong = "not-what-it-is";
    let runner = Running::start(secured.command("runner", "runner", wrong));
    runner.until_said("waiting for NATS");
    runner.until_said("check the etcd user and password");
    assert!(
        runner.said().to_lowercase().contains("authorization"),
        "{}",
        runner.said()
    );
    assert!(!runner.said().contains(wrong));

    let mut list = secured.command("link", "operator", wrong);
    list.arg("list");
    let list = finish(list, b"", PATIENCE)
        .expect_code(125)
        .expect_stderr(&["check the etcd user and password"]);
    assert!(!list.stderr.contains(wrong));

    let mut send = secured.command("send", "portal", wrong);
    send.args(["--wait", "1s"]).arg(seed.path());
    let send = finish(send, b"", PATIENCE).expect_code(125);
    assert!(!send.stderr.contains(wrong), "{}", send.stderr);

    let mut send = secured.command("send", "portal", "");
    send.env_remove("CONSECUTION_NATS_PASSWORD_FILE")
        .arg(seed.path());
    finish(send, b"", PATIENCE)
        .expect_code(125)
        .expect_stderr(&["give a password", "--nats-password-file"]);
}
