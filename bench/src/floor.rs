//! The least that running programs can cost: `vfork` and `exec`, pipes, a wait,
//! and nothing else.
//!
//! It does not go through [`Process`](crate::process::Process), whose care is no
//! part of that floor. What is started here ends with its input.

use std::io::{Read, Write, pipe};
use std::process::{Child, Command, Stdio};

use anyhow::ensure;

use crate::place::Place;

/// Runs a pipeline of busybox' commands without a shell: feeds it, reads what it
/// writes into `output`, and reaps all of it.
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
        // The command has our ends of these pipes until it is dropped.
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
