//! What a link may have at most is for whoever runs it to say.

use crate::support::chain::{ChainFile, chain, link, shell};
use std::process::Stdio;

use crate::support::command::{self, Finished, consecution, finish, finish_child, run_on};
use crate::support::home;
use test_support::processes::descendants;
use test_support::{PATIENCE, eventually};

/// Runs a chain with those options of `run`.
#[track_caller]
fn run_with(chain: &ChainFile, options: &[&str]) -> Finished {
    let mut run = command::run(chain.path());
    run.args(options);
    finish(run, b"", PATIENCE)
}

#[test]
fn the_hosts_network_is_for_the_runner_to_give() {
    let chain = chain([shell("tail -n +3 /proc/net/dev | wc -l").with("Network", "host")]);
    run_on(&chain, b"")
        .expect_code(125)
        .expect_output("")
        .expect_stderr(&["link 1", "host's network", "--allow-host-network"]);
    let interfaces = std::fs::read_to_string("/proc/self/net/dev").unwrap();
    let interfaces = format!("{}\n", interfaces.lines().count() - 2);
    run_with(&chain, &["--allow-host-network"])
        .expect_success()
        .expect_output(&interfaces);
    for (value, code) in [("1", 0), ("true", 0), ("0", 125), ("false", 125)] {
        let mut run = command::run(chain.path());
        run.env("CONSECUTION_ALLOW_HOST_NETWORK", value);
        finish(run, b"", PATIENCE).expect_code(code);
    }
}

#[test]
fn too_much_output_stops_a_link() {
    let chain = chain([shell("head -c 2000000 /dev/zero"), link(&["wc", "-c"])]);
    run_with(&chain, &["--output-max", "2M"])
        .expect_success()
        .expect_output("2000000\n");
    let ran = run_with(&chain, &["--output-max", "1M"]);
    // As the kernel stops who makes a file too large: SIGXFSZ.
    ran.expect_code(128 + 25)
        .expect_output("")
        .expect_stderr(&["it wrote more to its output than the runner allows"]);
}

#[test]
fn too_much_on_standard_error_stops_a_link() {
    let chain = chain([shell("yes >&2; cat")]);
    let ran = run_with(&chain, &["--stderr-max", "1M"]).expect_code(128 + 25);
    assert!(ran.stderr.len() < 2 << 20, "{}", ran.stderr.len());
    ran.expect_stderr(&["it wrote more to standard error than the runner allows"]);
}

#[test]
fn private_folders_hold_so_much_and_no_more() {
    let script = "head -c 9000000 /dev/zero > /tmp/file; echo $?; wc -c < /tmp/file";
    let chain = chain([shell(script)]);
    run_with(&chain, &[])
        .expect_success()
        .expect_output("0\n9000000\n");
    // Four of 2 MiB, and as much for the root: they share their room.
    run_with(&chain, &["--scratch-max", "1M"])
        .expect_success()
        .expect_output("1\n5242880\n");
}

#[test]
fn a_failure_that_a_key_would_cure_names_it() {
    for (script, key, value, hint) in [
        (
            "echo x > /file",
            "Writable",
            "never",
            "hint: its root cannot be written: leave `Writable: never` out",
        ),
        (
            "cat /dev/zero > /tmp/file",
            "User",
            "root",
            "hint: a private folder is full",
        ),
        (
            "nc 192.0.2.1 80",
            "User",
            "root",
            "hint: it has no network beyond its own loopback",
        ),
        (
            "nc 127.0.0.1 80",
            "Network",
            "sealed",
            "hint: it has no network, not even a loopback",
        ),
    ] {
        let chain = chain([shell(script).with(key, value)]);
        let failed = run_with(&chain, &["--scratch-max", "2M"]);
        assert_ne!(failed.code(), 0, "{script}");
        failed.expect_stderr(&[hint]);
    }
    let cured = chain([shell("echo x > /file; cat /file").with("Writable", "true")]);
    run_with(&cured, &[]).expect_success().expect_output("x\n");
    // Nothing is known about it, so nothing is said.
    let failed = run_with(&chain([shell("echo no >&2; exit 3")]), &[]).expect_code(3);
    assert!(!failed.stderr.contains("hint"), "{}", failed.stderr);
}

