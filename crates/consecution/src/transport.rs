//! Carries calls from a portal to a process that runs a link, and replies back.
//!
//! A call sends a [`Request`], whose body is a stream of bytes, and gets a [`Reply`],
//! whose body is a stream of bytes too and which ends with an [`Outcome`]. Caller and
//! service cannot tell how the transport carries them. A transport must not know what
//! a chain is: composing calls is the portal's work.
//!
//! The tests in `conformance` (behind the feature of that name) state what every
//! transport promises.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use chain::LinkId;
use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::trace::Trace;

mod body;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
pub mod in_process;
pub mod nats;
mod usage;

pub use crate::pending::Pending;
pub use crate::registration::Registration;
pub(crate) use body::Next;
pub use body::{Body, Cut};
pub(crate) use body::{Chunks, MovedChunk};
pub use usage::{Limit, Usage};

/// Carries calls from callers that need a link run to services that run it.
pub trait Transport: Send + Sync {
    /// Runs link `id` once on `request`, on any runner that serves it.
    ///
    /// Resolves when a runner has accepted the call. The request's body may still be on
    /// its way then, and the reply's body may not have begun. A runner that has received
    /// the whole request may delay its answer until there is output, for up to half a
    /// second: the call may be over by then and fit into one message.
    ///
    /// # Errors
    /// A [`Refusal`] returns the request unchanged. Nothing has been run and nothing will
    /// be run, unless the request is [repeatable](Request::is_repeatable).
    fn call(&self, id: LinkId, request: Request) -> BoxFuture<'_, Result<Reply, Refusal>>;

    /// Offers `service` for the calls of link `id` until the registration is
    /// dropped; calls in flight are left alone then. Withdrawing it waits until every
    /// call that was on its way here is answered to the last byte, however long that
    /// takes. Several services may be offered for the same link.
    fn serve(&self, id: LinkId, service: Arc<dyn Service>) -> Registration;

    /// Whether a call of link `id` would find a runner, as far as this can be found out
    /// without making a call.
    ///
    /// # Errors
    /// Why not: [`RefusalReason::NoRunner`] or [`RefusalReason::Unreachable`].
    fn probe(&self, id: LinkId) -> BoxFuture<'_, Result<(), RefusalReason>>;
}

/// Answers the calls of one link.
pub trait Service: Send + Sync {
    /// Answers a call that a transport has delivered; see [`Transport::call`].
    fn call(&self, request: Request) -> BoxFuture<'_, Result<Reply, Refusal>>;
}

/// A call's input and parameters.
#[derive(Debug)]
pub struct Request {
    /// The process's standard input.
    pub body: Body,
    /// Identifies the call in logs and traces.
    pub trace: Trace,
    /// The time at which the call's process is killed if it still runs.
    pub deadline: Option<Instant>,
    /// Where to send what the process writes to standard error while it runs,
    /// beside the tail that the outcome keeps. A receiver that does not keep up
    /// slows the process down; one that is gone is ignored.
    pub stderr: Option<mpsc::Sender<Bytes>>,
    /// The values of the parameters of the called link and of all links that follow, by
    /// name: those that at least one of them uses, and no others.
    pub parameters: Arc<BTreeMap<String, String>>,
    /// The links that follow in the chain. The runner that accepts the call may run any
    /// number of these too, from the first on, or none; then the data between them does
    /// not travel. All get the same deadline and `stderr`.
    pub following: Arc<[Following]>,
    /// Whether it does no harm if a runner runs this request after the call was refused.
    /// That can happen if the runner hangs and reads the request late. Holds for the
    /// called link and for all links that follow.
    pub is_repeatable: bool,
    /// Set by the service while the call has to wait for room.
    pub waiting: Waiting,
}

/// A flag that a service sets when a call has to wait for room. While the call waits,
/// nothing has been run for it. Clones share the flag.
#[derive(Debug, Clone, Default)]
pub struct Waiting(Arc<AtomicBool>);

