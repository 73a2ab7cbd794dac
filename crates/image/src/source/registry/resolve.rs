//! From a reference to the manifest for this machine, verified.

use bytes::Bytes;
use reqwest::header::CONTENT_TYPE;

use super::RegistryError;
use super::body::read_bounded;
use super::endpoint::Endpoint;
use super::failure::{Attempts, Failure, skipped};
use super::session::{Ask, Session};
use crate::digest::Digest;
use crate::manifest::{
    self, ContentError, DOCKER_LIST, DOCKER_MANIFEST, Descriptor, Document, Manifest, OCI_INDEX,
    OCI_MANIFEST,
};

/// What a reference means.
pub(crate) struct Resolved {
    pub(crate) manifest: Manifest,
    /// The digest of that manifest.
    pub(crate) digest: Digest,
    /// The digest of the index that it was chosen from, if there was one.
    pub(crate) index: Option<Digest>,
    /// Which of the endpoints knew it; it is asked first for the blobs.
    pub(super) endpoint: usize,
}

struct Fetched {
    bytes: Bytes,
    media_type: String,
    digest: Digest,
}

impl Session<'_> {
    /// Asks the mirrors in turn and then the registry, whose error counts.
    pub(crate) async fn resolve(&self) -> Result<Resolved, RegistryError> {
        let (mirrors, registry) = self.endpoints_from(0).ok_or_else(|| self.nowhere())?;
        for (place, mirror) in mirrors.iter().enumerate() {
            match self.resolve_at(mirror, place).await {
                Ok(resolved) => return Ok(resolved),
                Err(error) => skipped(&error),
            }
        }
        self.resolve_at(registry, mirrors.len()).await
    }

    async fn resolve_at(
        &self,
        endpoint: &Endpoint,
        place: usize,
    ) -> Result<Resolved, RegistryError> {
        let content = |cause| RegistryError::Content {
            address: endpoint.address.clone(),
            cause,
        };
        let mut fetched = self.fetch_manifest(endpoint, None).await?;
        let mut document = self.read(&fetched).map_err(content)?;
        let mut index = None;
        for _ in 0..manifest::INDEX_DEPTH_MAX {
            match document {
                Document::Manifest(manifest) => {
                    let sizes = manifest.layers.iter().map(|layer| layer.size);
                    manifest::check_sizes(sizes, self.limits.image_bytes_max).map_err(content)?;
                    return Ok(Resolved {
                        manifest,
                        digest: fetched.digest,
                        index,
                        endpoint: place,
                    });
                }
                Document::Index(manifests) => {
                    let candidates = manifest::candidates(&manifests).map_err(content)?;
                    let (next, read) = self.first_image(endpoint, &candidates).await?;
                    index.get_or_insert(fetched.digest);
                    (fetched, document) = (next, read);
                }
            }
        }
        Err(content(manifest::too_deep()))
    }

    /// The first entry of an index that is of an image: a signature may stand
    /// before it, and say so only in its manifest.
    async fn first_image(
        &self,
        endpoint: &Endpoint,
        candidates: &[&Descriptor],
    ) -> Result<(Fetched, Document), RegistryError> {
        let content = |cause| RegistryError::Content {
            address: endpoint.address.clone(),
            cause,
        };
        let mut first_error = None;
        for entry in candidates {
            let fetched = self.fetch_manifest(endpoint, Some(entry)).await?;
            match self.read(&fetched) {
                Ok(document) => return Ok((fetched, document)),
                Err(cause) if cause.is_of_artifact() => {
                    first_error.get_or_insert(cause);
                }
                Err(cause) => return Err(content(cause)),
            }
        }
        // There is at least one candidate.
        Err(first_error.map_or_else(|| self.nowhere(), content))
    }

    fn read(&self, fetched: &Fetched) -> Result<Document, ContentError> {
        manifest::read(&fetched.bytes, &fetched.media_type, self.limits.layers_max)
    }

    /// The manifest of the reference, or of an entry of its index.
    async fn fetch_manifest(
        &self,
        endpoint: &Endpoint,
        entry: Option<&Descriptor>,
    ) -> Result<Fetched, RegistryError> {
        let mut attempts = Attempts::new(self.options);
        loop {
            match self.ask_manifest(endpoint, entry).await {
                Ok(fetched) => return Ok(fetched),
                Err(failure) => attempts.wait_after(failure).await?,
            }
        }
    }

    async fn ask_manifest(
        &self,
        endpoint: &Endpoint,
        entry: Option<&Descriptor>,
    ) -> Result<Fetched, Failure> {
        let wanted = entry.map(|entry| &entry.digest).or(self.reference.digest());
        let name = wanted
            .map(Digest::as_str)
            .or(self.reference.tag())
            .unwrap_or("latest");
        let ask = Ask {
            what: &format!("the manifest of {}", self.reference.familiar()),
            path: &format!("manifests/{name}"),
            accept: Some(&[OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST].join(", ")),
            from: 0,
        };
        let answer = self.ask(endpoint, &ask).await?;
        let header = |name: &str| {
            answer
                .headers()
                .get(name)
                .and_then(|value| value.to_str().ok())
        };
        let media_type = header(CONTENT_TYPE.as_str()).unwrap_or_default();
        let media_type = media_type
            .split(';')
            .next()
            .unwrap_or_default()
            .trim()
            .to_owned();
        let promised: Option<Digest> =
            header("docker-content-digest").and_then(|text| text.parse().ok());
        let bytes =
            read_bounded(endpoint, "manifest", answer, self.limits.document_bytes_max).await?;
        let verified = match (entry, wanted.or(promised.as_ref())) {
            (Some(entry), _) => manifest::verify("the manifest", entry, &bytes),
            (None, Some(digest)) => manifest::verify_digest("the manifest", digest, &bytes),
            (None, None) => Ok(()),
        };
        verified.map_err(|cause| wrong(endpoint, cause))?;
        let digest = wanted.cloned().unwrap_or_else(|| Digest::of(&bytes));
        Ok(Fetched {
            bytes,
            media_type,
            digest,
        })
    }

    /// A small blob, the config, verified.
    pub(crate) async fn fetch_config(&self, resolved: &Resolved) -> Result<Bytes, RegistryError> {
        let config = &resolved.manifest.config;
        let (mirrors, registry) = self
            .endpoints_from(resolved.endpoint)
            .ok_or_else(|| self.nowhere())?;
        for mirror in mirrors {
            match self.fetch_config_at(mirror, config).await {
                Ok(bytes) => return Ok(bytes),
                Err(error) => skipped(&error),
            }
        }
        self.fetch_config_at(registry, config).await
    }

    async fn fetch_config_at(
        &self,
        endpoint: &Endpoint,
        config: &Descriptor,
    ) -> Result<Bytes, RegistryError> {
        let mut attempts = Attempts::new(self.options);
        loop {
            match self.ask_config(endpoint, config).await {
                Ok(bytes) => return Ok(bytes),
                Err(failure) => attempts.wait_after(failure).await?,
            }
        }
    }

    async fn ask_config(&self, endpoint: &Endpoint, config: &Descriptor) -> Result<Bytes, Failure> {
        let ask = Ask {
            what: &format!("the config of {}", self.reference.familiar()),
            path: &format!("blobs/{}", config.digest),
            accept: None,
            from: 0,
        };
        let answer = self.ask(endpoint, &ask).await?;
        let bytes =
            read_bounded(endpoint, "config", answer, self.limits.document_bytes_max).await?;
        manifest::verify("the config", config, &bytes).map_err(|cause| wrong(endpoint, cause))?;
        Ok(bytes)
    }
}

fn wrong(endpoint: &Endpoint, cause: ContentError) -> Failure {
    Failure::Final(RegistryError::Content {
        address: endpoint.address.clone(),
        cause,
    })
}
