//! What a link says about itself reaches its process, and a link that cannot be
//! run says why.

use std::process::Command;

use crate::support::chain::{ChainFile, chain, chain_with, link, shell};
use crate::support::command::{self, consecution, finish, run_on};
use crate::support::home;
use ::chain::limits::MAX_LINKS;
use test_support::PATIENCE;
use test_support::ports::free_port;

/// Runs a chain that is expected to work, and gives what it prints.
#[track_caller]
fn output(chain: &ChainFile) -> String {
    run_on(chain, b"").expect_success().text().to_owned()
}

#[test]
fn arguments_arrive_as_they_are() {
    let odd = [
        "a b",
        "",
        "$HOME",
        "'\"\\",
        "*",
        "grüße",
        "-n",
        "line\nbreak",
        "1.10",
        "yes",
    ];
    let mut words = vec!["/bin/printf", "<%s>"];
    words.extend(odd);
    let wanted: String = odd.iter().map(|word| format!("<{word}>")).collect();
    assert_eq!(output(&chain([link(&words)])), wanted);
}

#[test]
fn a_bare_command_is_looked_up_in_the_path() {
    assert_eq!(output(&chain([link(&["echo", "found"])])), "found\n");
    assert_eq!(output(&chain([link(&["/bin/echo", "found"])])), "found\n");
}

#[test]
fn the_environment_is_the_links_own() {
    let chain =
        chain([link(&["env"]).with("Environment", "{GREETING: 'good morning', EMPTY: ''}")]);
    let mut run = command::run(chain.path());
    run.env("SECRET", "of the caller");
    let text = finish(run, b"", PATIENCE)
        .expect_success()
        .text()
        .to_owned();
    let lines: Vec<_> = text.lines().collect();
    assert!(
        lines.contains(&"GREETING=good morning") && lines.contains(&"EMPTY="),
        "{text}"
    );
    assert!(
        lines.iter().any(|line| line.starts_with("PATH=/")),
        "{text}"
    );
    assert!(
        !text.contains("SECRET") && !text.contains("CONSECUTION"),
        "{text}"
    );
}

#[test]
fn the_working_directory_is_honoured() {
    assert_eq!(output(&chain([link(&["pwd"])])), "/\n");
    assert_eq!(
        output(&chain(
            [link(&["pwd"]).with("WorkingDirectory", "/var/tmp")]
        )),
        "/var/tmp\n"
    );
}

#[test]
fn the_user_is_honoured() {
    let ids = "echo $(id -u):$(id -g)";
    assert_eq!(output(&chain([shell(ids)])), "0:0\n");
    if !rustix::process::geteuid().is_root() {
        cannot_run_here!("not root: only one id can be mapped");
    }
    assert_eq!(
        output(&chain([shell(ids).with("User", "nobody")])),
        "65534:65534\n"
    );
    assert_eq!(
        output(&chain([shell(ids).with("User", "'1234:5678'")])),
        "1234:5678\n"
    );
    assert_eq!(
        output(&chain([shell(ids).with("User", "'1:daemon'")])),
        "1:1\n"
    );
}

#[test]
fn a_root_that_is_never_writable_is_read_only_but_for_private_folders() {
    let try_all = "for f in / /bin /etc /tmp /var/tmp /run /dev/shm; do \
                   (echo x > $f/new) 2>/dev/null && echo $f; done; true";
    assert_eq!(
        output(&chain([shell(try_all).with("Writable", "never")])),
        "/tmp\n/var/tmp\n/run\n/dev/shm\n"
    );
    // What one process writes there, the next one does not see.
    let other = [shell("echo x > /tmp/new; cat"), shell("cat; ls /tmp")];
    assert_eq!(output(&chain(other)), "");
}

#[test]
fn a_writable_root_is_private_and_thrown_away() {
    let writing = || {
        shell("echo x > /etc/new && rm /bin/xargs && cat /etc/new; ls /etc/passwd")
            .with("Writable", true)
    };
    for _ in 0..2 {
        assert_eq!(output(&chain([writing()])), "x\n/etc/passwd\n");
    }
    let looking = shell("cat >/dev/null; ls /bin/xargs; ls /etc/new 2>/dev/null || echo gone")
        .with("Writable", true);
    assert_eq!(output(&chain([writing(), looking])), "/bin/xargs\ngone\n");
    assert_eq!(
        output(&chain([
            writing().with("AcceptedExitCodes", "[0]"),
            link(&["cat"])
        ])),
        "x\n/etc/passwd\n"
    );
}

