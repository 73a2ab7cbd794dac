//! Connections before they have a place: accepted, and encrypted where the address is.
//!
//! A handshake takes as long as its client likes, so it has a bound on its time, takes no
//! place, and keeps nobody else from being accepted: where as many are under way as there may
//! be, one makes room. It is the oldest of the client address that has the most, so that one
//! client with many silent connections displaces its own and nobody else's.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_rustls::server::TlsStream;

use super::access::{common_name, counted_as};
use super::socket::Socket;
use super::tls::Tls;

/// How long to wait if no connection can be accepted, for example because no descriptor is
/// left.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// How many handshakes are under way at a time, on one address.
const HANDSHAKES_MAX: usize = 128;

/// How long a handshake may take; and for how long it need not make room.
const HANDSHAKE_WAIT_MAX: Duration = Duration::from_secs(10);
const HANDSHAKE_WAIT_MIN: Duration = Duration::from_secs(1);

/// How many handshakes a client address may have under way and still be given that second.
const FEW: usize = 8;

/// For how long a handshake need not make room if its client address has more than a few.
/// Others wait in the kernel's queue behind the silent connections of such an address, so these
/// must be got rid of quickly: 6,400 a second. A proxy, whose handshakes are many as well, is
/// near, and needs a moment only.
const CROWD_WAIT_MIN: Duration = Duration::from_millis(20);

/// The answer to who does not encrypt.
const NOT_ENCRYPTED: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\n\
    Content-Length: 52\r\nConnection: close\r\n\r\nthis address is encrypted: write https:// before it\n";

/// How long the client may take for that answer.
const ANSWER_WAIT_MAX: Duration = Duration::from_millis(200);

/// Who is at the other end of a connection.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    pub(super) address: IpAddr,
    /// The common name in its certificate, which was verified.
    pub(super) certificate: Option<Arc<str>>,
}

/// A connection that can be served.
pub(super) struct Arrived {
    pub(super) peer: Peer,
    pub(super) socket: Socket,
    /// `None` if it is not encrypted.
    pub(super) tls: Option<Box<TlsStream<Socket>>>,
}

/// The connections of an address that have no place yet.
pub(super) struct Arrivals {
    encryption: Option<Encryption>,
    handshakes: JoinSet<Option<Arrived>>,
    /// Those of them that need not leave yet, the oldest first.
    begun: Vec<Begun>,
}

/// A handshake that is under way.
struct Begun {
    since: Instant,
    /// Its client's address, as it is counted.
    from: IpAddr,
    task: AbortHandle,
}

/// How connections are encrypted, and a count of those for which that has failed.
#[derive(Clone)]
pub(super) struct Encryption {
    pub(super) tls: Tls,
    pub(super) failures: Counter,
}

impl Arrivals {
    pub(super) fn new(encryption: Option<Encryption>) -> Arrivals {
        Arrivals {
            encryption,
            handshakes: JoinSet::new(),
            begun: Vec::new(),
        }
    }

