//! Starts NATS, etcd, portals and runners, each on a free loopback port.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::Pid;
use test_support::ports::free_port;

use crate::http;
use crate::place::{Place, find};
use crate::process::Process;

/// How long a server may take to answer.
const PATIENCE: Duration = Duration::from_secs(90);

const GLANCE: Duration = Duration::from_millis(20);

/// How long one answer may take.
const ANSWER_WAIT: Duration = Duration::from_secs(5);

/// A server that runs until it is dropped.
pub(crate) struct Server {
    process: Process,
    log: PathBuf,
}

impl Server {
    /// Starts a server; its output goes to a file.
    pub(crate) fn start(place: &Place, name: &str, mut command: Command) -> anyhow::Result<Server> {
        let log = place.path(&format!("{name}.log"));
        let file = File::create(&log)?;
        command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file);
        let process = Process::start(command)?;
        Ok(Server { process, log })
    }

    pub(crate) fn pid(&self) -> Pid {
        self.process.pid()
    }

    /// Waits until `look` returns something.
    pub(crate) fn until<T>(&self, look: impl Fn() -> Option<T>) -> anyhow::Result<T> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = look() {
                return Ok(found);
            }
            if self.process.has_ended() || Instant::now() > deadline {
                let said = std::fs::read_to_string(&self.log).unwrap_or_default();
                bail!("a server does not answer; it said:\n{said}");
            }
            sleep(GLANCE);
        }
    }

    /// Waits until this server, a runner with `--listen`, serves a link.
    pub(crate) fn until_serving(&self) -> anyhow::Result<()> {
        let address = self.until(|| self.said("listening on http://"))?;
        let address = address.parse()?;
        let serves = |said: String| (!said.contains("\"serving\":0")).then_some(());
        self.until(|| answer(address, "/readyz").and_then(serves))
    }

    /// The word behind `mark` in its log.
    fn said(&self, mark: &str) -> Option<String> {
        let said = std::fs::read_to_string(&self.log).ok()?;
        let (_, behind) = said.split_once(mark)?;
        // The line may still be incomplete.
        let (line, _) = behind.split_once('\n')?;
        line.split_whitespace().next().map(str::to_owned)
    }
}

/// A NATS server.
pub(crate) struct Nats {
    server: Server,
    url: String,
    monitoring: SocketAddr,
}

/// NATS uses more memory for less work with this, as docs/operations.md recommends.
pub(crate) const NATS_GOGC: &str = "400";

impl Nats {
    pub(crate) fn start(place: &Place, name: &str) -> anyhow::Result<Nats> {
        let (address, monitoring) = (free_address(), free_address());
        let mut command = Command::new(find("nats-server")?);
        command.args(["--addr", "127.0.0.1", "--port", &address.port().to_string()]);
        command.args(["--http_port", &monitoring.port().to_string()]);
        command.env("GOGC", NATS_GOGC);
        let server = Server::start(place, name, command)?;
        server.until(|| greets(address).then_some(()))?;
        Ok(Nats {
            server,
            url: format!("nats://{address}"),
            monitoring,
        })
    }

    pub(crate) fn pid(&self) -> Pid {
        self.server.pid()
    }

    /// How many messages have been published since it started.
    pub(crate) fn messages(&self) -> anyhow::Result<u64> {
        let said = answer(self.monitoring, "/varz")
            .context("NATS does not answer on its monitoring port")?;
        let said: serde_json::Value = serde_json::from_str(&said)?;
        let messages = said["in_msgs"].as_u64();
        messages.context("NATS does not report its number of messages")
    }
}

/// Whether a NATS server answers there.
fn greets(address: SocketAddr) -> bool {
    let Ok(stream) = TcpStream::connect(address) else {
        return false;
    };
    let mut line = String::new();
    let has_bound = stream.set_read_timeout(Some(ANSWER_WAIT)).is_ok();
    let read = BufReader::new(stream.take(4096)).read_line(&mut line);
    has_bound && read.is_ok() && line.starts_with("INFO ")
}

/// An etcd of one member.
pub(crate) struct Etcd {
    _server: Server,
    url: String,
}

