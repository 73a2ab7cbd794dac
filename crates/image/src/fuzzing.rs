//! What the fuzzers call: readers of hostile bytes that are not public. Only in
//! builds for fuzzing (`make fuzz`).

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::layer::{self, Budget, Layer, Root, Steps};
use crate::source::registry::credentials::Credentials;
use crate::{Limits, Owners, config, manifest};

/// Reads a manifest or an index.
pub fn manifest(bytes: &[u8], media_type: &str) -> bool {
    manifest::read(bytes, media_type, Limits::default().layers_max).is_ok()
}

/// Reads an image's config with so many layers.
pub fn config(bytes: &[u8], layers: usize) -> bool {
    config::read(bytes, layers).is_ok()
}

/// Reads a credentials file, and looks for a registry in it; asks no helper.
pub fn credentials(file: &Path, registry: &str) -> bool {
    Credentials::from_file(file).is_ok_and(|credentials| credentials.knows(registry))
}

/// Unpacks layers, each as it would be compressed, into `root`, which must not
/// exist; `trash` is an empty folder beside it.
pub fn unpack(layers: &[&[u8]], root: &Path, trash: &Path, limits: &Limits) -> bool {
    let steps = Steps::new(limits.steps_max, Arc::default());
    let Ok(mut root) = Root::create(root, trash, Owners::Mine, steps) else {
        return false;
    };
    let mut budget = Budget::new(limits, Arc::new(AtomicBool::new(false)));
    layers.iter().enumerate().all(|(at, bytes)| {
        let layer = Layer {
            name: at.to_string(),
            first: at == 0,
            diff_id: None,
            needs_end: false,
        };
        layer::unpack(&mut root, &layer, None, Box::new(*bytes), &mut budget).is_ok()
    })
}

/// Removes a tree, whatever is in it.
pub fn delete(tree: &Path) {
    let _ = layer::delete_tree(tree);
}
