//! How it is with the connection to a server.

use std::sync::Arc;

/// The target of log lines that say what keeps a connection from being there, for
/// whoever says it otherwise.
pub const TROUBLE: &str = "consecution::connection::trouble";

/// How it is with the connection to a server, for readiness and for logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Connection {
    /// There is none now, for this reason; it is tried again and again.
    Waiting(Arc<str>),
    /// The server has answered, and nothing has gone wrong since.
    Connected,
}
