//! How long calls take: a histogram whose figures can be read again.
//!
//! The one of the metrics library can only be written for Prometheus, behind a lock; the
//! page needs the numbers themselves.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::exemplar::HistogramWithExemplars;
use prometheus_client::metrics::{MetricType, TypedMetric};
use serde::Serialize;

use crate::spans;

/// How many buckets have a bound: from half a millisecond to half a minute, each twice the
/// one before.
pub(super) const BOUNDS: usize = 17;

/// The bound of the first bucket, in nanoseconds.
const FIRST_BOUND_NS: u64 = 500_000;

/// Times, counted in buckets. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct Latency(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// One for each bound, and one for all longer times.
    buckets: [AtomicU64; BOUNDS + 1],
    nanoseconds: AtomicU64,
    /// The same times once more where traces are on, with a trace for each bucket: the
    /// library writes exemplars only of its own histograms.
    with_traces: Option<HistogramWithExemplars<Exemplar>>,
}

/// The trace that a time is an example of.
type Exemplar = [(&'static str, String); 1];

/// The figures of a [`Latency`] at a moment.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Times {
    /// How many times there were.
    pub(super) count: u64,
    /// All of them together, in seconds.
    pub(super) seconds: f64,
    /// How many were in each bucket alone.
    pub(super) buckets: [u64; BOUNDS + 1],
}

impl Latency {
    /// For times of calls, with their traces if those are on.
    pub(super) fn of_calls() -> Latency {
        match spans::are_on() {
            true => Latency::with_traces(),
            false => Latency::default(),
        }
    }

    fn with_traces() -> Latency {
        Latency(Arc::new(Inner {
            with_traces: Some(HistogramWithExemplars::new(bounds().into_iter())),
            ..Inner::default()
        }))
    }

    /// Counts one more, of the call in this trace if that is recorded.
    pub(super) fn observe_in(&self, time: Duration, trace_id: Option<String>) {
        self.observe(time);
        if let Some(with_traces) = &self.0.with_traces {
            let now = trace_id.is_some().then(SystemTime::now);
            let trace = trace_id.map(|trace_id| [("trace_id", trace_id)]);
            with_traces.observe(time.as_secs_f64(), trace, now);
        }
    }

    /// Counts one more.
    pub(super) fn observe(&self, time: Duration) {
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        // Relaxed, since nothing else depends on them.
        self.0.buckets[bucket(nanoseconds)].fetch_add(1, Ordering::Relaxed);
        self.0.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
    }

    pub(super) fn times(&self) -> Times {
        let buckets = std::array::from_fn(|at| self.0.buckets[at].load(Ordering::Relaxed));
        let nanoseconds = self.0.nanoseconds.load(Ordering::Relaxed);
        Times {
            count: buckets.iter().sum(),
            seconds: Duration::from_nanos(nanoseconds).as_secs_f64(),
            buckets,
        }
    }
}

/// The bounds, in seconds.
pub(super) fn bounds() -> [f64; BOUNDS] {
    std::array::from_fn(|at| Duration::from_nanos(FIRST_BOUND_NS << at).as_secs_f64())
}

/// The first bucket whose bound is no less than this.
fn bucket(nanoseconds: u64) -> usize {
    let doublings = u64::BITS - (nanoseconds.saturating_sub(1) / FIRST_BOUND_NS).leading_zeros();
    (doublings as usize).min(BOUNDS)
}

impl EncodeMetric for Latency {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        if let Some(with_traces) = &self.0.with_traces {
            return with_traces.encode(encoder);
        }
        let Times {
            count,
            seconds,
            buckets,
        } = self.times();
        let bounds = bounds().into_iter().chain([f64::INFINITY]);
        let buckets: Vec<_> = bounds.zip(buckets).collect();
        encoder.encode_histogram::<NoLabelSet>(seconds, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

impl TypedMetric for Latency {
    const TYPE: MetricType = MetricType::Histogram;
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::registry::Registry;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_time_is_in_the_first_bucket_that_holds_it(nanoseconds in any::<u64>()) {
            let seconds = Duration::from_nanos(nanoseconds).as_secs_f64();
            let expected = bounds().iter().position(|bound| seconds <= *bound);
            prop_assert_eq!(bucket(nanoseconds), expected.unwrap_or(BOUNDS));
        }
    }

    #[test]
    fn where_traces_are_on_buckets_name_one() {
        let written = |latency: &Latency| {
            latency.observe_in(Duration::from_micros(750), None);
            latency.observe_in(Duration::from_secs(3600), Some("abc".to_owned()));
            let mut registry = Registry::default();
            registry.register("a", "b", latency.clone());
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
            text
        };
        let (off, on) = (Latency::default(), Latency::with_traces());
        let (off, on) = (written(&off), written(&on));
        assert!(
            on.contains("+Inf\"} 2 # {trace_id=\"abc\"} 3600.0 "),
            "{on}"
        );
        let without = |text: &str| {
            let lines = text.lines();
            let lines = lines.map(|line| line.split(" # ").next().unwrap().to_owned());
            lines.collect::<Vec<_>>()
        };
        assert_eq!(without(&on), without(&off));
    }

    #[test]
    fn bounds_belong_to_the_bucket_below() {
        assert_eq!((bucket(0), bucket(500_000), bucket(500_001)), (0, 0, 1));
        let latency = Latency::default();
        latency.observe(Duration::from_micros(750));
        latency.clone().observe(Duration::from_secs(3600));
        let times = latency.times();
        assert_eq!((times.count, times.seconds), (2, 3600.00075));
        assert_eq!((times.buckets[1], times.buckets[BOUNDS]), (1, 1));
    }
}
