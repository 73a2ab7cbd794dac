//! `consecution run` is a filter: the chain's output on stdout and nothing else,
//! messages on stderr, an exit status that says how it went.

use std::process::Stdio;

use crate::support::chain::{ChainFile, chain, chain_with, link, shell};
use crate::support::command::{self, UNREAD_WAIT, consecution, finish, run_on};
use crate::support::home;
use test_support::PATIENCE;

#[test]
fn the_first_example_gives_what_it_says() {
    let example = home::workspace().join("examples/words");
    let input = std::fs::read(example.join("input")).unwrap();
    let ran = finish(command::run(&example.join("chain.yaml")), &input, PATIENCE);
    let ran = ran.expect_success().expect_output("this\nis\nraw\ndata\n");
    ran.expect_output(std::fs::read(example.join("expected")).unwrap())
        .expect_stderr(&[]);
}

#[test]
fn a_chain_that_succeeds_says_nothing() {
    let ran = run_on(&chain([link(&["cat"]), link(&["cat"])]), b"x")
        .expect_success()
        .expect_output("x");
    assert_eq!(ran.stderr, "");
}

#[test]
fn what_links_say_on_stderr_goes_to_stderr() {
    let ran = run_on(&chain([shell("echo aside >&2; cat")]), b"x").expect_success();
    assert_eq!(ran.expect_output("x").stderr, "aside\n");
}

/// The table that `--stats` prints behind what links and the program say.
fn stats(ran: &command::Finished) -> Vec<Vec<&str>> {
    let at = ran.stderr.find("LINK ").unwrap();
    let lines = ran.stderr[at..].lines();
    lines
        .map(|line| {
            let cells = line.split("  ").map(str::trim);
            cells.filter(|cell| !cell.is_empty()).collect()
        })
        .collect()
}

#[test]
fn stats_are_a_table_behind_all_else_on_stderr_and_change_nothing() {
    for (script, code) in [("echo aside >&2; cat", 0), ("echo aside >&2; exit 3", 3)] {
        let chain = chain([link(&["cat"]), shell(script).with("Name", "last")]);
        let mut run = command::run(chain.path());
        run.arg("--stats");
        let ran = finish(run, b"data\n", PATIENCE).expect_code(code);
        let ran = ran.expect_output(if code == 0 { "data\n" } else { "" });
        assert!(ran.stderr.starts_with("aside\n"), "{}", ran.stderr);
        let is_told = ran.stderr.contains("consecution: link 2 'last'");
        assert_eq!(is_told, code != 0, "{}", ran.stderr);
        let table = stats(&ran);
        let heading = ["LINK", "STATUS", "TIME", "CPU", "MEMORY", "IN", "OUT"];
        assert_eq!(table[0], heading, "{}", ran.stderr);
        assert_eq!(table.len(), 3, "{}", ran.stderr);
        assert_eq!(table[1][0], "cat");
        assert_eq!(table[2][..2], ["last", &code.to_string()]);
        assert!(table[2][2].ends_with(" ms") || table[2][2].ends_with(" s"));
        assert_eq!(table[2].len(), heading.len(), "{}", ran.stderr);
    }
    // A link that never ran has nothing to tell.
    let chain = chain([link(&["/bin/nonesuch"])]);
    let mut run = command::run(chain.path());
    run.env("CONSECUTION_STATS", "1");
    let ran = finish(run, b"", PATIENCE).expect_code(125);
    assert!(!ran.stderr.contains("LINK"), "{}", ran.stderr);
}

#[test]
fn a_failed_link_gives_its_exit_code() {
    for code in [1, 2, 42, 255] {
        let failing = shell(&format!("cat; echo why >&2; exit {code}")).with("Name", "broken");
        let ran =
            run_on(&chain([link(&["cat"]), failing, link(&["sort"])]), b"x").expect_code(code);
        ran.expect_output("").expect_stderr(&[
            "why\n",
            "consecution: link 2 'broken'",
            &format!("code {code}"),
        ]);
    }
}

#[test]
fn a_failed_last_link_has_still_written_what_it_wrote() {
    let ran = run_on(&chain([shell("cat; exit 7")]), b"all of it");
    ran.expect_code(7).expect_output("all of it");
}

#[test]
fn the_first_link_that_failed_counts_and_not_the_first_to_fail() {
    let links = [
        shell("cat >/dev/null; exit 3"),
        shell("cat >/dev/null; exit 4"),
        shell("exit 5"),
    ];
    let chain = chain(links);
    // The last one fails at once; the first only when it has its input. Where that
    // takes long, it may be stopped before, for being unread.
    let mut runs = (0..10).map(|_| run_on(&chain, b"x"));
    let ran = runs.find(|ran| ran.code() == 3 || ran.elapsed < UNREAD_WAIT);
    ran.expect("one that is not slow")
        .expect_code(3)
        .expect_stderr(&["link 1"]);
}

#[test]
fn a_link_that_a_signal_ended_gives_128_and_the_signal() {
    run_on(&chain([shell("kill -9 $$")]), b"")
        .expect_code(137)
        .expect_stderr(&["SIGKILL"]);
    run_on(&chain([shell("kill -SEGV $$")]), b"")
        .expect_code(139)
        .expect_stderr(&["SIGSEGV"]);
}

