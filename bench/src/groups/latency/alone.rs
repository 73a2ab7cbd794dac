//! One at a time: each begins when the one before it has ended.

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

/// Calls one right after the other, so that what a call leaves to be done, such
/// as to start a process for the next one, is met by that next one, and not by
/// somebody else's call.
const CALLS: usize = 150;

/// Turns of that, for each round.
const TURNS_PER_ROUND: usize = 4;

/// No turn begins after that.
const TURNS_TIME: Duration = Duration::from_secs(60);

/// For what has been called before to come to rest.
const PAUSE: Duration = Duration::from_millis(100);

type Calls<'a> = Box<dyn FnMut(&mut Latencies) -> anyhow::Result<()> + 'a>;

/// Somebody who can be asked for the output.
struct Contender<'a> {
    name: &'static str,
    /// Makes a number of calls, and says how long each took.
    calls: Calls<'a>,
    /// All of all turns.
    all: Latencies,
    /// Of each turn, in milliseconds.
    medians: Samples,
}

/// What all else is compared with.
const DASH: &str = "dash -c";

pub(super) fn measure(
    place: &Place,
    everything: &Everything,
    targets: [Target<'_>; 4],
) -> anyhow::Result<(Vec<Row>, Vec<Row>)> {
    let shell = |name, program: &str, first: Option<&'static str>| {
        let program = find(program)?;
        let pipeline = place.pipeline(&STAGES);
        Ok(contender(name, move || {
            let mut command = Command::new(&program);
            command.args(first).arg("-c").arg(&pipeline);
            once(command)
        }))
    };
    let mut output = Vec::new();
    let bare = contender("vfork + exec, no shell", move || {
        let begin = Instant::now();
        floor::run(place, &STAGES, INPUT, &mut output)?;
        let time = begin.elapsed();
        ensure!(output == OUTPUT, "the wrong output came out");
        Ok(time)
    });
    let shells: [anyhow::Result<_>; 3] = [
        shell(DASH, "dash", None),
        shell("bash -c", "bash", None),
        shell("busybox sh -c", "busybox", Some("sh")),
    ];
    let mut all = targets.map(over_http).into_iter().collect::<Vec<_>>();
    for shell in shells {
        all.push(shell?);
    }
    all.push(bare);

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
        for ((before, pid), cost) in before.into_iter().zip(pids).zip(&mut costs) {
            let taken = proc::processor_time(pid)?.saturating_sub(before?);
            cost.add(taken.as_secs_f64() * 1000.0 / (CALLS + 1) as f64);
        }
    }
    rows(&all, &costs)
}

fn contender<'a>(
    name: &'static str,
    mut call: impl FnMut() -> anyhow::Result<Duration> + 'a,
) -> Contender<'a> {
    let calls = move |times: &mut Latencies| {
        // The first one warms what can be warmed.
        call()?;
        for _ in 0..CALLS {
            times.add(call()?);
        }
        Ok(())
    };
    Contender {
        name,
        calls: Box::new(calls),
        all: Latencies::new(),
        medians: Samples::default(),
    }
}

fn over_http(target: Target<'_>) -> Contender<'_> {
    let mut contender = contender(target.name, || Ok(Duration::ZERO));
    contender.calls = Box::new(move |times| {
        let mut caller = Caller::connect(target.address, target.request)?;
        caller.call(OUTPUT)?;
        for _ in 0..CALLS {
            let begin = Instant::now();
            caller.call(OUTPUT)?;
            times.add(begin.elapsed());
        }
        Ok(())
    });
    contender
}

impl Contender<'_> {
    fn take_turn(&mut self) -> anyhow::Result<()> {
        sleep(PAUSE);
        let mut times = Latencies::new();
        (self.calls)(&mut times).context(self.name)?;
        self.medians.add(times.median());
        self.all.add_all(&times);
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
    let median = |contender: &Contender<'_>| {
        let what = format!("{} ÷ dash, median", contender.name);
        Row::new(what, Unit::Ratio, &contender.medians.by(&dash.medians))
    };
    let p99 = |contender: &Contender<'_>| {
        let ratio = contender.all.quantile(0.99) / dash.all.quantile(0.99);
        Row::single(
            format!("{} ÷ dash, p99", contender.name),
            Unit::Ratio,
            ratio,
        )
    };
    let mut rows = vec![
        median(network).asked(0.5, 0.35),
        p99(network).asked(1.0, 0.5),
        median(serve).asked(0.35, 0.25),
        p99(serve),
    ];
    let others = peers.iter().filter(|contender| contender.name != DASH);
    rows.extend(others.map(median));

    let mut absolute = Vec::new();
    for contender in all {
        let name = contender.name;
        absolute.push(Row::new(name, Unit::Milliseconds, &contender.medians));
        let p99 = contender.all.quantile(0.99);
        absolute.push(Row::single(format!("{name}, p99"), Unit::Milliseconds, p99));
    }
    for (name, cost) in ["portal", "NATS", "runner"].iter().zip(costs) {
        let what = format!("processor time of a call: {name}");
        absolute.push(Row::new(what, Unit::Milliseconds, cost));
    }
    Ok((rows, absolute))
}
