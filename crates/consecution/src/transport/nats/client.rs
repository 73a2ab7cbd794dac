//! The calling side of a call.
//!
//! A request is one message if its body ends soon and fits. The reply is one message if
//! all of the output comes at once. All other calls continue as frames.

use std::mem;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, Message};
use bytes::Bytes;
use chain::LinkId;
use futures_util::stream;
use tokio::time::{Instant, timeout};

use super::connection::bounds::WHOLE_BYTES_MAX;
use super::connection::inbox::Mailbox;
use super::connection::{Shared, publish};
use super::exchange::body::{self, Source, StderrSink};
use super::exchange::caller::{self, ending_of};
use super::exchange::credit::{FRAME_BYTES_MAX, window};
use super::exchange::duplex::Duplex;
use super::exchange::line::{Line, Next};
use super::exchange::state::{Broken, Event, Exchange};
use super::wire::header::{HEADERS_BYTES_MAX, Malformed, SET_BYTES_MAX};
use super::wire::kind::{Kind, kind_to_caller};
use super::wire::reply::{self, End, ReplyHead};
use super::wire::request::{Offer, RequestHead};
use super::wire::subject;
use crate::parameters;
use crate::transport::{
    Body, Cut, Ending, Outcome, PendingOutcome, Refusal, RefusalReason, Reply, Request,
};
use look::look;
use silence::{Came, Silence};

mod look;
mod silence;

/// How long to wait for the first bytes of a body before the request is sent without any.
/// The link may write before it reads, so its reader should not have to wait for input.
const FIRST_BYTES_WAIT: Duration = Duration::from_millis(20);

/// How long after the first bytes to wait for the rest, so that a body in a few
/// pieces travels as one message.
const REST_WAIT: Duration = Duration::from_millis(1);

/// A body that begins with fewer bytes than this and does not end at once is probably a
/// line whose sender waits for an answer, not a file in pieces. So it is sent at once.
const BEGINNING_BYTES_MIN: usize = 4 * 1024;

/// How often other tasks may run before the request is sent; the body's end may come
/// meanwhile.
const YIELDS_MAX: usize = 8;

/// How long after a call's deadline its runner may take to report how it ended.
const OVERDUE_GRACE: Duration = Duration::from_secs(1);

/// How long a request or a probe may wait to be sent: whoever waits for it is better told
/// that the server takes nothing.
const SEND_WAIT_MAX: Duration = Duration::from_secs(2);

/// How long a probe waits for a connection: less than the caller waits for the probe, so
/// that the probe can still report that the connection is missing.
const PROBE_CONNECTED_WAIT_MAX: Duration = Duration::from_millis(500);

/// See [`crate::transport::Transport::probe`].
pub(crate) async fn probe(shared: &Shared, id: LinkId) -> Result<(), RefusalReason> {
    let patience = Instant::now() + PROBE_CONNECTED_WAIT_MAX;
    let client = shared.connected_client(Some(patience)).await;
    let client = client.map_err(RefusalReason::Unreachable)?;
    match look(shared, &client, id).await {
        Ok(found) => found.refusal(shared),
        Err(why) => Err(RefusalReason::Unreachable(why)),
    }
}

/// See [`crate::transport::Transport::call`].
pub(crate) async fn call(
    shared: &Arc<Shared>,
    id: LinkId,
    request: Request,
) -> Result<Reply, Refusal> {
    let client = match shared.connected_client(request.deadline).await {
        Ok(client) => client,
        Err(why) => {
            let reason = RefusalReason::Unreachable(why);
            return Err(Refusal { request, reason });
        }
    };
    let room = client.max_payload().min(WHOLE_BYTES_MAX);
    let room = room.saturating_sub(HEADERS_BYTES_MAX);
    let bytes = parameters::written_bytes(&request.parameters);
    let bytes_max = room.min(SET_BYTES_MAX);
    if bytes > bytes_max {
        let reason = format!(
            "the values of its parameters take {bytes} bytes in a message, \
             of which NATS and runners take at most {bytes_max}"
        );
        let reason = RefusalReason::Malformed(reason.into());
        return Err(Refusal { request, reason });
    }
    let (mut call, mailbox) = (Call::new(shared, client, request), shared.inbox.open());
    call.gather(room - bytes).await;
    if mailbox.messages.is_closed() {
        // The client would send the request once the connection is back, though nobody
        // waits for it any more.
        let why = "the connection to NATS was lost".into();
        return Err(call.refused(RefusalReason::Unreachable(why)));
    }
    if let Err(why) = call.send(id, &mailbox).await {
        return Err(call.refused(RefusalReason::Unreachable(why)));
    }
    call.taken(id, mailbox).await
}

