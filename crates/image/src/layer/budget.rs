//! What an image may still make us do, counted over all its layers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{LayerProblem, Limits};

/// What an image may still use up; shared by all its layers.
#[derive(Debug)]
pub(crate) struct Budget {
    limits: Limits,
    bytes: u64,
    entries: u64,
    paths_bytes: u64,
    /// Bytes in the files that were written.
    pub(crate) file_bytes: u64,
    cancelled: Arc<AtomicBool>,
}

impl Budget {
    /// A budget with all of the limits left. Setting `cancelled` ends the unpacking soon.
    pub(crate) fn new(limits: &Limits, cancelled: Arc<AtomicBool>) -> Self {
        Self {
            limits: limits.clone(),
            bytes: 0,
            entries: 0,
            paths_bytes: 0,
            file_bytes: 0,
            cancelled,
        }
    }

    pub(super) fn cancelled(&self) -> &Arc<AtomicBool> {
        &self.cancelled
    }

    /// Fails once the unpacking is cancelled.
    pub(super) fn go_on(&self) -> Result<(), LayerProblem> {
        match self.cancelled.load(Ordering::Relaxed) {
            true => Err(LayerProblem::Cancelled),
            false => Ok(()),
        }
    }

    pub(super) fn take_bytes(&mut self, bytes: u64) -> Result<(), LayerProblem> {
        self.go_on()?;
        self.bytes = self.bytes.saturating_add(bytes);
        let most = self.limits.image_bytes_max;
        if self.bytes > most {
            return Err(LayerProblem::TooLarge { most, entry: None });
        }
        Ok(())
    }

    /// Counts files and folders that are made: a few entries can ask for many.
    pub(crate) fn take_entries(&mut self, entries: u64) -> Result<(), LayerProblem> {
        self.entries = self.entries.saturating_add(entries);
        let most = self.limits.entries_max;
        if self.entries > most {
            return Err(LayerProblem::TooMany {
                what: "entries",
                most,
            });
        }
        Ok(())
    }

    /// Checks how much must be remembered now.
    pub(super) fn check_memory(&self, bytes: u64) -> Result<(), LayerProblem> {
        let most = self.limits.memory_bytes_max;
        match bytes > most {
            true => Err(LayerProblem::TooMany {
                what: "bytes to remember of its files and folders at a time",
                most,
            }),
            false => Ok(()),
        }
    }

    pub(super) fn take_entry(&mut self, path: &[u8]) -> Result<(), LayerProblem> {
        // Checked for each entry, since one piece of the stream has hundreds of them.
        self.go_on()?;
        self.take_entries(1)?;
        self.paths_bytes = self.paths_bytes.saturating_add(path.len() as u64);
        let most = self.limits.paths_bytes_max;
        if self.paths_bytes > most {
            return Err(LayerProblem::TooMany {
                what: "bytes in its paths",
                most,
            });
        }
        let most = self.limits.path_bytes_max;
        if path.len() > most {
            let start = &path[..most.min(60)];
            return Err(LayerProblem::bad_entry(
                start,
                format!(
                    "… has a path of {} bytes, at most {most} are allowed",
                    path.len()
                ),
            ));
        }
        Ok(())
    }
}
