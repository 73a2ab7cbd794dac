//! Tar, read as a stream: one header after the other, extensions understood.
//!
//! The `tar` crate decodes header blocks; the loop around it is ours, because
//! an extended header must have a bound before it is read, and file contents
//! should go from the decompressor's buffer to the file without a copy between.
//! Understands ustar, GNU long names, sparse files, volume labels and incremental
//! backups, PAX with sparse files of formats 0.1 and 1.0. Touches no file.

use super::LayerProblem;
use super::pax::{self, Pax};
use super::sparse::{self, Sparse};

/// Bytes of one tar block.
pub(crate) const BLOCK_BYTES: usize = 512;
/// Most bytes in the extended headers of one entry.
const EXTENSION_BYTES_MAX: u64 = 1 << 20;

/// GNU tar's own types: a folder of an incremental backup, whose content lists
/// what was in it; the rest of a file that began in another volume; a label.
const DUMP_FOLDER: u8 = b'D';
const CONTINUED: u8 = b'M';
const LABEL: u8 = b'V';
/// What a PAX archive of several volumes has in front of the rest of a file.
const CONTINUED_PAX: &[u8] = b" GNU.volume.offset=";

/// Where a tar's bytes come from.
pub(crate) trait Source {
    /// The next bytes, at least one, unless it is the end. They stay until
    /// consumed.
    fn fill(&mut self) -> Result<&[u8], LayerProblem>;
    /// These many of them are done with.
    fn consume(&mut self, bytes: usize);
    /// Leaves out this many bytes.
    fn skip(&mut self, mut bytes: u64) -> Result<(), LayerProblem> {
        while bytes > 0 {
            let there = self.fill()?.len();
            if there == 0 {
                return Err(cut_off());
            }
            let step = usize::try_from(bytes).map_or(there, |bytes| bytes.min(there));
            self.consume(step);
            bytes -= step as u64;
        }
        Ok(())
    }
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Directory,
    Symlink,
    HardLink,
    Fifo,
    Device,
}

/// One entry's header, extensions applied.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) kind: Kind,
    pub(crate) path: Vec<u8>,
    /// What a link points to.
    pub(crate) link: Vec<u8>,
    /// Bytes of content that follow in the stream.
    pub(crate) stored_bytes: u64,
    pub(crate) mode: u32,
    pub(crate) uid: u64,
    pub(crate) gid: u64,
    /// Modification time: seconds since 1970 and nanoseconds.
    pub(crate) modified: (i64, u32),
    pub(crate) sparse: Option<Sparse>,
}

impl Entry {
    /// How large it is once it is unpacked.
    pub(crate) fn bytes(&self) -> u64 {
        let sparse = self.sparse.as_ref();
        sparse.map_or(self.stored_bytes, |sparse| sparse.real_bytes)
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

pub(crate) fn cut_off() -> LayerProblem {
    damaged("the tar ends in the middle of an entry")
}

pub(crate) fn damaged(problem: impl Into<String>) -> LayerProblem {
    LayerProblem::Damaged(problem.into())
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

    /// The next entry, `None` at the end. What is unread of the one before is
    /// left out.
    pub(crate) fn next_entry(&mut self) -> Result<Option<Entry>, LayerProblem> {
        let mut pax = Pax::default();
        let mut long_path = None;
        let mut long_link = None;
        let mut extension_bytes = 0;
        loop {
            let Some(header) = self.next_header()? else {
                return Ok(None);
            };
            let kind = header.entry_type();
            if kind.is_gnu_longname() || kind.is_gnu_longlink() || kind.is_pax_local_extensions() {
                extension_bytes += self.content_left;
                if extension_bytes > EXTENSION_BYTES_MAX {
                    return Err(damaged(format!(
                        "an extended header has over {EXTENSION_BYTES_MAX} bytes"
                    )));
                }
                let text = self.read_content()?;
                match kind {
                    kind if kind.is_gnu_longname() => long_path = Some(without_nul(text)),
                    kind if kind.is_gnu_longlink() => long_link = Some(without_nul(text)),
                    _ => pax::parse(&text, &mut pax)?,
                }
                continue;
            }
            // Global headers, volume labels: nothing of the image.
            if kind.is_pax_global_extensions() {
                self.check_global()?;
                continue;
            }
            if kind.as_byte() == LABEL {
                continue;
            }
            return self.entry(&header, pax, long_path, long_link).map(Some);
        }
    }

    fn check_global(&mut self) -> Result<(), LayerProblem> {
        // Those of volumes are short.
        if self.content_left > EXTENSION_BYTES_MAX {
            return Ok(());
        }
        let text = self.read_content()?;
        match text
            .windows(CONTINUED_PAX.len())
            .any(|part| part == CONTINUED_PAX)
        {
            true => Err(one_of_several(b"")),
            false => Ok(()),
        }
    }

    fn entry(
        &mut self,
        header: &tar::Header,
        mut pax: Pax,
        long_path: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> Result<Entry, LayerProblem> {
        let path = pax
            .path
            .take()
            .or(long_path)
            .unwrap_or_else(|| header.path_bytes().into_owned());
        let header_link = || {
            header
                .link_name_bytes()
                .map(|link| link.into_owned())
                .unwrap_or_default()
        };
        let link = pax.link.take().or(long_link).unwrap_or_else(header_link);
        let bad = |what: &str| {
            LayerProblem::bad_entry(&path, format!("has no readable {what} in its header"))
        };
        let kind = kind_of(header.entry_type(), &path)?;
        if let Some(size) = pax.size {
            self.set_content(size);
        }
        // Hard links and the like carry no content, whatever their size says.
        let has_content = kind == Kind::File || header.entry_type().as_byte() == DUMP_FOLDER;
        if !has_content {
            self.set_content(0);
        }
        let mut entry = Entry {
            kind,
            link,
            stored_bytes: self.content_left,
            mode: match is_blank(&header.as_old().mode) {
                true => 0,
                false => header.mode().map_err(|_| bad("mode"))?,
            },
            uid: pax
                .uid
                .unwrap_or_else(|| id(&header.as_old().uid, header.uid())),
            gid: pax
                .gid
                .unwrap_or_else(|| id(&header.as_old().gid, header.gid())),
            modified: pax.modified.unwrap_or_else(|| (seconds(header), 0)),
            sparse: None,
            path,
        };
        entry.sparse = sparse::read(self, header, &mut pax, &entry)?;
        if let Some(name) = pax.sparse_name.take() {
            entry.path = name;
        }
        entry.stored_bytes = self.content_left;
        Ok(entry)
    }

    /// The next header block that is not zero, its checksum verified.
    fn next_header(&mut self) -> Result<Option<tar::Header>, LayerProblem> {
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
                return Err(damaged("a tar header has a wrong checksum"));
            }
            let size = match is_blank(&header.as_old().size) {
                true => Ok(0),
                false => header.entry_size(),
            };
            self.set_content(size.map_err(|cause| damaged(cause.to_string()))?);
            return Ok(Some(header));
        }
    }

    /// Some writers, umoci's `insert` among them, end without padding the last
    /// file and without a marker. Nothing of the content is missing then.
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
                return Err(cut_off());
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
        self.content_left = left.ok_or_else(|| damaged("the map of a sparse file is cut off"))?;
        self.read_block()
    }

