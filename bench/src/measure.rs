//! Samples and their statistics.

use std::time::Duration;

/// Measurements of one thing.
#[derive(Debug, Clone, Default)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    pub(crate) fn add(&mut self, value: f64) {
        self.0.push(value);
    }

    pub(crate) fn add_milliseconds(&mut self, time: Duration) {
        self.add(time.as_secs_f64() * 1000.0);
    }

    /// The value that `share` of the samples do not exceed; NaN without samples.
    pub(crate) fn quantile(&self, share: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let place = (share * sorted.len() as f64).ceil() as usize;
        let place = place.clamp(1, sorted.len().max(1)) - 1;
        sorted.get(place).copied().unwrap_or(f64::NAN)
    }

    /// The median: the mean of the two in the middle if their number is even.
    pub(crate) fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        match sorted.get(middle) {
            None => f64::NAN,
            Some(&value) if sorted.len() % 2 == 1 => value,
            Some(&value) => f64::midpoint(sorted[middle - 1], value),
        }
    }

    pub(crate) fn least(&self) -> f64 {
        self.quantile(0.0)
    }

    pub(crate) fn most(&self) -> f64 {
        self.quantile(1.0)
    }

    /// Each sample divided by that of `other` from the same turn, when the load on the machine
    /// was the same.
    pub(crate) fn by(&self, other: &Samples) -> Samples {
        let pairs = self.0.iter().zip(&other.0);
        Samples(pairs.map(|(one, other)| one / other).collect())
    }

    /// Each sample divided by the same number.
    pub(crate) fn by_number(&self, number: f64) -> Samples {
        self.0.iter().map(|one| one / number).collect()
    }
}

impl FromIterator<f64> for Samples {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Samples {
        Samples(values.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::Samples;

    #[test]
    fn a_median_is_in_the_middle_and_quantiles_were_measured() {
        let samples: Samples = [5.0, 1.0, 4.0, 2.0, 3.0].into_iter().collect();
        assert_eq!(samples.least(), 1.0);
        assert_eq!(samples.median(), 3.0);
        assert_eq!(samples.quantile(0.99), 5.0);
        assert_eq!(samples.most(), 5.0);
        assert!(Samples::default().median().is_nan());
        let even: Samples = [4.0, 1.0, 2.0, 9.0].into_iter().collect();
        assert_eq!(even.median(), 3.0);
    }

    #[test]
    fn a_ratio_is_of_what_was_measured_in_the_same_turn() {
        let ours: Samples = [1.0, 8.0].into_iter().collect();
        let theirs: Samples = [2.0, 4.0].into_iter().collect();
        let ratio = ours.by(&theirs);
        assert_eq!((ratio.least(), ratio.most()), (0.5, 2.0));
    }
}
