//! `consecution check` shows what a chain file says, and all that is wrong with
//! it. It needs no image, no store and no privilege.

use std::path::Path;

use crate::support::chain::{chain, file, link};
use crate::support::command::{Finished, consecution, finish};
use crate::support::home;
use test_support::PATIENCE;

fn check(paths: &[&Path]) -> Finished {
    let mut check = consecution("/nonesuch".as_ref());
    check.arg("check").args(paths);
    finish(check, b"", PATIENCE)
}

/// Checks a file with that text, which is expected to be wrong.
#[track_caller]
fn expect_wrong(text: impl AsRef<[u8]>, stderr: &[&str]) {
    let file = file(text);
    let name = file.path().display().to_string();
    check(&[file.path()])
        .expect_code(1)
        .expect_output("")
        .expect_stderr(&[&name])
        .expect_stderr(stderr);
}

#[test]
fn the_first_example_is_shown() {
    let path = home::workspace().join("examples/words/chain.yaml");
    let text = check(&[&path]).expect_success().text().to_owned();
    let lines: Vec<_> = text
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .collect();
    assert!(text.starts_with(&path.display().to_string()), "{text}");
    assert_eq!(
        lines[1..],
        [
            vec![
                "cat",
                "188b0237c1423313d2eff0dbfb4d426a",
                "busybox",
                "/bin/cat"
            ],
            vec![
                "grep",
                "cc396884817904193a62988904f6fea5",
                "busybox",
                "/bin/grep",
                "data"
            ],
            vec![
                "xargs",
                "5ccbc2807a14df3b00c42b608b4d0fcc",
                "busybox",
                "/bin/xargs",
                "-n",
                "1"
            ],
        ]
    );
}

#[test]
fn the_columns_are_aligned() {
    let long = link(&["cat"]).with("Name", "a-rather-long-name");
    let file = chain([link(&["cat"]).image("registry.example.com/a/b:1"), long]);
    let text = check(&[file.path()]).expect_success().text().to_owned();
    let starts: Vec<_> = text
        .lines()
        .skip(1)
        .map(|line| line.rfind("cat").unwrap())
        .collect();
    assert_eq!(starts[0], starts[1], "{text}");
}

#[test]
fn all_that_a_link_may_do_is_shown() {
    let link = link(&["/bin/sh", "-c", "echo 'a b'\n"])
        .with("Network", "host")
        .with("User", "nobody")
        .with("Environment", "{TOKEN: 'a secret'}")
        .with("Deadline", "2s");
    let file = chain([link]);
    let text = check(&[file.path()]).expect_success().text().to_owned();
    for shown in [
        "1 link, deadline 30s (none with run and send)\n",
        "  busybox  /bin/sh -c $'echo \\'a b\\'\\n'\n",
        "    Environment:\n      TOKEN: 'a secret'\n",
        "    User: nobody\n    Network: host\n    Deadline: 2s\n",
    ] {
        assert!(text.contains(shown), "{shown:?} in {text}");
    }
}

#[test]
fn a_file_may_come_from_standard_input() {
    let check = |text: &[u8]| {
        let mut check = consecution("/nonesuch".as_ref());
        check.args(["check", "-"]);
        finish(check, text, PATIENCE)
    };
    let good = check(b"Name: x\nChain: [{Image: busybox, Command: cat}]\n").expect_success();
    assert!(
        good.text().starts_with("standard input: chain 'x'"),
        "{}",
        good.text()
    );
    check(b"Chain:\n- Imag: x\n")
        .expect_code(1)
        .expect_stderr(&["standard input:2:3", "did you mean `Image`?"]);
    // There it is what the chain reads.
    for command in ["run", "send"] {
        let mut run = consecution("/nonesuch".as_ref());
        run.args([command, "-"]);
        finish(run, b"", PATIENCE)
            .expect_code(2)
            .expect_stderr(&["standard input is what the chain reads"]);
    }
}

#[test]
fn a_log_level_that_there_is_not_is_refused() {
    for level in ["foo", "consecution=foo", "debug,3"] {
        let mut check = consecution("/nonesuch".as_ref());
        check.args(["check", "x"]).env("CONSECUTION_LOG", level);
        finish(check, b"", PATIENCE).expect_code(2).expect_stderr(&[
            "is no level",
            "trace",
            "MODULE=LEVEL",
        ]);
    }
}

#[test]
fn several_files_are_all_checked() {
    let good = chain([link(&["cat"])]);
    let bad = file("Chain: 7\n");
    let name = |file: &crate::support::chain::ChainFile| file.path().display().to_string();
    let ran = check(&[good.path(), bad.path(), good.path()])
        .expect_code(1)
        .expect_stderr(&[&name(&bad)]);
    assert_eq!(
        ran.text().matches(&name(&good)).count(),
        2,
        "{}",
        ran.text()
    );
    assert!(!ran.text().contains(&name(&bad)), "{}", ran.text());
}

