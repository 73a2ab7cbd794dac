//! A registry of our own, on a free loopback port.

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::eventually;
use crate::ports::free_port;

/// Debian's docker-registry, empty at first; stopped when dropped.
#[derive(Debug)]
pub struct Registry {
    /// `127.0.0.1:PORT`.
    pub address: String,
    process: Child,
    folder: TempDir,
}

impl Registry {
    /// Starts one that everybody may use; `None` where there is no registry to start.
    pub fn start() -> Option<Registry> {
        Registry::start_with(None)
    }

    /// Starts one that wants a name and a password: what `htpasswd` makes of these.
    pub fn start_with_login(htpasswd: &str) -> Option<Registry> {
        Registry::start_with(Some(htpasswd))
    }

    fn start_with(htpasswd: Option<&str>) -> Option<Registry> {
        let folder = tempfile::tempdir().unwrap();
        let address = format!("127.0.0.1:{}", free_port());
        let file = folder.path().join("config.yml");
        let mut text = format!(
            "version: 0.1\nlog: {{level: error}}\nhttp: {{addr: '{address}'}}\n\
             storage: {{filesystem: {{rootdirectory: {}}}}}\n",
            data(&folder).display()
        );
        if let Some(htpasswd) = htpasswd {
            let passwords = folder.path().join("htpasswd");
            std::fs::write(&passwords, htpasswd).unwrap();
            let path = passwords.display();
            text += &format!("auth: {{htpasswd: {{realm: test, path: {path}}}}}\n");
        }
        std::fs::write(&file, text).unwrap();
        let mut process = Command::new("docker-registry")
            .args([Path::new("serve"), &file])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn()
            .ok()?;
        eventually("the registry to answer", || {
            if let Some(status) = process.try_wait().unwrap() {
                panic!("the registry has ended: {status}");
            }
            TcpStream::connect(&address).ok()
        });
        Some(Registry {
            address,
            process,
            folder,
        })
    }

    /// Where it keeps its images.
    pub fn data(&self) -> PathBuf {
        data(&self.folder)
    }
}

fn data(folder: &TempDir) -> PathBuf {
    folder.path().join("data")
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
