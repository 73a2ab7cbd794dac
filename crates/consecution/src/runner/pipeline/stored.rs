//! Input that is stored in a file before the command is executed, and output that is
//! read from a file when it is over.
//!
//! The files lie in memory, in the private folders of a process. Of either, no more than a
//! chunk is in this process's own memory at a time.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::{FutureExt, Stream, StreamExt};
use rustix::fs::{Mode, OFlags};
use sandbox::Archiving;
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, spawn_blocking};

use super::allowance::{Allowance, Counted};
use super::output::TOO_MUCH;
use crate::pipe::{CHUNK_BYTES, Reader, Writer};
use crate::transport::{Body, Chunks, Cut, MovedChunk, Next};

/// How much of an input or output is written or read at once, without another thread: it
/// is copied in memory, as into a pipe. What comes after that may have to wait for memory.
const AT_ONCE_BYTES_MAX: u64 = CHUNK_BYTES as u64;

/// How much of a file is read at a time.
const READ_BYTES: usize = 256 * 1024;

/// An input could not be given to its process.
#[derive(Debug)]
pub(super) enum Unfed {
    /// It has broken off.
    Cut,
    /// It could not be stored.
    NotStored(io::Error),
    /// It is no tar that can be unpacked, for this reason.
    NotUnpacked(String),
}

/// Where an input is stored before the command is executed.
#[derive(Debug)]
pub(super) enum Storage {
    File(OwnedFd),
    /// It is a tar, which is unpacked there.
    Folder {
        pipe: Writer,
        unpacking: AsyncFd<Archiving>,
    },
}

impl From<Cut> for Unfed {
    fn from(_: Cut) -> Unfed {
        Unfed::Cut
    }
}

impl From<io::Error> for Unfed {
    fn from(error: io::Error) -> Unfed {
        Unfed::NotStored(error)
    }
}

/// Stores all of an input, and counts its bytes. Returns the standard input of the command
/// that waits for it.
pub(super) async fn store(
    input: Body,
    storage: Storage,
    bytes: &mut Option<u64>,
) -> Result<OwnedFd, Unfed> {
    match storage {
        Storage::File(file) => write(input, file, bytes).await,
        Storage::Folder { pipe, unpacking } => {
            pour(input, &pipe).await?;
            *bytes = Some(pipe.bytes());
            // Its end.
            drop(pipe);
            let over = unpacking.readable().await;
            over.map(drop)?;
            unpacking.get_ref().result().map_err(Unfed::NotUnpacked)?;
            // All that there is to read is in the folder.
            Ok(io::pipe()?.0.into())
        }
    }
}

/// Writes an input to a pipe, until the one or the other ends.
pub(super) async fn pour(mut input: Body, pipe: &Writer) -> Result<(), Cut> {
    loop {
        let next = tokio::select! {
            biased;
            next = input.next_for(pipe) => next?,
            // Its reader has closed it without waiting for more.
            () = pipe.until_unread() => Next::Unread,
        };
        let is_read = match next {
            Next::Moved => true,
            Next::Chunk(chunk) => pipe.write_all(&chunk).await.is_ok(),
            Next::Unread | Next::End => false,
        };
        if !is_read {
            // The input has ended; or the reader reads no more, which is no failure: its
            // exit code decides. Dropping the body tells the sender.
            return Ok(());
        }
    }
}

/// Stores an input in `file`. Returns the file, open for reading from its beginning, and
/// for writing no more.
async fn write(mut input: Body, file: OwnedFd, bytes: &mut Option<u64>) -> Result<OwnedFd, Unfed> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let stdin = rustix::fs::open(path, flags, Mode::empty()).map_err(io::Error::from)?;
    let file = Arc::new(File::from(file));
    let stored = bytes.insert(0);
    while let Some(chunk) = input.next().await.transpose()? {
        *stored += chunk.len() as u64;
        if *stored <= AT_ONCE_BYTES_MAX {
            (&*file).write_all(&chunk)?;
            continue;
        }
        let file = Arc::clone(&file);
        let writing = spawn_blocking(move || (&*file).write_all(&chunk));
        writing.await.map_err(io::Error::other)??;
    }
    Ok(stdin)
}

/// Output that is read from a file, or is a folder's tar, as a body.
pub(super) struct FileOutput {
    state: State,
    /// To say that nobody wants it any more, while it is not there yet.
    hand_back: Option<oneshot::Sender<Option<Reader>>>,
    /// Of a tar: how large a file is, is known before it is read.
    allowance: Allowance,
    counted: Counted,
    /// Dropped when the file is, whose memory it takes.
    _held: oneshot::Sender<()>,
}

enum State {
    /// The process may still run. Nothing comes if it has left no file.
    Awaited(oneshot::Receiver<Source>),
    Packed(Tar),
    Read(OutputFile),
    Reading(OutputFile, JoinHandle<io::Result<Bytes>>),
    Over,
}

/// Where the output comes from.
pub(super) enum Source {
    File(OutputFile),
    Folder(Tar),
}

/// The tar of a folder that a process has left.
pub(super) struct Tar {
    pub(super) pipe: Reader,
    /// Whether all of the folder has been packed.
    pub(super) is_whole: oneshot::Receiver<()>,
    /// Its pipe has ended.
    pub(super) is_read: bool,
}

/// A file that a process has left, which nobody changes any more.
#[derive(Debug)]
pub(super) struct OutputFile {
    file: Arc<File>,
    offset: u64,
    size: u64,
}

