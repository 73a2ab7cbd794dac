//! How a call reaches a process that runs a link, and how its answer comes back.
//!
//! A call has one direction: a [`Request`] whose body is a stream of bytes goes
//! in, a [`Reply`] whose body is a stream of bytes comes out and ends with an
//! [`Outcome`]. The transport decides how that travels; whoever calls, and
//! whoever answers, cannot tell. It must not know what a chain is: composing
//! calls is the portal's work.
//!
//! What every transport promises is written down as tests in
//! `conformance` (behind the feature of that name).

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

pub use crate::pending::Pending;
pub use crate::registration::Registration;
pub(crate) use body::Next;
pub use body::{Body, Cut};
pub(crate) use body::{Chunks, MovedChunk};

/// Carries calls from whoever needs a link run to whoever serves that link.
pub trait Transport: Send + Sync {
    /// Runs link `id` once on `request`, on any runner that serves it.
    ///
    /// Resolves when a runner has taken the call: the request's body may still be on
    /// its way, and the reply's may not have begun. A runner that has all of the
    /// request may wait half a second with that, or until there is output, since the
    /// call may be over by then.
    ///
    /// # Errors
    /// A [`Refusal`] gives the request back untouched: nothing has been run, nor will
    /// be, unless it is [repeatable](Request::is_repeatable).
    fn call(&self, id: LinkId, request: Request) -> BoxFuture<'_, Result<Reply, Refusal>>;

    /// Offers `service` for the calls of link `id` until the registration is
    /// dropped; calls in flight are left alone then. Withdrawing it waits until every
    /// call that was on its way here is answered to the last byte, however long that
    /// takes. Several services may be offered for the same link.
    fn serve(&self, id: LinkId, service: Arc<dyn Service>) -> Registration;

    /// Whether a call of link `id` would find somebody to take it, as far as can
    /// be told without making one.
    ///
    /// # Errors
    /// Why not: [`RefusalReason::NoRunner`] or [`RefusalReason::Unreachable`].
    fn probe(&self, id: LinkId) -> BoxFuture<'_, Result<(), RefusalReason>>;
}

/// Answers the calls of one link.
pub trait Service: Send + Sync {
    /// As [`Transport::call`], once a call has found its way here.
    fn call(&self, request: Request) -> BoxFuture<'_, Result<Reply, Refusal>>;
}

/// What a link is to work on.
#[derive(Debug)]
pub struct Request {
    /// The process's standard input.
    pub body: Body,
    /// The call that this is a part of, for whoever follows it.
    pub trace: Trace,
    /// When the call must be over; its process is killed then.
    pub deadline: Option<Instant>,
    /// Where to send what the process writes to standard error while it runs,
    /// beside the tail that the outcome keeps. A receiver that does not keep up
    /// slows the process down; one that is gone is ignored.
    pub stderr: Option<mpsc::Sender<Bytes>>,
    /// The links that follow in the chain. Whoever takes the call may go on by
    /// itself with the first ones of them, so that what passes between does not
    /// travel; or with none. All get the same deadline and `stderr`.
    pub following: Arc<[Following]>,
    /// Whether it does no harm that a runner runs this after the call was refused,
    /// as may happen where it hangs and reads it late. Of the link that is called
    /// and of all that follow.
    pub is_repeatable: bool,
    /// Where it is told that the call has to wait before it is taken.
    pub waiting: Waiting,
}

/// Whether whoever was asked to take a call has to wait for room: nothing has
/// been run for it, unless it is taken later. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Waiting(Arc<AtomicBool>);

