//! What a link has used, and the limit that it has met, are told of each call, and nothing of
//! one call is told of the next.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chain::{Constraints, Link};
use consecution::runner::{Options, Sandboxing};
use consecution::transport::{Body, Cut, Ending, Following, Limit, Outcome, Reply, Request, Usage};

use futures_util::StreamExt;
use tokio::time::Instant;

use crate::support::runner::{World, shell, soon};

/// Calls consecutive links, as a portal does that lets a runner join them. Gives how each
/// has ended, as far as one runner has run them.
async fn call(
    world: &World,
    links: &[&Link],
    input: impl Into<Body>,
) -> (Result<Bytes, Cut>, Vec<Outcome>) {
    for link in links {
        world.links.put(Arc::new((*link).clone())).await.unwrap();
    }
    for link in links {
        soon(world.runner.ready(link.id())).await.unwrap();
    }
    let following = links[1..].iter().map(|link| Following {
        id: link.id(),
        accepted: vec![0],
    });
    let request = Request {
        following: following.collect(),
        ..Request::new(input)
    };
    let Reply { body, outcome, .. } = soon(world.transport.call(links[0].id(), request))
        .await
        .unwrap();
    let output = soon(body.collect()).await;
    let outcome = soon(outcome).await;
    (output, outcome.links().cloned().collect())
}

async fn call_one(world: &World, link: &Link, input: impl Into<Body>) -> Outcome {
    call(world, &[link], input).await.1.remove(0)
}

fn bytes_of(outcome: &Outcome) -> (Option<u64>, Option<u64>) {
    (outcome.usage.bytes_in, outcome.usage.bytes_out)
}

fn limited(script: &str, constraints: Constraints) -> Link {
    Link {
        constraints,
        ..shell(script)
    }
}

fn with_memory(script: &str, bytes: u64) -> Link {
    let constraints = Constraints {
        memory: Some(bytes),
        ..Constraints::default()
    };
    limited(script, constraints)
}

/// Takes as much memory as it is told, in KiB.
const HOG: &str = "read n; dd if=/dev/zero of=/dev/null bs=${n}k count=1";

#[tokio::test(flavor = "multi_thread")]
async fn bytes_are_counted_where_the_runner_moves_them() {
    let world = World::start(Options::default());
    let large = vec![b'x'; 3 << 20];
    let (count, cat) = (shell("wc -c"), shell("cat"));
    let outcome = call_one(&world, &count, large.clone()).await;
    assert_eq!(bytes_of(&outcome), (Some(3 << 20), Some(8)));
    // Nothing between links that the kernel joins.
    let (output, outcomes) = call(&world, &[&cat, &cat, &count], large.clone()).await;
    assert_eq!(output.unwrap(), "3145728\n");
    let counted: Vec<_> = outcomes.iter().map(bytes_of).collect();
    assert_eq!(
        counted,
        [(Some(3 << 20), None), (None, None), (None, Some(8))]
    );
    assert_eq!(
        bytes_of(&call_one(&world, &cat, "").await),
        (Some(0), Some(0))
    );
    // What waits in the pipe was given as well, and so was what nobody has read yet.
    let all = shell("read line; head -c 40000 /dev/zero");
    let outcome = call_one(&world, &all, "line\nmore").await;
    assert_eq!(bytes_of(&outcome), (Some(9), Some(40_000)));
    // As files.
    for (input, output) in [
        (Some("/tmp/in"), None),
        (None, Some("/tmp/out")),
        (Some("/tmp/in"), Some("/tmp/out")),
    ] {
        let script = match output {
            Some(path) => format!("cat > {path}; echo >> {path}"),
            None => "cat; echo".to_owned(),
        };
        let link = Link {
            input: input.map(str::to_owned),
            output: output.map(str::to_owned),
            ..shell(&script)
        };
        let outcome = call_one(&world, &link, large.clone()).await;
        let bytes = (Some(3 << 20), Some((3 << 20) + 1));
        assert_eq!(bytes_of(&outcome), bytes, "{link:?}");
    }
    // As tars, whose length is that of the tar.
    let pack = Link {
        output: Some("/tmp/out/".to_owned()),
        ..shell("cat > /tmp/out/file")
    };
    let unpack = Link {
        input: Some("/tmp/in/".to_owned()),
        ..shell("cat /tmp/in/file")
    };
    let (tar, outcomes) = call(&world, &[&pack], large.clone()).await;
    let tar = tar.unwrap();
    assert_eq!(
        bytes_of(&outcomes[0]),
        (Some(3 << 20), Some(tar.len() as u64))
    );
    let outcome = call_one(&world, &unpack, tar.clone()).await;
    assert_eq!(bytes_of(&outcome), (Some(tar.len() as u64), Some(3 << 20)));
}

