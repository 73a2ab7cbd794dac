//! The answering side: one subscription a link, and a task a call.

use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, HeaderMap, Subject};
use bytes::Bytes;
use chain::LinkId;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::{Instant, timeout};

use super::answer::Answer;
use super::connection::{Shared, publish};
use super::head::{self, Fault, RequestHead};
use super::header_block;
use super::requests::Unsent;
use super::wire::Message;
use crate::transport::{Registration, Service, subject};

/// How long an answer may wait to be sent.
pub(super) const SEND_WAIT_MAX: Duration = Duration::from_secs(10);

/// How long to wait for what the server had sent us before it knew that we want
/// no more.
const LAST_REQUESTS_WAIT_MAX: Duration = Duration::from_secs(2);

/// The longest reply subject that is answered. The server ends the connection of
/// whoever sends it a line of more than 4 KiB, and ours has more than that subject.
const REPLY_BYTES_MAX: usize = 1024;

/// As [`crate::transport::Transport::serve`].
pub(super) fn serve(shared: Arc<Shared>, id: LinkId, service: Arc<dyn Service>) -> Registration {
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
            tracing::debug!(link = %self.id, "ignored a request that cannot be answered");
            return;
        };
        let shared = Arc::clone(&self.shared);
        let permit = Arc::clone(&self.shared.in_flight).try_acquire_owned().ok();
        let (service, answering) = (Arc::clone(&self.service), answering.clone());
        let id = self.id;
        tokio::spawn(async move {
            // It may be on its way back where the one for requests is already.
            let client = match shared.connected_client(None).await {
                Ok(client) => client,
                Err(why) => {
                    tracing::debug!(link = %id, "dropped a request: {why}");
                    return;
                }
            };
            let replying = Replying {
                shared,
                client,
                reply,
            };
            if let Err(fault) = replying.answer(&service, request, received, permit).await {
                tracing::debug!(link = %id, "answered with a fault: {fault:?}");
                replying.fault(&fault).await;
            }
            drop(answering);
        });
    }
}

/// The reply subject of a request, if a message can be sent to it: whoever made the
/// request may have made it of anything but white space.
fn answerable(reply: &[u8]) -> Option<Subject> {
    let reply = str::from_utf8(reply).ok()?;
    let is_plain = |token: &str| !token.is_empty() && token != "*" && token != ">";
    let is_subject = reply.len() <= REPLY_BYTES_MAX
        && !reply.contains(|character: char| character.is_control() || character.is_whitespace())
        && reply.split('.').all(is_plain);
    is_subject.then(|| reply.into())
}

/// Whom to answer, and how.
pub(super) struct Replying {
    pub(super) shared: Arc<Shared>,
    pub(super) client: Arc<Client>,
    pub(super) reply: Subject,
}

impl Replying {
    async fn answer(
        &self,
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
            let name = &self.shared.name;
            let headers = head::about(&head.trace.call_id, name);
            self.send(headers, Bytes::new()).await;
            return Ok(());
        }
        let _permit = permit.ok_or(Fault::Busy)?;
        let answer = Answer {
            to: self,
            head,
            received,
        };
        answer.run(service, request.payload).await
    }

    /// Sends an answer in one message.
    pub(super) async fn send(&self, headers: HeaderMap, payload: Bytes) {
        let (client, reply) = (&self.client, self.reply.clone());
        if !reply.starts_with(subject::PORTAL_INBOX) {
            let (requests, bytes_max) = (self.shared.requests(), client.max_payload());
            let sent = requests.answer(&reply, &headers, &payload, bytes_max);
            match timeout(SEND_WAIT_MAX, sent).await {
                Ok(Ok(())) => return,
                // Where answers need no leave of their own, this may do.
                Ok(Err(Unsent)) => {}
                Err(_) => {
                    tracing::warn!("failed to answer a call: NATS took no message in time");
                    return;
                }
            }
        }
        let sent = publish(client, reply, None, headers, payload, SEND_WAIT_MAX).await;
        if let Err(why) = sent {
            tracing::warn!("failed to answer a call: {why}");
        }
    }

    async fn fault(&self, fault: &Fault) {
        let headers = head::fault(fault, &self.shared.name);
        self.send(headers, Bytes::new()).await;
    }
}