    /// All of the current entry's content; the caller has bounded it.
    fn read_content(&mut self) -> Result<Vec<u8>, LayerProblem> {
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
                return Err(cut_off());
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

fn kind_of(kind: tar::EntryType, path: &[u8]) -> Result<Kind, LayerProblem> {
    use tar::EntryType as Type;
    match kind {
        // Before POSIX, a folder was a file whose name ends with a slash.
        Type::Regular if path.ends_with(b"/") => Ok(Kind::Directory),
        Type::Regular | Type::Continuous | Type::GNUSparse => Ok(Kind::File),
        Type::Directory => Ok(Kind::Directory),
        Type::Symlink => Ok(Kind::Symlink),
        Type::Link => Ok(Kind::HardLink),
        Type::Fifo => Ok(Kind::Fifo),
        Type::Char | Type::Block => Ok(Kind::Device),
        other if other.as_byte() == DUMP_FOLDER => Ok(Kind::Directory),
        other if other.as_byte() == CONTINUED => Err(one_of_several(path)),
        other => Err(LayerProblem::bad_entry(
            path,
            format!(
                "has the unknown type '{}'",
                char::from(other.as_byte()).escape_default()
            ),
        )),
    }
}

fn one_of_several(path: &[u8]) -> LayerProblem {
    LayerProblem::bad_entry(
        path,
        "begins in another volume: this is one of several, which 'tar -xM' puts together",
    )
}

/// A number that is not used may be left blank, and is zero then.
fn is_blank(field: &[u8]) -> bool {
    field.iter().all(|byte| matches!(byte, b' ' | 0))
}

/// An id that cannot be read belongs to nobody.
fn id(field: &[u8], read: std::io::Result<u64>) -> u64 {
    match is_blank(field) {
        true => 0,
        false => read.unwrap_or(u64::MAX),
    }
}

fn without_nul(mut text: Vec<u8>) -> Vec<u8> {
    if let Some(end) = text.iter().position(|&byte| byte == 0) {
        text.truncate(end);
    }
    text
}

/// Modification times before 1970 are negative numbers in base 256.
fn seconds(header: &tar::Header) -> i64 {
    header.mtime().map_or(0, |seconds| seconds.cast_signed())
}

/// The sum over the block with the checksum's own bytes as blanks. Old tars
/// summed signed bytes; both are accepted.
fn is_checksum_right(header: &tar::Header, block: &[u8; BLOCK_BYTES]) -> bool {
    let Ok(wanted) = header.cksum() else {
        return false;
    };
    let bytes = || block[..148].iter().chain(&[b' '; 8]).chain(&block[156..]);
    let unsigned: u32 = bytes().map(|&byte| u32::from(byte)).sum();
    let signed: i64 = bytes().map(|&byte| i64::from(byte.cast_signed())).sum();
    unsigned == wanted || signed == i64::from(wanted)
}
