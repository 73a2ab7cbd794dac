//! The ids that follow a call through all processes that take part in it: its own, and its
//! place in a distributed trace, as [W3C Trace Context] has it.
//!
//! [W3C Trace Context]: https://www.w3.org/TR/trace-context/

use std::fmt;
use std::sync::Arc;

use data_encoding::HEXLOWER;

use crate::name::random_digits;

/// The longest id that a caller may give; a longer one is replaced.
const CALL_ID_BYTES_MAX: usize = 128;

/// How many random bytes an id of ours has; it is written with twice as many digits.
const RANDOM_BYTES: usize = 16;

/// The longest `traceparent` that is passed on; no existing version is longer.
const TRACEPARENT_BYTES_MAX: usize = 128;

/// The longest `tracestate` that is passed on, which is what the standard asks for.
const TRACESTATE_BYTES_MAX: usize = 512;

/// The ids of a call. Clones are cheap.
#[derive(Debug, Clone, Default)]
pub struct Trace {
    /// The call's id.
    pub call_id: CallId,
    /// The span that what is done for the call belongs to: the caller's, passed on unchanged,
    /// or one of our own inside of it where [traces](crate::Traces) are on.
    pub parent: Option<TraceParent>,
    /// What tracing systems add to `parent`, passed on unchanged.
    pub state: Option<TraceState>,
}

/// A call's id: visible ASCII, at most 128 bytes. The default is a new one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallId(Arc<str>);

/// The value of a `traceparent` header: visible ASCII, at most 128 bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceParent(Arc<str>);

/// The value of a `tracestate` header: visible ASCII and spaces, at most 512 bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceState(Arc<str>);

/// What a valid `traceparent` says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct SpanContext {
    pub(crate) trace_id: [u8; TRACE_ID_BYTES],
    pub(crate) span_id: [u8; SPAN_ID_BYTES],
    pub(crate) flags: u8,
}

pub(crate) const TRACE_ID_BYTES: usize = 16;
pub(crate) const SPAN_ID_BYTES: usize = 8;

/// The flag of a span that is recorded, and the flag of a trace id that is random.
const SAMPLED: u8 = 1;
const RANDOM: u8 = 2;

/// The length of a `traceparent` of version 00, and where its parts are. Later versions may
/// only add parts behind these.
const TRACEPARENT_BYTES: usize = 55;
const TRACE_ID_DIGITS: std::ops::Range<usize> = 3..35;
const SPAN_ID_DIGITS: std::ops::Range<usize> = 36..52;
const FLAGS_DIGITS: std::ops::Range<usize> = 53..55;

impl Trace {
    /// The id of the distributed trace, as hexadecimal digits, if there is one.
    pub fn trace_id(&self) -> Option<&str> {
        self.parent.as_ref()?.part(TRACE_ID_DIGITS)
    }

    /// The id of the span that what is done for the call belongs to, likewise.
    pub fn span_id(&self) -> Option<&str> {
        self.parent.as_ref()?.part(SPAN_ID_DIGITS)
    }
}

impl CallId {
    /// The caller's id if it is valid, otherwise a new one.
    pub fn new(given: Option<&[u8]>) -> CallId {
        match given.and_then(|given| visible(given, CALL_ID_BYTES_MAX)) {
            Some(given) => CallId(given),
            None => CallId::default(),
        }
    }

    /// As text, which can stand in a header.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for CallId {
    fn default() -> CallId {
        CallId(random_digits::<RANDOM_BYTES>().into())
    }
}

impl fmt::Display for CallId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl TraceParent {
    /// The caller's value, if it is valid.
    pub fn new(given: &[u8]) -> Option<TraceParent> {
        visible(given, TRACEPARENT_BYTES_MAX).map(TraceParent)
    }

    /// As text, which can stand in a header.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn of(span: &SpanContext) -> TraceParent {
        let (trace_id, span_id) = (
            HEXLOWER.encode(&span.trace_id),
            HEXLOWER.encode(&span.span_id),
        );
        TraceParent(format!("00-{trace_id}-{span_id}-{:02x}", span.flags).into())
    }

    /// What it says, if it follows the standard.
    pub(crate) fn context(&self) -> Option<SpanContext> {
        let text = self.0.as_bytes();
        let rest = text.get(TRACEPARENT_BYTES..)?;
        let is_known = match text.get(..2)? {
            b"00" => rest.is_empty(),
            b"ff" => return None,
            _ => rest.first().is_none_or(|byte| *byte == b'-'),
        };
        let borders = [2, TRACE_ID_DIGITS.end, SPAN_ID_DIGITS.end];
        if !is_known || borders.iter().any(|at| text[*at] != b'-') {
            return None;
        }
        bytes::<1>(&text[..2])?;
        let context = SpanContext {
            trace_id: bytes(&text[TRACE_ID_DIGITS])?,
            span_id: bytes(&text[SPAN_ID_DIGITS])?,
            flags: bytes::<1>(&text[FLAGS_DIGITS])?[0] & (SAMPLED | RANDOM),
        };
        let is_valid = context.trace_id != [0; _] && context.span_id != [0; _];
        is_valid.then_some(context)
    }

    fn part(&self, digits: std::ops::Range<usize>) -> Option<&str> {
        self.context()?;
        self.0.get(digits)
    }
}

