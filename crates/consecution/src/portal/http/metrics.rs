//! Metrics of calls, for Prometheus.
//!
//! All metrics of a chain are looked up when it is loaded; a call only adds to them.
//! `docs/http.md` lists the names.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::http::StatusCode;
use chain::Chain;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Metric, Registry, Unit};
use tokio::time::Instant;

use super::latency::{Latency, Times};
use super::recent::Recent;
use crate::portal::{ChainError, FailureReason, Report};
use crate::spans::Span;
use crate::trace::CallId;

type Labels = Vec<(&'static str, String)>;

/// Why a call failed, as a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Exited,
    Signalled,
    CannotStart,
    NoRunner,
    Busy,
    Unreachable,
    Deadline,
    Lost,
    NoOutput,
    InputCut,
    Parameter,
    TooLarge,
    ClientGone,
    Stalled,
}

impl Kind {
    const ALL: [(Kind, &str); 14] = [
        (Kind::Exited, "exited"),
        (Kind::Signalled, "signalled"),
        (Kind::CannotStart, "cannot_start"),
        (Kind::NoRunner, "no_runner"),
        (Kind::Busy, "busy"),
        (Kind::Unreachable, "unreachable"),
        (Kind::Deadline, "deadline"),
        (Kind::Lost, "lost"),
        (Kind::NoOutput, "no_output"),
        (Kind::InputCut, "input_cut"),
        (Kind::Parameter, "parameter"),
        (Kind::TooLarge, "too_large"),
        (Kind::ClientGone, "client_gone"),
        (Kind::Stalled, "stalled"),
    ];

    fn of(error: &ChainError) -> Kind {
        match error.reason {
            FailureReason::Exited(_) => Kind::Exited,
            FailureReason::Signalled(_) => Kind::Signalled,
            FailureReason::CannotStart(_) => Kind::CannotStart,
            FailureReason::NoOutput(_) | FailureReason::OddOutput(_) => Kind::NoOutput,
            FailureReason::NoRunner => Kind::NoRunner,
            FailureReason::Busy => Kind::Busy,
            FailureReason::Unreachable(_) => Kind::Unreachable,
            FailureReason::DeadlinePassed => Kind::Deadline,
            FailureReason::Lost(_) => Kind::Lost,
            FailureReason::InputCut(_) => Kind::InputCut,
            FailureReason::Parameter(_) => Kind::Parameter,
        }
    }
}

/// All metrics of a portal.
pub(super) struct Metrics {
    calls: Family<Labels, Counter>,
    failures: Family<Labels, Counter>,
    in_flight: Family<Labels, Gauge>,
    durations: Family<Labels, Latency>,
    link_durations: Family<Labels, Latency>,
    recent: Arc<Recent>,
}

/// The metrics of one chain.
pub(super) struct ChainMetrics {
    calls: Counter,
    failures: [Counter; Kind::ALL.len()],
    in_flight: Gauge,
    duration: Latency,
    links: Vec<LinkMetrics>,
    recent: Arc<Recent>,
}

/// The metrics of one link of a chain.
pub(super) struct LinkMetrics {
    duration: Latency,
    /// How often a runner ran it joined to the link before.
    joined: AtomicU64,
    /// The processor time that it has used, in microseconds.
    cpu: AtomicU64,
}

impl LinkMetrics {
    pub(super) fn times(&self) -> Times {
        self.duration.times()
    }

    pub(super) fn joined(&self) -> u64 {
        self.joined.load(Ordering::Relaxed)
    }

    /// The processor time that it has used, as far as it was counted.
    pub(super) fn cpu(&self) -> Duration {
        Duration::from_micros(self.cpu.load(Ordering::Relaxed))
    }
}

impl Metrics {
    /// Those in `registry`; failures are also kept in `recent`.
    pub(super) fn new(registry: &mut Registry, recent: Arc<Recent>) -> Metrics {
        let calls = register(registry, "calls", "Calls of chains");
        let failures = register(registry, "call_failures", "Calls that failed, by kind");
        let in_flight = register(registry, "calls_in_flight", "Calls under way");
        let durations = Family::new_with_constructor(Latency::of_calls as fn() -> Latency);
        let help = "From a call's head to the end of its reply";
        registry.register_with_unit("call_duration", help, Unit::Seconds, durations.clone());
        let link_durations = Family::<Labels, Latency>::default();
        let help = "How long the process of a link had its request";
        registry.register_with_unit("link_duration", help, Unit::Seconds, link_durations.clone());
        Metrics {
            calls,
            failures,
            in_flight,
            durations,
            link_durations,
            recent,
        }
    }

