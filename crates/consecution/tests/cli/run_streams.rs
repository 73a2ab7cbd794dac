//! `consecution run` is a pipe: any kind of standard input, any amount of data
//! in constant memory, and nothing that a link does makes it wait for ever.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::chain::{chain, chain_with, link, shell};
use crate::support::command::{self, finish_child, run_on};
use test_support::{PATIENCE, is_readable_within, processes};

const MIB: usize = 1 << 20;

#[test]
fn standard_input_may_be_a_file() {
    let chain = chain([link(&["cat"]), link(&["wc", "-c"])]);
    let mut run = command::run(chain.path());
    run.stdin(command::file_with(&vec![b'x'; 3 * MIB]).unwrap())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    finish_child(run.spawn().unwrap(), PATIENCE)
        .expect_success()
        .expect_output("3145728\n");
}

#[test]
fn standard_input_may_be_nothing() {
    let chain = chain([link(&["wc", "-c"])]);
    let mut run = command::run(chain.path());
    run.stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    finish_child(run.spawn().unwrap(), PATIENCE)
        .expect_success()
        .expect_output("0\n");
}

#[test]
fn standard_input_may_be_a_terminal() {
    // On a terminal of its own: what is typed comes back with the echo, then as
    // output; ^D ends it.
    let chain = chain([link(&["tr", "a-z", "A-Z"])]);
    let run = command::run(chain.path());
    let line = format!("'{}' run '{}'", command::PROGRAM, chain.path().display());
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
    script.envs(
        run.get_envs()
            .filter_map(|(name, value)| Some((name, value?))),
    );
    script
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let Ok(mut child) = script.spawn() else {
        cannot_run_here!("there is no 'script'")
    };
    let mut typed = child.stdin.take().unwrap();
    typed.write_all(b"typed\n").unwrap();
    let mut shown = child.stdout.take().unwrap();
    let mut text = Vec::new();
    while !text.windows(5).any(|window| window == b"TYPED") {
        // `tr` may keep its output until its input ends.
        let _ = typed.write_all(b"\x04");
        let mut some = [0; 512];
        let length = shown.read(&mut some).unwrap_or(0);
        assert!(length > 0, "only: {}", String::from_utf8_lossy(&text));
        text.extend_from_slice(&some[..length]);
    }
    let status = command::wait(&mut child, PATIENCE).expect("it ends with its input");
    assert!(
        status.success(),
        "{status}: {}",
        String::from_utf8_lossy(&text)
    );
}

#[test]
fn a_link_may_read_nothing() {
    run_on(&chain([link(&["true"])]), &vec![b'x'; 8 * MIB])
        .expect_success()
        .expect_output("");
    let links = [link(&["cat"]), link(&["echo", "mine"]), link(&["cat"])];
    run_on(&chain(links), &vec![b'x'; 8 * MIB])
        .expect_success()
        .expect_output("mine\n");
}

#[test]
fn a_link_may_write_before_it_reads() {
    let links = [
        shell("head -c 4000000 /dev/zero; cat"),
        link(&["cat"]),
        link(&["wc", "-c"]),
    ];
    let chain = chain(links);
    run_on(&chain, &vec![b'x'; 4_000_000])
        .expect_success()
        .expect_output("8000000\n");
}

#[test]
fn a_link_may_close_its_input_early() {
    let links = [
        link(&["cat"]),
        shell("exec <&-; head -c 1000000 /dev/zero"),
        link(&["wc", "-c"]),
    ];
    run_on(&chain(links), &vec![b'x'; 8 * MIB])
        .expect_success()
        .expect_output("1000000\n");
}

#[test]
fn a_link_may_flood_stderr() {
    let ran = run_on(
        &chain([
            shell("head -c 100000000 /dev/zero >&2; cat"),
            link(&["cat"]),
        ]),
        b"x",
    );
    let ran = ran.expect_success().expect_output("x");
    assert_eq!(ran.stderr.len(), 100_000_000);
}

