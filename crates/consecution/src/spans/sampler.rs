//! Decides which traces are recorded, as `OTEL_TRACES_SAMPLER` says.

use crate::trace::{SpanContext, TRACE_ID_BYTES};

/// Which traces are recorded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Sampler {
    pub(super) rule: Rule,
    /// Whether a caller's decision counts before the rule.
    pub(super) follows_parent: bool,
}

/// A rule for traces about which nobody has decided.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Rule {
    Always,
    Never,
    /// This part of all traces, from 0 to 1, chosen by their ids: whoever uses the same part
    /// chooses the same traces.
    Ratio(f64),
}

/// 2 to the power of 63: the part of a trace's id that decides has 63 bits.
const IDS: f64 = 9_223_372_036_854_775_808.0;

impl Sampler {
    /// Whether to record a span of this trace, with this parent.
    pub(super) fn samples(
        &self,
        parent: Option<&SpanContext>,
        trace_id: &[u8; TRACE_ID_BYTES],
    ) -> bool {
        if let Some(parent) = parent
            && self.follows_parent
        {
            return parent.is_sampled();
        }
        match self.rule {
            Rule::Always => true,
            Rule::Never => false,
            Rule::Ratio(ratio) => {
                let last = trace_id
                    .last_chunk()
                    .map_or(0, |last| u64::from_be_bytes(*last));
                // All of OpenTelemetry's libraries compare the same bits.
                last >> 1 < (ratio * IDS) as u64
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sampler(rule: Rule, follows_parent: bool) -> Sampler {
        Sampler {
            rule,
            follows_parent,
        }
    }

    #[test]
    fn a_caller_decides_before_the_rule_only_if_the_sampler_is_based_on_it() {
        let id = [1; 16];
        let parent = |is_sampled| SpanContext::default().with([1; 8], is_sampled);
        for rule in [Rule::Always, Rule::Never] {
            let alone = sampler(rule, true).samples(None, &id);
            assert_eq!(alone, rule == Rule::Always);
            for is_sampled in [true, false] {
                let parent = parent(is_sampled);
                assert_eq!(sampler(rule, true).samples(Some(&parent), &id), is_sampled);
                assert_eq!(sampler(rule, false).samples(Some(&parent), &id), alone);
            }
        }
    }

    proptest! {
        #[test]
        fn whatever_a_smaller_part_has_a_larger_one_has_too(
            id in any::<[u8; 16]>(),
            (less, more) in (0.0..=1.0_f64, 0.0..=1.0_f64),
        ) {
            let (less, more) = (less.min(more), less.max(more));
            let samples = |ratio| sampler(Rule::Ratio(ratio), true).samples(None, &id);
            prop_assert!(!samples(less) || samples(more));
            prop_assert!(samples(1.0) && !samples(0.0));
        }
    }

    #[test]
    fn a_part_of_all_traces_is_about_that_part() {
        let sampler = sampler(Rule::Ratio(0.25), true);
        let ids = (0..4096_u64).map(|number| {
            let mut id = [7; 16];
            id[8..].copy_from_slice(&super::super::mixed(number).to_be_bytes());
            id
        });
        let sampled = ids.filter(|id| sampler.samples(None, id)).count();
        assert!((900..1150).contains(&sampled), "{sampled}");
    }
}
