//! Images for a runner: from the store, or else from their registry.
//!
//! A name with a tag may mean different bytes at different times and places. So
//! that all runners run the same, the first one that can run what it has found
//! under a name pins the name in the link store, and everybody else uses what it
//! is pinned to. That is the digest that a registry knows: of the index, where
//! the name leads to one, so that machines of another kind find theirs by it;
//! else of the manifest. What was imported from a file may have no such digest;
//! its pin is that of its config, which leads those to it who import the same.

use std::sync::Arc;

use image::{CredentialsError, Digest, Image, Progress, Reference, Registries, Store};
use tokio::time::Instant;

use super::metrics::Metrics;
use super::turns::{Bounds, Turn, Turns, Watched};
use super::worker::LoadError;
use crate::link_store::LinkStore;

/// Where a runner finds its images.
#[derive(Clone)]
pub struct Images {
    /// Images on this machine.
    pub store: Store,
    /// How to reach the registries that the others come from; asked only when
    /// there is something to pull.
    pub registries: Arc<FindRegistries>,
    /// Who is told how a download goes.
    pub progress: Arc<dyn Progress>,
}

/// Finds out how registries are reached, for which credentials are read.
pub type FindRegistries = dyn Fn() -> Result<Registries, CredentialsError> + Send + Sync;

/// Images, as all runners agree on them.
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

    /// The image of that name, or what the name is pinned to; pulled if it is
    /// not in the store.
    pub(super) async fn get(&self, name: &str) -> Result<Image, LoadError> {
        let reference: Reference = name.parse().map_err(LoadError::Reference)?;
        if reference.digest().is_some() {
            return self.here_or_pulled(&reference).await;
        }
        let Some(pin) = self.links.pinned_image(&reference.to_string()).await? else {
            return self.here_or_pulled(&reference).await;
        };
        let digest: Digest = pin.parse().map_err(|cause| LoadError::BadPin {
            reference: reference.clone(),
            pin,
            cause,
        })?;
        let pinned = reference.clone().with_digest(digest.clone());
        let found = self.here_or_pulled(&pinned).await;
        found.map_err(|cause| LoadError::Pinned {
            reference,
            digest,
            cause: Box::new(cause),
        })
    }

    /// Pins an image that can be run, unless its name is pinned. False if the
    /// name means another one to the other runners: then [`get`](Self::get) it
    /// again.
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
            // Whoever had a turn before may have pulled just this.
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
                        "it takes long, and others wait: it goes on when they are done"
                    );
                }
            }
        }
    }

    /// Looks for it in the store, where that blocks nobody: what an earlier version
    /// unpacked is gone through first.
    async fn here(&self, reference: &Reference) -> Result<Option<Image>, LoadError> {
        let (store, reference) = (self.images.store.clone(), reference.clone());
        let found = tokio::task::spawn_blocking(move || store.get(&reference)).await;
        match found {
            Ok(found) => found.map_err(LoadError::Store),
            // The runtime ends, and this with it.
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
        // Elsewhere, since files are read.
        let found = tokio::task::spawn_blocking(move || registries()).await;
        // Where there is none, the runtime ends, and this with it.
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
