//! Processes that the bench starts, none of which outlives it.
//!
//! Each leads a process group of its own: a shell's pipeline can be ended as a
//! whole, and what is typed at the terminal comes to the bench alone.

use std::collections::BTreeSet;
use std::io;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

/// How long a process may take to end when it is told to.
const GRACE: Duration = Duration::from_secs(5);

/// How often a process is looked at while it ends.
const GLANCE: Duration = Duration::from_millis(5);

/// The processes that have been started and not been reaped.
static ALL: Mutex<Started> = Mutex::new(Started {
    pids: BTreeSet::new(),
    is_over: false,
});

struct Started {
    pids: BTreeSet<i32>,
    /// No more are started.
    is_over: bool,
}

fn all() -> MutexGuard<'static, Started> {
    // Nothing that runs under the lock can leave it half-changed.
    ALL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A process that we have started; ended when dropped.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    name: String,
}

impl Process {
    pub(crate) fn start(mut command: Command) -> anyhow::Result<Process> {
        use std::os::unix::process::CommandExt;
        let name = command.get_program().to_string_lossy().into_owned();
        let mut all = all();
        if all.is_over {
            bail!("the bench is ending");
        }
        command.process_group(0);
        let child = (command.spawn()).with_context(|| format!("failed to start {name}"))?;
        all.pids.insert(Pid::from_child(&child).as_raw_pid());
        Ok(Process { child, name })
    }

    /// As `start`, without input or output.
    pub(crate) fn start_silent(mut command: Command) -> anyhow::Result<Process> {
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(Stdio::null());
        Process::start(command)
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Its standard input, where that was asked for.
    pub(crate) fn input(&mut self) -> anyhow::Result<ChildStdin> {
        self.child.stdin.take().context("standard input is no pipe")
    }

    /// Its standard output, where that was asked for.
    pub(crate) fn output(&mut self) -> anyhow::Result<ChildStdout> {
        let output = self.child.stdout.take();
        output.context("standard output is no pipe")
    }

    pub(crate) fn has_ended(&self) -> bool {
        has_ended(self.pid())
    }

    /// Waits for its end, which must be a success.
    pub(crate) fn succeed(mut self) -> anyhow::Result<()> {
        match self.reap().with_context(|| self.failed("wait for"))? {
            status if status.success() => Ok(()),
            status => bail!("{} ended with {status}", self.name),
        }
    }

    fn failed(&self, what: &str) -> String {
        format!("failed to {what} {}", self.name)
    }

    /// The lock is not held while it waits, and a process id is not free for
    /// others before it is forgotten here.
    fn reap(&mut self) -> io::Result<ExitStatus> {
        let waiting = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        // Fails where it has been reaped; then the next line knows how it ended.
        let _ = waitid(WaitId::Pid(self.pid()), waiting);
        let mut all = all();
        all.pids.remove(&self.pid().as_raw_pid());
        self.child.wait()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let is_unreaped = all().pids.contains(&self.pid().as_raw_pid());
        if is_unreaped {
            end(&[self.pid()]);
            let _ = self.reap();
        }
    }
}

/// Ends all processes that there are, and lets no more begin.
pub(crate) fn stop_all() {
    let mut all = all();
    all.is_over = true;
    // Under the lock: none of them is reaped, and its id given away, meanwhile.
    let pids: Vec<Pid> = all
        .pids
        .iter()
        .filter_map(|&pid| Pid::from_raw(pid))
        .collect();
    end(&pids);
}

/// Tells process groups to end, and makes them.
fn end(leaders: &[Pid]) {
    for &leader in leaders {
        let _ = kill_process_group(leader, Signal::TERM);
    }
    let deadline = Instant::now() + GRACE;
    while Instant::now() < deadline && !leaders.iter().all(|&leader| has_ended(leader)) {
        sleep(GLANCE);
    }
    for &leader in leaders {
        let _ = kill_process_group(leader, Signal::KILL);
    }
}

/// Whether a child has ended. It is not reaped.
fn has_ended(pid: Pid) -> bool {
    let looking = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
    !matches!(waitid(WaitId::Pid(pid), looking), Ok(None))
}
