//! Importing: what an archive or a folder has, unpacked as a pull would.

use std::io::Read;
use std::sync::Arc;

use crate::config;
use crate::digest::Digest;
use crate::layer::Layer;
use crate::manifest::{self, ContentError};
use crate::reference::Reference;
use crate::source::Progress;
use crate::source::archive::{self, Files, Found, FoundLayer, Hashing, ImportError, Input};
use crate::store::{Image, NamedBy, Staging, Store};

impl Store {
    /// Reads an image, puts it into the store and gives it this name, in the place of an
    /// image that has it.
    ///
    /// The input is an archive of `docker save`, an OCI archive or layout folder, or a root
    /// file system as tar, plain or compressed with gzip or zstd: its content tells which.
    /// Blocks the thread while it unpacks: within a runtime of tokio, call it in
    /// `spawn_blocking`.
    ///
    /// ```no_run
    /// use image::{Input, NoProgress, Store, StoreOptions};
    ///
    /// # fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// let store = Store::open("/var/lib/example".as_ref(), StoreOptions::default())?;
    /// let image = store.import(&"tool:1".parse()?, Input::Path("tool.tar".into()), &NoProgress)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When the input is no image, or cannot be unpacked.
    pub fn import(
        &self,
        reference: &Reference,
        input: Input,
        progress: &dyn Progress,
    ) -> Result<Image, ImportError> {
        import(self, reference, input, progress)
    }
}

fn import(
    store: &Store,
    reference: &Reference,
    input: Input,
    progress: &dyn Progress,
) -> Result<Image, ImportError> {
    store.sweep();
    let limits = store.limits();
    let opened = archive::open(input, &store.unused(), limits)?;
    let import = Import {
        store,
        reference,
        files: &opened.files,
        input: &opened.name,
        progress,
    };
    match archive::find(&opened.files, reference, &opened.name, limits)? {
        Some(found) => import.image(&found),
        None => import.root_file_system(),
    }
}

struct Import<'a> {
    store: &'a Store,
    reference: &'a Reference,
    files: &'a Files,
    input: &'a str,
    progress: &'a dyn Progress,
}

impl Import<'_> {
    fn content(&self, cause: ContentError) -> ImportError {
        ImportError::Content {
            input: self.input.to_owned(),
            cause,
        }
    }

    fn image(&self, found: &Found) -> Result<Image, ImportError> {
        let config =
            config::read(&found.config, found.layers.len()).map_err(|cause| self.content(cause))?;
        let _held = self.store.lock_blocking(&found.digest, "from a file")?;
        let (digest, index) = (&found.digest, found.index.as_ref());
        let by = match found.of_config {
            true => NamedBy::Config,
            false => NamedBy::Manifest,
        };
        if let Some(image) = self.store.open_image(self.reference, digest, index, by)? {
            self.store.rename(self.reference, &image)?;
            return Ok(image);
        }
        self.check_sizes(&found.layers)?;
        let mut staging = Staging::create(self.store, Arc::default())?;
        for (place, (layer, diff_id)) in found.layers.iter().zip(&config.diff_ids).enumerate() {
            self.layer(&mut staging, place, layer, diff_id)?;
        }
        Ok(staging.publish(self.reference, (digest, by), index, &config)?)
    }

    /// An archive may have fewer bytes than can be read from it: it can be sparse, or
    /// name one layer many times.
    fn check_sizes(&self, layers: &[FoundLayer]) -> Result<(), ImportError> {
        let mut sizes = Vec::new();
        for layer in layers {
            sizes.push(self.open(layer)?.1);
        }
        let most = self.store.limits().image_bytes_max;
        manifest::check_sizes(sizes.into_iter(), most).map_err(|cause| self.content(cause))
    }

    /// A layer's bytes, and how many they are.
    fn open(&self, layer: &FoundLayer) -> Result<(Box<dyn Read + Send>, u64), ImportError> {
        let opened = self.files.open(&layer.path);
        let opened = opened.map_err(|cause| ImportError::Unreadable {
            input: format!("{} in {}", layer.path, self.input),
            cause,
        })?;
        let missing = || ContentError::Missing {
            what: format!("layer {}", layer.path),
        };
        opened.ok_or_else(|| self.content(missing()))
    }

    fn layer(
        &self,
        staging: &mut Staging,
        place: usize,
        layer: &FoundLayer,
        diff_id: &Digest,
    ) -> Result<(), ImportError> {
        let (reader, bytes) = self.open(layer)?;
        let name = layer
            .descriptor
            .as_ref()
            .map_or(diff_id, |descriptor| &descriptor.digest);
        self.progress.layer(name, bytes);
        let unpacked = Layer {
            name: name.to_string(),
            first: place == 0,
            diff_id: Some(diff_id),
            needs_end: false,
        };
        match &layer.descriptor {
            None => staging.unpack(&unpacked, reader).map(drop)?,
            Some(descriptor) => {
                let what = || format!("layer {}", layer.path);
                if descriptor.size != bytes {
                    let (wanted, found) = (descriptor.size, bytes);
                    return Err(self.content(ContentError::WrongSize {
                        what: what(),
                        wanted,
                        found,
                    }));
                }
                let (reader, found) = Hashing::new(reader, descriptor.digest.hasher());
                let unpacked = staging.unpack(&unpacked, Box::new(reader));
                // If the digest is wrong, that is the error to report, whatever else went
                // wrong.
                let found = found.lock().clone();
                match found {
                    Some(found) if found != descriptor.digest => {
                        let wanted = descriptor.digest.clone();
                        return Err(self.content(ContentError::WrongDigest {
                            what: what(),
                            wanted,
                            found,
                        }));
                    }
                    _ => unpacked.map(drop)?,
                }
            }
        }
        self.progress.advanced(name, bytes);
        self.progress.done(name);
        Ok(())
    }

    /// Imports a tar of files as an image with one layer, and a config that says no more
    /// than that.
    fn root_file_system(&self) -> Result<Image, ImportError> {
        let reader: Box<dyn Read + Send> = match self.files {
            Files::Tar(tar) => tar.whole(),
            Files::Folder(_) => {
                return Err(ImportError::NotAnImage {
                    input: self.input.to_owned(),
                    problem: "it is a folder, but no OCI layout".to_owned(),
                });
            }
        };
        let layer = Layer {
            name: self.input.to_owned(),
            first: true,
            diff_id: None,
            needs_end: true,
        };
        let mut staging = Staging::create(self.store, Arc::default())?;
        let diff_id = staging.unpack(&layer, reader)?;
        let text = config::synthetic(&diff_id);
        let config = config::read(&text, 1).map_err(|cause| self.content(cause))?;
        let name = (&Digest::of(&text), NamedBy::Config);
        Ok(staging.publish(self.reference, name, None, &config)?)
    }
}
