//! The answering side: one subscription a link, and a task a call.

use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, HeaderMap, Message, Subject, Subscriber};
use bytes::Bytes;
use chain::LinkId;
use futures_util::StreamExt;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::{Instant, timeout};

use super::answer::Answer;
use super::connection::{Shared, publish};
use super::head::{self, Fault, RequestHead};
use crate::transport::{Registration, Service, subject};

/// How long an answer may wait to be sent.
pub(super) const SEND_WAIT_MAX: Duration = Duration::from_secs(10);

/// How long to wait for what the server had sent us before it knew that we want
/// no more.
const LAST_REQUESTS_WAIT_MAX: Duration = Duration::from_secs(2);

/// Tells the server to send nothing more, while the client still takes what is
/// on its way. The client's own drain drops that. A limit on deliveries of more
/// digits than the server reads means "none" to it, and no limit to the client.
const UNSUBSCRIBE_KEEPING_LAST: u64 = 10_000_000_000;

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
        let mut last = None;
        loop {
            // The client stops only when something has gone badly wrong with it.
            let client = tokio::select! {
                biased;
                _ = &mut withdrawn => break,
                client = self.shared.next_client(last.as_ref()) => client,
            };
            let Some(client) = client else { break };
            if self.requests(&client, &mut withdrawn, &answering).await {
                drop(answering);
                let _ = answered.recv().await;
                let _ = timeout(SEND_WAIT_MAX, client.flush()).await;
                return;
            }
            last = Some(client);
        }
        drop(answering);
        let _ = answered.recv().await;
    }

    /// Takes requests until the registration is dropped; `false` where the
    /// client has stopped before.
    async fn requests(
        &self,
        client: &Arc<Client>,
        withdrawn: &mut oneshot::Receiver<()>,
        answering: &mpsc::Sender<()>,
    ) -> bool {
        let link = subject::of_link(self.id);
        let group = subject::QUEUE_GROUP.to_owned();
        let subscribed = tokio::select! {
            biased;
            _ = &mut *withdrawn => return true,
            subscribed = client.queue_subscribe(link, group) => subscribed,
        };
        let Ok(mut requests) = subscribed else {
            return false;
        };
        loop {
            tokio::select! {
                biased;
                _ = &mut *withdrawn => break,
                request = requests.next() => match request {
                    Some(request) => self.take(client, request, answering),
                    None => return false,
                },
            }
        }
        self.last_requests(client, requests, answering).await;
        true
    }

    /// Wants no more requests, and takes those that are on their way.
    async fn last_requests(
        &self,
        client: &Arc<Client>,
        mut requests: Subscriber,
        answering: &mpsc::Sender<()>,
    ) {
        if requests
            .unsubscribe_after(UNSUBSCRIBE_KEEPING_LAST)
            .await
            .is_err()
        {
            return;
        }
        // What the server sends after it has read the line above, it sends after
        // everything that it had sent us before.
        let mut mailbox = self.shared.inbox.open();
        let echo = client.publish(mailbox.subject.clone(), Bytes::new());
        let echoed = async {
            if echo.await.is_ok() {
                mailbox.messages.recv().await;
            }
        };
        let mut echoed = std::pin::pin!(timeout(LAST_REQUESTS_WAIT_MAX, echoed));
        loop {
            tokio::select! {
                // What has been echoed came after the requests, and those are
                // taken first.
                biased;
                request = requests.next() => match request {
                    Some(request) => self.take(client, request, answering),
                    None => return,
                },
                _ = &mut echoed => return,
            }
        }
    }

    fn take(&self, client: &Arc<Client>, request: Message, answering: &mpsc::Sender<()>) {
        let received = Instant::now();
        let Some(reply) = request.reply.clone() else {
            tracing::debug!(link = %self.id, "ignored a request that nobody waits for");
            return;
        };
        let replying = Replying {
            shared: Arc::clone(&self.shared),
            client: Arc::clone(client),
            reply,
        };
        let permit = Arc::clone(&self.shared.in_flight).try_acquire_owned().ok();
        let (service, answering) = (Arc::clone(&self.service), answering.clone());
        let id = self.id;
        tokio::spawn(async move {
            if let Err(fault) = replying.answer(&service, request, received, permit).await {
                tracing::debug!(link = %id, "answered with a fault: {fault:?}");
                replying.fault(&fault).await;
            }
            drop(answering);
        });
    }
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
        let head = RequestHead::read(request.headers.as_ref(), received);
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
