//! The times of many calls, as an HDR histogram.

use std::time::Duration;

use hdrhistogram::Histogram;

/// Longer times count as this; no measurement here lasts as long.
const TIME_MAX: Duration = Duration::from_secs(600);

const DIGITS: u8 = 3;

/// Times of calls.
#[derive(Debug, Clone)]
pub(crate) struct Latencies(Histogram<u64>);

impl Latencies {
    pub(crate) fn new() -> Latencies {
        let nanoseconds_max = TIME_MAX.as_nanos() as u64;
        Latencies(Histogram::new_with_max(nanoseconds_max, DIGITS).expect("they are valid"))
    }

    pub(crate) fn add(&mut self, time: Duration) {
        self.0.saturating_record(time.as_nanos() as u64);
    }

    pub(crate) fn add_all(&mut self, others: &Latencies) {
        self.0.add(&others.0).expect("all have the same bounds");
    }

    /// The time in milliseconds that `share` of the calls do not exceed.
    pub(crate) fn quantile(&self, share: f64) -> f64 {
        self.0.value_at_quantile(share) as f64 / 1e6
    }

    pub(crate) fn median(&self) -> f64 {
        self.quantile(0.5)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Latencies;

    #[test]
    fn quantiles_are_in_milliseconds_and_over_all() {
        let mut latencies = Latencies::new();
        (1..=90).for_each(|_| latencies.add(Duration::from_millis(2)));
        let mut slow = Latencies::new();
        (1..=10).for_each(|_| slow.add(Duration::from_secs(1000)));
        latencies.add_all(&slow);
        assert!((latencies.median() - 2.0).abs() < 0.01);
        assert!((latencies.quantile(0.9) - 2.0).abs() < 0.01);
        assert!(latencies.quantile(0.99) > 590_000.0);
    }
}
