//! Images for a runner: from the store, or else from their registry.
//!
//! A name with a tag may mean different bytes at different times and places. So that all
//! runners run the same, the first runner that can run the image pins the name to a digest in
//! the link store, and all others use that digest. It is the digest of the index if the name
//! refers to one, so that machines of other architectures find their image by it; otherwise
//! that of the manifest. An image that was imported from a file may have neither: then it is
//! the digest of its config, which identifies the same file when others import it.

use std::sync::Arc;

use image::{CredentialsError, Digest, Image, Progress, Reference, Registries, Store};
use tokio::time::Instant;

use super::metrics::Metrics;
use super::turns::{Bounds, Turn, Turns, Watched};
use super::worker::LoadError;
use crate::link_store::LinkStore;

/// The sources of a runner's images.
#[derive(Clone)]
pub struct Images {
    /// The images on this machine.
    pub store: Store,
    /// Finds out how to reach registries; called only when there is something to pull.
    pub registries: Arc<FindRegistries>,
    /// Receives the progress of downloads.
    pub progress: Arc<dyn Progress>,
}

/// Finds out how to reach registries; reads credentials.
pub type FindRegistries = dyn Fn() -> Result<Registries, CredentialsError> + Send + Sync;

/// The images that all runners agree on.
pub(super) struct AgreedImages {
    images: Images,
    links: Arc<dyn LinkStore>,
    turns: Turns,
    metrics: Arc<Metrics>,
}

impl AgreedImages {
    pub(super) fn new(
        images: Images,
        links: Arc<dyn LinkStore>,
        metrics: Arc<Metrics>,
    ) -> AgreedImages {
        AgreedImages {
            images,
            links,
            turns: Turns::new(Bounds::default()),
            metrics,
        }
    }

    /// The image of that name, or that which the name is pinned to. It is pulled if it is not
    /// in the store.
    pub(super) async fn get(&self, name: &str) -> Result<Image, LoadError> {
        let reference: Reference = name.parse().map_err(LoadError::Reference)?;
        if reference.digest().is_some() {
            return self.here_or_pulled(&reference).await;
        }
        let Some(pin) = self.links.pinned_image(&reference.to_string()).await? else {
            return self.here_or_pulled(&reference).await;
        };
        let digest: Digest = pin.parse().map_err(|cause| LoadError::BadPin {
            reference: Box::new(reference.clone()),
            pin,
            cause,
        })?;
        let pinned = reference.clone().with_digest(digest.clone());
        let found = self.here_or_pulled(&pinned).await;
        found.map_err(|cause| LoadError::Pinned {
            reference: Box::new(reference),
            digest,
            cause: Box::new(cause),
        })
    }

    /// Pins the name of an image that can be run, unless it is pinned. Returns false if the
    /// name is pinned to another image: then [`get`](Self::get) it again.
    pub(super) async fn agree(&self, image: &Image) -> Result<bool, LoadError> {
        if image.reference.digest().is_some() {
            return Ok(true);
        }
        let (name, ours) = (image.reference.to_string(), image.pin().as_str());
        let pinned = self.links.pin_image(&name, ours).await?;
        Ok(*pinned == *ours)
    }

    async fn here_or_pulled(&self, reference: &Reference) -> Result<Image, LoadError> {
        if let Some(image) = self.here(reference).await? {
            return Ok(image);
        }
        let mut called_back = 0;
        loop {
            let turn = self.turns.take(reference.registry(), called_back).await;
            // The pull that had the turn before may have been of the same image.
            if let Some(image) = self.here(reference).await? {
                return Ok(image);
            }
            tokio::select! {
                biased;
                pulled = self.pull(reference, &turn) => return pulled,
                () = turn.called_back() => {
                    called_back += 1;
                    let image = reference.familiar();
                    tracing::info!(
                        image,
                        "the pull takes long, and others wait: it continues when they are done"
                    );
                }
            }
        }
    }

    /// Looks for an image in the store, on a blocking thread: an image that an earlier version
    /// has unpacked is checked first.
    async fn here(&self, reference: &Reference) -> Result<Option<Image>, LoadError> {
        let (store, reference) = (self.images.store.clone(), reference.clone());
        let found = tokio::task::spawn_blocking(move || store.get(&reference)).await;
        match found {
            Ok(found) => found.map_err(LoadError::Store),
            // The runtime is shutting down.
            Err(_) => Err(LoadError::Stopped),
        }
    }

    async fn pull(&self, reference: &Reference, turn: &Turn<'_>) -> Result<Image, LoadError> {
        let Images {
            store,
            registries,
            progress,
        } = &self.images;
        let registries = Arc::clone(registries);
        // On a blocking thread, because it reads files.
        let found = tokio::task::spawn_blocking(move || registries()).await;
        // An error means that the runtime is shutting down.
        let registries = found.map_err(|_| LoadError::Stopped)?;
        let registries = registries.map_err(LoadError::Credentials)?;
        self.metrics.pulls.inc();
        let began = Instant::now();
        let watched = Watched::new(turn, &**progress);
        let pulled = store.pull(reference, &registries, &watched).await;
        let took = began.elapsed();
        self.metrics.pull_times.observe(took.as_secs_f64());
        pulled.map_err(|error| {
            self.metrics.pull_failures.inc();
            LoadError::Pull(Box::new(error))
        })
    }
}
