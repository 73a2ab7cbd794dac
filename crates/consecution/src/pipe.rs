//! Non-blocking pipes to and from other processes.
//!
//! Bytes in one pipe can be moved into another one within the kernel (`splice`), without
//! copies. So large bodies pass from link to link at the speed of a local pipe.

use std::cell::Cell;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::future::poll_fn;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use rustix::pipe::{SpliceFlags, fcntl_getpipe_size, fcntl_setpipe_size, splice};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// How much to read at a time: what a pipe holds by default.
pub(crate) const CHUNK_BYTES: usize = 64 * 1024;

/// How much to read at a time from a pipe with much data: enough that the cost of a chunk does
/// not matter, and little enough that it stays in the processor's cache.
const WIDE_CHUNK_BYTES: usize = 128 * 1024;

/// The size that a pipe with much data is set to.
const WIDE_BYTES: usize = 512 * 1024;

/// How much must have passed a pipe before that is worth a system call and the memory.
const WIDE_AFTER_BYTES: usize = 256 * 1024;

/// How much to move at a time, so that other tasks get their turn.
pub(crate) const MOVED_BYTES_MAX: usize = 1024 * 1024;

thread_local! {
    /// Room for the next chunk that is read on this thread. A small chunk is copied out of
    /// it: that costs less than room of its own, of which it would hold far more than it is.
    static ROOM: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Reads once, at most so much. Empty at the end.
fn read_chunk(pipe: impl AsFd, bytes_max: usize) -> io::Result<Bytes> {
    let mut room = ROOM.take();
    room.reserve_exact(bytes_max);
    let read = rustix::io::read(pipe, rustix::buffer::spare_capacity(&mut room));
    let is_small = room.len() <= room.capacity() / 2;
    let chunk = match is_small {
        true => Bytes::copy_from_slice(&room),
        false => Bytes::from(std::mem::take(&mut room)),
    };
    room.clear();
    ROOM.set(room);
    read?;
    Ok(chunk)
}

/// The reading end of a pipe.
#[derive(Debug)]
pub(crate) struct Reader(End);

/// The writing end of a pipe.
#[derive(Debug)]
pub(crate) struct Writer(End);

/// The result of moving bytes from pipe to pipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moved {
    /// So many bytes were moved.
    Bytes(usize),
    /// The first pipe has ended.
    End,
    /// The other pipe has no reader any more.
    Unread,
}

/// An end of a pipe, and how many bytes have passed it.
#[derive(Debug)]
struct End {
    descriptor: AsyncFd<OwnedFd>,
    bytes: AtomicUsize,
}

impl End {
    fn new(descriptor: OwnedFd, interest: Interest) -> io::Result<End> {
        rustix::io::ioctl_fionbio(&descriptor, true)?;
        Ok(End {
            descriptor: watch(descriptor, interest)?,
            bytes: AtomicUsize::new(0),
        })
    }

    /// Adds to the bytes that have passed. When enough have, enlarges the pipe, so that writer
    /// and reader need not take turns all the time. If the kernel refuses, only speed is lost.
    fn count(&self, bytes: usize) {
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        if before < WIDE_AFTER_BYTES && self.is_wide() {
            widen(&self.descriptor);
        }
    }

    /// Whether many bytes have passed.
    fn is_wide(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) >= WIDE_AFTER_BYTES
    }
}

#[expect(
    deprecated,
    reason = "what replaces it is unsafe, for types that may swap their descriptor; ours does not"
)]
fn watch(descriptor: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(descriptor, interest)
}

/// Enlarges a pipe; does nothing if it is no pipe, or the kernel refuses.
pub(crate) fn widen(pipe: impl AsFd) {
    if fcntl_getpipe_size(&pipe).is_ok_and(|size| size < WIDE_BYTES) {
        let _ = fcntl_setpipe_size(&pipe, WIDE_BYTES);
    }
}

impl Reader {
    /// Must be called within a tokio runtime.
    ///
    /// # Errors
    /// The descriptor cannot be waited for.
    pub(crate) fn new(pipe: impl Into<OwnedFd>) -> io::Result<Reader> {
        End::new(pipe.into(), Interest::READABLE).map(Reader)
    }

    /// The next chunk; `None` at the end. Cancel-safe.
    ///
    /// # Errors
    /// It cannot be read.
    pub(crate) async fn chunk(&mut self) -> io::Result<Option<Bytes>> {
        poll_fn(|context| self.poll_chunk(context)).await
    }