impl Etcd {
    pub(crate) fn start(place: &Place, name: &str) -> anyhow::Result<Etcd> {
        let address = free_address();
        let (client, peer) = (
            format!("http://{address}"),
            format!("http://{}", free_address()),
        );
        let mut command = Command::new(find("etcd")?);
        command.args(["--name", name, "--logger", "zap", "--log-level", "error"]);
        command
            .arg("--data-dir")
            .arg(place.path(&format!("{name}.etcd")));
        command.args([
            "--listen-client-urls",
            &client,
            "--advertise-client-urls",
            &client,
        ]);
        command.args([
            "--listen-peer-urls",
            &peer,
            "--initial-advertise-peer-urls",
            &peer,
        ]);
        command.args(["--initial-cluster", &format!("{name}={peer}")]);
        let server = Server::start(place, &format!("{name}-etcd"), command)?;
        server.until(|| answers(address, "/health").then_some(()))?;
        Ok(Etcd {
            _server: server,
            url: client,
        })
    }
}

/// The servers between portals and runners.
pub(crate) struct Between<'a> {
    pub(crate) nats: &'a Nats,
    pub(crate) etcd: &'a Etcd,
}

impl Between<'_> {
    /// A command of the program, with the servers as options.
    pub(crate) fn command(&self, place: &Place, command: &str) -> Command {
        let mut consecution = place.consecution();
        consecution.arg(command);
        consecution.args(["--nats", &self.nats.url, "--etcd", &self.etcd.url]);
        consecution
    }

    /// Starts a runner of that name.
    pub(crate) fn runner(&self, place: &Place, name: &str) -> anyhow::Result<Server> {
        self.runner_with(place, name, &[])
    }

    /// Starts a runner with more options.
    pub(crate) fn runner_with(
        &self,
        place: &Place,
        name: &str,
        options: &[&str],
    ) -> anyhow::Result<Server> {
        let mut command = self.command(place, "runner");
        command
            .args(["--name", name, "--grace", "1s"])
            .args(options);
        Server::start(place, &format!("{name}-runner"), command)
    }

    /// Starts a portal for a chain, and waits until its links are served.
    pub(crate) fn portal(&self, place: &Place, chain: &Path, name: &str) -> anyhow::Result<Portal> {
        self.portal_of(place, &[chain], name)
    }

    /// Starts a portal for chains, and waits until all their links are served.
    pub(crate) fn portal_of(
        &self,
        place: &Place,
        chains: &[impl AsRef<Path>],
        name: &str,
    ) -> anyhow::Result<Portal> {
        let mut command = self.command(place, "portal");
        command.args(chains.iter().map(AsRef::as_ref));
        Portal::start(place, &format!("{name}-portal"), command)
    }

    /// Sends a payload through a chain. When this has succeeded, the chain's links are published
    /// and served.
    pub(crate) fn send(&self, place: &Place, chain: &Path) -> anyhow::Result<()> {
        let mut command = self.command(place, "send");
        command
            .arg(chain)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        Process::start(command)?.succeed()
    }
}

/// A portal, whose links are served.
pub(crate) struct Portal {
    server: Server,
    pub(crate) address: SocketAddr,
}

impl Portal {
    /// `serve`: a portal and a runner in one process.
    pub(crate) fn serving(place: &Place, chain: &Path) -> anyhow::Result<Portal> {
        let mut command = place.consecution();
        command.arg("serve").arg(chain);
        Portal::start(place, "serve", command)
    }

    /// Starts a portal with this command, to which only the address to listen on is added.
    pub(crate) fn start(place: &Place, name: &str, mut command: Command) -> anyhow::Result<Portal> {
        command.args(["--listen", "127.0.0.1:0", "--grace", "1s"]);
        let server = Server::start(place, name, command)?;
        let address = server.until(|| server.said("listening on http://"))?;
        let address = address
            .parse()
            .context("failed to read the portal's address")?;
        server.until(|| answers(address, "/readyz").then_some(()))?;
        Ok(Portal { server, address })
    }

    pub(crate) fn pid(&self) -> Pid {
        self.server.pid()
    }
}

/// Whether a GET of that path is answered with 200.
fn answers(address: SocketAddr, path: &str) -> bool {
    answer(address, path).is_some()
}

/// The body of the answer to a GET of that path, if its status is 200.
fn answer(address: SocketAddr, path: &str) -> Option<String> {
    let ask = || -> anyhow::Result<String> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(ANSWER_WAIT))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n")?;
        let mut text = Vec::new();
        let mut reply = http::Reply::begin(stream)?.expect_success()?;
        reply.read_to_end(|bytes| {
            text.extend_from_slice(bytes);
            Ok(())
        })?;
        Ok(String::from_utf8(text)?)
    };
    ask().ok()
}

/// A free loopback address.
pub(crate) fn free_address() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, free_port()).into()
}
