//! A registry that misbehaves on request, and a real one.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::{MANIFEST, Made};

/// A request as the server saw it.
#[derive(Debug, Clone)]
pub struct Request {
    pub path: String,
    pub query: String,
    pub range: Option<u64>,
    pub authorization: Option<String>,
    pub body: String,
}

/// What the server answers.
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
    /// Close after so many bytes of the body, which claims to be whole.
    pub cut_at: Option<usize>,
    /// Go on sending for ever, in chunks.
    pub endless: bool,
    /// Say nothing at all for ever.
    pub silent: bool,
    /// Send the body in pieces of so many bytes, with a pause behind each.
    pub drip: Option<(usize, Duration)>,
}

impl Reply {
    pub fn new(status: u16, body: &[u8]) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: body.to_vec(),
            cut_at: None,
            endless: false,
            silent: false,
            drip: None,
        }
    }

    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

/// Serves on a free loopback port until the process ends.
pub struct Server {
    pub address: SocketAddr,
    pub requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    pub fn start(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let requests: Arc<Mutex<Vec<Request>>> = Arc::default();
        let seen = Arc::clone(&requests);
        let answer = Arc::new(answer);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (seen, answer) = (Arc::clone(&seen), Arc::clone(&answer));
                std::thread::spawn(move || {
                    if let Some(request) = read(&stream) {
                        seen.lock().unwrap().push(request.clone());
                        let reply = answer(&request);
                        let _ = write(stream, &reply);
                    }
                });
            }
        });
        Self { address, requests }
    }

    /// An honest registry of one image, but for what `fault` answers.
    pub fn of(
        image: &Made,
        fault: impl Fn(&Request, u32) -> Option<Reply> + Send + Sync + 'static,
    ) -> Self {
        let manifest = image.manifest.clone();
        let digest = image.digest.to_string();
        let blobs = image.blobs.clone();
        let count = Mutex::new(std::collections::HashMap::<String, u32>::new());
        Self::start(move |request| {
            let times = {
                let mut count = count.lock().unwrap();
                let times = count.entry(request.path.clone()).or_default();
                *times += 1;
                *times
            };
            if let Some(reply) = fault(request, times) {
                return reply;
            }
            if request.path.ends_with("/manifests/latest") || request.path.ends_with(&digest) {
                return Reply::new(200, &manifest).with("Content-Type", MANIFEST);
            }
            let blob = blobs
                .iter()
                .find(|(digest, _)| request.path.ends_with(digest.as_str()));
            match (blob, request.range) {
                (Some((_, bytes)), None) => Reply::new(200, bytes),
                (Some((_, bytes)), Some(from)) => {
                    let from = from as usize;
                    let range = format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len());
                    Reply::new(206, &bytes[from..]).with("Content-Range", range)
                }
                (None, _) if request.path == "/v2/" => Reply::new(200, b"{}"),
                (None, _) => Reply::new(404, br#"{"errors":[{"code":"MANIFEST_UNKNOWN"}]}"#),
            }
        })
    }

    /// What it answers to this request, asked over the wire.
    pub fn forward(&self, request: &Request) -> Reply {
        let mut stream = TcpStream::connect(self.address).unwrap();
        let method = if request.body.is_empty() {
            "GET"
        } else {
            "POST"
        };
        let query = if request.query.is_empty() {
            String::new()
        } else {
            format!("?{}", request.query)
        };
        write!(
            stream,
            "{method} {}{query} HTTP/1.1\r\nContent-Length: {}\r\n",
            request.path,
            request.body.len()
        )
        .unwrap();
        if let Some(authorization) = &request.authorization {
            write!(stream, "Authorization: {authorization}\r\n").unwrap();
        }
        write!(stream, "\r\n{}", request.body).unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        let end = bytes
            .windows(4)
            .position(|four| four == b"\r\n\r\n")
            .unwrap();
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let mut reply = Reply::new(status, &bytes[end + 4..]);
        for (name, header) in [
            ("Content-Type", "Content-Type: "),
            ("WWW-Authenticate", "WWW-Authenticate: "),
        ] {
            if let Some(value) = head.lines().find_map(|line| line.strip_prefix(header)) {
                reply = reply.with(name, value);
            }
        }
        reply
    }

    pub fn name(&self, repository: &str) -> String {
        format!("127.0.0.1:{}/{repository}", self.address.port())
    }

    pub fn count(&self, part: &str) -> usize {
        let requests = self.requests.lock().unwrap();
        requests
            .iter()
            .filter(|request| request.path.contains(part))
            .count()
    }
}

fn read(stream: &TcpStream) -> Option<Request> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let target = line.split(' ').nth(1)?.to_owned();
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let mut request = Request {
        path: path.to_owned(),
        query: query.to_owned(),
        range: None,
        authorization: None,
        body: String::new(),
    };
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            break;
        };
        match name.to_ascii_lowercase().as_str() {
            "range" => {
                request.range = value
                    .strip_prefix("bytes=")?
                    .strip_suffix('-')?
                    .parse()
                    .ok()
            }
            "authorization" => request.authorization = Some(value.to_owned()),
            "content-length" => length = value.parse().ok()?,
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    request.body = String::from_utf8(body).ok()?;
    Some(request)
}

fn write(mut stream: TcpStream, reply: &Reply) -> std::io::Result<()> {
    if reply.silent {
        std::thread::park();
    }
    write!(
        stream,
        "HTTP/1.1 {} X\r\nConnection: close\r\n",
        reply.status
    )?;
    for (name, value) in &reply.headers {
        write!(stream, "{name}: {value}\r\n")?;
    }
    if reply.endless {
        write!(stream, "Transfer-Encoding: chunked\r\n\r\n")?;
        loop {
            write!(stream, "1000\r\n")?;
            stream.write_all(&[b' '; 0x1000])?;
            write!(stream, "\r\n")?;
        }
    }
    write!(stream, "Content-Length: {}\r\n\r\n", reply.body.len())?;
    let body = &reply.body[..reply.cut_at.unwrap_or(reply.body.len())];
    let Some((bytes, pause)) = reply.drip else {
        return stream.write_all(body);
    };
    for piece in body.chunks(bytes) {
        stream.write_all(piece)?;
        std::thread::sleep(pause);
    }
    Ok(())
}
