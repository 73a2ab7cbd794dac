//! Calls of a small warm chain over HTTP, compared with shells that start the same commands,
//! and with servers that run a script for each request.

use crate::http::{self, Length};
use crate::peers::Peer;
use crate::place::Place;
use crate::report::Findings;
use crate::servers::{Between, Etcd, Nats, Portal, Server};
use crate::words::{CHAIN, INPUT};

mod alone;
mod crowd;
mod load;
mod schedule;

/// All servers. The fields are dropped in this order.
struct Everything {
    serve: Portal,
    portal: Portal,
    runner: Server,
    webhook: Peer,
    fcgiwrap: Peer,
    _etcd: Etcd,
    nats: Nats,
}

/// A server to call, and the request for it.
#[derive(Clone, Copy)]
struct Target<'a> {
    name: &'static str,
    address: std::net::SocketAddr,
    request: &'a [u8],
}

impl Everything {
    fn start(place: &Place) -> anyhow::Result<Everything> {
        let nats = Nats::start(place, "nats")?;
        let etcd = Etcd::start(place, "etcd")?;
        let between = Between {
            nats: &nats,
            etcd: &etcd,
        };
        let runner = between.runner(place, "one")?;
        let portal = between.portal(place, CHAIN.as_ref(), "one")?;
        Ok(Everything {
            serve: Portal::serving(place, CHAIN.as_ref())?,
            portal,
            runner,
            webhook: Peer::webhook(place)?,
            fcgiwrap: Peer::fcgiwrap(place)?,
            _etcd: etcd,
            nats,
        })
    }

    /// Ours first; `request` is what those are asked.
    fn targets<'a>(&'a self, request: &'a [u8]) -> [Target<'a>; 4] {
        let ours = |name, portal: &Portal| Target {
            name,
            address: portal.address,
            request,
        };
        let theirs = |name, peer: &'a Peer| Target {
            name,
            address: peer.address,
            request: &peer.request,
        };
        [
            ours("portal, NATS, runner", &self.portal),
            ours("serve", &self.serve),
            theirs("webhook", &self.webhook),
            theirs("nginx + fcgiwrap", &self.fcgiwrap),
        ]
    }
}

pub(crate) fn measure(place: &Place) -> anyhow::Result<Findings> {
    let everything = Everything::start(place)?;
    let head = http::head(Length::Known(INPUT.len() as u64));
    let request = [head.as_bytes(), INPUT].concat();
    let targets = everything.targets(&request);
    let (mut rows, mut absolute) = (Vec::new(), Vec::new());
    let mut add = |(more, more_absolute)| {
        rows.extend(more);
        absolute.extend(more_absolute);
    };
    add(alone::measure(place, &everything, targets)?);
    let crowd = crowd::measure(place, targets)?;
    let slowest = crowd.slowest();
    add(crowd.rows());
    add(schedule::measure(place, targets, slowest)?);
    add(load::measure(place, &everything, targets)?);
    Ok(Findings {
        name: "latency",
        what: "cat | grep data | xargs -n 1, warm, over HTTP (time, less is better; at 16: calls \
               per second)"
            .to_owned(),
        rows,
        absolute,
    })
}
