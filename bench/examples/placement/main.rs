//! Compares ways to choose which runners serve which links, when there are too many of both
//! for all runners to serve all links. The chains are made up.
//!
//! It starts nothing and measures nothing: it computes, from a seed, the table
//! that `docs/decisions/0041-a-plan-for-10000-runners.md` shows.
//!
//! Run it with `cargo run --release -p bench --example placement`; `-- --help` lists the
//! options.
#![forbid(unsafe_code)]

mod measure;
mod placement;
mod random;
mod world;

use clap::Parser;

use measure::{Called, Row};
use placement::{COMINGS, Change, Placement, Ranking, Rule, Units};
use random::Random;
use world::World;

/// Compares ways to choose the runners of links.
#[derive(Debug, Parser)]
struct Options {
    /// Runners.
    #[arg(long, default_value_t = 10_000)]
    runners: usize,
    /// Links, in chains of one to five.
    #[arg(long, default_value_t = 100_000)]
    links: usize,
    /// The exponent of Zipf's law: the n-th chain is called n to the power of this less often
    /// than the first.
    #[arg(long, default_value_t = 1.0)]
    zipf: f64,
    /// The share of places in chains that have a link which many chains use.
    #[arg(long, default_value_t = 0.2)]
    common: f64,
    /// The load, as a share of what all runners can do.
    #[arg(long, default_value_t = 0.5)]
    load: f64,
    /// The fewest runners of a link.
    #[arg(long, default_value_t = 3)]
    replicas: usize,
    /// The largest share of a runner that a link may use on each of its runners; with more load,
    /// it gets more runners.
    #[arg(long, default_value_t = 0.05)]
    share: f64,
    /// The largest load of a runner, as a multiple of the mean, for the rules that bound it.
    #[arg(long, default_value_t = 1.25)]
    bound: f64,
    /// Put links or chains into so many buckets, and rank runners once for each bucket.
    #[arg(long)]
    buckets: Option<u64>,
    /// Processes that a runner keeps warm.
    #[arg(long, default_value_t = 256)]
    warm: usize,
    /// The seed of all random numbers.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// The share of links, or of chains, to remove to see how many links must be loaded then.
const REMOVED: f64 = 0.01;

fn main() {
    let options = Options::parse();
    let world = World::new(&options);
    println!(
        "{} runners, {} links in {} chains, Zipf {}, load {}, seed {}\n",
        options.runners,
        world.links,
        world.chains.len(),
        options.zipf,
        options.load,
        options.seed
    );
    let fixed = Rule {
        replicas: options.replicas,
        share: f64::INFINITY,
        bound: f64::INFINITY,
    };
    let by_load = Rule {
        share: options.share,
        ..fixed
    };
    let bounded = Rule {
        bound: options.bound,
        ..by_load
    };
    measure::print_head();
    measure::everywhere(&world, &options).print();

    let links = Units::of_links(&world);
    random_row(&world, &links, &options).print();
    let ranking = Ranking::new(&links, &by_load, &options);
    for (name, rule) in [
        ("rendezvous", &fixed),
        ("rendezvous, by load", &by_load),
        ("bounded rendezvous, by load", &bounded),
    ] {
        let base = ranking.place(&links, rule, Change::None);
        let row = measure::at_rest(name, &world, &links, &base, Called::ByLink, &options);
        churn(row, &links, &ranking, rule, &base).print();
    }

    let chains = Units::of_chains(&world);
    let (wide, most) = Ranking::wide(&chains, &by_load);
    let ranking = Ranking::new(&chains, &by_load, &options);
    for (name, rule) in [
        ("whole chains, rendezvous, by load", &by_load),
        ("whole chains, bounded, by load", &bounded),
    ] {
        let base = ranking.place(&chains, rule, Change::None);
        let of_link = format!("{name}; called by link");
        measure::at_rest(&of_link, &world, &chains, &base, Called::ByLink, &options).print();
        let of_chain = format!("{name}; called by chain");
        let row = measure::at_rest(&of_chain, &world, &chains, &base, Called::ByUnit, &options);
        churn(row, &chains, &ranking, rule, &base).print();
    }
    println!(
        "\nBy load, {wide} chains have more than {} runners; one has {most}.",
        options.replicas
    );
}

/// Adds how many links must be loaded when runners and links come and go, one at a time.
fn churn(row: Row, units: &Units, ranking: &Ranking, rule: &Rule, base: &Placement) -> Row {
    let before = units.pairs(base);
    let new = |change| {
        let after = units.pairs(&ranking.place(units, rule, change));
        let is_new = |pair: &&u64| before.binary_search(pair).is_err();
        after.iter().filter(is_new).count() as f64
    };
    let mean = |change: fn(usize) -> Change| {
        let all = (0..COMINGS).map(|number| new(change(number)));
        all.sum::<f64>() / COMINGS as f64
    };
    let removed = (units.load.len() as f64 * REMOVED).ceil();
    Row {
        leaves: Some(mean(Change::Leaves)),
        joins: Some(mean(Change::Joins)),
        removed: Some(new(Change::Removed(removed as usize)) / removed),
        ..row
    }
}

/// Runners drawn at random once, and kept in a list.
fn random_row(world: &World, units: &Units, options: &Options) -> Row {
    let mut random = Random::new(options.seed ^ 1);
    let draw = |_| random.distinct(options.replicas, options.runners);
    let placement: Placement = (0..units.load.len()).map(draw).collect();
    let name = "random, from a list";
    let row = measure::at_rest(name, world, units, &placement, Called::ByLink, options);
    Row {
        // Another runner must be drawn for each of its links; a runner that joins gets none.
        leaves: Some(row.links_mean),
        joins: Some(0.0),
        removed: Some(0.0),
        ..row
    }
}
