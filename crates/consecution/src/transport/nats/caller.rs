//! The calling side.
//!
//! A call is one message if its body ends soon and fits; the reply is one as
//! well if the process is quick. Everything else goes on as frames.

use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, Message};
use bytes::Bytes;
use chain::LinkId;
use futures_util::stream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

use super::body::{self, Handed, Piece, Sink, Source, StderrSink};
use super::connection::{Shared, publish};
use super::exchange::{self, Broken, Event, Exchange, FRAME_BYTES_MAX, SILENCE_MAX};
use super::frame::Frame;
use super::head::{self, End, HEADERS_BYTES_MAX, Offer, ReplyHead, RequestHead};
use super::inbox::Mailbox;
use super::line::{self, Line, Next};
use crate::trace::Trace;
use crate::transport::subject;
use crate::transport::{
    Body, Cut, Ending, Following, Outcome, PendingOutcome, Refusal, RefusalReason, Reply, Request,
    Waiting,
};

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

/// How long a runner may take for its first sign of life. It takes a hundredth
/// of that, so a silence means that the request or the runner was lost.
const FIRST_SIGN_WAIT_MAX: Duration = Duration::from_secs(2);

/// How long after its deadline a call's runner may take to say how it ended.
const OVERDUE_GRACE: Duration = Duration::from_secs(1);

/// How long a request may wait to be sent.
const SEND_WAIT_MAX: Duration = Duration::from_secs(2);

/// How long a probe waits for a connection: less than whoever asks waits for the
/// probe, so that it can say what is missing.
const PROBE_CONNECTED_WAIT_MAX: Duration = Duration::from_millis(500);

/// As [`crate::transport::Transport::probe`].
pub(super) async fn probe(shared: &Shared, id: LinkId) -> Result<(), RefusalReason> {
    let patience = Instant::now() + PROBE_CONNECTED_WAIT_MAX;
    let client = shared.connected_client(Some(patience)).await;
    let client = client.map_err(RefusalReason::Unreachable)?;
    let mut mailbox = shared.inbox.open();
    let (link, reply) = (subject::of_link(id).into(), Some(mailbox.subject.clone()));
    publish(
        &client,
        link,
        reply,
        head::probe(),
        Bytes::new(),
        SEND_WAIT_MAX,
    )
    .await
    .map_err(RefusalReason::Unreachable)?;
    match timeout(FIRST_SIGN_WAIT_MAX, mailbox.messages.recv()).await {
        Ok(Some(message)) if head::says_no_responders(&message) => Err(nobody(shared)),
        Ok(Some(_)) => Ok(()),
        Ok(None) => Err(RefusalReason::Unreachable(
            "the connection to NATS was lost".into(),
        )),
        Err(_) => Err(RefusalReason::Unreachable("no runner answers".into())),
    }
}

/// Nobody listens to the link's subject.
fn nobody(shared: &Shared) -> RefusalReason {
    match shared.is_settling() {
        true => RefusalReason::Unreachable("runners may still be reconnecting to NATS".into()),
        false => RefusalReason::NoRunner,
    }
}

/// As [`crate::transport::Transport::call`].
pub(super) async fn call(
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
    call.taken().await
}

/// A call that no runner has taken yet.
struct Call<'a> {
    shared: &'a Arc<Shared>,
    client: Arc<Client>,
    mailbox: Mailbox,
    trace: Trace,
    deadline: Option<Instant>,
    stderr: Option<mpsc::Sender<Bytes>>,
    following: Arc<[Following]>,
    waiting: Waiting,
    offer: Offer,
    /// What the first message carries of the body, until it is taken.
    first: Bytes,
    /// And what it does not.
    source: Source,
}

