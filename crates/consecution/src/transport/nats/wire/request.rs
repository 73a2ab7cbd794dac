//! The headers of requests. Reading validates each of them.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{HeaderMap, HeaderName};
use tokio::time::Instant;

use super::following;
use super::header::{Malformed, SET_BYTES_MAX, bad, number, value};
use super::subject::{
    self, CALL_ID, CONFIRM, PROBE, SET, STDERR, STREAM, THEN, TIMEOUT_MS, TRACEPARENT, TRACESTATE,
};
use crate::parameters;
use crate::trace::{CallId, Trace, TraceParent, TraceState};
use crate::transport::Following;

/// The longest time to a deadline; a request with a longer one counts as one without.
const TIMEOUT_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// The headers of a request.
#[derive(Debug)]
pub(crate) struct RequestHead {
    pub(crate) trace: Trace,
    pub(crate) deadline: Option<Instant>,
    /// `None` if the caller wants the reply in one message.
    pub(crate) stream: Option<Offer>,
    pub(crate) live_stderr: bool,
    pub(crate) is_probe: bool,
    /// The runner must start nothing before the caller has shown that it still waits.
    pub(crate) must_confirm: bool,
    /// The links that the runner may run together with the called one.
    pub(crate) following: Arc<[Following]>,
    /// The values of the parameters of all these links.
    pub(crate) parameters: Arc<BTreeMap<String, String>>,
}

/// A caller's offer to continue the call in frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Offer {
    /// This message has the whole body of the request.
    pub(crate) is_whole: bool,
    /// How many bytes the runner may send before it gets more credit.
    pub(crate) credit: u64,
}

impl RequestHead {
    pub(crate) fn write(&self, now: Instant) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(CALL_ID.clone(), self.trace.call_id.as_str());
        if let Some(parent) = &self.trace.parent {
            headers.insert(TRACEPARENT.clone(), parent.as_str());
        }
        if let Some(state) = &self.trace.state {
            headers.insert(TRACESTATE.clone(), state.as_str());
        }
        if let Some(deadline) = self.deadline {
            let left = deadline.saturating_duration_since(now).min(TIMEOUT_MAX);
            headers.insert(TIMEOUT_MS.clone(), left.as_millis().to_string());
        }
        if let Some(Offer { is_whole, credit }) = self.stream {
            let version = subject::STREAM_VERSION;
            let body = match is_whole {
                true => subject::STREAM_WHOLE,
                false => subject::STREAM_OPEN,
            };
            headers.insert(STREAM.clone(), format!("{version} {body} {credit}"));
        }
        if self.live_stderr {
            headers.insert(STDERR.clone(), subject::STDERR_LIVE);
        }
        if self.must_confirm {
            headers.insert(CONFIRM.clone(), "1");
        }
        following::write(&mut headers, &self.following);
        if !self.parameters.is_empty() {
            headers.insert(SET.clone(), parameters::write(&self.parameters));
        }
        headers
    }

    /// Reads a request's headers. `now` is when it came.
    ///
    /// # Errors
    /// A header is malformed, or does not fit another one.
    pub(crate) fn read(headers: Option<&HeaderMap>, now: Instant) -> Result<Self, Malformed> {
        let get = |name: &'static HeaderName| value(headers?, name);
        let timeout = get(&TIMEOUT_MS).map(|text| {
            let timeout = number(text).map(Duration::from_millis);
            timeout.ok_or_else(|| bad(&TIMEOUT_MS, text, "it must be a number of milliseconds"))
        });
        let timeout = timeout
            .transpose()?
            .filter(|timeout| *timeout <= TIMEOUT_MAX);
        let live_stderr = match get(&STDERR) {
            None => false,
            Some(subject::STDERR_LIVE) => true,
            Some(text) => return Err(bad(&STDERR, text, "the only value is `live`")),
        };
        let stream = get(&STREAM).map(str::parse).transpose()?;
        let must_confirm = get(&CONFIRM).is_some();
        if must_confirm && stream.is_none() {
            let name: &str = CONFIRM.as_ref();
            let what = format!(
                "`{name}` needs `Consecution-Stream`: without it, the runner cannot ask the caller"
            );
            return Err(Malformed(what));
        }
        let parent = get(&TRACEPARENT).and_then(|text| TraceParent::new(text.as_bytes()));
        let state = || get(&TRACESTATE).and_then(|text| TraceState::new(text.as_bytes()));
        Ok(RequestHead {
            trace: Trace {
                call_id: CallId::new(get(&CALL_ID).map(str::as_bytes)),
                state: parent.as_ref().and_then(|_| state()),
                parent,
            },
            deadline: timeout.map(|timeout| now + timeout),
            stream,
            live_stderr,
            is_probe: get(&PROBE).is_some(),
            must_confirm,
            following: match get(&THEN) {
                Some(text) => following::read(text)?,
                None => Arc::default(),
            },
            parameters: match get(&SET) {
                Some(text) => read_parameters(text)?,
                None => Arc::default(),
            },
        })
    }
}

fn read_parameters(text: &str) -> Result<Arc<BTreeMap<String, String>>, Malformed> {
    if text.len() > SET_BYTES_MAX {
        let what = format!("it has more than {SET_BYTES_MAX} bytes");
        return Err(bad(&SET, text, &what));
    }
    let read = parameters::read(text);
    let read = read.map_err(|error| bad(&SET, text, &format!("failed to {error}")))?;
    Ok(read.into())
}

impl FromStr for Offer {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Offer, Malformed> {
        let mut words = text.split(' ');
        let (version, body, credit) = (words.next(), words.next(), words.next());
        if version != Some(subject::STREAM_VERSION) {
            return Err(bad(&STREAM, text, "the version spoken here is 1"));
        }
        let is_whole = match body {
            Some(subject::STREAM_WHOLE) => Some(true),
            Some(subject::STREAM_OPEN) => Some(false),
            _ => None,
        };
        match (is_whole, credit.and_then(number), words.next()) {
            (Some(is_whole), Some(credit), None) => Ok(Offer { is_whole, credit }),
            _ => Err(bad(
                &STREAM,
                text,
                "it must be `1`, `whole` or `open`, and how many bytes of credit the runner has",
            )),
        }
    }
}

/// The headers of a probe.
pub(crate) fn probe() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(PROBE.clone(), "1");
    headers
}
