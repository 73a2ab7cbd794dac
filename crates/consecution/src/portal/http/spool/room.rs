//! The room for early output, in memory and in files.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// How many bytes may wait in memory, of all calls together.
const MEMORY_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// By default, how many bytes may wait in all.
pub const BYTES_MAX_DEFAULT: u64 = 1024 * 1024 * 1024;

/// The settings for output that comes before its reply may begin.
#[derive(Debug, Clone)]
pub struct SpoolOptions {
    /// The folder for files; `None` for memory alone.
    pub folder: Option<PathBuf>,
    /// The most bytes, of all calls together, in memory and in files; with 0, replies begin at
    /// once.
    pub bytes_max: u64,
}

impl Default for SpoolOptions {
    fn default() -> SpoolOptions {
        SpoolOptions {
            folder: None,
            bytes_max: BYTES_MAX_DEFAULT,
        }
    }
}

/// The room, which all calls share.
pub(in super::super) struct Room {
    pub(super) folder: Option<PathBuf>,
    pub(super) memory_bytes_max: u64,
    bytes_max: u64,
    pub(super) used: Mutex<Used>,
    used_bytes: Gauge,
    /// Counts calls that found no room.
    pub(super) full: Counter,
    /// Whether it was logged that a file could not be written.
    is_bad: AtomicBool,
}

/// The used bytes, of a call or of all.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Used {
    pub(super) memory: u64,
    pub(super) file: u64,
}

impl Used {
    pub(super) fn all(self) -> u64 {
        self.memory + self.file
    }
}

/// Where bytes are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Memory,
    File,
}

impl Room {
    /// Checks whether the folder can be written, and so blocks. If not, logs that and uses
    /// memory alone.
    pub(in super::super) fn open(options: SpoolOptions) -> Room {
        let SpoolOptions { folder, bytes_max } = options;
        let folder = folder.filter(|folder| {
            if bytes_max == 0 {
                return false;
            }
            let made = std::fs::create_dir_all(folder).and_then(|()| tempfile::tempfile_in(folder));
            if let Err(error) = &made {
                tracing::warn!(
                    "failed to write to the spool's folder '{}', so only memory is used: {error}",
                    folder.display()
                );
            }
            made.is_ok()
        });
        Room {
            folder,
            memory_bytes_max: MEMORY_BYTES_MAX,
            bytes_max,
            used: Mutex::default(),
            used_bytes: Gauge::default(),
            full: Counter::default(),
            is_bad: AtomicBool::new(false),
        }
    }

    pub(in super::super) fn count_in(&self, registry: &mut Registry) {
        let help = "Bytes of output that wait until their reply may begin";
        registry.register("http_spool_bytes", help, self.used_bytes.clone());
        let help = "Calls whose output found no more room to wait, and whose reply began early";
        registry.register("http_spool_full", help, self.full.clone());
    }

    /// Whether anything may wait at all.
    pub(in super::super) fn is_there(&self) -> bool {
        self.bytes_max > 0
    }

    /// Reserves room for `bytes` more of a call that already uses `own`. `None` if there is no
    /// room.
    pub(super) fn take(&self, own: &mut Used, bytes: u64, is_behind_file: bool) -> Option<Place> {
        let mut used = self.used.lock();
        let is_within = |own: u64, used: u64, max: u64| {
            let others = used - own;
            own + bytes <= max.saturating_sub(others) / 2
        };
        if !is_within(own.all(), used.all(), self.bytes_max) {
            return None;
        }
        let fits = is_within(own.memory, used.memory, self.memory_bytes_max);
        let place = match fits && !is_behind_file {
            true => Place::Memory,
            false => self.folder.as_ref().map(|_| Place::File)?,
        };
        for used in [own, &mut *used] {
            match place {
                Place::Memory => used.memory += bytes,
                Place::File => used.file += bytes,
            }
        }
        self.used_bytes.set(used.all().cast_signed());
        Some(place)
    }

    pub(super) fn give_back(&self, own: &mut Used, given: Used) {
        let mut used = self.used.lock();
        for used in [own, &mut *used] {
            used.memory -= given.memory;
            used.file -= given.file;
        }
        self.used_bytes.set(used.all().cast_signed());
    }

    /// Appends to a file, or to a new one. Blocks.
    pub(super) fn write(
        &self,
        file: Option<Arc<File>>,
        bytes: &[u8],
        at: u64,
    ) -> io::Result<Arc<File>> {
        let file = match (file, &self.folder) {
            (Some(file), _) => file,
            (None, Some(folder)) => Arc::new(tempfile::tempfile_in(folder)?),
            (None, None) => return Err(io::ErrorKind::Unsupported.into()),
        };
        file.write_all_at(bytes, at)?;
        Ok(file)
    }

    /// Logs that a file could not be written: once, until writing succeeds again.
    pub(super) fn wrote(&self, error: Option<&io::Error>) {
        let was_bad = self.is_bad.swap(error.is_some(), Ordering::Relaxed);
        if let (Some(error), false) = (error, was_bad) {
            tracing::warn!("failed to write to the spool: {error}");
        }
    }
}
