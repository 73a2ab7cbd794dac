//! The least that running programs can cost: `vfork`, `exec`, pipes and a wait.
//!
//! It does without [`Process`](crate::process::Process), whose cost must not count. The
//! processes end by themselves with their input.

use std::io::{self, PipeReader, PipeWriter, Read, Write, pipe};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;

use anyhow::{anyhow, ensure};

use crate::place::Place;

/// Runs a pipeline of busybox commands without a shell: feeds it, reads its output into
/// `output`, and reaps all processes.
pub(crate) fn run(
    place: &Place,
    stages: &[&str],
    input: &[u8],
    output: &mut Vec<u8>,
) -> anyhow::Result<()> {
    let (reader, mut writer) = pipe()?;
    let mut children: Vec<Child> = Vec::with_capacity(stages.len());
    let mut reader = stages.iter().try_fold(reader, |before, stage| {
        let (reader, after) = pipe()?;
        // Dropping the command closes our ends of these pipes.
        let mut command = Command::new(&place.busybox);
        command.args(stage.split(' '));
        command.stdin(before).stdout(after).stderr(Stdio::inherit());
        children.push(command.spawn()?);
        anyhow::Ok(reader)
    })?;
    writer.write_all(input)?;
    drop(writer);
    output.clear();
    reader.read_to_end(output)?;
    for mut child in children {
        let status = child.wait()?;
        ensure!(status.success(), "a command of busybox ended with {status}");
    }
    Ok(())
}

/// A pipeline of busybox commands that were started ahead and wait for their input. It is the
/// least that keeps the promise of Consecution: a stage gets its end-of-file only when the
/// stage before it has exited with 0, from a thread that waits for that.
pub(crate) struct Warm {
    input: PipeWriter,
    output: PipeReader,
    waiting: Vec<JoinHandle<io::Result<ExitStatus>>>,
}

impl Warm {
    /// Starts all processes.
    pub(crate) fn start(place: &Place, stages: &[&str]) -> anyhow::Result<Warm> {
        let (mut reader, input) = pipe()?;
        let mut waiting = Vec::with_capacity(stages.len());
        for stage in stages {
            let (after, writer) = pipe()?;
            let kept = writer.try_clone()?;
            let mut command = Command::new(&place.busybox);
            command.args(stage.split(' '));
            command
                .stdin(reader)
                .stdout(writer)
                .stderr(Stdio::inherit());
            let mut child = command.spawn()?;
            waiting.push(std::thread::spawn(move || {
                let status = child.wait();
                if status.as_ref().is_ok_and(ExitStatus::success) {
                    drop(kept);
                }
                status
            }));
            reader = after;
        }
        Ok(Warm {
            input,
            output: reader,
            waiting,
        })
    }

    /// Feeds the pipeline, reads its output into `output`, and reaps all processes.
    pub(crate) fn run(mut self, input: &[u8], output: &mut Vec<u8>) -> anyhow::Result<()> {
        self.input.write_all(input)?;
        drop(self.input);
        output.clear();
        self.output.read_to_end(output)?;
        for waiting in self.waiting {
            let status = waiting
                .join()
                .map_err(|_| anyhow!("a waiting thread has panicked"))??;
            ensure!(status.success(), "a command of busybox ended with {status}");
        }
        Ok(())
    }
}
