//! Proxies of Debian, before a server of ours.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::documented_for_http;
use test_support::eventually;
use test_support::ports::free_port;

/// A proxy that runs; killed when dropped.
pub(crate) struct Proxy {
    pub(crate) name: &'static str,
    pub(crate) address: SocketAddr,
    process: Child,
    _folder: TempDir,
}

/// What a proxy is started with: its name, its program, what that is given, and
/// its configuration for an address to listen on and one to pass calls on to.
struct Kind {
    name: &'static str,
    program: &'static str,
    arguments: &'static [&'static str],
    configure: fn(SocketAddr, SocketAddr) -> String,
}

const NGINX: &[&str] = &["-p", ".", "-e", "stderr", "-c", "config"];
const KINDS: [Kind; 4] = [
    Kind {
        name: "nginx",
        program: "nginx",
        arguments: NGINX,
        configure: |listen, target| nginx(listen, &documented_to("```nginx", target)),
    },
    Kind {
        // What people write who have not read the documentation, but for the
        // size that nginx takes.
        name: "nginx by itself",
        program: "nginx",
        arguments: NGINX,
        configure: |listen, target| {
            let location = format!("location /pipes/ {{ proxy_pass http://{target}/; }}");
            nginx(listen, &format!("client_max_body_size 0;\n{location}"))
        },
    },
    Kind {
        name: "HAProxy",
        program: "haproxy",
        arguments: &["-db", "-f", "config"],
        configure: |listen, target| {
            let documented = documented_to("```haproxy", target);
            documented.replace(" :80\n", &format!(" {listen}\n")) + "\n"
        },
    },
    Kind {
        name: "Caddy",
        program: "caddy",
        arguments: &["run", "--adapter", "caddyfile", "--config", "config"],
        configure: |listen, target| {
            let documented = documented_to("```caddy", target);
            let listening = format!(":{} {{\nbind {}\n", listen.port(), listen.ip());
            let site = documented.replacen(":80 {", &listening, 1);
            format!("{{\nadmin off\n}}\n{site}\n")
        },
    },
];

/// Starts each kind of proxy before that address; those that are not here are
/// `Err`, by their program's name.
pub(crate) fn all(target: SocketAddr) -> Vec<Result<Proxy, &'static str>> {
    let start = |kind: &Kind| Proxy::start(kind, target).ok_or(kind.program);
    KINDS.iter().map(start).collect()
}

/// Starts each kind of proxy before that address, to which it speaks over TLS, and with HTTP/2
/// if it can. `ca` has signed the certificate there.
pub(crate) fn all_encrypted(target: SocketAddr, ca: &Path) -> Vec<Result<Proxy, &'static str>> {
    let start = |kind: &Kind| {
        let encrypted = |config: String| encrypted(&config, target, ca);
        Proxy::start_with(kind, target, encrypted).ok_or(kind.program)
    };
    KINDS.iter().map(start).collect()
}

/// The same configuration with the lines of the documentation for a server with certificates.
fn encrypted(config: &str, target: SocketAddr, ca: &Path) -> String {
    let mut config = config.to_owned();
    for (plain, encrypted) in documented_pairs() {
        let filled = |text: &str| {
            let text = text.replace("127.0.0.1:8080", &target.to_string());
            text.replace("/etc/consecution/ca.pem", &ca.display().to_string())
        };
        config = config.replace(&filled(&plain), &filled(&encrypted));
    }
    config
}

/// The rows of the table that says which line of a proxy's configuration becomes which.
fn documented_pairs() -> Vec<(String, String)> {
    let rows = documented_for_http("| line of the configuration");
    let rows = rows
        .lines()
        .skip(1)
        .take_while(|line| line.starts_with('|'));
    let cell = |text: &str| text.trim().trim_matches('`').replace("` `", "\n");
    let pair = |row: &str| {
        let cells: Vec<_> = row.split(" | ").collect();
        (
            cell(cells[0].trim_start_matches("| ")),
            cell(cells[1].trim_end_matches(" |")),
        )
    };
    rows.map(pair).collect()
}

/// Starts one of them.
pub(crate) fn one(name: &str, target: SocketAddr) -> Option<Proxy> {
    let kind = KINDS.iter().find(|kind| kind.name == name).unwrap();
    Proxy::start(kind, target)
}

impl Proxy {
    fn start(kind: &Kind, target: SocketAddr) -> Option<Proxy> {
        Proxy::start_with(kind, target, |config| config)
    }

    fn start_with(
        kind: &Kind,
        target: SocketAddr,
        change: impl FnOnce(String) -> String,
    ) -> Option<Proxy> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let folder = tempfile::tempdir().unwrap();
        let config = change((kind.configure)(address, target));
        std::fs::write(folder.path().join("config"), config).unwrap();
        let process = Command::new(program(kind.program)?)
            .args(kind.arguments)
            .current_dir(folder.path())
            .env("HOME", folder.path())
            .env("XDG_CONFIG_HOME", folder.path())
            .env("XDG_DATA_HOME", folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut proxy = Proxy {
            name: kind.name,
            address,
            process,
            _folder: folder,
        };
        eventually(kind.name, || {
            let ended = proxy.process.try_wait().unwrap();
            assert!(ended.is_none(), "{}: {ended:?}", kind.name);
            TcpStream::connect(address).ok()
        });
        Some(proxy)
    }

    /// Where the chains are.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/pipes/", self.address)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Debian keeps some programs where only root looks.
fn program(name: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain([Path::new("/usr/sbin").to_owned()]);
    let mut programs = folders.map(|folder| folder.join(name));
    programs.find(|program| program.exists())
}

fn documented_to(block: &str, target: SocketAddr) -> String {
    let documented = documented_for_http(block);
    assert!(documented.contains("127.0.0.1:8080"), "{documented}");
    documented.replace("127.0.0.1:8080", &target.to_string())
}

/// In one process: what `kill` ends is all of it.
fn nginx(listen: SocketAddr, server: &str) -> String {
    format!(
        "daemon off;\nmaster_process off;\npid pid;\nerror_log stderr;\n\
         events {{}}\n\
         http {{\naccess_log off;\nclient_body_temp_path request;\nproxy_temp_path reply;\n\
         fastcgi_temp_path a;\nuwsgi_temp_path b;\nscgi_temp_path c;\n\
         server {{\nlisten {listen};\n{server}\n}}\n}}\n"
    )
}
