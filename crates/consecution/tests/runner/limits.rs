//! What a link has used, and the limit that it has met, are told of each call, and nothing of
//! one call is told of the next.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chain::{Constraints, Link};
use consecution::runner::{Options, Sandboxing};
use consecution::transport::{Body, Cut, Ending, Following, Limit, Outcome, Reply, Request, Usage};

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
