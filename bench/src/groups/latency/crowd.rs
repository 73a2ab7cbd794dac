//! Sixteen callers at a time, as fast as they are answered.

use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use anyhow::Context;

use super::Target;
use crate::http::Caller;
use crate::measure::Samples;
use crate::place::Place;
use crate::report::{Row, Unit};
use crate::words::OUTPUT;

const AT_A_TIME: usize = 16;

/// How long calls are counted in a turn, and how long they warm up before that: the target then
/// has as many processes as it wants.
const TIME: Duration = Duration::from_secs(2);
const WARM_UP: Duration = Duration::from_millis(500);

/// Pause between two targets.
const PAUSE: Duration = Duration::from_millis(300);

/// No turn begins after this time.
const TURNS_TIME: Duration = Duration::from_secs(30);

/// Calls per second, of each target.
pub(super) struct Crowd<'a>([(Target<'a>, Samples); 4]);

pub(super) fn measure<'a>(place: &Place, targets: [Target<'a>; 4]) -> anyhow::Result<Crowd<'a>> {
    let mut found = targets.map(|target| (target, Samples::default()));
    for turn in place.turns("16 at a time", TURNS_TIME) {
        eprintln!("latency: {turn}");
        for (target, samples) in &mut found {
            sleep(PAUSE);
            samples.add(call(*target).context(target.name)?);
        }
    }
    Ok(Crowd(found))
}

/// Calls a target for a while; returns the calls per second that it has answered.
fn call(target: Target<'_>) -> anyhow::Result<f64> {
    let begin = Instant::now() + WARM_UP;
    let end = begin + TIME;
    let one = || {
        let mut caller = Caller::connect(target.address, target.request)?;
        let mut count = 0;
        loop {
            caller.call(OUTPUT)?;
            match Instant::now() {
                now if now > end => return Ok(count),
                now if now > begin => count += 1,
                _ => {}
            }
        }
    };
    let counts: anyhow::Result<Vec<u32>> = thread::scope(|scope| {
        let all: Vec<_> = (0..AT_A_TIME).map(|_| scope.spawn(one)).collect();
        let join = |one: thread::ScopedJoinHandle<'_, _>| one.join().expect("nothing panics there");
        all.into_iter().map(join).collect()
    });
    Ok(f64::from(counts?.iter().sum::<u32>()) / TIME.as_secs_f64())
}

impl Crowd<'_> {
    /// The calls per second of the slowest target.
    pub(super) fn slowest(&self) -> f64 {
        let all = self.0.iter().map(|(_, samples)| samples.median());
        all.fold(f64::INFINITY, f64::min)
    }

    /// Ratios, and absolute figures.
    pub(super) fn rows(&self) -> (Vec<Row>, Vec<Row>) {
        let [network, serve, webhook, fcgiwrap] = &self.0;
        let ratio = |(one, by_one): &(Target<'_>, Samples), (other, by_other): &(_, Samples)| {
            let other: &Target<'_> = other;
            let what = format!("{} ÷ {}, at 16", one.name, other.name);
            Row::new(what, Unit::Ratio, &by_one.by(by_other))
        };
        let rows = vec![
            ratio(network, webhook).asked(1.3, 1.5),
            ratio(network, fcgiwrap).asked(0.8, 1.2),
            ratio(serve, webhook).asked(1.4, 1.6),
            ratio(serve, fcgiwrap).asked(0.8, 1.2),
        ];
        let absolute = |(target, samples): &(Target<'_>, Samples)| {
            Row::new(format!("{}, at 16", target.name), Unit::PerSecond, samples)
        };
        (rows, self.0.iter().map(absolute).collect())
    }
}
