//! The entries of a tar, extensions understood.
//!
//! Understands ustar, GNU long names, sparse files, volume labels and incremental
//! backups, PAX with sparse files of formats 0.1 and 1.0. Touches no file.

use super::LayerProblem;
use super::pax::{self, Pax};
use super::sparse::{self, Sparse};
use super::tar_stream::{Source, TarStream, is_blank};

/// The most bytes in the extended headers of one entry. They are held in memory; real
/// ones (a path, a link, a sparse map) have some KiB.
const EXTENSION_BYTES_MAX: u64 = 1 << 20;

/// GNU tar's own types: a folder of an incremental backup, whose content lists
/// what was in it; the rest of a file that began in another volume; a label.
const DUMP_FOLDER: u8 = b'D';
const CONTINUED: u8 = b'M';
const LABEL: u8 = b'V';
/// What a PAX archive of several volumes has in front of the rest of a file.
const CONTINUED_PAX: &[u8] = b" GNU.volume.offset=";

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

impl<S: Source> TarStream<S> {
    /// The next entry, `None` at the end. Skips what is unread of the one before.
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
                extension_bytes += self.content_left();
                if extension_bytes > EXTENSION_BYTES_MAX {
                    return Err(LayerProblem::damaged(format!(
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

    /// Refuses a global header that says that the archive begins in another volume.
    fn check_global(&mut self) -> Result<(), LayerProblem> {
        // Such a header is short.
        if self.content_left() > EXTENSION_BYTES_MAX {
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
            stored_bytes: self.content_left(),
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
        entry.sparse = sparse::read(self, header, &mut pax, &entry.path)?;
        if let Some(name) = pax.sparse_name.take() {
            entry.path = name;
        }
        entry.stored_bytes = self.content_left();
        Ok(entry)
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

/// Reads an id; one that cannot be read belongs to nobody.
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
