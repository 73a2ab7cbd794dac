//! What a registry can fail at.

use std::error::Error;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use super::credentials::CredentialsError;
use crate::causes::Cause;
use crate::manifest::ContentError;
use crate::store::StoreError;

/// A registry did not give what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// It cannot be reached, or the connection broke and stayed broken.
    #[error("reach registry {address} (check its name, the network, and that it runs)")]
    Unreachable {
        /// Host and port.
        address: String,
        /// What went wrong.
        #[source]
        cause: Cause,
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
    #[error(
        "find image {reference}: registry {address} has no such repository or tag{}",
        if .no_login.is_some() { "; or it is private, and nobody is logged in" } else { "" }
    )]
    NotFound {
        /// The image.
        reference: String,
        /// Host and port.
        address: String,
        /// Why no credentials could be had for it, where that was tried.
        #[source]
        no_login: Option<Arc<CredentialsError>>,
    },
    /// 401 or 403.
    #[error(
        "get {what} from registry {address}: {status}, {reason}; {}",
        advice(*.status, *.logged_in, .no_login.is_some())
    )]
    Denied {
        /// What was asked for.
        what: String,
        /// Host and port.
        address: String,
        /// 401 or 403.
        status: u16,
        /// What the registry says.
        reason: String,
        /// Whether it was shown credentials.
        logged_in: bool,
        /// Why no credentials could be had for it, where that was tried.
        #[source]
        no_login: Option<Arc<CredentialsError>>,
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
    #[error("get {what} from registry {address}")]
    Protocol {
        /// What was asked for.
        what: String,
        /// Host and port.
        address: String,
        /// What is wrong with the answer.
        #[source]
        problem: Cause,
    },
    /// What it gave is wrong.
    #[error("use what registry {address} gave")]
    Content {
        /// Host and port.
        address: String,
        /// What is wrong.
        #[source]
        cause: ContentError,
    },
    /// A download cannot be written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn advice(status: u16, logged_in: bool, no_login: bool) -> &'static str {
    match (logged_in, status) {
        _ if no_login => "the image does not exist there or is private, and nobody is logged in",
        (false, _) => {
            "the image does not exist there or is private; check its name, or log in with 'docker login'"
        }
        (true, 401) => {
            "it does not accept the credentials that are known for it; log in anew with 'docker login'"
        }
        (true, _) => {
            "the image does not exist there, or the user who is logged in may not read it; check its name and who that is"
        }
    }
}

/// What the HTTP client has failed at, told by the cause at the bottom: those above it
/// say little more than that there was a request.
#[derive(Debug)]
pub(super) struct ClientError(pub(super) reqwest::Error);

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_timeout() {
            return f.write_str("no answer in time");
        }
        let mut innermost: &dyn Error = &self.0;
        while let Some(cause) = innermost.source() {
            innermost = cause;
        }
        let text = innermost.to_string();
        let mut letters = text.chars();
        match letters.next() {
            Some(first) => write!(f, "{}{}", first.to_lowercase(), letters.as_str()),
            None => f.write_str("no reason given"),
        }
    }
}

/// Its text has that of its causes.
impl Error for ClientError {}

/// No client that can speak TLS.
#[derive(Debug, thiserror::Error)]
#[error("no TLS client can be made (are the ca-certificates installed?)")]
pub(super) struct NoClient(#[source] pub(super) ClientError);

/// Some text is no URL.
#[derive(Debug, thiserror::Error)]
#[error("{what} is no URL that can be used")]
pub(super) struct BadUrl {
    pub(super) what: String,
    #[source]
    pub(super) cause: <reqwest::Url as FromStr>::Err,
}
