//! What of a link's output has been given on: the output of the same call made
//! again is held against it, and goes on behind it.
//!
//! That a link has no network does not mean that it writes the same twice: it
//! may ask for the time, or for chance. So what it writes again is compared, and
//! is believed only if it is the same so far. Pure.

use std::collections::VecDeque;

use bytes::{Buf, Bytes};

use crate::held::Held;

/// How much of an output is kept to be compared.
const KEPT_BYTES_MAX: usize = 1024 * 1024;

/// An output, as far as it has been given on.
#[derive(Debug, Default)]
pub(super) struct Given(Held);

impl Given {
    /// That is given on as well. False where there is too much of it to be
    /// compared.
    #[must_use]
    pub(super) fn keep(&mut self, chunk: &Bytes) -> bool {
        let fits = self.0.bytes() + chunk.len() <= KEPT_BYTES_MAX;
        if fits {
            self.0.push(chunk.clone());
        }
        fits
    }

    /// What the call must write when it is made again.
    pub(super) fn repeat(&mut self) -> Repeat {
        Repeat(self.0.chunks())
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
        let mut given = given(&["one", "two", "three"]);
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
    fn no_more_is_kept_than_a_bound_however_small_the_chunks() {
        for (length, number) in [(KEPT_BYTES_MAX / 4, 4), (1, KEPT_BYTES_MAX)] {
            let chunk = Bytes::from(vec![0; length]);
            let mut given = Given::default();
            assert!((0..number).all(|_| given.keep(&chunk)));
            assert!(!given.keep(&chunk));
        }
    }
}
