//! How long the first signs of a call's runner are waited for, and what it means
//! that there are none.
//!
//! A call that nobody serves is over at once where the server says so. Where somebody
//! listens to a wildcard the server does not, so that is asked when a runner should
//! have shown itself: nobody is known to be there after a second and a half. A runner
//! that is there and silent is waited for longer, and counts as lost then.

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

/// How long a runner may take for its first sign of life. It takes a fifth of that
/// at most, so a silence means that the request or the runner was lost.
const FIRST_SIGN_WAIT_MAX: Duration = Duration::from_secs(2);

/// How long to wait for that before it is asked whether there is a runner at all:
/// longer than a runner takes.
const LOOK_AFTER: Duration = Duration::from_millis(500);

/// See the module.
pub(crate) struct Silence<'a> {
    shared: &'a Arc<Shared>,
    client: Arc<Client>,
    id: LinkId,
    /// When to look for runners, until that is done or one has shown itself.
    look_at: Option<Instant>,
    looking: Option<BoxFuture<'static, Result<Found, Arc<str>>>>,
    /// When a runner that is silent counts as lost.
    patience: Instant,
    /// When to stop waiting, whatever a runner does.
    give_up: Option<Instant>,
}

/// What was waited for.
pub(crate) enum Came {
    Message(Message),
    /// No runner serves the link.
    Nobody,
    /// The call is over, in this way.
    Ending(Ending),
}

impl<'a> Silence<'a> {
    /// A request that was sent just now.
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

    /// Waits for a message, or for the silence to mean something.
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
