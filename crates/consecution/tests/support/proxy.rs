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

/// Starts one of them.
pub(crate) fn one(name: &str, target: SocketAddr) -> Option<Proxy> {
    let kind = KINDS.iter().find(|kind| kind.name == name).unwrap();
    Proxy::start(kind, target)
}

impl Proxy {
    fn start(kind: &Kind, target: SocketAddr) -> Option<Proxy> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let folder = tempfile::tempdir().unwrap();
        let config = (kind.configure)(address, target);
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
