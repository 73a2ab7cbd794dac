//! Links that get their input as a file, or leave their output in one, alone and among
//! links that read and write pipes.

use std::fs;
use std::time::Duration;

use bytes::Bytes;
use chain::{Chain, ChainLink, Deadline, Link, Warm};
use consecution::portal::{ChainError, ChainReply, ChainRequest, FailureReason, Portal, Report};
use consecution::runner::{Counts, Options};
use consecution::transport::conformance::fake;
use consecution::transport::{Body, Ending};
use futures_util::StreamExt;
use test_support::processes::descendants;
use tokio::sync::mpsc;

use crate::support::runner::{World, is_soon, shell, soon};

fn with_input(script: &str, path: &str) -> Link {
    Link {
        input: Some(path.to_owned()),
        ..shell(script)
    }
}

fn with_output(script: &str, path: &str) -> Link {
    Link {
        output: Some(path.to_owned()),
        ..shell(script)
    }
}

async fn run(portal: &Portal, input: impl Into<Body>) -> (Bytes, Result<Report, ChainError>) {
    let ChainReply { body, report } = portal.stream(ChainRequest::new(input));
    let output = soon(body.collect()).await.unwrap_or_default();
    (output, soon(report).await)
}

async fn output(world: &World, links: Vec<Link>, input: impl Into<Body>) -> Bytes {
    let portal = served(world, links).await;
    let (output, report) = run(&portal, input).await;
    report.unwrap();
    output
}

async fn failure(world: &World, links: Vec<Link>, input: impl Into<Body>) -> ChainError {
    let portal = served(world, links).await;
    run(&portal, input).await.1.unwrap_err()
}

async fn served(world: &World, links: Vec<Link>) -> Portal {
    let ids: Vec<_> = links.iter().map(Link::id).collect();
    let portal = world.portal_of(links).await;
    for id in ids {
        soon(world.runner.ready(id)).await.unwrap();
    }
    portal
}

#[tokio::test]
async fn an_input_is_a_file_that_can_be_named_and_sought_in() {
    let world = World::start(Options::default());
    let input = "one\ntwo\nthree\n";
    for (link, wanted) in [
        (with_input("cat /tmp/in", "/tmp/in"), input),
        (
            with_input("cat; cat /dev/stdin", "/run/a/in"),
            "one\ntwo\nthree\none\ntwo\nthree\n",
        ),
        (
            with_input("tail -c 6; tail -c 6 /dev/stdin", "/dev/stdin"),
            "three\nthree\n",
        ),
        (with_input("wc -c < /tmp/in", "/tmp/in"), "14\n"),
    ] {
        let found = output(&world, vec![link.clone()], input).await;
        assert_eq!(found, wanted, "{link:?}");
    }
    assert_eq!(
        output(&world, vec![with_input("cat", "/tmp/in")], "").await,
        ""
    );
}

#[tokio::test]
async fn files_stand_between_pipes() {
    let world = World::start(Options::default());
    let middle = Link {
        output: Some("/tmp/b/out".into()),
        ..with_input("echo said; cat /tmp/in /tmp/in > /tmp/b/out", "/tmp/in")
    };
    let links = vec![
        shell("tr a-z A-Z"),
        shell("cat"),
        with_input("cat /tmp/in; echo more", "/tmp/in"),
        shell("cat"),
        with_output("cat > /tmp/out", "/tmp/out"),
        shell("cat"),
        middle,
        shell("cat; echo end"),
    ];
    let portal = served(&world, links).await;
    let (found, report) = run(&portal, "x\n").await;
    assert_eq!(found, "X\nmore\nX\nmore\nend\n");
    let report = report.unwrap();
    let joined = report.links.iter().filter(|link| link.is_joined).count();
    assert_eq!(joined, 7);
    assert!(
        report
            .links
            .iter()
            .all(|link| link.ending == Some(Ending::Exited(0)))
    );
}

#[tokio::test]
async fn a_lot_goes_through_files() {
    let world = World::start(Options::default());
    let link = Link {
        output: Some("/tmp/out".into()),
        ..with_input("cat /tmp/in > /tmp/out", "/tmp/in")
    };
    let input = Bytes::from(vec![b'x'; 20 << 20]);
    let found = output(
        &world,
        vec![link.clone(), shell("cat"), link],
        input.clone(),
    )
    .await;
    assert!(found == input);
}

