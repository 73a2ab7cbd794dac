//! From one pipe to another one within the kernel: bytes change their owner, and
//! are not copied.

use std::io;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::AsFd;
use rustix::pipe::{SpliceFlags, fcntl_getpipe_size, fcntl_setpipe_size};
use tokio::net::unix::pipe;

/// How much is moved at a time, so that others get their turn.
const MOVED_BYTES_MAX: usize = 1024 * 1024;

/// What came of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moved {
    /// So many bytes; 0: there will be no more.
    Bytes(usize),
    /// Nobody reads the other pipe any more.
    Unread,
}

/// Waits for the next bytes and for room, and moves them. Nothing is lost when
/// it is given up.
///
/// # Errors
/// The first pipe cannot be read.
pub(super) async fn next(from: &pipe::Receiver, to: &pipe::Sender) -> io::Result<Moved> {
    loop {
        from.readable().await?;
        // "Try again" does not say which of the two has to be waited for.
        let mut is_full = false;
        let moved = from.try_io(|| match splice(from, to) {
            Err(rustix::io::Errno::AGAIN) if is_ready(from, PollFlags::IN) => {
                is_full = true;
                Ok(Moved::Bytes(0))
            }
            Err(rustix::io::Errno::PIPE) => Ok(Moved::Unread),
            moved => Ok(Moved::Bytes(moved?)),
        });
        match moved {
            Ok(_) if is_full => until_there_is_room(to).await?,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            moved => return moved,
        }
    }
}

async fn until_there_is_room(to: &pipe::Sender) -> io::Result<()> {
    let looked = to.try_io(|| match is_ready(to, PollFlags::OUT) {
        true => Ok(()),
        false => Err(io::ErrorKind::WouldBlock.into()),
    });
    match looked {
        // What the runtime knew was out of date, and it has forgotten it.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => to.writable().await,
        looked => looked,
    }
}

fn splice(from: &pipe::Receiver, to: &pipe::Sender) -> rustix::io::Result<usize> {
    let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
    rustix::pipe::splice(from, None, to, None, MOVED_BYTES_MAX, flags)
}

/// Whether there is something to read, or room to write, now.
pub(super) fn is_ready(descriptor: impl AsFd, what: PollFlags) -> bool {
    let mut wanted = [PollFd::new(&descriptor, what)];
    let at_once = Timespec::default();
    poll(&mut wanted, Some(&at_once)).is_ok_and(|ready| ready > 0)
}

/// How wide a pipe is made that a lot goes through.
pub(super) const WIDE_BYTES: usize = 512 * 1024;

/// How much has to go through it before that is worth a system call, and the
/// memory.
const WIDE_AFTER_BYTES: usize = 256 * 1024;

/// How much has gone through a pipe.
#[derive(Debug, Default)]
pub(super) struct Flow(usize);

impl Flow {
    /// So much more has. Once it is a lot, the pipe is made so large that who is
    /// at its two ends need not take turns all the time. It is a matter of speed:
    /// where the kernel refuses, the pipe stays as it is.
    pub(super) fn add(&mut self, bytes: usize, pipe: impl AsFd) {
        if self.is_wide() {
            return;
        }
        self.0 += bytes;
        if self.is_wide() && fcntl_getpipe_size(&pipe).is_ok_and(|size| size < WIDE_BYTES) {
            let _ = fcntl_setpipe_size(&pipe, WIDE_BYTES);
        }
    }

    /// Whether it is a lot.
    pub(super) fn is_wide(&self) -> bool {
        self.0 >= WIDE_AFTER_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::io::{PipeReader, PipeWriter, Read, Write};
    use std::pin::pin;
    use std::task::Poll;

    /// Somebody who writes to a pipe, and another pipe that somebody reads.
    fn pipes() -> (PipeWriter, pipe::Receiver, pipe::Sender, PipeReader) {
        let (from, writer) = io::pipe().unwrap();
        let (reader, to) = io::pipe().unwrap();
        let from = pipe::Receiver::from_owned_fd(from.into()).unwrap();
        let to = pipe::Sender::from_owned_fd(to.into()).unwrap();
        (writer, from, to, reader)
    }

    /// Whether it waits.
    async fn waits(step: impl Future) -> bool {
        let mut step = pin!(step);
        poll_fn(|context| Poll::Ready(step.as_mut().poll(context).is_pending())).await
    }

    #[tokio::test]
    async fn bytes_are_moved_and_then_an_end_is_seen() {
        let (mut writer, from, to, mut reader) = pipes();
        assert!(waits(next(&from, &to)).await);
        writer.write_all(b"some").unwrap();
        assert_eq!(next(&from, &to).await.unwrap(), Moved::Bytes(4));
        let mut moved = [0; 4];
        reader.read_exact(&mut moved).unwrap();
        assert_eq!(&moved, b"some");
        drop(writer);
        assert_eq!(next(&from, &to).await.unwrap(), Moved::Bytes(0));
    }

    #[tokio::test]
    async fn a_full_pipe_is_waited_for() {
        let (mut writer, from, to, mut reader) = pipes();
        let mut moved = 0;
        loop {
            writer.write_all(&[b'x'; 4096]).unwrap();
            let step = tokio::time::timeout(std::time::Duration::from_millis(50), next(&from, &to));
            match step.await {
                Ok(Ok(Moved::Bytes(bytes))) => moved += bytes,
                Ok(other) => panic!("{other:?}"),
                Err(_) => break,
            }
        }
        assert!(moved >= 4096, "{moved} bytes");
        let mut read = vec![0; moved];
        reader.read_exact(&mut read).unwrap();
        assert_eq!(next(&from, &to).await.unwrap(), Moved::Bytes(4096));
    }

    #[tokio::test]
    async fn a_reader_that_is_gone_is_no_failure_of_the_first_pipe() {
        let (mut writer, from, to, reader) = pipes();
        drop(reader);
        writer.write_all(b"some").unwrap();
        assert_eq!(next(&from, &to).await.unwrap(), Moved::Unread);
    }

    #[test]
    fn a_pipe_is_made_wider_once_a_lot_has_gone_through() {
        let (reader, _writer) = io::pipe().unwrap();
        let before = fcntl_getpipe_size(&reader).unwrap();
        let mut flow = Flow::default();
        flow.add(WIDE_AFTER_BYTES - 1, &reader);
        assert_eq!(fcntl_getpipe_size(&reader).unwrap(), before);
        flow.add(1, &reader);
        assert_eq!(fcntl_getpipe_size(&reader).unwrap(), WIDE_BYTES);
    }
}
