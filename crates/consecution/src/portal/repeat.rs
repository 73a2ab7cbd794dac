//! What of a link's output has been given on: the output of the same call made
//! again is held against it, and goes on behind it.
//!
//! That a link has no network does not mean that it writes the same twice: it
//! may ask for the time, or for chance. So what it writes again is compared, and
//! is believed only if it is the same so far. Pure.

use std::collections::VecDeque;

use bytes::{Buf, Bytes};

/// How much of an output is kept to be compared.
const KEPT_BYTES_MAX: usize = 1024 * 1024;

/// And in how many chunks at most: each may hold on to a larger buffer.
const KEPT_CHUNKS_MAX: usize = 1024;

/// An output, as far as it has been given on.
#[derive(Debug, Default)]
pub(super) struct Given {
    chunks: VecDeque<Bytes>,
    bytes: usize,
}

impl Given {
    /// That is given on as well. False where there is too much of it to be
    /// compared.
    #[must_use]
    pub(super) fn keep(&mut self, chunk: &Bytes) -> bool {
        self.bytes += chunk.len();
        let fits = self.bytes <= KEPT_BYTES_MAX && self.chunks.len() < KEPT_CHUNKS_MAX;
        if fits {
            self.chunks.push_back(chunk.clone());
        }
        fits
    }

    /// What the call must write when it is made again.
    pub(super) fn repeat(&self) -> Repeat {
        Repeat(self.chunks.clone())
    }
}

/// What a call that was made again must still write before it writes anything
/// new.
#[derive(Debug, Default)]
pub(super) struct Repeat(VecDeque<Bytes>);

/// It has written something else.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Differs;

impl Repeat {
    /// All that had been given on has been written again.
    pub(super) fn is_over(&self) -> bool {
        self.0.is_empty()
    }

    /// What of a chunk is new.
    pub(super) fn pass(&mut self, mut chunk: Bytes) -> Result<Bytes, Differs> {
        while let Some(wanted) = self.0.front_mut()
            && !chunk.is_empty()
        {
            let length = wanted.len().min(chunk.len());
            if wanted.get(..length) != chunk.get(..length) {
                return Err(Differs);
            }
            chunk.advance(length);
            wanted.advance(length);
            if wanted.is_empty() {
                self.0.pop_front();
            }
        }
        Ok(chunk)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(chunks: &[&'static str]) -> Given {
        let mut given = Given::default();
        for chunk in chunks {
            assert!(given.keep(&Bytes::from_static(chunk.as_bytes())));
        }
        given
    }

    #[test]
    fn what_was_given_on_is_passed_over_however_it_is_cut() {
        let given = given(&["one", "two", "three"]);
        let again = b"onetwothreefour";
        for length in 1..=again.len() {
            let mut repeat = given.repeat();
            let chunks = again.chunks(length).map(Bytes::from_static);
            let new: Vec<u8> = chunks
                .flat_map(|chunk| repeat.pass(chunk).unwrap())
                .collect();
            assert_eq!(new, b"four");
            assert!(repeat.is_over());
        }
    }

    #[test]
    fn what_differs_is_not_believed() {
        let mut repeat = given(&["one", "two"]).repeat();
        assert_eq!(repeat.pass("onet".into()), Ok(Bytes::new()));
        assert!(!repeat.is_over());
        assert_eq!(repeat.pass("ow".into()), Err(Differs));
    }

    #[test]
    fn no_more_is_kept_than_a_bound_in_bytes_and_in_chunks() {
        for (length, number) in [(KEPT_BYTES_MAX / 4, 4), (1, KEPT_CHUNKS_MAX)] {
            let chunk = Bytes::from(vec![0; length]);
            let mut given = Given::default();
            assert!((0..number).all(|_| given.keep(&chunk)));
            assert!(!given.keep(&chunk));
        }
    }
}
