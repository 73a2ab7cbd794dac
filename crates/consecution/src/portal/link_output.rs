//! The stream between two calls: carries one link's output to the next link. The same
//! adapter is used before the first link, where the caller writes, and behind the last
//! link, where the caller reads.
//!
//! - It holds back an end-of-file until the run confirms it.
//! - If the call that writes it is repeated, the new output is compared with the bytes
//!   that were already delivered, and these are skipped.
//! - If the call that reads it is repeated, it reads from the beginning.
//!
//! The last two need the beginning of the stream. One copy of it is [`Kept`] for both,
//! while it is small and a call may still be repeated. All of this happens when the reader
//! polls for the next chunk: there is no task here, and no other buffer.
//!
//! Locks: a stream polls its writer while it is locked, and may then lock the stream
//! before it. No stream locks one behind it, so there is no deadlock.

use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use futures_util::stream::{Stream, StreamExt};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::kept::{Differs, Kept};
use crate::pipe::Writer;
use crate::transport::{Body, Chunks, Cut, MovedChunk};

/// A stream with one writing and one reading call at a time. Clones share the stream.
#[derive(Clone)]
pub(super) struct LinkOutput(Arc<Mutex<State>>);

struct State {
    source: Source,
    /// The present writer is the last one: no repeated call will write this stream.
    is_final: bool,
    /// The run's decision on the end, if it came before the end was reached.
    end: Option<End>,
    /// Why the stream broke off, if it did.
    broken: Option<Cut>,
    /// The bytes delivered so far, while they may be needed again.
    kept: Kept,
    /// How many bytes of `kept` the present reader has got.
    given: usize,
    /// How many bytes of `kept` the present writer has written.
    repeated: usize,
    /// The call that reads this stream may be repeated.
    is_for_reader: bool,
    /// If the call that writes this stream may be repeated: that call's input, because a
    /// repeat is possible only while this can be read again.
    for_writer: Option<LinkOutput>,
    /// More bytes were delivered than `kept` can hold, so a repeat cannot be compared.
    is_too_large: bool,
    /// A repeated call has written other bytes than before.
    differs: bool,
    /// The number of the present reader. Earlier readers get a cut.
    turn: u32,
    /// The reader is gone.
    is_unread: bool,
    /// The waker of the reader, while it waits.
    waker: Waker,
    /// Notified of changes that the run may have to act on.
    news: Arc<Notify>,
}

/// The source of the bytes behind the kept ones.
enum Source {
    /// No call writes now: the call, or its repeat, has not been accepted yet.
    Awaited,
    Writing(Body),
    /// The writer has ended, or broke off with this cut. The run has not decided yet what
    /// this end means.
    Held(Option<Cut>),
    Over(Result<(), Cut>),
}

/// The run's decision on the end of a link's output.
#[derive(Debug, Clone)]
pub(super) enum End {
    /// The output is complete.
    Complete,
    /// The output is not complete, because the link failed.
    Failed(Cut),
    /// The output is not complete, although the link has not failed.
    Broken(Cut),
}

impl LinkOutput {
    /// A stream for a link's output. `is_for_reader` says whether the call that reads it
    /// may be repeated.
    pub(super) fn new(is_for_reader: bool, news: &Arc<Notify>) -> LinkOutput {
        LinkOutput(Arc::new(Mutex::new(State {
            source: Source::Awaited,
            is_final: false,
            end: None,
            broken: None,
            kept: Kept::default(),
            given: 0,
            repeated: 0,
            is_for_reader,
            for_writer: None,
            is_too_large: false,
            differs: false,
            turn: 0,
            is_unread: false,
            waker: Waker::noop().clone(),
            news: Arc::clone(news),
        })))
    }

    /// A stream for the caller's input, whose end needs no confirmation.
    pub(super) fn of_caller(body: Body, is_for_reader: bool, news: &Arc<Notify>) -> LinkOutput {
        let output = LinkOutput::new(is_for_reader, news);
        output.write(body, None);
        output.end(End::Complete);
        output
    }

    /// Sets the writer: the output of an accepted call, from the beginning. The call may
    /// be repeated while `input`, which it reads, can be read again.
    pub(super) fn write(&self, body: Body, input: Option<&LinkOutput>) {
        let state = &mut *self.0.lock();
        let is_wanted = !state.is_unread || state.is_for_reader;
        if !is_wanted || matches!(state.source, Source::Over(_)) {
            return;
        }
        state.source = Source::Writing(body);
        state.for_writer = input.cloned();
        state.repeated = 0;
        state.waker.wake_by_ref();
    }

