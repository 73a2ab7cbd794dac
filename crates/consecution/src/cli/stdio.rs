//! Standard input and output as streams.
//!
//! They may be terminals, files, or pipes that other processes share. Switching them to
//! non-blocking would switch them for all of these processes. So a thread for each
//! moves the bytes between it and a pipe of our own: within the kernel (`splice`) if
//! possible.

use std::io;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use crate::pipe::{CHUNK_BYTES, MOVED_BYTES_MAX, Writer, widen};
use crate::transport::{Body, Cut};
use anyhow::{Context, ensure};
use bytes::Bytes;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{FileType, Stat, fstat};
use rustix::io::Errno;
use rustix::pipe::{SpliceFlags, splice};
use tokio::sync::mpsc;

/// Most chunks of standard error that wait for the thread that writes them.
const CHUNKS_WAITING_MAX: usize = 2;

/// Fails if standard input or output is closed. Checked before anything runs, so that a
/// chain's input or output is never lost silently.
pub(crate) fn check_open() -> anyhow::Result<()> {
    ensure!(
        !sandbox::standard_input_was_closed(),
        "{CLOSED_INPUT}; give it /dev/null where there is nothing to read"
    );
    ensure!(
        !sandbox::standard_output_was_closed(),
        "{CLOSED_OUTPUT}; give it /dev/null where nobody is to read it"
    );
    Ok(())
}

const CLOSED_INPUT: &str = "failed to read standard input: it is closed";
const CLOSED_OUTPUT: &str = "failed to write to standard output: it is closed";

/// A copy of standard input.
pub(crate) fn standard_input() -> anyhow::Result<OwnedFd> {
    ensure!(!sandbox::standard_input_was_closed(), "{CLOSED_INPUT}");
    Ok(io::stdin().as_fd().try_clone_to_owned()?)
}

/// A copy of standard output.
fn standard_output() -> anyhow::Result<OwnedFd> {
    ensure!(!sandbox::standard_output_was_closed(), "{CLOSED_OUTPUT}");
    Ok(io::stdout().as_fd().try_clone_to_owned()?)
}

/// Writes all bytes to standard output.
///
/// The standard library reports success where standard output is closed (EBADF); this
/// reports an error. A reader that stops early (EPIPE, as with `| head`) is no error.
pub(crate) fn print(bytes: &[u8]) -> anyhow::Result<()> {
    match write_all(&standard_output()?, bytes) {
        Ok(()) | Err(Errno::PIPE) => Ok(()),
        Err(error) => Err(io::Error::from(error)).context(WRITING),
    }
}

/// The context of errors in writing to standard output.
pub(crate) const WRITING: &str = "failed to write to standard output";

/// Standard input as a body, read on demand.
pub(crate) fn input() -> anyhow::Result<Body> {
    let stdin = standard_input()?;
    let (ours, theirs) = io::pipe()?;
    let failure = Arc::new(OnceLock::new());
    let failed = Arc::clone(&failure);
    let theirs = OwnedFd::from(theirs);
    thread("stdin", move || {
        // This thread may block here for ever if nobody reads the pipe any more; the
        // process ends without it.
        if let Err(Failed::From(error)) = pump(&stdin, &theirs) {
            let _ = failed.set(error);
        }
        // Close the pipe only after a read error was reported: its reader must not take
        // the end for end-of-file.
        drop(theirs);
    })?;
    let judge = move || match failure.get() {
        Some(error) => Err(Cut::new(format!("read standard input: {error}"))),
        None => Ok(()),
    };
    Ok(Body::of_pipe(ours, judge)?)
}

/// Standard output, written by a thread as fast as its reader reads.
pub(crate) struct Output {
    /// The pipe to write to. Its reading end closes when writing to standard output
    /// fails.
    pub(crate) pipe: Writer,
    writing: JoinHandle<io::Result<()>>,
}

impl Output {
    /// Starts to write to a copy of standard output.
    pub(crate) fn start() -> anyhow::Result<Output> {
        let stdout = standard_output()?;
        let (theirs, ours) = io::pipe()?;
        let theirs = OwnedFd::from(theirs);
        let writing = thread("stdout", move || match pump(&theirs, &stdout) {
            Ok(()) => Ok(()),
            Err(Failed::From(error) | Failed::To(error)) => Err(error.into()),
        })?;
        let pipe = Writer::new(ours)?;
        Ok(Output { pipe, writing })
    }

