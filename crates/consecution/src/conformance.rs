//! What the conformance suites of this crate's traits have in common.
//!
//! A suite is part of the library, and not of its tests, so that unit tests and
//! integration tests of any backend can run it. No program calls it.

use std::any::Any;
use std::hash::{BuildHasher, RandomState};
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::time::Duration;

use futures_util::FutureExt;

/// How long one check may take before it counts as hanging.
const CHECK_SECONDS_MAX: u64 = 60;

/// Runs one check, and puts its name before whatever it panics with.
pub(crate) async fn check(name: &str, check: impl Future<Output = ()>) {
    let check = AssertUnwindSafe(check).catch_unwind();
    match tokio::time::timeout(Duration::from_secs(CHECK_SECONDS_MAX), check).await {
        Ok(Ok(())) => {}
        Ok(Err(panic)) => match message(panic.as_ref()) {
            Some(message) => panic!("{name}: {message}"),
            None => resume_unwind(panic),
        },
        Err(_) => panic!("{name}: not done after {CHECK_SECONDS_MAX} s"),
    }
}

fn message(panic: &(dyn Any + Send)) -> Option<&str> {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
}

/// A number that no other check, also in another process, has drawn.
pub(crate) fn unique() -> u64 {
    RandomState::new().hash_one(std::process::id())
}

/// Runs the named checks, one after the other, each with the same arguments.
macro_rules! run_checks {
    ($subject:expr; $($check:ident),* $(,)?) => {
        $( $crate::conformance::check(stringify!($check), $check($subject)).await; )*
    };
}
pub(crate) use run_checks;
