//! What becomes of a link whose zygote is killed, as the kernel does where memory
//! runs out, while its runner lives on.
use std::time::Duration;

use crate::support::chain::{chain, link, shell};
use crate::support::http::{Served, serve};
use crate::support::network::until_ready;
use test_support::eventually;
use test_support::processes::{HostProcess, children, descendants};

/// What the log says of a link whose processes do not wait for their input.
const COLD: &str = "ended or wrote before it had its input";

/// Kills all zygotes of a runner, which are its children; the kernel kills with
/// each what it has started.
fn kill_zygotes(runner: &Served) {
    children(runner.process())
        .iter()
        .for_each(HostProcess::kill);
}

/// Kills the inits of all processes, which are the zygotes' children, as the kernel
/// may where memory runs out, and an operator who kills whatever is called `zygote`.
fn kill_inits(runner: &Served) {
    let zygotes = children(runner.process());
    let inits = zygotes.iter().flat_map(|zygote| children(zygote.id));
    inits.for_each(|init| init.kill());
}

/// Kills all commands, which are the inits' children.
fn kill_commands(runner: &Served) {
    let zygotes = children(runner.process());
    let inits = zygotes.iter().flat_map(|zygote| children(zygote.id));
    let commands = inits.flat_map(|init| children(init.id));
    commands.for_each(|command| command.kill());
}

/// How many processes of its only link a runner has in reserve.
fn idle(served: &Served) -> u64 {
    let metrics = served.request("GET", "/metrics", b"").expect(200);
    let line = metrics.text().lines().find(|line| {
        line.starts_with("consecution_pool_processes") && line.contains("state=\"idle\"")
    });
    line.map_or(0, |line| line.rsplit_once(' ').unwrap().1.parse().unwrap())
}

fn until_warm(served: &Served) {
    eventually("two processes in reserve", || {
        (idle(served) == 2).then_some(())
    });
}

#[test]
fn a_link_whose_zygote_is_killed_is_soon_served_again() {
    let served = serve(&[&chain([shell("cat")])]);
    until_ready(&served);
    for _ in 0..2 {
        kill_zygotes(&served);
        served.await_line("failed to keep its zygote");
        served.await_line("is served again");
        // On processes in reserve, and on others.
        for _ in 0..10 {
            assert_eq!(served.post("/", b"word").expect(200).text(), "word");
        }
    }
}

#[test]
fn a_call_whose_zygote_or_init_is_killed_is_made_again() {
    let served = serve(&[&chain([shell("cat; sleep 0.2")])]);
    until_ready(&served);
    for kill in [kill_zygotes, kill_inits] {
        let mut caught = served.begin("/");
        caught.send_chunk(b"early, ");
        caught.head();
        // At work, and something of it is given on already.
        assert_eq!(caught.chunk().unwrap(), b"early, ");
        kill(&served);
        caught.send_chunk(b"late");
        caught.end_chunks();
        assert_eq!(caught.chunk().unwrap(), b"late");
        assert_eq!(caught.chunk().unwrap(), b"");
        until_ready(&served);
    }
    let said = served.said();
    assert!(
        said.contains("is called again (1), since it was lost"),
        "{said}"
    );
}

#[test]
fn a_link_whose_idle_processes_others_kill_stays_warm() {
    let served = serve(&[&chain([shell("cat")])]);
    until_ready(&served);
    for kill in [kill_zygotes, kill_inits, kill_commands] {
        until_warm(&served);
        let idle: Vec<_> = descendants(served.process());
        kill(&served);
        eventually("others in their place", || {
            let now = descendants(served.process());
            let is_left = |process: &HostProcess| {
                process.command.starts_with("/bin/sh") && now.iter().any(|now| now.id == process.id)
            };
            (!idle.iter().any(is_left)).then_some(())
        });
        until_warm(&served);
        assert_eq!(served.post("/", b"word").expect(200).text(), "word");
    }
    assert!(!served.said().contains(COLD), "{}", served.said());
}

#[test]
fn a_link_whose_processes_do_not_wait_for_long_answers_all_the_same() {
    // Which ends after a second whatever it does.
    let impatient = chain([link(&["timeout", "1", "cat"])]);
    let served = serve(&[&impatient]);
    until_ready(&served);
    served.until_said(COLD);
    for _ in 0..4 {
        let mut call = served.begin("/");
        call.send_chunk(b"some");
        // Longer than what would be left to one that had waited.
        std::thread::sleep(Duration::from_millis(400));
        call.send_chunk(b"thing");
        call.end_chunks();
        assert_eq!(call.reply().expect(200).text(), "something");
    }
    assert_eq!(served.said().matches(COLD).count(), 1);
}

/// For how long this host has been up, in hundredths of a second.
fn uptime() -> u64 {
    let text = std::fs::read_to_string("/proc/uptime").unwrap();
    let (uptime, _) = text.split_once(' ').unwrap();
    uptime.replace('.', "").parse().unwrap()
}

#[test]
fn a_link_that_is_not_warm_is_started_when_its_request_has_come() {
    // What time it was when it was started.
    let started = || shell("read up rest </proc/uptime; cat >/dev/null; echo $up");
    for (warm, is_late) in [("true", false), ("false", true)] {
        let served = serve(&[&chain([started().with("Warm", warm)])]);
        until_ready(&served);
        // Of a late one the places are.
        until_warm(&served);
        let asked = uptime() + 1;
        eventually("the clock to go on", || (uptime() > asked).then_some(()));
        let reply = served.post("/", b"").expect(200);
        let began: u64 = reply.text().trim().replace('.', "").parse().unwrap();
        assert_eq!(began >= asked, is_late, "{began}, asked at {asked}");
    }
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
