//! Runs chains: bytes in, link after link, bytes out.
//!
//! The reply's body of one link is the request's body of the next, so all links run at the
//! same time, and back-pressure and early close pass through. The portal must not know how a
//! call travels, nor what runs it.
//!
//! Unlike a pipe, a chain is strict: a link gets an end-of-file only once the link before it
//! is known to have succeeded. Otherwise its input is cut off.
//!
//! [`Portal::send`] takes and gives bytes, [`Portal::stream`] streams of them, and [`http`]
//! offers chains over HTTP.

// | module | for |
// |---|---|
// | `run` | one run of a chain, a task: makes the calls, and decides what becomes of them |
// | `verdict` | what is known of a run, and what follows from it, as plain data |
// | `attempt` | one attempt at a call: asked for until somebody takes it |
// | `link_output` | the stream between two calls: holds back its end, drops what is written again, keeps its beginning |
// | `kept` | the beginning of a stream, for a call that is made again |
// | `plan` | which links may be taken together, as one call |
// | `failure` | reports and errors, and how they read |
// | `traced` | the spans of calls |
// | `publish`, `publisher` | makes a chain's links known; those of all chains of a portal |
// | `http` | chains over HTTP |

mod attempt;
mod failure;
pub mod http;
mod kept;
mod link_output;
mod plan;
mod publish;
mod publisher;
mod run;
mod traced;
mod verdict;

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use chain::Chain;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

pub(crate) use failure::command_line;
pub use failure::{ChainError, ChainFailure, FailureReason, LinkReport, Report};
pub use publish::Publication;
pub use publisher::Publisher;

use crate::link_store::{LinkStore, LinkStoreError};
pub use crate::pending::Pending;
use crate::trace::Trace;
use crate::transport::{Body, Following, Transport};
use publish::Publishing;

/// Calls one chain over a transport. Clones are cheap, and are the same portal.
///
/// [`connect`](Self::connect) makes one for running servers. For other options see
/// [`Network`](crate::Network); for one with a runner in this process,
/// [`Serve`](crate::Serve) and [`OneShot`](crate::OneShot).
#[derive(Clone)]
pub struct Portal {
    chain: Arc<Chain>,
    /// For each link, the following links that the same runner may run too.
    following: Arc<[Arc<[Following]>]>,
    transport: Arc<dyn Transport>,
    publishing: Arc<Publishing>,
    /// Keeps the links published, if nobody else does. Nobody ever locks it: the mutex only
    /// makes the portal `Sync`.
    _publisher: Option<Arc<Mutex<Publisher>>>,
}

/// A chain cannot be offered.
#[derive(Debug, thiserror::Error)]
pub enum PortalError {
    /// The chain has no links.
    #[error("open the chain: it has no links")]
    NoLinks,
    /// Its links could not be published.
    #[error("publish the chain's links")]
    LinkStore(#[from] LinkStoreError),
}

impl Portal {
    /// A portal whose links are not [published](Self::publish) yet. It already takes calls:
    /// they succeed if somebody else has published the links, and runners serve them.
    ///
    /// # Errors
    /// The chain is empty.
    pub fn new(chain: Chain, transport: Arc<dyn Transport>) -> Result<Portal, PortalError> {
        if chain.links.is_empty() {
            return Err(PortalError::NoLinks);
        }
        let following = plan::following(&chain).into();
        let chain = Arc::new(chain);
        let publishing = Arc::new(Publishing::new(Arc::clone(&chain)));
        Ok(Portal {
            chain,
            following,
            transport,
            publishing,
            _publisher: None,
        })
    }

    /// A portal whose links are published.
    ///
    /// # Errors
    /// The chain is empty, or the store cannot be reached.
    pub async fn open(
        chain: Chain,
        transport: Arc<dyn Transport>,
        links: &dyn LinkStore,
    ) -> Result<Portal, PortalError> {
        let portal = Portal::new(chain, transport)?;
        portal.publish(links).await?;
        Ok(portal)
    }

    /// Puts the chain's links into the store, where runners find them. Doing so again
    /// changes nothing.
    ///
    /// # Errors
    /// The store cannot be reached; some links may have been put there.
    pub async fn publish(&self, links: &dyn LinkStore) -> Result<(), PortalError> {
        Ok(self.publishing.publish(links).await?)
    }

    /// The same portal, which now holds its publisher.
    pub(crate) fn kept_by(self, publisher: Publisher) -> Portal {
        Portal {
            _publisher: Some(Arc::new(Mutex::new(publisher))),
            ..self
        }
    }

