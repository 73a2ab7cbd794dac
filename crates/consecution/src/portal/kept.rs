//! A replay buffer: the beginning of a link's output, kept while a call may be repeated.
//! A repeated call of the next link reads it again; the output of a repeated call of this
//! link is compared with it.
//!
//! A link without network need not write the same bytes twice: its output may depend on
//! the time or on random numbers. So its new output is used only if it begins with the
//! bytes that were already delivered.
//!
//! The buffer holds copies. A chunk is usually a slice of the buffer that it was read
//! into, and keeps all of that buffer allocated: one byte from a pipe may hold 64 KiB.
//! This module is pure.

use bytes::{Buf, Bytes};

/// The most bytes that are kept of a stream.
pub(super) const KEPT_BYTES_MAX: usize = 1024 * 1024;

/// The most bytes that [`Kept::get`] returns at a time.
const PIECE_BYTES: usize = 64 * 1024;

/// The first bytes of a stream.
#[derive(Debug, Default)]
pub(super) struct Kept(Vec<u8>);

/// A repeated call has written other bytes than before.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Differs;

impl Kept {
    /// Adds a whole chunk and returns true. If there is no room for all of it, adds
    /// nothing and returns false.
    #[must_use]
    pub(super) fn push(&mut self, chunk: &[u8]) -> bool {
        let needed = self.0.len() + chunk.len();
        if needed > KEPT_BYTES_MAX {
            return false;
        }
        if needed > self.0.capacity() {
            // Double the capacity, so that many small chunks are not moved often.
            let capacity = (2 * self.0.capacity()).clamp(needed, KEPT_BYTES_MAX);
            self.0.reserve_exact(capacity - self.0.len());
        }
        self.0.extend_from_slice(chunk);
        true
    }

    pub(super) fn bytes(&self) -> usize {
        self.0.len()
    }

    /// The memory that the buffer takes.
    #[cfg(test)]
    pub(super) fn memory_bytes(&self) -> usize {
        self.0.capacity()
    }

    /// The next bytes from position `at` on, at most [`PIECE_BYTES`] of them.
    pub(super) fn get(&self, at: usize) -> Option<Bytes> {
        let rest = self.0.get(at..).filter(|rest| !rest.is_empty())?;
        let piece = &rest[..rest.len().min(PIECE_BYTES)];
        Some(Bytes::copy_from_slice(piece))
    }

    /// Compares `chunk` with the kept bytes from position `at` on, and moves `at` on.
    /// Returns the part of the chunk that lies behind the kept bytes.
    pub(super) fn pass(&self, at: &mut usize, mut chunk: Bytes) -> Result<Bytes, Differs> {
        let wanted = self.0.get(*at..).unwrap_or_default();
        let length = wanted.len().min(chunk.len());
        if wanted[..length] != chunk[..length] {
            return Err(Differs);
        }
        chunk.advance(length);
        *at += length;
        Ok(chunk)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What is pushed in chunks of those lengths, cut from larger buffers.
    fn pushed(lengths: &[usize]) -> (Kept, Vec<u8>) {
        let (mut kept, mut all) = (Kept::default(), Vec::new());
        for (number, length) in lengths.iter().enumerate() {
            let buffer = Bytes::from(vec![number as u8; length + 64 * 1024]);
            let chunk = buffer.slice(..*length);
            if kept.push(&chunk) {
                all.extend_from_slice(&chunk);
            }
        }
        (kept, all)
    }

    fn lengths() -> impl Strategy<Value = Vec<usize>> {
        let length = prop_oneof![4 => 1..100_usize, 2 => 1..100_000_usize, 1 => 1..KEPT_BYTES_MAX];
        prop::collection::vec(length, 0..40)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn it_holds_no_more_memory_than_its_bound(lengths in lengths()) {
            let (kept, all) = pushed(&lengths);
            prop_assert_eq!(kept.bytes(), all.len());
            prop_assert!(kept.memory_bytes() <= KEPT_BYTES_MAX);
            // And little more than it needs.
            prop_assert!(kept.memory_bytes() <= 2 * all.len());
        }

        #[test]
        fn it_gives_what_it_was_given(lengths in lengths(), at in 0..KEPT_BYTES_MAX) {
            let (kept, all) = pushed(&lengths);
            let mut at = at.min(all.len());
            while let Some(piece) = kept.get(at) {
                prop_assert!(!piece.is_empty());
                prop_assert_eq!(&piece[..], &all[at..at + piece.len()]);
                at += piece.len();
            }
            prop_assert_eq!(at, all.len());
        }

        #[test]
        fn what_is_written_again_is_passed_over_however_it_is_cut(
            lengths in lengths(),
            cuts in prop::collection::vec(1..50_000_usize, 1..10),
            more in 0..1000_usize,
        ) {
            let (kept, all) = pushed(&lengths);
            let again = Bytes::from([&all[..], &vec![b'!'; more]].concat());
            let (mut at, mut read, mut new) = (0, 0, Vec::new());
            for cut in cuts.iter().cycle() {
                if read == again.len() { break; }
                let end = again.len().min(read + cut);
                new.extend(kept.pass(&mut at, again.slice(read..end)).unwrap());
                read = end;
            }
            prop_assert_eq!(at, all.len());
            prop_assert_eq!(new, vec![b'!'; more]);
        }

        #[test]
        fn what_differs_is_not_believed(lengths in lengths(), place in any::<prop::sample::Index>()) {
            let (kept, mut all) = pushed(&lengths);
            prop_assume!(!all.is_empty());
            let place = place.index(all.len());
            all[place] ^= 1;
            prop_assert_eq!(kept.pass(&mut 0, all.into()), Err(Differs));
        }
    }

    #[test]
    fn what_has_no_room_is_left_out() {
        for (length, number) in [(KEPT_BYTES_MAX / 4, 4), (1, KEPT_BYTES_MAX)] {
            let chunk = vec![0; length];
            let mut kept = Kept::default();
            assert!((0..number).all(|_| kept.push(&chunk)));
            assert!(!kept.push(&chunk));
            assert_eq!(kept.bytes(), KEPT_BYTES_MAX);
        }
    }
}