    pub(super) fn of_chain(&self, chain: &Chain) -> Arc<ChainMetrics> {
        let label = || vec![("chain", chain.name.clone())];
        let with = |name, value: String| [label(), vec![(name, value)]].concat();
        let links = chain.links.iter().enumerate().map(|(index, link)| {
            let labels = with("index", index.to_string());
            let labels = [labels, vec![("link", link.name.clone())]].concat();
            LinkMetrics {
                duration: self.link_durations.get_or_create_owned(&labels),
                joined: AtomicU64::new(0),
                cpu: AtomicU64::new(0),
            }
        });
        let failure = |(_, kind): (Kind, &str)| {
            self.failures
                .get_or_create_owned(&with("kind", kind.to_owned()))
        };
        Arc::new(ChainMetrics {
            calls: self.calls.get_or_create_owned(&label()),
            failures: Kind::ALL.map(failure),
            in_flight: self.in_flight.get_or_create_owned(&label()),
            duration: self.durations.get_or_create_owned(&label()),
            links: links.collect(),
            recent: Arc::clone(&self.recent),
        })
    }
}

impl ChainMetrics {
    pub(super) fn calls(&self) -> u64 {
        self.calls.get()
    }

    pub(super) fn in_flight(&self) -> i64 {
        self.in_flight.get()
    }

    /// How many calls failed, by kind, without kinds that never happened.
    pub(super) fn failures(&self) -> BTreeMap<&'static str, u64> {
        let kinds = Kind::ALL.iter().zip(&self.failures);
        let counts = kinds.map(|((_, name), count)| (*name, count.get()));
        counts.filter(|(_, count)| *count > 0).collect()
    }

    /// How long calls took.
    pub(super) fn times(&self) -> Times {
        self.duration.times()
    }

    pub(super) fn links(&self) -> &[LinkMetrics] {
        &self.links
    }
}

fn register<M: Metric + Clone + Default>(registry: &mut Registry, name: &str, help: &str) -> M {
    let metric = M::default();
    registry.register(name, help, metric.clone());
    metric
}

/// A call in flight. If this is dropped before the call has ended, the client has given the
/// call up.
pub(super) struct Tracked {
    chain: Arc<ChainMetrics>,
    span: Span,
    began: Instant,
    is_over: bool,
}

impl Tracked {
    /// A call has begun, and its span.
    pub(super) fn begin(chain: &Arc<ChainMetrics>, span: Span) -> Tracked {
        chain.calls.inc();
        chain.in_flight.inc();
        Tracked {
            chain: Arc::clone(chain),
            span,
            began: Instant::now(),
            is_over: false,
        }
    }

    /// The reply has this status.
    pub(super) fn replied(&self, status: StatusCode) {
        let status = u64::from(status.as_u16());
        self.span
            .note(|notes| notes.set("http.response.status_code", status));
    }

    /// The run of this call has ended.
    pub(super) fn end(&mut self, result: &Result<Report, ChainError>, call_id: &CallId) {
        let report = match result {
            Ok(report) => report,
            Err(error) => {
                if !error.reason.is_the_callers() {
                    self.span.note(|notes| notes.fail(error));
                }
                self.fail(Kind::of(error));
                self.chain.recent.add(error, call_id);
                &error.report
            }
        };
        for (link, metrics) in report.links.iter().zip(&self.chain.links) {
            if link.ending.is_some() {
                metrics.duration.observe(link.elapsed);
                let joined = u64::from(link.is_joined);
                metrics.joined.fetch_add(joined, Ordering::Relaxed);
                let cpu = link.usage.cpu.map_or(0, |cpu| cpu.as_micros());
                let cpu = u64::try_from(cpu).unwrap_or(u64::MAX);
                metrics.cpu.fetch_add(cpu, Ordering::Relaxed);
            }
        }
        self.is_over = true;
    }

    /// The call was refused before a run, or aborted.
    pub(super) fn fail(&mut self, kind: Kind) {
        let found = Kind::ALL.iter().position(|(each, _)| *each == kind);
        if let Some(at) = found
            && !self.is_over
        {
            self.chain.failures[at].inc();
            self.span
                .note(|notes| notes.set("error.type", Kind::ALL[at].1));
        }
        self.is_over = true;
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        self.fail(Kind::ClientGone);
        self.chain.in_flight.dec();
        let trace_id = self.span.trace_id();
        self.chain
            .duration
            .observe_in(self.began.elapsed(), trace_id);
    }
}
