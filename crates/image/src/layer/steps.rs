//! What looking up the folders of a layer's entries may cost.
//!
//! With links that lead to links, a short path can have a long way. Each of an image's
//! millions of entries may have one, so each way has a bound, and all of them together.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::LayerProblem;

/// The most folders and links that one path may lead through: twice the names that a path
/// of the longest length can have.
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
