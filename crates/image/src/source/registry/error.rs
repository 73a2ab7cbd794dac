//! What a registry can fail at.

use std::error::Error;
use std::time::Duration;

use crate::manifest::ContentError;
use crate::store::StoreError;

/// A registry did not give what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// It cannot be reached, or the connection broke and stayed broken.
    #[error(
        "reach registry {address}: {cause}; check the name, the network and that the registry runs"
    )]
    Unreachable {
        /// Host and port.
        address: String,
        /// What went wrong, innermost cause last.
        cause: String,
    },
    /// It sends, but hardly anything.
    #[error(
        "read what registry {address} sends: fewer than {bytes} bytes came within {within:?}; check the network, or try again when the registry has less to do"
    )]
    TooSlow {
        /// Host and port.
        address: String,
        /// How many would have been enough.
        bytes: usize,
        /// How long they were waited for.
        within: Duration,
    },
    /// It has no such image.
    #[error("find image {reference}: registry {address} has no such repository or tag{hint}")]
    NotFound {
        /// The image.
        reference: String,
        /// Host and port.
        address: String,
        /// What else may be the matter.
        hint: String,
    },
    /// 401 or 403.
    #[error("get {what} from registry {address}: {status}, {reason}; {advice}")]
    Denied {
        /// What was asked for.
        what: String,
        /// Host and port.
        address: String,
        /// 401 or 403.
        status: u16,
        /// What the registry says.
        reason: String,
        /// What to do.
        advice: String,
    },
    /// Any other status, after the retries.
    #[error("get {what} from registry {address}: it answers {status}, {reason}")]
    Status {
        /// What was asked for.
        what: String,
        /// Host and port.
        address: String,
        /// The HTTP status.
        status: u16,
        /// What the registry says.
        reason: String,
    },
    /// It wants to be left alone for a while, and is.
    #[error(
        "get {what} from registry {address}: it answers {status}, {reason}, and is not to be asked again for {} s; wait, or log in where that raises a limit", .after.as_secs() + 1
    )]
    NotYet {
        /// What was asked for.
        what: String,
        /// Host and port.
        address: String,
        /// The HTTP status.
        status: u16,
        /// What the registry says.
        reason: String,
        /// For how long.
        after: Duration,
    },
    /// It answers, but not as a registry does.
    #[error("get {what} from registry {address}: {problem}")]
    Protocol {
        /// What was asked for.
        what: String,
        /// Host and port.
        address: String,
        /// What is wrong with the answer.
        problem: String,
    },
    /// What it gave is wrong.
    #[error("{cause} (from registry {address})")]
    Content {
        /// Host and port.
        address: String,
        /// What is wrong.
        cause: ContentError,
    },
    /// A download cannot be written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The cause at the bottom, which is the one that tells.
pub(super) fn innermost(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    let text = cause.to_string();
    let mut letters = text.chars();
    match letters.next() {
        Some(first) => first.to_lowercase().chain(letters).collect(),
        None => "no reason given".to_owned(),
    }
}
