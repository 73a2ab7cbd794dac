//! The input of a call that may have to be made again.
//!
//! What a call has read is kept while it is little, and is given to the next
//! call of the same link before the rest. It is kept only until it is certain
//! that there will be no other call.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use futures_util::stream::{Stream, StreamExt};

use crate::held::Held;
use crate::pipe::Writer;
use crate::transport::{Body, Chunks, Cut, MovedChunk};

/// How much of an input is kept.
const KEPT_BYTES_MAX: usize = 1024 * 1024;

/// An input that may be read several times, by one reader at a time. Clones are
/// the same input.
#[derive(Clone)]
pub(super) struct Input(Arc<Mutex<State>>);

struct State {
    /// What nobody has read yet. It is polled and dropped under the lock, which
    /// is safe: it knows of those before it in the chain, never of us.
    rest: Rest,
    /// What may have to be given again, and what has to be.
    kept: Held,
    /// How many of the kept bytes the reader has had.
    given: usize,
    /// Whether there may be another reader; if not, what is kept goes as it is
    /// given.
    is_kept: bool,
    /// Tells the reader whose turn it is from those before it.
    turn: u32,
    /// The reader is gone.
    is_unread: bool,
    /// The reader's, while it waits.
    waker: Waker,
}

/// What comes behind that which is kept.
enum Rest {
    Coming(Body),
    Ended,
    Cut(Cut),
}

impl Input {
    /// An input that is kept, as far as it is small, if `is_kept`.
    pub(super) fn new(body: Body, is_kept: bool) -> Input {
        Input(Arc::new(Mutex::new(State {
            rest: Rest::Coming(body),
            kept: Held::default(),
            given: 0,
            is_kept,
            turn: 0,
            is_unread: false,
            waker: Waker::noop().clone(),
        })))
    }

    /// All of it from the start; the reader before, if there was one, gets a
    /// cut. To be asked for again only while the input is
    /// [replayable](Self::is_replayable).
    pub(super) fn reader(&self) -> Body {
        let mut state = self.lock();
        state.turn += 1;
        state.given = 0;
        state.is_unread = false;
        state.waker.wake_by_ref();
        Body::of(Reader {
            input: self.clone(),
            turn: state.turn,
        })
    }

    /// Whether all of it can be read again.
    pub(super) fn is_replayable(&self) -> bool {
        self.lock().is_kept
    }

    /// Whether it is known to be incomplete, so that reading it again is of no
    /// use.
    pub(super) fn is_cut(&self) -> bool {
        matches!(self.lock().rest, Rest::Cut(_))
    }

    /// There will be no other reader.
    pub(super) fn settle(&self) {
        let state = &mut *self.lock();
        if state.is_kept {
            state.is_kept = false;
            state.kept.forget(state.given);
        }
        if state.is_unread {
            state.close("nobody reads it any more");
        }
    }

    /// Nobody needs it any more, whatever a reader does: who writes it is told.
    pub(super) fn close(&self) {
        self.lock().close("the call is over");
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that panics under the lock leaves it half-changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Cut>>> {
        if let Some(chunk) = self.next_kept() {
            return Poll::Ready(Some(Ok(chunk)));
        }
        if let Rest::Coming(body) = &mut self.rest {
            let Poll::Ready(chunk) = body.poll_next_unpin(context) else {
                self.waker.clone_from(context.waker());
                return Poll::Pending;
            };
            match chunk {
                Some(Ok(chunk)) => {
                    self.keep(&chunk);
                    return Poll::Ready(Some(Ok(chunk)));
                }
                Some(Err(cut)) => self.rest = Rest::Cut(cut),
                None => self.rest = Rest::Ended,
            }
        }
        Poll::Ready(match &self.rest {
            Rest::Cut(cut) => Some(Err(cut.clone())),
            _ => None,
        })
    }

    /// What the reader has not had of what was kept.
    fn next_kept(&mut self) -> Option<Bytes> {
        if !self.is_kept {
            return self.kept.pop(usize::MAX);
        }
        let chunk = self.kept.get(self.given)?;
        self.given += chunk.len();
        Some(chunk)
    }

    /// Keeps what the reader gets now, while there is room.
    fn keep(&mut self, chunk: &Bytes) {
        if !self.is_kept {
            return;
        }
        if self.kept.bytes() + chunk.len() > KEPT_BYTES_MAX {
            self.is_kept = false;
            self.kept = Held::default();
        } else {
            self.kept.push(chunk.clone());
            self.given += chunk.len();
        }
    }

    fn close(&mut self, reason: &'static str) {
        self.kept = Held::default();
        self.given = 0;
        self.is_kept = false;
        // Even if its end has been seen: a reader may have come less far.
        if !matches!(self.rest, Rest::Cut(_)) {
            self.rest = Rest::Cut(Cut::new(reason));
        }
        self.waker.wake_by_ref();
    }
}

/// Reads an input while it is its turn.
struct Reader {
    input: Input,
    turn: u32,
}

impl Stream for Reader {
    type Item = Result<Bytes, Cut>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut state = self.input.lock();
        if state.turn != self.turn {
            return Poll::Ready(Some(Err(Cut::new("the call was made again"))));
        }
        state.poll(context)
    }
}

