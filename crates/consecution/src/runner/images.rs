//! Images for a runner: from the store, or else from their registry.

use std::sync::Arc;

use image::{CredentialsError, Image, Progress, Reference, Registries, Store};

use super::worker::LoadError;

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

impl Images {
    /// The image of that name, pulled if it is not in the store.
    pub(super) async fn get(&self, name: &str) -> Result<Image, LoadError> {
        let reference: Reference = name.parse().map_err(LoadError::Reference)?;
        if let Some(image) = self.store.get(&reference).map_err(LoadError::Store)? {
            return Ok(image);
        }
        let registries = (self.registries)().map_err(LoadError::Credentials)?;
        let pulling = self.store.pull(&reference, &registries, &*self.progress);
        pulling
            .await
            .map_err(|error| LoadError::Pull(Box::new(error)))
    }
}
