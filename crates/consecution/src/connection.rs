//! State of the connection to a server.

use std::sync::Arc;
use std::time::Duration;

/// The target of log lines that say why there is no connection. Commands that run once
/// filter it out, since their error says the same once.
pub(crate) const TROUBLE: &str = "consecution::connection::trouble";

/// How long the same trouble with a server lasts before it is logged again, so that the log
/// shows the trouble but does not fill with it.
pub(crate) const LOG_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// State of the connection to a server, for readiness and for logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Connection {
    /// There is none now, for this reason; attempts go on.
    Waiting(Arc<str>),
    /// The server has answered, and nothing has gone wrong since.
    Connected,
}
