//! Whom to answer, and on which connection.

use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, HeaderMap, Subject};
use bytes::Bytes;
use tokio::time::timeout;

use crate::transport::nats::connection::requests::Unsent;
use crate::transport::nats::connection::{Shared, publish};
use crate::transport::nats::wire::reply::{self, Fault};
use crate::transport::nats::wire::subject;

/// How long an answer may wait to be sent.
pub(crate) const SEND_WAIT_MAX: Duration = Duration::from_secs(10);

/// See the module.
pub(crate) struct Replying {
    pub(crate) shared: Arc<Shared>,
    pub(crate) client: Arc<Client>,
    pub(crate) reply: Subject,
}

impl Replying {
    /// Sends an answer in one message.
    pub(crate) async fn send(&self, headers: HeaderMap, payload: Bytes) {
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

    pub(crate) async fn send_fault(&self, fault: &Fault) {
        let headers = reply::fault(fault, &self.shared.name);
        self.send(headers, Bytes::new()).await;
    }
}
