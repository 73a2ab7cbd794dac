//! State of the connection to a server.

use std::sync::Arc;

/// The target of log lines that say why there is no connection. Commands that run once
/// filter it out, since their error says the same once.
pub(crate) const TROUBLE: &str = "consecution::connection::trouble";

/// State of the connection to a server, for readiness and for logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Connection {
    /// There is none now, for this reason; it is tried again and again.
    Waiting(Arc<str>),
    /// The server has answered, and nothing has gone wrong since.
    Connected,
}
