//! An error says each of its causes, and each of them once.

use std::net::TcpListener;
use std::process::Command;

use crate::support::chain::{ChainFile, chain, chain_with, file, link};
use crate::support::command::{Finished, consecution, finish};
use crate::support::etcd::Etcd;
use crate::support::home;
use test_support::PATIENCE;

/// Where nobody listens.
const NOBODY: &str = "127.0.0.1:1";

/// How long a part of an error is that is worth to be looked for.
const PART_CHARS_MIN: usize = 10;

/// One line, which has these parts, and says nothing twice.
#[track_caller]
fn expect_said_once(ran: &Finished, parts: &[&str]) {
    let line = ran.stderr.trim_end();
    assert!(!line.contains('\n'), "more than a line: {line}");
    assert!(line.starts_with("consecution: failed to ") || line.starts_with("consecution: link"));
    for part in parts {
        assert_eq!(line.matches(part).count(), 1, "{part:?} in {line}");
    }
    let said = line.split([':', ';', ',']).map(str::trim);
    for part in said.filter(|part| part.len() >= PART_CHARS_MIN) {
        assert_eq!(line.matches(part).count(), 1, "{part:?} in {line}");
    }
}

/// The program with these arguments and variables, which fails.
#[track_caller]
fn fail(arguments: &[&str], variables: &[(&str, &str)]) -> Finished {
    let mut command = consecution(home::shared());
    command.args(arguments);
    command.env("NATS_URL", format!("nats://{NOBODY}"));
    command.env("ETCD_ENDPOINTS", format!("http://{NOBODY}"));
    command.envs(variables.iter().copied());
    failed(command)
}

#[track_caller]
fn failed(command: Command) -> Finished {
    finish(command, b"", PATIENCE).expect_code(125)
}

fn cat() -> ChainFile {
    chain([link(&["cat"])])
}

fn name(chain: &ChainFile) -> &str {
    chain.path().to_str().unwrap()
}

/// Takes connections and ends them; its address.
fn hangs_up() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || listener.incoming().for_each(drop));
    address
}

#[test]
fn servers_that_are_not_there() {
    let chain = cat();
    let etcd = ["etcd does not answer", NOBODY, "Connection refused"];
    let send = ["send", name(&chain), "--wait", "2s"];
    expect_said_once(&fail(&send, &[]), &etcd);
    expect_said_once(&fail(&["link", "list"], &[]), &etcd);
    let hangs_up = hangs_up();
    for scheme in ["http", "https"] {
        let url = format!("{scheme}://{hangs_up}");
        let variables = [("ETCD_ENDPOINTS", url.as_str())];
        let parts = ["etcd does not answer", &hangs_up];
        expect_said_once(&fail(&send, &variables), &parts);
        expect_said_once(&fail(&["link", "list"], &variables), &parts);
    }
    let Some(etcd) = Etcd::start() else {
        cannot_run_here!("etcd or etcdctl is missing");
    };
    let etcd = etcd.options().endpoints[0].clone();
    for (url, why) in [
        (format!("nats://{NOBODY}"), "Connection refused"),
        (format!("nats://{hangs_up}"), &hangs_up),
    ] {
        let variables = [("ETCD_ENDPOINTS", etcd.as_str()), ("NATS_URL", &url)];
        let said = fail(&send, &variables);
        expect_said_once(&said, &["link 1 'cat'", "waiting for NATS", why]);
    }
}

#[test]
fn nobody_waits_for_servers_longer_than_for_the_call() {
    for (top, options) in [
        ("Deadline: 300ms", &[][..]),
        ("Deadline: 1h", &["--deadline", "300ms"]),
    ] {
        let chain = chain_with(top, [link(&["cat"])]);
        let mut send = vec!["send", name(&chain), "--wait", "1h"];
        send.extend(options);
        expect_said_once(&fail(&send, &[]), &["etcd does not answer"]);
    }
}

