//! A NATS server of our own, on a free loopback port, and connections to it.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use chain::LinkId;
use consecution::config::NatsOptions;
use consecution::transport::conformance::fake;
use consecution::transport::nats::{Connection, Nats, Role};
use consecution::transport::{
    Refusal, RefusalReason, Registration, Reply, Request, Service, Transport,
};
use futures_util::future::BoxFuture;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use test_support::ports::free_port;
use test_support::{PATIENCE, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, tcp};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};

/// A NATS server, running or stopped; stopped when dropped.
#[derive(Debug)]
pub(crate) struct NatsServer {
    /// Where it listens on loopback, whenever it runs.
    pub(crate) port: u16,
    folder: TempDir,
    process: Option<Child>,
}

impl NatsServer {
    /// Starts one; `config` is added to its configuration. `None` where there is
    /// no `nats-server` to start.
    pub(crate) fn start(config: &str) -> Option<NatsServer> {
        NatsServer::start_in(tempfile::tempdir().unwrap(), config)
    }

    fn start_in(folder: TempDir, config: &str) -> Option<NatsServer> {
        let port = free_port();
        let mut server = NatsServer {
            port,
            folder,
            process: None,
        };
        server.write(config);
        server.run().then_some(server)
    }

    /// As [`NatsServer::start`], with JetStream.
    pub(crate) fn start_with_jetstream() -> Option<NatsServer> {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("jetstream");
        let config = format!("jetstream: {{ store_dir: {store:?} }}");
        NatsServer::start_in(folder, &config)
    }

    /// `nats://127.0.0.1:PORT`.
    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// How to reach it, where it asks nobody who they are.
    pub(crate) fn options(&self) -> NatsOptions {
        NatsOptions {
            servers: vec![self.url()],
            ..NatsOptions::default()
        }
    }

    /// Has it read its configuration again, with this one added instead. What follows
    /// from that takes its time.
    pub(crate) fn reload(&self, config: &str) {
        self.write(config);
        let process = self.process.as_ref().expect("the NATS server runs");
        kill_process(Pid::from_child(process), Signal::HUP).unwrap();
    }

    /// As [`NatsServer::run_again`], with this configuration.
    pub(crate) fn run_again_with(&mut self, config: &str) {
        self.write(config);
        self.run_again();
    }

    fn write(&self, config: &str) {
        let text = format!("host: 127.0.0.1\nport: {}\n{config}\n", self.port);
        std::fs::write(self.folder.path().join("nats.conf"), text).unwrap();
    }

    /// Kills it, as a crash would.
    pub(crate) fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// Starts it again where it was, and waits until it answers.
    pub(crate) fn run_again(&mut self) {
        self.stop();
        assert!(self.run(), "nats-server was there before");
    }

