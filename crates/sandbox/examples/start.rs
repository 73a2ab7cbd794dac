//! Measures the start path: a sealed process, from its start through feeding and
//! reading it to reaping it. Prints microseconds a process: the median of rounds
//! of 100, and the lowest.
//!
//! `cargo run --release -p consecution-sandbox --example start -- ROOT [ROUNDS] [COMMAND…]`,
//! where `ROOT` is an image's root folder. To compare two builds, run them in
//! turns, and compare their ratio: one run alone says more of the machine.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a measurement that fails is none")]

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use sandbox::{Event, Ids, Launcher, Limits, Network, Spec, Stdio, Writable, Zygote};

const PROCESSES_PER_ROUND: u32 = 100;

fn main() {
    sandbox::run_zygote_if_asked();
    let mut arguments = std::env::args().skip(1);
    let root = arguments.next().expect("the root folder").into();
    let rounds = arguments
        .next()
        .map_or(20, |rounds| rounds.parse().unwrap());
    let mut command: Vec<String> = arguments.collect();
    if command.is_empty() {
        command.push("cat".into());
    }
    let spec = Spec {
        root,
        command,
        environment: Vec::new(),
        takes_strings: false,
        working_directory: "/".into(),
        user: String::new(),
        files: Vec::new(),
        data: Vec::new(),
        writable: match std::env::var_os("WRITABLE") {
            Some(_) => Writable::Private,
            None => Writable::No,
        },
        scratch_bytes: sandbox::SCRATCH_BYTES_DEFAULT,
        input: sandbox::Input::Pipe,
        output: sandbox::Output::Pipe,
        network: Network::Loopback,
        hostname: "measured".into(),
        ids: Ids::detect(),
    };
    let processes = std::env::var("PROCESSES").ok();
    let limits = Limits {
        processes: processes.map(|number| number.parse().unwrap()),
        ..Limits::default()
    };
    let zygote = match Launcher::new().open(&spec, limits) {
        Ok(zygote) => zygote,
        Err(error) => panic!("failed to {error}"),
    };
    run(&zygote);
    let mut taken: Vec<Duration> = (0..rounds)
        .map(|_| {
            let started = Instant::now();
            (0..PROCESSES_PER_ROUND).for_each(|_| run(&zygote));
            started.elapsed() / PROCESSES_PER_ROUND
        })
        .collect();
    taken.sort();
    println!(
        "{} {}",
        taken[taken.len() / 2].as_nanos() as f64 / 1000.0,
        taken[0].as_nanos() as f64 / 1000.0
    );
}

fn run(zygote: &Zygote) {
    let (stdin, mut feed) = std::io::pipe().unwrap();
    let (mut output, stdout) = std::io::pipe().unwrap();
    let (_errors, stderr) = std::io::pipe().unwrap();
    let mut process = zygote
        .start(Stdio {
            stdin: stdin.into(),
            stdout: stdout.into(),
            stderr: stderr.into(),
        })
        .unwrap();
    feed.write_all(b"x").unwrap();
    drop(feed);
    let mut read = Vec::new();
    output.read_to_end(&mut read).unwrap();
    loop {
        match process.next_event().unwrap() {
            Some(Event::Prepared | Event::Started | Event::Exited(_)) => {}
            Some(Event::Gone) => return,
            Some(Event::Failed(step, errno)) => panic!("{}", zygote.explain(step, errno)),
            None => {
                let readable = rustix::event::PollFlags::IN;
                let mut wanted = [rustix::event::PollFd::new(&process, readable)];
                rustix::event::poll(&mut wanted, None).unwrap();
            }
        }
    }
}
