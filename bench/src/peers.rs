//! Other servers that run a process for each HTTP request: the whole pipeline as one script,
//! without a sandbox.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use serde_json::json;

use crate::http::{self, Caller, Length};
use crate::place::{Place, find};
use crate::servers::{Server, free_address};
use crate::words::{INPUT, OUTPUT, STAGES};

/// How many scripts fcgiwrap runs at a time: it starts as many workers.
const FCGIWRAP_PROCESSES: usize = 16;

/// A server that answers a request with the output of `examples/words`.
pub(crate) struct Peer {
    /// Dropped in this order.
    _servers: Vec<Server>,
    pub(crate) address: SocketAddr,
    pub(crate) request: Vec<u8>,
}

impl Peer {
    /// Debian's `webhook`. It passes values of a JSON document to a script as arguments, and no
    /// standard input.
    pub(crate) fn webhook(place: &Place) -> anyhow::Result<Peer> {
        let text = str::from_utf8(INPUT)?.trim_end();
        let pipeline = place.pipeline(&STAGES);
        let (first, others) = pipeline
            .split_once(" | ")
            .context("there is one stage only")?;
        // With a here-document, a shell needs no other process for a short text.
        let body = format!("{first} <<END | {others}\n$1\nEND\n");
        let script = script(place, "webhook.sh", &body)?;
        let hooks = json!([{
            "id": "words",
            "execute-command": script,
            "include-command-output-in-response": true,
            "pass-arguments-to-command": [{"source": "payload", "name": "text"}],
        }]);
        let hooks = place.write("hooks.json", &hooks.to_string())?;
        let address = free_address();
        let mut command = Command::new(find("webhook")?);
        command.arg("-hooks").arg(hooks);
        command.args(["-ip", "127.0.0.1", "-port", &address.port().to_string()]);
        let server = Server::start(place, "webhook", command)?;
        let payload = json!({ "text": text }).to_string();
        let head = http::head_for("/hooks/words", Length::Known(payload.len() as u64));
        let head = head.replacen("\r\n", "\r\nContent-Type: application/json\r\n", 1);
        Peer::ready(vec![server], address, (head + &payload).into_bytes())
    }

    /// nginx, with Debian's `fcgiwrap` for scripts.
    pub(crate) fn fcgiwrap(place: &Place) -> anyhow::Result<Peer> {
        let head = "printf 'Content-Type: text/plain\\r\\n\\r\\n'";
        let body = format!("{head}\n{}\n", place.pipeline(&STAGES));
        let script = script(place, "cgi.sh", &body)?;
        let socket = place.path("fcgiwrap.socket");
        let mut command = Command::new(find("fcgiwrap")?);
        command.args(["-c", &FCGIWRAP_PROCESSES.to_string(), "-s"]);
        command.arg(format!("unix:{}", socket.display()));
        let wrapper = Server::start(place, "fcgiwrap", command)?;
        let address = free_address();
        let configuration = nginx(place, address, &socket, &script);
        let configuration = place.write("nginx.conf", &configuration)?;
        let mut command = Command::new(find("nginx")?);
        command.args(["-e", "stderr", "-c"]).arg(configuration);
        let server = Server::start(place, "nginx", command)?;
        let head = http::head(Length::Known(INPUT.len() as u64));
        let request = [head.as_bytes(), INPUT].concat();
        Peer::ready(vec![server, wrapper], address, request)
    }

    /// Waits until the server answers.
    fn ready(servers: Vec<Server>, address: SocketAddr, request: Vec<u8>) -> anyhow::Result<Peer> {
        let answers = || Caller::connect(address, &request)?.call(OUTPUT);
        servers[0].until(|| answers().ok())?;
        Ok(Peer {
            _servers: servers,
            address,
            request,
        })
    }
}

/// A script for dash.
fn script(place: &Place, name: &str, body: &str) -> anyhow::Result<PathBuf> {
    let dash = find("dash")?;
    let path = place.write(name, &format!("#!{}\n{body}", dash.display()))?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

/// A configuration of nginx that uses only files in the bench's folder.
fn nginx(place: &Place, address: SocketAddr, socket: &Path, script: &Path) -> String {
    let folder = place.path("nginx");
    let (folder, socket, script) = (folder.display(), socket.display(), script.display());
    // Otherwise its workers run as another user, who cannot reach the socket.
    let user = match rustix::process::geteuid().is_root() {
        true => "user root;",
        false => "",
    };
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|what| format!("  {what}_temp_path {folder}-{what};\n"))
        .concat();
    format!(
        "daemon off;\n{user}\nworker_processes auto;\npid {folder}.pid;\n\
         events {{ worker_connections 1024; }}\n\
         http {{\n  access_log off;\n  keepalive_requests 1000000;\n{temporary}  \
         server {{\n    listen {address};\n    location / {{\n      \
         fastcgi_pass unix:{socket};\n      \
         fastcgi_param SCRIPT_FILENAME {script};\n      \
         fastcgi_param REQUEST_METHOD $request_method;\n      \
         fastcgi_param CONTENT_LENGTH $content_length;\n    }}\n  }}\n}}\n"
    )
}
