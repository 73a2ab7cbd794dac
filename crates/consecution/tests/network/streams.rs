//! A pipe with a pipe's meaning, over the network: any size, both ways at the
//! same time, and an early end that stops everything.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use tempfile::NamedTempFile;

use crate::support::chain::{ChainFile, Link, chain, chain_with, link, shell};
use crate::support::command::{PROGRAM, finish};
use crate::support::network::{AT_WORK, Servers, until_at_work, until_ready};
use test_support::PATIENCE;
use test_support::processes::{expect_gone_within, peak_memory};

/// Far more than any buffer on the way holds.
const LARGE_BYTES: usize = 100 << 20;

/// More memory than a portal or a runner needs for one stream, and for itself.
const MEMORY_BYTES_MAX: u64 = 48 << 20;

/// How many streams there are at a time beside one that stalls.
const STREAMS: usize = 10;

/// How much a portal keeps of a call, at most: 1 MiB before, between and behind three links.
const KEPT_BYTES: u64 = 4 << 20;

/// How long after a call every process of it may live on.
const LIVES_ON_MAX: Duration = Duration::from_secs(1);

/// A link that copies, and has a process beside it meanwhile.
fn at_work_cat() -> Link {
    shell(&format!("read line; echo $line; {AT_WORK} & cat"))
}

/// A file of bytes that look random.
fn large_file(folder: &Path) -> PathBuf {
    let path = folder.join("large");
    let mut file = File::create(&path).unwrap();
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    let mut block = vec![0; 1 << 20];
    for _ in 0..LARGE_BYTES / block.len() {
        for word in block.chunks_exact_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        file.write_all(&block).unwrap();
    }
    path
}

#[track_caller]
fn expect_same(path: &Path, wanted: &Path) {
    let (mut found, mut wanted) = (File::open(path).unwrap(), File::open(wanted).unwrap());
    let length = found.metadata().unwrap().len();
    assert_eq!(length, LARGE_BYTES as u64);
    let (mut ours, mut theirs) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    for block in 0..LARGE_BYTES / ours.len() {
        found.read_exact(&mut ours).unwrap();
        wanted.read_exact(&mut theirs).unwrap();
        assert!(ours == theirs, "block {block} differs");
    }
}

fn cats() -> ChainFile {
    chain_with(
        "Name: cats\nDeadline: none",
        [(); 3].map(|()| link(&["/bin/cat"])),
    )
}

#[test]
fn a_large_body_passes_unchanged_and_in_little_memory() {
    let Some(servers) = Servers::start() else {
        cannot_run_here!("nats-server, etcd or etcdctl is missing");
    };
    let folder = tempfile::tempdir().unwrap();
    let (large, back) = (large_file(folder.path()), folder.path().join("back"));
    let cats = cats();
    let (portal, runner) = (servers.portal(&[&cats]), servers.runner("one"));
    until_ready(&portal);

    let arguments = [
        "--fail",
        "--no-buffer",
        "--header",
        "Prefer: duplex",
        "--upload-file",
        large.to_str().unwrap(),
        "--output",
        back.to_str().unwrap(),
    ];
    finish(portal.curl("/chains/cats", &arguments), b"", PATIENCE).expect_success();
    expect_same(&back, &large);

    let mut send = servers.command("send");
    send.arg(cats.path());
    send.stdin(File::open(&large).unwrap());
    send.stdout(File::create(&back).unwrap());
    assert!(send.status().unwrap().success());
    expect_same(&back, &large);
    for process in [portal.process(), runner.process()] {
        let peak = peak_memory(process);
        assert!(peak < MEMORY_BYTES_MAX, "{peak} bytes");
    }
}

#[test]
fn output_comes_while_the_input_is_still_open() {
    let Some(servers) = Servers::start() else {
        cannot_run_here!("nats-server, etcd or etcdctl is missing");
    };
    let (cats, _runner) = (cats(), servers.runner("one"));
    let portal = servers.portal(&[&cats]);
    until_ready(&portal);
    let mut client = portal.begin("/");
    for turn in ["first\n", "second\n"] {
        client.send_chunk(turn.as_bytes());
        if turn == "first\n" {
            client.head();
        }
        assert_eq!(client.chunk().unwrap(), turn.as_bytes());
    }
    client.end_chunks();
    assert_eq!(client.chunk().unwrap(), b"");
    assert!(client.head().contains("Consecution-Pipestatus: 0,0,0"));
}

#[test]
fn a_line_goes_through_a_filter_as_soon_as_it_comes() {
    let Some(servers) = Servers::start() else {
        cannot_run_here!("nats-server, etcd or etcdctl is missing");
    };
    let (cats, _runner) = (cats(), servers.runner("one"));
    let mut send = servers.command("send");
    send.arg(cats.path());
    let mut send = send
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut stdin, stdout) = (send.stdin.take().unwrap(), send.stdout.take().unwrap());
    let mut lines = BufReader::new(stdout).lines();
    for line in ["first", "second", "third"] {
        writeln!(stdin, "{line}").unwrap();
        assert_eq!(lines.next().unwrap().unwrap(), line);
    }
    drop(stdin);
    assert!(lines.next().is_none());
    assert!(send.wait().unwrap().success());
}