    /// As [`Reader::chunk`].
    pub(crate) fn poll_chunk(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<Option<Bytes>>> {
        let bytes_max = match self.0.is_wide() {
            true => WIDE_CHUNK_BYTES,
            false => CHUNK_BYTES,
        };
        loop {
            let mut ready = ready!(self.0.descriptor.poll_read_ready(context))?;
            if let Ok(read) = ready.try_io(|pipe| read_chunk(pipe, bytes_max)) {
                let chunk = read?;
                self.0.count(chunk.len());
                return Poll::Ready(Ok((!chunk.is_empty()).then_some(chunk)));
            }
        }
    }

    /// The next chunk, or `None` if the pipe is empty; does not wait. Use this when all writers
    /// are known to be gone, though the runtime may not have noticed their end yet.
    ///
    /// # Errors
    /// It cannot be read.
    pub(crate) fn rest(&mut self) -> io::Result<Option<Bytes>> {
        match read_chunk(self.0.descriptor.get_ref(), CHUNK_BYTES) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            read => read.map(|chunk| (!chunk.is_empty()).then_some(chunk)),
        }
    }

    /// Resolves when there is data or an end to read.
    pub(crate) async fn until_readable(&self) {
        // If waiting fails, reading will fail too, and report it.
        let _ = self.0.descriptor.readable().await;
    }

    /// Whether there is data to read, and not only an end.
    pub(crate) fn holds_bytes(&self) -> bool {
        rustix::io::ioctl_fionread(self.0.descriptor.get_ref()).is_ok_and(|bytes| bytes > 0)
    }

    /// Moves the next bytes into another pipe, once that has room. Cancel-safe.
    ///
    /// # Errors
    /// It cannot be read.
    pub(crate) fn poll_move(
        &mut self,
        to: &Writer,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<Moved>> {
        self.poll_move_up_to(MOVED_BYTES_MAX, to, context)
    }

    /// As [`Reader::poll_move`], but not more than so many bytes, of which there must be one.
    pub(crate) fn poll_move_up_to(
        &mut self,
        bytes_max: usize,
        to: &Writer,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<Moved>> {
        loop {
            let mut ready = ready!(self.0.descriptor.poll_read_ready(context))?;
            // EAGAIN does not tell which of the two pipes to wait for.
            let mut is_full = false;
            let moved = ready.try_io(|from| match splice_some(from, to, bytes_max) {
                Err(Errno::AGAIN) if is_ready(from, PollFlags::IN) => {
                    is_full = true;
                    Ok(Moved::Unread)
                }
                Err(Errno::PIPE) => Ok(Moved::Unread),
                Ok(0) => Ok(Moved::End),
                moved => Ok(Moved::Bytes(moved?)),
            });
            if is_full {
                ready!(to.poll_room(context))?;
                continue;
            }
            if let Ok(moved) = moved {
                if let Ok(Moved::Bytes(bytes)) = moved {
                    self.0.count(bytes);
                    to.0.count(bytes);
                }
                return Poll::Ready(moved);
            }
        }
    }
}

fn splice_some(
    from: &AsyncFd<OwnedFd>,
    to: &Writer,
    bytes_max: usize,
) -> rustix::io::Result<usize> {
    let bytes_max = bytes_max.min(MOVED_BYTES_MAX);
    let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
    let to = &to.0.descriptor;
    rustix::io::retry_on_intr(|| splice(from, None, to, None, bytes_max, flags))
}

impl Writer {
    /// Must be called within a tokio runtime.
    ///
    /// # Errors
    /// The descriptor cannot be waited for.
    pub(crate) fn new(pipe: impl Into<OwnedFd>) -> io::Result<Writer> {
        End::new(pipe.into(), Interest::WRITABLE).map(Writer)
    }

    /// # Errors
    /// Nobody reads it any more.
    pub(crate) async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = self.0.descriptor.async_io(Interest::WRITABLE, |pipe| {
                Ok(rustix::io::retry_on_intr(|| {
                    rustix::io::write(pipe, bytes)
                })?)
            });
            let written = written.await?;
            self.0.count(written);
            bytes = &bytes[written..];
        }
        Ok(())
    }

    /// How many bytes have been written or moved into it.
    pub(crate) fn bytes(&self) -> u64 {
        self.0.bytes.load(Ordering::Relaxed) as u64
    }

    /// Resolves when the pipe has no reader any more.
    pub(crate) async fn until_unread(&self) {
        if self.0.descriptor.ready(Interest::ERROR).await.is_err() {
            std::future::pending().await
        }
    }

