//! Two networks side by side: a portal with one runner, and a portal with three
//! that serve one link each.

use std::path::PathBuf;

use rustix::process::Pid;

use crate::place::Place;
use crate::servers::{Between, Etcd, Nats, Portal, Server};

/// The names of three links that do the same, but have different ids.
const LINKS: [&str; 3] = ["first", "second", "third"];

/// Both networks. The fields are dropped in this order.
pub(crate) struct Network {
    /// The file of the chain that both serve.
    pub(crate) chain: PathBuf,
    pub(crate) one: Portal,
    pub(crate) three: Portal,
    pub(crate) runner: Server,
    _three_runners: Vec<Server>,
    _etcds: Vec<Etcd>,
    nats: [Nats; 2],
}

impl Network {
    pub(crate) fn start(place: &Place) -> anyhow::Result<Network> {
        let chain = place.write("cats.yaml", &chain_of(&LINKS))?;
        let nats = [Nats::start(place, "nats-1")?, Nats::start(place, "nats-3")?];
        let [one_nats, three_nats] = &nats;

        let one_etcd = Etcd::start(place, "one")?;
        let one = Between {
            nats: one_nats,
            etcd: &one_etcd,
        };
        let runner = one.runner(place, "one")?;
        let one = one.portal(place, &chain, "one")?;

        // A runner serves every link in its etcd. So each runner has an etcd of its own, and
        // the portal has one without a runner.
        let mut etcds = Vec::new();
        let mut runners = Vec::new();
        for link in LINKS {
            let alone = place.write(&format!("{link}.yaml"), &chain_of(&[link]))?;
            let etcd = Etcd::start(place, link)?;
            let between = Between {
                nats: three_nats,
                etcd: &etcd,
            };
            runners.push(between.runner(place, link)?);
            between.send(place, &alone)?;
            etcds.push(etcd);
        }
        let portals_etcd = Etcd::start(place, "three")?;
        let three = Between {
            nats: three_nats,
            etcd: &portals_etcd,
        };
        let three = three.portal(place, &chain, "three")?;
        etcds.extend([one_etcd, portals_etcd]);
        Ok(Network {
            chain,
            one,
            three,
            runner,
            _three_runners: runners,
            _etcds: etcds,
            nats,
        })
    }
}

impl Network {
    /// The server between the portal and its only runner.
    pub(super) fn nats_of_one(&self) -> Pid {
        self.nats[0].pid()
    }
}

/// A chain of `cat` links without a deadline.
fn chain_of(links: &[&str]) -> String {
    let mut chain = "Deadline: none\nChain:\n".to_owned();
    for link in links {
        chain += &format!(
            "- Image: busybox\n  Command: /bin/cat\n  Name: {link}\n  Environment: {{PLACE: {link}}}\n"
        );
    }
    chain
}
