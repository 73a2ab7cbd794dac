//! The last failures, for people who look on.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use serde::Serialize;

use super::headers;
use super::log::last_lines;
use crate::portal::ChainError;
use crate::trace::CallId;
use crate::transport::Limit;

/// How many failures are kept, and how many of these of one chain, so that one that always
/// fails does not hide the others. Each takes at most about 10 KiB.
const FAILURES_MAX: usize = 64;
const OF_CHAIN_MAX: usize = 8;

/// A call that failed, and no caller is to blame.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Failure {
    /// Seconds since 1970.
    at: f64,
    call_id: String,
    chain: String,
    link_index: usize,
    link_name: String,
    link_id: String,
    runner: Option<String>,
    reason: String,
    hint: Option<String>,
    limit: Option<&'static str>,
    pipestatus: String,
    /// The end of the failed link's standard error.
    stderr: String,
}

/// The last failures, oldest first.
#[derive(Debug, Default)]
pub(super) struct Recent(Mutex<VecDeque<Failure>>);

impl Recent {
    /// Keeps a failure, unless the caller is to blame.
    pub(super) fn add(&self, error: &ChainError, call_id: &CallId) {
        if error.reason.is_the_callers() {
            return;
        }
        let failure = Failure {
            at: seconds(SystemTime::now()),
            call_id: call_id.as_str().to_owned(),
            chain: error.chain.clone(),
            link_index: error.index,
            link_name: error.name.clone(),
            link_id: error.link_id.to_string(),
            runner: error.runner.as_deref().map(str::to_owned),
            reason: error.reason.to_string(),
            hint: error.hint.as_deref().map(str::to_owned),
            limit: error.limit.map(Limit::name),
            pipestatus: headers::pipestatus(&error.report),
            stderr: last_lines(&error.stderr).map_or_else(String::new, String::from),
        };
        let mut kept = self.0.lock();
        let of_chain = |kept: &Failure| kept.chain == failure.chain;
        let surplus = match kept.iter().filter(|kept| of_chain(kept)).count() {
            ..OF_CHAIN_MAX => (kept.len() >= FAILURES_MAX).then_some(0),
            OF_CHAIN_MAX.. => kept.iter().position(of_chain),
        };
        let dropped = surplus.and_then(|at| kept.remove(at));
        kept.push_back(failure);
        drop(kept);
        drop(dropped);
    }

    pub(super) fn all(&self) -> Vec<Failure> {
        self.0.lock().iter().cloned().collect()
    }
}

/// Seconds since 1970.
pub(super) fn seconds(time: SystemTime) -> f64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or(Duration::ZERO).as_secs_f64()
}
