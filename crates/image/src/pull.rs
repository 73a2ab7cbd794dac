//! Pulling: resolve, download layers side by side, unpack them in order.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use tokio::sync::{Mutex, oneshot};
use tokio::time::Instant;

use crate::config::{self, ReadConfig};
use crate::digest::Digest;
use crate::layer::{Layer, LayerError};
use crate::manifest::{ContentError, Descriptor};
use crate::reference::Reference;
use crate::source::Progress;
use crate::source::registry::{Registries, RegistryError, Resolved, Session};
use crate::store::{BlobFile, Image, NamedBy, Staging, Store, StoreError};

/// Layers downloaded at a time, as Docker does.
const DOWNLOADS_MAX: usize = 3;

/// How long a pull waits, from its start, for another pull that downloads one of its
/// layers from elsewhere. Images that share a layer are often pulled together, and within
/// a few seconds most layers are here.
const SHARING: Duration = Duration::from_secs(5);

/// A downloaded layer, verified, and the path of its file.
type Downloaded = (File, PathBuf);

/// An image cannot be pulled.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The registry's side.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// A layer's contents.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// Our side.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It takes too long.
    #[error(
        "pull image {}: it was not done within {within:?}; what was downloaded is kept for a day, pull it again to go on", .reference.familiar()
    )]
    TooLong {
        /// The image.
        reference: Reference,
        /// How long it was waited for.
        within: Duration,
    },
    /// What was pulled is no image that we can use.
    #[error("use image {reference}")]
    Content {
        /// The image.
        reference: Reference,
        /// Why not.
        #[source]
        cause: ContentError,
    },
}

impl Store {
    /// Gets an image from its registry and gives it its name.
    ///
    /// Needs a tokio runtime with time and I/O. May be dropped at any point;
    /// what was downloaded is resumed by the next pull.
    ///
    /// # Errors
    /// When the registry does not give it, or not within
    /// [`Timeouts::pull`](crate::Timeouts::pull), or it cannot be unpacked.
    pub async fn pull(
        &self,
        reference: &Reference,
        registries: &Registries,
        progress: &dyn Progress,
    ) -> Result<Image, PullError> {
        let within = registries.timeouts.pull;
        let pull = pull(self, reference, registries, progress);
        let Ok(pulled) = tokio::time::timeout(within, pull).await else {
            return Err(PullError::TooLong {
                reference: reference.clone(),
                within,
            });
        };
        pulled
    }
}

