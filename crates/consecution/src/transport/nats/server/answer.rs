//! Answers one call: in one message if all of its output comes at once and fits, else in
//! frames if the caller understands them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::{self, StreamExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::replying::Replying;
use crate::transport::nats::connection::bounds::WHOLE_BYTES_MAX;
use crate::transport::nats::exchange::body::{self, Sink, Source, StderrSink};
use crate::transport::nats::exchange::duplex::Duplex;
use crate::transport::nats::exchange::line::Line;
use crate::transport::nats::exchange::state::{ALIVE_EVERY, Broken, Event, Exchange};
use crate::transport::nats::exchange::{answerer, credit};
use crate::transport::nats::wire::header::{HEADERS_BYTES_MAX, Malformed};
use crate::transport::nats::wire::outcome;
use crate::transport::nats::wire::reply::{self, Fault};
use crate::transport::nats::wire::request::{Offer, RequestHead};
use crate::transport::{
    Body, Outcome, PendingOutcome, Refusal, RefusalReason, Reply, Request, Service, Waiting,
};

/// How long output may wait for the end of its call before the call becomes a stream. The
/// time counts from the first byte of output, not from the request: the time until the
/// first byte depends on how busy the runner is, and a busy runner must not send more
/// messages per call than an idle one.
const OUTPUT_WAIT: Duration = Duration::from_millis(20);

/// The most bytes that one byte of standard error takes in a header.
const ESCAPED_BYTES_MAX: usize = 3;

/// The deadline of a plain call without one: a plain caller sends no signs of life, so the
/// runner cannot know whether it still waits.
const PLAIN_DEADLINE: Duration = Duration::from_secs(30);

/// A call to be answered.
pub(crate) struct Answer<'a> {
    pub(crate) to: &'a Replying,
    pub(crate) head: RequestHead,
    pub(crate) received: Instant,
}

/// A call that a service has accepted.
struct Taken {
    output: Source,
    outcome: PendingOutcome,
    /// Standard error while it is written, if the caller wants it.
    stderr: Option<Source>,
}

impl Answer<'_> {
    /// # Errors
    /// The fault to answer with instead of an outcome.
    pub(crate) async fn run(
        mut self,
        service: &Arc<dyn Service>,
        payload: Bytes,
    ) -> Result<(), Fault> {
        match self.head.stream {
            None => self.plain(service, payload).await,
            Some(offer) => self.framed(service, payload, offer).await,
        }
    }

    fn request(&self, body: Body, stderr: Option<mpsc::Sender<Bytes>>) -> Request {
        Request {
            body,
            trace: self.head.trace.clone(),
            deadline: self.head.deadline,
            stderr,
            parameters: Arc::clone(&self.head.parameters),
            following: Arc::clone(&self.head.following),
            is_repeatable: !self.head.must_confirm,
            waiting: Waiting::default(),
        }
    }

    /// The largest output that fits into one message.
    fn room(&self) -> usize {
        let room = self.to.client.max_payload().min(WHOLE_BYTES_MAX);
        room.saturating_sub(HEADERS_BYTES_MAX)
    }

    /// Answers in one message, however long the call takes.
    async fn plain(&mut self, service: &Arc<dyn Service>, payload: Bytes) -> Result<(), Fault> {
        let deadline = self.received + PLAIN_DEADLINE;
        self.head.deadline.get_or_insert(deadline);
        let request = self.request(payload.into(), None);
        let reply = service.call(request).await.map_err(fault)?;
        let (mut output, room) = (Source::new(reply.body), self.room());
        output.gather(room).await;
        if let Some(cut) = output.cut() {
            return Err(Fault::OutputCut(Arc::clone(&cut.reason)));
        }
        if !output.is_whole(room) {
            return Err(Fault::TooLarge);
        }
        let outcome = reply.outcome.await;
        self.complete(output.take_all(), outcome).await;
        Ok(())
    }

    async fn complete(&self, stdout: Bytes, outcome: Outcome) {
        let (call_id, name) = (&self.head.trace.call_id, &self.to.shared.name);
        let mut headers = reply::about(call_id, name);
        let taken = stdout.len() + HEADERS_BYTES_MAX;
        let room = self.to.client.max_payload().saturating_sub(taken);
        outcome::write(&mut headers, &outcome, name, room);
        self.to.send(headers, stdout).await;
    }

    /// Answers a caller that understands frames.
    async fn framed(
        &mut self,
        service: &Arc<dyn Service>,
        payload: Bytes,
        offer: Offer,
    ) -> Result<(), Fault> {
        let asked = match self.head.must_confirm {
            true => match self.confirmed(offer).await {
                Ok(line) => Some(line),
                Err(broken) => {
                    tracing::debug!("dropped a call that nobody waits for: {broken}");
                    return Ok(());
                }
            },
            false => None,
        };
        let (input, body) = match offer.is_whole {
            true => (Sink::default(), payload.into()),
            false => {
                let (sink, rest) = body::channel();
                let body = Body::new(stream::iter([Ok(payload)]).chain(rest));
                (sink, body)
            }
        };
        let (stderr, listening) = self.head.live_stderr.then(listen).unzip();
        let mut calling = service.call(self.request(body, stderr));
        let (result, line) = match self.called(&mut calling, asked, offer).await {
            Ok(called) => called,
            // The call was not accepted yet, and is dropped.
            Err(broken) => {
                tracing::debug!("dropped a call before it was taken: {broken}");
                return Ok(());
            }
        };
        let reply = result.map_err(fault)?;
        let mut taken = Taken {
            output: Source::new(reply.body),
            outcome: reply.outcome,
            stderr: listening,
        };
        let alive_due = match &line {
            Some(line) => line.exchange.alive_due(),
            None => self.received + ALIVE_EVERY,
        };
        if offer.is_whole
            && let Some(outcome) = taken.completed(alive_due, self.room()).await
        {
            self.complete(taken.output.take_all(), outcome).await;
            return Ok(());
        }
        let line = line.unwrap_or_else(|| self.line(offer));
        let duplex = Duplex {
            line,
            outgoing: Some(taken.output),
            incoming: input,
            stderr_outgoing: taken.stderr,
            stderr_incoming: StderrSink::default(),
        };
        let window = match offer.is_whole {
            true => 0,
            false => credit::window(self.to.shared.inbox.count()),
        };
        let ran = answerer::run(duplex, taken.outcome, (window, reply.joined)).await;
        if let Err(broken) = ran {
            tracing::debug!("stopped a call whose caller is lost: {broken}");
        }
        Ok(())
    }

    fn line(&self, offer: Offer) -> Line {
        let Replying {
            shared,
            client,
            reply,
        } = self.to;
        let exchange = Exchange::of_runner(Instant::now(), offer.credit);
        let (client, mailbox) = (Arc::clone(client), shared.inbox.open());
        let (name, shared) = (Arc::clone(&shared.name), Arc::clone(shared));
        Line::new(exchange, shared, client, mailbox, reply.clone(), Some(name))
    }

    /// Asks the caller whether it still waits, and waits for its answer. The caller may
    /// have given up long ago: a request can stay unread while a runner, or the network,
    /// hangs.
    async fn confirmed(&mut self, offer: Offer) -> Result<Line, Broken> {
        let mut line = self.line(offer);
        let alive = line.exchange.alive(Instant::now());
        line.send(alive).await?;
        while !line.exchange.has_heard() {
            let next = line.next().await;
            line.handle(next).await?;
        }
        self.received = Instant::now();
        Ok(line)
    }

    /// Waits until the service has accepted or refused the call. If that takes long, both
    /// sides exchange signs of life meanwhile.
    async fn called(
        &self,
        calling: &mut BoxFuture<'_, Result<Reply, Refusal>>,
        line: Option<Line>,
        offer: Offer,
    ) -> Result<(Result<Reply, Refusal>, Option<Line>), Broken> {
        let soon = timeout_at(self.received + ALIVE_EVERY, &mut *calling).await;
        if let Ok(result) = soon {
            return Ok((result, line));
        }
        let mut line = line.unwrap_or_else(|| self.line(offer));
        let alive = line.exchange.alive(Instant::now());
        line.send(alive).await?;
        loop {
            tokio::select! {
                biased;
                result = &mut *calling => return Ok((result, Some(line))),
                next = line.next() => match line.handle(next).await? {
                    Event::Nothing => {}
                    _ => return Err(Broken::Violation("a frame before its time".to_owned())),
                },
            }
        }
    }
}

