//! What cannot be read or written is a failure, and nothing of it is lost without a
//! word.

use std::process::Command;

use crate::support::chain::{ChainFile, chain, file, link};
use crate::support::command::{Finished, consecution, finish};
use crate::support::home;
use test_support::PATIENCE;

/// Has a shell run the program with these arguments and redirections.
fn redirected(arguments: &[&str], redirections: &str, stdin: &[u8]) -> Finished {
    let program = consecution(home::shared());
    let mut shell = Command::new("sh");
    let line = format!("exec \"$0\" \"$@\" {redirections}");
    shell.args(["-c", &line]).arg(program.get_program());
    shell.args(arguments);
    for (name, value) in program.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    finish(shell, stdin, PATIENCE)
}

fn cat() -> ChainFile {
    chain([link(&["cat"])])
}

fn name(chain: &ChainFile) -> &str {
    chain.path().to_str().unwrap()
}

#[test]
fn what_cannot_be_written_is_an_error() {
    let chain = cat();
    let chain = name(&chain);
    for (redirections, why) in [
        (">&-", "it is closed"),
        (">/dev/full", "No space left"),
        // Opened for reading only.
        ("1</dev/null", "Bad file descriptor"),
    ] {
        for (arguments, code) in [
            (&["run", chain][..], 125),
            (&["image", "list"], 125),
            (&["sandbox", "check"], 125),
            (&["--help"], 125),
            (&["run", "--help"], 125),
            (&["help", "image"], 125),
            (&["--version"], 125),
            (&["check", chain], 1),
        ] {
            let ran = redirected(arguments, redirections, b"x");
            let ran = ran.expect_code(code);
            let wanted = format!("consecution: failed to write to standard output: {why}");
            assert!(
                ran.stderr.starts_with(&wanted),
                "{arguments:?}: {}",
                ran.stderr
            );
            assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.stderr);
        }
    }
}

#[test]
fn nothing_is_asked_where_the_output_would_be_lost() {
    let chain = cat();
    let send = ["send", name(&chain), "--nats", "nats://127.0.0.1:1"];
    redirected(&send, ">&-", b"x")
        .expect_code(125)
        .expect_stderr(&["standard output: it is closed"]);
}

#[test]
fn a_disk_that_is_full_is_an_error() {
    let (chain, folder) = (cat(), tempfile::tempdir().unwrap());
    let output = folder.path().join("output");
    // As large as a file may be is as good as a full disk.
    let redirections = format!(">{}", output.display());
    let program = consecution(home::shared());
    let mut shell = Command::new("sh");
    let line = format!("trap '' XFSZ; ulimit -f 8; exec \"$0\" run \"$1\" {redirections}");
    shell.args(["-c", &line]).arg(program.get_program());
    shell
        .arg(chain.path())
        .env("CONSECUTION_HOME", home::shared());
    finish(shell, &[b'x'; 100_000], PATIENCE)
        .expect_code(125)
        .expect_stderr(&["failed to write to standard output", "File too large"]);
    assert!(output.metadata().unwrap().len() <= 8192);
}

#[test]
fn what_cannot_be_read_is_an_error_and_no_empty_input() {
    let chain = cat();
    let chain = name(&chain);
    for (redirections, why) in [
        ("<&-", "it is closed"),
        ("0>/dev/null", "Bad file descriptor"),
    ] {
        for (arguments, code) in [
            (&["run", chain][..], 125),
            (&["image", "import", "x", "-"], 125),
            (&["check", "-"], 1),
        ] {
            let ran = redirected(arguments, redirections, b"");
            let ran = ran.expect_code(code).expect_output("");
            assert!(ran.stderr.contains(why), "{arguments:?}: {}", ran.stderr);
        }
    }
}

#[test]
fn a_null_device_is_meant_however_it_was_opened() {
    // Python and node open theirs for reading and writing.
    let chain = cat();
    redirected(&["run", name(&chain)], "<>/dev/null 1<>/dev/null", b"")
        .expect_success()
        .expect_stderr(&[]);
    redirected(&["check", name(&chain)], "1<>/dev/null", b"").expect_success();
}

#[test]
fn whoever_has_closed_standard_error_does_not_want_to_know() {
    let chain = cat();
    redirected(&["run", name(&chain)], "2>&-", b"x")
        .expect_success()
        .expect_output("x");
    let wrong = file("Chain: 7\n");
    redirected(&["run", name(&wrong)], "2>&-", b"").expect_code(125);
    redirected(&["run", name(&wrong)], "2>/dev/full", b"").expect_code(125);
    redirected(&["run"], "2>&-", b"").expect_code(2);
}

#[test]
fn whoever_has_seen_enough_is_no_failure() {
    for arguments in ["image list", "--help"] {
        // Of the two the first says how the program ended.
        let program = consecution(home::shared());
        let mut shell = Command::new("bash");
        let line = format!("set -o pipefail; \"$0\" {arguments} | exec true");
        shell.args(["-c", &line]).arg(program.get_program());
        shell.env("CONSECUTION_HOME", home::shared());
        let ran = finish(shell, b"", PATIENCE).expect_success();
        assert_eq!(ran.stderr, "");
    }
}
