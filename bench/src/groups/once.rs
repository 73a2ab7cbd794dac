//! One run of `examples/words`, from nothing: beside the shell's own pipeline,
//! and Docker's where an engine answers.

use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::ensure;

use crate::measure::Samples;
use crate::place::Place;
use crate::process::Process;
use crate::report::{Findings, Row, Unit};

const CHAIN: &str = "examples/words/chain.yaml";
const STAGES: [&str; 3] = ["cat", "grep data", "xargs -n 1"];
const INPUT: &[u8] = b"this is raw data\n";
const OUTPUT: &[u8] = b"this\nis\nraw\ndata\n";

const TURNS: usize = 40;

/// An engine takes a second each.
const DOCKER_TURNS: usize = 5;

const DOCKER_IMAGE: &str = "consecution-bench";

pub(crate) fn measure(place: &Place) -> anyhow::Result<Findings> {
    let docker = Docker::prepare(place)?;
    let run = || {
        let mut command = place.consecution();
        command.args(["run", CHAIN]);
        command
    };
    let (mut shells, mut runs, mut dockers) = <(Samples, Samples, Samples)>::default();
    // The first turn warms what can be warmed.
    for turn in 0..=TURNS {
        let shell = once(place.shell(&STAGES))?;
        let run = once(run())?;
        let docker = match &docker {
            Some(docker) if turn <= DOCKER_TURNS => Some(once(docker.pipeline())?),
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
    let mut rows = vec![by_shell("consecution run ÷ shell", &runs)];
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

/// How long it takes to make the output of the input.
fn once(mut command: Command) -> anyhow::Result<Duration> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let begin = Instant::now();
    let mut process = Process::start(command)?;
    process.input()?.write_all(INPUT)?;
    let mut output = Vec::new();
    process.output()?.read_to_end(&mut output)?;
    process.succeed()?;
    let time = begin.elapsed();
    let text = String::from_utf8_lossy(&output);
    ensure!(output == OUTPUT, "the wrong output came out: {text:?}");
    Ok(time)
}

/// An engine that answers, with an image of our own; gone when dropped.
struct Docker;

impl Docker {
    fn prepare(place: &Place) -> anyhow::Result<Option<Docker>> {
        let mut info = Command::new("docker");
        info.arg("info");
        let answers = Process::start_silent(info).is_ok_and(|info| info.succeed().is_ok());
        if !answers {
            return Ok(None);
        }
        let mut import = Command::new("docker");
        import
            .args(["import", "-", DOCKER_IMAGE])
            .stdout(Stdio::null());
        place.pack_image_into(import)?;
        Ok(Some(Docker))
    }

    fn pipeline(&self) -> Command {
        let stages = STAGES.map(|stage| format!("docker run --rm -i {DOCKER_IMAGE} {stage}"));
        let mut command = Command::new("sh");
        command.arg("-c").arg(stages.join(" | "));
        command
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        let mut remove = Command::new("docker");
        remove.args(["image", "rm", DOCKER_IMAGE]);
        let removed = Process::start_silent(remove).and_then(Process::succeed);
        if removed.is_err() {
            eprintln!("bench: docker keeps the image {DOCKER_IMAGE}");
        }
    }
}
