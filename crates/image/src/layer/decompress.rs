//! Decompression in a thread of its own, which also hashes the bytes on their way to the
//! tar reader.
//!
//! So unpacking takes two cores about as long as the slower of the two parts
//! (decompressing with hashing, writing files), and not as long as both.

use std::io::{self, BufReader, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::{Scope, ScopedJoinHandle};

use super::LayerProblem;
use super::budget::Budget;
use super::tar_stream::Source;
use crate::digest::{Digest, Hasher};

/// Bytes in one piece handed from thread to thread: enough that handing over costs
/// little.
const PIECE_BYTES: usize = 256 << 10;
/// Pieces between the threads: 1 MiB in all, so that a slow file does not stop the
/// decompressor at once.
const PIECES_MAX: usize = 4;
/// zstd frames may ask for a window of at most 2^27 bytes, 128 MiB.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// How some bytes are compressed, as their beginning shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
    /// In a way that we do not know, by this program.
    Unknown(&'static str),
}

/// The number of first bytes that [`sniff`] needs.
pub(crate) const SNIFFED_BYTES: usize = 6;

/// Recognises a compression by the first bytes.
pub(crate) fn sniff(start: &[u8]) -> Compression {
    match start {
        [0x1f, 0x8b, ..] => Compression::Gzip,
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd,
        // A skippable frame: only zstd begins like this.
        [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Compression::Zstd,
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Compression::Unknown("xz"),
        [b'B', b'Z', b'h', b'1'..=b'9', 0x31 | 0x17, ..] => Compression::Unknown("bzip2"),
        [0x04, 0x22, 0x4d, 0x18, ..] => Compression::Unknown("lz4"),
        [b'L', b'Z', b'I', b'P', 1, ..] => Compression::Unknown("lzip"),
        [0x5d, 0, 0, 1..=255, _, 0xff, ..] => Compression::Unknown("lzma"),
        [0x1f, 0x9d, ..] => Compression::Unknown("compress"),
        _ => Compression::None,
    }
}

/// Why some bytes cannot be decompressed.
pub(crate) enum CompressionError {
    /// We do not know how they are compressed: by this program.
    Unknown(&'static str),
    Io(io::Error),
}

impl From<io::Error> for CompressionError {
    fn from(cause: io::Error) -> Self {
        Self::Io(cause)
    }
}

/// The bytes without their compression.
pub(crate) fn decompress<'a>(
    mut reader: impl Read + Send + 'a,
) -> Result<Box<dyn Read + Send + 'a>, CompressionError> {
    let mut start = Vec::with_capacity(SNIFFED_BYTES);
    let sniffed = SNIFFED_BYTES as u64;
    reader.by_ref().take(sniffed).read_to_end(&mut start)?;
    let compression = sniff(&start);
    let whole = io::Cursor::new(start).chain(reader);
    Ok(match compression {
        Compression::None => Box::new(whole),
        Compression::Gzip => {
            let buffered = BufReader::with_capacity(PIECE_BYTES, whole);
            Box::new(flate2::bufread::MultiGzDecoder::new(buffered))
        }
        Compression::Zstd => {
            let buffered = BufReader::with_capacity(PIECE_BYTES, whole);
            let mut decoder = zstd::stream::read::Decoder::with_buffer(buffered)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
            Box::new(decoder)
        }
        Compression::Unknown(program) => return Err(CompressionError::Unknown(program)),
    })
}

type Piece = Result<Vec<u8>, CompressionError>;

/// The receiving end: a tar source that draws on the budget.
pub(super) struct Pieces<'b> {
    full: Receiver<Piece>,
    empty: Sender<Vec<u8>>,
    piece: Vec<u8>,
    read: usize,
    budget: &'b mut Budget,
}

