//! A NATS client that knows nothing of Consecution, and sends what it is told to,
//! right or wrong.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use test_support::PATIENCE;

/// One connection.
pub(crate) struct PlainClient {
    stream: BufReader<TcpStream>,
    subscriptions: u32,
}

/// What came for a subscription.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) reply: String,
    head: String,
    pub(crate) payload: Vec<u8>,
}

impl PlainClient {
    /// Connects to the server at that port, as nobody.
    pub(crate) fn connect(port: u16) -> PlainClient {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut client = PlainClient {
            stream: BufReader::new(stream),
            subscriptions: 0,
        };
        assert!(client.line().starts_with("INFO "));
        client.send(
            b"CONNECT {\"verbose\":false,\"pedantic\":false,\"headers\":true,\"no_responders\":true}\r\n",
        );
        client.flush();
        client
    }

    pub(crate) fn subscribe(&mut self, subject: &str) {
        self.subscriptions += 1;
        let number = self.subscriptions;
        self.send(format!("SUB {subject} {number}\r\n").as_bytes());
    }

    /// Subscribes as one of several who share the work.
    pub(crate) fn queue_subscribe(&mut self, subject: &str, group: &str) {
        self.subscriptions += 1;
        let number = self.subscriptions;
        self.send(format!("SUB {subject} {group} {number}\r\n").as_bytes());
        self.flush();
    }

    /// Publishes a message; an empty `head` is none at all.
    pub(crate) fn publish(&mut self, subject: &str, reply: &str, head: &[u8], payload: &[u8]) {
        let (head_length, length) = (head.len(), head.len() + payload.len());
        let line = match head {
            [] => format!("PUB {subject} {reply} {length}\r\n"),
            _ => format!("HPUB {subject} {reply} {head_length} {length}\r\n"),
        };
        self.send(&[line.as_bytes(), head, payload, b"\r\n"].concat());
    }

    /// Sends a request, and gives the first message that comes back.
    #[track_caller]
    pub(crate) fn request(&mut self, subject: &str, head: &[u8], payload: &[u8]) -> Message {
        let inbox = format!("_INBOX.plain.{}", self.subscriptions + 1);
        self.subscribe(&inbox);
        self.publish(subject, &inbox, head, payload);
        self.next()
    }

    /// The next message.
    #[track_caller]
    pub(crate) fn next(&mut self) -> Message {
        loop {
            let line = self.line();
            let words: Vec<_> = line.split_whitespace().collect();
            let (words, has_head) = match words.split_first() {
                Some((&"MSG", words)) => (words, false),
                Some((&"HMSG", words)) => (words, true),
                Some((&"PING", _)) => {
                    self.send(b"PONG\r\n");
                    continue;
                }
                _ => panic!("the server says {line:?}"),
            };
            let number = |back: usize| words[words.len() - back].parse::<usize>().unwrap();
            let length = number(1);
            let head_length = if has_head { number(2) } else { 0 };
            // Subject, subscription, and lengths; a reply stands between.
            let has_reply = words.len() > if has_head { 4 } else { 3 };
            let reply = if has_reply {
                words[2].to_owned()
            } else {
                String::new()
            };
            let mut payload = vec![0; length + 2];
            self.stream.read_exact(&mut payload).unwrap();
            payload.truncate(length);
            let rest = payload.split_off(head_length);
            return Message {
                reply,
                head: String::from_utf8(payload).unwrap(),
                payload: rest,
            };
        }
    }

    /// Waits until the server has read everything.
    #[track_caller]
    pub(crate) fn flush(&mut self) {
        self.send(b"PING\r\n");
        loop {
            match &*self.line() {
                "PONG\r\n" => return,
                // It asks whether we are there.
                "PING\r\n" => self.send(b"PONG\r\n"),
                line => panic!("{line:?} instead of a PONG"),
            }
        }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stream.read_line(&mut line).unwrap();
        line
    }

    fn send(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).unwrap();
    }
}

impl Message {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let fields = self.head.lines().filter_map(|line| line.split_once(':'));
        let mut fields = fields.filter(|(field, _)| *field == name);
        fields.next().map(|(_, value)| value.trim())
    }

    /// The status in the head's first line, which the server itself sends.
    pub(crate) fn status(&self) -> Option<&str> {
        self.head.lines().next()?.split(' ').nth(1)
    }
}

/// A head with these fields.
pub(crate) fn head(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut text = "NATS/1.0\r\n".to_owned();
    for (name, value) in fields {
        text += &format!("{name}: {value}\r\n");
    }
    (text + "\r\n").into_bytes()
}