impl OutputFile {
    pub(super) fn new(file: OwnedFd) -> io::Result<OutputFile> {
        let file = File::from(file);
        Ok(OutputFile {
            size: file.metadata()?.len(),
            file: Arc::new(file),
            offset: 0,
        })
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    fn rest(&self) -> u64 {
        self.size.saturating_sub(self.offset)
    }
}

/// The other side of a [`FileOutput`], for the task that follows the process.
pub(super) struct FileOutputEnd {
    /// To be sent the file or tar; dropped if there is none.
    pub(super) source: oneshot::Sender<Source>,
    /// Resolves if nobody wants the output any more.
    pub(super) handed_back: oneshot::Receiver<Option<Reader>>,
    /// Resolves when the file is not held any more.
    pub(super) held: oneshot::Receiver<()>,
    /// What has been read of a tar.
    pub(super) counted: Counted,
}

impl FileOutput {
    /// The output as a body, and its other side.
    pub(super) fn body(allowance: Allowance) -> (Body, FileOutputEnd) {
        let (send, file) = oneshot::channel();
        let (hand_back, handed_back) = oneshot::channel();
        let (hold, held) = oneshot::channel();
        let counted = Counted::default();
        let body = Body::of(FileOutput {
            state: State::Awaited(file),
            hand_back: Some(hand_back),
            allowance,
            counted: counted.clone(),
            _held: hold,
        });
        let end = FileOutputEnd {
            source: send,
            handed_back,
            held,
            counted,
        };
        (body, end)
    }
}

fn read_at(file: &File, offset: u64, bytes_max: usize) -> io::Result<Bytes> {
    let mut chunk = Vec::with_capacity(bytes_max);
    let room = rustix::buffer::spare_capacity(&mut chunk);
    rustix::io::pread(file, room, offset)?;
    Ok(chunk.into())
}

impl Stream for FileOutput {
    type Item = Result<Bytes, Cut>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let (read, mut file) = match std::mem::replace(&mut self.state, State::Over) {
                State::Over => return Poll::Ready(None),
                State::Awaited(mut awaited) => {
                    match awaited.poll_unpin(context) {
                        Poll::Ready(Ok(Source::File(file))) => self.state = State::Read(file),
                        Poll::Ready(Ok(Source::Folder(tar))) => self.state = State::Packed(tar),
                        Poll::Ready(Err(_)) => {}
                        Poll::Pending => {
                            self.state = State::Awaited(awaited);
                            return Poll::Pending;
                        }
                    }
                    continue;
                }
                State::Packed(tar) => return self.poll_tar(tar, context),
                State::Read(file) if file.rest() == 0 => return Poll::Ready(None),
                State::Read(file) if file.size <= AT_ONCE_BYTES_MAX => {
                    (read_at(&file.file, file.offset, CHUNK_BYTES), file)
                }
                State::Read(file) => {
                    let (offset, open) = (file.offset, Arc::clone(&file.file));
                    let reading = spawn_blocking(move || read_at(&open, offset, READ_BYTES));
                    self.state = State::Reading(file, reading);
                    continue;
                }
                State::Reading(file, mut reading) => match reading.poll_unpin(context) {
                    Poll::Ready(read) => (
                        read.unwrap_or_else(|error| Err(io::Error::other(error))),
                        file,
                    ),
                    Poll::Pending => {
                        self.state = State::Reading(file, reading);
                        return Poll::Pending;
                    }
                },
            };
            return Poll::Ready(match read {
                Ok(chunk) if chunk.is_empty() => Some(Err(Cut::new("its file became shorter"))),
                Ok(chunk) => {
                    file.offset += chunk.len() as u64;
                    self.state = State::Read(file);
                    Some(Ok(chunk))
                }
                Err(error) => Some(Err(Cut::new(format!("read its output: {error}")))),
            });
        }
    }
}

impl FileOutput {
    fn poll_tar(
        &mut self,
        mut tar: Tar,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Cut>>> {
        if !tar.is_read {
            let mut counted = self.counted.lock();
            match tar.pipe.poll_chunk(context) {
                Poll::Ready(Ok(Some(mut chunk))) => {
                    *counted += chunk.len() as u64;
                    drop(counted);
                    chunk.truncate(self.allowance.take(chunk.len()));
                    if chunk.is_empty() {
                        return Poll::Ready(Some(Err(Cut::new(TOO_MUCH))));
                    }
                    self.state = State::Packed(tar);
                    return Poll::Ready(Some(Ok(chunk)));
                }
                Poll::Ready(Ok(None)) => tar.is_read = true,
                Poll::Ready(Err(error)) => {
                    let cut = Cut::new(format!("read its output: {error}"));
                    return Poll::Ready(Some(Err(cut)));
                }
                Poll::Pending => {}
            }
        }
        if !tar.is_read {
            self.state = State::Packed(tar);
            return Poll::Pending;
        }
        match tar.is_whole.poll_unpin(context) {
            Poll::Ready(Ok(())) => Poll::Ready(None),
            Poll::Ready(Err(_)) => {
                Poll::Ready(Some(Err(Cut::new("its output could not be packed"))))
            }
            Poll::Pending => {
                self.state = State::Packed(tar);
                Poll::Pending
            }
        }
    }
}

impl Chunks for FileOutput {
    fn poll_move(self: Pin<&mut Self>, _: &Writer, _: &mut Context<'_>) -> Poll<MovedChunk> {
        Poll::Ready(MovedChunk::NotHere)
    }
}

impl Drop for FileOutput {
    fn drop(&mut self) {
        if let (State::Awaited(_), Some(hand_back)) = (&self.state, self.hand_back.take()) {
            // Fails only if the process is gone already.
            let _ = hand_back.send(None);
        }
    }
}
