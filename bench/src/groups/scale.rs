//! Scaling: bursts, more runners, many links, new links, and large images.

use std::path::PathBuf;

use crate::place::Place;
use crate::report::{Findings, Row, Unit};
use crate::servers::{Between, Etcd, Nats, Portal, Server};

mod burst;
mod first;
mod links;
mod runners;
mod unpack;

/// A portal, runners, and the servers between them. The fields are dropped in this order.
struct Network {
    portal: Portal,
    runners: Vec<Server>,
    etcd: Etcd,
    nats: Nats,
}

impl Network {
    /// Starts a network with one runner, and waits until all links are served.
    fn start(place: &Place, name: &str, chains: &[PathBuf]) -> anyhow::Result<Network> {
        Network::start_with(place, name, chains, &[])
    }

    /// The same, with options for the runner.
    fn start_with(
        place: &Place,
        name: &str,
        chains: &[PathBuf],
        options: &[&str],
    ) -> anyhow::Result<Network> {
        let nats = Nats::start(place, &format!("{name}-nats"))?;
        let etcd = Etcd::start(place, name)?;
        let between = Between {
            nats: &nats,
            etcd: &etcd,
        };
        let runner = between.runner_with(place, name, options)?;
        Ok(Network {
            portal: between.portal_of(place, chains, name)?,
            runners: vec![runner],
            etcd,
            nats,
        })
    }

    fn between(&self) -> Between<'_> {
        Between {
            nats: &self.nats,
            etcd: &self.etcd,
        }
    }
}

/// Ratios, and absolute figures.
type Rows = (Vec<Row>, Vec<Row>);

pub(crate) fn measure(place: &Place) -> anyhow::Result<Findings> {
    let (mut rows, mut absolute) = (Vec::new(), Vec::new());
    let mut add = |(more, more_absolute): Rows| {
        rows.extend(more);
        absolute.extend(more_absolute);
    };
    add(burst::measure(place)?);
    add(runners::measure(place)?);
    add(links::measure(place)?);
    match unpack::measure(place) {
        Ok(found) => add(found),
        // It needs packages that may not be available.
        Err(error) => eprintln!("scale: unpacking is not measured: {error:#}"),
    }
    Ok(Findings {
        name: "scale",
        what: "bursts, runners, links, images (throughput: more is better; all else: less)"
            .to_owned(),
        rows,
        absolute,
    })
}

fn mebibytes(what: &str, bytes: f64) -> Row {
    Row::single(what, Unit::Mebibytes, bytes / f64::from(1 << 20))
}
