//! A NATS server of our own, on a free loopback port.

use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use consecution::config::NatsOptions;
use tempfile::TempDir;

use super::command::{PATIENCE, eventually};
use super::registry::free_port;

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
        let port = free_port();
        let folder = tempfile::tempdir().unwrap();
        let text = format!("host: 127.0.0.1\nport: {port}\n{config}\n");
        std::fs::write(folder.path().join("nats.conf"), text).unwrap();
        let mut server = NatsServer {
            port,
            folder,
            process: None,
        };
        server.run().then_some(server)
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
    let Ok(stream) = TcpStream::connect(("127.0.0.1", port)) else {
        std::thread::sleep(Duration::from_millis(5));
        return false;
    };
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut line = String::new();
    let read = BufReader::new(stream).read_line(&mut line);
    read.is_ok() && line.starts_with("INFO ")
}