#[test]
fn what_servers_are_told_of_us_that_is_wrong() {
    let chain = cat();
    let https = format!("https://{NOBODY}");
    for (variable, value, part) in [
        ("NATS_URL", "foo://x", "`foo://x`"),
        ("CONSECUTION_NATS_CA", "/nonesuch/ca", "No such file"),
        (
            "CONSECUTION_NATS_CREDENTIALS",
            "/nonesuch/c",
            "No such file",
        ),
        ("CONSECUTION_NATS_TOKEN_FILE", "/nonesuch/t", "No such file"),
        ("ETCD_ENDPOINTS", "foo://x", "foo://x"),
        ("CONSECUTION_ETCD_CA", "/nonesuch/ca", "No such file"),
        ("CONSECUTION_ETCD_CA", "/dev/null", "/dev/null"),
    ] {
        let variables = [("ETCD_ENDPOINTS", https.as_str()), (variable, value)];
        let send = fail(&["send", name(&chain)], &variables);
        expect_said_once(&send, &[part]);
        let mut portal = fail(&["portal", name(&chain)], &variables);
        // What comes before is no error.
        let error = portal.stderr.lines().last().unwrap().to_owned();
        portal.stderr = error;
        expect_said_once(&portal, &[part]);
    }
}

#[test]
fn files_that_are_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().to_str().unwrap();
    for command in ["run", "send", "serve", "portal"] {
        let nonesuch = "/nonesuch/chain.yaml";
        expect_said_once(
            &fail(&[command, nonesuch], &[]),
            &[nonesuch, "No such file"],
        );
    }
    expect_said_once(&fail(&["run", folder], &[]), &[folder, "it is a folder"]);
    let chain = cat();
    let run = fail(&["run", name(&chain)], &[("CONSECUTION_HOME", "/proc/x/y")]);
    expect_said_once(&run, &["/proc/x/y", "No such file"]);
    let import = fail(&["image", "import", "x", "/nonesuch/x.tar"], &[]);
    expect_said_once(&import, &["/nonesuch/x.tar", "No such file"]);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mut serve = fail(&["serve", name(&chain), "--listen", &address], &[]);
    serve.stderr = serve.stderr.lines().last().unwrap().to_owned();
    expect_said_once(&serve, &[&address, "Address already in use"]);
}

#[test]
fn a_wrong_chain_is_shown_once() {
    for command in ["run", "send", "serve", "portal"] {
        let wrong = file("Chain:\n- Image: busybox\n  Comand: cat\n");
        let said = fail(&[command, name(&wrong)], &[]).stderr;
        assert_eq!(said.matches("error: ").count(), 1, "{said}");
        assert_eq!(said.matches("did you mean `Command`?").count(), 1, "{said}");
    }
}

#[test]
fn images_that_cannot_be_had() {
    let nowhere = format!("{NOBODY}/x");
    let parts = ["reach registry", NOBODY, "connection refused"];
    expect_said_once(&fail(&["image", "pull", &nowhere], &[]), &parts);
    let text = format!("Chain: [{{Image: '{nowhere}', Command: cat}}]\n");
    let missing = file(text);
    let run = fail(&["run", name(&missing)], &[]);
    assert_eq!(run.stderr.lines().count(), 1, "{}", run.stderr);
    assert_eq!(
        run.stderr.matches("connection refused").count(),
        1,
        "{}",
        run.stderr
    );
    let network = chain([link(&["cat"]).with("Network", "host")]);
    expect_said_once(
        &fail(&["run", name(&network)], &[]),
        &["--allow-host-network"],
    );
}

#[test]
fn a_proxy_is_named_and_its_password_is_not() {
    let proxy = hangs_up();
    let url = format!("http://somebody:secret@{proxy}");
    let pull = ["image", "pull", "registry.example.com/x"];
    let through = format!("registry.example.com:443 through proxy {proxy}");
    let said = fail(&pull, &[("https_proxy", &url), ("no_proxy", "")]);
    expect_said_once(&said, &[&through]);
    assert!(!said.stderr.contains("secret"), "{}", said.stderr);
    // For whom there is an exception, and this machine, none is used.
    let said = fail(
        &["image", "pull", &format!("{NOBODY}/x")],
        &[("https_proxy", &url)],
    );
    assert!(!said.stderr.contains("proxy"), "{}", said.stderr);
}

#[test]
fn a_usage_has_no_more_than_must_be_typed() {
    for (arguments, usage) in [
        (&["run"][..], "Usage: consecution run <CHAIN>\n"),
        (&["image", "pull"], "Usage: consecution image pull <NAME>\n"),
        (
            &["link", "remove"],
            "Usage: consecution link remove <IDS>...\n",
        ),
    ] {
        let mut command = consecution(home::shared());
        command.args(arguments);
        command.env("ETCD_ENDPOINTS", "http://127.0.0.1:1");
        command.env("CONSECUTION_PLAIN_HTTP", "x");
        finish(command, b"", PATIENCE)
            .expect_code(2)
            .expect_stderr(&[usage]);
    }
}