    /// Waits until everything is written; returns the first error.
    pub(crate) fn finish(self) -> io::Result<()> {
        drop(self.pipe);
        self.writing
            .join()
            .unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))
    }
}

/// Standard error, written by a thread, for the links' standard error.
pub(crate) struct Errors {
    sender: mpsc::Sender<Bytes>,
    writing: JoinHandle<()>,
}

impl Errors {
    /// Starts to write to a copy of standard error.
    pub(crate) fn start() -> io::Result<Errors> {
        let stderr = io::stderr().as_fd().try_clone_to_owned()?;
        let (sender, mut receiver) = mpsc::channel::<Bytes>(CHUNKS_WAITING_MAX);
        let writing = thread("stderr", move || {
            while let Some(chunk) = receiver.blocking_recv() {
                // Standard error may be closed: then there is nowhere to print.
                if write_all(&stderr, &chunk).is_err() {
                    return;
                }
            }
        })?;
        Ok(Errors { sender, writing })
    }

    /// A channel for the bytes to write. It closes when writing fails.
    pub(crate) fn sender(&self) -> mpsc::Sender<Bytes> {
        self.sender.clone()
    }

    /// Waits until everything is written, which requires that all senders were dropped.
    pub(crate) fn finish(self) {
        drop(self.sender);
        // The thread does not panic.
        let _ = self.writing.join();
    }
}

fn thread<T: Send + 'static>(
    name: &str,
    run: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(run)
}

/// The end at which a pump failed.
enum Failed {
    From(Errno),
    To(Errno),
}

/// Moves bytes until end-of-file. Copies them if the kernel cannot move them, as from
/// some devices. One of the two ends is a pipe of our own, in blocking mode.
fn pump(from: &OwnedFd, to: &OwnedFd) -> Result<(), Failed> {
    // splice(2) determines the position in a file before it waits for data. Others may
    // write there meanwhile, as in `> file 2>&1`, and would be overwritten.
    if is_regular_file(to) {
        return copy(from, to);
    }
    // A larger pipe for large streams, so that reader and writer wait less often.
    let mut is_wide = false;
    loop {
        match splice(from, None, to, None, MOVED_BYTES_MAX, SpliceFlags::MOVE) {
            Ok(0) => return Ok(()),
            Ok(bytes) if bytes >= CHUNK_BYTES && !is_wide => {
                widen(from);
                widen(to);
                is_wide = true;
            }
            Ok(_) | Err(Errno::INTR) => {}
            // Another process has switched the shared end to non-blocking.
            Err(Errno::AGAIN) => wait(from, to),
            Err(Errno::INVAL) => return copy(from, to),
            Err(Errno::PIPE) => return Err(Failed::To(Errno::PIPE)),
            // The error does not say which end it is about; copying finds out.
            Err(_) => return copy(from, to),
        }
    }
}

fn is_regular_file(end: &OwnedFd) -> bool {
    let is_regular = |found: Stat| FileType::from_raw_mode(found.st_mode).is_file();
    fstat(end).is_ok_and(is_regular)
}

fn copy(from: &OwnedFd, to: &OwnedFd) -> Result<(), Failed> {
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        match rustix::io::read(from, &mut chunk) {
            Ok(0) => return Ok(()),
            Ok(bytes) => write_all(to, &chunk[..bytes]).map_err(Failed::To)?,
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => wait_for(from, PollFlags::IN),
            Err(error) => return Err(Failed::From(error)),
        }
    }
}

fn write_all(to: &OwnedFd, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::io::write(to, bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => wait_for(to, PollFlags::OUT),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Waits until one end can be read, and then until the other can be written.
fn wait(from: &OwnedFd, to: &OwnedFd) {
    wait_for(from, PollFlags::IN);
    wait_for(to, PollFlags::OUT);
}

fn wait_for(end: &OwnedFd, what: PollFlags) {
    let mut wanted = [PollFd::new(end, what)];
    let _ = poll(&mut wanted, None);
}