    /// The writing call was lost and will be repeated: delivers nothing more of its output.
    pub(super) fn await_writer(&self) {
        let state = &mut *self.0.lock();
        if !matches!(state.source, Source::Over(_)) {
            state.source = Source::Awaited;
        }
    }

    /// A new reader, from the start of the stream; the reader before it gets a cut. After
    /// the first, request a reader only while the stream
    /// [can be read again](Self::can_be_read_again).
    pub(super) fn reader(&self) -> Body {
        Body::of(self.reader_with(None))
    }

    /// The reader for the caller. It holds `run`: the run is aborted when the last holder
    /// drops that.
    pub(super) fn for_caller(&self, run: Arc<Stop>) -> Body {
        Body::of(self.reader_with(Some(run)))
    }

    fn reader_with(&self, of_caller: Option<Arc<Stop>>) -> Reader {
        let mut state = self.0.lock();
        state.turn += 1;
        state.given = 0;
        state.is_unread = false;
        state.waker.wake_by_ref();
        Reader {
            output: self.clone(),
            turn: state.turn,
            of_caller,
            is_over: false,
        }
    }

    /// Whether the stream can be read from the beginning again.
    pub(super) fn can_be_read_again(&self) -> bool {
        self.0.lock().is_for_reader
    }

    /// Whether the stream is known to be incomplete: then reading it again is useless.
    pub(super) fn is_cut(&self) -> bool {
        matches!(self.0.lock().source, Source::Over(Err(_)))
    }

    /// Whether too many bytes were delivered to repeat the writing call.
    pub(super) fn is_too_large(&self) -> bool {
        self.0.lock().is_too_large
    }

    /// Whether a repeated call has written other bytes than before.
    pub(super) fn differs(&self) -> bool {
        self.0.lock().differs
    }

    /// Why the stream broke off, if it did.
    pub(super) fn broken(&self) -> Option<Cut> {
        self.0.lock().broken.clone()
    }

    /// Whether the reader is gone and no other one will come.
    pub(super) fn is_unread(&self) -> bool {
        let state = self.0.lock();
        state.is_unread && !state.is_for_reader
    }

    /// Whether nothing more of the present writer's output will be read.
    pub(super) fn is_drained(&self) -> bool {
        let state = self.0.lock();
        state.is_unread || matches!(state.source, Source::Held(_) | Source::Over(_))
    }

    /// The reading call will not be repeated.
    pub(super) fn settle_reader(&self) {
        self.0.lock().settle_reader();
    }

    /// The writing call will not be repeated.
    pub(super) fn settle_writer(&self) {
        self.0.lock().settle_writer();
    }

    /// Decides what the end of the present writer's output means for the stream.
    pub(super) fn end(&self, end: End) {
        let state = &mut *self.0.lock();
        state.end.get_or_insert(end);
        state.settle_writer();
    }

    /// Closes the stream, whatever its reader does: the writer learns that nobody reads,
    /// and the reader gets `cut` instead of an end.
    pub(super) fn close(&self, cut: Cut) {
        self.0.lock().close(cut);
    }
}

impl State {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Cut>>> {
        loop {
            if let Some(chunk) = self.kept.get(self.given) {
                self.given += chunk.len();
                return Poll::Ready(Some(Ok(chunk)));
            }
            let chunk = match &mut self.source {
                Source::Over(end) => return Poll::Ready(end.clone().err().map(Err)),
                Source::Writing(body) => body.poll_next_unpin(context),
                Source::Awaited | Source::Held(_) => Poll::Pending,
            };
            let Poll::Ready(chunk) = chunk else {
                self.waker.clone_from(context.waker());
                return Poll::Pending;
            };
            match chunk.map(|chunk| chunk.map(|chunk| self.pass(chunk))) {
                Some(Ok(Ok(chunk))) if chunk.is_empty() => {}
                Some(Ok(Ok(chunk))) => return Poll::Ready(Some(Ok(chunk))),
                Some(Ok(Err(Differs))) => self.differ(),
                Some(Err(cut)) => self.ended(Some(cut)),
                None => self.ended(None),
            }
        }
    }

    /// The part of a chunk that is new, to be delivered.
    fn pass(&mut self, chunk: Bytes) -> Result<Bytes, Differs> {
        let chunk = self.kept.pass(&mut self.repeated, chunk)?;
        if !chunk.is_empty() {
            self.keep(&chunk);
        }
        Ok(chunk)
    }

