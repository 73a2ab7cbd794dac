//! Starts sealed processes as a runner does, without the runner.

use std::io::{self, Read, Write};

use anyhow::{Context, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use sandbox::{Event, Ids, Launcher, Limits, Network, Process, Spec, Stdio, WaitStatus, Zygote};

use super::COMMAND;
use crate::place::Place;

/// How long to wait for each event of a process.
const WAIT_MAX: Timespec = Timespec {
    tv_sec: 10,
    tv_nsec: 0,
};

/// A zygote.
pub(super) struct Sealed {
    zygote: Zygote,
}

impl Sealed {
    pub(super) fn open(place: &Place) -> anyhow::Result<Sealed> {
        let spec = Spec {
            root: place.root()?,
            command: vec![format!("/bin/{COMMAND}")],
            environment: Vec::new(),
            working_directory: "/".to_owned(),
            user: String::new(),
            writable: false,
            scratch_bytes: sandbox::SCRATCH_BYTES_DEFAULT,
            network: Network::None,
            hostname: "bench".to_owned(),
            ids: Ids::detect(),
        };
        let launcher = Launcher::with_program(&place.program);
        let zygote = launcher.open(&spec, Limits::default());
        Ok(Sealed {
            zygote: zygote.context("failed to open a zygote")?,
        })
    }

    /// Starts a process, feeds it, reads its output, and waits for its end.
    pub(super) fn run(&self, input: &[u8], output: &mut Vec<u8>) -> anyhow::Result<()> {
        self.start(input, output).map(drop)
    }

    /// The same, and waits until its init is gone too, which a runner does not do.
    pub(super) fn run_until_gone(&self, input: &[u8], output: &mut Vec<u8>) -> anyhow::Result<()> {
        let mut process = self.start(input, output)?;
        match next_event(&mut process)? {
            Event::Gone => Ok(()),
            event => bail!("a process that has ended says {event:?}"),
        }
    }

    fn start(&self, input: &[u8], output: &mut Vec<u8>) -> anyhow::Result<Process> {
        let (stdin_theirs, mut stdin) = io::pipe()?;
        let (mut stdout, stdout_theirs) = io::pipe()?;
        let (_stderr, stderr_theirs) = io::pipe()?;
        let mut process = self.zygote.start(Stdio {
            stdin: stdin_theirs.into(),
            stdout: stdout_theirs.into(),
            stderr: stderr_theirs.into(),
        })?;
        match next_event(&mut process)? {
            Event::Started => {}
            Event::Failed(step, errno) => bail!("failed to {}", self.zygote.explain(step, errno)),
            event => bail!("a process that should start says {event:?}"),
        }
        stdin.write_all(input)?;
        drop(stdin);
        output.clear();
        stdout.read_to_end(output)?;
        match next_event(&mut process)? {
            Event::Exited(WaitStatus::Exited(0)) => Ok(process),
            event => bail!("a process that should end says {event:?}"),
        }
    }
}

fn next_event(process: &mut Process) -> anyhow::Result<Event> {
    loop {
        if let Some(event) = process.next_event()? {
            return Ok(event);
        }
        let mut wanted = [PollFd::new(&*process, PollFlags::IN)];
        if poll(&mut wanted, Some(&WAIT_MAX))? == 0 {
            bail!("a process does not answer");
        }
    }
}
