//! What becomes of a link whose zygote is killed, as the kernel does where memory
//! runs out, while its runner lives on.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use support::chain::{chain, shell};
use support::command::eventually;
use support::http::{Served, serve};
use support::leftovers::descendants;
use support::network::until_ready;

mod support;

/// Kills all zygotes of a runner, which are its children; the kernel kills with
/// each what it has started.
fn kill_zygotes(runner: &Served) {
    let parent = format!("PPid:\t{}", runner.process());
    for process in descendants(runner.process()) {
        let status = std::fs::read_to_string(format!("/proc/{}/status", process.id));
        if status.is_ok_and(|status| status.lines().any(|line| line == parent)) {
            process.kill();
        }
    }
}

#[test]
fn a_link_whose_zygote_is_killed_is_soon_served_again() {
    let served = serve(&[&chain([shell("cat")])]);
    let mut caught = served.begin("/");
    caught.send_chunk(b"early\n");
    caught.head();
    assert_eq!(caught.chunk().unwrap(), b"early\n");
    for _ in 0..2 {
        kill_zygotes(&served);
        served.await_line("failed to keep its zygote");
        served.await_line("is served again");
        // On processes in reserve, and on others.
        for _ in 0..10 {
            assert_eq!(served.post("/", b"word").expect(200).text(), "word");
        }
    }
    // What it gave is not taken for complete.
    assert!(caught.chunk().is_none());
}

#[test]
fn a_link_whose_zygotes_die_and_die_again_rests_meanwhile_and_says_so() {
    let served = serve(&[&chain([shell("cat")])]);
    // Each time for longer, so that it is seen in the end.
    eventually("the link to rest", || {
        let reply = served.request("GET", "/readyz", b"");
        if reply.status == 200 {
            kill_zygotes(&served);
        }
        let text = reply.text();
        text.contains("failed to keep its zygote: it was killed")
            .then_some(())
    });
    until_ready(&served);
    served.post("/", b"word").expect(200);
}
