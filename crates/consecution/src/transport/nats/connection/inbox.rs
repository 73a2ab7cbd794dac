//! Private inboxes: one subscription for all calls of a connection, taken apart
//! by the last token of the subject.
//!
//! Handing a message out must never wait: a slow reader of one call must not
//! hold up another.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use async_nats::{Message, Subject};
use parking_lot::Mutex;
use tokio::sync::mpsc::{self, error::TrySendError};

/// How many messages may wait for one call. Credit lets no more frames than
/// this come, so one that goes beyond it is not keeping to the protocol.
const MESSAGES_MAX: usize = 2048;

/// The inboxes of one connection.
pub(crate) struct Inbox {
    /// Up to and with the last dot. Nobody can guess it.
    prefix: String,
    open: Arc<Mutex<Open>>,
}

#[derive(Default)]
struct Open {
    by_token: HashMap<u64, mpsc::Sender<Message>>,
    opened: u64,
    /// Secret, so that nobody can tell one token from another: who calls a link learns
    /// the prefix and his own token, and could have us write to others.
    secret: RandomState,
}

/// What became of a message.
pub(crate) enum Delivery {
    /// It waits for its call.
    Taken,
    /// No call has that inbox, or not any more.
    Unknown(Message),
    /// Too many wait already: its call is given no more, so that it fails.
    Overflow,
}

impl Inbox {
    pub(crate) fn new(prefix: &str) -> Inbox {
        Inbox {
            prefix: format!("{prefix}.{}.", nuid::next()),
            open: Arc::default(),
        }
    }

    /// The subject that all of them are in.
    pub(crate) fn wildcard(&self) -> Subject {
        format!("{}*", self.prefix).into()
    }

    /// A new inbox, until it is dropped.
    pub(crate) fn open(&self) -> Mailbox {
        let (sender, messages) = mpsc::channel(MESSAGES_MAX);
        let mut open = self.open.lock();
        let token = loop {
            open.opened += 1;
            let token = open.secret.hash_one(open.opened);
            if !open.by_token.contains_key(&token) {
                break token;
            }
        };
        open.by_token.insert(token, sender);
        drop(open);
        Mailbox {
            subject: format!("{}{token:x}", self.prefix).into(),
            messages,
            _close: Close {
                token,
                open: Arc::clone(&self.open),
            },
        }
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.open.lock().by_token.len()
    }

    pub(crate) fn deliver(&self, message: Message) -> Delivery {
        let token = message.subject.strip_prefix(&self.prefix);
        let token = token.and_then(|token| u64::from_str_radix(token, 16).ok());
        let mut open = self.open.lock();
        let found = token.and_then(|token| Some((token, open.by_token.get(&token)?)));
        let Some((token, sender)) = found else {
            return Delivery::Unknown(message);
        };
        match sender.try_send(message) {
            Ok(()) => Delivery::Taken,
            Err(TrySendError::Closed(message)) => Delivery::Unknown(message),
            Err(TrySendError::Full(_)) => {
                open.by_token.remove(&token);
                Delivery::Overflow
            }
        }
    }

    /// Gives all that are open nothing more.
    pub(crate) fn clear(&self) {
        self.open.lock().by_token.clear();
    }
}

/// One inbox.
pub(crate) struct Mailbox {
    /// Where to write to.
    pub(crate) subject: Subject,
    /// What comes; `None` when nothing will come any more, since the connection
    /// was lost or too much came.
    pub(crate) messages: mpsc::Receiver<Message>,
    _close: Close,
}

/// Takes an inbox away when it is dropped.
struct Close {
    token: u64,
    open: Arc<Mutex<Open>>,
}

impl Drop for Close {
    fn drop(&mut self) {
        self.open.lock().by_token.remove(&self.token);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_inbox_tells_nothing_of_another() {
        let inbox = Inbox::new("_INBOX.test");
        let token = |mailbox: &Mailbox| {
            let token = mailbox.subject.strip_prefix(&inbox.prefix).unwrap();
            u64::from_str_radix(token, 16).unwrap()
        };
        let boxes: Vec<_> = (0..100).map(|_| inbox.open()).collect();
        let mut tokens: Vec<_> = boxes.iter().map(token).collect();
        tokens.sort_unstable();
        // Of 64 bits: two of a hundred are as near to each other once in a million years.
        assert!(tokens.windows(2).all(|pair| pair[1] - pair[0] > 1 << 16));
    }

    fn message(subject: &str) -> Message {
        Message {
            subject: subject.into(),
            reply: None,
            payload: "x".into(),
            headers: None,
            status: None,
            description: None,
            length: 0,
        }
    }

    #[test]
    fn messages_find_their_call_and_no_other() {
        let inbox = Inbox::new("_INBOX.test");
        let (mut one, mut two) = (inbox.open(), inbox.open());
        assert!(matches!(
            inbox.deliver(message(&two.subject)),
            Delivery::Taken
        ));
        assert!(one.messages.try_recv().is_err());
        assert!(two.messages.try_recv().is_ok());
        let gone = two.subject.clone();
        drop(two);
        for nobody in [gone.as_str(), "_INBOX.test.x.1", "", "_INBOX.test.é"] {
            assert!(matches!(
                inbox.deliver(message(nobody)),
                Delivery::Unknown(_)
            ));
        }
    }

    #[test]
    fn a_call_that_is_sent_too_much_ends_and_no_other() {
        let inbox = Inbox::new("_INBOX.test");
        let (mut one, two) = (inbox.open(), inbox.open());
        let flood = (0..=MESSAGES_MAX).map(|_| inbox.deliver(message(&one.subject)));
        let overflows = flood.filter(|delivery| matches!(delivery, Delivery::Overflow));
        assert_eq!(overflows.count(), 1);
        for _ in 0..MESSAGES_MAX {
            assert!(one.messages.try_recv().is_ok());
        }
        assert!(one.messages.is_closed());
        assert!(matches!(
            inbox.deliver(message(&two.subject)),
            Delivery::Taken
        ));
    }
}
