//! The OCI image layout: `index.json` and blobs by digest, in a folder or a tar.

use super::{Files, Found, FoundLayer, ImportError};
use crate::digest::Digest;
use crate::layer::Limits;
use crate::manifest::{self, ContentError, Descriptor, Document, Manifest};
use crate::reference::Reference;

/// Entries of `index.json` that are read to see whether they are of images.
const ENTRIES_READ_MAX: usize = 64;

/// Where a name stands in an index: Docker's and containerd's full one, and the
/// specification's, which most tools fill with a tag only.
const NAME_KEYS: [&str; 2] = [
    "io.containerd.image.name",
    "org.opencontainers.image.ref.name",
];

struct Layout<'a> {
    files: &'a Files,
    input: &'a str,
    limits: &'a Limits,
}

/// The image of this name, or the only one.
pub(super) fn find(
    files: &Files,
    reference: &Reference,
    input: &str,
    limits: &Limits,
) -> Result<Found, ImportError> {
    let layout = Layout {
        files,
        input,
        limits,
    };
    let index = read_file(files, "index.json", "index.json", input, limits)?;
    let Document::Index(entries) = layout.parse(&index, "")? else {
        return Err(ImportError::NotAnImage {
            input: input.to_owned(),
            problem: "its index.json is no index".to_owned(),
        });
    };
    let entries = layout.images(entries)?;
    let candidates = layout.named(entries, reference)?;
    layout.follow(&candidates, None, 0)
}

impl Layout<'_> {
    fn content(&self, cause: ContentError) -> ImportError {
        ImportError::Content {
            input: self.input.to_owned(),
            cause,
        }
    }

    fn parse(&self, bytes: &[u8], media_type: &str) -> Result<Document, ImportError> {
        manifest::read(bytes, media_type, self.limits.layers_max)
            .map_err(|cause| self.content(cause))
    }

    /// The entries without those of signatures, lists of parts and the like, whose
    /// names choose nothing. Where there is nothing else, the first one's error.
    fn images(&self, entries: Vec<Descriptor>) -> Result<Vec<Descriptor>, ImportError> {
        let mut images = Vec::new();
        let mut first_error = None;
        for (place, entry) in entries.into_iter().enumerate() {
            let read = (place < ENTRIES_READ_MAX).then(|| self.document(&entry));
            match read {
                Some(Err(error)) if is_of_artifact(&error) => {
                    first_error.get_or_insert(error);
                }
                // Any other error is reported only if this entry is the wanted one.
                _ => images.push(entry),
            }
        }
        match first_error {
            Some(error) if images.is_empty() => Err(error),
            _ => Ok(images),
        }
    }

    /// What an entry leads to.
    fn document(&self, entry: &Descriptor) -> Result<Document, ImportError> {
        let bytes = self.blob(entry, "manifest")?;
        self.parse(&bytes, &entry.media_type)
    }

    /// The entries of the wanted name; all of them if they have only one name.
    fn named(
        &self,
        entries: Vec<Descriptor>,
        reference: &Reference,
    ) -> Result<Vec<Descriptor>, ImportError> {
        if entries.is_empty() {
            return Err(ImportError::NotAnImage {
                input: self.input.to_owned(),
                problem: "its index names no image".to_owned(),
            });
        }
        let (wanted, others): (Vec<_>, Vec<_>) = entries
            .into_iter()
            .partition(|entry| is_named(entry, reference));
        if !wanted.is_empty() {
            return Ok(wanted);
        }
        let mut names: Vec<String> = others
            .iter()
            .filter_map(|entry| names_of(entry).next().map(str::to_owned))
            .collect();
        names.sort();
        names.dedup();
        if names.len() <= 1 {
            return Ok(others);
        }
        Err(ImportError::Ambiguous {
            input: self.input.to_owned(),
            wanted: reference.familiar(),
            names,
        })
    }

    /// From entries to the manifest of this machine's image, through the indexes
    /// between.
    fn follow(
        &self,
        entries: &[Descriptor],
        index: Option<&Digest>,
        depth: usize,
    ) -> Result<Found, ImportError> {
        if depth >= manifest::INDEX_DEPTH_MAX {
            return Err(self.content(manifest::too_deep()));
        }
        let candidates = manifest::candidates(entries).map_err(|cause| self.content(cause))?;
        let mut first_error = None;
        for entry in candidates {
            match self.document(entry) {
                Ok(Document::Manifest(manifest)) => {
                    return self.found(&manifest, entry.digest.clone(), index.cloned());
                }
                Ok(Document::Index(entries)) => {
                    let index = index.unwrap_or(&entry.digest);
                    return self.follow(&entries, Some(index), depth + 1);
                }
                Err(error) if is_of_artifact(&error) => {
                    first_error.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
        }
        // There is at least one candidate.
        Err(first_error.unwrap_or_else(|| ImportError::NotAnImage {
            input: self.input.to_owned(),
            problem: "its index names no image".to_owned(),
        }))
    }

    fn found(
        &self,
        manifest: &Manifest,
        digest: Digest,
        index: Option<Digest>,
    ) -> Result<Found, ImportError> {
        let layers = manifest.layers.iter().map(|layer| FoundLayer {
            path: blob_path(&layer.digest),
            descriptor: Some(layer.clone()),
        });
        Ok(Found {
            digest,
            of_config: false,
            index,
            config: self.blob(&manifest.config, "config")?,
            layers: layers.collect(),
        })
    }

    /// A small blob, verified.
    fn blob(&self, descriptor: &Descriptor, what: &'static str) -> Result<Vec<u8>, ImportError> {
        let path = blob_path(&descriptor.digest);
        let bytes = read_file(self.files, &path, what, self.input, self.limits)?;
        manifest::verify(&format!("the {what}"), descriptor, &bytes)
            .map_err(|cause| self.content(cause))?;
        Ok(bytes)
    }
}

fn is_of_artifact(error: &ImportError) -> bool {
    matches!(error, ImportError::Content { cause, .. } if cause.is_of_artifact())
}

/// A small file that must be there.
pub(super) fn read_file(
    files: &Files,
    path: &str,
    what: &'static str,
    input: &str,
    limits: &Limits,
) -> Result<Vec<u8>, ImportError> {
    let most = limits.document_bytes_max;
    let content = |cause| ImportError::Content {
        input: input.to_owned(),
        cause,
    };
    let read = files
        .read(path, most)
        .map_err(|cause| ImportError::Unreadable {
            input: format!("{path} in {input}"),
            cause,
        })?;
    match read {
        Some(Ok(bytes)) => Ok(bytes),
        Some(Err(found)) => Err(content(ContentError::TooLarge {
            what,
            unit: "bytes",
            found,
            most,
        })),
        None => Err(content(ContentError::Missing {
            what: format!("its {what}, {path}"),
        })),
    }
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm(), digest.hex())
}

fn names_of(entry: &Descriptor) -> impl Iterator<Item = &str> {
    let annotations = entry.annotations.as_ref();
    NAME_KEYS
        .iter()
        .filter_map(move |key| annotations?.get(*key).map(String::as_str))
}

fn is_named(entry: &Descriptor, reference: &Reference) -> bool {
    names_of(entry).any(|name| {
        name.parse::<Reference>()
            .is_ok_and(|name| name == *reference)
            || Some(name) == reference.tag()
    })
}
