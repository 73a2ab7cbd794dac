//! The stream between two calls: what one link writes, as the next one reads it. The
//! same adapter stands before the first link, where the caller writes, and behind the
//! last one, where the caller reads.
//!
//! - It holds back an end until the run says that it is one.
//! - A call that is made again writes behind what the one before it had written: what
//!   it repeats is compared, and left out.
//! - A call that is made again reads from the beginning.
//!
//! The last two need the beginning of the stream, of which one copy is [`Kept`] for both,
//! as long as it is small and there may be another call. The reader does all of that when
//! it asks for the next chunk: there is no task here, and no other buffer.
//!
//! A stream polls what writes it while it is locked, and asks the stream before that one.
//! Nothing here ever asks a stream behind it, so no two wait for each other.

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

/// A stream that one call writes at a time, and one reads. Clones are the same.
#[derive(Clone)]
pub(super) struct LinkOutput(Arc<Mutex<State>>);

struct State {
    source: Source,
    /// No other call will write it.
    is_final: bool,
    /// What the run has said of the end, before that was reached.
    end: Option<End>,
    /// Why it broke off, if it did.
    broken: Option<Cut>,
    /// What has been given on, if it may be needed again.
    kept: Kept,
    /// How much of that the reader has had, and the writer has written again.
    given: usize,
    repeated: usize,
    /// The call that reads it may be made again.
    is_for_reader: bool,
    /// So may the call that writes it, as long as what that reads, which is here, can be
    /// read again.
    for_writer: Option<LinkOutput>,
    /// What was given on is too much to be compared.
    is_too_large: bool,
    /// A call that was made again has written something else.
    differs: bool,
    /// Tells the reader whose turn it is from those before it.
    turn: u32,
    /// The reader is gone.
    is_unread: bool,
    /// The reader's, while it waits.
    waker: Waker,
    /// Told what the run may have to know.
    news: Arc<Notify>,
}

/// What comes behind that which is kept.
enum Source {
    /// No call writes: it has not been taken yet, or not again.
    Awaited,
    Writing(Body),
    /// All has been written, or it broke off like that; what the run says of it is not
    /// known yet.
    Held(Option<Cut>),
    Over(Result<(), Cut>),
}

/// What a run says of the end of what a link has written.
#[derive(Debug, Clone)]
pub(super) enum End {
    /// It is complete.
    Complete,
    /// It is not, since the link failed.
    Failed(Cut),
    /// It is not, though the link has not failed.
    Broken(Cut),
}

impl LinkOutput {
    /// What a link writes. `is_for_reader` says whether the call that reads it may be made
    /// again.
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

    /// What the caller writes, whose end is one.
    pub(super) fn of_caller(body: Body, is_for_reader: bool, news: &Arc<Notify>) -> LinkOutput {
        let output = LinkOutput::new(is_for_reader, news);
        output.write(body, None);
        output.end(End::Complete);
        output
    }

    /// A call has been taken that writes that, from the beginning. It may be made again
    /// while `input`, which it reads, can be read again.
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

    /// The call that writes it was lost, and is made again: of what it has written,
    /// nothing more is given on.
    pub(super) fn await_writer(&self) {
        let state = &mut *self.0.lock();
        if !matches!(state.source, Source::Over(_)) {
            state.source = Source::Awaited;
        }
    }

    /// All of it from the start; the reader before, if there was one, gets a cut. To be
    /// asked for again only while it can be [read again](Self::can_be_read_again).
    pub(super) fn reader(&self) -> Body {
        Body::of(self.reader_with(None))
    }

    /// The same for the caller, which holds the run.
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

    /// Whether it can be read from the beginning once more.
    pub(super) fn can_be_read_again(&self) -> bool {
        self.0.lock().is_for_reader
    }

    /// Whether it is known to be incomplete, so that reading it again is of no use.
    pub(super) fn is_cut(&self) -> bool {
        matches!(self.0.lock().source, Source::Over(Err(_)))
    }

    /// Whether too much has been given on for the call that writes it to be made again.
    pub(super) fn is_too_large(&self) -> bool {
        self.0.lock().is_too_large
    }

    /// Whether a call that was made again has written something else.
    pub(super) fn differs(&self) -> bool {
        self.0.lock().differs
    }

    /// Why it broke off, if it did.
    pub(super) fn broken(&self) -> Option<Cut> {
        self.0.lock().broken.clone()
    }

    /// Whether its reader is gone, and no other one will come.
    pub(super) fn is_unread(&self) -> bool {
        let state = self.0.lock();
        state.is_unread && !state.is_for_reader
    }

    /// Whether nothing more of what is written now will be read.
    pub(super) fn is_drained(&self) -> bool {
        let state = self.0.lock();
        state.is_unread || matches!(state.source, Source::Held(_) | Source::Over(_))
    }

    /// The call that reads it will not be made again.
    pub(super) fn settle_reader(&self) {
        self.0.lock().settle_reader();
    }

    /// The call that writes it will not be made again.
    pub(super) fn settle_writer(&self) {
        self.0.lock().settle_writer();
    }

    /// The end of what is written now is that of the stream.
    pub(super) fn end(&self, end: End) {
        let state = &mut *self.0.lock();
        state.end.get_or_insert(end);
        state.settle_writer();
    }

    /// Nobody needs it any more, whatever a reader does: who writes it is told, and who
    /// reads it sees no end.
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

    /// What of a chunk is new, and goes on.
    fn pass(&mut self, chunk: Bytes) -> Result<Bytes, Differs> {
        let chunk = self.kept.pass(&mut self.repeated, chunk)?;
        if !chunk.is_empty() {
            self.keep(&chunk);
        }
        Ok(chunk)
    }

    /// Keeps what the reader gets now, while that may be needed and there is room.
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

    /// Whether the call that writes it may be made again.
    fn is_for_writer(&self) -> bool {
        let input = self.for_writer.as_ref();
        input.is_some_and(LinkOutput::can_be_read_again)
    }

    /// All has been written, or it broke off like that.
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
                // Nobody writes it again.
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
        // Even if its end has been seen: a reader may have come less far.
        if !matches!(self.source, Source::Over(Err(_))) {
            self.source = Source::Over(Err(cut));
        }
        self.waker.wake_by_ref();
        self.news.notify_one();
    }
}

/// What the writer of a stream is told when the stream has no reader.
const UNREAD: &str = "nobody reads it any more";

/// Stops a run when it is dropped.
pub(super) struct Stop(pub(super) AbortHandle);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Reads a stream while it is its turn.
struct Reader {
    output: LinkOutput,
    turn: u32,
    of_caller: Option<Arc<Stop>>,
    /// The caller has been given a cut.
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
    /// Only what is kept, or compared, must be seen.
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
