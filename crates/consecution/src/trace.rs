//! The ids that follow a call through all processes that take part in it.

use std::fmt;
use std::sync::Arc;

use crate::name::random_digits;

/// The longest id that a caller may give; a longer one is replaced.
const CALL_ID_BYTES_MAX: usize = 128;

/// How many random bytes an id of ours has; it is written with twice as many digits.
const RANDOM_BYTES: usize = 16;

/// The longest `traceparent` that is passed on; no existing version is longer.
const TRACEPARENT_BYTES_MAX: usize = 128;

/// The ids of a call. Clones are cheap.
#[derive(Debug, Clone, Default)]
pub struct Trace {
    /// The call's id.
    pub call_id: CallId,
    /// The caller's place in a distributed trace (W3C Trace Context), passed on unchanged.
    pub parent: Option<TraceParent>,
}

/// A call's id: visible ASCII, at most 128 bytes. The default is a new one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallId(Arc<str>);

/// The value of a `traceparent` header: visible ASCII, at most 128 bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceParent(Arc<str>);

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

    #[test]
    fn a_sane_id_is_kept() {
        for id in ["7", "a-b_c/d:e", &"x".repeat(CALL_ID_BYTES_MAX)] {
            assert_eq!(CallId::new(Some(id.as_bytes())).as_str(), id);
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
