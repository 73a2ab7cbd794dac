//! A registry of our own, on a free loopback port.

use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::command::eventually;
use super::ports::free_port;

/// A running registry; stopped when dropped.
#[derive(Debug)]
pub(crate) struct Registry {
    /// `localhost:PORT`.
    pub(crate) address: String,
    process: Child,
    _folder: TempDir,
}

impl Registry {
    /// Starts one, empty; `None` where there is no registry to start.
    pub(crate) fn start() -> Option<Registry> {
        let folder = tempfile::tempdir().unwrap();
        let port = free_port();
        let config = folder.path().join("config.yml");
        let storage = folder.path().join("storage");
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nhttp: {{addr: '127.0.0.1:{port}'}}\n\
             storage: {{filesystem: {{rootdirectory: {}}}}}\n",
            storage.display()
        );
        std::fs::write(&config, text).unwrap();
        let mut process = Command::new("docker-registry")
            .args([Path::new("serve"), &config])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn()
            .ok()?;
        eventually("the registry to answer", || {
            if let Some(status) = process.try_wait().unwrap() {
                panic!("the registry has ended: {status}");
            }
            TcpStream::connect(("127.0.0.1", port)).ok()
        });
        Some(Registry {
            address: format!("localhost:{port}"),
            process,
            _folder: folder,
        })
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
