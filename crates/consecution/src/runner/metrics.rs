//! Metrics of a runner, for Prometheus.
//!
//! The metrics of a link are made when the link is loaded, and removed with it; a call only
//! adds to them. `docs/http.md` lists the names.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use chain::LinkId;
use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use tokio::sync::watch;

use super::pool::Capacity;
use super::service::WarmPipeline;
use super::states::States;
use crate::transport::{Ending, Limit, Outcome, Usage};

/// How a call ended, as the label says it.
const ENDINGS: [&str; 8] = [
    "exited_0",
    "exited",
    "signalled",
    "unread",
    "cut",
    "deadline",
    "lost",
    "cannot_start",
];

fn ending(ending: &Ending) -> usize {
    match ending {
        Ending::Exited(0) => 0,
        Ending::Exited(_) => 1,
        Ending::Signalled(_) => 2,
        Ending::Unread => 3,
        Ending::Cut => 4,
        Ending::DeadlinePassed => 5,
        Ending::Lost(_) => 6,
        Ending::CannotStart(_) => 7,
    }
}

/// Buckets from half a millisecond to half a minute, each three times the one before: few,
/// because a runner may have many links.
fn latency() -> Histogram {
    Histogram::new(exponential_buckets(0.0005, 3.0, 11))
}

/// Buckets from a tenth of a second to seven minutes.
fn pull_time() -> Histogram {
    Histogram::new(exponential_buckets(0.1, 2.0, 13))
}

/// The metrics of a runner.
pub(super) struct Metrics {
    /// The metrics of links; weak, so that they vanish with the link.
    links: Mutex<BTreeMap<LinkId, Weak<LinkMetrics>>>,
    /// The times of successful starts.
    pub(super) starts: Histogram,
    pub(super) pulls: Counter,
    pub(super) pull_failures: Counter,
    pub(super) pull_times: Histogram,
}

/// The metrics of a link.
pub(super) struct LinkMetrics {
    endings: [Counter; ENDINGS.len()],
    durations: Histogram,
    used: Used,
    /// Failures at a limit, by limit.
    limits: [Counter; Limit::ALL.len()],
    /// Calls refused because there was no room.
    pub(super) busy: Counter,
    /// Calls refused because the runner is starved.
    pub(super) starved: Counter,
    /// Calls refused because no process could be started.
    pub(super) cannot_start: Counter,
    /// Calls refused because their values of parameters are wrong.
    pub(super) malformed: Counter,
    /// Calls that got an idle process that was ready.
    pub(super) hits: Counter,
    /// Calls that got a process in reserve that was still starting.
    pub(super) starting: Counter,
    /// Calls that waited for a process to start.
    pub(super) misses: Counter,
    pub(super) start_failures: Counter,
    /// Idle processes that ended, wrote, or were killed before they had a request.
    pub(super) spoiled: Counter,
}

/// What the processes of a link have used, as far as it was counted.
#[derive(Debug, Default)]
struct Used {
    cpu_micros: Counter,
    /// The most that one process had; 0 if that was never counted.
    memory_peak_bytes: AtomicU64,
    received_bytes: Counter,
    sent_bytes: Counter,
}

impl Used {
    fn add(&self, usage: &Usage) {
        let micros = usage.cpu.unwrap_or_default().as_micros();
        self.cpu_micros.inc_by(u64::try_from(micros).unwrap_or(0));
        let peak = usage.memory.unwrap_or(0);
        self.memory_peak_bytes.fetch_max(peak, Ordering::Relaxed);
        self.received_bytes.inc_by(usage.bytes_in.unwrap_or(0));
        self.sent_bytes.inc_by(usage.bytes_out.unwrap_or(0));
    }
}

impl LinkMetrics {
    fn new() -> LinkMetrics {
        LinkMetrics {
            endings: Default::default(),
            durations: latency(),
            used: Used::default(),
            limits: Default::default(),
            busy: Counter::default(),
            starved: Counter::default(),
            cannot_start: Counter::default(),
            malformed: Counter::default(),
            hits: Counter::default(),
            starting: Counter::default(),
            misses: Counter::default(),
            start_failures: Counter::default(),
            spoiled: Counter::default(),
        }
    }

    /// A call has ended.
    pub(super) fn end(&self, outcome: &Outcome) {
        self.endings[ending(&outcome.ending)].inc();
        self.durations.observe(outcome.elapsed.as_secs_f64());
        self.used.add(&outcome.usage);
        if let Some(limit) = outcome.limit
            && let Some(at) = Limit::ALL.iter().position(|each| *each == limit)
        {
            self.limits[at].inc();
        }
    }
}

