//! The first call of a new link.

use std::io::{Read, Write};
use std::path::Path;
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::ensure;

use super::links::yaml;
use super::{Network, Rows};
use crate::measure::Samples;
use crate::place::Place;
use crate::process::Process;
use crate::report::{Row, Unit};

/// The number of new links for each round.
const LINKS_PER_ROUND: usize = 8;

/// No turn begins after this time.
const TURNS_TIME: Duration = Duration::from_secs(20);

/// Pause for the runner to finish its work.
const PAUSE: Duration = Duration::from_millis(200);

/// Sends a payload through a new link, and then another one. Both start a program that
/// connects to NATS and etcd. The first one takes longer by the time to publish the link, and
/// for the runner to notice it, look its image up, and start its zygote and a process.
pub(super) fn measure(place: &Place, network: &Network) -> anyhow::Result<Rows> {
    let (mut first, mut second, mut more) = <(Samples, Samples, Samples)>::default();
    let turns = place.many_turns("new links", LINKS_PER_ROUND, TURNS_TIME);
    for (number, _) in turns.enumerate() {
        let mark = format!("new {number}");
        let chain = place.write(&format!("new-{number}.yaml"), &yaml(&mark))?;
        let new = send(place, network, &chain, &mark)?;
        sleep(PAUSE);
        let known = send(place, network, &chain, &mark)?;
        sleep(PAUSE);
        first.add_milliseconds(new);
        second.add_milliseconds(known);
        more.add((new.as_secs_f64() - known.as_secs_f64()) * 1000.0);
    }
    let time = |what: &str, samples: &Samples| Row::new(what, Unit::Milliseconds, samples);
    let rows = vec![time("first call of a new link, above a later one", &more).asked(9.0, 5.0)];
    let absolute = vec![
        time("consecution send, first call of a new link", &first),
        time("consecution send, a later call of it", &second),
    ];
    Ok((rows, absolute))
}

fn send(place: &Place, network: &Network, chain: &Path, mark: &str) -> anyhow::Result<Duration> {
    let mut command = network.between().command(place, "send");
    command.arg(chain);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let begin = Instant::now();
    let mut process = Process::start(command)?;
    process.input()?.write_all(b"data\n")?;
    let mut output = String::new();
    process.output()?.read_to_string(&mut output)?;
    process.succeed()?;
    let time = begin.elapsed();
    ensure!(
        output == format!("data {mark}\n"),
        "the wrong output came out: {output:?}"
    );
    Ok(time)
}