#[test]
fn there_is_no_network_unless_it_is_asked_for() {
    let interfaces =
        "ls /sys/class/net 2>/dev/null; tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '";
    assert_eq!(output(&chain([shell(interfaces)])), "lo\n");
    let chain = chain([shell("cat /proc/net/dev").with("Network", "host")]);
    let mut run = command::run(chain.path());
    run.arg("--allow-host-network");
    let host = finish(run, b"", PATIENCE).expect_success();
    let host = host.text();
    let here = std::fs::read_to_string("/proc/self/net/dev").unwrap();
    assert_eq!(host.lines().count(), here.lines().count());
}

#[test]
fn processes_are_limited() {
    let many = "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 1000 & done; echo all";
    let chain = chain([shell(many).with("Constraints", "{Processes: 5}")]);
    let ran = run_on(&chain, b"");
    if ran.code() == 125 && ran.stderr.contains("cgroup") {
        cannot_run_here!("no cgroups to be had: {}", ran.stderr);
    }
    assert_ne!(ran.stdout, b"all\n", "12 processes where 5 are allowed");
}

#[test]
fn memory_is_limited() {
    // A line of 100 MB, which has to be held as a whole.
    let chain = chain([
        shell("head -c 100000000 /dev/zero | tr '\\0' x | sort | wc -c")
            .with("Constraints", "{Memory: 20M}"),
    ]);
    let ran = run_on(&chain, b"");
    if ran.code() == 125 && ran.stderr.contains("cgroup") {
        cannot_run_here!("no cgroups to be had: {}", ran.stderr);
    }
    assert_ne!(ran.stdout, b"100000001\n", "100 MB where 20 are allowed");
}

#[test]
fn a_command_that_is_not_there_is_named() {
    for command in ["/bin/nonesuch", "nonesuch"] {
        let ran = run_on(
            &chain([link(&["cat"]), link(&[command]).with("Name", "wrong")]),
            b"x",
        );
        ran.expect_code(125).expect_output("").expect_stderr(&[
            "consecution: ",
            "link 2 'wrong'",
            "nonesuch",
        ]);
    }
}

#[test]
fn a_command_that_is_no_program_is_named() {
    let ran = run_on(&chain([link(&["/etc/passwd"])]), b"").expect_code(125);
    ran.expect_stderr(&["/etc/passwd", "ermission denied"]);
    run_on(&chain([link(&["/etc"])]), b"")
        .expect_code(125)
        .expect_stderr(&["/etc"]);
}

#[test]
fn a_user_that_is_not_there_is_named() {
    let ran = run_on(&chain([link(&["cat"]).with("User", "nobodyknows")]), b"").expect_code(125);
    ran.expect_stderr(&["link 1 'cat'", "nobodyknows"]);
}

#[test]
fn a_working_directory_that_is_not_there_is_named() {
    let ran = run_on(
        &chain([link(&["cat"]).with("WorkingDirectory", "/nonesuch")]),
        b"",
    )
    .expect_code(125);
    ran.expect_stderr(&["/nonesuch"]);
}

#[test]
fn an_image_without_a_command_needs_one() {
    let none = link::<&str>(&[]);
    run_on(&chain([none]), b"")
        .expect_code(125)
        .expect_stderr(&["link 1", "ommand"]);
}

#[test]
fn an_image_that_is_nowhere_is_named() {
    // Nobody listens there.
    let image = format!("localhost:{}/nonesuch", free_port());
    let chain = chain_with(
        "Deadline: 20s",
        [link(&["cat"]), link(&["cat"]).image(&image)],
    );
    let ran = run_on(&chain, b"").expect_code(125).expect_output("");
    ran.expect_stderr(&["link 2", &image]);
}

#[test]
fn an_image_name_that_is_none_is_refused() {
    for image in ["BusyBox", "busy box", "../busybox", "busybox:"] {
        let ran = run_on(&chain([link(&["cat"]).image(image)]), b"").expect_code(125);
        ran.expect_stderr(&[image]);
    }
}

#[test]
fn a_home_that_cannot_be_made_is_named() {
    let chain = chain([link(&["cat"])]);
    let mut run = consecution("/proc/nonesuch".as_ref());
    run.arg("run").arg(chain.path());
    finish(run, b"", PATIENCE)
        .expect_code(125)
        .expect_stderr(&["/proc/nonesuch"]);
    assert!(home::shared().exists());
}

/// Where far fewer open files are allowed at first than it needs.
#[test]
fn the_longest_chain_runs() {
    let chain = chain((0..MAX_LINKS).map(|_| link(&["cat"])));
    let run = command::run(chain.path());
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -S -n 256; exec \"$0\" \"$@\""]);
    limited.arg(run.get_program()).args(run.get_args());
    for (name, value) in run.get_envs() {
        match value {
            Some(value) => limited.env(name, value),
            None => limited.env_remove(name),
        };
    }
    finish(limited, b"through all\n", PATIENCE).expect_output("through all\n");
}