#[test]
fn what_is_not_a_file_is_named() {
    check(&["/nonesuch/chain.yaml".as_ref()])
        .expect_code(1)
        .expect_stderr(&["/nonesuch/chain.yaml"]);
    let folder = tempfile::tempdir().unwrap();
    check(&[folder.path()])
        .expect_code(1)
        .expect_stderr(&[folder.path().to_str().unwrap(), "folder"]);
}

#[test]
fn what_is_no_chain_is_refused() {
    expect_wrong("", &["error"]);
    expect_wrong("# nothing\n", &["error"]);
    expect_wrong("Name: x\n", &["Chain"]);
    expect_wrong("Chain: []\n", &["Chain"]);
    expect_wrong("Chain:\n", &["Chain"]);
    expect_wrong("just text\n", &["error"]);
    expect_wrong("- Image: busybox\n", &["error"]);
    expect_wrong([0xff, 0xfe, b'\n'], &["UTF-8"]);
    expect_wrong(
        "Chain:\n- Image: busybox\n---\nChain:\n- Image: busybox\n",
        &["error"],
    );
}

#[test]
fn what_is_no_yaml_is_refused() {
    expect_wrong("Chain:\n\t- Image: busybox\n", &[":2:", "tab"]);
    expect_wrong("Chain: [\n", &["error"]);
    expect_wrong("Chain:\n- Image: 'busybox\n", &["error"]);
    expect_wrong(
        format!("Chain:\n- Image: {}\n", "x".repeat(2 << 20)),
        &["error"],
    );
    expect_wrong("[".repeat(100_000), &["error"]);
    let bomb: String = (b'b'..=b'j')
        .map(|name| {
            let (name, before) = (char::from(name), char::from(name - 1));
            format!("{name}: &{name} [*{before}, *{before}, *{before}, *{before}, *{before}, *{before}, *{before}, *{before}]\n")
        })
        .collect();
    expect_wrong(
        format!("a: &a [x, x, x, x, x, x, x, x]\n{bomb}Chain: *j\n"),
        &["error"],
    );
}

#[test]
fn keys_and_types_are_checked() {
    expect_wrong(
        "Chain:\n- Image: busybox\n  Comand: cat\n",
        &[":3:3", "  Comand: cat", "did you mean `Command`?"],
    );
    expect_wrong("chain:\n- Image: busybox\n", &["did you mean `Chain`?"]);
    expect_wrong(
        "Chain:\n- Image: busybox\n  Image: busybox\n",
        &[":3:3", "Image"],
    );
    expect_wrong("Chain:\n- Command: cat\n", &["Image"]);
    expect_wrong(
        "Chain:\n- Image: busybox\n  Arguments: data\n",
        &[":3:14", "list"],
    );
    expect_wrong(
        "Chain:\n- Image: busybox\n  Writable: perhaps\n",
        &["Writable"],
    );
    expect_wrong(
        "Chain:\n- Image: busybox\n  Network: bridge\n",
        &["Network"],
    );
    expect_wrong(
        "Chain:\n- Image: busybox\n  Constraints: {Memory: lots}\n",
        &["Memory"],
    );
    expect_wrong(
        "Chain:\n- Image: busybox\n  AcceptedExitCodes: [256]\n",
        &["256"],
    );
    expect_wrong(
        "Deadline: soon\nChain:\n- Image: busybox\n",
        &[":1:11", "Deadline"],
    );
}

#[test]
fn image_names_are_checked() {
    for image in [
        "BusyBox",
        "'busy box'",
        "../busybox",
        "a/../b",
        "'busybox:'",
        "busybox@sha256:12",
    ] {
        expect_wrong(
            format!("Chain:\n- Image: {image}\n  Command: cat\n"),
            &[image.trim_matches('\'')],
        );
    }
}

#[test]
fn all_errors_are_shown_at_once() {
    let text = "Name: a b\nDeadline: soon\nChain:\n- Image: busybox\n  Comand: cat\n- Command: cat\n  Retries: -1\n";
    expect_wrong(text, &[":1:7", ":2:11", ":5:3", ":6:", ":7:12"]);
}

#[test]
fn all_wrong_image_names_are_shown_at_once() {
    let images = "Chain:\n- Image: One\n- Image: Two\n";
    expect_wrong(images, &["One", "Two"]);
}

#[test]
fn whoever_reads_may_leave() {
    use std::io::Read;
    use std::process::Stdio;
    let file = chain([link(&["cat"])]);
    let mut check = consecution("/nonesuch".as_ref());
    check
        .arg("check")
        .args(vec![file.path(); 2_000])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = check.spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut [0]).unwrap();
    drop(stdout);
    let ran = crate::support::command::finish_child(child, PATIENCE).expect_success();
    assert_eq!(ran.stderr, "");
}
