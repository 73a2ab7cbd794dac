//! The chain of `examples/words`, which every contender can run: as a chain, as a pipeline of
//! a shell, or as a script behind a server.

use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::ensure;

use crate::process::Process;

pub(crate) const CHAIN: &str = "examples/words/chain.yaml";
pub(crate) const STAGES: [&str; 3] = ["cat", "grep data", "xargs -n 1"];
pub(crate) const INPUT: &[u8] = b"this is raw data\n";
pub(crate) const OUTPUT: &[u8] = b"this\nis\nraw\ndata\n";

/// How long a command takes to turn the input into the output.
pub(crate) fn once(mut command: Command) -> anyhow::Result<Duration> {
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
