//! Files of layers, which images with the same layers share.
//!
//! A root's files stay in its own folder; `layers/` has one more link to each, by layer
//! and number of the entry, so that the next image finds it. Nothing depends on what is in
//! `layers/`: what is missing there is written again, and what no root needs any more is
//! swept.

use std::collections::{HashMap, HashSet};
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags};
use serde::{Deserialize, Serialize};

use super::image::{DESCRIPTION, Description};
use super::{Store, durable, files};
use crate::causes::with_causes;
use crate::digest::Digest;
use crate::layer::{LayerFiles, delete_tree};

/// The folder with the files that a root is the first to have, beside that root, until
/// they are in the store's own `layers/`.
const NEW: &str = "layers";

/// A layer that an image was made of.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct LayerSize {
    /// Of its uncompressed bytes.
    pub(super) digest: Digest,
    /// Bytes of its files.
    pub(super) bytes: u64,
}

impl Store {
    /// The files of the layer with that uncompressed digest, for a root that is made at
    /// `staging`; `None` if they cannot be shared.
    pub(super) fn layer_files(&self, staging: &Path, diff_id: &Digest) -> Option<LayerFiles> {
        let name = self.layer_name(diff_id);
        let new = staging.join(NEW).join(&name);
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&new);
        let opened = made.and_then(|()| {
            let known = self.path(["layers", &name]);
            Ok(LayerFiles::open(&known, &new)?)
        });
        match opened {
            Ok(files) => Some(files),
            Err(cause) => {
                tracing::debug!(%diff_id, %cause, "the files of a layer are not shared");
                None
            }
        }
    }

    /// One for each way of owning files, as with roots.
    fn layer_name(&self, diff_id: &Digest) -> String {
        format!("{}-{}", diff_id.file_name(), self.owners())
    }

    /// Hands the new files of a root to all, once they would outlast a power failure.
    /// `place` is the folder around the root. If it fails, they are not shared.
    pub(super) fn share_layers(&self, place: &Path) {
        if let Err(cause) = self.move_layers(place) {
            let folder = place.display();
            tracing::debug!(%folder, %cause, "the layers of an image are not shared");
        }
    }

    fn move_layers(&self, place: &Path) -> io::Result<()> {
        let new = place.join(NEW);
        let layers = match std::fs::read_dir(&new) {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(()),
            layers => layers?,
        };
        let all = self.inner.folder.join("layers");
        // Stores of earlier versions have none.
        DirBuilder::new().recursive(true).mode(0o700).create(&all)?;
        for layer in layers {
            let layer = layer?;
            let to = all.join(layer.file_name());
            durable::appears(&to);
            let moved = rename_new(&layer.path(), &to);
            if moved.is_err_and(|cause| cause.kind() == io::ErrorKind::AlreadyExists) {
                // It has some files already, or had until it was swept just now.
                for file in std::fs::read_dir(layer.path())? {
                    let file = file?;
                    let _ = rename_new(&file.path(), &to.join(file.file_name()));
                }
            }
        }
        delete_tree(&new)
    }

    /// Deletes the files of layers that no root was made of.
    pub(super) fn sweep_layers(&self) -> io::Result<()> {
        let layers = match self.items("layers") {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(()),
            layers => layers?,
        };
        // Looked up behind the layers: a root is there before its layers are.
        let needed = self.needed_layers()?;
        let mut first = Ok(());
        for layer in layers {
            let name = layer.file_name().and_then(|name| name.to_str());
            if name.is_some_and(|name| needed.contains(name)) {
                continue;
            }
            let aside = self.unused();
            let deleted = match std::fs::rename(&layer, &aside) {
                // Another process was faster.
                Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(()),
                moved => moved.and_then(|()| delete_tree(&aside)),
            };
            first = first.and(deleted);
        }
        first
    }

    /// The names in `layers/` that roots were made of, whoever owns their files.
    fn needed_layers(&self) -> io::Result<HashSet<String>> {
        let mut needed = HashSet::new();
        for root in self.items("roots")? {
            let name = root.file_name().and_then(|name| name.to_str());
            let Some((_, owners)) = name.and_then(|name| name.rsplit_once('-')) else {
                continue;
            };
            for layer in layers_of(&root) {
                needed.insert(format!("{}-{owners}", layer.digest.file_name()));
            }
        }
        Ok(needed)
    }

    /// How many bytes of each of these images are in layers that others of them have, too.
    pub(super) fn shared_bytes(&self, images: &HashSet<Digest>) -> HashMap<Digest, u64> {
        let mut layers = HashMap::new();
        for image in images {
            let places = [false, true].map(|of_config| self.root_folder(image, of_config));
            let found = places.iter().map(|place| layers_of(place));
            let found = found.into_iter().find(|found| !found.is_empty());
            layers.insert(image.clone(), found.unwrap_or_default());
        }
        shared(&layers)
    }
}