#[test]
fn a_reader_that_stalls_holds_up_nobody_else() {
    let Some(servers) = Servers::start() else {
        cannot_run_here!("nats-server, etcd or etcdctl is missing");
    };
    let (cats, runner) = (cats(), servers.runner("one"));
    let portal = servers.portal(&[&cats]);
    until_ready(&portal);
    // It sends until nothing more is taken, and reads nothing.
    let mut stalled = portal.begin("/");
    stalled.give_up_sending_after(Duration::from_millis(500));
    let chunk = vec![b'x'; 1 << 20];
    let taken =
        (0..LARGE_BYTES / chunk.len()).take_while(|_| stalled.try_send_chunk(&chunk).is_ok());
    let taken_bytes = taken.count() * chunk.len();
    assert!(
        taken_bytes < LARGE_BYTES,
        "{taken_bytes} bytes lie somewhere"
    );

    let body = vec![b'y'; 5 << 20];
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(&body).unwrap();
    thread::scope(|scope| {
        for _ in 0..STREAMS {
            scope.spawn(|| {
                let body_file = file.path().to_str().unwrap();
                // Else what comes early waits in the spool, which is memory at first.
                let duplex = ["--header", "Prefer: duplex"];
                let upload = [&duplex[..], &["--fail", "--upload-file", body_file]].concat();
                let done =
                    finish(portal.curl("/chains/cats", &upload), b"", PATIENCE).expect_success();
                assert!(done.stdout == body);
            });
        }
    });
    for process in [portal.process(), runner.process()] {
        let peak = peak_memory(process);
        assert!(
            peak < MEMORY_BYTES_MAX + STREAMS as u64 * KEPT_BYTES,
            "{peak} bytes"
        );
    }
}

#[test]
fn an_endless_input_ends_with_its_last_reader() {
    let Some(servers) = Servers::start() else {
        cannot_run_here!("nats-server, etcd or etcdctl is missing");
    };
    let runner = servers.runner("one");
    let lines = chain([at_work_cat(), link(&["/bin/head", "-n", "3"])]);
    let send = servers.command("send");
    let mut pipeline = Command::new("sh");
    pipeline.args(["-c", "yes | \"$0\" send \"$1\"", PROGRAM]);
    pipeline.arg(lines.path());
    for (name, value) in send.get_envs() {
        if let Some(value) = value {
            pipeline.env(name, value);
        }
    }
    finish(pipeline, b"", PATIENCE)
        .expect_success()
        .expect_output("y\ny\ny\n");
    until_at_work(&[&runner], 0);
}

#[test]
fn a_client_that_is_killed_stops_every_process_of_its_call() {
    let Some(servers) = Servers::start() else {
        cannot_run_here!("nats-server, etcd or etcdctl is missing");
    };
    let lines = chain_with("Name: lines", [at_work_cat(), at_work_cat()]);
    let (portal, runner) = (servers.portal(&[&lines]), servers.runner("one"));
    until_ready(&portal);
    let mut curl = portal.curl("/chains/lines", &["--no-buffer", "--upload-file", "-"]);
    let mut send = servers.command("send");
    send.arg(lines.path());
    for client in [&mut curl, &mut send] {
        let client = client.stdin(Stdio::piped()).stdout(Stdio::null());
        let mut client = client.spawn().unwrap();
        let mut stdin = client.stdin.take().unwrap();
        stdin.write_all(b"line\n").unwrap();
        let processes = until_at_work(&[&runner], 2);
        client.kill().unwrap();
        client.wait().unwrap();
        expect_gone_within(&processes, LIVES_ON_MAX);
    }
}

#[test]
fn a_failure_in_mid_stream_aborts_the_body() {
    let Some(servers) = Servers::start() else {
        cannot_run_here!("nats-server, etcd or etcdctl is missing");
    };
    let breaks = shell("read line; echo $line; read line; echo oh no >&2; exit 3");
    let lines = chain([link(&["/bin/cat"]), breaks.with("Name", "breaks")]);
    let (portal, _runner) = (servers.portal(&[&lines]), servers.runner("north"));
    until_ready(&portal);
    let mut client = portal.begin("/");
    client.send_chunk(b"first\n");
    client.head();
    assert_eq!(client.chunk().unwrap(), b"first\n");
    client.send_chunk(b"second\n");
    assert_eq!(client.chunk(), None);
    let line = portal.await_line("a call was aborted");
    assert!(
        line.contains("on runner 'north' exited with code 3"),
        "{line}"
    );

    servers
        .send(&lines, b"first\nsecond\n")
        .expect_code(3)
        .expect_output("first\n")
        .expect_stderr(&["oh no\n", "link 2 'breaks'"]);
}
