//! A queue of chunks that takes about as much memory as the chunks have bytes. Pure.
//!
//! A chunk is usually a slice of the buffer that it was read into, and keeps all of that
//! buffer allocated: one byte from a socket holds 8 KiB, one from a pipe 64 KiB. So small
//! chunks are copied one behind the other into shared buffers. A single chunk is not copied:
//! most small calls have only one.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

/// Chunks of at least this size are not copied. Reads from sockets and pipes are of 128 KiB
/// at most, so such a chunk keeps no more than four times its size.
const LARGE_BYTES: usize = 32 * 1024;

/// The size of the buffers for small chunks: as many bytes as are queued already, but between
/// these.
const BUFFER_BYTES_MIN: usize = 1024;
const BUFFER_BYTES_MAX: usize = 64 * 1024;

/// Bytes in the order in which they came.
#[derive(Debug, Default)]
pub(crate) struct ChunkQueue {
    chunks: VecDeque<Bytes>,
    /// The buffer for copies of the chunks behind those.
    filling: BytesMut,
    bytes: usize,
}

impl ChunkQueue {
    /// How many bytes are queued.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Adds a chunk to the end.
    pub(crate) fn push(&mut self, chunk: Bytes) {
        if chunk.is_empty() {
            return;
        }
        let is_first = self.is_empty();
        self.bytes += chunk.len();
        if is_first || chunk.len() >= LARGE_BYTES {
            self.seal();
            self.chunks.push_back(chunk);
            return;
        }
        // The first chunk was not copied while it was the only one.
        let is_alone = self.chunks.len() == 1 && self.filling.is_empty();
        if let Some(first) = self
            .chunks
            .pop_back_if(|first| is_alone && first.len() < LARGE_BYTES)
        {
            self.copy(&first);
        }
        self.copy(&chunk);
    }

    /// The next bytes, at most `room`.
    pub(crate) fn pop(&mut self, room: usize) -> Option<Bytes> {
        if self.chunks.is_empty() {
            self.seal();
        }
        let front = self.chunks.front_mut()?;
        let chunk = match front.len() > room {
            true => front.split_to(room),
            false => self.chunks.pop_front()?,
        };
        self.bytes -= chunk.len();
        Some(chunk)
    }

    /// Takes all bytes in one piece.
    pub(crate) fn take_all(&mut self) -> Bytes {
        let bytes = std::mem::take(&mut self.bytes);
        self.seal();
        let mut chunks = std::mem::take(&mut self.chunks);
        if chunks.len() <= 1 {
            return chunks.pop_front().unwrap_or_default();
        }
        let mut all = BytesMut::with_capacity(bytes);
        for chunk in chunks {
            all.extend_from_slice(&chunk);
        }
        all.freeze()
    }

    /// Puts bytes that were taken back to the front.
    pub(crate) fn put_back(&mut self, chunk: Bytes) {
        if !chunk.is_empty() {
            self.bytes += chunk.len();
            self.chunks.push_front(chunk);
        }
    }

    /// All bytes as chunks, which share the queue's memory.
    pub(crate) fn chunks(&mut self) -> VecDeque<Bytes> {
        self.seal();
        self.chunks.clone()
    }

    /// Copies a chunk into the buffers.
    fn copy(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = self.filling.capacity() - self.filling.len();
            if room == 0 {
                self.seal();
                let size = self.bytes.clamp(BUFFER_BYTES_MIN, BUFFER_BYTES_MAX);
                self.filling = BytesMut::with_capacity(size);
                continue;
            }
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.filling.extend_from_slice(now);
            bytes = later;
        }
    }

    /// Moves the copied bytes into `chunks`. The free part of the buffer stays for more.
    fn seal(&mut self) {
        if !self.filling.is_empty() {
            self.chunks.push_back(self.filling.split().freeze());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What it keeps of memory, where every chunk of its own is a whole buffer.
    fn entries(queue: &ChunkQueue) -> usize {
        queue.chunks.len()
    }

    #[test]
    fn a_chunk_that_is_alone_is_not_copied() {
        let chunk = Bytes::from(vec![b'x'; 100]);
        let mut queue = ChunkQueue::default();
        queue.push(chunk.clone());
        assert_eq!(queue.pop(usize::MAX).unwrap().as_ptr(), chunk.as_ptr());
    }

    #[test]
    fn small_chunks_let_go_of_their_buffers() {
        let mut queue = ChunkQueue::default();
        let mut buffers = Vec::new();
        for _ in 0..1000 {
            let buffer = Bytes::from(vec![b'x'; 8192]);
            queue.push(buffer.slice(..1));
            buffers.push(buffer);
        }
        assert_eq!(queue.bytes(), 1000);
        assert!(buffers.iter().all(Bytes::is_unique));
        assert!(entries(&queue) <= 1);
    }

    #[test]
    fn a_million_single_bytes_are_a_few_buffers() {
        let mut queue = ChunkQueue::default();
        for _ in 0..1_000_000 {
            queue.push(Bytes::from_static(b"x"));
        }
        assert!(entries(&queue) < 32, "{}", entries(&queue));
    }

    #[test]
    fn large_chunks_are_kept_as_they_are() {
        let chunk = Bytes::from(vec![b'x'; LARGE_BYTES]);
        let mut queue = ChunkQueue::default();
        queue.push("a".into());
        queue.push("b".into());
        queue.push(chunk.clone());
        queue.push("c".into());
        assert_eq!(queue.pop(usize::MAX).unwrap(), "ab");
        assert_eq!(queue.pop(usize::MAX).unwrap().as_ptr(), chunk.as_ptr());
        assert_eq!(queue.pop(usize::MAX).unwrap(), "c");
        assert!(queue.is_empty());
    }

    #[derive(Debug, Clone)]
    enum Step {
        Push(usize),
        Pop(usize),
        PutBack(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let length = prop_oneof![0_usize..10, 0..5000_usize, LARGE_BYTES..LARGE_BYTES * 2];
        let step = prop_oneof![
            3 => length.clone().prop_map(Step::Push),
            1 => length.clone().prop_map(Step::Pop),
            1 => length.prop_map(Step::PutBack),
        ];
        prop::collection::vec(step, 0..40)
    }

    /// After so many bytes, what is pushed begins again.
    const PERIOD: usize = 3 * 256;

    proptest! {
        #[test]
        fn it_gives_what_it_was_given_in_order(steps in steps()) {
            let (mut queue, mut wanted) = (ChunkQueue::default(), Vec::new());
            let pushed: Vec<u8> = (1..=PERIOD + 2 * LARGE_BYTES).map(|at| (at / 3) as u8).collect();
            let mut next = 0;
            for step in steps {
                match step {
                    Step::Push(length) => {
                        let chunk = &pushed[next % PERIOD..][..length];
                        next += length;
                        wanted.extend_from_slice(chunk);
                        queue.push(Bytes::copy_from_slice(chunk));
                    }
                    Step::Pop(room) => {
                        let popped = queue.pop(room).unwrap_or_default();
                        prop_assert!(wanted.starts_with(&popped));
                        wanted.drain(..popped.len());
                    }
                    Step::PutBack(room) => {
                        let chunk = queue.pop(room).unwrap_or_default();
                        queue.put_back(chunk);
                    }
                }
                prop_assert_eq!(queue.bytes(), wanted.len());
            }
            prop_assert!(Vec::from(queue.chunks()).concat() == wanted);
            prop_assert!(queue.take_all() == wanted);
            prop_assert!(queue.is_empty());
        }
    }
}
