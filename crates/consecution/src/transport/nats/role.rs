//! Which end of calls a connection is for.

use super::wire::subject;

/// Which end of calls a connection is for. It decides what its private inboxes
/// start with, so that NATS permissions can tell them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Makes calls.
    Portal,
    /// Answers calls.
    Runner,
}

impl Role {
    /// What the private inboxes of its connection start with.
    pub(crate) fn inbox(self) -> &'static str {
        match self {
            Role::Portal => subject::PORTAL_INBOX,
            Role::Runner => subject::RUNNER_INBOX,
        }
    }
}