impl Waiting {
    /// It has to wait.
    pub fn tell(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether it has been told that it has to wait.
    pub fn is_told(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// A link that follows another one in a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Following {
    /// Its id.
    pub id: LinkId,
    /// The exit codes with which the link before it succeeds: only behind one of
    /// these is the input of this one complete.
    pub accepted: Vec<u8>,
}

/// How many links a request may name that follow.
pub const FOLLOWING_MAX: usize = 15;

impl Request {
    /// A request of a new call with that body, no deadline, nobody listening to
    /// stderr, no link that follows, and not to be run twice.
    pub fn new(body: impl Into<Body>) -> Request {
        Request {
            body: body.into(),
            trace: Trace::default(),
            deadline: None,
            stderr: None,
            following: Arc::default(),
            is_repeatable: false,
            waiting: Waiting::default(),
        }
    }
}

/// What a link makes of a request.
#[derive(Debug)]
pub struct Reply {
    /// The name of the runner that took the call; `None` where it is in this
    /// process.
    pub runner: Option<Arc<str>>,
    /// How many of the links that follow were taken together with the one that
    /// was called.
    pub joined: usize,
    /// The standard output of the last process. It ends when the process has
    /// closed it, which need not be when it is gone, and says nothing about
    /// success: ask `outcome`. Dropping the body tells the process that nobody
    /// reads it any more, as a closed pipe would.
    pub body: Body,
    /// How it ended; known at the latest soon after the body has ended or was
    /// dropped, and all processes with it.
    pub outcome: PendingOutcome,
}

impl Reply {
    /// The reply of a service in this process that runs no link but the one that
    /// was called.
    pub fn new(body: Body, outcome: PendingOutcome) -> Reply {
        Reply {
            runner: None,
            joined: 0,
            body,
            outcome,
        }
    }
}

/// A call that nobody took. It may be made again.
#[derive(Debug)]
pub struct Refusal {
    /// The request, as it was given.
    pub request: Request,
    /// Why it was not taken.
    pub reason: RefusalReason,
}

/// Why nobody took a call, cut by what the caller can do about it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RefusalReason {
    /// Nobody serves this link now: wait for a runner, or give up.
    #[error("no runner serves the link")]
    NoRunner,
    /// Whoever was asked has no room now: ask again, soon, perhaps elsewhere.
    #[error("every runner that serves the link is busy")]
    Busy,
    /// Nobody can be asked now, for this reason: ask again, soon.
    #[error("no runner can be asked: {0}")]
    Unreachable(Arc<str>),
    /// The link cannot be started: asking again will not help.
    #[error("{0}")]
    CannotStart(Arc<str>),
}

/// How a call ended, once that is known.
pub type PendingOutcome = Pending<Outcome>;

impl PendingOutcome {
    /// The outcome that `sender`'s other end will get. A sender that is dropped
    /// without a word means that the runner was lost.
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

/// How a call ended, and what its process left to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// How it ended.
    pub ending: Ending,
    /// The end of what the process wrote to standard error, at most
    /// [`STDERR_TAIL_BYTES_MAX`].
    pub stderr: Bytes,
    /// From the moment the runner took the call until its process was gone.
    pub elapsed: Duration,
    /// How the links ended that were [joined](Reply::joined), in chain order, as
    /// far as it is known: where the runner was lost, nothing is.
    pub joined: Vec<Outcome>,
}

/// How long to wait for the rest of standard error once a call is over: what has written
/// it is gone, but whoever holds the pipe or the connection may hang, or may not read.
pub(crate) const LAST_WORDS_WAIT_MAX: Duration = Duration::from_secs(1);

/// How much of a process's standard error an [`Outcome`] keeps: its last bytes.
pub const STDERR_TAIL_BYTES_MAX: usize = 16 * 1024;

impl Outcome {
    /// An outcome with nothing to say but how it ended.
    pub fn new(ending: Ending) -> Outcome {
        Outcome {
            ending,
            stderr: Bytes::new(),
            elapsed: Duration::ZERO,
            joined: Vec::new(),
        }
    }

    /// The outcomes of the link that was called and of those that were joined.
    pub fn links(&self) -> impl Iterator<Item = &Outcome> {
        std::iter::once(self).chain(&self.joined)
    }

    /// Those of one call, the first of which is that of the link that was called;
    /// never empty.
    pub(crate) fn of_links(links: impl IntoIterator<Item = Outcome>) -> Option<Outcome> {
        let mut links = links.into_iter();
        let mut outcome = links.next()?;
        outcome.joined = links.collect();
        Some(outcome)
    }

    /// The same, each by itself.
    pub(crate) fn into_links(mut self) -> impl Iterator<Item = Outcome> {
        let joined = std::mem::take(&mut self.joined);
        std::iter::once(self).chain(joined)
    }

    /// The endings of the same links.
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

    /// The outcome of a call whose runner was lost for that reason, a
    /// lower-case fragment.
    pub fn lost(reason: &str) -> Outcome {
        Outcome::new(Ending::Lost(reason.into()))
    }
}

/// How a call's process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// It exited by itself with this code.
    Exited(u8),
    /// This signal ended it, and it was not ours.
    Signalled(i32),
    /// It was stopped because nobody read its output any more. Not a failure.
    Unread,
    /// It was stopped because its input was cut off, so that it could not take
    /// the cut for an end.
    Cut,
    /// It was stopped at its deadline.
    DeadlinePassed,
    /// The runner was lost, for this reason; what became of the process is not
    /// known.
    Lost(Arc<str>),
}
