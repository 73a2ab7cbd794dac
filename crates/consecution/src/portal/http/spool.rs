//! Carries the output of a run to its reply, and buffers what comes before the reply may
//! begin.
//!
//! Most clients and proxies read nothing of a reply while they send, or send nothing once they
//! read. So early output waits here: in memory, then in a file without a name, which is gone
//! when it is closed. All calls share one [`Room`]; no call gets more than half of what the
//! others leave. A call without room continues chunk by chunk, at its reader's pace.
//!
//! A run pushes its output in a task of its own. Files are written and read on blocking
//! threads.

mod room;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::{JoinHandle, spawn_blocking};

pub(super) use room::Room;
pub use room::{BYTES_MAX_DEFAULT, SpoolOptions};

use self::room::{Place, Used};
use crate::chunk_queue::ChunkQueue;
use crate::portal::{ChainError, Report};
use crate::transport::Cut;

/// How much a call may still add once its reply has begun: what its processes and the network
/// hold at that time, so that the run can end. After that, the run has the client's pace.
const AHEAD_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// How much to read of a file at a time.
const READ_BYTES: u64 = 128 * 1024;

/// How a run ended, for its reply.
#[derive(Debug, Clone)]
pub(super) enum End {
    Succeeded(Report),
    Failed(ChainError),
    /// Its output was cut off although no link failed, or the spooled output could not be
    /// read.
    Broken(Cut),
}

/// Where a pushed chunk goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Into the spool while there is room: the reply has not begun.
    Spooling,
    /// Into the spool, at most so many bytes more: the reply has begun, and its spooled output
    /// is still being read.
    Ahead(u64),
    /// Directly to the reply, one chunk at a time.
    Direct,
}

struct State {
    mode: Mode,
    /// The first bytes.
    memory: ChunkQueue,
    /// The file with the bytes behind those.
    file: Option<Arc<File>>,
    /// How much of the file was read, and written.
    file_read: u64,
    file_written: u64,
    /// A chunk that goes directly to the reply, behind all spooled bytes.
    direct: Option<Bytes>,
    end: Option<End>,
    own: Used,
    bytes: u64,
    /// Whether a chunk found no room.
    is_full: bool,
    is_unread: bool,
    reader: Option<Waker>,
}

struct Shared {
    room: Arc<Room>,
    state: Mutex<State>,
    /// The direct chunk was taken, or nothing more will be.
    taken: Notify,
    /// The run is over, or the room is full.
    news: Notify,
}

/// The end for the run, which pushes its output.
pub(super) struct Writer(Arc<Shared>);

/// The end for the reply, which reads it. Dropping it frees the room.
pub(super) struct Reader {
    shared: Arc<Shared>,
    reading: Option<JoinHandle<io::Result<Bytes>>>,
}

/// The reader is gone.
#[derive(Debug)]
pub(super) struct Unread;

/// Why a reply may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum News {
    /// The run has ended.
    Over,
    /// There is no more room.
    Full,
}

/// The next item for the reply.
#[derive(Debug)]
pub(super) enum Next {
    Chunk(Bytes),
    End(End),
}

/// Makes the two ends for a call.
pub(super) fn pipe(room: &Arc<Room>, mode: Mode) -> (Writer, Reader) {
    let shared = Arc::new(Shared {
        room: Arc::clone(room),
        state: Mutex::new(State {
            mode,
            memory: ChunkQueue::default(),
            file: None,
            file_read: 0,
            file_written: 0,
            direct: None,
            end: None,
            own: Used::default(),
            bytes: 0,
            is_full: false,
            is_unread: false,
            reader: None,
        }),
        taken: Notify::new(),
        news: Notify::new(),
    });
    let reader = Reader {
        shared: Arc::clone(&shared),
        reading: None,
    };
    (Writer(shared), reader)
}

impl State {
    fn is_behind_file(&self) -> bool {
        self.file_read < self.file_written
    }

    /// So many bytes were spooled.
    fn added(&mut self, bytes: u64) {
        self.bytes += bytes;
        self.wake();
    }

