//! The files of an archive or a folder, by path, readable in any order.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use crate::layer::{Kind, LayerProblem, PATH_BYTES_MAX, Source, TarStream};
use crate::regular::Folder;

/// Entries that an image archive may have; what has more is a root file system.
const ENTRIES_MAX: usize = 4096;
/// Entries that are searched for the last one of a tar that is too large: its name is
/// worth a second, but not more.
const SOUGHT_MAX: usize = 1 << 20;
/// The most links from file to file: old versions of `docker save` linked equal layers.
const FILE_LINKS_MAX: usize = 8;
const BUFFER_BYTES: usize = 64 << 10;

/// Where an image's documents and layers are read from.
pub(crate) enum Files {
    Folder(Folder),
    Tar(TarFiles),
}

/// A tar whose entries were listed.
pub(crate) struct TarFiles {
    file: Arc<File>,
    entries: HashMap<String, Item>,
    /// Entries of any kind that were seen.
    pub(crate) seen: usize,
}

enum Item {
    /// Offset and length.
    Bytes(u64, u64),
    Link(String),
}

impl Files {
    pub(crate) fn contains(&self, path: &str) -> bool {
        match self {
            // What is there and cannot be opened is read next, which says why not.
            Self::Folder(folder) => !matches!(folder.file(path), Ok(None)),
            Self::Tar(tar) => tar.get(path).is_some(),
        }
    }

    /// Whether it has the `json` and `layer.tar` of each layer that Docker once
    /// wrote without a manifest.
    pub(super) fn is_image_archive_of_old(&self) -> bool {
        match self {
            Self::Folder(_) => false,
            Self::Tar(tar) => tar.entries.keys().any(|path| path.ends_with("/layer.tar")),
        }
    }

    /// A file's content and size, `None` where there is none.
    pub(crate) fn open(&self, path: &str) -> io::Result<Option<(Box<dyn Read + Send>, u64)>> {
        match self {
            Self::Folder(folder) => {
                let Some(file) = folder.file(path)? else {
                    return Ok(None);
                };
                // One that grows is no longer than it was.
                let bytes = file.metadata()?.len();
                Ok(Some((Box::new(file.take(bytes)), bytes)))
            }
            Self::Tar(tar) => Ok(tar.get(path).map(|(offset, length)| {
                let part = Part {
                    file: Arc::clone(&tar.file),
                    offset,
                    left: length,
                };
                (Box::new(part) as Box<dyn Read + Send>, length)
            })),
        }
    }

    /// A small file's content; its size if that is more than `bytes_max`.
    pub(crate) fn read(
        &self,
        path: &str,
        bytes_max: u64,
    ) -> io::Result<Option<Result<Vec<u8>, u64>>> {
        let Some((reader, bytes)) = self.open(path)? else {
            return Ok(None);
        };
        if bytes > bytes_max {
            return Ok(Some(Err(bytes)));
        }
        let mut content = Vec::new();
        reader.take(bytes_max).read_to_end(&mut content)?;
        Ok(Some(Ok(content)))
    }
}

impl TarFiles {
    /// Lists a tar's entries, as many as an image archive may have.
    pub(crate) fn list(file: File) -> Result<Self, LayerProblem> {
        let file = Arc::new(file);
        let mut tar = TarStream::new(Blocks::new(Arc::clone(&file)));
        let mut entries = HashMap::new();
        let mut seen = 0;
        while seen < ENTRIES_MAX
            && let Some(entry) = tar.next_entry()?
        {
            seen += 1;
            // None of an image's own files, and 4096 of them could fill memory.
            if entry.path.len().max(entry.link.len()) > PATH_BYTES_MAX {
                continue;
            }
            let path = clean(&String::from_utf8_lossy(&entry.path));
            let item = match entry.kind {
                Kind::File if entry.sparse.is_none() => {
                    Item::Bytes(tar.source().position, entry.stored_bytes)
                }
                Kind::HardLink => Item::Link(clean(&String::from_utf8_lossy(&entry.link))),
                Kind::Symlink => {
                    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
                    Item::Link(clean(&format!(
                        "{folder}/{}",
                        String::from_utf8_lossy(&entry.link)
                    )))
                }
                _ => continue,
            };
            entries.insert(path, item);
        }
        Ok(Self {
            file,
            entries,
            seen,
        })
    }

    /// The whole tar again, from its start.
    pub(crate) fn whole(&self) -> Box<dyn Read + Send> {
        Box::new(Part {
            file: Arc::clone(&self.file),
            offset: 0,
            left: u64::MAX,
        })
    }

