//! One run of `examples/words` with nothing started before, beside a shell's pipeline, and a
//! pipeline of `docker run` if a Docker engine answers.

use crate::docker::Docker;
use crate::measure::Samples;
use crate::place::Place;
use crate::report::{Findings, Row, Unit};
use crate::words::{CHAIN, STAGES, once};

const TURNS: usize = 40;

/// Fewer, because each takes a second.
const DOCKER_TURNS: usize = 5;

pub(crate) fn measure(place: &Place) -> anyhow::Result<Findings> {
    let docker = Docker::prepare(place)?;
    let run = || {
        let mut command = place.consecution();
        command.args(["run", CHAIN]);
        command
    };
    let (mut shells, mut runs, mut dockers) = <(Samples, Samples, Samples)>::default();
    // The first turn only warms caches.
    for turn in 0..=TURNS {
        let shell = once(place.shell(&STAGES))?;
        let run = once(run())?;
        let docker = match &docker {
            Some(docker) if turn <= DOCKER_TURNS => Some(once(docker.pipeline(&STAGES))?),
            _ => None,
        };
        if turn > 0 {
            shells.add_milliseconds(shell);
            runs.add_milliseconds(run);
            docker
                .into_iter()
                .for_each(|docker| dockers.add_milliseconds(docker));
        }
    }
    let by_shell = |what, times: &Samples| Row::new(what, Unit::Ratio, &times.by(&shells));
    let mut rows = vec![by_shell("consecution run ÷ shell", &runs).asked(6.0, 4.0)];
    let mut absolute = vec![
        Row::new("shell", Unit::Milliseconds, &shells),
        Row::new("consecution run", Unit::Milliseconds, &runs),
    ];
    if docker.is_some() {
        rows.push(by_shell("docker run ÷ shell", &dockers));
        absolute.push(Row::new("docker run", Unit::Milliseconds, &dockers));
    }
    Ok(Findings {
        name: "once",
        what: "one run of cat | grep data | xargs -n 1, from nothing (time, less is better)"
            .to_owned(),
        rows,
        absolute,
    })
}
