//! The calling side.
//!
//! A call is one message if its body ends soon and fits; the reply is one as well if
//! all of the output comes at once. Everything else goes on as frames.

use std::mem;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, Message};
use bytes::Bytes;
use chain::LinkId;
use futures_util::stream;
use tokio::time::{Instant, timeout};

use super::connection::inbox::Mailbox;
use super::connection::{Shared, publish};
use super::exchange::body::{self, Source, StderrSink};
use super::exchange::caller::{self, ending_of};
use super::exchange::credit::{FRAME_BYTES_MAX, window};
use super::exchange::duplex::Duplex;
use super::exchange::line::{self, Line};
use super::exchange::state::{Broken, Event, Exchange};
use super::wire::frame::Frame;
use super::wire::header::{HEADERS_BYTES_MAX, Malformed};
use super::wire::kind::{Kind, kind_to_caller};
use super::wire::reply::{End, ReplyHead};
use super::wire::request::{Offer, RequestHead};
use super::wire::subject;
use crate::transport::{
    Body, Cut, Ending, Outcome, PendingOutcome, Refusal, RefusalReason, Reply, Request,
};
use look::look;
use silence::{Came, Silence};

mod look;
mod silence;

/// How long to wait for the first bytes of a body before a runner is claimed
/// for it without any: a process that is at work on nothing yet is better than
/// a reader that waits.
const FIRST_BYTES_WAIT: Duration = Duration::from_millis(20);

/// How long after the first bytes to wait for the rest, so that a body in a few
/// pieces travels as one message.
const REST_WAIT: Duration = Duration::from_millis(1);

/// A body that begins with less than this, and does not end at once, is a line
/// that somebody has sent and waits for, more likely than a file in pieces: it
/// goes on its way.
const BEGINNING_BYTES_MIN: usize = 4 * 1024;

/// How often others get their turn, within which its end may come.
const YIELDS: usize = 8;

/// The largest body that travels in one message, whatever the server allows.
const WHOLE_BYTES_MAX: usize = 1024 * 1024;

/// How long after its deadline a call's runner may take to say how it ended.
const OVERDUE_GRACE: Duration = Duration::from_secs(1);

/// How long a request may wait to be sent.
const SEND_WAIT_MAX: Duration = Duration::from_secs(2);

/// How long a probe waits for a connection: less than whoever asks waits for the
/// probe, so that it can say what is missing.
const PROBE_CONNECTED_WAIT_MAX: Duration = Duration::from_millis(500);

/// As [`crate::transport::Transport::probe`].
pub(crate) async fn probe(shared: &Shared, id: LinkId) -> Result<(), RefusalReason> {
    let patience = Instant::now() + PROBE_CONNECTED_WAIT_MAX;
    let client = shared.connected_client(Some(patience)).await;
    let client = client.map_err(RefusalReason::Unreachable)?;
    match look(shared, &client, id).await {
        Ok(found) => found.refusal(shared),
        Err(why) => Err(RefusalReason::Unreachable(why)),
    }
}

/// As [`crate::transport::Transport::call`].
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
    let mut call = Call::new(shared, client, request);
    call.gather(room.saturating_sub(HEADERS_BYTES_MAX)).await;
    if call.mailbox.messages.is_closed() {
        // It would be run when the connection is back, for nobody.
        let why = "the connection to NATS was lost".into();
        return Err(call.refused(RefusalReason::Unreachable(why)));
    }
    if let Err(why) = call.send(id).await {
        return Err(call.refused(RefusalReason::Unreachable(why)));
    }
    call.taken(id).await
}

/// A call that no runner has taken yet.
struct Call<'a> {
    shared: &'a Arc<Shared>,
    client: Arc<Client>,
    mailbox: Mailbox,
    /// All of it but its body.
    request: Request,
    offer: Offer,
    /// What the first message carries of the body, until it is taken.
    first: Bytes,
    /// And what it does not.
    source: Source,
}

