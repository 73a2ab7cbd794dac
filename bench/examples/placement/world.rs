//! Made-up chains, and their loads.

use super::Options;
use super::random::Random;

/// The most links of a chain.
const LINKS_MAX: usize = 5;

/// One of so many links is a common one, which many chains use.
const LINKS_PER_COMMON_LINK: usize = 100;

pub(crate) struct Chain {
    /// Its links, in order; one may occur twice.
    pub(crate) links: Vec<u32>,
    /// Its load, in runners.
    pub(crate) load: f64,
}

pub(crate) struct World {
    pub(crate) chains: Vec<Chain>,
    pub(crate) links: usize,
}

impl World {
    pub(crate) fn new(options: &Options) -> World {
        let mut random = Random::new(options.seed);
        let common = options.links / LINKS_PER_COMMON_LINK;
        let popular = Zipf::new(common, options.zipf);
        let (mut chains, mut links) = (Vec::new(), common);
        while links < options.links {
            let length = 1 + random.below(LINKS_MAX);
            let mut link = |_| {
                if common > 0 && random.share() < options.common {
                    return popular.draw(random.share()) as u32;
                }
                links += 1;
                (links - 1) as u32
            };
            let links = (0..length).map(&mut link).collect();
            chains.push(Chain { links, load: 0.0 });
        }
        World::share_out(&mut chains, &mut random, options);
        World { chains, links }
    }

    /// Distributes the load: each place in a chain costs the same for a call.
    fn share_out(chains: &mut [Chain], random: &mut Random, options: &Options) {
        let mut ranks: Vec<usize> = (1..=chains.len()).collect();
        for at in (1..ranks.len()).rev() {
            ranks.swap(at, random.below(at + 1));
        }
        for (chain, rank) in chains.iter_mut().zip(ranks) {
            chain.load = (rank as f64).powf(-options.zipf) * chain.links.len() as f64;
        }
        let all: f64 = chains.iter().map(|chain| chain.load).sum();
        for chain in chains {
            chain.load *= options.load * options.runners as f64 / all;
        }
    }

    /// The load of each link.
    pub(crate) fn link_loads(&self) -> Vec<f64> {
        let mut loads = vec![0.0; self.links];
        for Chain { links, load } in &self.chains {
            for link in links {
                loads[*link as usize] += load / links.len() as f64;
            }
        }
        loads
    }
}

/// Draws numbers by Zipf's law: small ones more often.
struct Zipf(Vec<f64>);

impl Zipf {
    fn new(count: usize, exponent: f64) -> Zipf {
        let mut sum = 0.0;
        let sums = (1..=count).map(|rank| {
            sum += (rank as f64).powf(-exponent);
            sum
        });
        Zipf(sums.collect())
    }

    fn draw(&self, share: f64) -> usize {
        let all = self.0.last().copied().unwrap_or_default();
        let drawn = self.0.partition_point(|sum| *sum < share * all);
        drawn.min(self.0.len().saturating_sub(1))
    }
}