async fn pull(
    store: &Store,
    reference: &Reference,
    registries: &Registries,
    progress: &dyn Progress,
) -> Result<Image, PullError> {
    let session = Session::open(reference, registries, store.limits()).await?;
    let resolved = session.resolve().await?;
    if let Some(image) = known(store, reference, &resolved).await? {
        return Ok(image);
    }
    let sweeper = store.clone();
    blocking(move || sweeper.sweep()).await?;
    let from = format!("{}/{}", reference.registry(), reference.repository());
    let held = store.lock(&resolved.digest, &from).await?;
    // The last holder of the lock may have pulled this very image.
    if let Some(image) = known(store, reference, &resolved).await? {
        return Ok(image);
    }
    let bytes = session.fetch_config(&resolved).await?;
    let config = config::read(&bytes, resolved.manifest.layers.len()).map_err(|cause| {
        PullError::Content {
            reference: reference.clone(),
            cause,
        }
    })?;
    let layers = resolved.manifest.layers.iter();
    let image = Pull {
        began: Instant::now(),
        turns: layers
            .map(|layer| (&layer.digest, Mutex::new(())))
            .collect(),
        store,
        from: &from,
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
async fn known(
    store: &Store,
    reference: &Reference,
    resolved: &Resolved,
) -> Result<Option<Image>, StoreError> {
    let (store, reference) = (store.clone(), reference.clone());
    let (digest, index) = (resolved.digest.clone(), resolved.index.clone());
    let found = blocking(move || {
        let by = NamedBy::Manifest;
        let image = store.open_image(&reference, &digest, index.as_ref(), by)?;
        if let Some(image) = &image {
            store.rename(&reference, image)?;
        }
        Ok(image)
    });
    found.await?
}

struct Pull<'a> {
    store: &'a Store,
    /// Registry and repository.
    from: &'a str,
    session: &'a Session<'a>,
    resolved: &'a Resolved,
    config: &'a ReadConfig,
    progress: &'a dyn Progress,
    began: Instant,
    /// An image may have a layer several times; it is downloaded once.
    turns: BTreeMap<&'a Digest, Mutex<()>>,
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
        let (store, cancelled) = (self.store.clone(), Arc::clone(&cancel.0));
        let staging = blocking(move || Staging::create(&store, cancelled)).await??;
        let staging = Aside::new(staging);
        let (senders, receivers): (Vec<_>, Vec<_>) =
            layers.iter().map(|_| oneshot::channel()).unzip();
        let mut downloads = Vec::new();
        for (layer, sender) in layers.iter().zip(senders) {
            downloads.push(self.download(layer, sender));
        }
        let downloads = stream::iter(downloads)
            .buffer_unordered(DOWNLOADS_MAX)
            .try_collect::<()>();
        let ((), unpacked) = tokio::try_join!(downloads, self.unpack(staging, receivers))?;
        let (staging, files) = unpacked;
        let image = self.publish(reference, staging, files).await?;
        drop(cancel);
        Ok(image)
    }

    async fn download(
        &self,
        layer: &Descriptor,
        sender: oneshot::Sender<Downloaded>,
    ) -> Result<(), PullError> {
        let _turn = match self.turns.get(&layer.digest) {
            Some(turn) => Some(turn.lock().await),
            None => None,
        };
        let file = BlobFile::open(self.store, layer, self.from, self.began + SHARING).await?;
        self.progress.advanced(&layer.digest, file.bytes());
        let file = self
            .session
            .download(self.resolved, layer, file, self.progress)
            .await?;
        // Unlocked before it waits for its turn: two pulls that held what the
        // other waits for would wait for ever.
        let downloaded = file.into_reader()?;
        // Nobody receives it where unpacking failed, and with that the pull.
        let _ = sender.send(downloaded);
        Ok(())
    }

    async fn unpack(
        &self,
        mut staging: Aside<Staging>,
        receivers: Vec<oneshot::Receiver<Downloaded>>,
    ) -> Result<(Aside<Staging>, Vec<PathBuf>), PullError> {
        let mut files = Vec::new();
        let layers = self
            .resolved
            .manifest
            .layers
            .iter()
            .zip(&self.config.diff_ids);
        for (place, ((layer, diff_id), receiver)) in layers.zip(receivers).enumerate() {
            let Ok((reader, path)) = receiver.await else {
                // Its download failed, and the join around us reports that.
                return std::future::pending().await;
            };
            files.push(path);
            let name = layer.digest.to_string();
            let diff_id: Digest = diff_id.clone();
            let mut unpacking = staging.take();
            let unpacked = blocking(move || {
                let layer = Layer {
                    name,
                    first: place == 0,
                    diff_id: Some(&diff_id),
                    needs_end: false,
                };
                let unpacked = unpacking.unpack(&layer, Box::new(reader));
                unpacked.map(|_| Aside::new(unpacking))
            });
            staging = unpacked.await??;
            self.progress.done(&layer.digest);
        }
        Ok((staging, files))
    }

    /// Publishes the image, and deletes the files of its layers, which nobody needs any
    /// more.
    async fn publish(
        &self,
        reference: &Reference,
        staging: Aside<Staging>,
        files: Vec<PathBuf>,
    ) -> Result<Image, PullError> {
        let reference = reference.clone();
        let (digest, index) = (self.resolved.digest.clone(), self.resolved.index.clone());
        let config = self.config.clone();
        let published = blocking(move || {
            let name = (&digest, NamedBy::Manifest);
            let staging = staging.take();
            let published = staging.publish(&reference, name, index.as_ref(), &config)?;
            for file in files {
                let _ = std::fs::remove_file(file);
            }
            Ok::<_, StoreError>(published)
        })
        .await?;
        Ok(published?)
    }
}

/// Drops what it holds on a thread that may block: deleting a tree of millions of files
/// takes a while. A pull that fails or is dropped holds such a tree.
struct Aside<T: Send + 'static>(Option<T>);

impl<T: Send + 'static> Aside<T> {
    fn new(held: T) -> Self {
        Self(Some(held))
    }

    fn take(mut self) -> T {
        self.0.take().expect("taken once, with all of this")
    }
}

impl<T: Send + 'static> Drop for Aside<T> {
    fn drop(&mut self) {
        // Without a runtime, or with one that ends, it is dropped here.
        if let Some(held) = self.0.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            drop(runtime.spawn_blocking(move || drop(held)));
        }
    }
}

/// Runs work that waits for the disk on a thread that may block.
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

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};
    use std::thread::{self, ThreadId};

    use super::*;

    struct TellsWhere(Sender<ThreadId>);

    impl Drop for TellsWhere {
        fn drop(&mut self) {
            let _ = self.0.send(thread::current().id());
        }
    }

    #[test]
    fn what_is_held_aside_is_dropped_where_it_blocks_nobody() {
        let (told, tells) = channel();
        let here = thread::current().id();
        let held = || Aside::new(TellsWhere(told.clone()));
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.build().unwrap();
        // As a pull is whose turn is over, or of which another part has failed.
        runtime.block_on(async {
            let waits = async {
                let _held = held();
                std::future::pending::<()>().await;
            };
            tokio::select! {
                biased;
                () = waits => {}
                () = std::future::ready(()) => {}
            }
        });
        assert_ne!(tells.recv().unwrap(), here);
        drop(runtime);
        drop(held());
        assert_eq!(tells.recv().unwrap(), here);
        drop(held().take());
        assert_eq!(tells.recv().unwrap(), here);
    }
}
