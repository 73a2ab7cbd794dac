//! Whether a process sleeps, with all that it has started: `/proc` tells.
//!
//! The kernel counts how often each thread has been taken off a processor. If all threads
//! sleep at two looks and no count has changed, none has run in between, not even for a
//! microsecond.

use std::fs;
use std::io;
use std::os::fd::RawFd;

use crate::process_tree::id_of;

/// The most threads that a look reads. More than that count as awake: a look at each
/// takes some 50 µs.
const THREADS_MAX: usize = 256;

/// Looks at a process from outside. Holds no descriptor of its own: use it only while its
/// process is there. A look at one that is gone may find anything, but harms nothing.
#[derive(Debug, Clone, Copy)]
pub struct Observer {
    /// The pidfd of the process's init.
    pidfd: RawFd,
}

/// What a look at a process finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Activity {
    /// A thread runs, or waits for a disk, or a process has just begun or ended.
    Awake,
    /// All threads sleep. Equal to an earlier one if no thread has run since.
    Asleep(Vec<Thread>),
    /// This kernel does not tell (`CONFIG_PROC_CHILDREN`), or hides processes of others
    /// (`hidepid`).
    Unknown,
}

/// A thread that sleeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thread {
    id: u32,
    /// How often it has been taken off a processor.
    switches: u64,
}

impl Observer {
    pub(crate) fn new(pidfd: RawFd) -> Observer {
        Observer { pidfd }
    }

    /// Looks at the process. Blocks for a moment: some 100 µs for a process with one thread,
    /// 15 ms at most.
    pub fn look(&self) -> Activity {
        match id_of(self.pidfd) {
            Some(init) => of_descendants(init),
            None => Activity::Unknown,
        }
    }
}

/// Looks at all descendants of a process, and not at itself.
fn of_descendants(ancestor: u32) -> Activity {
    let Ok(mut processes) = children(ancestor, ancestor) else {
        return Activity::Unknown;
    };
    let mut threads = Vec::new();
    while let Some(process) = processes.pop() {
        match of_process(process, &mut threads, &mut processes) {
            Ok(true) if threads.len() <= THREADS_MAX => {}
            Ok(_) => return Activity::Awake,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Activity::Unknown;
            }
            // It has ended meanwhile, so something has happened.
            Err(_) => return Activity::Awake,
        }
    }
    Activity::Asleep(threads)
}

/// Whether all threads of a process sleep. Adds them to `threads`, and the process's
/// children to `processes`.
fn of_process(
    process: u32,
    threads: &mut Vec<Thread>,
    processes: &mut Vec<u32>,
) -> io::Result<bool> {
    for entry in fs::read_dir(format!("/proc/{process}/task"))? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(id) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let status = fs::read_to_string(entry.path().join("status"))?;
        let Some(switches) = switches_of_sleeper(&status) else {
            return Ok(false);
        };
        threads.push(Thread { id, switches });
        if threads.len() > THREADS_MAX {
            return Ok(false);
        }
        processes.extend(children(process, id)?);
    }
    Ok(true)
}

/// The processes that a thread has started and that are still there.
fn children(process: u32, thread: u32) -> io::Result<Vec<u32>> {
    let path = format!("/proc/{process}/task/{thread}/children");
    let children = fs::read_to_string(path)?;
    Ok(children
        .split_ascii_whitespace()
        .filter_map(|id| id.parse().ok())
        .collect())
}

/// How often a thread has been taken off a processor, by its `status`; `None` if it does not
/// sleep. One that has ended, or was stopped by a signal, does nothing either.
fn switches_of_sleeper(status: &str) -> Option<u64> {
    let value = |key| status.lines().find_map(|line| line.strip_prefix(key));
    let state = value("State:")?.trim_start().chars().next()?;
    let is_asleep = matches!(state, 'S' | 'Z' | 'X' | 'T' | 't');
    let count = |key| -> Option<u64> { value(key)?.trim().parse().ok() };
    let voluntary = count("voluntary_ctxt_switches:")?;
    let switches = voluntary + count("nonvoluntary_ctxt_switches:")?;
    is_asleep.then_some(switches)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::process::{Child, Command, Stdio};
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn a_status_tells_whether_a_thread_sleeps_and_how_often_it_has_run() {
        let status = |state| {
            format!(
                "Name:\tcat State: R\nState:\t{state}\nThreads:\t1\n\
                 voluntary_ctxt_switches:\t7\nnonvoluntary_ctxt_switches:\t3\n"
            )
        };
        assert_eq!(switches_of_sleeper(&status("S (sleeping)")), Some(10));
        assert_eq!(switches_of_sleeper(&status("Z (zombie)")), Some(10));
        assert_eq!(switches_of_sleeper(&status("R (running)")), None);
        assert_eq!(switches_of_sleeper(&status("D (disk sleep)")), None);
        assert_eq!(switches_of_sleeper(""), None);
    }

    /// A shell that runs this in a process of its own.
    fn run(script: &str) -> Child {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", &format!("{script}; exit 0")]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        command.spawn().unwrap()
    }

    fn until<T>(mut found: impl FnMut() -> Option<T>) -> T {
        let give_up = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(found) = found() {
                return found;
            }
            assert!(Instant::now() < give_up, "in vain");
            std::thread::yield_now();
        }
    }

    fn asleep(process: &Child) -> Vec<Thread> {
        until(|| match of_descendants(process.id()) {
            Activity::Asleep(threads) if !threads.is_empty() => Some(threads),
            _ => None,
        })
    }

    #[test]
    fn what_sleeps_is_the_same_at_each_look_until_it_has_run() {
        let mut process = run("cat");
        until(|| {
            let before = asleep(&process);
            (before == asleep(&process)).then_some(())
        });
        let before = asleep(&process);
        process.stdin.as_mut().unwrap().write_all(b"x").unwrap();
        let mut written = [0];
        let stdout = process.stdout.as_mut().unwrap();
        stdout.read_exact(&mut written).unwrap();
        assert_ne!(asleep(&process), before);
        drop(process.stdin.take());
        process.wait().unwrap();
    }

    #[test]
    fn descendants_of_descendants_count() {
        let mut process = run("(cat; exit 0); exit 0");
        until(|| (asleep(&process).len() == 2).then_some(()));
        drop(process.stdin.take());
        process.wait().unwrap();
    }

    #[test]
    fn what_spins_is_awake_though_its_parent_sleeps() {
        let mut process = run("(while :; do :; done & read line; kill $!)");
        let is_awake = || of_descendants(process.id()) == Activity::Awake;
        until(|| (0..100).all(|_| is_awake()).then_some(()));
        process.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        process.wait().unwrap();
    }

    #[test]
    fn of_a_process_that_is_gone_nothing_is_known() {
        let mut process = run("true");
        process.wait().unwrap();
        assert_eq!(of_descendants(process.id()), Activity::Unknown);
        assert_eq!(id_of(-1), None);
    }
}
