//! Links that share pipes, of which something is killed from outside in the middle of a
//! call: what comes of it is what comes of links that are called one by one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::support::chain::{chain, shell};
use crate::support::http::{Served, serve};
use crate::support::network::until_ready;
use test_support::processes::{descendants, parent_of};

/// A chain of three, of which each link can be told by its command line, and the last one
/// says that it has seen an end.
fn three() -> Served {
    let scripts = ["cat; : link-0", "cat; : link-1", "cat; echo end; : link-2"];
    let served = serve(&[&chain(scripts.map(shell))]);
    until_ready(&served);
    // Links that are called together again share pipes.
    for _ in 0..2 {
        served.post("/", b"").expect(200);
    }
    served
}

/// What is killed of a link: all that it has, at work or in reserve.
#[derive(Debug, Clone, Copy)]
enum Killed {
    Commands,
    Inits,
    Zygote,
}

fn kill(served: &Served, link: usize, killed: Killed) {
    let all = descendants(served.process());
    let by_id = |id: Option<u32>| all.iter().find(|process| Some(process.id) == id);
    let marker = format!("link-{link}");
    let commands = all
        .iter()
        .filter(|process| process.command.contains(&marker));
    for command in commands {
        let init = by_id(parent_of(command.id));
        let killed = match killed {
            Killed::Commands => Some(command),
            Killed::Inits => init,
            Killed::Zygote => init.and_then(|init| by_id(parent_of(init.id))),
        };
        if let Some(killed) = killed {
            killed.kill();
        }
    }
}

#[test]
fn a_call_is_made_again_or_cut_off_whichever_of_its_inits_or_zygotes_is_killed() {
    let served = three();
    for link in 0..3 {
        for killed in [Killed::Inits, Killed::Zygote] {
            let mut call = served.begin("/");
            call.send_chunk(b"early, ");
            call.head();
            // All of them are at work, and something is given on already.
            assert_eq!(call.chunk().unwrap(), b"early, ", "{link} {killed:?}");
            kill(&served, link, killed);
            call.send_chunk(b"late\n");
            call.end_chunks();
            let mut rest = Vec::new();
            let mut chunk = call.chunk();
            while let Some(bytes) = chunk.take_if(|bytes| !bytes.is_empty()) {
                rest.extend(bytes);
                chunk = call.chunk();
            }
            // One that is made again may find nobody while the zygote is replaced, and is
            // cut off then.
            let is_complete = chunk.is_some();
            let is_given_up = matches!(killed, Killed::Zygote) && !is_complete;
            let is_answered = is_complete && rest == b"late\nend\n";
            assert!(is_answered || is_given_up, "{link} {killed:?}: {rest:?}");
            if let Killed::Zygote = killed {
                served.await_line("is served again");
            }
            until_ready(&served);
        }
    }
}

#[test]
fn a_call_fails_whichever_of_its_commands_is_killed() {
    let served = three();
    for link in 0..3 {
        let mut call = served.begin("/");
        call.send_chunk(b"some\n");
        call.head();
        assert_eq!(call.chunk().unwrap(), b"some\n", "{link}");
        kill(&served, link, Killed::Commands);
        // Cut off, and nothing of what the last link would have said.
        assert_eq!(call.chunk(), None, "{link}");
    }
    assert_eq!(
        served.post("/", b"some\n").expect(200).text(),
        "some\nend\n"
    );
}

#[test]
fn no_answer_is_short_whatever_is_killed_when() {
    let served = three();
    let input = b"0123456789abcde\n".repeat(20_000);
    let output = [&input[..], b"end\n"].concat();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let killing = scope.spawn(|| {
            let mut turn = 0;
            while !is_over.load(Ordering::Relaxed) {
                let killed = [Killed::Commands, Killed::Inits][turn / 3 % 2];
                kill(&served, turn % 3, killed);
                turn += 1;
            }
        });
        let mut whole = 0;
        for _ in 0..60 {
            let reply = served.post("/", &input);
            match reply.status {
                200 if reply.is_complete => {
                    assert!(reply.body == output, "{} bytes", reply.body.len());
                    whole += 1;
                }
                // It had begun; or it failed, was lost too often, or found nobody.
                200 | 502 | 503 => {}
                status => panic!("{status}: {}", reply.text()),
            }
        }
        is_over.store(true, Ordering::Relaxed);
        killing.join().unwrap();
        assert!(whole > 0, "none of 60 calls was answered");
    });
    until_ready(&served);
    assert_eq!(
        served.post("/", b"some\n").expect(200).text(),
        "some\nend\n"
    );
}