    fn get(&self, path: &str) -> Option<(u64, u64)> {
        let mut path = path.to_owned();
        for _ in 0..FILE_LINKS_MAX {
            match self.entries.get(&path)? {
                Item::Bytes(offset, length) => return Some((*offset, *length)),
                Item::Link(target) => path.clone_from(target),
            }
        }
        None
    }
}

/// Path and size of the entry in which a tar was cut off, because there was no room for
/// it.
pub(super) fn last_entry(file: &File) -> Option<(String, u64)> {
    let file = Arc::new(file.try_clone().ok()?);
    let mut tar = TarStream::new(Blocks::new(file));
    let mut last = None;
    for _ in 0..SOUGHT_MAX {
        match tar.next_entry() {
            Ok(Some(entry)) => last = Some(entry),
            Ok(None) => return None,
            Err(_) => {
                let entry = last?;
                let path = String::from_utf8_lossy(&entry.path).into_owned();
                return Some((path, entry.bytes()));
            }
        }
    }
    None
}

/// `./a/../b` is `b`. Only a key for looking up, never a path of the host.
fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// A stretch of a file, read without moving the file's own position.
struct Part {
    file: Arc<File>,
    offset: u64,
    left: u64,
}

impl Read for Part {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let read = self.file.read_at(&mut buffer[..most], self.offset)?;
        self.offset += read as u64;
        self.left -= read as u64;
        Ok(read)
    }
}

/// A tar source over a file, which leaves contents out by not reading them.
struct Blocks {
    file: Arc<File>,
    /// Where in the file the next byte to be consumed is.
    position: u64,
    buffer: Vec<u8>,
    read: usize,
}

impl Blocks {
    fn new(file: Arc<File>) -> Self {
        Self {
            file,
            position: 0,
            buffer: Vec::new(),
            read: 0,
        }
    }
}

impl Source for Blocks {
    fn fill(&mut self) -> Result<&[u8], LayerProblem> {
        if self.read == self.buffer.len() {
            self.buffer.resize(BUFFER_BYTES, 0);
            let read = self.file.read_at(&mut self.buffer, self.position);
            let unreadable = |cause| LayerProblem::unreadable("it cannot be read", cause);
            let read = read.map_err(unreadable)?;
            self.buffer.truncate(read);
            self.read = 0;
        }
        Ok(&self.buffer[self.read..])
    }

    fn consume(&mut self, bytes: usize) {
        self.read += bytes;
        self.position += bytes as u64;
    }

    fn skip(&mut self, bytes: u64) -> Result<(), LayerProblem> {
        let buffered = (self.buffer.len() - self.read) as u64;
        if bytes <= buffered {
            self.consume(usize::try_from(bytes).unwrap_or(0));
            return Ok(());
        }
        let to = self.position.saturating_add(bytes);
        let length = self.file.metadata().map_or(u64::MAX, |about| about.len());
        if to > length {
            return Err(LayerProblem::cut_off());
        }
        self.buffer.clear();
        self.read = 0;
        self.position = to;
        Ok(())
    }
}

/// The folder's files, if it is an OCI layout; an error names the file at fault.
pub(crate) fn layout(folder: Folder) -> Result<Option<Files>, (&'static str, io::Error)> {
    for file in ["oci-layout", "index.json"] {
        if folder.file(file).map_err(|cause| (file, cause))?.is_none() {
            return Ok(None);
        }
    }
    Ok(Some(Files::Folder(folder)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_no_image_has_are_not_remembered() {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Regular);
        header.set_size(0);
        header.set_mode(0o644);
        let (short, long) = ("a".to_owned(), "a".repeat(PATH_BYTES_MAX + 1));
        for path in [&short, &long] {
            tar.append_data(&mut header, path, &b""[..]).unwrap();
        }
        let mut file = tempfile::tempfile().unwrap();
        io::Write::write_all(&mut file, &tar.into_inner().unwrap()).unwrap();
        let listed = TarFiles::list(file).unwrap();
        assert_eq!(listed.seen, 2);
        assert_eq!(listed.entries.keys().collect::<Vec<_>>(), [&short]);
    }

    #[test]
    fn a_file_that_grows_is_read_as_long_as_it_was() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("blob");
        std::fs::write(&path, "short").unwrap();
        let files = Files::Folder(Folder::open(place.path()).unwrap());
        let (mut reader, bytes) = files.open("blob").unwrap().unwrap();
        std::fs::write(&path, "much longer").unwrap();
        let mut read = String::new();
        reader.read_to_string(&mut read).unwrap();
        assert_eq!((read.as_str(), bytes), ("much ", 5));
    }

    #[test]
    fn paths_in_archives_are_keys() {
        assert_eq!(clean("./a//b"), "a/b");
        assert_eq!(clean("x/../y/layer.tar"), "y/layer.tar");
        assert_eq!(clean("../../etc/passwd"), "etc/passwd");
    }
}
