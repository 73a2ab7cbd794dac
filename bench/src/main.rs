//! `make bench`: Consecution side by side with other programs, in one run.
//!
//! Ratios come first, since absolute figures say as much about the machine and its load as
//! about a program. The programs to compare run in turns, so that other load affects all of
//! them alike. The bench starts all servers itself, on free loopback ports, and stops them by
//! their process ids, however it ends; it touches nothing else.

#![forbid(unsafe_code)]

mod chunked;
mod docker;
mod floor;
mod groups;
mod http;
mod latencies;
mod machine;
mod measure;
mod options;
mod payload;
mod peers;
mod place;
mod plot;
mod proc;
mod process;
mod report;
mod servers;
mod words;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio::time::timeout;

use options::Options;
use place::Place;

/// The exit status of a shell for a program that SIGINT has ended.
const INTERRUPTED: u8 = 130;

/// How long the measuring thread may take to end after a signal.
const CLEAN_UP_WAIT: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    match watched(Options::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Measures on a thread of its own, and handles signals meanwhile.
fn watched(options: Options) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let (done, mut finished) = oneshot::channel();
        std::thread::spawn(move || done.send(measure(&options)));
        let result = tokio::select! {
            result = &mut finished => result,
            _ = interrupt.recv() => return Ok(interrupted(finished).await),
            _ = terminate.recv() => return Ok(interrupted(finished).await),
        };
        process::stop_all();
        let result = result.context("the measuring thread has panicked");
        result.flatten().map(|()| ExitCode::SUCCESS)
    })
}

/// Ends all started processes. The measuring thread then fails, and cleans up.
async fn interrupted(finished: oneshot::Receiver<anyhow::Result<()>>) -> ExitCode {
    process::stop_all();
    let _ = timeout(CLEAN_UP_WAIT, finished).await;
    ExitCode::from(INTERRUPTED)
}

fn measure(options: &Options) -> anyhow::Result<()> {
    let place = Place::prepare(options)?;
    let ran_on = machine::describe(&place);
    report::print_machine(&ran_on);
    for group in options.groups() {
        let found = groups::measure(group, &place)?;
        report::print(&found);
        report::keep(&found, &ran_on, &options.results)?;
    }
    println!("\nresults: {}", options.results.display());
    Ok(())
}
