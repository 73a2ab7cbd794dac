//! What a chain writes before its reply may begin, and the way from a run to its
//! reply.
//!
//! Most clients, and proxies, read nothing of a reply while they send, or send
//! nothing once they read. So what comes early waits here: in memory, then in a
//! file that has no name and is gone with whoever holds it. All calls share one
//! [`Room`], of which no call gets more than half of what the others leave. A call
//! that finds no room goes on chunk by chunk, at its reader's pace.
//!
//! A run pushes at its own pace, in a task of its own; nothing here blocks one.

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

/// How much a call may add to what waits once its reply has begun. What its
/// processes and the network still hold then goes there, so that the run can end,
/// and only that: from then on the client's pace is the run's.
const AHEAD_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// How much is read of a file at a time.
const READ_BYTES: u64 = 128 * 1024;

/// How a run ended, for its reply.
#[derive(Debug, Clone)]
pub(super) enum End {
    Succeeded(Report),
    Failed(ChainError),
    /// Its output was cut off although no link failed, or what had been kept of it
    /// could not be read.
    Broken(Cut),
}

/// What to do with a chunk that is pushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// The reply has not begun: it waits for as long as there is room.
    Spooling,
    /// The reply has begun, and what had come by then is still being read: so many
    /// bytes may go behind it.
    Ahead(u64),
    /// One chunk is handed over at a time.
    Direct,
}

struct State {
    mode: Mode,
    /// What comes first.
    memory: ChunkQueue,
    /// What comes then: between these two places.
    file: Option<Arc<File>>,
    file_read: u64,
    file_written: u64,
    /// What comes last.
    direct: Option<Bytes>,
    end: Option<End>,
    own: Used,
    bytes: u64,
    /// There was no room.
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

/// Where a run puts what it writes.
pub(super) struct Writer(Arc<Shared>);

/// Where its reply takes that from. Dropping it gives all room back.
pub(super) struct Reader {
    shared: Arc<Shared>,
    reading: Option<JoinHandle<io::Result<Bytes>>>,
}

/// Nobody reads any more.
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

/// What comes next.
#[derive(Debug)]
pub(super) enum Next {
    Chunk(Bytes),
    End(End),
}

/// From a run to its reply.
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

    /// So many bytes were added.
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
    /// Where the next bytes may wait; `None` where they are handed over.
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

    /// Nothing waits here from now on.
    fn go_direct(&self, state: &mut State) {
        if state.mode == Mode::Spooling {
            state.is_full = true;
            self.room.full.inc();
            self.news.notify_one();
        }
        state.mode = Mode::Direct;
    }

    /// Gives up all that waits.
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
    /// Puts a chunk where it can be read, and waits where there is no room for it.
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

    /// Writes into the file, elsewhere, since it blocks; false if that fails.
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

    /// Waits until the chunk before was taken.
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

    /// Nothing more comes, for this reason.
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
    /// Why the reply may begin, once it may. For one who waits.
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

    /// The reply begins.
    pub(super) fn begin(&self) {
        let state = &mut *self.shared.state.lock();
        if state.mode == Mode::Spooling {
            state.mode = Mode::Ahead(AHEAD_BYTES_MAX);
        }
    }

    /// How the run ended, if it has and that was not read.
    pub(super) fn end(&self) -> Option<End> {
        self.shared.state.lock().end.clone()
    }

    /// How many bytes there have been.
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

    /// That was read of the file.
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

/// Closes a file elsewhere, since that blocks for as long as it takes to give back
/// what it has on the disk.
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
