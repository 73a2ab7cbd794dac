//! From a reference to the manifest for this machine, verified.

use bytes::Bytes;
use reqwest::header::CONTENT_TYPE;

use super::RegistryError;
use super::endpoint::Endpoint;
use super::session::{Ask, Failure, Session, read_bounded};
use crate::digest::Digest;
use crate::manifest::{
    self, ContentError, DOCKER_LIST, DOCKER_MANIFEST, Descriptor, Document, Manifest, OCI_INDEX,
    OCI_MANIFEST,
};

/// Indexes within indexes, at most.
const INDEX_DEPTH_MAX: usize = 3;

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
        let mut last = None;
        for (place, endpoint) in self.endpoints.iter().enumerate() {
            match self.resolve_at(endpoint, place).await {
                Ok(resolved) => return Ok(resolved),
                Err(error) => {
                    if place + 1 < self.endpoints.len() {
                        tracing::warn!(%error, "mirror failed, going on to the next");
                    }
                    last = Some(error);
                }
            }
        }
        Err(last.unwrap_or_else(|| RegistryError::NotFound {
            reference: self.reference.familiar(),
            address: self.reference.registry().to_owned(),
        }))
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
        let mut index = None;
        for _ in 0..INDEX_DEPTH_MAX {
            let document =
                manifest::read(&fetched.bytes, &fetched.media_type, self.limits.layers_max);
            match document.map_err(content)? {
                Document::Manifest(manifest) => {
                    return Ok(Resolved {
                        manifest,
                        digest: fetched.digest,
                        index,
                        endpoint: place,
                    });
                }
                Document::Index(manifests) => {
                    let chosen = manifest::choose(&manifests).map_err(content)?;
                    let next = self.fetch_manifest(endpoint, Some(chosen)).await?;
                    index.get_or_insert(fetched.digest);
                    fetched = next;
                }
            }
        }
        Err(content(ContentError::Malformed {
            what: "index",
            problem: format!("more than {INDEX_DEPTH_MAX} indexes lead to one another"),
        }))
    }

    /// The manifest of the reference, or of an entry of its index.
    async fn fetch_manifest(
        &self,
        endpoint: &Endpoint,
        entry: Option<&Descriptor>,
    ) -> Result<Fetched, RegistryError> {
        let wanted = entry.map(|entry| &entry.digest).or(self.reference.digest());
        let name = wanted
            .map(Digest::as_str)
            .or(self.reference.tag())
            .unwrap_or("latest");
        let what = format!("the manifest of {}", self.reference.familiar());
        let accept = [OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST].join(", ");
        let ask = Ask {
            what: &what,
            path: &format!("manifests/{name}"),
            accept: Some(&accept),
            from: 0,
        };
        self.retry(async || {
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
            verified.map_err(|cause| {
                Failure::Final(RegistryError::Content {
                    address: endpoint.address.clone(),
                    cause,
                })
            })?;
            let digest = wanted.cloned().unwrap_or_else(|| Digest::of(&bytes));
            Ok(Fetched {
                bytes,
                media_type,
                digest,
            })
        })
        .await
    }

    /// A small blob, the config, verified.
    pub(crate) async fn fetch_config(&self, resolved: &Resolved) -> Result<Bytes, RegistryError> {
        let config = &resolved.manifest.config;
        let what = format!("the config of {}", self.reference.familiar());
        let ask = Ask {
            what: &what,
            path: &format!("blobs/{}", config.digest),
            accept: None,
            from: 0,
        };
        self.ask_each(resolved.endpoint, async |endpoint| {
            self.retry(async || {
                let answer = self.ask(endpoint, &ask).await?;
                let bytes =
                    read_bounded(endpoint, "config", answer, self.limits.document_bytes_max)
                        .await?;
                match manifest::verify("the config", config, &bytes) {
                    Ok(()) => Ok(bytes),
                    Err(cause) => Err(Failure::Final(RegistryError::Content {
                        address: endpoint.address.clone(),
                        cause,
                    })),
                }
            })
            .await
        })
        .await
    }

    /// Asks the endpoint at `first` and then those behind it; the last one's
    /// error counts.
    pub(super) async fn ask_each<T>(
        &self,
        first: usize,
        mut get: impl AsyncFnMut(&Endpoint) -> Result<T, RegistryError>,
    ) -> Result<T, RegistryError> {
        let mut endpoints = self.endpoints.iter().skip(first).peekable();
        while let Some(endpoint) = endpoints.next() {
            match get(endpoint).await {
                Err(error) if endpoints.peek().is_some() => {
                    tracing::warn!(%error, "mirror failed, going on to the next");
                }
                result => return result,
            }
        }
        Err(RegistryError::NotFound {
            reference: self.reference.familiar(),
            address: self.reference.registry().to_owned(),
        })
    }
}
