//! Manifests and indexes, OCI's and Docker's: reading, and choosing a platform.
//!
//! Pure. A document is read as what its media type and its fields both say. If they
//! disagree it is refused, since two readers must not see two images. Docker's and OCI's
//! names for the same kind do not disagree.

use std::fmt;

use serde::Deserialize;

use crate::causes::Cause;
use crate::digest::Digest;

#[path = "manifest_error.rs"]
mod error;
#[path = "manifest_platform.rs"]
mod platform;
pub use error::ContentError;
pub(crate) use platform::{Platform, candidates};

/// What names a blob: digest, size, kind.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default, deserialize_with = "null_is_none")]
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    #[serde(default)]
    pub(crate) platform: Option<Platform>,
    #[serde(default)]
    pub(crate) annotations: Option<std::collections::BTreeMap<String, String>>,
    #[serde(default)]
    artifact_type: Option<String>,
}

fn null_is_none<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// The annotation by which BuildKit marks attestations in an index of images.
const REFERENCE_TYPE: &str = "vnd.docker.reference.type";

impl Descriptor {
    /// Whether it says that it is not of an image, but of a signature, a list of parts or
    /// an attestation. Not all of those say so.
    pub(crate) fn is_artifact(&self) -> bool {
        let annotations = self.annotations.as_ref();
        annotations.is_some_and(|all| all.contains_key(REFERENCE_TYPE))
            || self
                .artifact_type
                .as_ref()
                .is_some_and(|kind| !kind.is_empty())
            || check_outer_type(&self.media_type).is_err()
    }
}

/// An entry of an index, which may be of anything.
#[derive(Deserialize)]
#[serde(untagged)]
enum Listed {
    Descriptor(Descriptor),
    Other(serde::de::IgnoredAny),
}

/// One image for one platform.
#[derive(Debug, Clone)]
pub(crate) struct Manifest {
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
}

/// What a manifest request may answer.
#[derive(Debug)]
pub(crate) enum Document {
    Index(Vec<Descriptor>),
    Manifest(Manifest),
}

pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const DOCKER_SCHEMA_1: &str = "application/vnd.docker.distribution.manifest.v1+";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    schema_version: Option<u32>,
    media_type: Option<String>,
    artifact_type: Option<String>,
    manifests: Option<Vec<Listed>>,
    config: Option<Descriptor>,
    /// Of an image without layers, some tools write `null`.
    #[serde(default, deserialize_with = "null_is_empty")]
    layers: Option<Vec<Descriptor>>,
    #[serde(rename = "fsLayers")]
    fs_layers: Option<serde::de::IgnoredAny>,
}

fn null_is_empty<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Vec<Descriptor>>, D::Error> {
    Option::deserialize(deserializer).map(|list| Some(list.unwrap_or_default()))
}

/// Reads a manifest or index. `media_type` is what its descriptor or the
/// `Content-Type` header said, empty when they said nothing.
pub(crate) fn read(
    bytes: &[u8],
    media_type: &str,
    layers_max: usize,
) -> Result<Document, ContentError> {
    check_outer_type(media_type)?;
    let malformed = |problem: Cause| ContentError::Malformed {
        what: "manifest",
        problem,
    };
    let raw: Raw = serde_json::from_slice(bytes).map_err(|cause| malformed(cause.into()))?;
    let inner = raw.media_type.as_deref().unwrap_or("");
    check_outer_type(inner)?;
    let says = [inner, media_type].map(Kind::of);
    if let [Some(calls_itself), Some(came_as)] = says
        && calls_itself != came_as
    {
        return Err(malformed(
            format!("it came as '{media_type}' but calls itself '{inner}'").into(),
        ));
    }
    if raw.fs_layers.is_some() || raw.schema_version == Some(1) {
        return Err(schema_1(DOCKER_SCHEMA_1));
    }
    if raw.schema_version != Some(2) {
        return Err(malformed(
            "it is no manifest: 'schemaVersion' is not 2".into(),
        ));
    }
    let says_index = says.contains(&Some(Kind::Index));
    let says_manifest = says.contains(&Some(Kind::Manifest));
    match (raw.manifests, raw.config, raw.layers) {
        (Some(manifests), None, layers)
            if !says_manifest && layers.as_ref().is_none_or(Vec::is_empty) =>
        {
            Ok(Document::Index(entries(manifests)))
        }
        (None, Some(config), Some(layers)) if !says_index => {
            let names_image = matches!(&*config.media_type, OCI_CONFIG | DOCKER_CONFIG);
            if let Some(kind) = raw
                .artifact_type
                .filter(|kind| !names_image && !kind.is_empty())
            {
                return Err(artifact(kind));
            }
            let manifest = Manifest { config, layers };
            check_image(&manifest, layers_max)?;
            Ok(Document::Manifest(manifest))
        }
        (Some(_), _, _) => Err(malformed(
            "it is neither quite an index nor quite a manifest".into(),
        )),
        _ => Err(malformed(
            "it has no config and layers, and no manifests either".into(),
        )),
    }
}

/// What a document is, by its media type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Index,
    Manifest,
}

impl Kind {
    fn of(media_type: &str) -> Option<Self> {
        match media_type {
            OCI_INDEX | DOCKER_LIST => Some(Self::Index),
            OCI_MANIFEST | DOCKER_MANIFEST => Some(Self::Manifest),
            _ => None,
        }
    }
}

/// The entries that can be read. One that cannot be read is skipped like one for another
/// machine.
fn entries(listed: Vec<Listed>) -> Vec<Descriptor> {
    let read = |entry| match entry {
        Listed::Descriptor(descriptor) => Some(descriptor),
        Listed::Other(_) => None,
    };
    listed.into_iter().filter_map(read).collect()
}

