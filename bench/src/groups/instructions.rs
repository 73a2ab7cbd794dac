//! How many instructions a call takes, counted by callgrind: nearly the same number each
//! time, whatever else the machine does.
//!
//! Only the portal is counted. A runner cannot be: it starts its zygotes from its own
//! program, which under callgrind is callgrind's.

use std::path::Path;
use std::process::Command;

use anyhow::Context;

use crate::http::{self, Caller, Length};
use crate::place::{Place, find};
use crate::report::{Findings, Row, Unit};
use crate::servers::{Between, Etcd, Nats, Portal};
use crate::words::{CHAIN, INPUT, OUTPUT};

/// How many calls the first portal gets, and how many more the second one. The difference of
/// their counts is the cost of those calls alone, without the start and first calls.
const FEW_CALLS: u32 = 50;
const MORE_CALLS: u32 = 400;

pub(crate) fn measure(place: &Place) -> anyhow::Result<Findings> {
    let nats = Nats::start(place, "counted-nats")?;
    let etcd = Etcd::start(place, "counted")?;
    let between = Between {
        nats: &nats,
        etcd: &etcd,
    };
    let _runner = between.runner(place, "counted")?;
    eprintln!("instructions: a portal");
    let few = count(place, &between, "few", FEW_CALLS)?;
    eprintln!("instructions: a portal with more calls");
    let all = count(place, &between, "more", FEW_CALLS + MORE_CALLS)?;
    let of_call = (all - few) / f64::from(MORE_CALLS);
    let thousands =
        |what: &str, count: f64| Row::single(what, Unit::ThousandInstructions, count / 1000.0);
    Ok(Findings {
        name: "instructions",
        what: "a warm chain of three over HTTP and NATS: the portal's part (instructions, less is \
               better)"
            .to_owned(),
        rows: vec![thousands("a call, portal", of_call)],
        absolute: vec![thousands("a portal's start and 50 calls", few)],
    })
}

/// The instructions of a portal from its start to its end, with so many calls.
fn count(place: &Place, between: &Between<'_>, name: &str, calls: u32) -> anyhow::Result<f64> {
    let counts = place.path(&format!("{name}.callgrind"));
    let mut command = between.command(place, "portal");
    command.arg(CHAIN);
    let portal = Portal::start(place, name, under_callgrind(&command, &counts)?)?;
    let head = http::head(Length::Known(INPUT.len() as u64));
    let request = [head.as_bytes(), INPUT].concat();
    let mut caller = Caller::connect(portal.address, &request)?;
    for _ in 0..calls {
        caller.call(OUTPUT)?;
    }
    drop(caller);
    // It writes its counts when it ends.
    drop(portal);
    let failed = || format!("failed to read {}", counts.display());
    let text = std::fs::read_to_string(&counts).with_context(failed)?;
    let total = text.lines().find_map(|line| line.strip_prefix("totals: "));
    Ok(total.with_context(failed)?.trim().parse()?)
}

fn under_callgrind(command: &Command, counts: &Path) -> anyhow::Result<Command> {
    let mut valgrind = Command::new(find("valgrind")?);
    let mut file = std::ffi::OsString::from("--callgrind-out-file=");
    file.push(counts);
    valgrind.arg("--tool=callgrind").arg(file);
    valgrind.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            valgrind.env(name, value);
        }
    }
    Ok(valgrind)
}
