//! Tar, read as a stream of blocks: headers, verified, and the content between them.
//! `entry` says what the headers mean.
//!
//! The `tar` crate decodes header blocks; the loop around it is ours, because
//! an extended header must have a bound before it is read, and file contents
//! should go from the decompressor's buffer to the file without a copy between.

use super::LayerProblem;

/// Bytes of one tar block.
pub(crate) const BLOCK_BYTES: usize = 512;

/// Where a tar's bytes come from.
pub(crate) trait Source {
    /// The next bytes: at least one, or none at the end. They stay until they are
    /// consumed.
    fn fill(&mut self) -> Result<&[u8], LayerProblem>;
    /// Drops this many of them.
    fn consume(&mut self, bytes: usize);
    /// Skips this many bytes.
    fn skip(&mut self, mut bytes: u64) -> Result<(), LayerProblem> {
        while bytes > 0 {
            let there = self.fill()?.len();
            if there == 0 {
                return Err(LayerProblem::cut_off());
            }
            let step = usize::try_from(bytes).map_or(there, |bytes| bytes.min(there));
            self.consume(step);
            bytes -= step as u64;
        }
        Ok(())
    }
}

/// A tar being read.
pub(crate) struct TarStream<S> {
    source: S,
    /// Bytes of the current entry's content not yet read, and its padding.
    content_left: u64,
    padding: u64,
    /// Whether the two zero blocks at the end were seen.
    ended: bool,
}

impl<S: Source> TarStream<S> {
    pub(crate) fn new(source: S) -> Self {
        Self {
            source,
            content_left: 0,
            padding: 0,
            ended: false,
        }
    }

    pub(crate) fn source(&self) -> &S {
        &self.source
    }

    pub(crate) fn into_source(self) -> S {
        self.source
    }

    pub(crate) fn source_mut(&mut self) -> &mut S {
        &mut self.source
    }

    /// Bytes of the current entry's content that were not read yet.
    pub(crate) fn content_left(&self) -> u64 {
        self.content_left
    }

    /// True once the end marker was read, rather than a bare end of the bytes.
    pub(crate) fn ended(&self) -> bool {
        self.ended
    }

    /// The next header block that is not zero, its checksum verified.
    pub(super) fn next_header(&mut self) -> Result<Option<tar::Header>, LayerProblem> {
        self.source.skip(self.content_left)?;
        self.content_left = 0;
        self.skip_padding()?;
        let mut zero_blocks = 0;
        loop {
            if self.source.fill()?.is_empty() {
                return Ok(None);
            }
            let block = self.read_block()?;
            if block.iter().all(|&byte| byte == 0) {
                zero_blocks += 1;
                if zero_blocks == 2 {
                    self.ended = true;
                    return Ok(None);
                }
                continue;
            }
            let header = tar::Header::from_byte_slice(&block).clone();
            if !is_checksum_right(&header, &block) {
                return Err(LayerProblem::damaged("a tar header has a wrong checksum"));
            }
            let size = match is_blank(&header.as_old().size) {
                true => Ok(0),
                false => header.entry_size(),
            };
            let unreadable = |cause| LayerProblem::unreadable("a tar header has no size", cause);
            self.set_content(size.map_err(unreadable)?);
            return Ok(Some(header));
        }
    }

    /// Skips the padding after an entry. Some writers, umoci's `insert` among them, end
    /// the tar without padding the last file, and without a marker. Nothing of the
    /// content is missing then.
    fn skip_padding(&mut self) -> Result<(), LayerProblem> {
        while self.padding > 0 {
            let there = self.source.fill()?.len();
            if there == 0 {
                self.padding = 0;
            }
            let step = usize::try_from(self.padding).map_or(there, |padding| padding.min(there));
            self.source.consume(step);
            self.padding -= step as u64;
        }
        Ok(())
    }

    pub(super) fn set_content(&mut self, bytes: u64) {
        self.content_left = bytes;
        self.padding = (BLOCK_BYTES as u64 - bytes % BLOCK_BYTES as u64) % BLOCK_BYTES as u64;
    }

    /// A whole block, which is not counted as content.
    pub(super) fn read_block(&mut self) -> Result<[u8; BLOCK_BYTES], LayerProblem> {
        let mut block = [0; BLOCK_BYTES];
        let mut filled = 0;
        while filled < BLOCK_BYTES {
            let there = self.source.fill()?;
            if there.is_empty() {
                return Err(LayerProblem::cut_off());
            }
            let step = there.len().min(BLOCK_BYTES - filled);
            block[filled..filled + step].copy_from_slice(&there[..step]);
            self.source.consume(step);
            filled += step;
        }
        Ok(block)
    }

    /// A whole block of the current entry's content.
    pub(super) fn read_content_block(&mut self) -> Result<[u8; BLOCK_BYTES], LayerProblem> {
        let left = self.content_left.checked_sub(BLOCK_BYTES as u64);
        self.content_left =
            left.ok_or_else(|| LayerProblem::damaged("the map of a sparse file is cut off"))?;
        self.read_block()
    }

    /// All of the current entry's content; the caller has bounded it.
    pub(super) fn read_content(&mut self) -> Result<Vec<u8>, LayerProblem> {
        let mut content = Vec::new();
        let all = self.content_left;
        self.content(all, |bytes| {
            content.extend_from_slice(bytes);
            Ok(())
        })?;
        Ok(content)
    }

    /// Hands the next `bytes` of the current entry's content to `sink`, piece by
    /// piece, straight from the source's buffer.
    pub(crate) fn content(
        &mut self,
        bytes: u64,
        mut sink: impl FnMut(&[u8]) -> Result<(), LayerProblem>,
    ) -> Result<(), LayerProblem> {
        let mut left = bytes.min(self.content_left);
        while left > 0 {
            let there = self.source.fill()?;
            if there.is_empty() {
                return Err(LayerProblem::cut_off());
            }
            let step = usize::try_from(left).map_or(there.len(), |left| left.min(there.len()));
            sink(&there[..step])?;
            self.source.consume(step);
            left -= step as u64;
            self.content_left -= step as u64;
        }
        Ok(())
    }
}

/// Whether a number was left blank, which stands for zero.
pub(super) fn is_blank(field: &[u8]) -> bool {
    field.iter().all(|byte| matches!(byte, b' ' | 0))
}

/// Whether the checksum is that of the block with blanks in the checksum's place. Old
/// tars summed signed bytes; both sums are accepted.
fn is_checksum_right(header: &tar::Header, block: &[u8; BLOCK_BYTES]) -> bool {
    let Ok(wanted) = header.cksum() else {
        return false;
    };
    let bytes = || block[..148].iter().chain(&[b' '; 8]).chain(&block[156..]);
    let unsigned: u32 = bytes().map(|&byte| u32::from(byte)).sum();
    let signed: i64 = bytes().map(|&byte| i64::from(byte.cast_signed())).sum();
    unsigned == wanted || signed == i64::from(wanted)
}
