//! Finds out whether a runner serves a link, by sending probes.
//!
//! If nobody subscribes to a subject, the server answers "no responders" at once. But a
//! subscriber to a wildcard over the subject (an audit, a bridge, a leaf node) suppresses
//! that answer, and then there is only silence. Silence after one probe proves nothing:
//! the queue group may have delivered it to a runner that hangs. So several probes are
//! sent, and one to a subject that no runner ever subscribes to. If the server is alive and
//! sends no "no responders" for that subject either, a wildcard subscriber hides that there
//! is no runner.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::{Client, Subject};
use bytes::Bytes;
use chain::LinkId;
use tokio::time::{Instant, timeout, timeout_at};

use super::SEND_WAIT_MAX;
use crate::transport::RefusalReason;
use crate::transport::nats::connection::inbox::Mailbox;
use crate::transport::nats::connection::{Shared, publish};
use crate::transport::nats::wire::kind::{Kind, kind};
use crate::transport::nats::wire::{request, subject};

/// How long to wait for an answer to the first probe before more are sent. A runner answers
/// as soon as it has read the probe.
const FIRST_WAIT: Duration = Duration::from_millis(250);

/// How many more probes are sent: each goes to a random runner, and one of two may hang.
const MORE_PROBES: usize = 7;

/// How long to wait for answers to these.
const MORE_WAIT: Duration = Duration::from_millis(750);

/// The result of looking for a link's runners.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// A runner has answered.
    Runner,
    /// The server says that nobody subscribes.
    Nobody,
    /// Only wildcard subscribers exist, and no runner answers.
    OnlyOthers,
    /// Somebody subscribes to this link's own subject, but does not answer: a runner that
    /// hangs, or whose network was cut. Or our own network was cut.
    Silence,
}

impl Found {
    /// Why no runner would accept a call, if so.
    pub(crate) fn refusal(self, shared: &Shared) -> Result<(), RefusalReason> {
        match self {
            Found::Runner => Ok(()),
            Found::Nobody | Found::OnlyOthers => Err(nobody(shared)),
            Found::Silence => Err(RefusalReason::Unreachable("no runner answers".into())),
        }
    }
}

/// The refusal if no runner subscribes to the link's subject.
pub(crate) fn nobody(shared: &Shared) -> RefusalReason {
    match shared.health.is_settling() {
        true => RefusalReason::Unreachable("runners may still be reconnecting to NATS".into()),
        false => RefusalReason::NoRunner,
    }
}

/// Looks for a runner of this link, for a second at most.
///
/// # Errors
/// The connection was lost.
pub(crate) async fn look(shared: &Shared, client: &Client, id: LinkId) -> Result<Found, Arc<str>> {
    let link = Subject::from(subject::of_link(id));
    let mut probes = shared.inbox.open();
    probe(client, &link, &probes).await?;
    let until = Instant::now() + FIRST_WAIT;
    if let Some(found) = first(shared, &mut probes, until).await? {
        return Ok(found);
    }
    for _ in 0..MORE_PROBES {
        probe(client, &link, &probes).await?;
    }
    let mut elsewhere = shared.inbox.open();
    probe(client, &subject::of_no_link().into(), &elsewhere).await?;
    let bytes_before = received_bytes(client);
    ask_for_a_pong(shared, client).await?;
    let until = Instant::now() + MORE_WAIT;
    if let Some(found) = first(shared, &mut probes, until).await? {
        return Ok(found);
    }
    // If an answer has come for the other subject, it is already in this mailbox.
    let is_hidden = first(shared, &mut elsewhere, until).await? != Some(Found::Nobody);
    // If nothing at all has come, our own connection is interrupted.
    let does_server_live = received_bytes(client) != bytes_before;
    Ok(match is_hidden && does_server_live {
        true => Found::OnlyOthers,
        false => Found::Silence,
    })
}

fn received_bytes(client: &Client) -> u64 {
    client.statistics().in_bytes.load(Ordering::Relaxed)
}

/// Makes the server answer once it has read everything that we have sent: draining a
/// subscription makes the client library send a ping. (It also sends one every 2 s.)
async fn ask_for_a_pong(shared: &Shared, client: &Client) -> Result<(), Arc<str>> {
    let nobodys = shared.inbox.open().subject;
    let asked = async {
        let mut subscription = client.subscribe(nobodys).await.ok()?;
        subscription.drain().await.ok()
    };
    match timeout(SEND_WAIT_MAX, asked).await {
        Ok(Some(())) => Ok(()),
        _ => Err("NATS took no message in time".into()),
    }
}

async fn probe(client: &Client, link: &Subject, mailbox: &Mailbox) -> Result<(), Arc<str>> {
    let (link, reply) = (link.clone(), Some(mailbox.subject.clone()));
    let (headers, payload) = (request::probe(), Bytes::new());
    publish(client, link, reply, headers, payload, SEND_WAIT_MAX).await
}

/// The meaning of the first answer that counts; `None` if none comes in time.
async fn first(
    shared: &Shared,
    mailbox: &mut Mailbox,
    until: Instant,
) -> Result<Option<Found>, Arc<str>> {
    loop {
        let message = match timeout_at(until, mailbox.messages.recv()).await {
            Ok(Some(message)) => message,
            Ok(None) => return Err("the connection to NATS was lost".into()),
            Err(_) => return Ok(None),
        };
        match kind(&message) {
            Kind::NoResponders => return Ok(Some(Found::Nobody)),
            Kind::Reply => return Ok(Some(Found::Runner)),
            _ => shared.strangers.passed_over(&message),
        }
    }
}
