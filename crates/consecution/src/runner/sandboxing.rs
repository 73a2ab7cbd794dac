//! What a runner's links may have at most, whatever they ask for.

use sandbox::{Ids, SCRATCH_BYTES_DEFAULT};

use super::pipeline::Bounds;

/// What the links of a runner may have.
#[derive(Debug, Clone)]
pub struct Sandboxing {
    /// Whether a link with `Network: host` is run. Others are refused it, since it
    /// reaches whatever listens on this host.
    pub host_network: bool,
    /// Whether a link is run whose `Constraints` cannot be kept on this host.
    pub unenforced_limits: bool,
    /// How much a process may keep in each of its private folders, in memory.
    pub scratch_bytes_max: u64,
    /// How much a process may write to standard output, if not as much as it
    /// likes.
    pub output_bytes_max: Option<u64>,
    /// The same for standard error.
    pub stderr_bytes_max: Option<u64>,
    /// Which ids of the host its processes have: those that the roots in its
    /// store were unpacked for.
    pub ids: Ids,
}

impl Sandboxing {
    pub(super) fn bounds(&self) -> Bounds {
        Bounds {
            output_bytes_max: self.output_bytes_max,
            stderr_bytes_max: self.stderr_bytes_max,
        }
    }
}

impl Default for Sandboxing {
    fn default() -> Sandboxing {
        Sandboxing {
            host_network: false,
            unenforced_limits: false,
            scratch_bytes_max: SCRATCH_BYTES_DEFAULT,
            output_bytes_max: None,
            stderr_bytes_max: None,
            ids: Ids::detect(),
        }
    }
}
