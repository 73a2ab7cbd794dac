//! The start of one sealed process, compared with a bare one and with other sandboxes.

use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use crate::floor;
use crate::measure::Samples;
use crate::place::Place;
use crate::report::{Findings, Row, Unit};
use others::Others;
use sealed::Sealed;

mod others;
mod sealed;

/// The command to run.
const COMMAND: &str = "cat";

/// Its input and output.
const TEXT: &[u8] = b"this is raw data\n";

/// How many starts a turn has, one after the other.
const STARTS: usize = 60;

/// The number of turns for each round.
const TURNS_PER_ROUND: usize = 8;

/// No turn begins after this time.
const TURNS_TIME: Duration = Duration::from_secs(40);

/// Pause for processes that were started before to be gone.
const PAUSE: Duration = Duration::from_millis(50);

/// The milliseconds of one start, one sample for each turn.
#[derive(Default)]
struct Found {
    sealed: Samples,
    until_gone: Samples,
    bare: Samples,
    sealed_busy: Samples,
    shared_busy: Samples,
    bare_busy: Samples,
    /// A call of a process that waits for its input, and of one whose place is prepared and
    /// whose input is stored in a file before it is executed; each without what is ready
    /// before the call.
    warm: Samples,
    late: Samples,
    /// How much longer the second one takes.
    late_above_warm: Samples,
}

pub(crate) fn measure(place: &Place) -> anyhow::Result<Findings> {
    let cores = thread::available_parallelism()?.get();
    let sealed: anyhow::Result<Vec<_>> = (0..cores).map(|_| Sealed::open(place)).collect();
    let sealed = sealed?;
    let bare = |output: &mut Vec<u8>| floor::run(place, &[COMMAND], TEXT, output);
    let first = &sealed[0];
    let late = Sealed::open_late(place)?;
    let mut found = Found::default();
    let mut others = Others::prepare(place)?;
    for turn in place.many_turns("one start", TURNS_PER_ROUND, TURNS_TIME) {
        eprintln!("start: {turn}");
        found.bare.add(alone(bare)?);
        found.sealed.add(alone(|output| first.run(TEXT, output))?);
        let until_gone = |output: &mut Vec<u8>| first.run_until_gone(TEXT, output);
        found.until_gone.add(alone(until_gone)?);
        found.bare_busy.add(busy(cores, |_, output| bare(output))?);
        let own = |core: usize, output: &mut Vec<u8>| sealed[core].run(TEXT, output);
        found.sealed_busy.add(busy(cores, own)?);
        let shared = |_, output: &mut Vec<u8>| first.run(TEXT, output);
        found.shared_busy.add(busy(cores, shared)?);
        let warm = ahead(
            || first.ready(),
            |ready, output| first.call(ready, TEXT, output),
        )?;
        let late = ahead(
            || late.ready(),
            |ready, output| late.call(ready, TEXT, output),
        )?;
        found.warm.add(warm);
        found.late.add(late);
        found.late_above_warm.add(late - warm);
        others.take_turn()?;
    }
    Ok(found.findings(&others))
}

/// The median milliseconds of starts one after the other.
fn alone(mut run: impl FnMut(&mut Vec<u8>) -> anyhow::Result<()>) -> anyhow::Result<f64> {
    sleep(PAUSE);
    let mut times = Samples::default();
    let mut output = Vec::new();
    for _ in 0..STARTS {
        let begin = Instant::now();
        run(&mut output)?;
        times.add_milliseconds(begin.elapsed());
        ensure!(output == TEXT, "the wrong output came out");
    }
    Ok(times.median())
}

/// The median milliseconds of calls one after the other, for which something is made ready
/// before.
fn ahead<T>(
    ready: impl Fn() -> anyhow::Result<T>,
    call: impl Fn(T, &mut Vec<u8>) -> anyhow::Result<()>,
) -> anyhow::Result<f64> {
    sleep(PAUSE);
    let mut times = Samples::default();
    let mut output = Vec::new();
    for _ in 0..STARTS {
        let ready = ready()?;
        let begin = Instant::now();
        call(ready, &mut output)?;
        times.add_milliseconds(begin.elapsed());
        ensure!(output == TEXT, "the wrong output came out");
    }
    Ok(times.median())
}

/// Starts one after the other on each core: the milliseconds of all divided by their number,
/// which is the cost of a start when no core is idle.
fn busy(
    cores: usize,
    run: impl Fn(usize, &mut Vec<u8>) -> anyhow::Result<()> + Sync,
) -> anyhow::Result<f64> {
    sleep(PAUSE);
    let begin = Instant::now();
    thread::scope(|scope| {
        let run = &run;
        let on_core = |core| {
            scope.spawn(move || {
                let mut output = Vec::new();
                (0..STARTS).try_for_each(|_| run(core, &mut output))
            })
        };
        let all: Vec<_> = (0..cores).map(on_core).collect();
        let mut all = all.into_iter();
        all.try_for_each(|one| one.join().expect("nothing panics there"))
    })
    .context("with all cores busy")?;
    let starts = STARTS * cores;
    Ok(begin.elapsed().as_secs_f64() * 1000.0 / starts as f64)
}

impl Found {
    fn findings(&self, others: &Others<'_>) -> Findings {
        let ratio = |what: &str, samples: &Samples, to: &Samples| {
            Row::new(format!("{what} ÷ bare"), Unit::Ratio, &samples.by(to))
        };
        let mut rows = vec![
            ratio("sealed", &self.sealed, &self.bare).asked(1.45, 1.2),
            ratio("sealed, all cores busy", &self.sealed_busy, &self.bare_busy).asked(1.5, 1.25),
            ratio(
                "sealed, all cores busy, one zygote",
                &self.shared_busy,
                &self.bare_busy,
            ),
            ratio("(late − warm)", &self.late_above_warm, &self.bare).asked(1.4, 1.0),
        ];
        let time = |what: &str, samples| Row::new(what, Unit::Milliseconds, samples);
        let mut absolute = vec![
            time("bare: vfork, exec, feed, read, reap", &self.bare),
            time("sealed", &self.sealed),
            time("sealed, until nothing of it is left", &self.until_gone),
            time("warm: feed, read, end", &self.warm),
            time("late: store, exec, read, end", &self.late),
            time("bare, all cores busy, by starts", &self.bare_busy),
            time("sealed, all cores busy, by starts", &self.sealed_busy),
            time(
                "sealed, all cores busy, one zygote, by starts",
                &self.shared_busy,
            ),
        ];
        for (name, samples) in others.found() {
            rows.push(ratio(name, samples, &self.bare));
            absolute.push(time(name, samples));
        }
        Findings {
            name: "start",
            what: "one cat of busybox: start, feed, read, reap (time, less is better)".to_owned(),
            rows,
            absolute,
        }
    }
}