impl Waiting {
    /// Sets the flag: the call has to wait.
    pub fn tell(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether the flag is set.
    pub fn is_told(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// A link that follows another one in a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Following {
    /// The link's id.
    pub id: LinkId,
    /// The exit codes that count as success of the link before it. Only after one of
    /// these does this link get the end of its input.
    pub accepted: Vec<u8>,
}

/// The most links that a request may name in [`Request::following`].
pub const FOLLOWING_MAX: usize = 15;

impl Request {
    /// A request of a new call with this body; without deadline, stderr, parameters and
    /// following links, and not repeatable.
    pub fn new(body: impl Into<Body>) -> Request {
        Request {
            body: body.into(),
            trace: Trace::default(),
            deadline: None,
            stderr: None,
            parameters: Arc::default(),
            following: Arc::default(),
            is_repeatable: false,
            waiting: Waiting::default(),
        }
    }
}

/// The answer to an accepted request.
#[derive(Debug)]
pub struct Reply {
    /// The name of the runner that accepted the call; `None` if it is in this process.
    pub runner: Option<Arc<str>>,
    /// How many of the following links the runner runs too, joined to the called link.
    pub joined: usize,
    /// The standard output of the last process. It ends when the process closes it, which
    /// may be before the process exits. Its end does not mean success; `outcome` says how
    /// the call ended. Dropping the body tells the process that nobody reads its output
    /// any more, as a closed pipe would.
    pub body: Body,
    /// How the call ended. Resolves at the latest soon after the body has ended or was
    /// dropped and all processes have ended.
    pub outcome: PendingOutcome,
}

impl Reply {
    /// The reply of a service in this process that runs only the called link.
    pub fn new(body: Body, outcome: PendingOutcome) -> Reply {
        Reply {
            runner: None,
            joined: 0,
            body,
            outcome,
        }
    }
}

/// A call that no runner has accepted. The caller may make it again.
#[derive(Debug)]
pub struct Refusal {
    /// The request, unchanged.
    pub request: Request,
    /// Why no runner has accepted the call.
    pub reason: RefusalReason,
}

/// Why no runner has accepted a call, divided by what the caller can do about it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RefusalReason {
    /// No runner serves this link now: wait for one, or give up.
    #[error("no runner serves the link")]
    NoRunner,
    /// The runner has no room now: ask again soon, perhaps another runner.
    #[error("every runner that serves the link is busy")]
    Busy,
    /// No runner can be reached now, for this reason: ask again soon.
    #[error("no runner can be asked: {0}")]
    Unreachable(Arc<str>),
    /// The link cannot be started: asking again will not help.
    #[error("{0}")]
    CannotStart(Arc<str>),
    /// The request is not one that the link can have: asking again will not help.
    #[error("{0}")]
    Malformed(Arc<str>),
}

/// A future of how a call ended. Several tasks may wait for clones of it.
pub type PendingOutcome = Pending<Outcome>;

impl PendingOutcome {
    /// A sender, and the outcome that is sent through it. If the sender is dropped
    /// without sending, the outcome is that the runner was lost.
    pub fn channel() -> (oneshot::Sender<Outcome>, PendingOutcome) {
        let (sender, receiver) = oneshot::channel::<Outcome>();
        let outcome = async {
            receiver
                .await
                .unwrap_or_else(|_| Outcome::lost("it went away in mid-call"))
        };
        (sender, Pending::new(outcome))
    }
}

/// How a call ended, with the end of its standard error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// How the process ended.
    pub ending: Ending,
    /// The end of what the process wrote to standard error, at most
    /// [`STDERR_TAIL_BYTES_MAX`].
    pub stderr: Bytes,
    /// The time from when the runner accepted the call until its process was gone.
    pub elapsed: Duration,
    /// What may help if this is a failure: a line of at most [`HINT_BYTES_MAX`].
    pub hint: Option<Arc<str>>,
    /// What the process has left, if its output is a file or folder.
    pub output: OutputLeft,
    /// What the process has used.
    pub usage: Usage,
    /// The limit that the process has met, if this is a failure and it is known.
    pub limit: Option<Limit>,
    /// How the [joined](Reply::joined) links ended, in chain order. Empty if the runner
    /// was lost: then nothing is known about them.
    pub joined: Vec<Outcome>,
}