#[test]
fn a_child_that_keeps_the_output_open_does_not_hold_the_chain_up() {
    let links = [shell("sleep 1000 & cat"), link(&["cat"])];
    run_on(&chain_with("Deadline: none", links), b"x")
        .expect_success()
        .expect_output("x");
    let links = [
        shell("(trap '' TERM HUP; setsid sleep 1000 2>&1) & echo x; exit 3"),
        link(&["cat"]),
    ];
    run_on(&chain_with("Deadline: none", links), b"").expect_code(3);
}

#[test]
fn a_link_that_nobody_reads_any_more_is_stopped_and_has_not_failed() {
    let links = [link(&["yes"]), link(&["cat"]), link(&["head", "-n", "1"])];
    run_on(&chain(links), b"")
        .expect_success()
        .expect_output("y\n");
    // One that writes nothing is stopped too.
    let links = [shell("sleep 1000"), link(&["echo", "x"])];
    run_on(&chain_with("Deadline: none", links), b"")
        .expect_success()
        .expect_output("x\n");
}

#[test]
fn a_link_that_nobody_reads_any_more_may_still_end_by_itself() {
    // The rule: 64 KiB more, and 250 ms. A quicker run has kept to the time.
    let rule = Duration::from_millis(250);
    let links = [shell("cat; exit 4"), link(&["true"])];
    let chain = chain(links);
    let quick = (0..100)
        .map(|_| run_on(&chain, b"a little"))
        .filter(|ran| ran.elapsed < rule)
        .take(10)
        .inspect(|ran| assert_eq!(ran.code(), 4, "stderr: {}", ran.stderr));
    if quick.count() < 10 {
        cannot_run_here!("this machine is too slow, or too busy");
    }
}

#[test]
fn a_link_that_has_much_to_say_to_nobody_has_not_failed() {
    let links = [shell("head -c 10000000 /dev/zero; exit 4"), link(&["true"])];
    run_on(&chain(links), b"")
        .expect_success()
        .expect_output("");
}

#[test]
fn an_end_in_mid_chain_is_no_end_of_input() {
    // The second link would write its count at an end-of-file.
    let links = [
        shell("head -c 100000 /dev/zero; exit 9"),
        link(&["wc", "-c"]),
        link(&["cat"]),
    ];
    run_on(&chain(links), b"").expect_code(9).expect_output("");
}

#[test]
fn whoever_reads_the_output_may_leave() {
    let chain = chain([link(&["yes"])]);
    let mut run = command::run(chain.path());
    let mut child = run
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut line = [0; 2];
    stdout.read_exact(&mut line).unwrap();
    drop(stdout);
    let ran = finish_child(child, PATIENCE).expect_success();
    assert_eq!((&line, ran.stderr.as_str()), (b"y\n", ""));
}

#[test]
fn an_output_that_is_full_is_a_failure() {
    let chain = chain([link(&["cat"])]);
    let mut run = command::run(chain.path());
    run.stdin(command::file_with(b"x").unwrap())
        .stderr(Stdio::piped());
    run.stdout(File::options().write(true).open("/dev/full").unwrap());
    finish_child(run.spawn().unwrap(), PATIENCE)
        .expect_code(125)
        .expect_stderr(&["standard output", "o space"]);
}

/// As `> file 2>&1` has it: both at one place in it, which either moves on.
#[test]
fn output_and_errors_may_go_to_one_file() {
    let says = "echo out 1; echo error 1 >&2; cat; echo error 2 >&2; sleep 0.1; echo out 2";
    let chain = chain([shell(says)]);
    let (mut file, mut run) = (tempfile::tempfile().unwrap(), command::run(chain.path()));
    run.stdin(command::file_with(b"input\n").unwrap())
        .stdout(file.try_clone().unwrap())
        .stderr(file.try_clone().unwrap());
    finish_child(run.spawn().unwrap(), PATIENCE).expect_success();
    let mut text = String::new();
    file.rewind().unwrap();
    file.read_to_string(&mut text).unwrap();
    let mut lines: Vec<_> = text.lines().collect();
    lines.sort_unstable();
    assert_eq!(
        lines,
        ["error 1", "error 2", "input", "out 1", "out 2"],
        "{text:?}"
    );
}

