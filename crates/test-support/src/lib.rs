//! What the tests of more than one crate need: to wait for what nothing announces, to see
//! which processes run, free ports, tars, a registry.
//!
//! It panics where something is not as a test needs it, as tests do. What only one crate's
//! tests need stands beside those.

#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

pub mod busybox;
pub mod ports;
pub mod processes;
pub mod registry;
pub mod tars;
mod wait;

pub use wait::{PATIENCE, eventually, is_readable_within, until};

/// Says that a test cannot do what it is for on this machine. By hand that is a visible
/// skip, where `CI` is set it is a failure.
#[track_caller]
pub fn skip(reason: &str) {
    assert!(
        std::env::var_os("CI").is_none(),
        "cannot run here: {reason}"
    );
    eprintln!("SKIPPED: {reason}");
}

/// [Skips](skip) the test that it stands in, for a reason as `format!` takes it.
#[macro_export]
macro_rules! cannot_run_here {
    ($($reason:tt)*) => {{
        $crate::skip(&format!($($reason)*));
        return;
    }};
}
