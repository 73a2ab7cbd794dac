//! What the fuzzers call.

use std::path::Path;

use crate::archive;

/// Unpacks a tar into a folder, as for a link whose input is a folder.
pub fn unpack(tar: &[u8], folder: &Path) {
    let _ = archive::unpack_from(folder, tar);
}