#[tokio::test]
async fn an_output_that_is_not_there_fails_the_link_that_exits_as_it_should() {
    let world = World::start(Options::default());
    let odd = |script: &str| failure(&world, vec![with_output(script, "/tmp/out")], "");
    let error = odd("echo it has said this").await;
    assert_eq!(error.reason, FailureReason::NoOutput("/tmp/out".into()));
    assert_eq!(error.stderr, "it has said this\n");
    assert!(
        error
            .to_string()
            .ends_with("has not written its output: there is no /tmp/out"),
        "{error}"
    );
    for script in [
        "mkdir /tmp/out",
        "mkfifo /tmp/out",
        "ln -s /etc/passwd /tmp/out",
    ] {
        let error = odd(script).await;
        assert_eq!(
            error.reason,
            FailureReason::OddOutput("/tmp/out".into()),
            "{script}"
        );
    }
    // Its code comes first.
    assert_eq!(odd("exit 3").await.reason, FailureReason::Exited(3));
    // And who is behind it does not take it for an empty one.
    let behind = vec![with_output("true", "/tmp/out"), shell("cat; echo end")];
    let error = failure(&world, behind, "").await;
    assert_eq!(
        (error.index, &error.reason),
        (0, &FailureReason::NoOutput("/tmp/out".into()))
    );
}

#[tokio::test]
async fn what_is_left_is_the_output_whatever_the_code() {
    let world = World::start(Options::default());
    let link = with_output("echo out > /tmp/out; exit 4", "/tmp/out");
    let chain = Chain::new(
        "test",
        [ChainLink {
            accepted_exit_codes: vec![4],
            ..ChainLink::new(link.clone())
        }],
    );
    let portal = Portal::open(chain, world.transport.clone(), &*world.links)
        .await
        .unwrap();
    soon(world.runner.ready(link.id())).await.unwrap();
    let (found, report) = run(&portal, "").await;
    assert_eq!(found, "out\n");
    report.unwrap();
}

#[tokio::test]
async fn an_input_without_room_says_so_and_is_not_tried_again() {
    let mut options = Options::default();
    options.sandboxing.scratch_bytes_max = 1 << 20;
    let world = World::start(options);
    let error = failure(
        &world,
        vec![with_input("cat", "/tmp/in")],
        vec![b'x'; 20 << 20],
    )
    .await;
    let FailureReason::CannotStart(reason) = &error.reason else {
        panic!("{error}");
    };
    assert!(
        reason.contains("store the input of the request \"/tmp/in\""),
        "{reason}"
    );
    assert!(reason.contains("scratch"), "{reason}");
}

/// It would be stored for ever, and nobody has a use for it.
#[tokio::test]
async fn an_input_that_never_ends_is_not_stored_for_who_has_had_enough() {
    let world = World::start(Options::default());
    let slowly = shell("while echo y; do sleep 0.1; done");
    let links = vec![slowly, with_input("cat", "/tmp/in"), shell("exit 0")];
    assert_eq!(output(&world, links, "").await, "");
}

#[tokio::test]
async fn an_input_that_breaks_off_or_comes_too_late_is_not_run() {
    let world = World::start(Options::default());
    let link = with_input("echo it ran", "/tmp/in");
    let chain = Chain {
        deadline: Deadline::After(Duration::from_millis(300)),
        ..Chain::new("test", [ChainLink::new(link.clone())])
    };
    let portal = Portal::open(chain, world.transport.clone(), &*world.links)
        .await
        .unwrap();
    soon(world.runner.ready(link.id())).await.unwrap();
    let (sender, body) = mpsc::channel(1);
    sender.send(Ok("some".into())).await.unwrap();
    let (found, report) = run(&portal, fake::receiving(body)).await;
    assert_eq!(found, "");
    assert_eq!(report.unwrap_err().reason, FailureReason::DeadlinePassed);
    let portal = world.portal(&link).await;
    let (sender, body) = mpsc::channel(2);
    sender.send(Ok("some".into())).await.unwrap();
    sender
        .send(Err(consecution::transport::Cut::new("on purpose")))
        .await
        .unwrap();
    let (found, report) = run(&portal, fake::receiving(body)).await;
    assert_eq!(found, "");
    assert!(matches!(
        report.unwrap_err().reason,
        FailureReason::InputCut(_)
    ));
}

#[tokio::test]
async fn nobody_who_reads_no_more_is_waited_for() {
    let world = World::start(Options::default());
    let slow = with_output("echo out > /tmp/out; sleep 1000", "/tmp/out");
    let found = output(&world, vec![slow, shell("echo enough")], "").await;
    assert_eq!(found, "enough\n");
    let large = with_output("head -c 9000000 /dev/zero > /tmp/out", "/tmp/out");
    let found = output(&world, vec![large, shell("head -c 1 | wc -c")], "").await;
    assert_eq!(found, "1\n");
}

