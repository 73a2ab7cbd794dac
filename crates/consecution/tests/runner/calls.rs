//! A runner, real processes, and what its pools promise: processes that are
//! already started, a fresh one for each request, and links that do not hurt
//! each other.
use crate::support::runner::{World, shell};
use chain::Link;
use consecution::portal::FailureReason;
use consecution::runner::Options;

#[tokio::test]
async fn two_processes_wait_for_requests_and_are_replaced() {
    let world = World::start(Options::default());
    let link = shell("cat");
    let portal = world.portal(&link).await;
    for payload in ["one", "two", "three"] {
        world
            .until(&link, |counts| counts.idle >= 2 && counts.in_use == 0)
            .await;
        assert_eq!(portal.send(payload).await.unwrap(), payload);
    }
}

#[tokio::test]
async fn a_request_finds_a_process_that_nobody_has_used() {
    let world = World::start(Options::default());
    let link = shell(
        "cat /tmp/* /var/tmp/* /dev/shm/* 2>/dev/null; cat > /tmp/left; cp /tmp/left /dev/shm",
    );
    let portal = world.portal(&link).await;
    for _ in 0..10 {
        assert_eq!(portal.send("secret").await.unwrap(), "");
    }
}

#[tokio::test]
async fn a_link_that_does_not_wait_for_its_input_is_started_cold() {
    let world = World::start(Options::default());
    for link in [shell("echo hello; cat"), shell("exit 0")] {
        let portal = world.portal(&link).await;
        world
            .until(&link, |counts| {
                counts.idle + counts.starting + counts.in_use == 0
            })
            .await;
        let expected = if link.arguments[1].starts_with("echo") {
            "hello\nworld"
        } else {
            ""
        };
        assert_eq!(portal.send("world").await.unwrap(), expected);
        // And stays so.
        world
            .until(&link, |counts| {
                counts.idle + counts.starting + counts.in_use == 0
            })
            .await;
    }
}

#[tokio::test]
async fn what_a_process_says_on_standard_error_meanwhile_does_not_spoil_it() {
    let world = World::start(Options::default());
    let link = shell("echo warming up >&2; cat; exit 1");
    let portal = world.portal(&link).await;
    world.until(&link, |counts| counts.idle >= 2).await;
    let error = portal.send("x").await.unwrap_err();
    assert_eq!(error.stderr, "warming up\n");
}

#[tokio::test]
async fn a_hundred_calls_at_once_do_not_mix() {
    let world = World::start(Options {
        processes_max: 16,
        ..Options::default()
    });
    let links = vec![shell("cat"), shell("tr a-z A-Z"), shell("sort")];
    let portal = world.portal_of(links.clone()).await;
    for link in &links {
        world.runner.ready(link.id()).await.unwrap();
    }
    let calls = (0..100).map(|number| {
        let portal = portal.clone();
        tokio::spawn(async move {
            let payload = format!("b{number}\na{number}\n");
            let reply = portal.send(payload).await.unwrap();
            assert_eq!(reply, format!("A{number}\nB{number}\n"));
        })
    });
    for call in calls.collect::<Vec<_>>() {
        call.await.unwrap();
    }
}

#[tokio::test]
async fn a_broken_link_does_not_hurt_another() {
    let world = World::start(Options::default());
    let broken = Link {
        command: Some("/nonesuch".to_owned()),
        ..Link::new("busybox")
    };
    let portal = world.portal_of(vec![broken.clone()]).await;
    let error = world.runner.ready(broken.id()).await.unwrap_err();
    assert!(error.to_string().contains("/nonesuch"), "{error}");
    let error = portal.send("x").await.unwrap_err();
    assert_eq!(error.reason, FailureReason::NoRunner);
    let good = world.portal(&shell("cat")).await;
    assert_eq!(good.send("x").await.unwrap(), "x");
}