impl<'a> Call<'a> {
    fn new(shared: &'a Arc<Shared>, client: Arc<Client>, request: Request) -> Call<'a> {
        Call {
            shared,
            client,
            mailbox: shared.inbox.open(),
            trace: request.trace,
            deadline: request.deadline,
            stderr: request.stderr,
            following: request.following,
            waiting: request.waiting,
            offer: Offer {
                is_whole: false,
                credit: exchange::window(shared.inbox.count()),
            },
            first: Bytes::new(),
            source: Source::new(request.body),
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
            trace: self.trace.clone(),
            deadline: self.deadline,
            stream: Some(self.offer),
            live_stderr: self.stderr.is_some(),
            is_probe: false,
            following: Arc::clone(&self.following),
        };
        let headers = head.write(Instant::now());
        let (link, reply) = (subject::of_link(id).into(), self.mailbox.subject.clone());
        let (client, first) = (&self.client, self.first.clone());
        publish(client, link, Some(reply), headers, first, SEND_WAIT_MAX).await
    }

    /// Waits until a runner has taken the call, or nobody has.
    async fn taken(mut self) -> Result<Reply, Refusal> {
        let give_up = self.deadline.map(|deadline| deadline + OVERDUE_GRACE);
        let mut exchange = Exchange::of_caller(Instant::now(), self.offer, give_up);
        let mut patience = Instant::now() + FIRST_SIGN_WAIT_MAX;
        loop {
            let until = give_up.map_or(patience, |give_up| give_up.min(patience));
            let message = match timeout_at(until, self.mailbox.messages.recv()).await {
                Ok(Some(message)) => message,
                Ok(None) => {
                    let why = "the connection to NATS was lost before the runner answered";
                    return Ok(lost(Ending::Lost(why.into())));
                }
                Err(_) if give_up.is_some_and(|give_up| Instant::now() >= give_up) => {
                    return match self.waiting.is_told() {
                        true => Err(self.refused(RefusalReason::Busy)),
                        false => Ok(lost(Ending::DeadlinePassed)),
                    };
                }
                Err(_) => {
                    let why = "no runner has answered in time";
                    return Ok(lost(Ending::Lost(why.into())));
                }
            };
            if head::says_no_responders(&message) {
                let reason = nobody(self.shared);
                return Err(self.refused(reason));
            }
            let is_frame = message
                .headers
                .as_ref()
                .is_some_and(|headers| head::value(headers, &subject::FRAME).is_some());
            if !is_frame {
                return self.answered(&message);
            }
            match self.framed(&mut exchange, &message).await {
                Ok(None) => {
                    self.waiting.tell();
                    patience = Instant::now() + SILENCE_MAX;
                }
                Ok(Some(accepted)) => return Ok(self.accepted(exchange, &message, accepted)),
                Err(broken) => return Ok(lost(ending_of(&broken))),
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
        let numbered = line::read(message)?;
        let is_alive = matches!(numbered.frame, Frame::Alive);
        match (exchange.receive(numbered, Instant::now())?, &message.reply) {
            (Event::Accepted(runner, joined), Some(_)) if joined <= self.following.len() => {
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
    fn answered(self, message: &Message) -> Result<Reply, Refusal> {
        let Some(headers) = &message.headers else {
            let why = "what answered is no runner";
            return Ok(lost(Ending::Lost(why.into())));
        };
        match ReplyHead::read(headers) {
            Ok(ReplyHead {
                runner,
                end: End::Ran(outcome),
            }) if outcome.joined.len() <= self.following.len() => Ok(Reply {
                runner,
                joined: outcome.joined.len(),
                body: message.payload.clone().into(),
                outcome: known(outcome),
            }),
            Ok(ReplyHead {
                end: End::Refused(reason),
                ..
            }) => Err(self.refused(reason)),
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
        let stream = Stream {
            line: Line::new(exchange, self.client, self.mailbox, peer, "".into()),
            source: goes_on.then_some(self.source),
            sink,
            stderr: StderrSink::new(self.stderr),
            joined,
            tell: Some(tell),
        };
        tokio::spawn(stream.run());
        Reply {
            runner,
            joined,
            body,
            outcome,
        }
    }

    /// Gives the request back as it was.
    fn refused(mut self, reason: RefusalReason) -> Refusal {
        self.source.put_back(self.first);
        let request = Request {
            body: self.source.into_body(),
            trace: self.trace,
            deadline: self.deadline,
            stderr: self.stderr,
            following: self.following,
            waiting: self.waiting,
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

fn ending_of(broken: &Broken) -> Ending {
    match broken {
        Broken::Overdue => Ending::DeadlinePassed,
        broken => Ending::Lost(broken.to_string().into()),
    }
}

/// A call that goes on in frames.
struct Stream {
    line: Line,
    /// The request's body; `None` when nothing more is sent of it.
    source: Option<Source>,
    /// The reply's body.
    sink: Sink,
    stderr: StderrSink,
    /// How many links were taken with the one that was called.
    joined: usize,
    /// `None` when it has been told.
    tell: Option<oneshot::Sender<Outcome>>,
}

impl Stream {
    /// Until everything is said and handed over.
    async fn run(mut self) {
        let ended = loop {
            match self.step().await {
                Ok(None) => {}
                Ok(Some(outcome)) => break Ok(outcome),
                Err(broken) => break Err(broken),
            }
        };
        // The body is dropped at once: nobody reads it any more.
        drop(self.source.take());
        let (outcome, cut) = match ended {
            Ok(outcome) => (outcome, "its end was never said".into()),
            Err(broken) => {
                let outcome = Outcome::new(ending_of(&broken));
                (outcome, broken.to_string().into())
            }
        };
        self.sink.cut(cut);
        if let Some(tell) = self.tell.take() {
            // Nobody may wait for it any more.
            let _ = tell.send(outcome);
        }
        let Stream {
            line,
            mut sink,
            mut stderr,
            ..
        } = self;
        drop(line);
        while !sink.is_done() || !stderr.is_empty() {
            tokio::select! {
                biased;
                _ = stderr.hand_over() => {}
                _ = sink.hand_over() => {}
            }
        }
    }

    /// Waits for one thing and does what follows from it; gives the outcome when
    /// it has come.
    async fn step(&mut self) -> Result<Option<Outcome>, Broken> {
        let room = self.line.room();
        let Stream {
            line,
            source,
            sink,
            stderr,
            ..
        } = self;
        let sending = async {
            match source {
                Some(source) => source.next(room).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            next = line.next() => return self.came(next).await,
            bytes = stderr.hand_over() => {
                let credit = line.exchange.stderr_consumed(bytes);
                line.send_any(credit).await?;
            }
            handed = sink.hand_over() => {
                let frame = match handed {
                    Handed::Over(bytes) => line.exchange.consumed(bytes),
                    Handed::Unread => line.exchange.close(),
                };
                line.send_any(frame).await?;
            }
            piece = sending => {
                let frame = match piece {
                    Piece::Data(bytes) => line.exchange.data(bytes),
                    Piece::End => line.exchange.end(Ok(())),
                    Piece::Cut(cut) => line.exchange.end(Err(cut.reason)),
                };
                line.send(frame).await?;
                if line.exchange.has_sent_all() {
                    *source = None;
                }
            }
        }
        Ok(None)
    }

    async fn came(&mut self, next: Next) -> Result<Option<Outcome>, Broken> {
        match self.line.handle(next).await? {
            Event::Nothing => {}
            Event::Accepted(..) => {
                return Err(Broken::Violation("it took the call twice".to_owned()));
            }
            Event::Data(bytes) => self.sink.put(Piece::Data(bytes)),
            Event::End => self.sink.put(Piece::End),
            Event::Cut(reason) => self.sink.put(Piece::Cut(Cut { reason })),
            Event::Stderr(bytes) => self.stderr.put(bytes),
            Event::Closed => self.source = None,
            Event::Outcome(outcome) if outcome.joined.len() != self.joined => {
                let what = "it does not say how every link ended";
                return Err(Broken::Violation(what.to_owned()));
            }
            Event::Outcome(outcome) => return Ok(Some(outcome)),
        }
        Ok(None)
    }
}