/// Starts decompressing in a thread of `scope`. The thread gives the digest of
/// the uncompressed bytes once all of them were taken.
pub(super) fn start<'scope, 'b>(
    scope: &'scope Scope<'scope, '_>,
    reader: Box<dyn Read + Send + 'scope>,
    hasher: Hasher,
    budget: &'b mut Budget,
) -> (Pieces<'b>, ScopedJoinHandle<'scope, Digest>) {
    let (full_sender, full) = sync_channel(PIECES_MAX);
    let (empty, empty_receiver) = channel();
    let reader = Box::new(Cancellable {
        reader,
        cancelled: Arc::clone(budget.cancelled()),
    });
    let thread = scope.spawn(move || run(reader, hasher, &full_sender, &empty_receiver));
    let pieces = Pieces {
        full,
        empty,
        piece: Vec::new(),
        read: 0,
        budget,
    };
    (pieces, thread)
}

/// Compressed bytes, which end when the unpacking is cancelled. The check is here,
/// because any number of compressed bytes may give no uncompressed ones.
struct Cancellable<R> {
    reader: R,
    cancelled: Arc<AtomicBool>,
}

impl<R: Read> Read for Cancellable<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.cancelled.load(Ordering::Relaxed) {
            true => Err(io::Error::other("it was cancelled")),
            false => self.reader.read(buffer),
        }
    }
}

fn run(
    reader: Box<dyn Read + Send + '_>,
    mut hasher: Hasher,
    full: &SyncSender<Piece>,
    empty: &Receiver<Vec<u8>>,
) -> Digest {
    let step = || -> Result<(), CompressionError> {
        let mut reader = decompress(reader)?;
        loop {
            let mut piece = empty
                .try_recv()
                .unwrap_or_else(|_| Vec::with_capacity(PIECE_BYTES));
            piece.clear();
            reader
                .by_ref()
                .take(PIECE_BYTES as u64)
                .read_to_end(&mut piece)?;
            if piece.is_empty() {
                return Ok(());
            }
            hasher.update(&piece);
            if full.send(Ok(piece)).is_err() {
                return Ok(());
            }
        }
    };
    if let Err(cause) = step() {
        // This fails only if nobody listens any more; then nobody needs the cause.
        let _ = full.send(Err(cause));
    }
    hasher.finish()
}

impl Source for Pieces<'_> {
    fn fill(&mut self) -> Result<&[u8], LayerProblem> {
        if self.read == self.piece.len() {
            let used = std::mem::take(&mut self.piece);
            self.read = 0;
            if used.capacity() > 0 {
                let _ = self.empty.send(used);
            }
            match self.full.recv() {
                Ok(Ok(piece)) => {
                    self.budget.take_bytes(piece.len() as u64)?;
                    self.piece = piece;
                }
                Ok(Err(CompressionError::Unknown(program))) => {
                    return Err(LayerProblem::UnknownCompression(program));
                }
                Ok(Err(CompressionError::Io(cause))) => {
                    self.budget.go_on()?;
                    let problem = "its compressed stream cannot be read";
                    return Err(LayerProblem::unreadable(problem, cause));
                }
                Err(_) => {}
            }
        }
        Ok(&self.piece[self.read..])
    }

    fn consume(&mut self, bytes: usize) {
        self.read += bytes;
    }
}

impl Pieces<'_> {
    pub(super) fn budget(&mut self) -> &mut Budget {
        self.budget
    }

    /// Reads what is left, so that all of it is hashed.
    pub(super) fn drain(mut self) -> Result<(), LayerProblem> {
        loop {
            let left = self.fill()?.len();
            if left == 0 {
                return Ok(());
            }
            self.consume(left);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn what_was_compressed_comes_back_however_it_was() {
        let text = b"some text, some text, some text".repeat(1000);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&text).unwrap();
        let zstd = zstd::stream::encode_all(&text[..], 1).unwrap();
        for bytes in [text.clone(), gzip.finish().unwrap(), zstd] {
            let mut back = Vec::new();
            decompress(&bytes[..])
                .ok()
                .unwrap()
                .read_to_end(&mut back)
                .unwrap();
            assert!(back == text);
        }
    }

    #[test]
    fn what_is_cut_off_is_an_error() {
        let text = b"some text".repeat(1000);
        let zstd = zstd::stream::encode_all(&text[..], 1).unwrap();
        let mut back = Vec::new();
        assert!(
            decompress(&zstd[..zstd.len() - 3])
                .ok()
                .unwrap()
                .read_to_end(&mut back)
                .is_err()
        );
    }
}
