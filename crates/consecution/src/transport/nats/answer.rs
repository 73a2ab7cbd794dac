//! One call, answered: in one message if all of its output comes at once and fits,
//! else in frames if the caller understands them.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::{self, StreamExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::body::{self, Handed, Piece, Sink, Source};
use super::exchange::{self, ALIVE_EVERY, Broken, Event, Exchange};
use super::head::{self, Fault, HEADERS_BYTES_MAX, Offer, RequestHead};
use super::line::{Line, Next};
use super::server::Replying;
use crate::transport::{
    Body, Cut, Outcome, PendingOutcome, Refusal, RefusalReason, Reply, Request, Service, Waiting,
};

/// How long output may wait for the end of its call before the call becomes a stream.
/// It counts from the first byte and not from the request: how long a call takes until
/// then depends on how busy the runner is, and a busy one must not send more messages
/// a call than an idle one.
const OUTPUT_WAIT: Duration = Duration::from_millis(20);

/// The largest output that travels in one message, whatever the server allows.
const WHOLE_BYTES_MAX: usize = 1024 * 1024;

/// How many bytes one byte of standard error may take in a header.
const ESCAPED_MAX: usize = 3;

/// The deadline of a caller who names none and shows no sign of life, so that
/// nobody could tell whether it still waits.
const PLAIN_DEADLINE: Duration = Duration::from_secs(30);

/// How long the last of standard error may wait for its reader once the call is
/// over.
const STDERR_GRACE: Duration = Duration::from_secs(1);

/// A call to be answered.
pub(super) struct Answer<'a> {
    pub(super) to: &'a Replying,
    pub(super) head: RequestHead,
    pub(super) received: Instant,
}

/// A call that a service has taken.
struct Taken {
    output: Source,
    outcome: PendingOutcome,
    /// Standard error while it is written, where the caller wants it.
    stderr: Option<Source>,
}

impl Answer<'_> {
    /// # Errors
    /// What to answer instead of an outcome.
    pub(super) async fn run(
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

    /// Answers in one message, whenever that is.
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
        let mut headers = head::about(call_id, name);
        let taken = stdout.len() + HEADERS_BYTES_MAX;
        let room = self.to.client.max_payload().saturating_sub(taken);
        super::outcome::write(&mut headers, &outcome, name, room);
        self.to.send(headers, stdout).await;
    }

    /// Answers a caller who understands frames.
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
            true => (None, payload.into()),
            false => {
                let (sink, rest) = body::channel();
                let body = Body::new(stream::iter([Ok(payload)]).chain(rest));
                (Some(sink), body)
            }
        };
        let (stderr, listening) = self.head.live_stderr.then(listen).unzip();
        let mut calling = service.call(self.request(body, stderr));
        let (result, mut line) = match self.called(&mut calling, asked, offer).await {
            Ok(called) => called,
            // The call was not taken yet, and is dropped with that.
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
        if offer.is_whole {
            match self.completed(&mut taken, line.as_mut()).await {
                Ok(Some(outcome)) => {
                    self.complete(taken.output.take_all(), outcome).await;
                    return Ok(());
                }
                Ok(None) => {}
                Err(broken) => {
                    tracing::debug!("stopped a call whose caller is lost: {broken}");
                    return Ok(());
                }
            }
        }
        let line = line.unwrap_or_else(|| self.line(offer));
        let stream = Stream {
            line,
            input,
            output: Some(taken.output),
            outcome: taken.outcome,
            stderr: taken.stderr,
        };
        let window = match offer.is_whole {
            true => 0,
            false => exchange::window(self.to.shared.inbox.count()),
        };
        stream.run(window, reply.joined).await;
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

    /// Asks the caller whether it still waits, and waits until it says so. It may have
    /// taken silence for an answer long ago: a request can lie unread while a runner,
    /// or the way to it, stands still.
    async fn confirmed(&mut self, offer: Offer) -> Result<Line, Broken> {
        let mut line = self.line(offer);
        let alive = line.exchange.alive();
        line.send(alive).await?;
        while !line.exchange.has_heard() {
            let next = line.next().await;
            line.handle(next).await?;
        }
        self.received = Instant::now();
        Ok(line)
    }

    /// Waits until the service has taken the call or refused it; where that takes
    /// its time, the caller is shown that we live, and we learn whether it does.
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
        let alive = line.exchange.alive();
        line.send(alive).await?;
        loop {
            tokio::select! {
                biased;
                result = &mut *calling => return Ok((result, Some(line))),
                next = line.next() => handle_alive(&mut line, next).await?,
            }
        }
    }

    /// How the call ended, if one message can say it all: its output fits, and ends
    /// within [`OUTPUT_WAIT`] of its first byte. A call without output is waited for
    /// until its caller must be shown a sign of life, which `accept` is. A caller
    /// that has been shown one before is shown more meanwhile.
    async fn completed(
        &self,
        taken: &mut Taken,
        line: Option<&mut Line>,
    ) -> Result<Option<Outcome>, Broken> {
        let room = self.room();
        let Some(line) = line else {
            return Ok(taken.completed(self.received + ALIVE_EVERY, room).await);
        };
        let mut completed = pin!(taken.completed(Instant::now() + ALIVE_EVERY, room));
        loop {
            tokio::select! {
                biased;
                completed = &mut completed => return Ok(completed),
                next = line.next() => handle_alive(line, next).await?,
            }
        }
    }
}

/// What comes before `accept`: nothing but signs of life.
async fn handle_alive(line: &mut Line, next: Next) -> Result<(), Broken> {
    match line.handle(next).await? {
        Event::Nothing => Ok(()),
        _ => Err(Broken::Violation("a frame before its time".to_owned())),
    }
}

