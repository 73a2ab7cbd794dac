//! Calls one at a time: each begins when the one before it has ended.

use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use super::{Everything, Target};
use crate::floor;
use crate::http::Caller;
use crate::latencies::Latencies;
use crate::measure::Samples;
use crate::place::{Place, find};
use crate::proc;
use crate::report::{Row, Unit};
use crate::words::{INPUT, OUTPUT, STAGES, once};

/// The pace of calls.
#[derive(Clone, Copy)]
struct Manner {
    /// The pause between the end of a call and the next one.
    pause: Duration,
    calls: u32,
}

/// With pauses. Work that a call leaves behind, such as the start of processes for the next
/// one, is done meanwhile; so it delays neither our next call nor a shell's.
const PACED: Manner = Manner {
    pause: Duration::from_millis(10),
    calls: 100,
};

/// As in a loop. Work that a call leaves behind delays the next one. There are many more calls
/// than processes in reserve, so each call pays for the start of its own processes: it cannot
/// be faster than bare starts.
const BACK_TO_BACK: Manner = Manner {
    pause: Duration::ZERO,
    calls: 120,
};

/// The number of turns for each round.
const TURNS_PER_ROUND: usize = 3;

/// No turn begins after this time. It must be long: of few calls, the p99 is only the worst
/// two or three, which the host of a virtual machine has delayed.
const TURNS_TIME: Duration = Duration::from_secs(130);

/// Pause for the contender that was called before to finish its work.
const PAUSE: Duration = Duration::from_millis(100);

type Calls<'a> = Box<dyn FnMut(Manner, &mut Latencies) -> anyhow::Result<()> + 'a>;

/// A program that can produce the output.
struct Contender<'a> {
    name: &'static str,
    /// Makes calls, and records their times.
    calls: Calls<'a>,
    paced: Times,
    back_to_back: Times,
}

struct Times {
    /// The times of all calls.
    all: Latencies,
    /// The median of each turn, in milliseconds.
    medians: Samples,
}

type OfManner = for<'a> fn(&'a Contender<'_>) -> &'a Times;

/// The contender that all others are compared with.
const DASH: &str = "dash -c";

pub(super) fn measure(
    place: &Place,
    everything: &Everything,
    targets: [Target<'_>; 4],
) -> anyhow::Result<(Vec<Row>, Vec<Row>)> {
    let mut all = targets.map(over_http).into_iter().collect::<Vec<_>>();
    all.extend(shells(place)?);
    let mut output = Vec::new();
    all.push(contender("vfork + exec, no shell", move || {
        let begin = Instant::now();
        floor::run(place, &STAGES, INPUT, &mut output)?;
        let time = begin.elapsed();
        ensure!(output == OUTPUT, "the wrong output came out");
        Ok(time)
    }));

    let (mut ready, mut output) = (None, Vec::new());
    all.push(contender("three warm processes, no server", move || {
        let warm = match ready.take() {
            Some(warm) => warm,
            None => floor::Warm::start(place, &STAGES)?,
        };
        let begin = Instant::now();
        warm.run(INPUT, &mut output)?;
        let time = begin.elapsed();
        ensure!(output == OUTPUT, "the wrong output came out");
        ready = Some(floor::Warm::start(place, &STAGES)?);
        Ok(time)
    }));

    let pids = [
        everything.portal.pid(),
        everything.nats.pid(),
        everything.runner.pid(),
    ];
    let mut costs = [(); 3].map(|()| Samples::default());
    for turn in place.many_turns("one at a time", TURNS_PER_ROUND, TURNS_TIME) {
        eprintln!("latency: {turn}");
        let before = pids.map(proc::processor_time);
        for contender in &mut all {
            contender.take_turn()?;
        }
        let calls = f64::from(PACED.calls + BACK_TO_BACK.calls + 2);
        for ((before, pid), cost) in before.into_iter().zip(pids).zip(&mut costs) {
            let taken = proc::processor_time(pid)?.saturating_sub(before?);
            cost.add(taken.as_secs_f64() * 1000.0 / calls);
        }
    }
    rows(&all, &costs)
}

fn shells<'a>(place: &Place) -> anyhow::Result<Vec<Contender<'a>>> {
    let shell = |name, program: &str, first: Option<&'static str>| {
        let program = find(program)?;
        let pipeline = place.pipeline(&STAGES);
        Ok(contender(name, move || {
            let mut command = Command::new(&program);
            command.args(first).arg("-c").arg(&pipeline);
            once(command)
        }))
    };
    let all = [
        shell(DASH, "dash", None),
        shell("bash -c", "bash", None),
        shell("busybox sh -c", "busybox", Some("sh")),
    ];
    all.into_iter().collect()
}