#[tokio::test]
async fn the_place_of_a_late_link_is_warm_and_its_command_is_not() {
    let world = World::start(Options::default());
    for (at, link) in [
        Link {
            warm: Warm::Late,
            ..shell("cat; sleep 0.0")
        },
        with_input("cat; sleep 0.0", "/tmp/in"),
    ]
    .into_iter()
    .enumerate()
    {
        let portal = world.portal(&link).await;
        let is_warm = |counts: Counts| counts.idle == 2;
        for round in 0..3 {
            world.until(&link, is_warm).await;
            let executed = descendants(std::process::id());
            let executed = executed
                .iter()
                .filter(|process| process.command.contains("sleep 0.0"));
            assert_eq!(executed.count(), 0, "{at} {round}");
            let (found, report) = run(&portal, "x").await;
            report.unwrap();
            assert_eq!(found, "x");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_late_calls_leave_nothing_behind() {
    let world = World::start(Options::default());
    let link = Link {
        output: Some("/tmp/out".into()),
        ..with_input("cp /tmp/in /tmp/out", "/tmp/in")
    };
    let portal = served(&world, vec![link.clone()]).await;
    let call = async |number: usize| {
        let input = format!("{number}");
        let (found, report) = run(&portal, input.clone()).await;
        report.unwrap();
        assert_eq!(found, input);
    };
    let at_rest = async || {
        world
            .until(&link, |counts| counts.idle == 2 && counts.is_unused())
            .await;
        // A zygote, and an init a place.
        assert!(is_soon(|| descendants(std::process::id()).len() <= 3).await);
        fs::read_dir("/proc/self/fd").unwrap().count()
    };
    for number in 0..20 {
        call(number).await;
    }
    let before = at_rest().await;
    let calls = futures_util::stream::iter(0..2000)
        .map(&call)
        .buffer_unordered(4);
    calls.collect::<Vec<()>>().await;
    let after = at_rest().await;
    // Cgroups that rest are kept open.
    assert!(after <= before + 64, "{after} > {before}");
}

fn with_folders(script: &str) -> Link {
    Link {
        input: Some("/tmp/a/in/".into()),
        output: Some("/tmp/out/".into()),
        ..shell(script)
    }
}

#[tokio::test]
async fn a_folder_is_a_tar_outside() {
    let world = World::start(Options::default());
    let pack = shell("cd /tmp; mkdir x; echo one > x/a; echo two > b; tar c b x");
    let upper = with_folders(
        "echo said; cat; cd /tmp/a/in; mkdir /tmp/out/x; \
         for file in b x/a; do tr a-z A-Z < $file > /tmp/out/$file; done",
    );
    let links = vec![
        pack.clone(),
        upper.clone(),
        shell("cat"),
        upper,
        shell("tar tv; echo end"),
    ];
    let listed = output(&world, links, "").await;
    let listed = String::from_utf8(listed.to_vec()).unwrap();
    let names: Vec<_> = listed
        .lines()
        .map(|line| line.split_whitespace().next_back().unwrap())
        .collect();
    assert_eq!(names, ["b", "x", "x/a", "end"], "{listed}");
    assert!(listed.contains("1970-01-01"), "{listed}");
    let links = vec![
        pack,
        with_folders("cp -r /tmp/a/in/* /tmp/out/"),
        shell("tar xO x/a"),
    ];
    assert_eq!(output(&world, links, "").await, "one\n");
    // An empty folder is one.
    let links = vec![with_folders("ls /tmp/a/in"), shell("tar t; echo end")];
    assert_eq!(output(&world, links, "").await, "end\n");
}

#[tokio::test]
async fn what_is_no_tar_starts_no_command() {
    let world = World::start(Options::default());
    let link = with_folders("echo it ran > /tmp/out/x");
    for input in ["no tar".repeat(1000), "\u{1}".repeat(512)] {
        let error = failure(&world, vec![link.clone()], input).await;
        let FailureReason::CannotStart(reason) = &error.reason else {
            panic!("{error}");
        };
        assert!(reason.starts_with("failed to read the tar"), "{reason}");
    }
}

#[tokio::test]
async fn a_large_folder_is_read_as_far_as_is_wanted() {
    let world = World::start(Options::default());
    let large = with_folders("head -c 9000000 /dev/zero > /tmp/out/x");
    assert_eq!(
        output(&world, vec![large.clone(), shell("head -c 1 | wc -c")], "").await,
        "1\n"
    );
    let counted = output(&world, vec![large, shell("wc -c")], "").await;
    assert_eq!(counted, "9001984\n");
}

#[tokio::test]
async fn a_folder_that_is_not_there_or_cannot_be_packed_is_no_output() {
    let world = World::start(Options::default());
    let error = failure(&world, vec![with_folders("rmdir /tmp/out")], "").await;
    assert_eq!(error.reason, FailureReason::NoOutput("/tmp/out/".into()));
    let script = "echo > /tmp/out/x; chmod 0 /tmp/out/x";
    let link = Link {
        user: Some("nobody".into()),
        ..with_folders(script)
    };
    let error = failure(&world, vec![link, shell("cat; echo end")], "").await;
    assert_eq!(error.reason, FailureReason::OddOutput("/tmp/out/".into()));
    let said = String::from_utf8_lossy(&error.stderr);
    assert!(
        said.contains("failed to pack \"x\": permission denied"),
        "{said}"
    );
}
