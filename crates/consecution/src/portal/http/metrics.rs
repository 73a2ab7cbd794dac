//! Metrics of calls, for Prometheus.
//!
//! All metrics of a chain are looked up when it is loaded; a call only adds to them.
//! `docs/http.md` lists the names.

use std::sync::Arc;

use chain::Chain;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Metric, Registry, Unit};
use tokio::time::Instant;

use crate::portal::{ChainError, FailureReason, Report};

type Labels = Vec<(&'static str, String)>;

/// Buckets from half a millisecond to half a minute, each twice the one before.
fn latency() -> Histogram {
    Histogram::new(exponential_buckets(0.0005, 2.0, 17))
}

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
    durations: Family<Labels, Histogram>,
    link_durations: Family<Labels, Histogram>,
}

/// The metrics of one chain.
pub(super) struct ChainMetrics {
    calls: Counter,
    failures: [Counter; Kind::ALL.len()],
    in_flight: Gauge,
    duration: Histogram,
    links: Vec<Histogram>,
}

impl Metrics {
    pub(super) fn new(registry: &mut Registry) -> Metrics {
        let calls = register(registry, "calls", "Calls of chains");
        let failures = register(registry, "call_failures", "Calls that failed, by kind");
        let in_flight = register(registry, "calls_in_flight", "Calls under way");
        let durations = Family::new_with_constructor(latency as fn() -> Histogram);
        let help = "From a call's head to the end of its reply";
        registry.register_with_unit("call_duration", help, Unit::Seconds, durations.clone());
        let link_durations = Family::new_with_constructor(latency as fn() -> Histogram);
        let help = "How long the process of a link had its request";
        registry.register_with_unit("link_duration", help, Unit::Seconds, link_durations.clone());
        Metrics {
            calls,
            failures,
            in_flight,
            durations,
            link_durations,
        }
    }

    pub(super) fn of_chain(&self, chain: &Chain) -> Arc<ChainMetrics> {
        let label = || vec![("chain", chain.name.clone())];
        let with = |name, value: String| [label(), vec![(name, value)]].concat();
        let links = chain.links.iter().enumerate().map(|(index, link)| {
            let labels = with("index", index.to_string());
            let labels = [labels, vec![("link", link.name.clone())]].concat();
            self.link_durations.get_or_create_owned(&labels)
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
        })
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
    began: Instant,
    is_over: bool,
}

impl Tracked {
    pub(super) fn begin(chain: &Arc<ChainMetrics>) -> Tracked {
        chain.calls.inc();
        chain.in_flight.inc();
        Tracked {
            chain: Arc::clone(chain),
            began: Instant::now(),
            is_over: false,
        }
    }

    /// The run has ended.
    pub(super) fn end(&mut self, result: &Result<Report, ChainError>) {
        let report = match result {
            Ok(report) => report,
            Err(error) => {
                self.fail(Kind::of(error));
                &error.report
            }
        };
        for (link, duration) in report.links.iter().zip(&self.chain.links) {
            if link.ending.is_some() {
                duration.observe(link.elapsed.as_secs_f64());
            }
        }
        self.is_over = true;
    }

    /// The call was refused before a run, or aborted.
    pub(super) fn fail(&mut self, kind: Kind) {
        if let Some(at) = Kind::ALL.iter().position(|(each, _)| *each == kind)
            && !self.is_over
        {
            self.chain.failures[at].inc();
        }
        self.is_over = true;
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        self.fail(Kind::ClientGone);
        self.chain.in_flight.dec();
        self.chain
            .duration
            .observe(self.began.elapsed().as_secs_f64());
    }
}