#[tokio::test(flavor = "multi_thread")]
async fn processor_time_is_told_of_each_link_and_also_of_one_that_was_killed() {
    let world = World::start(Options::default());
    // Counts to a number, which takes the shell some time.
    let count = |to: u32| format!("i=0; while [ $i -lt {to} ]; do i=$((i+1)); done");
    let spinning = shell(&format!("cat; {}", count(30_000)));
    let cat = shell("cat");
    let cpu = |outcome: &Outcome| outcome.usage.cpu.unwrap();
    let (_, outcomes) = call(&world, &[&cat, &spinning, &cat], "x").await;
    let [first, spun, last] = &outcomes[..] else {
        panic!("{outcomes:?}");
    };
    assert!(cpu(spun) > 4 * cpu(first).max(cpu(last)), "{outcomes:?}");
    // Its place is used again.
    let spinning = shell(&format!("read n; {}", count(30_000).replace("30000", "$n")));
    let many = call_one(&world, &spinning, "30000\n").await;
    let few = call_one(&world, &spinning, "1\n").await;
    assert!(cpu(&many) > 4 * cpu(&few), "{many:?} {few:?}");
    // Of what nobody reads.
    let (yes, head) = (shell("yes"), shell("head -n 100000 | tail -n 1"));
    let (output, outcomes) = call(&world, &[&yes, &head], "").await;
    assert_eq!(output.unwrap(), "y\n");
    assert_eq!(outcomes[0].ending, Ending::Unread);
    assert!(outcomes[0].usage.cpu.is_some(), "{outcomes:?}");
    // What could not be executed has used nothing.
    assert_eq!(Outcome::lost("").usage, Usage::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limit_that_was_met_is_told_and_of_nothing_else() {
    let world = World::start(Options {
        sandboxing: Sandboxing {
            scratch_bytes_max: 1 << 20,
            ..Sandboxing::default()
        },
        ..Options::default()
    });
    let on_request = "read what; eval \"$what\"";
    let link = limited(
        on_request,
        Constraints {
            processes: Some(8),
            ..Constraints::default()
        },
    );
    let fork = "for i in 1 2 3 4 5 6 7 8 9; do sleep 1000 & done";
    let fill = "cat /dev/zero > /tmp/x";
    for (what, limit, hint) in [
        (fill.to_owned(), Some(Limit::Scratch), "Scratch"),
        (format!("{fill}; true"), None, ""),
        (format!("{fill}; rm /tmp/x; exit 1"), None, "Scratch"),
        ("exit 1".to_owned(), None, ""),
        (
            format!("{fork}; exit 3"),
            Some(Limit::Processes),
            "8 processes",
        ),
        // Another one that cannot fork, as it says, for another reason.
        (
            "echo \"can't fork\" >&2; exit 3".to_owned(),
            None,
            "8 processes",
        ),
        (format!("({fork}); exit 0"), None, ""),
        ("exit 1".to_owned(), None, ""),
        (
            "kill -SYS $$".to_owned(),
            Some(Limit::Filter),
            "system call",
        ),
        // A shell that has survived its child.
        (
            "sh -c 'kill -SYS $$'; exit 159".to_owned(),
            None,
            "system call",
        ),
        ("sh -c 'kill -SYS $$'; true".to_owned(), None, ""),
        ("kill -KILL $$".to_owned(), None, ""),
        ("kill -XCPU $$".to_owned(), None, ""),
        ("kill -XFSZ $$".to_owned(), None, ""),
        ("exit 0".to_owned(), None, ""),
    ] {
        let outcome = call_one(&world, &link, format!("{what}\n")).await;
        assert_eq!(outcome.limit, limit, "{what}: {outcome:?}");
        let said = outcome.hint.as_deref().unwrap_or_default();
        assert!(
            said.contains(hint) && said.is_empty() == hint.is_empty(),
            "{what}: {said}"
        );
    }
    // In the middle of a chain, and of a joined link.
    let cat = shell("cat");
    let full = shell(&format!("cat; {fill}"));
    let (_, outcomes) = call(&world, &[&cat, &full, &cat], "x").await;
    let limits: Vec<_> = outcomes.iter().map(|outcome| outcome.limit).collect();
    assert_eq!(limits, [None, Some(Limit::Scratch), None]);
    // An input for which there is no room.
    let stored = Link {
        input: Some("/tmp/in".to_owned()),
        ..cat
    };
    let outcome = call_one(&world, &stored, vec![0; 6 << 20]).await;
    assert!(
        matches!(outcome.ending, Ending::CannotStart(_)),
        "{outcome:?}"
    );
    assert_eq!(outcome.limit, Some(Limit::Scratch));
    assert_eq!(call_one(&world, &stored, "x").await.limit, None);
    // A tar of more than fits.
    let pack = Link {
        output: Some("/tmp/out/".to_owned()),
        ..shell("for i in 1 2 3 4 5 6 7 8; do head -c 500000 /dev/zero > /tmp/out/$i; done")
    };
    let (tar, _) = call(&world, &[&pack], "").await;
    let unpacked = Link {
        input: Some("/tmp/in/".to_owned()),
        constraints: Constraints {
            scratch: Some(256 << 10),
            ..Constraints::default()
        },
        ..shell("true")
    };
    let outcome = call_one(&world, &unpacked, tar.unwrap()).await;
    assert!(
        matches!(outcome.ending, Ending::CannotStart(_)),
        "{outcome:?}"
    );
    assert_eq!(outcome.limit, Some(Limit::Scratch));
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_is_told_of_links_that_have_a_limit() {
    let world = World::start(Options::default());
    let outcome = call_one(&world, &shell(HOG), "10\n").await;
    assert_eq!(outcome.usage.memory, None);
    let link = with_memory(HOG, 48 << 20);
    for _ in 0..2 {
        let outcome = call_one(&world, &link, "100000\n").await;
        assert_eq!(outcome.limit, Some(Limit::Memory), "{outcome:?}");
        assert_eq!(outcome.ending, Ending::Signalled(9));
        assert!(outcome.hint.unwrap().contains("48M of memory"));
        // Version 2 before Linux 5.19 does not tell.
        let Some(most) = outcome.usage.memory else {
            continue;
        };
        assert!((44 << 20..=48 << 20).contains(&most), "{most}");
        let outcome = call_one(&world, &link, "10\n").await;
        assert_eq!(outcome.limit, None);
        let little = outcome.usage.memory.unwrap();
        assert!(little < 16 << 20, "{little}");
        assert!(outcome.elapsed < Duration::from_secs(30));
    }
    // A shell that survives a part of it: the kernel has killed that, which is known.
    let survived = with_memory(&format!("sh -c '{HOG}'; echo on; exit 0"), 48 << 20);
    let outcome = call_one(&world, &survived, "100000\n").await;
    assert_eq!(outcome.limit, Some(Limit::Memory), "{outcome:?}");
    // In the middle of a chain, and what is behind it gets no end.
    let (cat, middle) = (shell("cat"), with_memory(&format!("{HOG}; cat"), 48 << 20));
    let (_, outcomes) = call(&world, &[&cat, &middle, &cat], "100000\n").await;
    let limits: Vec<_> = outcomes.iter().map(|outcome| outcome.limit).collect();
    assert_eq!(limits, [None, Some(Limit::Memory), None], "{outcomes:?}");
    assert_eq!(outcomes[2].ending, Ending::Cut);
}

fn with_cpu_time(script: &str, milliseconds: u64) -> Link {
    let constraints = Constraints {
        cpu_time: Some(Duration::from_millis(milliseconds)),
        ..Constraints::default()
    };
    limited(script, constraints)
}

/// Takes a processor for ever.
const SPIN: &str = "while :; do :; done";

fn assert_out_of_time(outcome: &Outcome) {
    assert_eq!(outcome.ending, Ending::Signalled(24), "{outcome:?}");
    assert_eq!(outcome.limit, Some(Limit::CpuTime));
    assert!(
        outcome.hint.as_ref().unwrap().contains("CPUTime"),
        "{outcome:?}"
    );
    let said = String::from_utf8_lossy(&outcome.stderr);
    assert!(said.contains("of processor time: raise CPUTime"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn processor_time_has_a_limit_for_all_processes_of_a_call_together() {
    let world = World::start(Options::default());
    let link = with_cpu_time("read what; eval \"$what\"", 300);
    // Counts as long as that takes less than the limit, and some time at least.
    let some = "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done";
    let used = call_one(&world, &link, format!("{some}\n")).await;
    assert_eq!(used.limit, None, "{used:?}");
    let used = used.usage.cpu.unwrap();
    let times = Duration::from_millis(300).as_micros() / used.as_micros() + 1;
    for what in [
        SPIN.to_owned(),
        format!("sh -c '{SPIN}' & wait"),
        format!("sh -c '{SPIN}'; exit 0"),
        // What has nobody that waits for it, and lets its end be unseen.
        format!("(sh -c '{SPIN}' &) & sleep 1000"),
        // Each of them alone does not reach it.
        format!("trap '' CHLD; while :; do sh -c '{some}'; done"),
        format!("{SPIN} & {SPIN} & wait"),
    ] {
        let outcome = call_one(&world, &link, format!("{what}\n")).await;
        assert_out_of_time(&outcome);
        assert!(
            outcome.usage.cpu.unwrap() >= Duration::from_millis(300),
            "{outcome:?}"
        );
        // Nothing of that counts for the next ones, nor do these together.
        for _ in 0..times.min(4) {
            let outcome = call_one(&world, &link, format!("{some}\n")).await;
            assert_eq!(
                outcome.ending,
                Ending::Exited(0),
                "after {what}: {outcome:?}"
            );
            assert_eq!(outcome.limit, None);
        }
    }
    // A process that waits has all the time of the world.
    let outcome = call_one(&world, &link, "sleep 1\n").await;
    assert_eq!(outcome.limit, None, "{outcome:?}");
    // One that may be over before anybody looks, also joined, where the next one may have
    // its input by then.
    let cat = shell("cat");
    for brief in [shell("cat"), shell(&format!("cat; {some}"))] {
        let constraints = Constraints {
            cpu_time: Some(Duration::from_millis(1)),
            ..Constraints::default()
        };
        let brief = Link {
            constraints,
            ..brief
        };
        let outcome = call_one(&world, &brief, "x".repeat(1 << 20)).await;
        if outcome.usage.cpu > Some(Duration::from_millis(20)) {
            assert_out_of_time(&outcome);
        }
        let (_, outcomes) = call(&world, &[&brief, &cat], "x".repeat(1 << 20)).await;
        if outcomes[0].usage.cpu > Some(Duration::from_millis(20)) {
            assert_out_of_time(&outcomes[0]);
            let ending = &outcomes[1].ending;
            assert!(
                matches!(ending, Ending::Cut | Ending::Exited(0)),
                "{outcomes:?}"
            );
        }
    }
    // In the middle of a chain, whose end gets none of its input's.
    let middle = with_cpu_time(&format!("cat; {SPIN}"), 50);
    let (_, outcomes) = call(&world, &[&cat, &middle, &cat], "x").await;
    assert_out_of_time(&outcomes[1]);
    assert_eq!(outcomes[2].ending, Ending::Cut);
    assert_eq!([outcomes[0].limit, outcomes[2].limit], [None, None]);
    // With files, where unpacking and packing are not its own.
    let files = Link {
        input: Some("/tmp/in".to_owned()),
        output: Some("/tmp/out/".to_owned()),
        ..with_cpu_time(&format!("cp /tmp/in /tmp/out; {SPIN}"), 50)
    };
    assert_out_of_time(&call_one(&world, &files, vec![b'x'; 3 << 20]).await);
}

fn with_output_max(script: &str, bytes: u64) -> Link {
    let constraints = Constraints {
        output: Some(bytes),
        ..Constraints::default()
    };
    limited(script, constraints)
}

/// What comes of a call, until it breaks off.
async fn until_cut(world: &World, links: &[&Link], input: &str) -> (u64, bool, Vec<Outcome>) {
    for link in links {
        world.links.put(Arc::new((*link).clone())).await.unwrap();
        soon(world.runner.ready(link.id())).await.unwrap();
    }
    let following = links[1..].iter().map(|link| Following {
        id: link.id(),
        accepted: vec![0],
    });
    let request = Request {
        following: following.collect(),
        ..Request::new(input.to_owned())
    };
    let called = world.transport.call(links[0].id(), request);
    let Reply {
        mut body, outcome, ..
    } = soon(called).await.unwrap();
    let (mut bytes, mut is_cut) = (0, false);
    while let Some(chunk) = soon(body.next()).await {
        match chunk {
            Ok(chunk) => bytes += chunk.len() as u64,
            Err(_) => is_cut = true,
        }
    }
    drop(body);
    let outcome = soon(outcome).await;
    (bytes, is_cut, outcome.links().cloned().collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn not_one_byte_more_than_the_limit_of_an_output_leaves_the_runner() {
    let world = World::start(Options::default());
    let write = "read n rest; head -c $n /dev/zero; $rest";
    for most in [1, 1000, 65_536, 1_000_000] {
        let link = with_output_max(write, most);
        for rest in ["", "exit 3", "sleep 1000"] {
            if rest != "sleep 1000" {
                let input = format!("{most} {rest}\n");
                let (bytes, is_cut, outcomes) = until_cut(&world, &[&link], &input).await;
                assert_eq!((bytes, is_cut), (most, false), "{outcomes:?}");
                assert_eq!(outcomes[0].usage.bytes_out, Some(most));
                let code = if rest.is_empty() { 0 } else { 3 };
                assert_eq!(outcomes[0].ending, Ending::Exited(code));
                assert_eq!(outcomes[0].limit, None);
            }
            for much in [most + 1, 3 * most, most + 3_000_000] {
                let input = format!("{much} {rest}\n");
                let (bytes, is_cut, outcomes) = until_cut(&world, &[&link], &input).await;
                assert_eq!((bytes, is_cut), (most, true), "{much} {rest}: {outcomes:?}");
                assert_eq!(outcomes[0].ending, Ending::Signalled(25), "{outcomes:?}");
                assert_eq!(outcomes[0].limit, Some(Limit::Output));
                assert_eq!(outcomes[0].usage.bytes_out, Some(most));
                let hint = outcomes[0].hint.as_deref().unwrap();
                assert!(hint.contains("`Constraints: {Output: …}`"), "{hint}");
            }
        }
    }
    // In the middle of a chain: what is behind it gets no end, whether it is fast or not.
    let (cat, count) = (shell("cat"), shell("wc -c"));
    let link = with_output_max(write, 100_000);
    let (bytes, _, outcomes) = until_cut(&world, &[&cat, &link, &count], "100000\n").await;
    assert_eq!(bytes, 7, "{outcomes:?}");
    for much in [100_001, 5_000_000] {
        let (bytes, _, outcomes) =
            until_cut(&world, &[&cat, &link, &count], &format!("{much}\n")).await;
        assert_eq!(bytes, 0, "{outcomes:?}");
        assert_eq!(outcomes[1].limit, Some(Limit::Output), "{outcomes:?}");
        assert_eq!(outcomes[2].ending, Ending::Cut);
    }
    // As a file, and as a tar.
    for path in ["/tmp/out", "/tmp/out/"] {
        let file = path.replace("out/", "out/file");
        let link = |most| Link {
            output: Some(path.to_owned()),
            ..with_output_max(&format!("head -c 100000 /dev/zero > {file}"), most)
        };
        let (size, _, _) = until_cut(&world, &[&link(1 << 30)], "").await;
        assert!(size >= 100_000, "{size}");
        let (bytes, is_cut, outcomes) = until_cut(&world, &[&link(size)], "").await;
        assert_eq!((bytes, is_cut), (size, false), "{outcomes:?}");
        assert_eq!(outcomes[0].limit, None);
        let (bytes, _, outcomes) = until_cut(&world, &[&link(size - 1)], "").await;
        assert!(bytes < size, "{bytes}");
        assert_eq!(outcomes[0].ending, Ending::Signalled(25), "{outcomes:?}");
        assert_eq!(outcomes[0].limit, Some(Limit::Output));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_output_that_is_not_read_is_let_go_at_the_deadline() {
    let world = World::start(Options::default());
    for (path, file) in [("/tmp/out", "/tmp/out"), ("/tmp/out/", "/tmp/out/file")] {
        let link = Link {
            output: Some(path.to_owned()),
            ..shell(&format!("head -c 9000000 /dev/zero > {file}"))
        };
        world.links.put(Arc::new(link.clone())).await.unwrap();
        soon(world.runner.ready(link.id())).await.unwrap();
        let request = Request {
            deadline: Some(Instant::now() + Duration::from_secs(2)),
            ..Request::new("")
        };
        let called = world.transport.call(link.id(), request);
        let Reply { body, outcome, .. } = soon(called).await.unwrap();
        let outcome = soon(outcome).await;
        if path.ends_with('/') {
            // It was packed as far as it was read.
            assert_eq!(outcome.ending, Ending::DeadlinePassed, "{outcome:?}");
            let said = String::from_utf8_lossy(&outcome.stderr);
            let text = "it had exited with code 0 at its deadline, but its output was still";
            assert!(said.contains(text), "{said}");
        } else {
            assert_eq!(outcome.ending, Ending::Exited(0), "{outcome:?}");
        }
        // Its reader is still there, and holds nothing.
        world.until(&link, |counts| counts.in_use == 0).await;
        soon(body.collect()).await.unwrap_err();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn open_files_are_as_many_as_asked_for_or_the_link_is_refused() {
    let world = World::start(Options::default());
    let with_files = |files| {
        let constraints = Constraints {
            open_files: Some(files),
            ..Constraints::default()
        };
        limited("ulimit -n; ulimit -Hn; cat", constraints)
    };
    let (output, _) = call(&world, &[&with_files(20)], "").await;
    assert_eq!(output.unwrap(), "20\n20\n");
    // More than any host gives.
    let link = with_files(1 << 20);
    world.links.put(Arc::new(link.clone())).await.unwrap();
    let error = soon(world.runner.ready(link.id())).await.unwrap_err();
    let error = error.to_string();
    assert!(error.contains("1048576 open files"), "{error}");
    assert!(error.contains("half of the runner's hard limit"), "{error}");
}
