//! A command that runs beside the test, and what it says meanwhile.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};

use super::command::{self, Finished};
use test_support::{PATIENCE, eventually};

/// A command that runs; killed when dropped.
pub(crate) struct Running {
    child: Option<Child>,
    lines: Mutex<Receiver<String>>,
    said: Arc<Mutex<String>>,
}

impl Running {
    /// Starts it.
    pub(crate) fn start(mut command: Command) -> Running {
        let mut child = command
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let said = Arc::default();
        let stderr = child.stderr.take().unwrap();
        Running {
            lines: Mutex::new(lines(stderr, Arc::clone(&said))),
            said,
            child: Some(child),
        }
    }

    /// Waits for a line that has that in it.
    #[track_caller]
    pub(crate) fn await_line(&self, part: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.lock().unwrap().recv_timeout(left) {
                Ok(line) if line.contains(part) => return line,
                Ok(_) => {}
                Err(_) => panic!("no line with {part:?}"),
            }
        }
    }

    /// Waits for a line that has that in it, which may have come before.
    #[track_caller]
    pub(crate) fn until_said(&self, part: &str) -> String {
        eventually(&format!("a line with {part:?}"), || {
            let said = self.said();
            let line = said.lines().find(|line| line.contains(part));
            line.map(str::to_owned)
        })
    }

    /// All lines so far.
    pub(crate) fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    pub(crate) fn process(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(self.child.as_ref().unwrap()), signal).unwrap();
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn end(mut self) -> Finished {
        command::finish_child(self.child.take().unwrap(), PATIENCE)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn lines(stderr: ChildStderr, said: Arc<Mutex<String>>) -> Receiver<String> {
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stderr).lines() {
            let Ok(line) = line else { return };
            eprintln!("{line}");
            said.lock().unwrap().push_str(&format!("{line}\n"));
            let _ = sender.send(line);
        }
    });
    lines
}
