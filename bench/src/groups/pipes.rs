//! Large bodies, endless ones, and many at a time, through three `cat` links, compared with
//! `cat | cat | cat` in a shell, all of the same busybox.

use crate::measure::Samples;
use crate::payload::Payload;
use crate::place::Place;
use crate::report::{Findings, Row, Unit};

mod crowd;
mod first_byte;
mod network;
mod throughput;

use network::Network;

pub(crate) fn measure(place: &Place) -> anyhow::Result<Findings> {
    let payload = Payload::make(place.mebibytes << 20)?;
    let network = Network::start(place)?;
    let mut rows = Vec::new();
    let mut absolute = Vec::new();

    let through = throughput::measure(place, &network, &payload)?;
    let by_shell = |samples: &Samples| samples.by(&through.shell);
    rows.extend([
        Row::new("run ÷ shell", Unit::Ratio, &by_shell(&through.run)).asked(0.9, 1.0),
        Row::new(
            "portal, NATS, 1 runner ÷ shell",
            Unit::Ratio,
            &by_shell(&through.one),
        )
        .asked(0.15, 0.25),
        Row::new(
            "portal, NATS, 3 runners ÷ shell",
            Unit::Ratio,
            &by_shell(&through.three),
        )
        .asked(0.05, 0.08),
        peak("portal's peak memory", &through.portal_peak).asked(64.0, 32.0),
        peak("runner's peak memory", &through.runner_peak).asked(64.0, 32.0),
    ]);
    let speed = |what: &str, samples| Row::new(what, Unit::MebibytesPerSecond, samples);
    absolute.extend([
        speed("shell, cat | cat | cat", &through.shell),
        speed("consecution run", &through.run),
        speed("portal, NATS, 1 runner", &through.one),
        speed("portal, NATS, 3 runners, a link each", &through.three),
    ]);
    let cost = |what: &str, samples| Row::new(what, Unit::MillisecondsPerMebibyte, samples);
    absolute.extend([
        cost("processor time with 1 runner: portal", &through.portal_cost),
        cost("processor time with 1 runner: runner", &through.runner_cost),
        cost("processor time with 1 runner: NATS", &through.nats_cost),
    ]);

    let first = first_byte::measure(place, &network)?;
    let time = |what: &str, samples| Row::new(what, Unit::Milliseconds, samples);
    rows.extend([
        time("first byte out after first in, 1 runner", &first.one.first).asked(10.0, 2.0),
        time(
            "first byte out after first in, 3 runners",
            &first.three.first,
        )
        .asked(10.0, 2.0),
    ]);
    absolute.extend([
        time("a byte through an open stream, shell", &first.shell),
        time("a byte through an open stream, 1 runner", &first.one.later),
        time(
            "a byte through an open stream, 3 runners",
            &first.three.later,
        ),
    ]);

    let crowd = crowd::measure(place, &network, &payload)?;
    rows.push(
        Row::new(
            "49 streams, a 50th stalled ÷ not there",
            Unit::Ratio,
            &crowd.beside_stalled.by(&crowd.alone),
        )
        .asked(crowd::UNHURT, 1.0),
    );
    rows.extend([
        peak("portal's peak memory with 50", &crowd.portal_peak),
        peak("runner's peak memory with 50", &crowd.runner_peak),
    ]);
    absolute.extend([
        speed("49 streams", &crowd.alone),
        speed("49 streams beside a stalled one", &crowd.beside_stalled),
        Row::new(
            "what the stalled one took in",
            Unit::Mebibytes,
            &crowd.taken_by_stalled,
        ),
    ]);

    Ok(Findings {
        name: "pipes",
        what: format!(
            "{} MiB through three cat links (throughput)",
            place.mebibytes
        ),
        rows,
        absolute,
    })
}

/// The highest of the peaks, in MiB.
fn peak(what: &str, samples: &Samples) -> Row {
    Row::single(what, Unit::Mebibytes, samples.most())
}

/// MiB per second.
fn speed(bytes: u64, time: std::time::Duration) -> f64 {
    mebibytes(bytes) / time.as_secs_f64()
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
