//! Standard input and output as streams.
//!
//! They may be anything: terminals, files, pipes that others share. So they are
//! never switched to non-blocking, which would switch them for everybody, but
//! served by a thread each.

use std::fs::File;
use std::io::{self, Write};
use std::thread::JoinHandle;

use bytes::Bytes;
use consecution::transport::{Body, Cut};
use rustix::fd::{AsFd, OwnedFd};
use tokio::sync::mpsc;

/// How much is read at a time: what a pipe holds by default.
const CHUNK_BYTES: usize = 64 * 1024;

/// How many chunks wait between a thread and the rest, at most.
const CHUNKS_WAITING_MAX: usize = 2;

/// Standard input, read as it is asked for.
pub(crate) fn input() -> io::Result<Body> {
    let stdin = io::stdin().as_fd().try_clone_to_owned()?;
    let (sender, receiver) = mpsc::channel(CHUNKS_WAITING_MAX);
    std::thread::Builder::new()
        .name("stdin".to_owned())
        .spawn(move || read(&stdin, &sender))?;
    Ok(Body::new(futures_util::stream::unfold(
        receiver,
        |mut receiver| async { receiver.recv().await.map(|chunk| (chunk, receiver)) },
    )))
}

fn read(stdin: &OwnedFd, sender: &mpsc::Sender<Result<Bytes, Cut>>) {
    loop {
        let mut chunk = Vec::with_capacity(CHUNK_BYTES);
        match rustix::io::read(stdin, rustix::buffer::spare_capacity(&mut chunk)) {
            Ok(0) => return,
            // Nobody wants more of it: the process may end while we wait.
            Ok(_) if sender.blocking_send(Ok(chunk.into())).is_err() => return,
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => {
                // Somebody else has made it non-blocking.
                let mut wanted = [rustix::event::PollFd::new(
                    stdin,
                    rustix::event::PollFlags::IN,
                )];
                let _ = rustix::event::poll(&mut wanted, None);
            }
            Err(error) => {
                let error = io::Error::from(error);
                let _ =
                    sender.blocking_send(Err(Cut::new(format!("read standard input: {error}"))));
                return;
            }
        }
    }
}

/// A thread that writes what it is sent, in that order.
pub(crate) struct Output {
    sender: mpsc::Sender<Bytes>,
    writing: JoinHandle<io::Result<()>>,
}

impl Output {
    /// One that writes to `file`, a copy of which is made.
    pub(crate) fn start(name: &str, file: impl AsFd) -> io::Result<Output> {
        let mut file = File::from(file.as_fd().try_clone_to_owned()?);
        let (sender, mut receiver) = mpsc::channel::<Bytes>(CHUNKS_WAITING_MAX);
        let writing = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                while let Some(chunk) = receiver.blocking_recv() {
                    file.write_all(&chunk)?;
                }
                Ok(())
            })?;
        Ok(Output { sender, writing })
    }

    /// Where to send what is to be written. It is closed when writing fails.
    pub(crate) fn sender(&self) -> mpsc::Sender<Bytes> {
        self.sender.clone()
    }

    /// Waits until all is written, which needs all senders to be gone; says what
    /// went wrong on the way.
    pub(crate) fn finish(self) -> io::Result<()> {
        drop(self.sender);
        self.writing
            .join()
            .unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))
    }
}
