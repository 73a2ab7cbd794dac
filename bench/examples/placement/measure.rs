//! Evaluates a placement.

use super::Options;
use super::placement::{Placement, Units};
use super::world::World;

/// Where a call goes.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Called {
    /// To any runner that serves the link; it also runs the following links that it serves.
    ByLink,
    /// To one of the unit's runners, which runs all of the unit.
    ByUnit,
}

/// A row of the table.
pub(crate) struct Row {
    pub(crate) name: String,
    /// The links that a runner serves: the mean, and the most.
    pub(crate) links_mean: f64,
    pub(crate) links_most: usize,
    /// The load of the busiest runner, divided by the mean.
    pub(crate) busiest: f64,
    /// The load beyond what runners can do, divided by all load.
    pub(crate) beyond: f64,
    /// How many links runners must load when a runner leaves, when one joins, and for each unit
    /// that is removed.
    pub(crate) leaves: Option<f64>,
    pub(crate) joins: Option<f64>,
    pub(crate) removed: Option<f64>,
    /// The share of runs that are one call, and the calls of a run.
    pub(crate) joined: f64,
    pub(crate) calls: f64,
    /// The share of calls that find no warm process.
    pub(crate) cold: f64,
}

pub(crate) fn print_head() {
    println!(
        "| which runners serve a link | links a runner: mean, most | busiest ÷ mean \
         | beyond capacity | links loaded: one leaves | one joins | one is removed \
         | runs that are one call | calls a run | cold calls |\n\
         |---|---|---|---|---|---|---|---|---|---|"
    );
}

impl Row {
    pub(crate) fn print(&self) {
        let count = |number: Option<f64>| match number {
            None => String::new(),
            Some(number) if number == 0.0 || number >= 10.0 => format!("{number:.0}"),
            Some(number) => format!("{number:.2}"),
        };
        let percent = |share: f64| format!("{:.1} %", share * 100.0);
        println!(
            "| {} | {:.0}, {} | {:.2} | {} | {} | {} | {} | {} | {:.2} | {} |",
            self.name,
            self.links_mean,
            self.links_most,
            self.busiest,
            percent(self.beyond),
            count(self.leaves),
            count(self.joins),
            count(self.removed),
            percent(self.joined),
            self.calls,
            percent(self.cold),
        );
    }
}

/// Every runner serves every link.
pub(crate) fn everywhere(world: &World, options: &Options) -> Row {
    Row {
        name: "all of them (today)".to_owned(),
        links_mean: world.links as f64,
        links_most: world.links,
        busiest: 1.0,
        beyond: 0.0,
        leaves: Some(0.0),
        joins: Some(world.links as f64),
        removed: Some(0.0),
        joined: 1.0,
        calls: 1.0,
        cold: cold(&world.link_loads(), options.warm) / world.link_loads().iter().sum::<f64>(),
    }
}

/// A row without the columns about changes.
pub(crate) fn at_rest(
    name: &str,
    world: &World,
    units: &Units,
    placement: &Placement,
    called: Called,
    options: &Options,
) -> Row {
    let served = Served::new(world.links, &units.pairs(placement));
    let runs = match called {
        Called::ByLink => Runs::by_link(world, &served, options.runners),
        Called::ByUnit => Runs::by_unit(units, placement, options.runners),
    };
    let all: f64 = runs.loads.iter().sum();
    let mean = all / options.runners as f64;
    let beyond = runs.loads.iter().map(|load| (load - 1.0).max(0.0));
    let links = served.of_runners(&world.link_loads(), options.runners);
    let cold_loads = links.iter().map(|loads| cold(loads, options.warm));
    let counts = links.iter().map(Vec::len);
    Row {
        name: name.to_owned(),
        links_mean: counts.clone().sum::<usize>() as f64 / options.runners as f64,
        links_most: counts.max().unwrap_or_default(),
        busiest: runs.loads.iter().copied().fold(0.0, f64::max) / mean,
        beyond: beyond.sum::<f64>() / all,
        leaves: None,
        joins: None,
        removed: None,
        joined: runs.joined,
        calls: runs.calls,
        cold: cold_loads.sum::<f64>() / all,
    }
}

/// The runners of each link, in order.
struct Served(Vec<Vec<u16>>);

impl Served {
    fn new(links: usize, pairs: &[u64]) -> Served {
        let mut served = vec![Vec::new(); links];
        for pair in pairs {
            served[(pair >> 16) as usize].push((pair & 0xffff) as u16);
        }
        Served(served)
    }

    fn by(&self, link: u32, runner: u16) -> bool {
        self.0[link as usize].binary_search(&runner).is_ok()
    }

    /// For each runner, the load of each of its links.
    fn of_runners(&self, loads: &[f64], runners: usize) -> Vec<Vec<f64>> {
        let mut links = vec![Vec::new(); runners];
        for (served, load) in self.0.iter().zip(loads) {
            for runner in served {
                links[usize::from(*runner)].push(load / served.len() as f64);
            }
        }
        links
    }
}

/// The mean of all runs.
struct Runs {
    /// The load of each runner.
    loads: Vec<f64>,
    joined: f64,
    calls: f64,
}

impl Runs {
    fn by_unit(units: &Units, placement: &Placement, runners: usize) -> Runs {
        let mut loads = vec![0.0; runners];
        for (load, chosen) in units.load.iter().zip(placement) {
            for runner in chosen {
                loads[usize::from(*runner)] += load / chosen.len() as f64;
            }
        }
        Runs {
            loads,
            joined: 1.0,
            calls: 1.0,
        }
    }

    /// Adds up all ways that a run can take, with their probabilities: all runners of a link
    /// are equally likely.
    fn by_link(world: &World, served: &Served, runners: usize) -> Runs {
        let mut loads = vec![0.0; runners];
        let (mut joined, mut calls, mut all) = (0.0, 0.0, 0.0);
        for chain in &world.chains {
            let length = chain.links.len();
            let of_link = chain.load / length as f64;
            // A run costs as much as its chain is long.
            all += of_link;
            let mut begins = vec![0.0; length + 1];
            begins[0] = 1.0;
            for at in 0..length {
                if begins[at] == 0.0 {
                    continue;
                }
                calls += of_link * begins[at];
                let among = &served.0[chain.links[at] as usize];
                let likely = begins[at] / among.len() as f64;
                for runner in among {
                    let behind = &chain.links[at + 1..];
                    let follow = behind.iter().take_while(|link| served.by(**link, *runner));
                    let taken = 1 + follow.count();
                    loads[usize::from(*runner)] += of_link * taken as f64 * likely;
                    begins[at + taken] += likely;
                    if taken == length {
                        joined += of_link * likely;
                    }
                }
            }
        }
        Runs {
            loads,
            joined: joined / all,
            calls: calls / all,
        }
    }
}

/// The load of calls that find no warm process, if only the `warm` links that were called last
/// have one (Che's approximation).
fn cold(loads: &[f64], warm: usize) -> f64 {
    if loads.len() <= warm {
        return 0.0;
    }
    let kept = |time: f64| {
        loads
            .iter()
            .map(|load| 1.0 - (-load * time).exp())
            .sum::<f64>()
    };
    let (mut low, mut high) = (0.0, 1.0);
    while kept(high) < warm as f64 {
        high *= 2.0;
    }
    for _ in 0..60 {
        let middle = f64::midpoint(low, high);
        if kept(middle) < warm as f64 {
            low = middle;
        } else {
            high = middle;
        }
    }
    loads.iter().map(|load| load * (-load * high).exp()).sum()
}