fn contender<'a>(
    name: &'static str,
    mut call: impl FnMut() -> anyhow::Result<Duration> + 'a,
) -> Contender<'a> {
    of_calls(name, move |manner, times| {
        // The first call only warms caches.
        call()?;
        for _ in 0..manner.calls {
            sleep(manner.pause);
            times.add(call()?);
        }
        Ok(())
    })
}

fn over_http(target: Target<'_>) -> Contender<'_> {
    of_calls(target.name, move |manner, times| {
        let mut caller = Caller::connect(target.address, target.request)?;
        caller.call(OUTPUT)?;
        for _ in 0..manner.calls {
            sleep(manner.pause);
            let begin = Instant::now();
            caller.call(OUTPUT)?;
            times.add(begin.elapsed());
        }
        Ok(())
    })
}

fn of_calls<'a>(
    name: &'static str,
    calls: impl FnMut(Manner, &mut Latencies) -> anyhow::Result<()> + 'a,
) -> Contender<'a> {
    let times = || Times {
        all: Latencies::new(),
        medians: Samples::default(),
    };
    Contender {
        name,
        calls: Box::new(calls),
        paced: times(),
        back_to_back: times(),
    }
}

impl Contender<'_> {
    fn take_turn(&mut self) -> anyhow::Result<()> {
        let manners = [
            (PACED, &mut self.paced),
            (BACK_TO_BACK, &mut self.back_to_back),
        ];
        for (manner, found) in manners {
            sleep(PAUSE);
            let mut times = Latencies::new();
            (self.calls)(manner, &mut times).context(self.name)?;
            found.medians.add(times.median());
            found.all.add_all(&times);
        }
        Ok(())
    }
}

/// Ratios, and absolute figures.
fn rows(all: &[Contender<'_>], costs: &[Samples; 3]) -> anyhow::Result<(Vec<Row>, Vec<Row>)> {
    let dash = all.iter().find(|contender| contender.name == DASH);
    let dash = dash.context("dash is not there")?;
    let [network, serve, peers @ ..] = all else {
        anyhow::bail!("ours are not there");
    };
    let (mut rows, mut absolute) = (Vec::new(), Vec::new());
    // The bound and the aim for the medians, over the network and in one process.
    let manners: [(_, OfManner, [(f64, f64); 2]); 2] = [
        (
            "paced",
            |contender| &contender.paced,
            [(0.42, 0.33), (0.28, 0.22)],
        ),
        (
            "back to back",
            |contender| &contender.back_to_back,
            [(0.65, 0.55), (0.55, 0.45)],
        ),
    ];
    for (manner, times, [of_network, of_serve]) in manners {
        let median = |contender| {
            let ratio = times(contender).medians.by(&times(dash).medians);
            let what = format!("{} ÷ dash, {manner}, median", contender.name);
            Row::new(what, Unit::Ratio, &ratio)
        };
        let p99 = |contender: &Contender<'_>| {
            let [ours, theirs] = [contender, dash].map(|one| times(one).all.quantile(0.99));
            let what = format!("{} ÷ dash, {manner}, p99", contender.name);
            Row::single(what, Unit::Ratio, ours / theirs)
        };
        rows.extend([
            median(network).asked(of_network.0, of_network.1),
            p99(network).asked(0.7, 0.5),
            median(serve).asked(of_serve.0, of_serve.1),
            p99(serve),
        ]);
        let others = peers.iter().filter(|contender| contender.name != DASH);
        rows.extend(others.map(median));
        for contender in all {
            let (name, times) = (contender.name, times(contender));
            let what = format!("{name}, {manner}");
            absolute.push(Row::new(what, Unit::Milliseconds, &times.medians));
            let what = format!("{name}, {manner}, p99");
            let p99 = times.all.quantile(0.99);
            absolute.push(Row::single(what, Unit::Milliseconds, p99));
        }
    }
    for (name, cost) in ["portal", "NATS", "runner"].iter().zip(costs) {
        let what = format!("processor time of a call: {name}");
        absolute.push(Row::new(what, Unit::Milliseconds, cost));
    }
    Ok((rows, absolute))
}
