//! Portals and runners as processes of their own, joined by servers of our own.

use std::path::Path;
use std::process::Command;

use super::chain::ChainFile;
use super::command::{Finished, consecution, finish};
use super::etcd::Etcd;
use super::http::{Served, listen};
use super::nats::NatsServer;
use super::running::Running;
use test_support::processes::{HostProcess, descendants};
use test_support::{PATIENCE, eventually};

/// What portals and runners share.
pub(crate) struct Servers {
    pub(crate) nats: NatsServer,
    pub(crate) etcd: Etcd,
}

impl Servers {
    /// Starts both, empty; `None` where one of them is not here.
    pub(crate) fn start() -> Option<Servers> {
        Some(Servers {
            nats: NatsServer::start("")?,
            etcd: Etcd::start()?,
        })
    }

    /// The program, with the shared store, told where the servers are.
    pub(crate) fn command(&self, name: &str) -> Command {
        self.command_with(name, super::home::shared())
    }

    /// As [`Servers::command`], with a store of its own.
    pub(crate) fn command_with(&self, name: &str, home: &Path) -> Command {
        let mut command = consecution(home);
        command.env("NATS_URL", self.nats.url());
        command.env("ETCD_ENDPOINTS", &self.etcd.options().endpoints[0]);
        // Where links have it, the tests are about what follows from that.
        command.env("CONSECUTION_ALLOW_HOST_NETWORK", "true");
        command.arg(name);
        command
    }

    /// `consecution send` of a payload through a chain, to its end.
    #[track_caller]
    pub(crate) fn send(&self, chain: &ChainFile, payload: &[u8]) -> Finished {
        let mut send = self.command("send");
        send.arg(chain.path());
        finish(send, payload, PATIENCE)
    }

    /// `consecution link` with these arguments, to its end.
    #[track_caller]
    pub(crate) fn link(&self, arguments: &[&str]) -> Finished {
        let mut link = self.command("link");
        link.args(arguments);
        finish(link, b"", PATIENCE)
    }

    /// What a runner says of itself in etcd; nothing where it says nothing.
    #[track_caller]
    pub(crate) fn runner_state(&self, name: &str) -> serde_json::Value {
        let key = format!("/consecution/runners/{name}");
        let state = self.etcd.ctl(["get", "--print-value-only", &key]);
        serde_json::from_str(&state).unwrap_or_default()
    }

    /// Waits until a runner serves that many links.
    #[track_caller]
    pub(crate) fn until_serving(&self, name: &str, links: usize) {
        eventually(&format!("runner {name} to serve {links} links"), || {
            (self.runner_state(name)["Serving"] == links).then_some(())
        });
    }

    /// A runner of that name. It may not serve anything yet.
    pub(crate) fn runner(&self, name: &str) -> Running {
        self.runner_with(name, &[])
    }

    /// As [`Servers::runner`], with options.
    pub(crate) fn runner_with(&self, name: &str, options: &[&str]) -> Running {
        let mut command = self.command("runner");
        command.args(["--name", name]).args(options);
        Running::start(command)
    }

    /// A portal for these chains, listening; see [`until_ready`].
    pub(crate) fn portal(&self, chains: &[&ChainFile]) -> Served {
        self.portal_with(chains, &[])
    }

    /// As [`Servers::portal`], with options.
    pub(crate) fn portal_with(&self, chains: &[&ChainFile], options: &[&str]) -> Served {
        let mut command = self.command("portal");
        command.args(["--listen", "127.0.0.1:0"]).args(options);
        command.args(chains.iter().map(|chain| chain.path()));
        listen(command)
    }
}

/// Waits until a runner serves every link of a portal's chains.
pub(crate) fn until_ready(portal: &Served) {
    eventually("the portal to be ready", || {
        let reply = portal.request("GET", "/readyz", b"");
        (reply.status == 200).then_some(())
    });
}

/// What scripts run once they have their input, so that processes at work can be
/// told from those kept in reserve.
pub(crate) const AT_WORK: &str = "sleep 98765";

/// Waits until so many processes of these runners run [`AT_WORK`].
#[track_caller]
pub(crate) fn until_at_work(runners: &[&Running], processes: usize) -> Vec<HostProcess> {
    eventually("processes to be at work", || {
        let all = runners
            .iter()
            .flat_map(|runner| descendants(runner.process()));
        let found: Vec<_> = all
            .filter(|process| process.command.trim_end() == AT_WORK)
            .collect();
        (found.len() == processes).then_some(found)
    })
}