/// How long to wait for the rest of standard error once a call is over. The process is gone
/// by then, but its descendants may keep the pipe open, and the reader of our standard error
/// may be stuck.
pub(crate) const LAST_WORDS_WAIT_MAX: Duration = Duration::from_secs(1);

/// How many bytes from the end of a process's standard error an [`Outcome`] keeps.
pub const STDERR_TAIL_BYTES_MAX: usize = 16 * 1024;

/// The most bytes of a hint.
pub const HINT_BYTES_MAX: usize = 512;

impl Outcome {
    /// An outcome with this ending, without standard error, joined links and time.
    pub fn new(ending: Ending) -> Outcome {
        Outcome {
            ending,
            stderr: Bytes::new(),
            elapsed: Duration::ZERO,
            hint: None,
            output: OutputLeft::Given,
            usage: Usage::default(),
            limit: None,
            joined: Vec::new(),
        }
    }

    /// The outcomes of the called link and of the joined links.
    pub fn links(&self) -> impl Iterator<Item = &Outcome> {
        std::iter::once(self).chain(&self.joined)
    }

    /// Combines the outcomes of one call's links; the first is the called link's. `None`
    /// if there are none.
    pub(crate) fn of_links(links: impl IntoIterator<Item = Outcome>) -> Option<Outcome> {
        let mut links = links.into_iter();
        let mut outcome = links.next()?;
        outcome.joined = links.collect();
        Some(outcome)
    }

    /// Splits this into the outcomes of the called link and of the joined links.
    pub(crate) fn into_links(mut self) -> impl Iterator<Item = Outcome> {
        let joined = std::mem::take(&mut self.joined);
        std::iter::once(self).chain(joined)
    }

    /// The outcomes of the called link and of the joined links, to be changed by `change`
    /// one by one.
    pub(crate) fn change_links(&mut self, mut change: impl FnMut(usize, &mut Outcome)) {
        change(0, self);
        for (at, link) in self.joined.iter_mut().enumerate() {
            change(at + 1, link);
        }
    }

    /// The endings of the called link and of the joined links.
    pub(crate) fn endings_mut(&mut self) -> impl Iterator<Item = &mut Ending> {
        let joined = self.joined.iter_mut().map(|link| &mut link.ending);
        std::iter::once(&mut self.ending).chain(joined)
    }

    /// The reason why the runner was lost, if it was.
    pub(crate) fn loss(&self) -> Option<&Arc<str>> {
        self.links().find_map(|link| match &link.ending {
            Ending::Lost(reason) => Some(reason),
            _ => None,
        })
    }

    /// The outcome of a call whose runner was lost. `reason` is a lower-case fragment.
    pub fn lost(reason: &str) -> Outcome {
        Outcome::new(Ending::Lost(reason.into()))
    }
}

/// Whether a process that is to leave its output in a file or folder has done so.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OutputLeft {
    /// The reply's body is its output.
    #[default]
    Given,
    /// There was nothing in its place.
    Missing,
    /// There was something else in its place: a link, a folder instead of a file.
    Odd,
}

/// How a call's process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// The process could not be started, for this reason, once its input had been stored:
    /// the call was accepted by then. It would fail elsewhere as well.
    CannotStart(Arc<str>),
    /// The process exited by itself with this code.
    Exited(u8),
    /// This signal ended the process, and the runner did not send it.
    Signalled(i32),
    /// The runner stopped the process because nobody read its output any more. This is
    /// no failure.
    Unread,
    /// The runner stopped the process because its input was cut off: otherwise the
    /// process could have taken the cut for the end of its input.
    Cut,
    /// The runner stopped the process at its deadline.
    DeadlinePassed,
    /// The runner was lost, for this reason. Nobody knows what became of the process.
    Lost(Arc<str>),
}

/// What a shell adds to the number of a signal to make a status of it.
const SIGNAL_STATUS_BASE: i32 = 128;

/// The status that a shell gives a process that this signal has ended.
pub(crate) fn status_of_signal(signal: i32) -> i32 {
    SIGNAL_STATUS_BASE + signal
}