#[test]
fn accepted_exit_codes_are_success() {
    let none = link(&["grep", "nothing like it"]).with("AcceptedExitCodes", "[0, 1]");
    run_on(&chain([none, link(&["wc", "-l"])]), b"x\n")
        .expect_success()
        .expect_output("0\n");
}

#[test]
fn a_run_that_failed_never_exits_with_0() {
    // 0 is no success unless it is said.
    let odd = link(&["true"]).with("AcceptedExitCodes", "[1]");
    let ran = run_on(&chain([odd, link(&["cat"])]), b"").expect_stderr(&["code 0"]);
    assert_ne!(ran.code(), 0);
}

#[test]
fn a_deadline_gives_124() {
    let ran = run_on(
        &chain_with("Deadline: 300ms", [link(&["sleep", "1000"])]),
        b"",
    );
    ran.expect_code(124)
        .expect_stderr(&["link 1 'sleep'", "deadline"]);
    let links = [
        link(&["cat"]),
        shell("cat; sleep 1000").with("Deadline", "300ms"),
        link(&["cat"]),
    ];
    run_on(&chain(links), b"")
        .expect_code(124)
        .expect_stderr(&["link 2 'sh'", "deadline"]);
}

#[test]
fn the_deadline_can_be_given_and_errors_say_where() {
    let run = |chain: &ChainFile, deadline| {
        let mut run = command::run(chain.path());
        run.args(["--deadline", deadline]);
        finish(run, b"", PATIENCE)
    };
    let unlimited = chain([link(&["sleep", "1000"])]);
    run(&unlimited, "300ms").expect_code(124).expect_stderr(&[
        "link 1 'sleep'",
        "the chain has 300ms",
        "`Deadline`",
        "--deadline",
    ]);
    let short = chain_with("Deadline: 300ms", [shell("sleep 1; echo done")]);
    for deadline in ["none", "1h"] {
        run(&short, deadline)
            .expect_success()
            .expect_output("done\n");
    }
    let own = chain([link(&["sleep", "1000"]).with("Deadline", "300ms")]);
    let ran = run(&own, "1h").expect_code(124);
    let ran = ran.expect_stderr(&["it has 300ms: change the link's `Deadline`"]);
    assert!(!ran.stderr.contains("--deadline"), "{}", ran.stderr);
    run(&unlimited, "soon")
        .expect_code(2)
        .expect_stderr(&["`soon`"]);
}

#[test]
fn a_deadline_holds_also_where_input_never_ends() {
    let chain = chain_with("Deadline: 300ms", [link(&["cat"])]);
    let mut run = command::run(chain.path());
    let mut child = run
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let stdin = child.stdin.take();
    command::finish_child(child, PATIENCE)
        .expect_code(124)
        .expect_output("");
    drop(stdin);
}

#[test]
fn a_chain_file_that_is_wrong_gives_125_and_is_shown() {
    let wrong = crate::support::chain::file("Chain:\n- Image: busybox\n  Comand: cat\n");
    let name = wrong.path().display().to_string();
    let ran = run_on(&wrong, b"x").expect_code(125).expect_output("");
    ran.expect_stderr(&[&name, ":3:3", "Comand", "did you mean `Command`?"]);
}

#[test]
fn a_chain_file_that_is_not_there_gives_125() {
    let missing = finish(command::run("/nonesuch/chain.yaml".as_ref()), b"", PATIENCE);
    missing
        .expect_code(125)
        .expect_output("")
        .expect_stderr(&["/nonesuch/chain.yaml", "o such file"]);
    let folder = tempfile::tempdir().unwrap();
    let ran = finish(command::run(folder.path()), b"", PATIENCE);
    ran.expect_code(125).expect_stderr(&["folder"]);
}

#[test]
fn the_store_may_be_named_by_option_or_environment() {
    let chain = chain([link(&["cat"])]);
    let mut by_option = consecution("/nonesuch".as_ref());
    by_option
        .arg("--home")
        .arg(home::shared())
        .arg("run")
        .arg(chain.path());
    finish(by_option, b"x", PATIENCE)
        .expect_success()
        .expect_output("x");
    finish(command::run(chain.path()), b"x", PATIENCE)
        .expect_success()
        .expect_output("x");
}

#[test]
fn the_store_may_be_named_by_a_relative_path() {
    let chain = chain([link(&["cat"])]);
    let (folder, name) = (home::shared().parent(), home::shared().file_name());
    let mut run = consecution(name.unwrap().as_ref());
    run.arg("run")
        .arg(chain.path())
        .current_dir(folder.unwrap());
    finish(run, b"x", PATIENCE)
        .expect_success()
        .expect_output("x");
}

#[test]
fn several_runs_share_a_store() {
    let chain = chain([link(&["cat"]), link(&["sort"]), link(&["cat"])]);
    let start = |number: u32| {
        let mut run = command::run(chain.path());
        run.stdin(command::file_with(format!("{number}\n").as_bytes()).unwrap());
        run.stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let children: Vec<_> = (0..12).map(start).collect();
    for (number, child) in children.into_iter().enumerate() {
        command::finish_child(child, PATIENCE)
            .expect_success()
            .expect_output(format!("{number}\n"));
    }
}