// Its servers and clients are on its own loopback, in a network of its own.
#[test]
fn a_link_talks_to_itself() {
    let script = "nc -l -p 4711 -e cat & until nc 127.0.0.1 4711 2>/dev/null; do :; done";
    let chain = chain([shell(script), shell(script)]);
    run_on(&chain, b"hello\n")
        .expect_success()
        .expect_output("hello\n");
}

#[test]
fn who_runs_out_of_memory_is_told_so() {
    // A line of 100 MB, which has to be held as a whole; the shell outlives it.
    let hog = "head -c 100000000 /dev/zero | tr '\\0' x | sort > /dev/null; exit $?";
    let chain = chain([shell(hog).with("Constraints", "{Memory: 20M}")]);
    let ran = run_on(&chain, b"");
    if ran.code() == 125 && ran.stderr.contains("cgroup") {
        cannot_run_here!("no cgroups to be had: {}", ran.stderr);
    }
    ran.expect_code(137)
        .expect_stderr(&["consecution: it ran out of memory: its limit is 20M, raise Memory"]);
}

#[test]
fn a_link_whose_part_ran_out_of_memory_fails_whatever_the_rest_says() {
    let hog = "head -c 100000000 /dev/zero | tr '\\0' x | sort | wc -c";
    for code in ["0", "3"] {
        let hog = shell(&format!("{hog}; exit {code}"));
        let hog = hog.with("Constraints", "{Memory: 20M}");
        let chain = chain([hog.with("AcceptedExitCodes", "[0, 3]"), link(&["cat"])]);
        let ran = run_on(&chain, b"");
        if ran.code() == 125 && ran.stderr.contains("cgroup") {
            cannot_run_here!("no cgroups to be had: {}", ran.stderr);
        }
        ran.expect_code(137).expect_stderr(&[&format!(
            "its limit is 20M, raise Memory; the kernel killed a part of it, and the rest exited \
             with code {code}\n"
        )]);
    }
}

#[test]
fn limits_that_cannot_be_kept_are_refused_unless_one_insists() {
    if !rustix::process::geteuid().is_root() {
        cannot_run_here!("this test needs root, to become an ordinary user");
    }
    // An ordinary user has no cgroups here, unless they were delegated to it.
    let visible = tempfile::tempdir().unwrap();
    let as_nobody = |arguments: &[&std::ffi::OsStr]| {
        let mut command = std::process::Command::new("setpriv");
        command
            .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"])
            .arg(visible.path().join("consecution"))
            .args(arguments)
            .env("CONSECUTION_HOME", visible.path().join("home"))
            .env("HOME", visible.path());
        finish(command, b"", PATIENCE)
    };
    let everyones = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(visible.path(), everyones).unwrap();
    std::fs::copy(command::PROGRAM, visible.path().join("consecution")).unwrap();
    std::fs::copy(home::busybox_tar(), visible.path().join("busybox.tar")).unwrap();
    let tar = visible.path().join("busybox.tar");
    let import = ["image", "import", "busybox"].map(std::ffi::OsStr::new);
    as_nobody(&[&import[..], &[tar.as_os_str()]].concat()).expect_success();

    let limited = link(&["echo", "ran"]).with("Constraints", "{Memory: 20M, CPU: 1}");
    let text = std::fs::read(chain([limited]).path()).unwrap();
    let file = visible.path().join("chain.yaml");
    std::fs::write(&file, text).unwrap();
    let run = ["run".as_ref(), file.as_os_str()];
    let refused = as_nobody(&run);
    if refused.code() == 0 {
        cannot_run_here!("cgroups are delegated to nobody here");
    }
    refused.expect_code(125).expect_stderr(&[
        "limit memory",
        "cgroup controller",
        "--allow-unenforced-limits",
    ]);
    let insist = std::ffi::OsStr::new("--allow-unenforced-limits");
    as_nobody(&[&run[..], &[insist]].concat())
        .expect_success()
        .expect_output("ran\n");
}