impl<'a> Call<'a> {
    fn new(shared: &'a Arc<Shared>, client: Arc<Client>, mut request: Request) -> Call<'a> {
        let body = mem::replace(&mut request.body, Body::empty());
        Call {
            shared,
            client,
            mailbox: shared.inbox.open(),
            offer: Offer {
                is_whole: false,
                credit: window(shared.inbox.count()),
            },
            first: Bytes::new(),
            source: Source::new(body),
            request,
        }
    }

    /// Pulls the first of the body, or all of it.
    async fn gather(&mut self, room: usize) {
        let _ = timeout(FIRST_BYTES_WAIT, self.source.begin()).await;
        if self.source.held_bytes() < BEGINNING_BYTES_MIN {
            self.source.gather_now(room, YIELDS).await;
        } else {
            let _ = timeout(REST_WAIT, self.source.gather(room)).await;
        }
        self.offer.is_whole = self.source.is_whole(room);
        self.first = match self.offer.is_whole {
            true => self.source.take_all(),
            false => self.source.take(room.min(FRAME_BYTES_MAX)),
        };
    }

    async fn send(&mut self, id: LinkId) -> Result<(), Arc<str>> {
        let head = RequestHead {
            trace: self.request.trace.clone(),
            deadline: self.request.deadline,
            stream: Some(self.offer),
            live_stderr: self.request.stderr.is_some(),
            is_probe: false,
            must_confirm: !self.request.is_repeatable,
            following: Arc::clone(&self.request.following),
        };
        let headers = head.write(Instant::now());
        let (link, reply) = (subject::of_link(id).into(), self.mailbox.subject.clone());
        let (client, first) = (&self.client, self.first.clone());
        publish(client, link, Some(reply), headers, first, SEND_WAIT_MAX).await
    }

    /// Waits until a runner has taken the call, or nobody has.
    async fn taken(mut self, id: LinkId) -> Result<Reply, Refusal> {
        let give_up = self
            .request
            .deadline
            .map(|deadline| deadline + OVERDUE_GRACE);
        let mut exchange = Exchange::of_caller(Instant::now(), self.offer, give_up);
        let mut silence = Silence::new(self.shared, &self.client, id, give_up);
        loop {
            let message = match silence.next(&mut self.mailbox).await {
                Came::Message(message) => message,
                Came::Nobody => return Err(self.refused_by_nobody()),
                Came::Ending(Ending::DeadlinePassed) if self.request.waiting.is_told() => {
                    return Err(self.refused(RefusalReason::Busy));
                }
                Came::Ending(ending) => return Ok(lost(ending)),
            };
            let had_heard = exchange.has_heard();
            match kind_to_caller(&message) {
                // A runner has shown itself, and is gone; or nobody was ever there.
                Kind::NoResponders | Kind::Gone if had_heard => {
                    return Ok(lost(ending_of(&Broken::Gone)));
                }
                Kind::NoResponders => return Err(self.refused_by_nobody()),
                Kind::Gone | Kind::Stranger => self.shared.strangers.passed_over(&message),
                Kind::Reply => {
                    let answered = self.answered(&message);
                    return answered.map_err(|reason| self.refused(reason));
                }
                Kind::Frame => match self.framed(&mut exchange, &message).await {
                    Ok(None) => {
                        silence.broken();
                        // The first asks whether we wait, where that must be confirmed.
                        if self.request.is_repeatable || had_heard {
                            self.request.waiting.tell();
                        }
                    }
                    Ok(Some(accepted)) => return Ok(self.accepted(exchange, &message, accepted)),
                    Err(broken) => return Ok(lost(ending_of(&broken))),
                },
            }
        }
    }

    /// A frame has come: the runner that took the call, or a sign of life of one
    /// that is about to.
    async fn framed(
        &mut self,
        exchange: &mut Exchange,
        message: &Message,
    ) -> Result<Option<Accepted>, Broken> {
        let Some(numbered) = line::read(message, Kind::Frame)? else {
            return Ok(None);
        };
        let is_alive = matches!(numbered.frame, Frame::Alive);
        match (exchange.receive(numbered, Instant::now())?, &message.reply) {
            (Event::Accepted(runner, joined), Some(_))
                if joined <= self.request.following.len() =>
            {
                Ok(Some(Accepted { runner, joined }))
            }
            (Event::Nothing, Some(peer)) if is_alive => {
                // It learns that we live whenever we learn that it does.
                let (headers, payload) = exchange.alive().write("", 0);
                let ours = Some(self.mailbox.subject.clone());
                publish(
                    &self.client,
                    peer.clone(),
                    ours,
                    headers,
                    payload,
                    SEND_WAIT_MAX,
                )
                .await
                .map_err(Broken::Connection)?;
                Ok(None)
            }
            _ => Err(Broken::Violation(
                "a frame that cannot be the first".to_owned(),
            )),
        }
    }

    /// A reply in one message has come.
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

    /// A runner goes on with the call in frames.
    fn accepted(self, exchange: Exchange, message: &Message, accepted: Accepted) -> Reply {
        let Accepted { runner, joined } = accepted;
        let goes_on = !self.offer.is_whole;
        let peer = message.reply.clone().unwrap_or_else(|| "".into());
        let (sink, body) = body::channel();
        let (tell, outcome) = PendingOutcome::channel();
        let duplex = Duplex {
            line: Line::new(
                exchange,
                Arc::clone(self.shared),
                self.client,
                self.mailbox,
                peer,
                None,
            ),
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

    /// Gives the request back as it was.
    fn refused(mut self, reason: RefusalReason) -> Refusal {
        self.source.put_back(self.first);
        let request = Request {
            body: self.source.into_body(),
            ..self.request
        };
        Refusal { request, reason }
    }
}

/// What a runner has taken.
struct Accepted {
    runner: Option<Arc<str>>,
    joined: usize,
}

/// The reply of a call that may have been run, and of which nothing is known.
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
    // The receiver is in `pending`.
    let _ = tell.send(outcome);
    pending
}
