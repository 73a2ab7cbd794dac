//! A portal on fake links, in this process.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use chain::{Chain, ChainLink, Deadline, Link, LinkId};
use consecution::link_store::memory::Memory;
use consecution::link_store::{
    Change, LinkStore, LinkStoreError, PortalState, Registration, RunnerState,
};
use consecution::portal::Portal;
use consecution::transport::conformance::fake;
use consecution::transport::in_process::InProcess;
use consecution::transport::{Body, Cut, Ending, PendingOutcome, Reply, Service, Transport};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use tokio::sync::{mpsc, watch};

/// A portal for a chain of fakes, and what keeps them on offer.
pub(crate) struct Fixture {
    pub(crate) portal: Portal,
    pub(crate) transport: InProcess,
    pub(crate) registrations: Vec<Registration>,
}

pub(crate) async fn open(services: impl IntoIterator<Item = Arc<dyn Service>>) -> Fixture {
    open_with(services, |_| {}).await
}

/// As [`open`], once `change` has changed the chain.
pub(crate) async fn open_with(
    services: impl IntoIterator<Item = Arc<dyn Service>>,
    change: impl FnOnce(&mut Chain),
) -> Fixture {
    let services: Vec<_> = services.into_iter().collect();
    let mut chain = Chain {
        deadline: Deadline::None,
        ..Chain::new(
            "test",
            (0..services.len()).map(|index| ChainLink::new(link(index))),
        )
    };
    change(&mut chain);
    let transport = InProcess::new();
    let links = chain.links.iter().zip(services);
    let registrations = links.map(|(link, service)| transport.serve(link.id, service));
    let registrations = registrations.collect();
    let portal = Portal::open(chain, Arc::new(transport.clone()), &Memory::new())
        .await
        .expect("a chain with links");
    Fixture {
        portal,
        transport,
        registrations,
    }
}

/// What the link in that place runs.
pub(crate) fn link(index: usize) -> Link {
    let name = ["first", "second", "third", "fourth"][index];
    Link {
        image: "fake".to_owned(),
        command: Some(format!("/bin/{name}")),
        ..Link::default()
    }
}

/// One service for the first call, the next one for the next, the last one for
/// all others; and how many calls there have been.
pub(crate) fn in_turn(
    services: impl IntoIterator<Item = Arc<dyn Service>>,
) -> (Arc<dyn Service>, Arc<AtomicUsize>) {
    let services: Vec<_> = services.into_iter().collect();
    let calls = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&calls);
    let service = fake::service(move |request| {
        let at = count.fetch_add(1, Ordering::SeqCst).min(services.len() - 1);
        let service = Arc::clone(&services[at]);
        async move { service.call(request).await }
    });
    (service, calls)
}

/// A service that is a runner of that name.
pub(crate) fn on(runner: &'static str, service: Arc<dyn Service>) -> Arc<dyn Service> {
    fake::service(move |request| {
        let service = Arc::clone(&service);
        async move {
            let mut reply = service.call(request).await?;
            reply.runner = Some(runner.into());
            Ok(reply)
        }
    })
}

/// How a runner is lost.
#[derive(Debug, Clone, Copy)]
pub(crate) enum LossKind {
    /// Its output breaks off, and nobody says how the call ended.
    Cut,
    /// All of its output has arrived, only not how the call ended.
    Silent,
    /// Whoever looks after it says that it is lost.
    Told,
}

/// A runner that is lost once it has read that many chunks, or all there are,
/// and written that.
pub(crate) fn losing(
    reads: usize,
    writes: &'static [&'static str],
    kind: LossKind,
) -> Arc<dyn Service> {
    fake::service(move |mut request| {
        let (stdout, output) = mpsc::channel(1);
        let (sender, outcome) = PendingOutcome::channel();
        tokio::spawn(async move {
            for _ in 0..reads {
                request.body.next().await;
            }
            for word in writes {
                let _ = stdout.send(Ok(Bytes::from(*word))).await;
            }
            // What it has written is read by then.
            let _ = stdout.reserve().await;
            match kind {
                LossKind::Cut => {
                    let _ = stdout.send(Err(Cut::new("the wire broke"))).await;
                }
                LossKind::Silent => {}
                LossKind::Told => {
                    let _ = sender.send(fake::ended(Ending::Lost("it was killed".into())));
                }
            }
        });
        std::future::ready(Ok(Reply::new(fake::receiving(output), outcome)))
    })
}

/// A body of these chunks.
pub(crate) fn chunks(chunks: impl IntoIterator<Item = impl Into<Bytes>>) -> Body {
    let chunks: Vec<_> = chunks.into_iter().map(|chunk| Ok(chunk.into())).collect();
    Body::new(stream::iter(chunks))
}

/// A store that can be out of reach, and takes its time.
#[derive(Default)]
pub(crate) struct UnreliableStore {
    pub(crate) links: Memory,
    pub(crate) is_away: AtomicBool,
    /// How long it takes to put a link.
    pub(crate) delay: Duration,
    /// How often a link was put, or not.
    pub(crate) puts: AtomicUsize,
    /// How often somebody asked which links are missing.
    pub(crate) looks: AtomicUsize,
}

impl LinkStore for UnreliableStore {
    fn put(&self, link: Arc<Link>) -> BoxFuture<'_, Result<bool, LinkStoreError>> {
        Box::pin(async move {
            self.puts.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(self.delay).await;
            if self.is_away.load(Ordering::SeqCst) {
                return Err(LinkStoreError::Unavailable("nobody answers".into()));
            }
            self.links.put(link).await
        })
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<Arc<Link>>, LinkStoreError>> {
        self.links.list()
    }

    fn remove(&self, id: LinkId) -> BoxFuture<'_, Result<bool, LinkStoreError>> {
        self.links.remove(id)
    }

    fn pin_image(
        &self,
        reference: &str,
        digest: &str,
    ) -> BoxFuture<'_, Result<Arc<str>, LinkStoreError>> {
        self.links.pin_image(reference, digest)
    }

    fn pinned_image(
        &self,
        reference: &str,
    ) -> BoxFuture<'_, Result<Option<Arc<str>>, LinkStoreError>> {
        self.links.pinned_image(reference)
    }

    fn announce(&self, runner: &str, state: watch::Receiver<RunnerState>) -> Registration {
        self.links.announce(runner, state)
    }

    fn runners(&self) -> BoxFuture<'_, Result<BTreeMap<String, RunnerState>, LinkStoreError>> {
        self.links.runners()
    }

    fn missing<'a>(
        &'a self,
        ids: &'a [LinkId],
    ) -> BoxFuture<'a, Result<Vec<LinkId>, LinkStoreError>> {
        self.looks.fetch_add(1, Ordering::SeqCst);
        self.links.missing(ids)
    }

    fn announce_portal(&self, portal: &str, state: watch::Receiver<PortalState>) -> Registration {
        self.links.announce_portal(portal, state)
    }

    fn portals(&self) -> BoxFuture<'_, Result<BTreeMap<String, PortalState>, LinkStoreError>> {
        self.links.portals()
    }

    fn note_unnamed(
        &self,
        id: LinkId,
        since: Option<SystemTime>,
    ) -> BoxFuture<'_, Result<(), LinkStoreError>> {
        self.links.note_unnamed(id, since)
    }

    fn unnamed(&self) -> BoxFuture<'_, Result<BTreeMap<LinkId, SystemTime>, LinkStoreError>> {
        self.links.unnamed()
    }

    fn watch(&self) -> BoxStream<'static, Change> {
        self.links.watch()
    }
}
