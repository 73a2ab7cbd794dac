//! Bounds that both connections of a runner have.

use std::time::Duration;

/// How often the server must show that it is there: after the third silent one
/// the connection counts as lost.
pub(crate) const PING_EVERY: Duration = Duration::from_secs(2);

/// How long a server may take to let us in.
pub(crate) const CONNECT_WAIT_MAX: Duration = Duration::from_secs(5);

/// Messages that may wait for us in one subscription. The client drops what is
/// beyond, so that must never come: inboxes are emptied at once, and a link's
/// requests become tasks at once.
pub(crate) const SUBSCRIPTION_MESSAGES_MAX: usize = 64 * 1024;

/// Messages that may wait to be written; whoever has one more waits its turn.
/// Few, so that a sign of life does not wait behind hundreds of large frames.
pub(crate) const OUTGOING_MESSAGES_MAX: usize = 128;

/// The largest body that travels in one message, whatever the server allows: each message
/// is in memory as a whole, here and in the server. What is larger goes in frames.
pub(crate) const WHOLE_BYTES_MAX: usize = 1024 * 1024;