    /// Keeps a copy of what the reader gets, while it may be needed and there is room.
    fn keep(&mut self, chunk: &[u8]) {
        let is_for_writer = self.is_for_writer();
        if (is_for_writer || self.is_for_reader) && self.kept.push(chunk) {
            self.given += chunk.len();
            self.repeated += chunk.len();
            return;
        }
        if let Some(input) = self.for_writer.take()
            && is_for_writer
        {
            self.is_too_large = true;
            input.settle_reader();
        }
        self.is_for_reader = false;
        (self.kept, self.given, self.repeated) = Default::default();
    }

    /// Whether the writing call may be repeated.
    fn is_for_writer(&self) -> bool {
        let input = self.for_writer.as_ref();
        input.is_some_and(LinkOutput::can_be_read_again)
    }

    /// The writer has ended, or broke off with `cut`.
    fn ended(&mut self, cut: Option<Cut>) {
        if self.is_final && cut.is_none() && self.repeated < self.kept.bytes() {
            return self.differ();
        }
        if self.is_final {
            self.broken.clone_from(&cut);
        }
        let over = match (self.end.take(), cut) {
            (None, cut) => {
                self.source = Source::Held(cut);
                return self.news.notify_one();
            }
            (Some(_), Some(cut)) => Err(cut),
            (Some(End::Complete), None) => Ok(()),
            (Some(End::Failed(cut)), None) => Err(cut),
            (Some(End::Broken(cut)), None) => {
                self.broken = Some(cut.clone());
                Err(cut)
            }
        };
        if over.is_err() {
            self.news.notify_one();
        }
        self.source = Source::Over(over);
    }

    fn settle_writer(&mut self) {
        self.for_writer = None;
        self.is_final = true;
        match mem::replace(&mut self.source, Source::Held(None)) {
            Source::Held(cut) => self.ended(cut),
            Source::Awaited => {
                // No call will write this again, so nothing is left to compare.
                self.repeated = self.kept.bytes();
                self.ended(None);
            }
            source => self.source = source,
        }
        self.waker.wake_by_ref();
    }

    fn differ(&mut self) {
        self.differs = true;
        self.close(Cut::new("its runner was lost"));
    }

    fn settle_reader(&mut self) {
        self.is_for_reader = false;
        if self.is_unread {
            self.close(Cut::new(UNREAD));
        }
    }

    fn close(&mut self, cut: Cut) {
        (self.kept, self.given, self.repeated) = Default::default();
        self.is_for_reader = false;
        self.for_writer = None;
        // Also if the end was reached: a later reader may not have come that far.
        if !matches!(self.source, Source::Over(Err(_))) {
            self.source = Source::Over(Err(cut));
        }
        self.waker.wake_by_ref();
        self.news.notify_one();
    }
}

/// The reason that the writer of a stream gets when the stream has no reader.
const UNREAD: &str = "nobody reads it any more";

/// Stops a run when it is dropped.
pub(super) struct Stop(pub(super) AbortHandle);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A reader of a stream. It reads until a later reader takes over.
struct Reader {
    output: LinkOutput,
    turn: u32,
    of_caller: Option<Arc<Stop>>,
    /// This reader has returned a cut.
    is_over: bool,
}

impl Stream for Reader {
    type Item = Result<Bytes, Cut>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let reader = &mut *self;
        if reader.is_over {
            return Poll::Ready(None);
        }
        let mut state = reader.output.0.lock();
        if state.turn != reader.turn {
            return Poll::Ready(Some(Err(Cut::new("the call was made again"))));
        }
        let chunk = ready!(state.poll(context));
        reader.is_over = reader.of_caller.is_some() && matches!(chunk, Some(Err(_)));
        Poll::Ready(chunk)
    }
}

impl Chunks for Reader {
    /// Moves bytes within the kernel. Bytes that must be kept or compared are read instead.
    fn poll_move(self: Pin<&mut Self>, to: &Writer, context: &mut Context<'_>) -> Poll<MovedChunk> {
        let state = &mut *self.output.0.lock();
        let is_kept = state.is_for_reader || state.is_for_writer() || state.kept.bytes() > 0;
        let Source::Writing(body) = &mut state.source else {
            return Poll::Ready(MovedChunk::NotHere);
        };
        if is_kept || state.turn != self.turn {
            return Poll::Ready(MovedChunk::NotHere);
        }
        let moved = body.poll_move(to, context);
        if moved.is_pending() {
            state.waker.clone_from(context.waker());
        }
        moved
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut state = self.output.0.lock();
        if state.turn != self.turn {
            return;
        }
        state.is_unread = true;
        if !state.is_for_reader {
            state.close(Cut::new(UNREAD));
        }
    }
}

#[cfg(test)]
mod tests;
