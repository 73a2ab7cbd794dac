//! Opening what is to be imported: a folder, or a tar that can be read anywhere.
//!
//! Archives name their documents last and their layers first, so a stream or a
//! compressed file is first written, uncompressed, to a nameless file.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::files::{Files, TarFiles, last_entry, layout};
use super::{ImportError, Input};
use crate::layer::{
    BLOCK_BYTES, Compression, CompressionError, LayerError, LayerProblem, Limits, SNIFFED_BYTES,
    decompress, sniff,
};
use crate::regular::{self, Folder};
use crate::store::StoreError;

const COPY_BYTES: usize = 256 << 10;

/// What was opened.
pub(crate) struct Opened {
    pub(crate) files: Files,
    /// For messages.
    pub(crate) name: String,
}

/// Opens an input; `unused` is a path where a file may be made for a moment.
pub(crate) fn open(input: Input, unused: &Path, limits: &Limits) -> Result<Opened, ImportError> {
    let name = input.name();
    let unreadable = |cause| ImportError::Unreadable {
        input: name.clone(),
        cause,
    };
    let not_an_image = |problem: &str| ImportError::NotAnImage {
        input: name.clone(),
        problem: problem.to_owned(),
    };
    let file = match input {
        Input::Read(reader) => spool(reader, unused, &name, limits)?,
        Input::Path(path) => {
            let kind = std::fs::metadata(&path).map_err(unreadable)?.file_type();
            if kind.is_dir() {
                return layout_in(&path, name);
            }
            if !kind.is_file() {
                let kind = regular::named(kind);
                return Err(not_an_image(&format!(
                    "it is {kind}, and neither a file nor a folder; give '-' for it, and read it from standard input"
                )));
            }
            let file = regular::open(&path).map_err(unreadable)?;
            let mut start = [0; SNIFFED_BYTES];
            let read = file.read_at(&mut start, 0).map_err(unreadable)?;
            match sniff(&start[..read]) {
                Compression::None => file,
                _ => spool(Box::new(file), unused, &name, limits)?,
            }
        }
    };
    let bytes = file.metadata().map_err(unreadable)?.len();
    if bytes == 0 {
        return Err(not_an_image("it is empty"));
    }
    let tar = TarFiles::list(file).map_err(|problem| match bytes < BLOCK_BYTES as u64 {
        true => not_an_image("it is no tar"),
        false => ImportError::NotATar {
            input: name.clone(),
            problem,
        },
    })?;
    if tar.seen == 0 {
        return Err(not_an_image("it is a tar with nothing in it"));
    }
    Ok(Opened {
        files: Files::Tar(tar),
        name,
    })
}

fn layout_in(path: &Path, name: String) -> Result<Opened, ImportError> {
    let unreadable = |input: String, cause| ImportError::Unreadable { input, cause };
    let folder = Folder::open(path).map_err(|cause| unreadable(name.clone(), cause))?;
    let files =
        layout(folder).map_err(|(file, cause)| unreadable(format!("{file} in {name}"), cause))?;
    match files {
        Some(files) => Ok(Opened { files, name }),
        None => Err(ImportError::NotAnImage {
            input: name,
            problem: "it is a folder, but has no 'oci-layout' and 'index.json'".to_owned(),
        }),
    }
}

/// A stream that fails where it has more bytes than an image may have: much
/// that is compressed may be nothing, over and over.
struct Bounded<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // A byte more than there may be tells that there is more.
        let most = usize::try_from(self.left).map_or(buffer.len(), |left| left.max(1));
        let most = most.min(buffer.len());
        let read = self.inner.read(&mut buffer[..most])?;
        let left = self.left.checked_sub(read as u64);
        self.left = left.ok_or(io::ErrorKind::FileTooLarge)?;
        Ok(read)
    }
}

/// Writes all of a stream, uncompressed, to a file without a name.
fn spool(
    reader: Box<dyn Read + Send>,
    unused: &Path,
    name: &str,
    limits: &Limits,
) -> Result<File, ImportError> {
    let most = limits.image_bytes_max;
    let too_large = |entry| {
        ImportError::Layer(LayerError {
            layer: name.to_owned(),
            problem: LayerProblem::TooLarge { most, entry },
        })
    };
    let unreadable = |cause: io::Error| match cause.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => {
            ImportError::CutOff {
                input: name.to_owned(),
                cause,
            }
        }
        _ => ImportError::Unreadable {
            input: name.to_owned(),
            cause,
        },
    };
    let unwritable = |cause| ImportError::Store(StoreError::io("write", unused, cause));
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(unused);
    let mut file = file.map_err(unwritable)?;
    std::fs::remove_file(unused).map_err(unwritable)?;
    let bounded = Bounded {
        inner: reader,
        left: most,
    };
    let mut reader = decompress(bounded).map_err(|error| match error {
        CompressionError::Unknown(program) => ImportError::NotAnImage {
            input: name.to_owned(),
            problem: format!(
                "it is compressed with {program}; decompress it on its way: '{program} -cd < FILE | consecution image import NAME -'"
            ),
        },
        CompressionError::Io(cause) => unreadable(cause),
    })?;
    let mut buffer = vec![0; COPY_BYTES];
    let mut total = 0;
    loop {
        let read = match reader.read(&mut buffer) {
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => continue,
            Err(cause) if cause.kind() == io::ErrorKind::FileTooLarge => {
                return Err(too_large(last_entry(&file)));
            }
            read => read.map_err(unreadable)?,
        };
        if read == 0 {
            return Ok(file);
        }
        total += read as u64;
        file.write_all(&buffer[..read]).map_err(unwritable)?;
        if total > most {
            return Err(too_large(last_entry(&file)));
        }
    }
}
