//! The examples of the library, as they are built beside the tests.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::chain::{chain, link};
use crate::support::command::{PROGRAM, finish, finish_child};
use crate::support::home;
use crate::support::network::Servers;
use test_support::PATIENCE;

/// An example's program, where it has been built: tests that are picked by
/// `--test` build none.
fn example(name: &str) -> Option<PathBuf> {
    let path = Path::new(PROGRAM).with_file_name("examples").join(name);
    path.exists().then_some(path)
}

#[test]
fn a_program_sends_and_another_one_has_a_runner_in_it() {
    let Some(servers) = Servers::start() else {
        cannot_run_here!("nats-server, etcd or etcdctl is missing");
    };
    let (Some(embedded), Some(send)) = (example("embedded"), example("send")) else {
        cannot_run_here!("the examples are not built");
    };
    let command = |program: &Path| {
        let mut command = Command::new(program);
        command.env("NATS_URL", servers.nats.url());
        command.env("ETCD_ENDPOINTS", &servers.etcd.options().endpoints[0]);
        command
    };
    let mut embedded = command(&embedded);
    embedded.arg(home::shared()).stdin(Stdio::piped());
    let mut runner = embedded.spawn().unwrap();
    let words = chain([
        link(&["/bin/grep", "data"]),
        link(&["/bin/xargs", "-n", "1"]).with("Name", "words"),
    ]);
    let mut send = command(&send);
    send.arg(words.path()).arg("this is raw data");
    let sent = finish(send, b"", PATIENCE);
    // It runs until its input ends.
    drop(runner.stdin.take());
    finish_child(runner, PATIENCE).expect_success();
    // Once in memory, once as a stream.
    sent.expect_success()
        .expect_output("this\nis\nraw\ndata\nthis\nis\nraw\ndata\n")
        .expect_stderr(&["grep: Some(Exited(0))", "words: Some(Exited(0))"]);
}
