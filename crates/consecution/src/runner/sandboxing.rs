//! The limits of a runner for its links, whatever they ask for.

use sandbox::{Ids, SCRATCH_BYTES_DEFAULT};

use super::pipeline::Bounds;
use super::provisions::Provisions;

/// The limits of a runner for its links.
#[derive(Debug, Clone)]
pub struct Sandboxing {
    /// Whether links with `Network: host` are run. By default they are refused, because they
    /// reach everything that listens on this host.
    pub host_network: bool,
    /// Whether links are run whose `Constraints` this host cannot enforce.
    pub unenforced_limits: bool,
    /// The most bytes in each private folder of a process, and of its root if it may write
    /// there; they are in memory. A link that asks for less gets less.
    pub scratch_bytes_max: u64,
    /// The most bytes that a process may write to standard output; `None` for no limit.
    pub output_bytes_max: Option<u64>,
    /// The same for standard error.
    pub stderr_bytes_max: Option<u64>,
    /// Whether what its links write to standard error is logged, line by line, within bounds.
    pub stderr_log: bool,
    /// The ids of its processes on the host. The roots in its store must have been unpacked for
    /// them.
    pub ids: Ids,
    /// What its links may name.
    pub provisions: Provisions,
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
            stderr_log: false,
            ids: Ids::detect(),
            provisions: Provisions::default(),
        }
    }
}
