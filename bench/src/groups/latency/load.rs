//! Calls over NATS under load: how many messages they take, and how much slower than the
//! others the slowest are.

use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use anyhow::Context;

use super::{Everything, Target};
use crate::http::Caller;
use crate::latencies::Latencies;
use crate::measure::Samples;
use crate::place::Place;
use crate::report::{Row, Unit};
use crate::servers::Nats;
use crate::words::OUTPUT;

/// How many calls are in flight.
const AT_A_TIME: [usize; 3] = [1, 16, 32];

/// With how many calls in flight the slowest are compared with the others.
const CROWD: usize = 16;

/// How many calls are counted in a turn, and how many warm up before that: the runner then has
/// as many processes as it wants.
const CALLS: usize = 800;
const WARM_UP_CALLS: usize = 200;

/// Pause between two measurements: by then, all messages of earlier calls are sent.
const PAUSE: Duration = Duration::from_millis(300);

/// No turn begins after this time.
const TURNS_TIME: Duration = Duration::from_secs(30);

/// The measurements for one number of calls in flight.
#[derive(Default)]
struct Load {
    messages_a_call: Samples,
    p99_by_median: Samples,
}

pub(super) fn measure(
    place: &Place,
    everything: &Everything,
    [network, serve, ..]: [Target<'_>; 4],
) -> anyhow::Result<(Vec<Row>, Vec<Row>)> {
    let mut found = AT_A_TIME.map(|_| Load::default());
    let mut alone = Samples::default();
    for turn in place.turns("messages a call", TURNS_TIME) {
        eprintln!("latency: {turn}");
        for (at_a_time, load) in AT_A_TIME.into_iter().zip(&mut found) {
            load.add(&everything.nats, network, at_a_time)
                .context(network.name)?;
        }
        alone.add(p99_by_median(
            &call(serve, CROWD, CALLS).context(serve.name)?,
        ));
    }
    let mut rows = Vec::new();
    for (at_a_time, load) in AT_A_TIME.into_iter().zip(&found) {
        let what = format!("messages through NATS a call, at {at_a_time}");
        rows.push(Row::new(what, Unit::Ratio, &load.messages_a_call).asked(2.1, 2.0));
        if at_a_time == CROWD {
            let what = format!("{}, at {at_a_time}: p99 ÷ median", network.name);
            rows.push(Row::new(what, Unit::Ratio, &load.p99_by_median).asked(2.0, 1.4));
        }
    }
    let what = format!("{}, at {CROWD}: p99 ÷ median", serve.name);
    rows.push(Row::new(what, Unit::Ratio, &alone));
    Ok((rows, Vec::new()))
}

impl Load {
    fn add(&mut self, nats: &Nats, target: Target<'_>, at_a_time: usize) -> anyhow::Result<()> {
        call(target, at_a_time, WARM_UP_CALLS)?;
        sleep(PAUSE);
        let before = nats.messages()?;
        let times = call(target, at_a_time, CALLS)?;
        sleep(PAUSE);
        let messages = nats.messages()? - before;
        self.messages_a_call.add(messages as f64 / CALLS as f64);
        self.p99_by_median.add(p99_by_median(&times));
        Ok(())
    }
}

fn p99_by_median(times: &Latencies) -> f64 {
    times.quantile(0.99) / times.median()
}

/// Makes so many calls, and returns their times.
fn call(target: Target<'_>, at_a_time: usize, calls: usize) -> anyhow::Result<Latencies> {
    let one = || {
        let mut caller = Caller::connect(target.address, target.request)?;
        let mut times = Latencies::new();
        for _ in 0..calls / at_a_time {
            let begin = Instant::now();
            caller.call(OUTPUT)?;
            times.add(begin.elapsed());
        }
        anyhow::Ok(times)
    };
    let mut all = Latencies::new();
    thread::scope(|scope| {
        let threads: Vec<_> = (0..at_a_time).map(|_| scope.spawn(one)).collect();
        for thread in threads {
            all.add_all(&thread.join().expect("nothing panics there")?);
        }
        Ok(all)
    })
}
