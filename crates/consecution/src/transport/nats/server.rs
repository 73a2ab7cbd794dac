//! The answering side of calls: one subscription per link, one task per call.

use std::sync::Arc;
use std::time::Duration;

use async_nats::Subject;
use bytes::Bytes;
use chain::LinkId;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::{Instant, timeout};

use super::connection::Shared;
use super::connection::requests::Topic;
use super::wire::header_block;
use super::wire::reply::{self, Fault};
use super::wire::request::RequestHead;
use super::wire::server_line::Message;
use crate::transport::{Registration, Service};
use answer::Answer;
use replying::{Replying, SEND_WAIT_MAX};

mod answer;
mod replying;

/// How long to wait for requests that the server sent before it knew that the subscription
/// has ended.
const LAST_REQUESTS_WAIT_MAX: Duration = Duration::from_secs(2);

/// The longest reply subject that is answered. The server closes a connection that sends a
/// line of more than 4 KiB, and our line contains more than the reply subject.
const REPLY_SUBJECT_BYTES_MAX: usize = 1024;

/// See [`crate::transport::Transport::serve`].
pub(crate) fn serve(shared: Arc<Shared>, id: LinkId, service: Arc<dyn Service>) -> Registration {
    let (withdraw, withdrawn) = oneshot::channel::<()>();
    let serving = Serving {
        shared,
        id,
        service,
    };
    let over = tokio::spawn(serving.run(withdrawn));
    Registration::new(withdraw, async {
        // The task does not panic, and ends with the runtime at the latest.
        let _ = over.await;
    })
}

/// One link that is served.
struct Serving {
    shared: Arc<Shared>,
    id: LinkId,
    service: Arc<dyn Service>,
}

impl Serving {
    /// Serves until the registration is dropped and all earlier requests are answered.
    async fn run(self, mut withdrawn: oneshot::Receiver<()>) {
        // Each call holds a clone of the sender until it is answered.
        let (answering, mut answered) = mpsc::channel::<()>(1);
        let mut requests = self.shared.requests().subscribe(Topic::Link(self.id));
        loop {
            tokio::select! {
                biased;
                _ = &mut withdrawn => break,
                request = requests.next() => match request {
                    Some(request) => self.take(request, &answering),
                    None => break,
                },
            }
        }
        requests.leave();
        let last = async {
            while let Some(request) = requests.next().await {
                self.take(request, &answering);
            }
        };
        let _ = timeout(LAST_REQUESTS_WAIT_MAX, last).await;
        drop(answering);
        let _ = answered.recv().await;
        if let Some(client) = self.shared.connected_now() {
            let _ = timeout(SEND_WAIT_MAX, client.flush()).await;
        }
    }

    fn take(&self, request: Message, answering: &mpsc::Sender<()>) {
        let received = Instant::now();
        let Some(reply) = request.reply.as_deref().and_then(answerable) else {
            tracing::debug!(link_id = %self.id, "ignored a request that cannot be answered");
            return;
        };
        let shared = Arc::clone(&self.shared);
        let permit = Arc::clone(&self.shared.in_flight).try_acquire_owned().ok();
        // Refusing a call takes some memory too, so refusals are bounded as well.
        let refusal = match &permit {
            Some(_) => None,
            None => match Arc::clone(&self.shared.refused).try_acquire_owned() {
                Ok(refusal) => Some(refusal),
                Err(_) => return,
            },
        };
        let (service, answering) = (Arc::clone(&self.service), answering.clone());
        let id = self.id;
        tokio::spawn(async move {
            // The connection for calls may still be reconnecting although the connection
            // for requests is back.
            let client = match shared.connected_client(None).await {
                Ok(client) => client,
                Err(why) => {
                    tracing::debug!(link_id = %id, "dropped a request: {why}");
                    return;
                }
            };
            let to = Replying {
                shared,
                client,
                reply,
            };
            if let Err(fault) = answer(&to, &service, request, received, permit).await {
                tracing::debug!(link_id = %id, "answered with a fault: {fault:?}");
                to.send_fault(&fault).await;
            }
            drop((answering, refusal));
        });
    }
}

/// The reply subject of a request, if an answer may be sent to it. The client can have
/// chosen any bytes without white space, so the subject may be invalid. It may also be one
/// that the client must not publish to itself, such as a link's or a server's: a runner must
/// not do that for it.
pub(crate) fn answerable(reply: &[u8]) -> Option<Subject> {
    let reply = str::from_utf8(reply).ok()?;
    let is_plain = |token: &str| !token.is_empty() && token != "*" && token != ">";
    let is_a_callers = !NEVER_A_CALLERS
        .iter()
        .any(|beginning| reply.starts_with(beginning));
    let is_subject = is_a_callers
        && reply.len() <= REPLY_SUBJECT_BYTES_MAX
        && !reply.contains(|character: char| character.is_control() || character.is_whitespace())
        && reply.split('.').all(is_plain);
    is_subject.then(|| reply.into())
}

/// Prefixes that no caller's inbox has. (The inboxes of other callers and of runners cannot
/// be guessed.)
const NEVER_A_CALLERS: [&str; 2] = ["consecution.", "$"];

/// Answers a request. The error says what to answer instead.
async fn answer(
    to: &Replying,
    service: &Arc<dyn Service>,
    request: Message,
    received: Instant,
    permit: Option<OwnedSemaphorePermit>,
) -> Result<(), Fault> {
    let headers = request.headers.as_deref().map(header_block::read);
    let headers = headers.transpose().map_err(Fault::Malformed)?;
    let head = RequestHead::read(headers.as_ref(), received);
    let head = head.map_err(Fault::Malformed)?;
    if head.is_probe {
        let headers = reply::about(&head.trace.call_id, &to.shared.name);
        to.send(headers, Bytes::new()).await;
        return Ok(());
    }
    let _permit = permit.ok_or(Fault::Busy)?;
    let answer = Answer { to, head, received };
    answer.run(service, request.payload).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_are_answered_and_nobody_else() {
        for reply in [
            "_INBOX.a.1",
            "_INBOX.portal.x.1",
            "_R_.x",
            "mine",
            "_INBOX.runners",
        ] {
            assert_eq!(answerable(reply.as_bytes()).as_deref(), Some(reply));
        }
        let too_long = "a".repeat(REPLY_SUBJECT_BYTES_MAX + 1);
        for reply in [
            "consecution.link.188b0237c1423313d2eff0dbfb4d426a",
            "$JS.API.STREAM.DELETE.x",
            "$SYS.REQ.SERVER.PING",
            "a..b",
            "a.*",
            ">",
            "a\u{a0}b",
            "a\u{b}",
            "",
            &too_long,
        ] {
            assert_eq!(answerable(reply.as_bytes()), None, "{reply:?}");
        }
        assert_eq!(answerable(b"\xff"), None);
    }
}
