//! Runners in this process, with real processes, and what they are joined to.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chain::{Chain, ChainLink, Deadline, Link};
use consecution::link_store::LinkStore;
use consecution::link_store::memory::Memory;
use consecution::open_store;
use consecution::portal::{ChainReply, ChainRequest, Portal};
use consecution::runner::Counts;
use consecution::runner::{Images, Options, Runner};
use consecution::transport::conformance::fake;
use consecution::transport::in_process::InProcess;
use consecution::transport::{Cut, Transport};
use futures_util::StreamExt;
use sandbox::Launcher;
use tokio::sync::mpsc;

use super::{command, home};

/// How long anything may take that is expected to take a moment.
const PATIENCE: Duration = Duration::from_secs(30);

/// How often it is looked whether something has come true: between two looks the
/// processor is left to what is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// A link store and a transport, and a runner that is joined to both.
pub(crate) struct World {
    pub(crate) links: Arc<dyn LinkStore>,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) runner: Runner,
}

/// Images of the store that all tests share; nothing is pulled.
pub(crate) fn images() -> Images {
    Images {
        store: open_store(home::shared()).unwrap(),
        registries: Arc::new(|| Ok(image::Registries::default())),
        progress: Arc::new(image::NoProgress),
    }
}

/// A link that runs a script in busybox's shell.
pub(crate) fn shell(script: &str) -> Link {
    Link {
        command: Some("/bin/sh".to_owned()),
        arguments: vec!["-c".to_owned(), script.to_owned()],
        ..Link::new("busybox")
    }
}

impl World {
    pub(crate) fn start(options: Options) -> World {
        World::start_with(options, images())
    }

    pub(crate) fn start_with(options: Options, images: Images) -> World {
        let links: Arc<dyn LinkStore> = Arc::new(Memory::new());
        let transport: Arc<dyn Transport> = Arc::new(InProcess::new());
        let runner = join(options, images, &transport, &links);
        World {
            links,
            transport,
            runner,
        }
    }

    /// A portal for a chain of that link, which is served.
    pub(crate) async fn portal(&self, link: &Link) -> Portal {
        let portal = self.portal_of(vec![link.clone()]).await;
        self.runner.ready(link.id()).await.unwrap();
        portal
    }

    pub(crate) async fn portal_of(&self, links: Vec<Link>) -> Portal {
        let chain = Chain {
            deadline: Deadline::After(PATIENCE),
            ..Chain::new("test", links.into_iter().map(ChainLink::new))
        };
        Portal::open(chain, Arc::clone(&self.transport), self.links.as_ref())
            .await
            .unwrap()
    }

    /// Waits until the link's counts are so.
    pub(crate) async fn until(&self, link: &Link, wanted: impl Fn(Counts) -> bool) {
        let counts = || self.runner.counts(link.id());
        let reached = is_soon(|| counts().is_some_and(&wanted)).await;
        assert!(reached, "{:?}", counts());
    }
}

/// A further runner on that transport and that store.
pub(crate) fn join(
    options: Options,
    images: Images,
    transport: &Arc<dyn Transport>,
    links: &Arc<dyn LinkStore>,
) -> Runner {
    let launcher = Launcher::with_program(command::PROGRAM);
    let (transport, links) = (Arc::clone(transport), Arc::clone(links));
    Runner::start(options, transport, links, images, launcher)
}

/// What a runner has counted, as Prometheus reads it.
pub(crate) fn metrics(runner: &Runner) -> String {
    let mut registry = consecution::http::registry();
    runner.register(&mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    text
}

/// Whether that comes true before patience is over. For states that nothing
/// announces.
pub(crate) async fn is_soon(wanted: impl Fn() -> bool) -> bool {
    let waiting = async {
        while !wanted() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.is_ok()
}

/// What `future` gives, and soon.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap()
}

/// A call under way: what it is given, and what it gives.
pub(crate) struct Call {
    input: mpsc::Sender<Result<Bytes, Cut>>,
    reply: ChainReply,
}

impl Call {
    /// Begins a call of a chain that writes what it reads, and waits for the
    /// first of that: its processes are at work then.
    pub(crate) async fn begin(portal: &Portal) -> Call {
        let (input, body) = mpsc::channel(1);
        let mut reply = portal.stream(ChainRequest::new(fake::receiving(body)));
        input.send(Ok("one, ".into())).await.unwrap();
        assert_eq!(soon(reply.body.next()).await.unwrap().unwrap(), "one, ");
        Call { input, reply }
    }

    /// Gives it the rest, and expects all of it back.
    pub(crate) async fn finish(self) {
        let Call { input, reply } = self;
        input.send(Ok("two".into())).await.unwrap();
        drop(input);
        assert_eq!(soon(reply.body.collect()).await.unwrap(), "two");
        soon(reply.report).await.unwrap();
    }
}
