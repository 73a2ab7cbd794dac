//! Many streams at a time, one of which nobody reads.

use std::io::Write;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use anyhow::Context;

use super::network::Network;
use super::throughput::post;
use super::{mebibytes, speed};
use crate::http::{self, Length};
use crate::measure::Samples;
use crate::payload::Payload;
use crate::place::Place;
use crate::proc;

/// How many streams are read.
const READ: u64 = 49;

/// The streams count as unaffected by a stalled one down to this ratio: the rest is noise.
pub(super) const UNHURT: f64 = 0.9;

/// Each stream carries one of so many parts of the payload.
const PART: u64 = 256;

/// A stream that has accepted nothing for so long counts as stalled.
const STALLED_AFTER: Duration = Duration::from_millis(300);

/// Pause for the processes of the last turn to be replaced.
const PAUSE: Duration = Duration::from_millis(500);

/// No turn begins after this time.
const TURNS_TIME: Duration = Duration::from_secs(45);

/// MiB per second over all streams, and MiB.
#[derive(Default)]
pub(super) struct Crowd {
    pub(super) alone: Samples,
    pub(super) beside_stalled: Samples,
    pub(super) taken_by_stalled: Samples,
    pub(super) portal_peak: Samples,
    pub(super) runner_peak: Samples,
}

pub(super) fn measure(
    place: &Place,
    network: &Network,
    payload: &Payload,
) -> anyhow::Result<Crowd> {
    let address = network.one.address;
    let (portal, runner) = (network.one.pid(), network.runner.pid());
    let mut found = Crowd::default();
    // The first round is not timed: it lets the runner start as many processes.
    streams(address, payload)?;
    for turn in place.turns("50 streams", TURNS_TIME) {
        eprintln!("pipes: {turn}");
        sleep(PAUSE);
        found.alone.add(streams(address, payload)?);
        sleep(PAUSE);
        proc::reset_peak(portal)?;
        proc::reset_peak(runner)?;
        let (speed, taken) = beside_stalled(address, payload)?;
        found.beside_stalled.add(speed);
        found.taken_by_stalled.add(mebibytes(taken));
        found.portal_peak.add(mebibytes(proc::peak(portal)?));
        found.runner_peak.add(mebibytes(proc::peak(runner)?));
    }
    Ok(found)
}

/// The MiB per second of all streams together.
fn streams(address: SocketAddr, payload: &Payload) -> anyhow::Result<f64> {
    let bytes = payload.bytes / PART;
    let begin = Instant::now();
    thread::scope(|scope| {
        let one = || post(address, payload, bytes, |_| Ok(())).map(drop);
        let all: Vec<_> = (0..READ).map(|_| scope.spawn(one)).collect();
        let mut all = all
            .into_iter()
            .map(|one| one.join().expect("nothing panics there"));
        all.try_for_each(|one| one).context("one of many streams")
    })?;
    Ok(speed(READ * bytes, begin.elapsed()))
}

/// The same beside a stalled stream: it is written to for as long as it accepts anything, and
/// never read. Also returns how many bytes it has accepted.
fn beside_stalled(address: SocketAddr, payload: &Payload) -> anyhow::Result<(f64, u64)> {
    let mut stalled = http::connect(address)?;
    stalled.write_all(http::head(Length::Large(u64::MAX >> 1)).as_bytes())?;
    let taken = AtomicU64::new(0);
    thread::scope(|scope| {
        let filling = scope.spawn(|| fill(&stalled, &taken));
        until_stalled(&taken);
        let speed = streams(address, payload);
        let _ = stalled.shutdown(Shutdown::Both);
        filling.join().expect("nothing panics there");
        Ok((speed?, taken.load(Ordering::Relaxed)))
    })
}

fn fill(mut stream: &TcpStream, taken: &AtomicU64) {
    let zeros = [0; 64 * 1024];
    while let Ok(length) = stream.write(&zeros) {
        taken.fetch_add(length as u64, Ordering::Relaxed);
    }
}

/// Waits until the stalled stream accepts nothing more.
fn until_stalled(taken: &AtomicU64) {
    let mut before = None;
    loop {
        let now = taken.load(Ordering::Relaxed);
        if before == Some(now) {
            return;
        }
        before = Some(now);
        sleep(STALLED_AFTER);
    }
}
