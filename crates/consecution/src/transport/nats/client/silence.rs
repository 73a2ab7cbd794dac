//! How long to wait for the first sign of a call's runner, and what it means if none comes.
//!
//! If no runner serves the link, the server usually says so at once. If a wildcard
//! subscriber prevents that, this module looks for runners (see `look`) once a runner
//! should have answered; after a second and a half it is known if there is none. A runner
//! that exists but is silent gets more time, and then counts as lost.

use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, Message};
use chain::LinkId;
use futures_util::future::{BoxFuture, FutureExt, OptionFuture};
use tokio::time::{Instant, sleep_until};

use super::look::{Found, look};
use crate::transport::Ending;
use crate::transport::nats::connection::Shared;
use crate::transport::nats::connection::inbox::Mailbox;

/// How long to wait for a runner's first sign of life. A runner takes at most a fifth of
/// this, so silence means that the request or the runner was lost.
const FIRST_SIGN_WAIT_MAX: Duration = Duration::from_secs(2);

/// How long to wait before looking whether there is a runner at all: longer than a runner
/// takes for its first sign.
const LOOK_AFTER: Duration = Duration::from_millis(500);

/// Waits for the first message of a call's runner; see the module.
pub(crate) struct Silence<'a> {
    shared: &'a Arc<Shared>,
    client: Arc<Client>,
    id: LinkId,
    /// When to look for runners; `None` after that, or once a runner has sent a sign.
    look_at: Option<Instant>,
    looking: Option<BoxFuture<'static, Result<Found, Arc<str>>>>,
    /// When a runner that is silent counts as lost.
    patience: Instant,
    /// When to stop waiting, whatever a runner does.
    give_up: Option<Instant>,
}

/// The result of waiting.
pub(crate) enum Came {
    Message(Message),
    /// No runner serves the link.
    Nobody,
    /// The call is over, with this ending.
    Ending(Ending),
}

impl<'a> Silence<'a> {
    /// Starts to wait for the answer to a request that was just sent.
    pub(crate) fn new(
        shared: &'a Arc<Shared>,
        client: &Arc<Client>,
        id: LinkId,
        give_up: Option<Instant>,
    ) -> Silence<'a> {
        let sent = Instant::now();
        Silence {
            shared,
            client: Arc::clone(client),
            id,
            look_at: Some(sent + LOOK_AFTER),
            looking: None,
            patience: sent + FIRST_SIGN_WAIT_MAX,
            give_up,
        }
    }

    /// Waits for a message, or until the silence is conclusive.
    pub(crate) async fn next(&mut self, mailbox: &mut Mailbox) -> Came {
        loop {
            let over = self.give_up.unwrap_or(self.patience).min(self.patience);
            let wake_at = self.look_at.unwrap_or(over).min(over);
            tokio::select! {
                biased;
                message = mailbox.messages.recv() => return match message {
                    Some(message) => Came::Message(message),
                    None => lost("the connection to NATS was lost before the runner answered"),
                },
                Some(found) = OptionFuture::from(self.looking.as_mut()) => {
                    self.looking = None;
                    if found == Ok(Found::OnlyOthers) {
                        return Came::Nobody;
                    }
                }
                () = sleep_until(wake_at) => {
                    let now = Instant::now();
                    if self.give_up.is_some_and(|give_up| now >= give_up) {
                        return Came::Ending(Ending::DeadlinePassed);
                    }
                    if now >= self.patience {
                        return lost("no runner has answered in time");
                    }
                    self.look();
                }
            }
        }
    }

    fn look(&mut self) {
        let (shared, client) = (Arc::clone(self.shared), Arc::clone(&self.client));
        let id = self.id;
        self.look_at = None;
        self.looking = Some(async move { look(&shared, &client, id).await }.boxed());
    }
}

fn lost(why: &str) -> Came {
    Came::Ending(Ending::Lost(why.into()))
}