/// How many bytes of each image are in layers that others have, too.
fn shared(images: &HashMap<Digest, Vec<LayerSize>>) -> HashMap<Digest, u64> {
    let mut owners: HashMap<&Digest, HashSet<&Digest>> = HashMap::new();
    for (image, layers) in images {
        for layer in layers {
            owners.entry(&layer.digest).or_default().insert(image);
        }
    }
    let of_one = |layers: &Vec<LayerSize>| {
        let shared = layers.iter().filter(|layer| {
            let owners = owners.get(&layer.digest);
            owners.is_some_and(|owners| owners.len() > 1)
        });
        shared.map(|layer| layer.bytes).sum()
    };
    let sizes = images.iter();
    sizes
        .map(|(image, layers)| (image.clone(), of_one(layers)))
        .collect()
}

/// The layers that a root was made of. Those of an earlier version do not say, and share
/// none.
fn layers_of(root: &Path) -> Vec<LayerSize> {
    let read = files::read(&root.join(DESCRIPTION));
    let text = match read {
        Ok(text) => text.unwrap_or_default(),
        Err(error) => {
            let error = with_causes(&error);
            tracing::debug!("the layers of an image are not known: failed to {error}");
            return Vec::new();
        }
    };
    let description = serde_json::from_slice::<Description>(&text);
    description.map_or(Vec::new(), |description| description.layers)
}

/// Leaves out of a finished root's new files those that its later layers have removed or
/// replaced: they would take space that this image does not need.
pub(super) fn drop_replaced(staging: &Path) -> io::Result<()> {
    for layer in read_folder(&staging.join(NEW))? {
        for file in read_folder(&layer)? {
            if std::fs::symlink_metadata(&file)?.nlink() == 1 {
                std::fs::remove_file(&file)?;
            }
        }
    }
    Ok(())
}

fn read_folder(folder: &Path) -> io::Result<impl Iterator<Item = PathBuf>> {
    let items = match std::fs::read_dir(folder) {
        Ok(items) => Some(items),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => None,
        Err(cause) => return Err(cause),
    };
    // Names that are removed while they are read do no harm.
    let items = items.into_iter().flatten();
    Ok(items.filter_map(|item| Some(item.ok()?.path())))
}

fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    Ok(rustix::fs::renameat_with(
        CWD,
        from,
        CWD,
        to,
        RenameFlags::NOREPLACE,
    )?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn digest(number: u8) -> Digest {
        Digest::of(&[number])
    }

    proptest! {
        /// Against the definition, layer by layer.
        #[test]
        fn what_is_shared_is_in_a_layer_of_another_image(
            images in prop::collection::vec(prop::collection::vec((0u8..6, 1u64..100), 0..5), 0..5),
        ) {
            let mut all = HashMap::new();
            for (number, layers) in images.iter().enumerate() {
                let layers = layers.iter().map(|(layer, bytes)| LayerSize {
                    digest: digest(*layer),
                    bytes: *bytes,
                });
                all.insert(digest(u8::try_from(number).unwrap()), layers.collect());
            }
            let found = shared(&all);
            for (number, layers) in images.iter().enumerate() {
                let others = images.iter().enumerate().filter(|(other, _)| *other != number);
                let others: Vec<_> = others.flat_map(|(_, layers)| layers).map(|layer| layer.0).collect();
                let wanted = layers.iter().filter(|(layer, _)| others.contains(layer));
                let wanted: u64 = wanted.map(|(_, bytes)| bytes).sum();
                prop_assert_eq!(found[&digest(u8::try_from(number).unwrap())], wanted);
            }
        }
    }
}
