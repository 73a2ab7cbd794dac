//! The two ends of a body that travels as frames: a [`Source`] at the sender, and a [`Sink`]
//! at the receiver.
//!
//! Neither waits for the network. All waits are cancel-safe: no data is lost.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::stream::{self, Stream, StreamExt};
use tokio::sync::mpsc;
use tokio::task::yield_now;

use crate::chunk_queue::ChunkQueue;
use crate::transport::{Body, Cut};

/// While fewer bytes than this are ready, more ready chunks are pulled into the same frame.
const TINY_BYTES: usize = 16 * 1024;

/// Pieces below this size are copied while they wait for their reader. Otherwise each would
/// keep the whole buffer alive that it was read into, with messages of other calls.
const COPIED_BYTES_MAX: usize = 16 * 1024;

/// A piece of a body, or its end.
#[derive(Debug)]
pub(crate) enum Piece {
    Data(Bytes),
    End,
    Cut(Cut),
}

/// A body to send, with the chunks that were pulled from it and not sent yet.
pub(crate) struct Source {
    held: ChunkQueue,
    rest: Rest,
}

/// The part of a body that has not been pulled.
enum Rest {
    Body(Body),
    Nothing,
    Cut(Cut),
}

impl Source {
    pub(crate) fn new(body: Body) -> Source {
        Source {
            held: ChunkQueue::default(),
            rest: Rest::Body(body),
        }
    }

    /// Pulls once.
    fn poll_pull(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Rest::Body(body) = &mut self.rest else {
            return Poll::Ready(());
        };
        match ready!(std::pin::Pin::new(body).poll_next(context)) {
            Some(Ok(chunk)) => self.held.push(chunk),
            Some(Err(cut)) => self.rest = Rest::Cut(cut),
            None => self.rest = Rest::Nothing,
        }
        Poll::Ready(())
    }

    /// Pulls until there is data or an end.
    pub(crate) async fn begin(&mut self) {
        poll_fn(
            |context| match self.held.is_empty() && matches!(self.rest, Rest::Body(_)) {
                true => self.poll_pull(context),
                false => Poll::Ready(()),
            },
        )
        .await;
    }

    /// Pulls until there is an end, or there are more than `room` bytes.
    pub(crate) async fn gather(&mut self, room: usize) {
        poll_fn(|context| {
            while self.held.bytes() <= room && matches!(self.rest, Rest::Body(_)) {
                ready!(self.poll_pull(context));
            }
            Poll::Ready(())
        })
        .await;
    }

    /// Like [`Source::gather`], but does not wait: it yields to other tasks `yields` times.
    pub(crate) async fn gather_now(&mut self, room: usize, yields: usize) {
        for _ in 0..yields {
            if self.gather(room).now_or_never().is_some() {
                return;
            }
            yield_now().await;
        }
    }

    /// Whether the whole body has been pulled, and has at most `room` bytes.
    pub(crate) fn is_whole(&self, room: usize) -> bool {
        matches!(self.rest, Rest::Nothing) && self.held.bytes() <= room
    }

    /// Takes everything that has been pulled.
    pub(crate) fn take_all(&mut self) -> Bytes {
        self.held.take_all()
    }

    /// How many pulled bytes were not taken yet.
    pub(crate) fn held_bytes(&self) -> usize {
        self.held.bytes()
    }

    /// Why it was cut off, if it was.
    pub(crate) fn cut(&self) -> Option<&Cut> {
        match &self.rest {
            Rest::Cut(cut) => Some(cut),
            Rest::Body(_) | Rest::Nothing => None,
        }
    }

    /// Takes the first pulled bytes, at most `room`.
    pub(crate) fn take(&mut self, room: usize) -> Bytes {
        self.held.pop(room).unwrap_or_default()
    }

    /// Puts bytes that were taken back to the front.
    pub(crate) fn put_back(&mut self, bytes: Bytes) {
        self.held.put_back(bytes);
    }

    /// The next piece, with at most `room` bytes of data. Without room, resolves only for an
    /// end or a cut. Joins tiny chunks that are ready.
    pub(crate) async fn next(&mut self, room: usize) -> Piece {
        self.begin().await;
        match (&self.rest, self.held.is_empty()) {
            (Rest::Nothing, true) => return Piece::End,
            (Rest::Cut(cut), true) => return Piece::Cut(cut.clone()),
            _ if room == 0 => return std::future::pending().await,
            _ => {}
        }
        let _ = self.gather(TINY_BYTES.min(room)).now_or_never();
        Piece::Data(self.take(room))
    }

