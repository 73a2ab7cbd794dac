//! A reader that hashes what is read through it.

use std::io::{self, Read};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::digest::{Digest, Hasher};

/// A reader that hashes all of what it reads from.
pub(crate) struct Hashing<R: Read> {
    inner: R,
    hasher: Option<Hasher>,
    result: Arc<Mutex<Option<Digest>>>,
}

impl<R: Read> Hashing<R> {
    /// The digest is in the second value once the reader is dropped.
    pub(crate) fn new(inner: R, hasher: Hasher) -> (Self, Arc<Mutex<Option<Digest>>>) {
        let result = Arc::default();
        let reader = Self {
            inner,
            hasher: Some(hasher),
            result: Arc::clone(&result),
        };
        (reader, result)
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&buffer[..read]);
        }
        Ok(read)
    }
}

impl<R: Read> Drop for Hashing<R> {
    fn drop(&mut self) {
        // What the decompressor has not read, behind the end of its stream, belongs to
        // the blob, too.
        let rest = io::copy(self, &mut io::sink());
        if let (Ok(_), Some(hasher)) = (rest, self.hasher.take()) {
            *self.result.lock() = Some(hasher.finish());
        }
    }
}