impl Metrics {
    pub(super) fn new() -> Metrics {
        Metrics {
            links: Mutex::default(),
            starts: latency(),
            pulls: Counter::default(),
            pull_failures: Counter::default(),
            pull_times: pull_time(),
        }
    }

    /// The metrics of a link; new unless they are still held.
    pub(super) fn of_link(&self, id: LinkId) -> Arc<LinkMetrics> {
        let mut links = self.links.lock();
        links.retain(|_, metrics| metrics.strong_count() > 0);
        if let Some(metrics) = links.get(&id).and_then(Weak::upgrade) {
            return metrics;
        }
        let metrics = Arc::new(LinkMetrics::new());
        links.insert(id, Arc::downgrade(&metrics));
        metrics
    }

    fn links(&self) -> Vec<(String, Arc<LinkMetrics>)> {
        let links = self.links.lock();
        let links = links.iter();
        links
            .filter_map(|(id, metrics)| Some((id.to_string(), metrics.upgrade()?)))
            .collect()
    }

    /// Registers all metrics.
    pub(super) fn register(
        self: &Arc<Self>,
        registry: &mut Registry,
        capacity: &Capacity<WarmPipeline>,
        states: &watch::Sender<States>,
    ) {
        let runner = registry.sub_registry_with_prefix("runner");
        let help = "How long it takes to start a process";
        let (starts, pulls) = (self.starts.clone(), self.pull_times.clone());
        runner.register_with_unit("start_duration", help, Unit::Seconds, starts);
        let help = "Images pulled, or tried to";
        runner.register("image_pulls", help, self.pulls.clone());
        let help = "Images that could not be pulled";
        runner.register("image_pull_failures", help, self.pull_failures.clone());
        let help = "How long it takes to pull an image";
        runner.register_with_unit("image_pull_duration", help, Unit::Seconds, pulls);
        registry.register_collector(Box::new(OfLinks {
            metrics: Arc::clone(self),
            capacity: capacity.clone(),
            states: states.clone(),
        }));
    }
}

/// Collects the metrics of links when they are asked for, since links come and go.
struct OfLinks {
    metrics: Arc<Metrics>,
    capacity: Capacity<WarmPipeline>,
    states: watch::Sender<States>,
}

impl fmt::Debug for OfLinks {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("OfLinks")
    }
}

impl Collector for OfLinks {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        self.encode_calls(&mut encoder)?;
        self.encode_usage(&mut encoder)?;
        self.encode_pools(&mut encoder)?;
        let help = "Links, by state";
        let gauge = MetricType::Gauge;
        let mut links = encoder.encode_descriptor("runner_links", help, None, gauge)?;
        for (state, count) in self.states.borrow().counts() {
            count_of(count).encode(links.encode_family(&[("state", state)])?)?;
        }
        Ok(())
    }
}

type OfLink = fn(&LinkMetrics) -> &Counter;

/// The counters of a link that have no further labels.
const COUNTERS: [(&str, &str, OfLink); 5] = [
    (
        "runner_warm_hits",
        "Calls that were given a process that was ready",
        |link| &link.hits,
    ),
    (
        "runner_warm_starting",
        "Calls that were given a process in reserve that was still starting",
        |link| &link.starting,
    ),
    (
        "runner_warm_misses",
        "Calls that waited for a process to start",
        |link| &link.misses,
    ),
    (
        "runner_start_failures",
        "Processes that could not be started",
        |link| &link.start_failures,
    ),
    (
        "runner_spoiled",
        "Idle processes that ended, wrote, or were killed before they had a request",
        |link| &link.spoiled,
    ),
];