    /// The next connection. Cancel-safe.
    pub(super) async fn next(&mut self, listener: &TcpListener) -> Arrived {
        let Some(encryption) = &self.encryption else {
            return Arrived::plain(accept(listener).await);
        };
        loop {
            self.begun.retain(|begun| !begun.task.is_finished());
            // One that has been told to go is no longer among them, but has a place until it is
            // gone: nobody else has to go for the same connection.
            let has_room = self.handshakes.len() < HANDSHAKES_MAX;
            let next = match self.begun.len() < HANDSHAKES_MAX {
                true => None,
                false => next_to_go(self.begun.iter().map(|begun| (begun.since, begun.from))),
            };
            let must_go = async {
                match next {
                    Some((index, at)) => {
                        sleep_until(at).await;
                        index
                    }
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                Some(done) = self.handshakes.join_next() => match done {
                    Ok(Some(arrived)) => return arrived,
                    Ok(None) => {}
                    // It had to make room.
                    Err(_) => { encryption.failures.inc(); }
                },
                stream = accept(listener), if has_room => {
                    let from = counted_as(Peer::of(&stream).address);
                    let task = self.handshakes.spawn(encryption.clone().handshake(stream));
                    let since = Instant::now();
                    self.begun.push(Begun { since, from, task });
                }
                index = must_go => self.begun.remove(index).task.abort(),
            }
        }
    }

    /// Goes on with a connection that the kernel has accepted.
    pub(super) fn push(&mut self, stream: TcpStream) {
        let encryption = self.encryption.clone();
        self.handshakes.spawn(async {
            match encryption {
                Some(encryption) => encryption.handshake(stream).await,
                None => Some(Arrived::plain(stream)),
            }
        });
    }

    /// The next of those that are under way, if any is.
    pub(super) async fn last(&mut self) -> Option<Arrived> {
        loop {
            if let Ok(Some(arrived)) = self.handshakes.join_next().await? {
                return Some(arrived);
            }
        }
    }
}

impl Arrived {
    fn plain(stream: TcpStream) -> Arrived {
        Arrived {
            peer: Peer::of(&stream),
            socket: Socket::new(stream),
            tls: None,
        }
    }
}

impl Peer {
    fn of(stream: &TcpStream) -> Peer {
        let address = stream.peer_addr();
        Peer {
            // It has left.
            address: address.map_or(Ipv4Addr::UNSPECIFIED.into(), |it| it.ip()),
            certificate: None,
        }
    }
}

impl Encryption {
    async fn handshake(self, stream: TcpStream) -> Option<Arrived> {
        let mut peer = Peer::of(&stream);
        let socket = Socket::new(stream);
        let accepting = self.tls.acceptor().accept(socket.clone());
        let why = match timeout(HANDSHAKE_WAIT_MAX, accepting.into_fallible()).await {
            Ok(Ok(tls)) => {
                let (_, session) = tls.get_ref();
                let shown = session.peer_certificates().and_then(<[_]>::first);
                let name = shown.map(|certificate| common_name(certificate));
                peer.certificate = name.map(|name| name.unwrap_or_default().into());
                let tls = Some(Box::new(tls));
                return Some(Arrived { peer, socket, tls });
            }
            Ok(Err((error, mut socket))) => {
                if is_not_encrypted(&error) {
                    let answer = async {
                        let _ = socket.write_all(NOT_ENCRYPTED).await;
                        let _ = socket.shutdown().await;
                    };
                    let _ = timeout(ANSWER_WAIT_MAX, answer).await;
                }
                error.to_string()
            }
            Err(_) => format!("it has taken longer than {HANDSHAKE_WAIT_MAX:?}"),
        };
        self.failures.inc();
        tracing::debug!(address = %peer.address, "a TLS handshake has failed: {why}");
        None
    }
}

/// Which handshake makes room next, and when: of those that are under way, given by when they
/// began and from where, the oldest first.
fn next_to_go(begun: impl Iterator<Item = (Instant, IpAddr)> + Clone) -> Option<(usize, Instant)> {
    let mut counts: HashMap<IpAddr, usize> = HashMap::new();
    for (_, from) in begun.clone() {
        *counts.entry(from).or_default() += 1;
    }
    let most = counts.values().copied().max()?;
    let is_crowd = most > FEW;
    let mut begun = begun.enumerate();
    let (index, (since, _)) =
        begun.find(|(_, (_, from))| !is_crowd || counts.get(from) == Some(&most))?;
    let wait = match is_crowd {
        true => CROWD_WAIT_MIN,
        false => HANDSHAKE_WAIT_MIN,
    };
    Some((index, since + wait))
}

/// What came is no TLS at all.
fn is_not_encrypted(error: &io::Error) -> bool {
    use tokio_rustls::rustls::Error;
    let error = error.get_ref().and_then(|error| error.downcast_ref());
    matches!(error, Some(Error::InvalidMessage(_)))
}

/// The next connection.
async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) if is_of_one_client(&error) => {}
            Err(error) => {
                tracing::warn!("failed to take a connection: {error}");
                sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
}

fn is_of_one_client(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What makes room among handshakes that have begun a millisecond after one another from
    /// these addresses, and when, counted from the first.
    fn next(from: impl IntoIterator<Item = u32>) -> Option<(usize, Duration)> {
        let began = Instant::now();
        let begun = (0..).zip(from).map(|(number, from)| {
            let from = IpAddr::from(Ipv4Addr::from(from));
            (began + Duration::from_millis(number), from)
        });
        let begun: Vec<_> = begun.collect();
        let (index, at) = next_to_go(begun.into_iter())?;
        Some((index, at - began))
    }

    #[test]
    fn the_address_with_the_most_makes_room_and_soon() {
        // Two are older, and from elsewhere.
        let crowd = [1, 2].into_iter().chain([3; FEW + 1]);
        let at = Duration::from_millis(2) + CROWD_WAIT_MIN;
        assert_eq!(next(crowd), Some((2, at)));
        // The larger one of two crowds, though it came later.
        let crowds = [1; FEW + 1].into_iter().chain([2; FEW + 2]);
        assert_eq!(next(crowds).map(|(index, _)| index), Some(FEW + 1));
    }

    #[test]
    fn where_all_have_few_the_oldest_makes_room_once_it_has_had_its_second() {
        let few = [1].into_iter().chain([2; FEW]);
        assert_eq!(next(few), Some((0, HANDSHAKE_WAIT_MIN)));
        assert_eq!(next([]), None);
    }
}
