//! Links that need no image and no sandbox, for tests of what is around them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chain::LinkId;
use futures_util::future::{BoxFuture, join_all};
use futures_util::stream::{self, StreamExt};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::conformance::unique;
use crate::transport::{
    Body, Cut, Ending, Outcome, PendingOutcome, Refusal, RefusalReason, Reply, Request, Service,
};

/// The id of a link that no other test uses.
pub fn link_id() -> LinkId {
    let id = format!("{:016x}{:016x}", unique(), unique());
    id.parse().expect("32 hexadecimal digits are a link id")
}

/// An outcome with nothing to say but how it ended.
pub fn ended(ending: Ending) -> Outcome {
    Outcome {
        elapsed: Duration::from_millis(1),
        ..Outcome::new(ending)
    }
}

/// A service that is one function from a request to a reply.
pub fn service<F, R>(answer: F) -> Arc<dyn Service>
where
    F: Fn(Request) -> R + Send + Sync + 'static,
    R: Future<Output = Result<Reply, Refusal>> + Send + 'static,
{
    struct Answer<F>(F);
    impl<F, R> Service for Answer<F>
    where
        F: Fn(Request) -> R + Send + Sync,
        R: Future<Output = Result<Reply, Refusal>> + Send + 'static,
    {
        fn call(&self, request: Request) -> BoxFuture<'_, Result<Reply, Refusal>> {
            Box::pin((self.0)(request))
        }
    }
    Arc::new(Answer(answer))
}

/// A service that starts a fake process for each call, and stops it as a runner
/// would: at its deadline, and when nobody reads its output any more.
///
/// `program` ends with an exit code, or with the ending that [`Process::read`]
/// or [`Process::write`] tell it that it has come to.
pub fn process<F, R>(program: F) -> Arc<dyn Service>
where
    F: Fn(Process) -> R + Send + Sync + 'static,
    R: Future<Output = Result<u8, Ending>> + Send + 'static,
{
    service(move |request| {
        let (stdout, output) = mpsc::channel(1);
        let (sender, outcome) = PendingOutcome::channel();
        let unread = stdout.clone();
        let deadline = request.deadline;
        let running = program(Process {
            stdin: request.body,
            stdout,
            stderr: request.stderr,
            deadline,
        });
        tokio::spawn(async move {
            let ending = tokio::select! {
                biased;
                result = running => result.map_or_else(|ending| ending, Ending::Exited),
                () = unread.closed() => Ending::Unread,
                () = passed(deadline) => Ending::DeadlinePassed,
            };
            // Nobody may wait for it any more.
            let _ = sender.send(ended(ending));
        });
        let body = receiving(output);
        std::future::ready(Ok(Reply::new(body, outcome)))
    })
}

async fn passed(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// A fake process, as its program sees it. Dropping it closes its streams.
pub struct Process {
    /// Its standard input.
    pub stdin: Body,
    /// Its standard output, whose reader is gone when it is closed.
    pub stdout: mpsc::Sender<Result<Bytes, Cut>>,
    /// Where its standard error goes while it runs.
    pub stderr: Option<mpsc::Sender<Bytes>>,
    /// When it will be killed.
    pub deadline: Option<Instant>,
}

impl Process {
    /// The next piece of standard input; `None` at its end.
    ///
    /// # Errors
    /// It was cut off.
    pub async fn read(&mut self) -> Result<Option<Bytes>, Ending> {
        self.stdin.next().await.transpose().map_err(|_| Ending::Cut)
    }

    /// All of standard input.
    ///
    /// # Errors
    /// It was cut off.
    pub async fn read_all(&mut self) -> Result<Bytes, Ending> {
        let stdin = std::mem::replace(&mut self.stdin, Body::empty());
        stdin.collect().await.map_err(|_| Ending::Cut)
    }

    /// Writes to standard output.
    ///
    /// # Errors
    /// Nobody reads it any more.
    pub async fn write(&mut self, bytes: impl Into<Bytes>) -> Result<(), Ending> {
        let sent = self.stdout.send(Ok(bytes.into())).await;
        sent.map_err(|_| Ending::Unread)
    }
}

/// A body that gives what is sent; it ends when all senders are gone.
pub fn receiving(receiver: mpsc::Receiver<Result<Bytes, Cut>>) -> Body {
    Body::new(stream::unfold(receiver, async |mut receiver| {
        let chunk = receiver.recv().await?;
        Some((chunk, receiver))
    }))
}

/// A body of these chunks that then breaks off.
pub fn cut_off(chunks: impl IntoIterator<Item = &'static str>, reason: &str) -> Body {
    let chunks: Vec<_> = chunks.into_iter().map(|chunk| Ok(chunk.into())).collect();
    Body::new(stream::iter(chunks).chain(stream::iter([Err(Cut::new(reason))])))
}

/// A body that says when it is dropped, and otherwise gives nothing.
pub fn watched() -> (Body, oneshot::Receiver<()>) {
    let (sender, dropped) = oneshot::channel::<()>();
    let body = Body::new(stream::unfold(sender, async |sender| {
        std::future::pending::<()>().await;
        Some((Ok(Bytes::new()), sender))
    }));
    (body, dropped)
}

/// Writes back what it reads, as `cat` does.
pub fn echo() -> Arc<dyn Service> {
    process(async |mut process| {
        while let Some(chunk) = process.read().await? {
            process.write(chunk).await?;
        }
        Ok(0)
    })
}

/// Writes its input backwards once it has all of it.
pub fn reverse() -> Arc<dyn Service> {
    process(async |mut process| {
        let mut bytes = Vec::from(process.read_all().await?);
        bytes.reverse();
        process.write(bytes).await?;
        Ok(0)
    })
}

/// Writes one line without end, as `yes` does.
pub fn endless() -> Arc<dyn Service> {
    process(async |mut process| {
        loop {
            process.write("y\n").await?;
        }
    })
}

/// Writes this and reads nothing.
pub fn saying(what: &'static str) -> Arc<dyn Service> {
    process(move |mut process| async move {
        process.write(what).await?;
        Ok(0)
    })
}

/// Reads all of its input, writes it, and ends with this code.
pub fn exiting(code: u8) -> Arc<dyn Service> {
    process(move |mut process| async move {
        while let Some(chunk) = process.read().await? {
            process.write(chunk).await?;
        }
        Ok(code)
    })
}

/// Takes a call of the first of these links, together with as many of those that
/// follow as there are others; each reads what the one before it writes.
pub fn joining(services: impl IntoIterator<Item = Arc<dyn Service>>) -> Arc<dyn Service> {
    let services: Vec<_> = services.into_iter().collect();
    service(move |request| {
        let services = services.clone();
        async move {
            let joined = request.following.len().min(services.len() - 1);
            let (mut body, mut outcomes) = (request.body, Vec::new());
            for service in &services[..=joined] {
                let request = Request {
                    body,
                    deadline: request.deadline,
                    stderr: request.stderr.clone(),
                    ..Request::new("")
                };
                let reply = service.call(request).await?;
                body = reply.body;
                outcomes.push(reply.outcome);
            }
            let outcome = PendingOutcome::new(async {
                let outcomes = join_all(outcomes).await;
                Outcome::of_links(outcomes).expect("one at least")
            });
            Ok(Reply {
                joined,
                ..Reply::new(body, outcome)
            })
        }
    })
}

/// Takes no call, for that reason.
pub fn refusing(reason: RefusalReason) -> Arc<dyn Service> {
    service(move |request| {
        let reason = reason.clone();
        std::future::ready(Err(Refusal { request, reason }))
    })
}
