//! One used link among many, compared with the same link alone.

use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Context;

use super::{Network, Rows, first, mebibytes};
use crate::http::{self, Caller, Length};
use crate::latencies::Latencies;
use crate::measure::Samples;
use crate::place::Place;
use crate::proc;
use crate::report::{Row, Unit};

const LINKS: usize = 1000;

/// How many calls of that link a turn has.
const CALLS: usize = 150;

/// The number of turns for each round.
const TURNS_PER_ROUND: usize = 4;

/// No turn begins after this time.
const TURNS_TIME: Duration = Duration::from_secs(30);

/// Of how many links the first call is measured.
const FIRST_CALLS: usize = 100;

/// Pauses for all processes to finish their work.
const PAUSE: Duration = Duration::from_secs(3);
const SHORT_PAUSE: Duration = Duration::from_millis(100);

const TEXT: &str = "this is raw data";

pub(super) fn measure(place: &Place) -> anyhow::Result<Rows> {
    let used = chain(place, 0)?;
    let alone = Network::start(place, "alone", std::slice::from_ref(&used))?;
    sleep(PAUSE);
    let runner = alone.runners[0].pid();
    let mut rows = vec![
        mebibytes("idle runner", proc::resident(runner)? as f64).asked(30.0, 15.0),
        mebibytes("idle portal", proc::resident(alone.portal.pid())? as f64).asked(30.0, 15.0),
    ];

    eprintln!("scale: {LINKS} links");
    let chains: anyhow::Result<Vec<PathBuf>> = (0..LINKS).map(|link| chain(place, link)).collect();
    let begin = Instant::now();
    let many = Network::start(place, "many", &chains?)?;
    let ready = begin.elapsed().as_secs_f64() * 1000.0;
    sleep(PAUSE);
    let memory = proc::memory_of_all(many.runners[0].pid())? as f64;
    let own = proc::resident(many.runners[0].pid())? as f64;
    rows.push(mebibytes("1,000 idle links, memory a link", memory / LINKS as f64).asked(0.75, 0.5));

    let (mut alone_times, mut many_times) = <(Samples, Samples)>::default();
    for turn in place.many_turns("one link of 1,000", TURNS_PER_ROUND, TURNS_TIME) {
        eprintln!("scale: {turn}");
        alone_times.add(calls(&alone)?);
        many_times.add(calls(&many)?);
    }
    let ratio = many_times.by(&alone_times);
    rows.push(Row::new("one link of 1,000 ÷ alone, median", Unit::Ratio, &ratio).asked(1.1, 1.0));

    let firsts = first_calls(&many)?;
    let time = |what: &str, samples: &Samples| Row::new(what, Unit::Milliseconds, samples);
    rows.push(time("first call of one of 1,000 links", &firsts).asked(15.0, 5.0));
    let mut absolute = vec![
        time("a link alone", &alone_times),
        time("one link of 1,000", &many_times),
        Row::single(
            "1,000 links are all served after",
            Unit::Milliseconds,
            ready,
        ),
        mebibytes("the runner itself with 1,000 links", own),
    ];
    // So that the 1,000 links do not affect the next measurement.
    drop(many);
    let (more, more_absolute) = first::measure(place, &alone)?;
    rows.extend(more);
    absolute.extend(more_absolute);
    Ok((rows, absolute))
}

/// A chain of one link that no other chain has.
fn chain(place: &Place, link: usize) -> anyhow::Result<PathBuf> {
    place.write(&format!("link-{link}.yaml"), &yaml(&mark(link)))
}

/// A chain whose link appends `mark` to each line.
pub(super) fn yaml(mark: &str) -> String {
    format!("Chain:\n- {{Image: busybox, Command: sed, Arguments: ['s/$/ {mark}/']}}\n")
}

fn mark(link: usize) -> String {
    format!("number {link}")
}

fn caller(network: &Network, link: usize) -> anyhow::Result<Caller> {
    let path = format!("/chains/link-{link}");
    let request = http::head_for(&path, Length::Known(TEXT.len() as u64)) + TEXT;
    Caller::connect(network.portal.address, request.as_bytes())
}

/// The expected output. The sed of busybox adds no missing end of line.
fn output(link: usize) -> Vec<u8> {
    format!("{TEXT} {}", mark(link)).into_bytes()
}

/// The median time of many calls of the used link.
fn calls(network: &Network) -> anyhow::Result<f64> {
    sleep(SHORT_PAUSE);
    let (mut caller, output) = (caller(network, 0)?, output(0));
    let mut times = Latencies::new();
    caller.call(&output)?;
    for _ in 0..CALLS {
        let begin = Instant::now();
        caller.call(&output)?;
        times.add(begin.elapsed());
    }
    Ok(times.median())
}

/// The first calls of links most of which have no idle process: a runner has no room for so
/// many.
fn first_calls(network: &Network) -> anyhow::Result<Samples> {
    let mut times = Samples::default();
    for number in 1..=FIRST_CALLS {
        let link = number * (LINKS / FIRST_CALLS) - 1;
        let mut caller = caller(network, link)?;
        let begin = Instant::now();
        (caller.call(&output(link))).with_context(|| format!("link {link}"))?;
        times.add_milliseconds(begin.elapsed());
        sleep(SHORT_PAUSE);
    }
    Ok(times)
}