    /// The rest of the body, with what was pulled in front.
    pub(crate) fn into_body(mut self) -> Body {
        let rest = match self.rest {
            Rest::Body(body) => body,
            Rest::Nothing => Body::empty(),
            Rest::Cut(cut) => Body::new(stream::iter([Err(cut)])),
        };
        match self.held.is_empty() {
            true => rest,
            false => Body::new(stream::iter(self.held.chunks().into_iter().map(Ok)).chain(rest)),
        }
    }
}

/// Copies small pieces, so that they do not keep a much larger buffer alive.
fn alone(bytes: Bytes) -> Bytes {
    match bytes.len() < COPIED_BYTES_MAX {
        true => Bytes::copy_from_slice(&bytes),
        false => bytes,
    }
}

/// The received pieces of a body that wait for its reader. Credit bounds how many there
/// are.
#[derive(Default)]
pub(crate) struct Sink {
    waiting: VecDeque<Piece>,
    /// `None` once nothing more can be handed over, or if there is no body.
    reader: Option<mpsc::Sender<Piece>>,
}

/// The result of handing a piece over.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Handed {
    /// The reader got so many bytes.
    Over(usize),
    /// The reader is gone.
    Unread,
}

/// A body, and the sink for its pieces. Dropping the sink before the body's end cuts the body
/// off.
pub(crate) fn channel() -> (Sink, Body) {
    let (sender, receiver) = mpsc::channel(1);
    let sink = Sink {
        waiting: VecDeque::new(),
        reader: Some(sender),
    };
    let body = stream::unfold(Some(receiver), async |receiver| {
        let mut receiver = receiver?;
        match receiver.recv().await {
            Some(Piece::Data(chunk)) => Some((Ok(chunk), Some(receiver))),
            Some(Piece::End) => None,
            Some(Piece::Cut(cut)) => Some((Err(cut), None)),
            None => Some((Err(Cut::new("its sender is gone")), None)),
        }
    });
    (sink, Body::new(body))
}

impl Sink {
    /// Adds a piece. Call this with no data after an end.
    pub(crate) fn put(&mut self, piece: Piece) {
        if self.reader.is_some() {
            self.waiting.push_back(match piece {
                Piece::Data(bytes) => Piece::Data(alone(bytes)),
                end => end,
            });
        }
    }

    /// Cuts the body off behind what has come, unless it has ended.
    pub(crate) fn cut(&mut self, reason: Arc<str>) {
        let has_end = matches!(self.waiting.back(), Some(Piece::End | Piece::Cut(_)));
        if !has_end {
            self.put(Piece::Cut(Cut { reason }));
        }
    }

    /// Whether nothing waits, and nothing more can come.
    pub(crate) fn is_done(&self) -> bool {
        self.reader.is_none()
    }

    /// Hands the next piece over when the reader asks for it. If no piece waits, resolves only
    /// when the reader is gone.
    pub(crate) async fn hand_over(&mut self) -> Handed {
        let Some(reader) = &self.reader else {
            return std::future::pending().await;
        };
        if self.waiting.is_empty() {
            reader.closed().await;
            self.reader = None;
            return Handed::Unread;
        }
        let Ok(permit) = reader.reserve().await else {
            self.reader = None;
            self.waiting.clear();
            return Handed::Unread;
        };
        match self.waiting.pop_front() {
            Some(Piece::Data(chunk)) => {
                let bytes = chunk.len();
                permit.send(Piece::Data(chunk));
                Handed::Over(bytes)
            }
            last => {
                permit.send(last.unwrap_or(Piece::End));
                self.reader = None;
                Handed::Over(0)
            }
        }
    }
}

/// Received standard error that waits for its listener. Without a listener it is dropped, so
/// that the writer never notices the difference.
#[derive(Default)]
pub(crate) struct StderrSink {
    waiting: VecDeque<Bytes>,
    listener: Option<mpsc::Sender<Bytes>>,
}

