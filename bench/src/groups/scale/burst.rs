//! Many requests at once after a pause.

use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use anyhow::Context;

use super::{Network, Rows};
use crate::floor;
use crate::http::{self, Caller, Length};
use crate::measure::Samples;
use crate::place::Place;
use crate::report::{Row, Unit};
use crate::words::{CHAIN, INPUT, OUTPUT, STAGES};

const REQUESTS: usize = 100;

/// The pause before.
const QUIET: Duration = Duration::from_secs(3);

/// The number of turns for each round.
const TURNS_PER_ROUND: usize = 2;

/// No turn begins after this time.
const TURNS_TIME: Duration = Duration::from_secs(40);

pub(super) fn measure(place: &Place) -> anyhow::Result<Rows> {
    let network = Network::start(place, "burst", &[CHAIN.into()])?;
    let head = http::head(Length::Known(INPUT.len() as u64));
    let request = [head.as_bytes(), INPUT].concat();
    let connect = || Caller::connect(network.portal.address, &request);
    let (mut bursts, mut bares) = <(Samples, Samples)>::default();
    for turn in place.many_turns("bursts", TURNS_PER_ROUND, TURNS_TIME) {
        eprintln!("scale: {turn}");
        let callers: anyhow::Result<Vec<Caller>> = (0..REQUESTS).map(|_| connect()).collect();
        let mut callers = callers?;
        sleep(QUIET);
        let begin = Instant::now();
        callers.iter_mut().try_for_each(Caller::send)?;
        let mut all = callers.iter_mut();
        all.try_for_each(|caller| caller.receive(OUTPUT))
            .context("one of a burst")?;
        bursts.add_milliseconds(begin.elapsed());
        // Replacements of the used processes are still being started.
        sleep(QUIET);
        bares.add_milliseconds(bare(place)?);
    }
    let ratio = bursts.by(&bares);
    let rows =
        vec![Row::new("burst of 100 ÷ 100 bare pipelines", Unit::Ratio, &ratio).asked(1.5, 1.2)];
    let absolute = vec![
        Row::new("burst of 100, all answered", Unit::Milliseconds, &bursts),
        Row::new(
            "100 bare pipelines, on all cores",
            Unit::Milliseconds,
            &bares,
        ),
    ];
    Ok((rows, absolute))
}

/// Runs as many pipelines without a shell: one after the other on each core, since more at a
/// time would take longer.
fn bare(place: &Place) -> anyhow::Result<Duration> {
    let cores = thread::available_parallelism()?.get();
    let begin = Instant::now();
    thread::scope(|scope| {
        let some = |core| {
            scope.spawn(move || {
                let mut output = Vec::new();
                let mut mine = (core..REQUESTS).step_by(cores);
                mine.try_for_each(|_| floor::run(place, &STAGES, INPUT, &mut output))
            })
        };
        let all: Vec<_> = (0..cores).map(some).collect();
        let mut all = all.into_iter();
        all.try_for_each(|one| one.join().expect("nothing panics there"))
    })?;
    Ok(begin.elapsed())
}