    fn run(&mut self) -> bool {
        let config = self.folder.path().join("nats.conf");
        let process = Command::new("nats-server")
            .args([Path::new("-c"), &config])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let Ok(process) = process else {
            return false;
        };
        let process = self.process.insert(process);
        let port = self.port;
        eventually("the NATS server to answer", || {
            if let Some(status) = process.try_wait().unwrap() {
                panic!("the NATS server has ended: {status}");
            }
            greets(port).then_some(())
        });
        true
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Whether a NATS server at that port says hello.
fn greets(port: u16) -> bool {
    let Ok(stream) = std::net::TcpStream::connect(("127.0.0.1", port)) else {
        std::thread::sleep(Duration::from_millis(5));
        return false;
    };
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut line = String::new();
    let read = BufReader::new(stream).read_line(&mut line);
    read.is_ok() && line.starts_with("INFO ")
}

/// Connects, and waits until that is done.
pub(crate) async fn connect(options: &NatsOptions, role: Role) -> Nats {
    let nats = Nats::new(options, role, "tester").unwrap();
    until_connected(&nats).await;
    nats
}

/// Waits until there is a connection.
pub(crate) async fn until_connected(nats: &Nats) {
    let mut connection = nats.connection();
    let connected = connection.wait_for(|connection| *connection == Connection::Connected);
    timeout(PATIENCE, connected).await.unwrap().unwrap();
}

/// Waits until there is no connection, and says why.
pub(crate) async fn until_waiting(nats: &Nats) -> Arc<str> {
    let mut connection = nats.connection();
    let waiting = connection.wait_for(|connection| *connection != Connection::Connected);
    match &*timeout(PATIENCE, waiting).await.unwrap().unwrap() {
        Connection::Waiting(why) => Arc::clone(why),
        Connection::Connected => unreachable!(),
    }
}

/// A portal and a runner, each with a connection of its own.
pub(crate) struct Two {
    pub(crate) portal: Nats,
    pub(crate) runner: Nats,
}

impl Two {
    pub(crate) async fn connect(server: &NatsServer) -> Two {
        Two {
            portal: connect(&server.options(), Role::Portal).await,
            runner: connect(&server.options(), Role::Runner).await,
        }
    }
}

/// Calls over one, and answers over the other.
impl Transport for Two {
    fn call(&self, id: LinkId, request: Request) -> BoxFuture<'_, Result<Reply, Refusal>> {
        self.portal.call(id, request)
    }

    fn serve(&self, id: LinkId, service: Arc<dyn Service>) -> Registration {
        self.runner.serve(id, service)
    }

    fn probe(&self, id: LinkId) -> BoxFuture<'_, Result<(), RefusalReason>> {
        self.portal.probe(id)
    }
}

/// Serves a new link, and waits until a call would find it.
pub(crate) async fn serve(
    transport: &dyn Transport,
    service: Arc<dyn Service>,
) -> (LinkId, Registration) {
    let id = fake::link_id();
    let registration = transport.serve(id, service);
    until_served(transport, id).await;
    (id, registration)
}

pub(crate) async fn until_served(transport: &dyn Transport, id: LinkId) {
    let deadline = Instant::now() + PATIENCE;
    while transport.probe(id).await.is_err() {
        assert!(Instant::now() < deadline, "nobody serves the link");
        sleep(Duration::from_millis(5)).await;
    }
}

/// Stands between a client and the server, and can be cut off.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    /// How many connections there have been.
    pub(crate) connections: Arc<AtomicUsize>,
    /// Whether bytes are let through.
    open: watch::Sender<bool>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    pub(crate) async fn start(server: &NatsServer) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (open, is_open) = watch::channel(true);
        let target = server.port;
        let connections = Arc::<AtomicUsize>::default();
        let count = Arc::clone(&connections);
        let accepting = tokio::spawn(async move {
            // Dropped with the task, which closes all connections.
            let mut passing = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                let is_open = is_open.clone();
                passing.spawn(async move {
                    let server = TcpStream::connect(("127.0.0.1", target)).await.unwrap();
                    let (client_in, client_out) = client.into_split();
                    let (server_in, server_out) = server.into_split();
                    tokio::join!(
                        pass(client_in, server_out, is_open.clone()),
                        pass(server_in, client_out, is_open),
                    );
                });
            }
        });
        Proxy {
            port,
            connections,
            open,
            accepting,
        }
    }

    /// How to reach the server through it.
    pub(crate) fn options(&self) -> NatsOptions {
        NatsOptions {
            servers: vec![format!("nats://127.0.0.1:{}", self.port)],
            ..NatsOptions::default()
        }
    }

    /// Lets nothing through any more, and says nothing about it: a cable that is
    /// pulled. Or plugs it in again.
    pub(crate) fn set_open(&self, open: bool) {
        self.open.send_replace(open);
    }
}

/// Closes all connections.
impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn pass(
    mut from: tcp::OwnedReadHalf,
    mut to: tcp::OwnedWriteHalf,
    mut is_open: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let length = from.read(&mut buffer).await.unwrap_or(0);
        if length == 0 || is_open.wait_for(|open| *open).await.is_err() {
            return;
        }
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}