/// A call that no runner has accepted yet.
struct Call<'a> {
    shared: &'a Arc<Shared>,
    client: Arc<Client>,
    /// The request without its body.
    request: Request,
    offer: Offer,
    /// The part of the body that is sent in the first message, until the call is accepted.
    first: Bytes,
    /// The rest of the body.
    source: Source,
}

impl<'a> Call<'a> {
    fn new(shared: &'a Arc<Shared>, client: Arc<Client>, mut request: Request) -> Call<'a> {
        let body = mem::replace(&mut request.body, Body::empty());
        Call {
            shared,
            client,
            offer: Offer {
                is_whole: false,
                credit: window(shared.inbox.count()),
            },
            first: Bytes::new(),
            source: Source::new(body),
            request,
        }
    }

    /// Reads the beginning of the body, or all of it, for the first message.
    async fn gather(&mut self, room: usize) {
        let _ = timeout(FIRST_BYTES_WAIT, self.source.begin()).await;
        if self.source.held_bytes() < BEGINNING_BYTES_MIN {
            self.source.gather_now(room, YIELDS_MAX).await;
        } else {
            let _ = timeout(REST_WAIT, self.source.gather(room)).await;
        }
        self.offer.is_whole = self.source.is_whole(room);
        self.first = match self.offer.is_whole {
            true => self.source.take_all(),
            false => self.source.take(room.min(FRAME_BYTES_MAX)),
        };
    }

    async fn send(&mut self, id: LinkId, mailbox: &Mailbox) -> Result<(), Arc<str>> {
        let head = RequestHead {
            trace: self.request.trace.clone(),
            deadline: self.request.deadline,
            stream: Some(self.offer),
            live_stderr: self.request.stderr.is_some(),
            is_probe: false,
            must_confirm: !self.request.is_repeatable,
            following: Arc::clone(&self.request.following),
            parameters: Arc::clone(&self.request.parameters),
        };
        let headers = head.write(Instant::now());
        let (link, reply) = (subject::of_link(id).into(), mailbox.subject.clone());
        let (client, first) = (&self.client, self.first.clone());
        publish(client, link, Some(reply), headers, first, SEND_WAIT_MAX).await
    }

    /// Waits until a runner sends a first sign, or until it is known that none will.
    async fn taken(self, id: LinkId, mut mailbox: Mailbox) -> Result<Reply, Refusal> {
        let deadline = self.request.deadline;
        let give_up = deadline.map(|deadline| deadline + OVERDUE_GRACE);
        let exchange = Exchange::of_caller(Instant::now(), self.offer, give_up);
        let mut silence = Silence::new(self.shared, &self.client, id, give_up);
        loop {
            let message = match silence.next(&mut mailbox).await {
                Came::Message(message) => message,
                Came::Nobody => return Err(self.refused_by_nobody()),
                Came::Ending(Ending::DeadlinePassed) if self.request.waiting.is_told() => {
                    return Err(self.refused(RefusalReason::Busy));
                }
                Came::Ending(ending) => return Ok(lost(ending)),
            };
            match (kind_to_caller(&message), &message.reply) {
                (Kind::NoResponders, _) => return Err(self.refused_by_nobody()),
                (Kind::Gone | Kind::Stranger, _) => self.shared.strangers.passed_over(&message),
                (Kind::Reply, _) => {
                    let answered = self.answered(&message);
                    return answered.map_err(|reason| self.refused(reason));
                }
                (Kind::Frame, None) => {
                    let what = "a frame that says not where to answer it";
                    return Ok(lost(ending_of(&Broken::Violation(what.to_owned()))));
                }
                (Kind::Frame, Some(runner)) => {
                    let (shared, client) = (Arc::clone(self.shared), Arc::clone(&self.client));
                    let runner = runner.clone();
                    let line = Line::new(exchange, shared, client, mailbox, runner, None);
                    return self.shown(line, message).await;
                }
            }
        }
    }

    /// A runner has sent a first frame: waits until it has accepted or answered the call.
    async fn shown(mut self, mut line: Line, first: Message) -> Result<Reply, Refusal> {
        let mut runner = None;
        let mut next = Next::Message(Some(first));
        loop {
            if let Next::Message(Some(message)) = &next {
                let kind = line.kind(message);
                if kind == Kind::Reply {
                    let answered = self.answered(message);
                    return answered.map_err(|reason| self.refused(reason));
                }
                if kind == Kind::Frame {
                    let headers = message.headers.as_ref();
                    runner = headers.and_then(reply::runner).or(runner);
                }
            }
            match self.came(&mut line, next).await {
                Ok(None) => next = line.next().await,
                Ok(Some(joined)) => return Ok(self.accepted(line, runner, joined)),
                Err(Broken::Overdue) if self.request.waiting.is_told() => {
                    return Err(self.refused(RefusalReason::Busy));
                }
                Err(broken) => {
                    let lost = lost(ending_of(&broken));
                    return Ok(Reply { runner, ..lost });
                }
            }
        }
    }

    /// Handles a message, or that time has passed. Once the call is accepted, returns how
    /// many of the following links the runner runs too.
    async fn came(&mut self, line: &mut Line, next: Next) -> Result<Option<usize>, Broken> {
        let had_heard = line.exchange.has_heard();
        let is_frame = |message| line.kind(message) == Kind::Frame;
        let is_frame = matches!(&next, Next::Message(Some(message)) if is_frame(message));
        match line.handle(next).await? {
            Event::Accepted(joined) if joined <= self.request.following.len() => {
                return Ok(Some(joined));
            }
            Event::Nothing if is_frame => {}
            Event::Nothing => return Ok(None),
            _ => {
                let what = "a frame before it has taken the call";
                return Err(Broken::Violation(what.to_owned()));
            }
        }
        if !had_heard {
            // The runner may wait for our first frame, and learns our inbox from it.
            let alive = line.exchange.alive(Instant::now());
            line.send(alive).await?;
        }
        // If the call must be confirmed, the runner's first frame only asks whether we
        // still wait.
        if self.request.is_repeatable || had_heard {
            self.request.waiting.tell();
        }
        Ok(None)
    }

    /// Handles a reply in one message.
    fn answered(&self, message: &Message) -> Result<Reply, RefusalReason> {
        let head = match &message.headers {
            Some(headers) => ReplyHead::read(headers),
            None => Err(Malformed("a reply without headers".to_owned())),
        };
        match head {
            Ok(ReplyHead {
                runner,
                end: End::Ran(outcome),
            }) if outcome.joined.len() <= self.request.following.len() => Ok(Reply {
                runner,
                joined: outcome.joined.len(),
                body: message.payload.clone().into(),
                outcome: known(outcome),
            }),
            Ok(ReplyHead {
                end: End::Refused(reason),
                ..
            }) => Err(reason),
            Ok(_) => {
                let why = "its runner has run links that it was not asked for";
                Ok(lost(Ending::Lost(why.into())))
            }
            Err(malformed) => Ok(lost(Ending::Lost(malformed.to_string().into()))),
        }
    }

    /// A runner has accepted the call and continues it in frames.
    fn accepted(self, line: Line, runner: Option<Arc<str>>, joined: usize) -> Reply {
        let goes_on = !self.offer.is_whole;
        let (sink, body) = body::channel();
        let (tell, outcome) = PendingOutcome::channel();
        let duplex = Duplex {
            line,
            outgoing: goes_on.then_some(self.source),
            incoming: sink,
            stderr_outgoing: None,
            stderr_incoming: StderrSink::new(self.request.stderr),
        };
        tokio::spawn(caller::run(duplex, tell));
        Reply {
            runner,
            joined,
            body,
            outcome,
        }
    }

    fn refused_by_nobody(self) -> Refusal {
        let reason = look::nobody(self.shared);
        self.refused(reason)
    }

    /// Returns the request unchanged.
    fn refused(mut self, reason: RefusalReason) -> Refusal {
        self.source.put_back(self.first);
        let request = Request {
            body: self.source.into_body(),
            ..self.request
        };
        Refusal { request, reason }
    }
}

/// The reply of a call that may have been run, but of which nothing is known.
fn lost(ending: Ending) -> Reply {
    let reason: Arc<str> = match &ending {
        Ending::Lost(reason) => Arc::clone(reason),
        _ => "its deadline has passed".into(),
    };
    Reply::new(
        Body::new(stream::iter([Err(Cut { reason })])),
        known(Outcome::new(ending)),
    )
}

fn known(outcome: Outcome) -> PendingOutcome {
    let (tell, pending) = PendingOutcome::channel();
    // This cannot fail: `pending` holds the receiver.
    let _ = tell.send(outcome);
    pending
}