impl StderrSink {
    pub(crate) fn new(listener: Option<mpsc::Sender<Bytes>>) -> StderrSink {
        StderrSink {
            waiting: VecDeque::new(),
            listener,
        }
    }

    pub(crate) fn put(&mut self, bytes: Bytes) {
        self.waiting.push_back(alone(bytes));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Hands the next piece over, and returns its length.
    pub(crate) async fn hand_over(&mut self) -> usize {
        if self.waiting.is_empty() {
            return std::future::pending().await;
        }
        let Some(listener) = &self.listener else {
            return self.waiting.pop_front().map_or(0, |bytes| bytes.len());
        };
        let Ok(permit) = listener.reserve().await else {
            self.listener = None;
            return self.waiting.pop_front().map_or(0, |bytes| bytes.len());
        };
        let bytes = self.waiting.pop_front().unwrap_or_default();
        let length = bytes.len();
        permit.send(bytes);
        length
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::conformance::fake;

    fn body_of(chunks: &[&'static str]) -> Body {
        let chunks: Vec<_> = chunks.iter().map(|chunk| Ok((*chunk).into())).collect();
        Body::new(stream::iter(chunks))
    }

    #[tokio::test]
    async fn what_was_gathered_and_put_back_is_the_body_again() {
        for room in 0..12 {
            let mut source = Source::new(body_of(&["abc", "def", "ghi"]));
            source.gather(room).await;
            assert_eq!(source.is_whole(room), room >= 9);
            let first = source.take(room);
            assert!(first.len() <= room);
            source.put_back(first);
            assert_eq!(source.into_body().collect().await.unwrap(), "abcdefghi");
        }
    }

    #[tokio::test]
    async fn a_cut_stays_a_cut() {
        let mut source = Source::new(fake::cut_off(["some"], "on purpose"));
        source.gather(100).await;
        assert!(!source.is_whole(100));
        assert!(source.into_body().collect().await.is_err());
        let mut source = Source::new(fake::cut_off(["some"], "on purpose"));
        assert!(matches!(source.next(100).await, Piece::Data(_)));
        assert!(matches!(source.next(100).await, Piece::Cut(_)));
    }

    #[tokio::test]
    async fn tiny_chunks_come_together_and_large_ones_in_pieces() {
        let mut source = Source::new(body_of(&["ab", "cd", "ef"]));
        assert!(matches!(source.next(5).await, Piece::Data(data) if data == "abcde"));
        assert!(matches!(source.next(5).await, Piece::Data(data) if data == "f"));
        assert!(matches!(source.next(5).await, Piece::End));
    }

    #[tokio::test]
    async fn without_room_an_end_is_told_all_the_same() {
        let mut source = Source::new(body_of(&["ab"]));
        assert!(source.next(0).now_or_never().is_none());
        assert!(matches!(source.next(2).await, Piece::Data(data) if data == "ab"));
        assert!(matches!(source.next(0).await, Piece::End));
        let mut source = Source::new(fake::cut_off([], "on purpose"));
        assert!(matches!(source.next(0).await, Piece::Cut(_)));
    }

    #[tokio::test]
    async fn a_sink_that_is_dropped_cuts_its_body() {
        let (mut sink, body) = channel();
        sink.put(Piece::Data("some".into()));
        assert_eq!(sink.hand_over().await, Handed::Over(4));
        drop(sink);
        assert!(body.collect().await.is_err());
    }

    #[tokio::test]
    async fn a_sink_hands_over_what_came_before_a_cut() {
        let (mut sink, mut body) = channel();
        sink.put(Piece::Data("some".into()));
        sink.cut("on purpose".into());
        assert_eq!(sink.hand_over().await, Handed::Over(4));
        assert!(sink.hand_over().now_or_never().is_none());
        assert_eq!(body.next().await.unwrap().unwrap(), "some");
        assert_eq!(sink.hand_over().await, Handed::Over(0));
        assert!(sink.is_done());
        assert!(body.next().await.unwrap().is_err());
        assert!(body.next().await.is_none());
    }

    #[tokio::test]
    async fn a_reader_that_is_gone_is_noticed_at_once() {
        let (mut sink, body) = channel();
        drop(body);
        assert_eq!(sink.hand_over().await, Handed::Unread);
        assert!(sink.is_done());
    }
}
