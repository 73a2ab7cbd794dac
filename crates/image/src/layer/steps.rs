//! What finding the folders of a layer's entries may cost.
//!
//! Links that lead to links make a short path a long way. Each of an image's
//! millions of entries may go one, so a way has a bound, and all of them together.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::LayerProblem;

/// Folders and links that one path may lead through. No path has more than half
/// as many names.
pub(super) const PATH_STEPS_MAX: u64 = 4096;

/// Steps from folder to folder that an image may still take.
#[derive(Debug)]
pub(crate) struct Steps {
    left: u64,
    most: u64,
    cancelled: Arc<AtomicBool>,
}

impl Steps {
    /// Setting `cancelled` makes every later step fail.
    pub(crate) fn new(most: u64, cancelled: Arc<AtomicBool>) -> Self {
        Self {
            left: most,
            most,
            cancelled,
        }
    }

    pub(super) fn take(&mut self, steps: u64) -> Result<(), LayerProblem> {
        if self.cancelled.load(Ordering::Relaxed) {
            return Err(LayerProblem::Cancelled);
        }
        let left = self.left.checked_sub(steps);
        self.left = left.ok_or(LayerProblem::TooMany {
            what: "folders and links on the paths of its files",
            most: self.most,
        })?;
        Ok(())
    }
}
