//! Starts sealed processes as a runner does, without the runner.

use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::AsRawFd;

use anyhow::{Context, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use sandbox::{
    Event, Ids, Input, Launcher, Limits, Network, Process, Spec, Stdio, WaitStatus, Zygote,
};

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
    is_late: bool,
}

/// What is there before a call.
pub(super) struct Ready {
    process: Process,
    /// Its ends of the pipes, if it is not executed yet.
    waiting: Option<Stdio>,
    stdin: PipeWriter,
    stdout: PipeReader,
}

impl Sealed {
    pub(super) fn open(place: &Place) -> anyhow::Result<Sealed> {
        Sealed::open_with(place, Input::Pipe)
    }

    /// For calls whose input is stored in a file before the command is executed.
    pub(super) fn open_late(place: &Place) -> anyhow::Result<Sealed> {
        Sealed::open_with(place, Input::File("/tmp/in".to_owned()))
    }

    fn open_with(place: &Place, input: Input) -> anyhow::Result<Sealed> {
        let spec = Spec {
            root: place.root()?,
            command: vec![format!("/bin/{COMMAND}")],
            environment: Vec::new(),
            takes_strings: false,
            working_directory: "/".to_owned(),
            user: String::new(),
            files: Vec::new(),
            data: Vec::new(),
            writable: sandbox::Writable::Private,
            scratch_bytes: sandbox::SCRATCH_BYTES_DEFAULT,
            input,
            output: sandbox::Output::Pipe,
            network: Network::Loopback,
            hostname: "bench".to_owned(),
            ids: Ids::detect(),
        };
        let is_late = spec.input != Input::Pipe;
        let launcher = Launcher::with_program(&place.program);
        let zygote = launcher.open(&spec, Limits::default());
        Ok(Sealed {
            zygote: zygote.context("failed to open a zygote")?,
            is_late,
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

    /// Makes ready what a runner has in reserve: a process, or its place.
    pub(super) fn ready(&self) -> anyhow::Result<Ready> {
        let (stdin_theirs, stdin) = io::pipe()?;
        let (stdout, stdout_theirs) = io::pipe()?;
        let (_stderr, stderr_theirs) = io::pipe()?;
        let stdio = Stdio {
            stdin: stdin_theirs.into(),
            stdout: stdout_theirs.into(),
            stderr: stderr_theirs.into(),
        };
        let (mut process, waiting) = match self.is_late {
            true => (self.zygote.prepare()?, Some(stdio)),
            false => (self.zygote.start(stdio)?, None),
        };
        match next_event(&mut process)? {
            Event::Prepared | Event::Started => {}
            event => bail!("a process that should be ready says {event:?}"),
        }
        Ok(Ready {
            process,
            waiting,
            stdin,
            stdout,
        })
    }

    /// Feeds it, or stores its input and executes it; reads its output, and waits for its end.
    pub(super) fn call(
        &self,
        ready: Ready,
        input: &[u8],
        output: &mut Vec<u8>,
    ) -> anyhow::Result<()> {
        let Ready {
            mut process,
            waiting,
            mut stdin,
            mut stdout,
        } = ready;
        if let Some(stdio) = waiting {
            let file = process
                .take_input()
                .context("there is no file for its input")?;
            let path = format!("/proc/self/fd/{}", file.as_raw_fd());
            let reading = File::open(path)?;
            File::from(file).write_all(input)?;
            let stdin = reading.into();
            process.execute(Stdio { stdin, ..stdio }, None, None)?;
            match next_event(&mut process)? {
                Event::Started => {}
                event => bail!("a process that should start says {event:?}"),
            }
        } else {
            stdin.write_all(input)?;
        }
        drop(stdin);
        output.clear();
        stdout.read_to_end(output)?;
        match next_event(&mut process)? {
            Event::Exited(WaitStatus::Exited(0)) => Ok(()),
            event => bail!("a process that should end says {event:?}"),
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
