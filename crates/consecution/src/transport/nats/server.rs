//! The answering side: one subscription a link, and a task a call.

use std::sync::Arc;
use std::time::Duration;

use async_nats::Subject;
use bytes::Bytes;
use chain::LinkId;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::{Instant, timeout};

use super::connection::Shared;
use super::wire::header_block;
use super::wire::reply::{self, Fault};
use super::wire::request::RequestHead;
use super::wire::server_line::Message;
use crate::transport::{Registration, Service};
use answer::Answer;
use replying::{Replying, SEND_WAIT_MAX};

mod answer;
mod replying;

/// How long to wait for what the server had sent us before it knew that we want
/// no more.
const LAST_REQUESTS_WAIT_MAX: Duration = Duration::from_secs(2);

/// The longest reply subject that is answered. The server ends the connection of
/// whoever sends it a line of more than 4 KiB, and ours has more than that subject.
const REPLY_SUBJECT_BYTES_MAX: usize = 1024;

/// As [`crate::transport::Transport::serve`].
pub(crate) fn serve(shared: Arc<Shared>, id: LinkId, service: Arc<dyn Service>) -> Registration {
    let (withdraw, withdrawn) = oneshot::channel::<()>();
    let serving = Serving {
        shared,
        id,
        service,
    };
    let over = tokio::spawn(serving.run(withdrawn));
    Registration::new(withdraw, async {
        // It does not panic, and ends with the runtime at the latest.
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
    /// Until the registration is dropped and what came before is answered.
    async fn run(self, mut withdrawn: oneshot::Receiver<()>) {
        // Every call holds a clone until it is answered.
        let (answering, mut answered) = mpsc::channel::<()>(1);
        let mut requests = self.shared.requests().subscribe(self.id);
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
        // To say that there is no room takes some, too.
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
            // It may be on its way back where the one for requests is already.
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

/// The reply subject of a request, if a message can be sent to it: whoever made the
/// request may have made it of anything but white space. And if one should be: whoever
/// may call a link must not have a runner write for him where he may not himself, to
/// links or to the servers.
fn answerable(reply: &[u8]) -> Option<Subject> {
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

/// What no caller's inbox begins with. (Those of other callers and of runners have names
/// that nobody can guess.)
const NEVER_A_CALLERS: [&str; 2] = ["consecution.", "$"];

/// Answers a request, or says what to answer instead.
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