impl OfLinks {
    fn encode_calls(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let links = self.metrics.links();
        let help = "Calls, by how they ended";
        let mut family =
            encoder.encode_descriptor("runner_calls", help, None, MetricType::Counter)?;
        for (id, link) in &links {
            for (ending, calls) in ENDINGS.iter().zip(&link.endings) {
                let labels = [("link_id", id.as_str()), ("ending", ending)];
                calls.encode(family.encode_family(&labels)?)?;
            }
        }
        let help = "Calls that were not taken";
        let mut family =
            encoder.encode_descriptor("runner_refusals", help, None, MetricType::Counter)?;
        for (id, link) in &links {
            for (reason, calls) in [
                ("busy", &link.busy),
                ("starved", &link.starved),
                ("cannot_start", &link.cannot_start),
                ("malformed", &link.malformed),
            ] {
                let labels = [("link_id", id.as_str()), ("reason", reason)];
                calls.encode(family.encode_family(&labels)?)?;
            }
        }
        let (help, unit) = (
            "From taking a call to the end of its process",
            Unit::Seconds,
        );
        let (name, kind) = ("runner_call_duration", MetricType::Histogram);
        let mut family = encoder.encode_descriptor(name, help, Some(&unit), kind)?;
        for (id, link) in &links {
            let labels = [("link_id", id.as_str())];
            link.durations.encode(family.encode_family(&labels)?)?;
        }
        for (name, help, counter) in COUNTERS {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (id, link) in &links {
                let labels = [("link_id", id.as_str())];
                counter(link).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }

    fn encode_usage(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let links = self.metrics.links();
        let (counter, gauge) = (MetricType::Counter, MetricType::Gauge);
        let help = "Processor time of a link's processes";
        let unit = Some(&Unit::Seconds);
        let mut family = encoder.encode_descriptor("link_cpu", help, unit, counter)?;
        for (id, link) in &links {
            let labels = [("link_id", id.as_str())];
            let seconds = Duration::from_micros(link.used.cpu_micros.get()).as_secs_f64();
            ConstCounter::new(seconds).encode(family.encode_family(&labels)?)?;
        }
        let help = "The most memory that a process of a link has had";
        let unit = Some(&Unit::Bytes);
        let mut family = encoder.encode_descriptor("link_memory_peak", help, unit, gauge)?;
        for (id, link) in &links {
            let labels = [("link_id", id.as_str())];
            let bytes = link.used.memory_peak_bytes.load(Ordering::Relaxed);
            if bytes > 0 {
                ConstGauge::new(bytes).encode(family.encode_family(&labels)?)?;
            }
        }
        let (received, sent): (OfLink, OfLink) = (
            |link| &link.used.received_bytes,
            |link| &link.used.sent_bytes,
        );
        for (name, help, bytes) in [
            ("link_received", "Input of a link's processes", received),
            ("link_sent", "Output of a link's processes", sent),
        ] {
            let mut family = encoder.encode_descriptor(name, help, unit, counter)?;
            for (id, link) in &links {
                let labels = [("link_id", id.as_str())];
                bytes(link).encode(family.encode_family(&labels)?)?;
            }
        }
        let help = "Calls that failed at a limit";
        let mut family = encoder.encode_descriptor("link_limits", help, None, counter)?;
        for (id, link) in &links {
            for (limit, calls) in Limit::ALL.iter().zip(&link.limits) {
                let labels = [("link_id", id.as_str()), ("limit", limit.name())];
                calls.encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }

    fn encode_pools(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let pools = self.capacity.counts();
        let pools: Vec<_> = pools
            .iter()
            .map(|(id, pool)| (id.to_string(), pool))
            .collect();
        let gauge = MetricType::Gauge;
        let help = "Processes of a link, by state";
        let mut family = encoder.encode_descriptor("pool_processes", help, None, gauge)?;
        for (id, pool) in &pools {
            for (state, count) in [
                ("idle", pool.idle),
                ("starting", pool.starting),
                ("in_use", pool.in_use),
            ] {
                let labels = [("link_id", id.as_str()), ("state", state)];
                count_of(count).encode(family.encode_family(&labels)?)?;
            }
        }
        let help = "Calls that wait for a process of a link";
        let mut family = encoder.encode_descriptor("pool_waiting", help, None, gauge)?;
        for (id, pool) in &pools {
            let labels = [("link_id", id.as_str())];
            count_of(pool.waiting).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

fn count_of(count: usize) -> ConstGauge<u64> {
    ConstGauge::new(count as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(cpu_micros: u64, memory: Option<u64>) -> Outcome {
        Outcome {
            usage: Usage {
                cpu: Some(Duration::from_micros(cpu_micros)),
                memory,
                bytes_in: Some(17),
                bytes_out: None,
            },
            limit: memory.map(|_| Limit::CpuTime),
            ..Outcome::new(Ending::Exited(0))
        }
    }

    #[test]
    fn usage_adds_up_and_the_largest_memory_counts() {
        let link = LinkMetrics::new();
        for outcome in [used(1_500_000, Some(7)), used(1, Some(5)), used(0, None)] {
            link.end(&outcome);
        }
        link.end(&Outcome::new(Ending::Exited(0)));
        assert_eq!(link.used.cpu_micros.get(), 1_500_001);
        assert_eq!(link.used.memory_peak_bytes.load(Ordering::Relaxed), 7);
        assert_eq!(link.used.received_bytes.get(), 51);
        assert_eq!(link.used.sent_bytes.get(), 0);
        let limits: Vec<_> = link.limits.iter().map(Counter::get).collect();
        assert_eq!(limits, [0, 2, 0, 0, 0, 0]);
    }
}
