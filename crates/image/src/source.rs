//! Where images come from: a registry or an archive, a file each.

pub(crate) mod archive;
pub(crate) mod registry;

use crate::digest::Digest;

/// Hears how an image's layers get on; enough for a bar a layer.
///
/// Called from the task that pulls, in order for each layer; must not block.
pub trait Progress: Send + Sync {
    /// A layer was found that has this many compressed bytes.
    fn layer(&self, layer: &Digest, total_bytes: u64);
    /// So many of its bytes are here. May go back, when a download starts over.
    fn advanced(&self, layer: &Digest, bytes: u64);
    /// The layer is unpacked.
    fn done(&self, layer: &Digest);
}

/// Tells nobody.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoProgress;

impl Progress for NoProgress {
    fn layer(&self, _: &Digest, _: u64) {}
    fn advanced(&self, _: &Digest, _: u64) {}
    fn done(&self, _: &Digest) {}
}
