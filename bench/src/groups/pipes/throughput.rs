//! The throughput of a body much larger than all buffers on its way.

use std::io::Write;
use std::net::{Shutdown, SocketAddr};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use super::network::Network;
use super::{mebibytes, speed};
use crate::http::{self, Length, Reply};
use crate::measure::Samples;
use crate::payload::{self, Payload};
use crate::place::Place;
use crate::proc;
use crate::process::Process;

/// One of so many parts of the payload is compared byte by byte, before anything is timed.
const COMPARED_PART: u64 = 8;

/// How often the fast ones are measured in a turn.
const PER_TURN: usize = 3;

/// No turn begins after this time.
const TURNS_TIME: Duration = Duration::from_secs(90);

/// MiB per second, and MiB.
#[derive(Default)]
pub(super) struct Throughput {
    pub(super) shell: Samples,
    pub(super) run: Samples,
    pub(super) one: Samples,
    pub(super) three: Samples,
    /// This and what follows is of the network with one runner.
    pub(super) portal_peak: Samples,
    pub(super) runner_peak: Samples,
    /// How many milliseconds of a processor each MiB takes.
    pub(super) portal_cost: Samples,
    pub(super) runner_cost: Samples,
    pub(super) nats_cost: Samples,
}

pub(super) fn measure(
    place: &Place,
    network: &Network,
    payload: &Payload,
) -> anyhow::Result<Throughput> {
    let shell = || place.shell(&["cat", "cat", "cat"]);
    let run = || {
        let mut command = place.consecution();
        command.arg("run").arg(&network.chain);
        command
    };
    let (one, three) = (network.one.address, network.three.address);
    compare_filter(run(), payload).context("consecution run")?;
    for address in [one, three] {
        let bytes = payload.bytes / COMPARED_PART;
        post(address, payload, bytes, payload.comparing()).context("through a portal")?;
    }

    let bytes = payload.bytes;
    let mut found = Throughput::default();
    for turn in place.turns("large bodies", TURNS_TIME) {
        eprintln!("pipes: {turn}");
        // Each takes only a second, so other load on the machine shows: take the median.
        let (mut shells, mut runs) = <(Samples, Samples)>::default();
        for _ in 0..PER_TURN {
            shells.add(speed(bytes, filter(shell(), payload)?));
            runs.add(speed(bytes, filter(run(), payload)?));
        }
        found.shell.add(shells.median());
        found.run.add(runs.median());
        found.add_one(network, payload)?;
        found
            .three
            .add(speed(bytes, post(three, payload, bytes, |_| Ok(()))?));
    }
    Ok(found)
}

impl Throughput {
    /// Measures the network with one runner, and its costs.
    fn add_one(&mut self, network: &Network, payload: &Payload) -> anyhow::Result<()> {
        let pids = [
            network.one.pid(),
            network.runner.pid(),
            network.nats_of_one(),
        ];
        let [portal, runner, _] = pids;
        proc::reset_peak(portal)?;
        proc::reset_peak(runner)?;
        let before = pids.map(proc::processor_time);
        let time = post(network.one.address, payload, payload.bytes, |_| Ok(()))?;
        let after = pids.map(proc::processor_time);
        self.one.add(speed(payload.bytes, time));
        self.portal_peak.add(mebibytes(proc::peak(portal)?));
        self.runner_peak.add(mebibytes(proc::peak(runner)?));
        let costs = [
            &mut self.portal_cost,
            &mut self.runner_cost,
            &mut self.nats_cost,
        ];
        for ((before, after), cost) in before.into_iter().zip(after).zip(costs) {
            let taken = after?.saturating_sub(before?);
            cost.add(taken.as_secs_f64() * 1000.0 / mebibytes(payload.bytes));
        }
        Ok(())
    }
}

/// How long a filter takes for the whole payload, with its start.
fn filter(mut command: Command, payload: &Payload) -> anyhow::Result<Duration> {
    command.stdin(payload.open()?).stdout(Stdio::piped());
    let begin = Instant::now();
    let mut process = Process::start(command)?;
    let bytes = payload::discard(process.output()?)?;
    process.succeed()?;
    let time = begin.elapsed();
    ensure!(
        bytes == payload.bytes,
        "{bytes} bytes came out of {}",
        payload.bytes
    );
    Ok(time)
}

fn compare_filter(mut command: Command, payload: &Payload) -> anyhow::Result<()> {
    command.stdin(payload.open()?).stdout(Stdio::piped());
    let mut process = Process::start(command)?;
    let bytes = payload::read_all(process.output()?, payload.comparing())?;
    process.succeed()?;
    ensure!(
        bytes == payload.bytes,
        "{bytes} bytes came out of {}",
        payload.bytes
    );
    Ok(())
}

/// How long a request takes from the connection to the end of the reply, which is read while
/// the request is sent.
pub(super) fn post(
    address: SocketAddr,
    payload: &Payload,
    bytes: u64,
    mut sink: impl FnMut(&[u8]) -> anyhow::Result<()>,
) -> anyhow::Result<Duration> {
    let begin = Instant::now();
    let mut stream = http::connect(address)?;
    stream.write_all(http::head(Length::Large(bytes)).as_bytes())?;
    let uploading = stream.try_clone()?;
    thread::scope(|scope| {
        let upload = scope.spawn(|| payload.send(&uploading, bytes));
        let read = || {
            let mut count = 0;
            let mut reply = Reply::begin(stream)?.expect_success()?;
            reply.read_to_end(|bytes| {
                count += bytes.len() as u64;
                sink(bytes)
            })?;
            ensure!(count == bytes, "{count} bytes came back of {bytes}");
            Ok(begin.elapsed())
        };
        let time = read();
        if time.is_err() {
            // Otherwise the upload may wait for ever.
            let _ = uploading.shutdown(Shutdown::Both);
        }
        let sent = upload.join().expect("nothing panics there");
        time.and_then(|time| sent.1.map(|()| time))
    })
}