    fn poll_room(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut ready = ready!(self.0.descriptor.poll_write_ready(context))?;
            // The readiness that the runtime remembers may be outdated.
            let looked = ready.try_io(|pipe| match is_ready(pipe, PollFlags::OUT) {
                true => Ok(()),
                false => Err(io::ErrorKind::WouldBlock.into()),
            });
            if let Ok(looked) = looked {
                return Poll::Ready(looked);
            }
        }
    }
}

/// How many bytes are in a pipe, given one of its ends.
pub(crate) fn bytes_in(pipe: impl AsFd) -> u64 {
    rustix::io::ioctl_fionread(pipe).unwrap_or(0)
}

/// Whether there is something to read, or room to write, now.
pub(crate) fn is_ready(descriptor: impl AsFd, what: PollFlags) -> bool {
    let mut wanted = [PollFd::new(&descriptor, what)];
    let at_once = Timespec::default();
    poll(&mut wanted, Some(&at_once)).is_ok_and(|ready| ready > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{PipeReader, PipeWriter, Read, Write};
    use std::pin::pin;

    /// Somebody who writes to a pipe, and another pipe that somebody reads.
    fn pipes() -> (PipeWriter, Reader, Writer, PipeReader) {
        let (from, writer) = io::pipe().unwrap();
        let (reader, to) = io::pipe().unwrap();
        (
            writer,
            Reader::new(from).unwrap(),
            Writer::new(to).unwrap(),
            reader,
        )
    }

    async fn next(from: &mut Reader, to: &Writer) -> Moved {
        poll_fn(|context| from.poll_move(to, context))
            .await
            .unwrap()
    }

    /// Whether it waits.
    async fn waits(step: impl Future) -> bool {
        let mut step = pin!(step);
        poll_fn(|context| Poll::Ready(step.as_mut().poll(context).is_pending())).await
    }

    #[tokio::test]
    async fn bytes_are_moved_and_then_an_end_is_seen() {
        let (mut writer, mut from, to, mut reader) = pipes();
        assert!(waits(next(&mut from, &to)).await);
        writer.write_all(b"some").unwrap();
        assert_eq!(next(&mut from, &to).await, Moved::Bytes(4));
        let mut moved = [0; 4];
        reader.read_exact(&mut moved).unwrap();
        assert_eq!(&moved, b"some");
        drop(writer);
        assert_eq!(next(&mut from, &to).await, Moved::End);
    }

    #[tokio::test]
    async fn a_full_pipe_is_waited_for() {
        let (mut writer, mut from, to, mut reader) = pipes();
        let mut filled = 0;
        while let Ok(bytes) = rustix::io::write(&to.0.descriptor, &[b'x'; 4096]) {
            filled += bytes;
        }
        writer.write_all(b"some").unwrap();
        from.until_readable().await;
        assert!(waits(next(&mut from, &to)).await);
        let mut read = vec![0; filled];
        reader.read_exact(&mut read).unwrap();
        assert_eq!(next(&mut from, &to).await, Moved::Bytes(4));
    }

    #[tokio::test]
    async fn a_reader_that_is_gone_is_no_failure_of_the_first_pipe() {
        let (mut writer, mut from, to, reader) = pipes();
        drop(reader);
        to.until_unread().await;
        writer.write_all(b"some").unwrap();
        assert_eq!(next(&mut from, &to).await, Moved::Unread);
    }

    #[tokio::test]
    async fn what_is_written_is_read_again() {
        let (reader, writer) = io::pipe().unwrap();
        let (mut reader, writer) = (Reader::new(reader).unwrap(), Writer::new(writer).unwrap());
        let sent = vec![b'x'; 1 << 20];
        let writing = async {
            writer.write_all(&sent).await.unwrap();
            drop(writer);
        };
        let reading = async {
            let mut read = Vec::new();
            while let Some(chunk) = reader.chunk().await.unwrap() {
                read.extend_from_slice(&chunk);
            }
            read
        };
        let ((), read) = tokio::join!(writing, reading);
        assert!(read == vec![b'x'; 1 << 20]);
    }

    #[tokio::test]
    async fn a_pipe_is_made_wider_once_a_lot_has_gone_through() {
        let (_writer, from, ..) = pipes();
        let size = || fcntl_getpipe_size(&from.0.descriptor).unwrap();
        let before = size();
        from.0.count(WIDE_AFTER_BYTES - 1);
        assert_eq!(size(), before);
        from.0.count(1);
        assert_eq!(size(), WIDE_BYTES);
    }
}
