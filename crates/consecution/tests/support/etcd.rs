//! An etcd of our own, on free loopback ports, and a way to it that can break.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use consecution::config::{EtcdOptions, Tls};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::command::{Finished, finish};
use test_support::ports::{free_port, free_ports};
use test_support::{PATIENCE, eventually};

/// An etcd with one member; stopped when dropped.
pub(crate) struct Etcd {
    folder: TempDir,
    port: u16,
    peer_port: u16,
    arguments: Vec<String>,
    /// The certificates of the server and its clients, if there are any.
    certificates: Option<Certificates>,
    /// What `etcdctl` must say of who it is, as `user:password`.
    pub(crate) user: Option<String>,
    process: Option<(Child, u16)>,
}

impl Etcd {
    /// Starts one, empty; `None` where there is no etcd to start.
    pub(crate) fn start() -> Option<Etcd> {
        let mut etcd = Etcd::reserve()?;
        etcd.run();
        Some(etcd)
    }

    /// One that is not started yet; `None` where there is none to start.
    pub(crate) fn reserve() -> Option<Etcd> {
        for program in ["etcd", "etcdctl"] {
            let mut version = Command::new(program);
            version.arg("--help").stdout(Stdio::null());
            version.stderr(Stdio::null()).status().ok()?;
        }
        let [port, peer_port] = free_ports();
        Some(Etcd {
            folder: tempfile::tempdir().unwrap(),
            port,
            peer_port,
            arguments: Vec::new(),
            certificates: None,
            user: None,
            process: None,
        })
    }

    /// Before it is started: what else to start it with.
    pub(crate) fn with_argument(mut self, argument: impl Into<String>) -> Etcd {
        self.arguments.push(argument.into());
        self
    }

    /// Before it is started: encrypts, and asks clients for a certificate.
    pub(crate) fn with_certificates(self) -> Etcd {
        let certificates = Certificates::new(self.folder.path());
        self.with(certificates)
    }

    /// As [`Etcd::with_certificates`], with these.
    pub(crate) fn with(mut self, certificates: Certificates) -> Etcd {
        let file = |flag: &str, path: &Path| format!("--{flag}={}", path.display());
        self.arguments.extend([
            file("cert-file", &certificates.server.0),
            file("key-file", &certificates.server.1),
            file("trusted-ca-file", &certificates.ca),
            "--client-cert-auth".to_owned(),
        ]);
        self.certificates = Some(certificates);
        self
    }

    /// Starts it, with the data it has; returns when it answers.
    pub(crate) fn run(&mut self) {
        self.run_at(self.port);
    }

    /// As [`Etcd::run`], where those who use it do not look for it.
    pub(crate) fn run_elsewhere(&mut self) {
        self.run_at(free_port());
    }

    fn run_at(&mut self, port: u16) {
        assert!(self.process.is_none(), "etcd runs already");
        let (client, peer) = (
            self.url(port),
            format!("http://127.0.0.1:{}", self.peer_port),
        );
        let process = Command::new("etcd")
            .args(["--name=test", "--logger=zap", "--log-level=error"])
            .args(["--heartbeat-interval=100", "--election-timeout=1000"])
            .arg(format!("--data-dir={}", self.data().display()))
            .arg(format!("--listen-client-urls={client}"))
            .arg(format!("--advertise-client-urls={client}"))
            .arg(format!("--listen-peer-urls={peer}"))
            .arg(format!("--initial-advertise-peer-urls={peer}"))
            .arg(format!("--initial-cluster=test={peer}"))
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.process = Some((process, port));
        eventually("etcd to answer", || {
            if let Some((process, _)) = &mut self.process
                && let Some(status) = process.try_wait().unwrap()
            {
                panic!("etcd has ended: {status}");
            }
            let health = self.try_ctl(["endpoint", "health"]);
            health.status.success().then_some(())
        });
    }

    /// Stops it as if the machine had lost its power.
    pub(crate) fn stop(&mut self) {
        if let Some((mut process, _)) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// Deletes all it has, while it is stopped.
    pub(crate) fn lose_data(&mut self) {
        assert!(self.process.is_none(), "etcd runs");
        std::fs::remove_dir_all(self.data()).unwrap();
    }

    /// Stops it without a word to anybody, until it is woken.
    /// Stops the process as SIGSTOP does, and waits until it stands still.
    pub(crate) fn suspend(&self) {
        self.signal(Signal::STOP);
        let (process, _) = self.process.as_ref().expect("etcd runs");
        let stopped = WaitIdOptions::STOPPED | WaitIdOptions::NOWAIT;
        waitid(WaitId::Pid(Pid::from_child(process)), stopped).unwrap();
    }

    pub(crate) fn wake(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let (process, _) = self.process.as_ref().expect("etcd runs");
        kill_process(Pid::from_child(process), signal).unwrap();
    }

    /// What `etcdctl` prints.
    #[track_caller]
    pub(crate) fn ctl<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> String {
        let finished = self.try_ctl(arguments).expect_success();
        finished.text().to_owned()
    }

    /// Runs `etcdctl`, which may fail.
    #[track_caller]
    pub(crate) fn try_ctl<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Finished {
        self.ctl_on(arguments, b"")
    }

    /// Users and roles, as `docs/operations.md` has them.
    pub(crate) fn set_up_roles(&mut self) {
        for line in super::documented("# etcd: users and roles").lines() {
            self.ctl(line.split_whitespace().skip(1));
        }
        self.user = Some("root:change-me-root".to_owned());
    }

    /// Puts any bytes under a key.
    #[track_caller]
    pub(crate) fn ctl_put(&self, key: &str, value: &[u8]) {
        self.ctl_on(["put", key], value).expect_success();
    }

    #[track_caller]
    fn ctl_on<'a>(&self, arguments: impl IntoIterator<Item = &'a str>, stdin: &[u8]) -> Finished {
        let (_, port) = self.process.as_ref().expect("etcd runs");
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3");
        command.arg(format!("--endpoints={}", self.url(*port)));
        if let Some(user) = &self.user {
            command.arg(format!("--user={user}"));
        }
        if let Some(certificates) = &self.certificates {
            command.arg("--cacert").arg(&certificates.ca);
            command.arg("--cert").arg(&certificates.client.0);
            command.arg("--key").arg(&certificates.client.1);
        }
        command.args(arguments);
        finish(command, stdin, PATIENCE)
    }

