//! The name of one call, for whoever follows it through logs.

use std::fmt;

use hyper::header::{HeaderName, HeaderValue};
use rustix::rand::{GetRandomFlags, getrandom};

/// The header that carries it, both ways.
pub(super) const CALL_ID: HeaderName = HeaderName::from_static("consecution-call-id");

/// A caller's own id may be this long; a longer one is replaced.
const CALL_ID_BYTES_MAX: usize = 128;

/// Bytes of chance in an id of ours; it is written with twice as many digits.
const RANDOM_BYTES: usize = 16;

/// A call's id: visible ASCII, and not long.
#[derive(Debug, Clone)]
pub(super) struct CallId(HeaderValue);

impl CallId {
    /// The caller's own id if it is sane, else a new one.
    pub(super) fn new(given: Option<&HeaderValue>) -> CallId {
        match given.filter(|given| is_sane(given.as_bytes())) {
            Some(given) => CallId(given.clone()),
            None => CallId::random(),
        }
    }

    fn random() -> CallId {
        let mut bytes = [0; RANDOM_BYTES];
        // So few bytes are never given in part, and only a kernel older than any
        // that we run on refuses; an id of zeros would do no harm.
        let _ = getrandom(&mut bytes, GetRandomFlags::empty());
        let digits = format!(
            "{:0width$x}",
            u128::from_ne_bytes(bytes),
            width = 2 * RANDOM_BYTES
        );
        CallId(HeaderValue::from_str(&digits).unwrap_or_else(|_| HeaderValue::from_static("-")))
    }

    pub(super) fn header(&self) -> HeaderValue {
        self.0.clone()
    }

    pub(super) fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or("-")
    }
}

impl fmt::Display for CallId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

fn is_sane(id: &[u8]) -> bool {
    (1..=CALL_ID_BYTES_MAX).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sane_id_is_kept() {
        for id in ["7", "a-b_c/d:e", &"x".repeat(CALL_ID_BYTES_MAX)] {
            let given = HeaderValue::from_str(id).unwrap();
            assert_eq!(CallId::new(Some(&given)).as_str(), id);
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
            let given = HeaderValue::from_bytes(id).unwrap();
            let new = CallId::new(Some(&given));
            assert_eq!(new.as_str().len(), 2 * RANDOM_BYTES);
            assert!(is_sane(new.as_str().as_bytes()));
            assert_ne!(new.as_str(), CallId::new(None).as_str());
        }
    }
}