impl Chunks for Reader {
    /// Only what is not kept need not be seen.
    fn poll_move(self: Pin<&mut Self>, to: &Writer, context: &mut Context<'_>) -> Poll<MovedChunk> {
        let state = &mut *self.input.lock();
        let is_seen = state.turn != self.turn || state.is_kept || !state.kept.is_empty();
        let Rest::Coming(body) = &mut state.rest else {
            return Poll::Ready(MovedChunk::NotHere);
        };
        if is_seen {
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
        let mut state = self.input.lock();
        if state.turn != self.turn {
            return;
        }
        state.is_unread = true;
        if !state.is_kept {
            state.close("nobody reads it any more");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::conformance::fake;
    use futures_util::FutureExt;
    use futures_util::stream;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::task::Wake;

    fn chunks(chunks: &[&'static str]) -> Body {
        let chunks: Vec<_> = chunks.iter().map(|chunk| Ok((*chunk).into())).collect();
        Body::new(stream::iter(chunks))
    }

    fn next(body: &mut Body) -> Option<Result<Bytes, Cut>> {
        body.next().now_or_never().expect("it is there")
    }

    fn read(body: &mut Body) -> Bytes {
        next(body).expect("no end").expect("no cut")
    }

    #[test]
    fn a_reader_gets_all_that_those_before_it_had_and_then_the_rest() {
        let input = Input::new(chunks(&["one", "two", "three"]), true);
        let mut first = input.reader();
        assert_eq!(
            (read(&mut first), read(&mut first)),
            ("one".into(), "two".into())
        );
        let mut second = input.reader();
        assert_eq!(read(&mut second), "onetwo");
        assert!(next(&mut first).unwrap().is_err());
        let mut third = input.reader();
        drop((first, second));
        // What was kept comes in one piece.
        for word in ["onetwo", "three"] {
            assert_eq!(read(&mut third), word);
        }
        assert!(next(&mut third).is_none());
        assert_eq!(
            input.reader().collect().now_or_never().unwrap().unwrap(),
            "onetwothree"
        );
    }

    #[test]
    fn a_reader_that_is_no_longer_wanted_is_woken() {
        struct Woken(AtomicBool);
        impl Wake for Woken {
            fn wake(self: Arc<Self>) {
                self.0.store(true, Ordering::SeqCst);
            }
        }
        let input = Input::new(fake::watched().0, true);
        let woken = Arc::new(Woken(AtomicBool::new(false)));
        let waker = Arc::clone(&woken).into();
        let mut first = input.reader();
        assert!(
            first
                .poll_next_unpin(&mut Context::from_waker(&waker))
                .is_pending()
        );
        let _second = input.reader();
        assert!(woken.0.load(Ordering::SeqCst));
    }

    #[test]
    fn what_is_kept_outlives_the_choice_only_until_it_is_given() {
        let large = Bytes::from(vec![b'x'; 64 * 1024]);
        let all = ["one".into(), large.clone(), "three".into()].map(Ok);
        let input = Input::new(Body::new(stream::iter(all)), true);
        let mut first = input.reader();
        read(&mut first);
        read(&mut first);
        let mut second = input.reader();
        assert_eq!(read(&mut second), "one");
        input.settle();
        assert!(!input.is_replayable());
        assert_eq!(input.lock().kept.bytes(), large.len());
        assert_eq!(
            (read(&mut second), read(&mut second)),
            (large, "three".into())
        );
        assert!(input.lock().kept.is_empty());
        assert!(next(&mut second).is_none());
    }

    #[test]
    fn no_more_is_kept_than_a_bound_however_small_the_chunks() {
        for (length, number) in [(KEPT_BYTES_MAX / 4, 4), (1, KEPT_BYTES_MAX)] {
            let chunk = Bytes::from(vec![0; length]);
            let input = Input::new(Body::new(stream::repeat(Ok(chunk))), true);
            let mut reader = input.reader();
            for _ in 0..number {
                read(&mut reader);
                assert!(input.is_replayable());
            }
            read(&mut reader);
            assert!(!input.is_replayable());
            assert!(input.lock().kept.is_empty());
        }
    }

    #[test]
    fn whoever_writes_it_is_told_once_nobody_will_read_it() {
        // While another reader may come, it is held.
        let (body, mut dropped) = fake::watched();
        let input = Input::new(body, true);
        drop(input.reader());
        assert!((&mut dropped).now_or_never().is_none());
        let reader = input.reader();
        input.settle();
        assert!((&mut dropped).now_or_never().is_none());
        drop(reader);
        assert!(dropped.now_or_never().is_some());

        let (body, dropped) = fake::watched();
        let input = Input::new(body, true);
        drop(input.reader());
        input.settle();
        assert!(dropped.now_or_never().is_some());

        let (body, dropped) = fake::watched();
        let input = Input::new(body, false);
        drop(input.reader());
        assert!(dropped.now_or_never().is_some());
    }

    #[test]
    fn a_closed_input_never_seems_to_end() {
        let input = Input::new(chunks(&["one"]), true);
        let mut first = input.reader();
        read(&mut first);
        assert!(next(&mut first).is_none());
        let mut second = input.reader();
        input.close();
        assert!(next(&mut second).unwrap().is_err());
        assert!(next(&mut second).unwrap().is_err());
        assert!(input.is_cut());
    }
}