    /// How to reach it, as anybody.
    pub(crate) fn options(&self) -> EtcdOptions {
        let certificates = self.certificates.as_ref();
        EtcdOptions {
            endpoints: vec![self.url(self.port)],
            user: None,
            tls: certificates.map(Certificates::tls).unwrap_or_default(),
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    fn url(&self, port: u16) -> String {
        let scheme = self.certificates.as_ref().map_or("http", |_| "https");
        format!("{scheme}://127.0.0.1:{port}")
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A CA, and what it has signed; each a certificate and its key.
pub(crate) struct Certificates {
    ca: PathBuf,
    server: (PathBuf, PathBuf),
    client: (PathBuf, PathBuf),
}

impl Certificates {
    /// New ones, as files in `folder`.
    pub(crate) fn new(folder: &Path) -> Certificates {
        use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
        let write = |name: &str, pem: String| {
            let path = folder.join(name);
            std::fs::write(&path, pem).unwrap();
            path
        };
        let ca_key = KeyPair::generate().unwrap();
        let mut ca = CertificateParams::new(Vec::new()).unwrap();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
        let issuer = Issuer::new(ca, ca_key);
        let signed = |name: &str| {
            let key = KeyPair::generate().unwrap();
            let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
            let params = CertificateParams::new(names).unwrap();
            let certificate = params.signed_by(&key, &issuer).unwrap();
            (
                write(&format!("{name}.pem"), certificate.pem()),
                write(&format!("{name}-key.pem"), key.serialize_pem()),
            )
        };
        Certificates {
            ca: write("ca.pem", ca_pem),
            server: signed("server"),
            client: signed("client"),
        }
    }

    /// As a client gives them.
    pub(crate) fn tls(&self) -> Tls {
        Tls {
            ca_file: Some(self.ca.clone()),
            client_files: Some(self.client.clone()),
        }
    }
}

/// A relay before a server, which can be cut, with a word or without.
pub(crate) struct Relay {
    address: SocketAddr,
    state: watch::Sender<RelayState>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RelayState {
    Open,
    /// What was begun before the cut of that number leads nowhere any more.
    Cut(u32),
    Closed,
}

impl Relay {
    pub(crate) async fn to(server: SocketAddr) -> Relay {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.unwrap();
        let address = listener.local_addr().unwrap();
        let (state, told) = watch::channel(RelayState::Open);
        tokio::spawn(async move {
            let mut closed = told.clone();
            loop {
                tokio::select! {
                    _ = closed.wait_for(|state| *state == RelayState::Closed) => return,
                    accepted = listener.accept() => {
                        let (client, _) = accepted.unwrap();
                        tokio::spawn(pass_on(client, server, told.clone()));
                    }
                }
            }
        });
        Relay { address, state }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on nothing passes over the connections that are open; nobody is
    /// told. New ones work.
    pub(crate) fn cut_silently(&self) {
        self.state.send_modify(|state| {
            *state = match state {
                RelayState::Cut(cuts) => RelayState::Cut(*cuts + 1),
                _ => RelayState::Cut(1),
            };
        });
    }

    /// Closes all connections, and takes no more.
    pub(crate) fn close(&self) {
        self.state.send_replace(RelayState::Closed);
    }
}

async fn pass_on(
    mut client: TcpStream,
    server: SocketAddr,
    mut told: watch::Receiver<RelayState>,
) -> io::Result<()> {
    let mut server = TcpStream::connect(server).await?;
    let begun = *told.borrow_and_update();
    if begun == RelayState::Closed {
        // It was accepted at the very moment.
        return Ok(());
    }
    let is_cut = async {
        let state = told.wait_for(|state| *state != begun).await;
        state.map_or(RelayState::Closed, |state| *state)
    };
    tokio::select! {
        passed = tokio::io::copy_bidirectional(&mut client, &mut server) => passed.map(drop),
        state = is_cut => {
            if state != RelayState::Closed {
                tokio::time::sleep(Duration::from_secs(600)).await;
            }
            Ok(())
        }
    }
}
