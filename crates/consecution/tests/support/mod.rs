//! What the tests of the command share: a store with a busybox image in it,
//! chain files, and running the real program with a bound on every wait.
#![expect(dead_code, reason = "each test file uses its own part")]

pub(crate) mod chain;
pub(crate) mod command;
pub(crate) mod etcd;
pub(crate) mod home;
pub(crate) mod http;
pub(crate) mod leftovers;
pub(crate) mod nats;
pub(crate) mod network;
pub(crate) mod portal;
pub(crate) mod registry;
pub(crate) mod runner;
pub(crate) mod running;

/// The tests cannot do what they are for on this machine. By hand that is a
/// visible skip, where CI is set it is a failure.
#[macro_export]
macro_rules! cannot_run_here {
    ($($reason:tt)*) => {{
        let reason = format!($($reason)*);
        assert!(std::env::var_os("CI").is_none(), "cannot run here: {reason}");
        eprintln!("SKIPPED: {reason}");
        return;
    }};
}