impl Taken {
    /// As [`Answer::completed`], of a call that shows no sign of life until
    /// `silent_until`.
    async fn completed(&mut self, silent_until: Instant, room: usize) -> Option<Outcome> {
        let Taken {
            output,
            outcome,
            stderr,
        } = self;
        let ended = async {
            timeout_at(silent_until, output.begin()).await.ok()?;
            let until = match output.held_bytes() {
                0 => silent_until,
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
        // What goes to whoever listens while it is written has no place in one message.
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
        let fits = ESCAPED_MAX * said <= left;
        fits.then_some(outcome)
    }
}

/// Waits for the first bytes of standard error, where somebody listens to it.
async fn says_something(stderr: Option<&mut Source>) {
    if let Some(stderr) = stderr {
        stderr.begin().await;
        if stderr.held_bytes() > 0 {
            return;
        }
    }
    std::future::pending().await
}

/// Where a process is to write its standard error, and what comes of it.
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
        RefusalReason::Busy | RefusalReason::NoRunner | RefusalReason::Unreachable(_) => {
            Fault::Busy
        }
    }
}

/// A call that goes on in frames.
struct Stream {
    line: Line,
    /// The request's body, where it is not whole.
    input: Option<Sink>,
    /// The reply's body; `None` when nothing more is sent of it.
    output: Option<Source>,
    outcome: PendingOutcome,
    /// `None` when it is over, or nobody wants it.
    stderr: Option<Source>,
}

/// What a stream waits for.
enum Step {
    Came(Next),
    Handed(Handed),
    Output(Piece),
    Stderr(Piece),
    Ended(Outcome),
    StderrGraceOver,
}

impl Stream {
    /// Until all is said. Where the caller is lost, the process is stopped by
    /// dropping its output and cutting its input.
    async fn run(mut self, window: u64, joined: usize) {
        let accept = self.line.exchange.accept(window, joined);
        let result = match self.line.send(accept).await {
            Ok(()) => self.exchange().await,
            Err(broken) => Err(broken),
        };
        if let Err(broken) = result {
            tracing::debug!("stopped a call whose caller is lost: {broken}");
        }
    }

    async fn exchange(&mut self) -> Result<(), Broken> {
        let mut ended: Option<Outcome> = None;
        let mut grace: Option<Pin<Box<tokio::time::Sleep>>> = None;
        loop {
            if self.line.exchange.has_sent_all()
                && self.stderr.is_none()
                && let Some(outcome) = ended.take()
            {
                let outcome = self.line.exchange.outcome(outcome);
                return self.line.send(outcome).await;
            }
            match self.wait(ended.is_some(), grace.as_mut()).await {
                Step::Came(next) => self.came(next).await?,
                Step::Handed(handed) => {
                    let frame = match handed {
                        Handed::Over(bytes) => self.line.exchange.consumed(bytes),
                        Handed::Unread => self.line.exchange.close(),
                    };
                    self.line.send_any(frame).await?;
                }
                Step::Output(piece) => {
                    let frame = match piece {
                        Piece::Data(bytes) => self.line.exchange.data(bytes),
                        Piece::End => self.line.exchange.end(Ok(())),
                        Piece::Cut(cut) => self.line.exchange.end(Err(cut.reason)),
                    };
                    self.line.send(frame).await?;
                    if self.line.exchange.has_sent_all() {
                        self.output = None;
                    }
                }
                Step::Stderr(Piece::Data(bytes)) => {
                    let frame = self.line.exchange.stderr(bytes);
                    self.line.send(frame).await?;
                }
                Step::Stderr(Piece::End | Piece::Cut(_)) | Step::StderrGraceOver => {
                    self.stderr = None;
                }
                Step::Ended(outcome) => {
                    ended = Some(outcome);
                    grace = Some(Box::pin(tokio::time::sleep(STDERR_GRACE)));
                }
            }
        }
    }

    async fn wait(
        &mut self,
        has_ended: bool,
        grace: Option<&mut Pin<Box<tokio::time::Sleep>>>,
    ) -> Step {
        let (room, stderr_room) = (self.line.room(), self.line.stderr_room());
        let Stream {
            line,
            input,
            output,
            outcome,
            stderr,
        } = self;
        let handing = async {
            match input {
                Some(input) => input.hand_over().await,
                None => std::future::pending().await,
            }
        };
        let sending = async {
            match output {
                Some(output) => output.next(room).await,
                None => std::future::pending().await,
            }
        };
        let listening = async {
            match stderr {
                Some(stderr) => stderr.next(stderr_room).await,
                None => std::future::pending().await,
            }
        };
        let grace = async {
            match grace {
                Some(grace) => grace.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            next = line.next() => Step::Came(next),
            handed = handing => Step::Handed(handed),
            piece = listening => Step::Stderr(piece),
            piece = sending => Step::Output(piece),
            outcome = outcome, if !has_ended => Step::Ended(outcome),
            () = grace => Step::StderrGraceOver,
        }
    }

    async fn came(&mut self, next: Next) -> Result<(), Broken> {
        match (self.line.handle(next).await?, &mut self.input) {
            (Event::Nothing, _) => {}
            (Event::Closed, _) => self.output = None,
            (Event::Data(bytes), Some(input)) => input.put(Piece::Data(bytes)),
            (Event::End, Some(input)) => input.put(Piece::End),
            (Event::Cut(reason), Some(input)) => input.put(Piece::Cut(Cut { reason })),
            _ => return Err(Broken::Violation("a frame that is a runner's".to_owned())),
        }
        Ok(())
    }
}
