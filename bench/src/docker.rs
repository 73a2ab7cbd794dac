//! `docker run`, if a Docker engine answers.

use std::process::{Command, Stdio};

use crate::place::Place;
use crate::process::Process;

const IMAGE: &str = "consecution-bench";

/// A Docker engine with an image of ours, which is removed when this is dropped.
pub(crate) struct Docker;

impl Docker {
    pub(crate) fn prepare(place: &Place) -> anyhow::Result<Option<Docker>> {
        let mut info = Command::new("docker");
        info.arg("info");
        let answers = Process::start_silent(info).is_ok_and(|info| info.succeed().is_ok());
        if !answers {
            return Ok(None);
        }
        let mut import = Command::new("docker");
        import.args(["import", "-", IMAGE]).stdout(Stdio::null());
        place.pack_image_into(import)?;
        Ok(Some(Docker))
    }

    /// Runs one container of the image.
    pub(crate) fn run(&self, command: &[&str]) -> Command {
        let mut run = Command::new("docker");
        run.args(["run", "--rm", "-i", IMAGE]).args(command);
        run
    }

    /// Runs a pipeline of containers of the image.
    pub(crate) fn pipeline(&self, stages: &[&str]) -> Command {
        let run = |stage: &&str| format!("docker run --rm -i {IMAGE} {stage}");
        let stages: Vec<_> = stages.iter().map(run).collect();
        let mut command = Command::new("sh");
        command.arg("-c").arg(stages.join(" | "));
        command
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        let mut remove = Command::new("docker");
        remove.args(["image", "rm", IMAGE]);
        let removed = Process::start_silent(remove).and_then(Process::succeed);
        if removed.is_err() {
            eprintln!(
                "bench: failed to remove the image {IMAGE} from docker; remove it with `docker image rm {IMAGE}`"
            );
        }
    }
}