impl Taken {
    /// How the call ended, if its answer fits into one message: its output is small enough,
    /// and ends within [`OUTPUT_WAIT`] of its first byte. For a call without output, waits
    /// until a sign of life is due; the frame `accept` is then that sign.
    async fn completed(&mut self, alive_due: Instant, room: usize) -> Option<Outcome> {
        let Taken {
            output,
            outcome,
            stderr,
        } = self;
        let ended = async {
            timeout_at(alive_due, output.begin()).await.ok()?;
            let until = match output.held_bytes() {
                0 => alive_due,
                _ => Instant::now() + OUTPUT_WAIT,
            };
            timeout_at(until, output.gather(room)).await.ok()?;
            let ended = timeout_at(until, outcome.clone());
            if output.is_whole(room) {
                ended.await.ok()
            } else {
                None
            }
        };
        // Standard error that the caller wants live cannot be sent in one message.
        let outcome = tokio::select! {
            biased;
            outcome = ended => outcome?,
            () = says_something(stderr.as_mut()) => return None,
        };
        if says_something(stderr.as_mut()).now_or_never().is_some() {
            return None;
        }
        let left = room.saturating_sub(output.held_bytes());
        let said: usize = outcome.links().map(|link| link.stderr.len()).sum();
        let fits = ESCAPED_BYTES_MAX * said <= left;
        fits.then_some(outcome)
    }
}

/// Waits for the first bytes of standard error, if the caller wants it live.
async fn says_something(stderr: Option<&mut Source>) {
    if let Some(stderr) = stderr {
        stderr.begin().await;
        if stderr.held_bytes() > 0 {
            return;
        }
    }
    std::future::pending().await
}

/// A channel for a process's standard error: the sending and the receiving end.
fn listen() -> (mpsc::Sender<Bytes>, Source) {
    let (sender, receiver) = mpsc::channel(1);
    let chunks = stream::unfold(receiver, async |mut receiver| {
        let chunk = receiver.recv().await?;
        Some((Ok(chunk), receiver))
    });
    (sender, Source::new(Body::new(chunks)))
}

fn fault(refusal: Refusal) -> Fault {
    match refusal.reason {
        RefusalReason::CannotStart(reason) => Fault::CannotStart(reason),
        RefusalReason::Malformed(reason) => Fault::Malformed(Malformed(reason.to_string())),
        RefusalReason::Busy | RefusalReason::NoRunner | RefusalReason::Unreachable(_) => {
            Fault::Busy
        }
    }
}