fn is_generic(media_type: &str) -> bool {
    matches!(
        media_type,
        "" | "application/json" | "application/octet-stream" | "text/plain" | "binary/octet-stream"
    )
}

fn check_outer_type(media_type: &str) -> Result<(), ContentError> {
    if media_type.starts_with(DOCKER_SCHEMA_1) {
        return Err(schema_1(media_type));
    }
    if Kind::of(media_type).is_some() || is_generic(media_type) {
        return Ok(());
    }
    Err(ContentError::WrongMediaType {
        found: media_type.to_owned(),
        wanted: "a manifest",
        advice: "it is no image manifest; does the registry's address lead to a registry?",
    })
}

fn schema_1(media_type: &str) -> ContentError {
    ContentError::WrongMediaType {
        found: media_type.to_owned(),
        wanted: "a manifest",
        advice: "it is Docker's old schema 1, which cannot be verified; push the image again with a current tool",
    }
}

fn artifact(kind: String) -> ContentError {
    ContentError::WrongMediaType {
        found: kind,
        wanted: "an image",
        advice: "it is an artifact (a chart, a signature, a module …), not a container image",
    }
}

/// Whether a config may have this media type. A vendor's own type means something else
/// than a config. Any other is what a registry or a tool guessed (`text/html`,
/// `application/json`): the bytes are those that the digest names, and reading them shows
/// whether they are a config.
fn may_be_config(media_type: &str) -> bool {
    matches!(media_type, OCI_CONFIG | DOCKER_CONFIG)
        || !media_type
            .to_ascii_lowercase()
            .starts_with("application/vnd.")
}

fn check_image(manifest: &Manifest, layers_max: usize) -> Result<(), ContentError> {
    if !may_be_config(&manifest.config.media_type) {
        return Err(artifact(manifest.config.media_type.clone()));
    }
    if manifest.layers.len() > layers_max {
        return Err(ContentError::TooLarge {
            what: "manifest",
            unit: "layers",
            found: manifest.layers.len() as u64,
            most: layers_max as u64,
        });
    }
    manifest
        .layers
        .iter()
        .try_for_each(|layer| check_layer(&layer.media_type))
}

/// Fails if layers of these sizes are larger than an image may be. Checked before the
/// first of them is fetched or read, since they are kept on the disk until they are
/// unpacked.
pub(crate) fn check_sizes(
    sizes: impl Iterator<Item = u64>,
    image_bytes_max: u64,
) -> Result<(), ContentError> {
    let found = sizes.fold(0, u64::saturating_add);
    if found > image_bytes_max {
        return Err(ContentError::TooManyBytes {
            found,
            most: image_bytes_max,
        });
    }
    Ok(())
}

/// Checks only whether it is a layer that we can use. How it is compressed, its bytes
/// show.
fn check_layer(media_type: &str) -> Result<(), ContentError> {
    let refuse = |advice| {
        Err(ContentError::WrongMediaType {
            found: media_type.to_owned(),
            wanted: "a layer",
            advice,
        })
    };
    if media_type.contains(".nondistributable.") || media_type.contains(".foreign.") {
        return refuse(
            "it is a foreign layer, kept elsewhere by its owner; use an image that contains its layers",
        );
    }
    if media_type.contains("+encrypted") {
        return refuse(
            "it is encrypted; decrypt the image first, for example with 'skopeo copy --decryption-key'",
        );
    }
    match media_type {
        ""
        | "application/vnd.oci.image.layer.v1.tar"
        | "application/vnd.oci.image.layer.v1.tar+gzip"
        | "application/vnd.oci.image.layer.v1.tar+zstd"
        | "application/vnd.docker.image.rootfs.diff.tar"
        | "application/vnd.docker.image.rootfs.diff.tar.gzip"
        | "application/vnd.docker.image.rootfs.diff.tar.zstd" => Ok(()),
        _ => refuse("it is not a file system layer in tar, plain or with gzip or zstd"),
    }
}

/// The most indexes that lead to one another. Tools write one, or two where an archive has
/// several images.
pub(crate) const INDEX_DEPTH_MAX: usize = 3;

/// The error for more than [`INDEX_DEPTH_MAX`] indexes.
pub(crate) fn too_deep() -> ContentError {
    ContentError::Malformed {
        what: "index",
        problem: format!("more than {INDEX_DEPTH_MAX} indexes lead to one another").into(),
    }
}

/// Fails when these are not the bytes that the descriptor names.
pub(crate) fn verify(what: &str, wanted: &Descriptor, bytes: &[u8]) -> Result<(), ContentError> {
    if wanted.size != bytes.len() as u64 {
        return Err(ContentError::WrongSize {
            what: format!("{what} {}", wanted.digest),
            wanted: wanted.size,
            found: bytes.len() as u64,
        });
    }
    verify_digest(what, &wanted.digest, bytes)
}

/// Fails when these are not the bytes that the digest names.
pub(crate) fn verify_digest(what: &str, wanted: &Digest, bytes: &[u8]) -> Result<(), ContentError> {
    let mut hasher = wanted.hasher();
    hasher.update(bytes);
    let found = hasher.finish();
    if found == *wanted {
        return Ok(());
    }
    Err(ContentError::WrongDigest {
        what: what.to_owned(),
        wanted: wanted.clone(),
        found,
    })
}

impl fmt::Display for Descriptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.digest)
    }
}

#[cfg(test)]
#[path = "manifest_tests.rs"]
mod tests;
