//! Pulling: resolve, download layers side by side, unpack them in order.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use tokio::sync::oneshot;

use super::staging::Staging;
use super::{BlobFile, Image, NamedBy, Store, StoreError, lock};
use crate::config::{self, ReadConfig};
use crate::digest::Digest;
use crate::layer::Layer;
use crate::manifest::Descriptor;
use crate::reference::Reference;
use crate::source::Progress;
use crate::source::registry::{PullError, Registries, Resolved, Session};

/// Layers downloaded at a time, as Docker does.
const DOWNLOADS_MAX: usize = 3;

/// A downloaded layer, verified.
type LayerReader = Box<dyn Read + Send>;

pub(super) async fn pull(
    store: &Store,
    reference: &Reference,
    registries: &Registries,
    progress: &dyn Progress,
) -> Result<Image, PullError> {
    let limits = &store.inner.options.limits;
    let session = Session::open(reference, registries, limits).await?;
    let resolved = session.resolve().await?;
    if let Some(image) = known(store, reference, &resolved)? {
        return Ok(image);
    }
    let sweeper = store.clone();
    blocking(move || sweeper.sweep()).await?;
    let path = store.path(["locks", &resolved.digest.file_name()]);
    let held = lock::lock_file(&path)
        .await
        .map_err(|cause| StoreError::io("lock", &path, cause))?;
    // Whoever held the lock may have been pulling just this.
    if let Some(image) = known(store, reference, &resolved)? {
        return Ok(image);
    }
    let bytes = session.fetch_config(&resolved).await?;
    let config = config::read(&bytes, resolved.manifest.layers.len()).map_err(|cause| {
        PullError::Content {
            reference: reference.clone(),
            cause,
        }
    })?;
    let image = Pull {
        store,
        session: &session,
        resolved: &resolved,
        config: &config,
        progress,
    }
    .run(reference)
    .await?;
    drop(held);
    Ok(image)
}

/// The image if its root is here already; it has its name then.
fn known(
    store: &Store,
    reference: &Reference,
    resolved: &Resolved,
) -> Result<Option<Image>, StoreError> {
    let index = resolved.index.as_ref();
    let image = store.open_image(reference, &resolved.digest, index, NamedBy::Manifest)?;
    if let Some(image) = &image {
        store.record(reference, &resolved.digest, index, image.bytes)?;
    }
    Ok(image)
}

struct Pull<'a> {
    store: &'a Store,
    session: &'a Session<'a>,
    resolved: &'a Resolved,
    config: &'a ReadConfig,
    progress: &'a dyn Progress,
}

/// Ends the unpacking of a pull that is dropped.
struct Cancel(Arc<AtomicBool>);

impl Drop for Cancel {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Pull<'_> {
    async fn run(&self, reference: &Reference) -> Result<Image, PullError> {
        let layers = &self.resolved.manifest.layers;
        for layer in layers {
            self.progress.layer(&layer.digest, layer.size);
        }
        let cancel = Cancel(Arc::default());
        let staging = Staging::create(self.store, Arc::clone(&cancel.0))?;
        let (senders, receivers): (Vec<_>, Vec<_>) =
            layers.iter().map(|_| oneshot::channel()).unzip();
        let mut downloads = Vec::new();
        for (layer, sender) in layers.iter().zip(senders) {
            downloads.push(self.download(layer, sender));
        }
        let downloads = stream::iter(downloads)
            .buffer_unordered(DOWNLOADS_MAX)
            .try_collect::<()>();
        let ((), staging) = tokio::try_join!(downloads, self.unpack(staging, receivers))?;
        let image = self.publish(reference, staging).await?;
        for layer in layers {
            let _ = std::fs::remove_file(self.store.path(["blobs", &layer.digest.file_name()]));
        }
        drop(cancel);
        Ok(image)
    }

    async fn download(
        &self,
        layer: &Descriptor,
        sender: oneshot::Sender<LayerReader>,
    ) -> Result<(), PullError> {
        let file = BlobFile::open(self.store, layer).await?;
        self.progress.advanced(&layer.digest, file.bytes());
        let file = self
            .session
            .download(self.resolved, layer, file, self.progress)
            .await?;
        // Unlocked before it waits for its turn: two pulls that held what the
        // other waits for would wait for ever.
        let reader: LayerReader = Box::new(file.into_reader()?);
        // Nobody receives it where unpacking failed, and with that the pull.
        let _ = sender.send(reader);
        Ok(())
    }

    async fn unpack(
        &self,
        mut staging: Staging,
        readers: Vec<oneshot::Receiver<LayerReader>>,
    ) -> Result<Staging, PullError> {
        let layers = self
            .resolved
            .manifest
            .layers
            .iter()
            .zip(&self.config.diff_ids);
        for (place, ((layer, diff_id), reader)) in layers.zip(readers).enumerate() {
            let Ok(reader) = reader.await else {
                // Its download failed, and the join around us reports that.
                return std::future::pending().await;
            };
            let name = layer.digest.to_string();
            let diff_id: Digest = diff_id.clone();
            staging = blocking(move || {
                let layer = Layer {
                    name,
                    first: place == 0,
                    diff_id: Some(&diff_id),
                    needs_end: false,
                };
                staging.unpack(&layer, reader).map(|_| staging)
            })
            .await??;
            self.progress.done(&layer.digest);
        }
        Ok(staging)
    }

    async fn publish(&self, reference: &Reference, staging: Staging) -> Result<Image, PullError> {
        let reference = reference.clone();
        let (digest, index) = (self.resolved.digest.clone(), self.resolved.index.clone());
        let config = self.config.image.clone();
        let published = blocking(move || {
            let name = (&digest, NamedBy::Manifest);
            staging.publish(&reference, name, index.as_ref(), &config)
        })
        .await?;
        Ok(published?)
    }
}

/// Does something that waits for the disk where that blocks nobody.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, StoreError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|cause| {
        StoreError::io(
            "unpack into",
            "the store".as_ref(),
            std::io::Error::other(cause),
        )
    })
}
