//! Rendezvous hashing: each unit (a link or a chain) ranks all runners by a hash of both, and
//! is served by the first ones. If loads are bounded, runners with too much load are skipped.

use super::Options;
use super::random::mix;
use super::world::World;

/// How many runners may join, one at a time.
pub(crate) const COMINGS: usize = 8;

/// How many runners a unit ranks beyond those that it needs.
const SPARE_CANDIDATES: usize = 32;

/// The runners of each unit.
pub(crate) type Placement = Vec<Vec<u16>>;

/// The units to place.
pub(crate) struct Units {
    /// The load of each unit, in runners.
    pub(crate) load: Vec<f64>,
    /// The links of each unit.
    pub(crate) links: Vec<Vec<u32>>,
    /// All units, those with the most load first.
    order: Vec<u32>,
}

/// How many runners a unit gets, and which.
pub(crate) struct Rule {
    /// The fewest runners of a unit.
    pub(crate) replicas: usize,
    /// The most load of a unit on each of its runners; with more, it gets more runners.
    pub(crate) share: f64,
    /// The most load of a runner, as a multiple of the mean.
    pub(crate) bound: f64,
}

/// A change to the runners or units.
#[derive(Clone, Copy)]
pub(crate) enum Change {
    None,
    /// One runner leaves.
    Leaves(usize),
    /// One runner joins.
    Joins(usize),
    /// The first units are removed.
    Removed(usize),
}

impl Units {
    pub(crate) fn of_links(world: &World) -> Units {
        let links = (0..world.links as u32).map(|link| vec![link]);
        Units::new(world.link_loads(), links.collect())
    }

    pub(crate) fn of_chains(world: &World) -> Units {
        let chains = world.chains.iter();
        let loads = chains.clone().map(|chain| chain.load).collect();
        Units::new(loads, chains.map(|chain| chain.links.clone()).collect())
    }

    fn new(load: Vec<f64>, links: Vec<Vec<u32>>) -> Units {
        let mut order: Vec<u32> = (0..load.len() as u32).collect();
        order.sort_by(|one, other| load[*other as usize].total_cmp(&load[*one as usize]));
        Units { load, links, order }
    }

    /// All pairs of a link and one of its runners, sorted: the link in the upper bits, the runner
    /// in the lower ones.
    pub(crate) fn pairs(&self, placement: &Placement) -> Vec<u64> {
        let mut pairs = Vec::new();
        for (links, runners) in self.links.iter().zip(placement) {
            for link in links {
                pairs.extend(runners.iter().map(|runner| pair(*link, *runner)));
            }
        }
        pairs.sort_unstable();
        pairs.dedup();
        pairs
    }
}

fn pair(link: u32, runner: u16) -> u64 {
    u64::from(link) << 16 | u64::from(runner)
}

impl Rule {
    fn replicas(&self, load: f64) -> usize {
        self.replicas.max((load / self.share).ceil() as usize)
    }
}

/// For each unit, its first-ranked runners in order.
pub(crate) struct Ranking {
    candidates: Vec<Vec<u16>>,
    runners: usize,
}

impl Ranking {
    pub(crate) fn new(units: &Units, rule: &Rule, options: &Options) -> Ranking {
        let all = options.runners + COMINGS;
        assert!(all <= 1 << 16, "there are too many runners");
        let hashes: Vec<u64> = (0..all as u64).map(|runner| mix(!runner)).collect();
        let candidates = units.load.iter().enumerate().map(|(unit, load)| {
            let count = rule.replicas(*load) + SPARE_CANDIDATES;
            let mut unit = mix(unit as u64 ^ options.seed << 32);
            if let Some(buckets) = options.buckets {
                unit %= buckets.max(1);
            }
            let unit = mix(unit);
            first(unit, &hashes, count.min(all))
        });
        Ranking {
            candidates: candidates.collect(),
            runners: options.runners,
        }
    }

    /// How many units have more runners than the least, and the most that one has.
    pub(crate) fn wide(units: &Units, rule: &Rule) -> (usize, usize) {
        let counts = units.load.iter().map(|load| rule.replicas(*load));
        let wide = counts.clone().filter(|count| *count > rule.replicas);
        (wide.count(), counts.max().unwrap_or_default())
    }

    pub(crate) fn place(&self, units: &Units, rule: &Rule, change: Change) -> Placement {
        let mut present = vec![true; self.runners];
        present.resize(self.runners + COMINGS, false);
        let mut units_gone = 0;
        match change {
            Change::None => {}
            Change::Leaves(number) => present[number * self.runners / COMINGS] = false,
            Change::Joins(number) => present[self.runners + number] = true,
            Change::Removed(units) => units_gone = units,
        }
        let runners = present.iter().filter(|is_there| **is_there).count();
        let mean = units.load[units_gone..].iter().sum::<f64>() / runners as f64;
        let mut loads = vec![0.0; present.len()];
        let mut placement = vec![Vec::new(); units.load.len()];
        for unit in units.order.iter().map(|unit| *unit as usize) {
            if unit < units_gone {
                continue;
            }
            let count = rule.replicas(units.load[unit]);
            let load = units.load[unit] / count as f64;
            let candidates = self.candidates[unit].iter();
            let candidates = candidates.filter(|runner| present[usize::from(**runner)]);
            let has_room = |runner: &&u16| loads[usize::from(**runner)] + load <= mean * rule.bound;
            let mut chosen: Vec<u16> = (candidates.clone().copied())
                .filter(|it| has_room(&it))
                .take(count)
                .collect();
            // If all candidates have too much load, the first ones get more.
            for runner in candidates {
                if chosen.len() < count && !chosen.contains(runner) {
                    chosen.push(*runner);
                }
            }
            for runner in &chosen {
                loads[usize::from(*runner)] += load;
            }
            placement[unit] = chosen;
        }
        placement
    }
}

/// The runners with the highest scores, highest first.
fn first(unit: u64, hashes: &[u64], count: usize) -> Vec<u16> {
    /// The lowest bits of a score are the runner's number.
    const RUNNER: u64 = 0xffff;
    let scores = hashes.iter().enumerate();
    let scores = scores.map(|(runner, hash)| mix(unit ^ hash) & !RUNNER | runner as u64);
    // About twice as many scores as needed are above this.
    let share = 1.0 - 2.0 * count as f64 / hashes.len() as f64;
    let least = (share.max(0.0) * u64::MAX as f64) as u64;
    let mut best: Vec<u64> = scores.clone().filter(|score| *score >= least).collect();
    if best.len() < count {
        best = scores.collect();
    }
    best.sort_unstable_by(|one, other| other.cmp(one));
    let best = best.iter().take(count);
    best.map(|score| (score & RUNNER) as u16).collect()
}
