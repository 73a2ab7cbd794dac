//! Calls at a rate that does not depend on how soon they are answered.
//!
//! A call's time runs from when it was due, not from when it was made. So the time that calls
//! wait behind a slow one counts; a caller in a loop would leave it out ("coordinated
//! omission").

use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use anyhow::Context;

use super::Target;
use crate::http::Caller;
use crate::latencies::Latencies;
use crate::place::Place;
use crate::report::{Row, Unit};
use crate::words::OUTPUT;

/// The number of connections, and so the most calls in flight.
const CONNECTIONS: usize = 32;

/// How long each target is called in a turn.
const TIME: Duration = Duration::from_secs(3);

/// Pause between two targets.
const PAUSE: Duration = Duration::from_millis(300);

/// No turn begins after this time.
const TURNS_TIME: Duration = Duration::from_secs(30);

/// The rate of calls, as a share of what the slowest target can answer.
const LOAD: f64 = 0.5;

pub(super) fn measure(
    place: &Place,
    targets: [Target<'_>; 4],
    slowest: f64,
) -> anyhow::Result<(Vec<Row>, Vec<Row>)> {
    let rate = (slowest * LOAD).max(1.0).round();
    let mut found = targets.map(|target| (target, Latencies::new()));
    for turn in place.turns(&format!("{rate} a second"), TURNS_TIME) {
        eprintln!("latency: {turn}");
        for (target, latencies) in &mut found {
            sleep(PAUSE);
            latencies.add_all(&call(*target, rate).context(target.name)?);
        }
    }
    let [network, _, webhook, fcgiwrap] = &found;
    let mut rows = Vec::new();
    for (other, by_other) in [webhook, fcgiwrap] {
        for (name, share) in [("median", 0.5), ("p99", 0.99)] {
            let (target, latencies) = network;
            let what = format!("{} ÷ {}, open loop, {name}", target.name, other.name);
            let ratio = latencies.quantile(share) / by_other.quantile(share);
            rows.push(Row::single(what, Unit::Ratio, ratio));
        }
    }
    let mut absolute = Vec::new();
    for (target, latencies) in &found {
        for (name, share) in [("median", 0.5), ("p99", 0.99), ("p99.9", 0.999)] {
            let what = format!("{}, {rate} a second, {name}", target.name);
            absolute.push(Row::single(
                what,
                Unit::Milliseconds,
                latencies.quantile(share),
            ));
        }
    }
    Ok((rows, absolute))
}

fn call(target: Target<'_>, rate: f64) -> anyhow::Result<Latencies> {
    let interval = Duration::from_secs_f64(1.0 / rate);
    let total = (TIME.as_secs_f64() * rate) as u32;
    let next = AtomicU32::new(0);
    let callers: anyhow::Result<Vec<Caller>> = (0..CONNECTIONS)
        .map(|_| Caller::connect(target.address, target.request))
        .collect();
    let begin = Instant::now();
    let one = |mut caller: Caller| {
        let mut times = Latencies::new();
        loop {
            let place = next.fetch_add(1, Ordering::Relaxed);
            if place >= total {
                return anyhow::Ok(times);
            }
            let due = begin + interval * place;
            sleep(due.saturating_duration_since(Instant::now()));
            caller.call(OUTPUT)?;
            times.add(due.elapsed());
        }
    };
    let mut all = Latencies::new();
    thread::scope(|scope| {
        let spawn = |caller| scope.spawn(|| one(caller));
        let threads: Vec<_> = callers?.into_iter().map(spawn).collect();
        for thread in threads {
            all.add_all(&thread.join().expect("nothing panics there")?);
        }
        Ok(all)
    })
}