#[test]
fn what_comes_in_goes_on_at_once() {
    // A conversation: each line is answered before the next one is written.
    let chain = chain([link(&["cat"]), link(&["cat"]), link(&["cat"])]);
    let mut run = command::run(chain.path());
    let mut child = run
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    for number in 0..100 {
        let line = format!("{number:03}\n");
        stdin.write_all(line.as_bytes()).unwrap();
        assert!(
            is_readable_within(&stdout, PATIENCE),
            "line {number} does not come back"
        );
        let mut answer = [0; 4];
        stdout.read_exact(&mut answer).unwrap();
        assert_eq!(answer, line.as_bytes());
    }
    drop(stdin);
    finish_child(child, PATIENCE).expect_success();
}

/// `CONSECUTION_TEST_MIB=n` for another amount.
#[test]
fn a_gibibyte_through_three_links_is_right_and_needs_little_memory() {
    const MEMORY_BYTES_MAX: u64 = 64 << 20;
    let amount =
        std::env::var("CONSECUTION_TEST_MIB").map_or(1024, |amount| amount.parse().unwrap());
    let chain = chain_with(
        "Deadline: none",
        [link(&["cat"]), link(&["cat"]), link(&["cat"])],
    );
    let mut run = command::run(chain.path());
    let mut child = run
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let feeding = std::thread::spawn(move || {
        for number in 0..amount {
            stdin.write_all(&block(number)).unwrap();
        }
        stdin
    });
    let mut received = vec![0; MIB];
    for number in 0..amount {
        stdout.read_exact(&mut received).unwrap();
        assert!(
            received == block(number),
            "block {number} is not what was sent"
        );
    }
    // It has seen everything, and waits for the end.
    let memory = processes::peak_memory(child.id());
    drop(feeding.join().unwrap());
    assert_eq!(stdout.read(&mut received).unwrap(), 0);
    finish_child(child, PATIENCE + Duration::from_secs(60)).expect_success();
    assert!(memory < MEMORY_BYTES_MAX, "{} MiB", memory >> 20);
    println!("peak memory: {} MiB", memory >> 20);
}

/// A block unlike all others: a pattern of its own, and its number everywhere.
fn block(number: u64) -> Vec<u8> {
    let mixed = (number + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mut page = Vec::with_capacity(4096);
    for at in 0..512_u64 {
        page.extend_from_slice(&(mixed ^ at.wrapping_mul(0xBF58_476D_1CE4_E5B9)).to_le_bytes());
    }
    page.repeat(MIB / page.len())
}

/// A link that says so when its input ends; quoted, since a message of ours may
/// show the script.
const TELLS_END: &str = "cat; echo SAW-''AN-END >&2";

#[test]
fn links_behind_a_failed_one_see_no_end() {
    let chain = chain([shell("echo a; exit 3"), shell(TELLS_END), shell(TELLS_END)]);
    // What would give them one is a race, so once is not enough.
    for _ in 0..40 {
        let ran = run_on(&chain, b"").expect_code(3);
        assert!(!ran.stderr.contains("SAW-AN-END"), "{}", ran.stderr);
    }
}

#[test]
fn a_link_that_is_stopped_at_its_deadline_sees_no_end() {
    let chain = chain_with("Deadline: 60ms", [shell(TELLS_END)]);
    for _ in 0..20 {
        let mut run = command::run(chain.path());
        let mut child = run
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let _open = child.stdin.take();
        let ran = finish_child(child, PATIENCE).expect_code(124);
        assert!(!ran.stderr.contains("SAW-AN-END"), "{}", ran.stderr);
    }
}
