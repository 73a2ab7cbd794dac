//! Throughput with more runners, of a link that waits without using a processor.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use super::{Network, Rows};
use crate::http::{self, Caller, Length};
use crate::measure::Samples;
use crate::place::Place;
use crate::report::{Row, Unit};

const CHAIN: &str = "Chain:\n- {Image: busybox, Command: sleep, Arguments: ['0.05']}\n";

/// How many processes each runner may have.
const AT_A_TIME: usize = 4;

/// The numbers of runners; the first must be one.
const RUNNERS: [usize; 4] = [1, 2, 4, 8];

/// How many calls are in flight for each process: enough that none is idle.
const CALLS_PER_PLACE: usize = 2;

/// How long calls are counted, and how long they warm up before that.
const TIME: Duration = Duration::from_secs(2);
const WARM_UP: Duration = Duration::from_millis(500);

/// No turn begins after this time.
const TURNS_TIME: Duration = Duration::from_secs(40);

pub(super) fn measure(place: &Place) -> anyhow::Result<Rows> {
    let chain = place.write("wait.yaml", CHAIN)?;
    let places = AT_A_TIME.to_string();
    let options = ["--processes-max", &places, "--waiting-max", &places];
    let mut network = Network::start_with(place, "runners-1", &[chain], &options)?;
    let mut speeds = RUNNERS.map(|runners| (runners, Samples::default()));
    for turn in place.turns("more runners", TURNS_TIME) {
        eprintln!("scale: {turn}");
        network.runners.truncate(1);
        for (runners, speeds) in &mut speeds {
            while network.runners.len() < *runners {
                let name = format!("runners-{}", network.runners.len() + 1);
                let listen = ["--listen", "127.0.0.1:0"];
                let options = [&options[..], &listen].concat();
                let runner = network.between().runner_with(place, &name, &options)?;
                network.runners.push(runner);
            }
            (network.runners.iter().skip(1)).try_for_each(|runner| runner.until_serving())?;
            let calls = AT_A_TIME * CALLS_PER_PLACE * *runners;
            speeds.add(call(network.portal.address, calls)?);
        }
    }
    let (_, one) = &speeds[0];
    let mut rows = Vec::new();
    for (runners, speed) in &speeds[1..] {
        let linear = *runners as f64;
        let ratio = Row::new(
            format!("{runners} runners ÷ {runners} times one, throughput"),
            Unit::Ratio,
            &speed.by(one).by_number(linear),
        );
        let is_all = *runners == RUNNERS[RUNNERS.len() - 1];
        rows.push(if is_all {
            ratio.asked(0.95, 0.99)
        } else {
            ratio
        });
    }
    let absolute = speeds.iter().map(|(runners, speed)| {
        let what = format!("a link that waits 50 ms, 4 at a time, runners: {runners}");
        Row::new(what, Unit::PerSecond, speed)
    });
    Ok((rows, absolute.collect()))
}

/// Calls per second with so many in flight.
fn call(address: SocketAddr, calls: usize) -> anyhow::Result<f64> {
    let request = http::head(Length::Known(0));
    let begin = Instant::now() + WARM_UP;
    let end = begin + TIME;
    let one = || {
        let mut caller = Caller::connect(address, request.as_bytes())?;
        let mut count = 0;
        loop {
            caller.call(b"")?;
            match Instant::now() {
                now if now > end => return Ok(count),
                now if now > begin => count += 1,
                _ => {}
            }
        }
    };
    let counts: anyhow::Result<Vec<u32>> = thread::scope(|scope| {
        let all: Vec<_> = (0..calls).map(|_| scope.spawn(one)).collect();
        let join = |one: thread::ScopedJoinHandle<'_, _>| one.join().expect("nothing panics there");
        all.into_iter().map(join).collect()
    });
    Ok(f64::from(counts?.iter().sum::<u32>()) / TIME.as_secs_f64())
}
