//! The headers of requests and replies: written, and read without believing any.
//!
//! Values must not hold what the client library, or the server, could trip over:
//! whatever comes from a process or a user is escaped.

use std::fmt::Write;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{HeaderMap, HeaderName, Message};
use tokio::time::Instant;

use super::{following, outcome};
use crate::trace::{CallId, Trace, TraceParent};
use crate::transport::subject::{
    self, CALL_ID, CONFIRM, ENDING, ERROR, ERROR_CODE, PROBE, RUNNER, STDERR, STREAM, THEN,
    TIMEOUT_MS, TRACEPARENT,
};
use crate::transport::{Following, Outcome, RefusalReason};

/// What all headers of a message but the end of standard error take at most.
pub(super) const HEADERS_BYTES_MAX: usize = 6 * 1024;

/// How much of a name, and of a reason, is sent.
const NAME_BYTES_MAX: usize = 128;
pub(super) const REASON_BYTES_MAX: usize = 512;

/// How long the one line about a failure is.
const ERROR_BYTES_MAX: usize = 1024;

/// The longest deadline that is believed: beyond it there is none.
const TIMEOUT_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// What a request asks for.
#[derive(Debug)]
pub(super) struct RequestHead {
    pub(super) trace: Trace,
    pub(super) deadline: Option<Instant>,
    /// `None` from a caller who wants its reply in one message.
    pub(super) stream: Option<Offer>,
    pub(super) live_stderr: bool,
    pub(super) is_probe: bool,
    /// Nothing may be started before the caller has shown that it still waits.
    pub(super) must_confirm: bool,
    /// The links that may be taken together with the one that is called.
    pub(super) following: Arc<[Following]>,
}

/// A caller understands frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Offer {
    /// The request's body is all in this message.
    pub(super) is_whole: bool,
    /// How much the runner may send before it is given more.
    pub(super) credit: u64,
}

/// A message that is none of the protocol's, and why, as a lower-case fragment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Malformed(pub(super) String);

impl RequestHead {
    pub(super) fn write(&self, now: Instant) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(CALL_ID.clone(), self.trace.call_id.as_str());
        if let Some(parent) = &self.trace.parent {
            headers.insert(TRACEPARENT.clone(), parent.as_str());
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
        headers
    }

    /// # Errors
    /// A header is there and cannot be meant.
    pub(super) fn read(headers: Option<&HeaderMap>, now: Instant) -> Result<Self, Malformed> {
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
            let what = format!("`{name}` needs `Consecution-Stream`: nobody could be asked");
            return Err(Malformed(what));
        }
        Ok(RequestHead {
            trace: Trace {
                call_id: CallId::new(get(&CALL_ID).map(str::as_bytes)),
                parent: get(&TRACEPARENT).and_then(|text| TraceParent::new(text.as_bytes())),
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
        })
    }
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
pub(super) fn probe() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(PROBE.clone(), "1");
    headers
}

/// What a reply in one message says.
#[derive(Debug)]
pub(super) struct ReplyHead {
    pub(super) runner: Option<Arc<str>>,
    pub(super) end: End,
}

/// How a call ended, or that it never began.
#[derive(Debug)]
pub(super) enum End {
    Ran(Outcome),
    Refused(RefusalReason),
}

/// Why a runner answers without having run anything to its end.
#[derive(Debug, Clone)]
pub(super) enum Fault {
    Busy,
    CannotStart(Arc<str>),
    Malformed(Malformed),
    /// The output does not fit into the one message that the caller can take.
    TooLarge,
    /// The output was cut off, for that reason.
    OutputCut(Arc<str>),
}

impl ReplyHead {
    /// # Errors
    /// It is no reply to a call.
    pub(super) fn read(headers: &HeaderMap) -> Result<ReplyHead, Malformed> {
        let ending = value(headers, &ENDING)
            .ok_or_else(|| Malformed("a reply without `Consecution-Ending`".to_owned()))?;
        let (word, detail) = ending.split_once(' ').unwrap_or((ending, ""));
        let end = match word {
            "busy" => End::Refused(RefusalReason::Busy),
            "cannot-start" => End::Refused(RefusalReason::CannotStart(text_of(detail))),
            // Nothing has been run, and asking again will not help.
            "malformed" | "too-large" => {
                let error = value(headers, &ERROR).unwrap_or(word);
                End::Refused(RefusalReason::CannotStart(error.into()))
            }
            _ => End::Ran(outcome::read(headers)?),
        };
        Ok(ReplyHead {
            runner: runner(headers),
            end,
        })
    }
}

/// The runner that a message names.
pub(super) fn runner(headers: &HeaderMap) -> Option<Arc<str>> {
    value(headers, &RUNNER).map(text_of)
}

/// The headers of an answer that is no outcome.
pub(super) fn fault(fault: &Fault, runner: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let (ending, code, what) = match fault {
        Fault::Busy => (
            "busy".to_owned(),
            503,
            "it is busy; ask again soon".to_owned(),
        ),
        Fault::CannotStart(reason) => (
            format!("cannot-start {}", short(reason)),
            502,
            reason.to_string(),
        ),
        Fault::Malformed(malformed) => (
            "malformed".to_owned(),
            400,
            format!("malformed request: {malformed}"),
        ),
        Fault::TooLarge => (
            "too-large".to_owned(),
            413,
            "the output does not fit into one message; ask for a stream".to_owned(),
        ),
        Fault::OutputCut(reason) => {
            let reason = format!("its output was cut off: {reason}");
            (format!("lost {}", short(&reason)), 502, reason)
        }
    };
    headers.insert(ENDING.clone(), ending);
    write_error(&mut headers, code, &format!("{what}, on runner {runner}"));
    headers
}