    fn wake(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

impl Shared {
    /// Where the next bytes have room; `None` if they go directly to the reply.
    fn place(&self, state: &mut State, bytes: u64) -> Option<Place> {
        let is_behind_file = state.is_behind_file();
        let is_read = state.memory.is_empty() && !is_behind_file;
        let place = match state.mode {
            Mode::Spooling => self.room.take(&mut state.own, bytes, is_behind_file),
            Mode::Ahead(left) if bytes <= left && !is_read => {
                state.mode = Mode::Ahead(left - bytes);
                self.room.take(&mut state.own, bytes, is_behind_file)
            }
            Mode::Ahead(_) | Mode::Direct => None,
        };
        if place.is_none() {
            self.go_direct(state);
        }
        place
    }

    /// From now on, chunks go directly to the reply.
    fn go_direct(&self, state: &mut State) {
        if state.mode == Mode::Spooling {
            state.is_full = true;
            self.room.full.inc();
            self.news.notify_one();
        }
        state.mode = Mode::Direct;
    }

    /// Drops all spooled output.
    fn close(&self) {
        let state = &mut *self.state.lock();
        state.is_unread = true;
        state.memory = ChunkQueue::default();
        discard(state.file.take());
        state.direct = None;
        let own = state.own;
        self.room.give_back(&mut state.own, own);
        self.taken.notify_one();
    }
}

impl Writer {
    /// Pushes a chunk; waits if there is no room for it.
    pub(super) async fn push(&self, chunk: Bytes) -> Result<(), Unread> {
        let bytes = chunk.len() as u64;
        let place = {
            let state = &mut *self.0.state.lock();
            if state.is_unread {
                return Err(Unread);
            }
            let place = self.0.place(state, bytes);
            if place == Some(Place::Memory) {
                state.memory.push(chunk.clone());
                state.added(bytes);
            }
            place
        };
        match place {
            Some(Place::Memory) => Ok(()),
            Some(Place::File) => match self.write(chunk.clone()).await? {
                true => Ok(()),
                false => self.hand_over(chunk).await,
            },
            None => self.hand_over(chunk).await,
        }
    }

    /// Writes into the file, on a blocking thread; returns false if that fails.
    async fn write(&self, chunk: Bytes) -> Result<bool, Unread> {
        let bytes = chunk.len() as u64;
        let (file, at) = {
            let state = self.0.state.lock();
            (state.file.clone(), state.file_written)
        };
        let room = Arc::clone(&self.0.room);
        let written = spawn_blocking(move || room.write(file, &chunk, at)).await;
        let written = written.unwrap_or_else(|error| Err(io::Error::other(error)));
        self.0.room.wrote(written.as_ref().err());
        let state = &mut *self.0.state.lock();
        if state.is_unread {
            discard(written.ok());
            return Err(Unread);
        }
        let Ok(file) = written else {
            let given = Used {
                file: bytes,
                ..Used::default()
            };
            self.0.room.give_back(&mut state.own, given);
            self.0.go_direct(state);
            return Ok(false);
        };
        state.file = Some(file);
        state.file_written += bytes;
        state.added(bytes);
        Ok(true)
    }

    /// Waits until the last direct chunk was taken.
    async fn hand_over(&self, chunk: Bytes) -> Result<(), Unread> {
        loop {
            {
                let state = &mut *self.0.state.lock();
                if state.is_unread {
                    return Err(Unread);
                }
                if state.direct.is_none() {
                    let bytes = chunk.len() as u64;
                    state.direct = Some(chunk);
                    state.added(bytes);
                    return Ok(());
                }
            }
            self.0.taken.notified().await;
        }
    }

    /// Ends the output, for this reason.
    pub(super) fn end(&self, end: End) {
        let state = &mut *self.0.state.lock();
        state.end.get_or_insert(end);
        state.wake();
        self.0.news.notify_one();
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.end(End::Broken(Cut::new("its run was given up")));
    }
}

impl Reader {
    /// Resolves with the reason once the reply may begin. For one waiter.
    pub(super) async fn news(&self) -> News {
        loop {
            {
                let state = self.shared.state.lock();
                if state.end.is_some() {
                    return News::Over;
                }
                if state.is_full {
                    return News::Full;
                }
            }
            self.shared.news.notified().await;
        }
    }

    /// The reply begins now.
    pub(super) fn begin(&self) {
        let state = &mut *self.shared.state.lock();
        if state.mode == Mode::Spooling {
            state.mode = Mode::Ahead(AHEAD_BYTES_MAX);
        }
    }

    /// How the run ended, if it has ended and the reply has not read that yet.
    pub(super) fn end(&self) -> Option<End> {
        self.shared.state.lock().end.clone()
    }

    /// How many bytes the run has written so far.
    pub(super) fn bytes(&self) -> u64 {
        self.shared.state.lock().bytes
    }

    pub(super) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Next> {
        loop {
            if let Some(reading) = &mut self.reading {
                let read = ready!(Pin::new(reading).poll(context));
                self.reading = None;
                return Poll::Ready(
                    self.read(read.unwrap_or_else(|error| Err(io::Error::other(error)))),
                );
            }
            let state = &mut *self.shared.state.lock();
            if let Some(chunk) = state.memory.pop(usize::MAX) {
                let given = Used {
                    memory: chunk.len() as u64,
                    ..Used::default()
                };
                self.shared.room.give_back(&mut state.own, given);
                return Poll::Ready(Next::Chunk(chunk));
            }
            if state.is_behind_file()
                && let Some(file) = state.file.clone()
            {
                let (at, left) = (state.file_read, state.file_written - state.file_read);
                self.reading = Some(spawn_blocking(move || read_file(&file, at, left)));
                continue;
            }
            if let Some(chunk) = state.direct.take() {
                self.shared.taken.notify_one();
                return Poll::Ready(Next::Chunk(chunk));
            }
            if let Some(end) = state.end.take() {
                return Poll::Ready(Next::End(end));
            }
            state.reader = Some(context.waker().clone());
            return Poll::Pending;
        }
    }

    /// These bytes were read from the file.
    fn read(&mut self, read: io::Result<Bytes>) -> Next {
        match read {
            Ok(chunk) => {
                self.shared.state.lock().file_read += chunk.len() as u64;
                Next::Chunk(chunk)
            }
            Err(error) => {
                let what = format!("read the spool: {error}");
                tracing::error!("failed to {what}");
                Next::End(End::Broken(Cut::new(what)))
            }
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.shared.close();
    }
}

/// Closes a file on a blocking thread, because freeing its blocks on the disk takes time.
fn discard(file: Option<Arc<File>>) {
    if let (Some(file), Ok(runtime)) = (file, Handle::try_current()) {
        runtime.spawn_blocking(move || drop(file));
    }
}

fn read_file(file: &File, at: u64, left: u64) -> io::Result<Bytes> {
    let mut bytes = vec![0; left.min(READ_BYTES) as usize];
    file.read_exact_at(&mut bytes, at)?;
    Ok(bytes.into())
}

#[cfg(test)]
mod tests;
