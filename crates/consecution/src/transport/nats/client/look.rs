//! Whether a runner serves a link, found out by asking for signs of life.
//!
//! The server says at once where nobody listens to a subject. But whoever listens
//! to a wildcard over it (an audit, a bridge, a leaf node) hides that, and then
//! silence is all that there is. Of one request it proves nothing: the queue group
//! may have given it to a runner that hangs. So several are sent, and one to a
//! subject that no runner ever listens to: where that is not answered by the server
//! either, though it lives, somebody hides that nobody is there.

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

/// How long the first probe is waited for before there are more. A runner answers
/// as soon as it has read it.
const FIRST_WAIT: Duration = Duration::from_millis(250);

/// How many more there are: each goes to a runner of chance, and one of two may
/// hang.
const MORE_PROBES: usize = 7;

/// How long these are waited for.
const MORE_WAIT: Duration = Duration::from_millis(750);

/// What is known of a link's runners.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// One has answered.
    Runner,
    /// The server says that nobody listens.
    Nobody,
    /// Others listen, and no runner answers.
    OnlyOthers,
    /// Somebody listens to the subject of this link, and does not answer: a runner
    /// that hangs, or whose network was cut. Or ours was.
    Silence,
}

impl Found {
    /// Why a call would not be taken.
    pub(crate) fn refusal(self, shared: &Shared) -> Result<(), RefusalReason> {
        match self {
            Found::Runner => Ok(()),
            Found::Nobody | Found::OnlyOthers => Err(nobody(shared)),
            Found::Silence => Err(RefusalReason::Unreachable("no runner answers".into())),
        }
    }
}

/// No runner listens to the link's subject.
pub(crate) fn nobody(shared: &Shared) -> RefusalReason {
    match shared.health.is_settling() {
        true => RefusalReason::Unreachable("runners may still be reconnecting to NATS".into()),
        false => RefusalReason::NoRunner,
    }
}

/// Looks for a runner of that link, for a second at most.
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
    // What has come there waits already.
    let is_hidden = first(shared, &mut elsewhere, until).await? != Some(Found::Nobody);
    // Nothing at all comes where it is our own connection that stands still.
    let does_server_live = received_bytes(client) != bytes_before;
    Ok(match is_hidden && does_server_live {
        true => Found::OnlyOthers,
        false => Found::Silence,
    })
}

fn received_bytes(client: &Client) -> u64 {
    client.statistics().in_bytes.load(Ordering::Relaxed)
}

/// Has the server say something once it has read all that we have sent. The client
/// library sends a ping by itself every 2 s, and with each subscription that is
/// drained.
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

/// What the first answer says that counts; `None` where there is none in time.
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