/// The code of [`gone`], and what we say with it.
pub(super) const GONE_CODE: &str = "404";
pub(super) const GONE: &str = "no call has this inbox, or not any more";

/// The headers of an answer to a message for an inbox that nobody has.
pub(super) fn gone() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(ERROR_CODE.clone(), GONE_CODE);
    headers.insert(ERROR.clone(), GONE);
    headers
}

pub(super) fn write_error(headers: &mut HeaderMap, code: u16, error: &str) {
    headers.insert(ERROR_CODE.clone(), code.to_string());
    headers.insert(ERROR.clone(), line(error, ERROR_BYTES_MAX));
}

/// A text in one line and not long, for people.
pub(super) fn line(text: &str, bytes_max: usize) -> String {
    let end = text.floor_char_boundary(bytes_max);
    let visible = |character: char| {
        if character.is_control() {
            ' '
        } else {
            character
        }
    };
    text[..end].chars().map(visible).collect()
}

/// The value of a header, the first if there are several.
pub(super) fn value<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name.clone()).map(|value| value.as_str())
}

/// A number in decimal digits and nothing else.
pub(super) fn number(text: &str) -> Option<u64> {
    let is_plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_plain.then(|| text.parse().ok()).flatten()
}

pub(super) fn bad(name: &HeaderName, text: &str, reason: &str) -> Malformed {
    let name: &str = name.as_ref();
    Malformed(format!("`{name}: {}`: {reason}", short(text)))
}

/// A name as it may stand in a header.
pub(super) fn name(name: &str) -> String {
    escape_start(name.as_bytes(), NAME_BYTES_MAX)
}

fn short(reason: &str) -> String {
    shortened(reason, REASON_BYTES_MAX)
}

/// The start of a text as it may stand in a header, no more than so many bytes.
pub(super) fn shortened(text: &str, bytes_max: usize) -> String {
    escape_start(text.as_bytes(), bytes_max)
}

pub(super) fn text_of(escaped: &str) -> Arc<str> {
    String::from_utf8_lossy(&unescape(escaped)).into()
}

/// The message says that nobody listens to its subject.
pub(super) fn says_no_responders(message: &Message) -> bool {
    message.status == Some(async_nats::StatusCode::NO_RESPONDERS)
}

/// Visible ASCII stays as it is, anything else becomes `%` and two digits; so
/// does a space where it would be taken for padding.
fn escape(bytes: impl IntoIterator<Item = u8>) -> impl Iterator<Item = Escaped> {
    bytes.into_iter().map(|byte| match byte {
        b' '..=b'~' if byte != b'%' => Escaped::Plain(byte),
        _ => Escaped::Digits(byte),
    })
}

#[derive(Clone, Copy)]
enum Escaped {
    Plain(u8),
    Digits(u8),
}

impl Escaped {
    fn length(self) -> usize {
        match self {
            Escaped::Plain(_) => 1,
            Escaped::Digits(_) => 3,
        }
    }
}

/// The start of it, as much as fits into so many bytes when it is escaped.
fn escape_start(bytes: &[u8], room: usize) -> String {
    let mut left = room;
    let fits = escape(bytes.iter().copied()).take_while(|escaped| {
        let fits = escaped.length() <= left;
        left = left.saturating_sub(escaped.length());
        fits
    });
    let count = fits.count();
    written(&bytes[..count])
}

/// The end of it, as much as fits into so many bytes when it is escaped.
pub(super) fn escape_end(bytes: &[u8], room: usize) -> String {
    let mut left = room;
    let fits = escape(bytes.iter().rev().copied()).take_while(|escaped| {
        let fits = escaped.length() <= left;
        left = left.saturating_sub(escaped.length());
        fits
    });
    let count = fits.count();
    written(&bytes[bytes.len() - count..])
}

fn written(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    let last = bytes.len().saturating_sub(1);
    for (index, escaped) in escape(bytes.iter().copied()).enumerate() {
        match escaped {
            Escaped::Plain(b' ') if index == 0 || index == last => text.push_str("%20"),
            Escaped::Plain(byte) => text.push(char::from(byte)),
            // Writing to a string does not fail.
            Escaped::Digits(byte) => drop(write!(text, "%{byte:02X}")),
        }
    }
    text
}

/// The bytes that were escaped; what is not escaped properly stays as it is.
pub(super) fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let digits = (byte == b'%').then(|| after.split_at_checked(2)).flatten();
        let code = digits.and_then(|(digits, after)| {
            let digits = str::from_utf8(digits).ok()?;
            // Not what `from_str_radix` would also take.
            let is_hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
            let code = u8::from_str_radix(digits, 16).ok().filter(|_| is_hex)?;
            Some((code, after))
        });
        let (byte, after) = code.unwrap_or((byte, after));
        bytes.push(byte);
        rest = after;
    }
    bytes
}

/// The headers that every reply has.
pub(super) fn about(call_id: &CallId, runner: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(CALL_ID.clone(), call_id.as_str());
    headers.insert(RUNNER.clone(), runner);
    headers
}
