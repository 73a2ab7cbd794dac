//! A server of the real program on a free port, and a client that sends what it
//! is told to, right or wrong.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::ops::Deref;
use std::process::Command;
use std::time::Duration;

use super::chain::ChainFile;
use super::command::{Finished, consecution};
use super::running::Running;
use test_support::PATIENCE;

/// `consecution serve` or `consecution portal`, running.
pub(crate) struct Served {
    running: Running,
    pub(crate) address: SocketAddr,
}

/// Serves these chains, and waits until all of them are ready.
pub(crate) fn serve(chains: &[&ChainFile]) -> Served {
    serve_with(chains, &[])
}

/// As [`serve`], with options.
pub(crate) fn serve_with(chains: &[&ChainFile], options: &[&str]) -> Served {
    let served = listen(serving(chains, options));
    served.await_line(" INFO ready");
    served
}

/// The command that does.
pub(crate) fn serving(chains: &[&ChainFile], options: &[&str]) -> Command {
    let mut command = consecution(super::home::shared());
    command.args(["serve", "--listen", "127.0.0.1:0"]);
    command.args(options);
    command.args(chains.iter().map(|chain| chain.path()));
    command
}

/// Starts that command, and waits until it listens.
pub(crate) fn listen(command: Command) -> Served {
    let running = Running::start(command);
    let line = running.await_line("listening on http");
    let (_, address) = line.split_once("://").unwrap();
    // In JSON there is more behind it.
    let address = address.split('"').next().unwrap();
    let address = address.parse().unwrap();
    Served { running, address }
}

impl Deref for Served {
    type Target = Running;

    fn deref(&self) -> &Running {
        &self.running
    }
}

impl Served {
    /// Waits for its end.
    #[track_caller]
    pub(crate) fn end(self) -> Finished {
        self.running.end()
    }

    /// `curl` with these arguments and the URL of that path.
    pub(crate) fn curl(&self, path: &str, arguments: &[&str]) -> Command {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--max-time", "60"]);
        curl.args(arguments);
        curl.arg(format!("http://{}{path}", self.address));
        curl
    }

    #[track_caller]
    pub(crate) fn connect(&self) -> Client {
        self.try_connect().unwrap()
    }

    /// A connection, where it takes any.
    pub(crate) fn try_connect(&self) -> Option<Client> {
        Client::to(self.address)
    }

    /// Begins a call whose body is yet to be sent, in chunks, and whose reply may
    /// begin before that.
    #[track_caller]
    pub(crate) fn begin(&self, path: &str) -> Client {
        let mut client = self.connect();
        client.send(format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nPrefer: duplex\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\n\r\n"
        ));
        client
    }

    /// Sends one request on a connection of its own, and reads the reply.
    #[track_caller]
    pub(crate) fn request(&self, method: &str, path: &str, body: &[u8]) -> Reply {
        let mut client = self.connect();
        client.send_request(method, path, &[], body);
        client.reply()
    }

    #[track_caller]
    pub(crate) fn post(&self, path: &str, body: &[u8]) -> Reply {
        self.request("POST", path, body)
    }
}

/// One connection.
pub(crate) struct Client(BufReader<TcpStream>);

/// A reply, read to its end.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    head: String,
    pub(crate) body: Vec<u8>,
    /// Behind a body in chunks.
    pub(crate) trailers: String,
    /// The body has ended as it must.
    pub(crate) is_complete: bool,
}

impl Client {
    /// A connection to whoever listens there, if anybody does.
    pub(crate) fn to(address: SocketAddr) -> Option<Client> {
        let stream = TcpStream::connect(address).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Some(Client(BufReader::new(stream)))
    }

    /// The same connection, to send from another thread.
    pub(crate) fn sender(&self) -> Client {
        Client(BufReader::new(self.0.get_ref().try_clone().unwrap()))
    }

