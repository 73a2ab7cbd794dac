//! One layer from its compressed bytes into a root.

use std::io::Read;

use super::apply::Applier;
use super::budget::Budget;
use super::decompress::{self, Pieces};
use super::entry::Entry;
use super::shared::LayerFiles;
use super::sparse::Sparse;
use super::tar_stream::TarStream;
use super::{LayerError, LayerProblem, Root};
use crate::digest::{Digest, Hasher};

/// How a layer is named and checked.
pub(crate) struct Layer<'a> {
    /// For messages.
    pub(crate) name: String,
    /// Whether it is the image's first, so that nothing lies below it.
    pub(crate) first: bool,
    /// The uncompressed digest that the config promises, if there is a config.
    pub(crate) diff_id: Option<&'a Digest>,
    /// Whether the tar must end with its marker, because no digest shows that it is
    /// whole.
    pub(crate) needs_end: bool,
}

/// Applies a layer to a root and gives the digest of its uncompressed bytes. `files` are
/// those that its `diff_id` names.
pub(crate) fn unpack(
    root: &mut Root,
    layer: &Layer<'_>,
    files: Option<LayerFiles>,
    reader: Box<dyn Read + Send + '_>,
    budget: &mut Budget,
) -> Result<Digest, LayerError> {
    let fail = |problem| LayerError {
        layer: layer.name.clone(),
        problem,
    };
    let found = run(root, layer, files, reader, budget).map_err(fail)?;
    match layer.diff_id {
        Some(wanted) if *wanted != found => Err(fail(LayerProblem::WrongDiffId {
            wanted: wanted.clone(),
            found,
        })),
        _ => Ok(found),
    }
}

fn run(
    root: &mut Root,
    layer: &Layer<'_>,
    files: Option<LayerFiles>,
    reader: Box<dyn Read + Send + '_>,
    budget: &mut Budget,
) -> Result<Digest, LayerProblem> {
    let hasher = layer.diff_id.map_or_else(Hasher::sha256, Digest::hasher);
    std::thread::scope(|scope| {
        let (pieces, thread) = decompress::start(scope, reader, hasher, budget);
        let mut tar = TarStream::new(pieces);
        let mut applier = Applier::new(root, layer.first, files);
        let mut last = None;
        let applied = apply_all(&mut tar, &mut applier, &mut last);
        applied.map_err(|problem| match &last {
            Some(entry) => problem.of_entry(&entry.path, entry.bytes()),
            None => problem,
        })?;
        if layer.needs_end && !tar.ended() {
            return Err(LayerProblem::damaged("the tar has no end marker"));
        }
        let written = applier.finish()?;
        let mut pieces = tar.into_source();
        pieces.budget().file_bytes += written;
        pieces.drain()?;
        thread
            .join()
            .map_err(|_| LayerProblem::damaged("its decompressor panicked"))
    })
}

/// Applies entry after entry. `last` becomes the one that was begun last.
fn apply_all(
    tar: &mut TarStream<Pieces<'_>>,
    applier: &mut Applier<'_>,
    last: &mut Option<Entry>,
) -> Result<(), LayerProblem> {
    while let Some(entry) = tar.next_entry()? {
        let entry = last.insert(entry);
        let budget = tar.source_mut().budget();
        budget.take_entry(&entry.path)?;
        // Whoever reads or copies a hole gets as many bytes as it says.
        budget.take_bytes(entry.sparse.as_ref().map_or(0, Sparse::hole_bytes))?;
        applier.apply(tar, entry)?;
        let made = applier.root.take_made();
        let budget = tar.source_mut().budget();
        budget.take_entries(made)?;
        budget.check_memory(applier.memory_bytes())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::super::{Limits, Steps};
    use super::*;

    #[test]
    fn what_is_cancelled_makes_not_one_more_entry_or_step() {
        let cancelled = Arc::new(AtomicBool::new(false));
        let mut budget = Budget::new(&Limits::default(), Arc::clone(&cancelled));
        let mut steps = Steps::new(u64::MAX, Arc::clone(&cancelled));
        budget.take_entry(b"a").unwrap();
        steps.take(1).unwrap();
        cancelled.store(true, Ordering::Relaxed);
        let ended = [budget.take_entry(b"b"), steps.take(1)];
        for ended in ended {
            assert!(matches!(ended, Err(LayerProblem::Cancelled)), "{ended:?}");
        }
    }

    /// Compressed bytes of which none gives anything.
    struct Nothing(Arc<AtomicBool>);

    impl Read for Nothing {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            const FRAME: [u8; 8] = [0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0];
            let bytes = buffer.len().min(FRAME.len());
            if bytes == FRAME.len() {
                self.0.store(true, Ordering::Relaxed);
            }
            buffer[..bytes].copy_from_slice(&FRAME[..bytes]);
            Ok(bytes)
        }
    }

    #[test]
    fn what_gives_nothing_for_ever_ends_when_cancelled() {
        let place = tempfile::tempdir().unwrap();
        let (path, trash) = (place.path().join("root"), place.path().join("trash"));
        std::fs::create_dir(&trash).unwrap();
        let cancelled = Arc::new(AtomicBool::new(false));
        let mut budget = Budget::new(&Limits::default(), Arc::clone(&cancelled));
        let steps = Steps::new(u64::MAX, Arc::clone(&cancelled));
        let mut root = Root::create(&path, &trash, super::super::Owners::Mine, steps).unwrap();
        let layer = Layer {
            name: "x".to_owned(),
            first: true,
            diff_id: None,
            needs_end: false,
        };
        let nothing = Box::new(Nothing(cancelled));
        let error = unpack(&mut root, &layer, None, nothing, &mut budget).unwrap_err();
        assert!(matches!(error.problem, LayerProblem::Cancelled), "{error}");
    }
}
