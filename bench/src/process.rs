//! The processes that the bench starts; none of them outlives it.
//!
//! Each leads a process group of its own. So a shell's pipeline can be killed as a whole, and
//! signals from the terminal reach the bench alone.

use std::collections::BTreeSet;
use std::io;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

/// How long a process may take to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(5);

/// Interval of checks whether a process has ended.
const GLANCE: Duration = Duration::from_millis(5);

/// The processes that were started and not reaped yet.
static ALL: Mutex<Started> = Mutex::new(Started {
    pids: BTreeSet::new(),
    is_over: false,
});

struct Started {
    pids: BTreeSet<i32>,
    /// No more processes may be started.
    is_over: bool,
}

fn all() -> MutexGuard<'static, Started> {
    // Nothing that runs under the lock can leave it half-changed.
    ALL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A started process; killed when dropped.
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

    /// Like `start`, without input or output.
    pub(crate) fn start_silent(mut command: Command) -> anyhow::Result<Process> {
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(Stdio::null());
        Process::start(command)
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Its standard input, if that is a pipe.
    pub(crate) fn input(&mut self) -> anyhow::Result<ChildStdin> {
        self.child.stdin.take().context("standard input is no pipe")
    }

    /// Its standard output, if that is a pipe.
    pub(crate) fn output(&mut self) -> anyhow::Result<ChildStdout> {
        let output = self.child.stdout.take();
        output.context("standard output is no pipe")
    }

    pub(crate) fn has_ended(&self) -> bool {
        has_ended(self.pid())
    }

    /// Waits until it exits; fails unless it exits with 0.
    pub(crate) fn succeed(mut self) -> anyhow::Result<()> {
        match self.reap().with_context(|| self.failed("wait for"))? {
            status if status.success() => Ok(()),
            status => bail!("{} ended with {status}", self.name),
        }
    }

    fn failed(&self, what: &str) -> String {
        format!("failed to {what} {}", self.name)
    }

    /// Reaps the process. Waits without the lock; but the process id is removed from [`ALL`]
    /// under the lock before the kernel may give it to another process.
    fn reap(&mut self) -> io::Result<ExitStatus> {
        let waiting = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        // This fails if the process was reaped already; then `wait` below returns its status.
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

/// Ends all started processes, and lets no more start.
pub(crate) fn stop_all() {
    let mut all = all();
    all.is_over = true;
    // Under the lock, so that none of them is reaped, and its id reused, meanwhile.
    let pids: Vec<Pid> = all
        .pids
        .iter()
        .filter_map(|&pid| Pid::from_raw(pid))
        .collect();
    end(&pids);
}

/// Sends SIGTERM to process groups, and SIGKILL if they do not end in time.
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

/// Whether a child has ended; does not reap it.
fn has_ended(pid: Pid) -> bool {
    let looking = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
    !matches!(waitid(WaitId::Pid(pid), looking), Ok(None))
}