#[test]
fn two_runners_may_have_different_ids() {
    if !rustix::process::geteuid().is_root() {
        cannot_run_here!("this test needs root, to have ids other than its own");
    }
    let home = home::empty();
    // Within, the ids are those of the namespace around the link's.
    let chain = chain([shell("cat /proc/self/uid_map; id -u; cat")]);
    for first in ["200000", "300000"] {
        let with_first = |arguments: &[&str]| {
            let mut command = consecution(home.path());
            command.args(["--first-id", first]).args(arguments);
            command
        };
        let mut import = with_first(&["image", "import", "busybox"]);
        import.arg(home::busybox_tar());
        finish(import, b"", PATIENCE).expect_success();
        let mut run = with_first(&["run"]);
        run.arg(chain.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut run = run.spawn().unwrap();
        let map = eventually("a process with those ids", || {
            let maps = descendants(run.id()).into_iter().map(|process| {
                std::fs::read_to_string(format!("/proc/{}/uid_map", process.id)).unwrap_or_default()
            });
            let is_shifted = |map: &String| map.split_whitespace().nth(1) == Some(first);
            maps.into_iter().find(is_shifted)
        });
        assert_eq!(
            map.split_whitespace().collect::<Vec<_>>(),
            ["0", first, "65536"]
        );
        drop(run.stdin.take());
        let ran = finish_child(run, PATIENCE).expect_success();
        let words: Vec<&str> = ran.text().split_whitespace().collect();
        assert_eq!(words, ["0", "0", "65536", "0"]);
    }
    let refused = |first: &str| {
        let mut run = consecution(home.path());
        run.args(["--first-id", first, "run"]).arg(chain.path());
        finish(run, b"", PATIENCE).expect_code(125).stderr
    };
    assert!(refused("1000").contains("begins at 65536 or above"));
    assert!(refused("4294967295").contains("does not have 65536 ids"));
}

#[test]
fn what_a_host_can_enforce_is_told() {
    let check = || {
        let mut check = consecution(home::shared());
        check.args(["sandbox", "check"]);
        finish(check, b"", PATIENCE)
    };
    let ran = check().expect_success();
    let state = |name: &str| {
        let line = ran.text().lines().find(|line| line.starts_with(name));
        let rest = line.unwrap_or_else(|| panic!("no {name}: {}", ran.text()));
        rest[name.len()..]
            .split_whitespace()
            .next()
            .unwrap()
            .to_owned()
    };
    assert_eq!(state("sandbox"), "yes");
    let mut json = consecution(home::shared());
    json.args(["sandbox", "check", "--json"]);
    let json = finish(json, b"", PATIENCE).expect_success();
    let json: serde_json::Value = serde_json::from_str(json.text()).unwrap();
    assert_eq!(json[0]["name"], "sandbox");
    assert_eq!(
        (&json[0]["state"], &json[0]["needed"]),
        (&"yes".into(), &true.into())
    );
    assert_eq!(state("writable roots"), "yes");
    for name in [
        "ids of their own",
        "devices of their own",
        "hidden paths",
        "Landlock",
        "memory limits",
        "CPU limits",
    ] {
        assert!(
            ["yes", "partly", "no"].contains(&state(name).as_str()),
            "{name}"
        );
    }
    // Whatever is missing comes with what to do about it.
    let lines: Vec<&str> = ran.text().lines().collect();
    for (at, line) in lines.iter().enumerate() {
        let words: Vec<&str> = line
            .split("  ")
            .map(str::trim)
            .filter(|word| !word.is_empty())
            .collect();
        if ["no", "partly"].contains(&words[1..].first().copied().unwrap_or("")) {
            assert!(lines[at + 1].contains("to get it: "), "{line}");
        }
    }
    // It leaves nothing.
    let left = std::fs::read_dir(std::env::temp_dir()).unwrap().flatten();
    let names: Vec<_> = left
        .map(|entry| entry.file_name().into_string().unwrap_or_default())
        .collect();
    assert!(
        !names
            .iter()
            .any(|name| name.starts_with("consecution-check-")),
        "{names:?}"
    );
}
