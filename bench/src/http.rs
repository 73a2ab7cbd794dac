//! An HTTP client that costs as little as possible: it shares the processors with what is
//! measured.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use anyhow::{Context, bail};

use crate::chunked::Decoder;

/// The bytes of a read.
const READ_BYTES: usize = 256 * 1024;

/// The most bytes of a reply's head.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// The most bytes of a failed reply's body to show.
const PROBLEM_BYTES_MAX: usize = 4096;

/// How long a request's body is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Length {
    Known(u64),
    /// So long that the reply is read while the body is sent.
    Large(u64),
    /// In chunks; the reply is read while they are sent.
    Chunked,
}

/// A connection on which a small write goes out at once.
pub(crate) fn connect(address: SocketAddr) -> anyhow::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The head of a call of the first chain.
pub(crate) fn head(length: Length) -> String {
    head_for("/", length)
}

/// The head of a POST to that path.
pub(crate) fn head_for(path: &str, length: Length) -> String {
    let length = match length {
        Length::Known(bytes) => format!("Content-Length: {bytes}"),
        Length::Large(bytes) => format!("Content-Length: {bytes}\r\nPrefer: duplex"),
        Length::Chunked => "Transfer-Encoding: chunked\r\nPrefer: duplex".to_owned(),
    };
    format!("POST {path} HTTP/1.1\r\nHost: localhost\r\n{length}\r\n\r\n")
}

/// One byte, as a chunk.
pub(crate) const BYTE_CHUNK: &str = "1\r\nx\r\n";

/// A reply whose head has been read.
pub(crate) struct Reply {
    stream: TcpStream,
    pub(crate) status: u16,
    body: Body,
    /// Bytes that were read and not parsed yet.
    buffer: Vec<u8>,
    filled: usize,
}

enum Body {
    /// That many bytes are left.
    Known(u64),
    Chunked(Decoder),
}

impl Reply {
    /// Reads the head.
    pub(crate) fn begin(stream: TcpStream) -> anyhow::Result<Reply> {
        Reply::begin_with(stream, vec![0; READ_BYTES])
    }

    /// Like `begin`, with a buffer, which must have at least [`HEAD_BYTES_MAX`] bytes.
    fn begin_with(mut stream: TcpStream, mut buffer: Vec<u8>) -> anyhow::Result<Reply> {
        let mut filled = 0;
        let end = loop {
            match stream.read(&mut buffer[filled..])? {
                0 => bail!("a reply ended in its head"),
                length => filled += length,
            }
            if let Some(at) = buffer[..filled]
                .windows(4)
                .position(|four| four == b"\r\n\r\n")
            {
                break at + 4;
            }
            if filled >= HEAD_BYTES_MAX {
                bail!("a reply's head does not end");
            }
        };
        let head = str::from_utf8(&buffer[..end]).context("a reply's head is no text")?;
        let head = head.to_ascii_lowercase();
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok());
        let field = |name: &str| head.split("\r\n").find_map(|line| line.strip_prefix(name));
        let body = match field("content-length:") {
            Some(length) => Body::Known(length.trim().parse()?),
            None if field("transfer-encoding:").is_some() => Body::Chunked(Decoder::default()),
            None => Body::Known(0),
        };
        buffer.copy_within(end..filled, 0);
        Ok(Reply {
            stream,
            status: status.context("a reply has no status")?,
            body,
            buffer,
            filled: filled - end,
        })
    }

    /// Fails with the reply's body unless the reply is a success.
    pub(crate) fn expect_success(mut self) -> anyhow::Result<Reply> {
        if self.status == 200 {
            return Ok(self);
        }
        let mut problem = Vec::new();
        let read = self.read_to_end(|bytes| {
            let room = PROBLEM_BYTES_MAX - problem.len();
            problem.extend_from_slice(&bytes[..bytes.len().min(room)]);
            Ok(())
        });
        let problem = String::from_utf8_lossy(&problem);
        read.with_context(|| format!("status {}: {problem}", self.status))?;
        bail!("status {}: {problem}", self.status);
    }

    pub(crate) fn is_over(&self) -> bool {
        match &self.body {
            Body::Known(left) => *left == 0,
            Body::Chunked(decoder) => decoder.is_over(),
        }
    }

    /// Passes some more of the body to `sink`.
    fn read_some(
        &mut self,
        sink: &mut impl FnMut(&[u8]) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        if self.filled == 0 {
            self.filled = self.stream.read(&mut self.buffer)?;
            if self.filled == 0 {
                bail!("a reply's body was cut off");
            }
        }
        let bytes = &self.buffer[..self.filled];
        match &mut self.body {
            Body::Known(left) => {
                let length = usize::try_from(*left)
                    .unwrap_or(usize::MAX)
                    .min(bytes.len());
                sink(&bytes[..length])?;
                *left -= length as u64;
            }
            Body::Chunked(decoder) => decoder.feed(bytes, sink)?,
        }
        self.filled = 0;
        Ok(())
    }

    /// Passes the rest of the body to `sink`.
    pub(crate) fn read_to_end(
        &mut self,
        mut sink: impl FnMut(&[u8]) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        while !self.is_over() {
            self.read_some(&mut sink)?;
        }
        Ok(())
    }

    /// Waits for the next byte of the body.
    pub(crate) fn await_byte(&mut self) -> anyhow::Result<()> {
        let mut count = 0;
        while count == 0 {
            if self.is_over() {
                bail!("a reply's body ended early");
            }
            self.read_some(&mut |bytes| {
                count += bytes.len();
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Sends another byte on a body in chunks.
    pub(crate) fn send_byte(&mut self) -> anyhow::Result<()> {
        Ok(self.stream.write_all(BYTE_CHUNK.as_bytes())?)
    }
}

/// Repeats one request on one connection.
pub(crate) struct Caller {
    request: Vec<u8>,
    output: Vec<u8>,
    /// `None` once a call has failed.
    connection: Option<(TcpStream, Vec<u8>)>,
}

impl Caller {
    pub(crate) fn connect(address: SocketAddr, request: &[u8]) -> anyhow::Result<Caller> {
        Ok(Caller {
            request: request.to_owned(),
            output: Vec::new(),
            connection: Some((connect(address)?, vec![0; HEAD_BYTES_MAX])),
        })
    }

    /// Sends the request, and does not wait for the reply.
    pub(crate) fn send(&mut self) -> anyhow::Result<()> {
        let (stream, _) = self.connection.as_mut().context(FAILED_BEFORE)?;
        Ok(stream.write_all(&self.request)?)
    }

    /// Reads the reply, whose body must be `expected`.
    pub(crate) fn receive(&mut self, expected: &[u8]) -> anyhow::Result<()> {
        let (stream, buffer) = self.connection.take().context(FAILED_BEFORE)?;
        let mut reply = Reply::begin_with(stream, buffer)?.expect_success()?;
        self.output.clear();
        reply.read_to_end(|bytes| {
            self.output.extend_from_slice(bytes);
            Ok(())
        })?;
        if self.output != expected {
            bail!(
                "the wrong output came out: {:?}",
                String::from_utf8_lossy(&self.output)
            );
        }
        self.connection = Some((reply.stream, reply.buffer));
        Ok(())
    }

    /// Sends the request, and reads its reply.
    pub(crate) fn call(&mut self, expected: &[u8]) -> anyhow::Result<()> {
        self.send()?;
        self.receive(expected)
    }
}

const FAILED_BEFORE: &str = "an earlier call on this connection has failed";
