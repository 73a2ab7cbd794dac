//! Random numbers from a seed.

/// SplitMix64.
pub(crate) struct Random(u64);

/// Hashes a number.
pub(crate) fn mix(mut number: u64) -> u64 {
    number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(mix(seed.wrapping_add(0x9e37_79b9_7f4a_7c15)))
    }

    pub(crate) fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number from 0 up to, but not including, 1.
    pub(crate) fn share(&mut self) -> f64 {
        (self.number() >> 11) as f64 / (1_u64 << 53) as f64
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.share() * end as f64) as usize
    }

    /// So many different numbers below `end`, or all of them.
    pub(crate) fn distinct(&mut self, count: usize, end: usize) -> Vec<u16> {
        let mut drawn = Vec::new();
        while drawn.len() < count.min(end) {
            let number = self.below(end) as u16;
            if !drawn.contains(&number) {
                drawn.push(number);
            }
        }
        drawn
    }
}
