//! Running the real program, with a bound on every wait.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use test_support::{PATIENCE, is_readable_within};

/// The program that is tested.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_consecution");

/// How long a link that nobody reads any more may take to end by itself. A shorter
/// run cannot have stopped one for being unread.
pub(crate) const UNREAD_WAIT: Duration = Duration::from_millis(250);

/// The program with that `--home`, and nothing of the caller's settings.
pub(crate) fn consecution(home: &Path) -> Command {
    let mut command = Command::new(PROGRAM);
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let is_set_by_us = ["CONSECUTION_", "OTEL_", "TRACE"].iter();
        if is_set_by_us.clone().any(|start| text.starts_with(start)) {
            command.env_remove(&name);
        }
    }
    command.env("CONSECUTION_HOME", home);
    command
}

/// `consecution run` with the shared store.
pub(crate) fn run(chain: &Path) -> Command {
    let mut command = consecution(super::home::shared());
    command.arg("run").arg(chain);
    command
}

/// How a command ended, and what it wrote.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
    pub(crate) elapsed: Duration,
}

impl Finished {
    /// Its exit code; 128 and the signal where one ended it, as in a shell.
    pub(crate) fn code(&self) -> i32 {
        let signal = || 128 + self.status.signal().unwrap_or_default();
        self.status.code().unwrap_or_else(signal)
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap()
    }

    #[track_caller]
    pub(crate) fn expect_success(self) -> Finished {
        self.expect_code(0)
    }

    #[track_caller]
    pub(crate) fn expect_code(self, code: i32) -> Finished {
        assert_eq!(self.code(), code, "stderr: {}", self.stderr);
        self
    }

    #[track_caller]
    pub(crate) fn expect_output(self, stdout: impl AsRef<[u8]>) -> Finished {
        let (found, wanted) = (&self.stdout[..], stdout.as_ref());
        assert!(
            found == wanted,
            "\"{}\" instead of \"{}\"; stderr: {}",
            found.escape_ascii(),
            wanted.escape_ascii(),
            self.stderr
        );
        self
    }

    /// Standard error has all of these.
    #[track_caller]
    pub(crate) fn expect_stderr(self, parts: &[&str]) -> Finished {
        for part in parts {
            assert!(
                self.stderr.contains(part),
                "no {part:?} in stderr: {}",
                self.stderr
            );
        }
        self
    }
}

/// Runs a command to its end with that on its standard input.
#[track_caller]
pub(crate) fn finish(mut command: Command, stdin: &[u8], patience: Duration) -> Finished {
    let started = Instant::now();
    let child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = child.spawn().unwrap();
    let (mut pipe, stdin) = (child.stdin.take().unwrap(), stdin.to_owned());
    // It may read as much or as little as it likes.
    let feeding = std::thread::spawn(move || drop(pipe.write_all(&stdin)));
    let finished = finish_child(child, patience);
    let elapsed = started.elapsed();
    feeding.join().unwrap();
    Finished {
        elapsed,
        ..finished
    }
}

/// Runs a chain in the shared store to its end with that on its standard input.
#[track_caller]
pub(crate) fn run_on(chain: &super::chain::ChainFile, stdin: &[u8]) -> Finished {
    finish(run(chain.path()), stdin, PATIENCE)
}

/// Collects what a child writes to those of its outputs that are pipes, until
/// its end.
#[track_caller]
pub(crate) fn finish_child(mut child: Child, patience: Duration) -> Finished {
    let started = Instant::now();
    let stdout = child.stdout.take().map(collect);
    let stderr = child.stderr.take().map(collect);
    let Some(status) = wait(&mut child, patience) else {
        let _ = child.kill();
        let _ = child.wait();
        let stderr = stderr
            .map(|reader| reader.join().unwrap())
            .unwrap_or_default();
        let stderr = String::from_utf8_lossy(&stderr);
        panic!("still running after {patience:?}; stderr: {stderr}");
    };
    let elapsed = started.elapsed();
    let joined = |reader: Option<JoinHandle<Vec<u8>>>| reader.map(|reader| reader.join().unwrap());
    Finished {
        status,
        stdout: joined(stdout).unwrap_or_default(),
        stderr: String::from_utf8_lossy(&joined(stderr).unwrap_or_default()).into_owned(),
        elapsed,
    }
}

fn collect(mut pipe: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.read_to_end(&mut bytes);
        bytes
    })
}

/// Waits for a child's end, for so long at most.
pub(crate) fn wait(child: &mut Child, patience: Duration) -> Option<ExitStatus> {
    let pid = Pid::from_child(child);
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(pidfd) if !is_readable_within(&pidfd, patience) => None,
        _ => Some(child.wait().unwrap()),
    }
}

/// A file with that in it, opened for reading, that has no name any more.
pub(crate) fn file_with(bytes: &[u8]) -> io::Result<File> {
    use std::io::Seek;
    let mut file = tempfile::tempfile()?;
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file)
}