impl TraceState {
    /// The caller's value, if it is valid.
    pub fn new(given: &[u8]) -> Option<TraceState> {
        let is_valid = (1..=TRACESTATE_BYTES_MAX).contains(&given.len())
            && given.iter().all(|byte| (b' '..=b'~').contains(byte));
        is_valid.then(|| TraceState(String::from_utf8_lossy(given).into()))
    }

    /// As text, which can stand in a header.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl SpanContext {
    pub(crate) fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// The same trace, with another span.
    pub(crate) fn with(self, span_id: [u8; SPAN_ID_BYTES], is_sampled: bool) -> SpanContext {
        SpanContext {
            span_id,
            flags: self.flags & RANDOM | u8::from(is_sampled),
            ..self
        }
    }
}

/// The bytes that lower-case hexadecimal digits stand for.
pub(crate) fn bytes<const BYTES: usize>(digits: &[u8]) -> Option<[u8; BYTES]> {
    let mut bytes = [0; BYTES];
    if digits.len() != 2 * BYTES {
        return None;
    }
    HEXLOWER.decode_mut(digits, &mut bytes).ok()?;
    Some(bytes)
}

/// The given text, if it is visible ASCII and not too long.
fn visible(given: &[u8], bytes_max: usize) -> Option<Arc<str>> {
    let is_visible =
        (1..=bytes_max).contains(&given.len()) && given.iter().all(u8::is_ascii_graphic);
    is_visible.then(|| String::from_utf8_lossy(given).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_sane_id_is_kept() {
        for id in ["7", "a-b_c/d:e", &"x".repeat(CALL_ID_BYTES_MAX)] {
            assert_eq!(CallId::new(Some(id.as_bytes())).as_str(), id);
        }
    }

    #[test]
    fn a_traceparent_is_read_as_the_standard_has_it() {
        let (trace, span) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
        let read = |text: &str| TraceParent::new(text.as_bytes()).unwrap().context();
        let sampled = read(&format!("00-{trace}-{span}-01")).unwrap();
        assert!(sampled.is_sampled());
        let written = TraceParent::of(&sampled);
        assert_eq!(written.as_str(), format!("00-{trace}-{span}-01"));
        let ids = Trace {
            parent: Some(written),
            ..Trace::default()
        };
        assert_eq!((ids.trace_id(), ids.span_id()), (Some(trace), Some(span)));
        assert!(!read(&format!("00-{trace}-{span}-fe")).unwrap().is_sampled());
        assert!(read(&format!("01-{trace}-{span}-01-more")).is_some());
        for bad in [
            format!("00-{trace}-{span}-01-more"),
            format!("01-{trace}-{span}-01more"),
            format!("ff-{trace}-{span}-01"),
            format!("00-{}-{span}-01", trace.to_uppercase()),
            format!("00-{}-{span}-01", "0".repeat(32)),
            format!("00-{trace}-{}-01", "0".repeat(16)),
            format!("00-{trace}_{span}-01"),
            format!("xx-{trace}-{span}-01"),
            format!("00-{trace}-{span}"),
            "é".to_owned().repeat(20).replace('é', "x"),
        ] {
            assert_eq!(read(&bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_given_is_read_or_not_and_what_is_written_is_read(
            given in "[0-9a-f]{0,2}-?[0-9a-fA-F-]{0,60}",
            (trace_id, span_id, is_sampled) in any::<([u8; 16], [u8; 8], bool)>(),
        ) {
            let given = TraceParent::new(given.as_bytes());
            let _ = given.and_then(|given| given.context());
            let trace = SpanContext { trace_id, ..SpanContext::default() };
            let context = trace.with(span_id, is_sampled);
            let is_valid = trace_id != [0; 16] && span_id != [0; 8];
            prop_assert_eq!(TraceParent::of(&context).context(), is_valid.then_some(context));
        }
    }

    #[test]
    fn any_other_is_replaced_by_one_that_nobody_else_has() {
        let long = "x".repeat(CALL_ID_BYTES_MAX + 1);
        for id in [
            &b""[..],
            b"a b",
            b"a\tb",
            b"\xff",
            "é".as_bytes(),
            long.as_bytes(),
        ] {
            let new = CallId::new(Some(id));
            assert_eq!(new.as_str().len(), 2 * RANDOM_BYTES);
            assert_ne!(new, CallId::new(None));
        }
    }
}