    /// A portal for each of these chains: the one of `before` with an equal chain, else a
    /// new one.
    ///
    /// # Errors
    /// A chain is empty.
    pub fn for_each(
        chains: Vec<Chain>,
        before: &[Portal],
        transport: &Arc<dyn Transport>,
    ) -> Result<Vec<Portal>, PortalError> {
        let before = before
            .iter()
            .map(|portal| (portal.chain().name.as_str(), portal));
        let before: BTreeMap<_, _> = before.collect();
        let portal = |chain: Chain| match before.get(chain.name.as_str()) {
            Some(portal) if **portal.chain() == chain => Ok(Portal::clone(portal)),
            _ => Portal::new(chain, Arc::clone(transport)),
        };
        chains.into_iter().map(portal).collect()
    }

    /// Whether both are clones of one portal, and not only for equal chains.
    pub(crate) fn is(&self, other: &Portal) -> bool {
        Arc::ptr_eq(&self.publishing, &other.publishing)
    }

    /// Whether the chain's links have been published.
    pub fn publication(&self) -> watch::Receiver<Publication> {
        self.publishing.state()
    }

    /// The chain that it calls.
    pub fn chain(&self) -> &Arc<Chain> {
        &self.chain
    }

    /// Sends one payload through the chain and returns its output.
    ///
    /// It takes no longer than the chain's deadline, which is
    /// [`DEFAULT_DEADLINE`](chain::DEFAULT_DEADLINE) if its file has none; for another one, set
    /// `deadline` of the chain before you open the portal.
    ///
    /// The output is held in memory: use [`stream`](Self::stream) if it may be large.
    ///
    /// # Errors
    /// The first link, in chain order, that failed, and why.
    pub async fn send(&self, payload: impl Into<Bytes>) -> Result<Bytes, ChainError> {
        let ChainReply { body, report } = self.stream(ChainRequest::new(payload.into()));
        let received = body.collect().await;
        let report = report.await?;
        // A body is cut off only by a run that has failed.
        received.map_err(|cut| ChainError::cut_off(&self.chain, report, &cut))
    }

    /// Sends a stream through the chain. Must be called within a runtime of tokio: the run
    /// is a task, and begins now, as does the chain's deadline.
    ///
    /// If the run fails, the reply's body is cut off, and its
    /// [report](ChainReply::report) is the error. So it is if the values of the chain's
    /// parameters are not what the chain file says: then nothing is run.
    pub fn stream(&self, request: ChainRequest) -> ChainReply {
        match self.chain.values(&request.parameters) {
            Ok(values) => run::start(self.clone(), request, values),
            Err(error) => run::refused(&self.chain, error),
        }
    }
}

/// What to run a chain on.
#[derive(Debug)]
pub struct ChainRequest {
    /// The input of the first link.
    pub body: Body,
    /// Values of the chain's parameters, by name. The chain file's default counts for one
    /// that is missing here.
    pub parameters: BTreeMap<String, String>,
    /// The call's id, and its place in a trace.
    pub trace: Trace,
    /// Receives standard error of all links while they run.
    pub stderr: Option<mpsc::Sender<Bytes>>,
    /// Held by the run, and dropped when it is over: a permit of a semaphore, for example.
    pub guard: Option<Box<dyn Any + Send>>,
}

impl ChainRequest {
    /// A request of a new call with this body, without values of parameters and without a
    /// listener for standard error.
    pub fn new(body: impl Into<Body>) -> ChainRequest {
        ChainRequest {
            body: body.into(),
            parameters: BTreeMap::new(),
            trace: Trace::default(),
            stderr: None,
            guard: None,
        }
    }
}

/// The output of a run, and its report. Dropping both stops the run.
#[derive(Debug)]
pub struct ChainReply {
    /// The output of the last link, as it writes it. It ends only once every link is known to
    /// have succeeded; otherwise it is cut off. Dropping it stops the links as a closed pipe
    /// would, which is not a failure.
    pub body: Body,
    /// A future of how the run ended: the report on each link, or the error of the first
    /// link that failed.
    ///
    /// Resolves once the body has been read to its end, or was dropped. So read the body
    /// first, or both at the same time; do not wait for the report while you hold a body that
    /// nobody reads.
    pub report: PendingReport,
}

/// The report of a run. Resolves once it is known how the run ended.
pub type PendingReport = Pending<Result<Report, ChainError>>;