    #[track_caller]
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.get_mut().write_all(bytes.as_ref()).unwrap();
    }

    pub(crate) fn give_up_sending_after(&mut self, patience: Duration) {
        self.0.get_ref().set_write_timeout(Some(patience)).unwrap();
    }

    /// Sends what may be refused on the way.
    pub(crate) fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        self.0.get_mut().write_all(bytes.as_ref())
    }

    #[track_caller]
    pub(crate) fn send_request(&mut self, method: &str, path: &str, head: &[&str], body: &[u8]) {
        let mut text = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n");
        for field in head {
            text += &format!("{field}\r\n");
        }
        text += &format!("Content-Length: {}\r\n\r\n", body.len());
        self.send([text.as_bytes(), body].concat());
    }

    /// Sends a body's chunk, after a head with `Transfer-Encoding: chunked`.
    #[track_caller]
    pub(crate) fn send_chunk(&mut self, bytes: &[u8]) {
        self.try_send_chunk(bytes).unwrap();
    }

    pub(crate) fn try_send_chunk(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        let head = format!("{:x}\r\n", bytes.len());
        self.try_send([head.as_bytes(), bytes, b"\r\n"].concat())
    }

    /// Sends the end of a body in chunks.
    #[track_caller]
    pub(crate) fn end_chunks(&mut self) {
        self.send("0\r\n\r\n");
    }

    pub(crate) fn shut_down(&mut self) {
        self.0.get_mut().shutdown(Shutdown::Write).unwrap();
    }

    /// The next line; empty at the end of the connection.
    pub(crate) fn line(&mut self) -> String {
        let mut line = Vec::new();
        // A connection that is reset has ended, too.
        let _ = self.0.read_until(b'\n', &mut line);
        String::from_utf8(line).unwrap()
    }

    /// A head, up to the empty line.
    pub(crate) fn head(&mut self) -> String {
        let mut head = String::new();
        loop {
            let line = self.line();
            if line.trim_end().is_empty() {
                return head;
            }
            head += &line;
        }
    }

    /// Reads a chunk; `None` where the connection ends instead.
    pub(crate) fn chunk(&mut self) -> Option<Vec<u8>> {
        let length = usize::from_str_radix(self.line().trim_end(), 16).ok()?;
        let mut chunk = vec![0; length];
        self.0.read_exact(&mut chunk).ok()?;
        if length > 0 {
            self.line();
        }
        Some(chunk)
    }

    /// What is left until the connection ends.
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        let _ = self.0.read_to_end(&mut rest);
        rest
    }

    /// The reply to `HEAD`, which has no body whatever its length says.
    #[track_caller]
    pub(crate) fn reply_to_head(&mut self) -> Reply {
        let mut head = self.head();
        if head.starts_with("HTTP/1.1 100 ") {
            head = self.head();
        }
        let status = head.split(' ').nth(1).map(|status| status.parse().unwrap());
        Reply {
            status: status.unwrap_or_else(|| panic!("no reply: {head:?}")),
            head,
            body: Vec::new(),
            trailers: String::new(),
            is_complete: false,
        }
    }

    #[track_caller]
    pub(crate) fn reply(&mut self) -> Reply {
        let mut reply = self.reply_to_head();
        if let Some(length) = reply.header("content-length") {
            reply.body = vec![0; length.parse().unwrap()];
            reply.is_complete = self.0.read_exact(&mut reply.body).is_ok();
            return reply;
        }
        while let Some(chunk) = self.chunk() {
            if chunk.is_empty() {
                reply.trailers = self.head();
                reply.is_complete = true;
                break;
            }
            reply.body.extend(chunk);
        }
        reply
    }
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        field(&self.head, name)
    }

    pub(crate) fn trailer(&self, name: &str) -> Option<&str> {
        field(&self.trailers, name)
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Reply {
        let body = self.body.escape_ascii();
        assert_eq!(self.status, status, "{}{body}", self.head);
        assert!(self.is_complete, "{}{body}", self.head);
        self
    }

    /// It is a problem with that status, and gives it.
    #[track_caller]
    pub(crate) fn problem(self, status: u16) -> serde_json::Value {
        let reply = self.expect(status);
        assert_eq!(
            reply.header("content-type"),
            Some("application/problem+json")
        );
        let problem: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
        assert_eq!(problem["status"], status);
        assert_eq!(
            reply.header("consecution-call-id"),
            problem["call_id"].as_str()
        );
        problem
    }
}

fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let fields = head.lines().filter_map(|line| line.split_once(':'));
    let mut fields = fields.filter(|(field, _)| field.eq_ignore_ascii_case(name));
    fields.next().map(|(_, value)| value.trim())
}
