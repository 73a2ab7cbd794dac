//! Addresses to listen on, as users write them.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpSocket, lookup_host};

/// How many connections the kernel may accept before we do.
const BACKLOG: u32 = 1024;

/// TCP keepalive: a client that has vanished is noticed within a minute.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 3;

/// An address to listen on: `127.0.0.1:8080`, `[::1]:8080`, `localhost:8080`, or
/// `:8080` for all addresses of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    host: Host,
    port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Host {
    /// Every address of this host.
    All,
    Ip(SocketAddr),
    Name(String),
}

/// A text is not an address to listen on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each text says it")]
pub enum ListenAddressError {
    #[error(
        "it has no port: write HOST:PORT, as in `127.0.0.1:8080`, \
         or `:8080` for all addresses of this host"
    )]
    NoPort,
    #[error(
        "it has no host: write `127.0.0.1:{0}` for this host alone, \
         or `:{0}` for all its addresses"
    )]
    NoHost(u16),
    #[error("'{0}' is no port, which is a number from 0 to 65535")]
    Port(String),
    #[error("it has a path or a scheme: write HOST:PORT")]
    Url,
    #[error("write an IPv6 address in brackets, as in `[::1]:8080`")]
    Brackets,
    #[error("'{0}' is no IPv6 address")]
    NotIpv6(String),
    #[error("'{0}' is neither an address nor the name of a host")]
    NoName(String),
}

/// An address cannot be listened on. Its text reads well after "failed to".
#[derive(Debug, thiserror::Error)]
#[error("listen on {listen}")]
pub struct ListenError {
    /// The address.
    pub listen: Listen,
    /// Why not.
    pub source: io::Error,
}

impl FromStr for Listen {
    type Err = ListenAddressError;

    fn from_str(text: &str) -> Result<Listen, ListenAddressError> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(address.into());
        }
        if text.contains('/') {
            return Err(ListenAddressError::Url);
        }
        let Some((host, port)) = text.rsplit_once(':') else {
            return Err(match text.parse() {
                Ok(port) => ListenAddressError::NoHost(port),
                Err(_) => ListenAddressError::NoPort,
            });
        };
        let bracketed = host.strip_prefix('[');
        if bracketed.is_none() && (text.parse::<Ipv6Addr>().is_ok() || host.contains(':')) {
            return Err(ListenAddressError::Brackets);
        }
        let is_number = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        let port = match port.parse() {
            Ok(port) if is_number => port,
            _ if bracketed.is_some() && port.ends_with(']') => {
                return Err(ListenAddressError::NoPort);
            }
            _ => return Err(ListenAddressError::Port(port.to_owned())),
        };
        if let Some(ip) = bracketed {
            // Valid addresses were returned above.
            let ip = ip.trim_end_matches(']').to_owned();
            return Err(ListenAddressError::NotIpv6(ip));
        }
        let host = match host {
            "" | "*" => Host::All,
            name if is_name(name) => Host::Name(name.to_owned()),
            name => return Err(ListenAddressError::NoName(name.to_owned())),
        };
        Ok(Listen { host, port })
    }
}

/// Whether this can be the name of a host. Digits and dots alone are a mistyped address.
fn is_name(name: &str) -> bool {
    let is_part_of = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    name.bytes().all(is_part_of) && name.bytes().any(|byte| byte.is_ascii_alphabetic())
}

impl From<SocketAddr> for Listen {
    fn from(address: SocketAddr) -> Listen {
        Listen {
            port: address.port(),
            host: Host::Ip(address),
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let port = self.port;
        match &self.host {
            Host::All => write!(formatter, ":{port}"),
            Host::Ip(address) => write!(formatter, "{address}"),
            Host::Name(name) => write!(formatter, "{name}:{port}"),
        }
    }
}

impl Listen {
    /// Listens on the address. Accepted connections inherit the options set here.
    pub(super) async fn bind(&self) -> Result<TcpListener, ListenError> {
        let listener = match &self.host {
            Host::All => self.bind_all(),
            Host::Ip(address) => open(*address, None),
            Host::Name(name) => self.bind_name(name).await,
        };
        listener.map_err(|source| ListenError {
            listen: self.clone(),
            source,
        })
    }

    /// Listens on every address of IPv6 and IPv4; without IPv6, of IPv4 alone.
    fn bind_all(&self) -> io::Result<TcpListener> {
        let all = |ip: IpAddr| SocketAddr::new(ip, self.port);
        match open(all(Ipv6Addr::UNSPECIFIED.into()), Some(false)) {
            Err(error) if is_without_ipv6(&error) => open(all(Ipv4Addr::UNSPECIFIED.into()), None),
            opened => opened,
        }
    }

    /// Listens on the first usable address of that name. IPv4 comes first, because every client
    /// that connects to a name tries it.
    async fn bind_name(&self, name: &str) -> io::Result<TcpListener> {
        let mut addresses: Vec<_> = lookup_host((name, self.port)).await?.collect();
        addresses.sort_by_key(SocketAddr::is_ipv6);
        let mut failed = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in addresses {
            match open(address, None) {
                Ok(listener) => return Ok(listener),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }
}

fn is_without_ipv6(error: &io::Error) -> bool {
    let errno = rustix::io::Errno::from_io_error(error);
    matches!(
        errno,
        Some(rustix::io::Errno::AFNOSUPPORT | rustix::io::Errno::ADDRNOTAVAIL)
    )
}

/// Opens a listener. If `is_only_v6` is `None`, the host's default applies.
fn open(address: SocketAddr, is_only_v6: Option<bool>) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    if let Some(is_only_v6) = is_only_v6 {
        sockopt::set_ipv6_v6only(&socket, is_only_v6)?;
    }
    // On Linux a connection inherits these.
    sockopt::set_socket_keepalive(&socket, true)?;
    sockopt::set_tcp_keepidle(&socket, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(&socket, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(&socket, KEEPALIVE_PROBES)?;
    // If this fails, it only costs speed.
    socket.set_nodelay(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_written_as_users_do() {
        for (text, shown) in [
            ("127.0.0.1:8080", "127.0.0.1:8080"),
            ("[::]:8080", "[::]:8080"),
            ("[::1]:0", "[::1]:0"),
            (":8080", ":8080"),
            ("*:8080", ":8080"),
            ("localhost:8080", "localhost:8080"),
            ("my-host.example.org:80", "my-host.example.org:80"),
        ] {
            let listen: Listen = text.parse().unwrap();
            assert_eq!(listen.to_string(), shown, "{text}");
            assert_eq!(shown.parse(), Ok(listen), "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_told_with_what_to_write() {
        for (text, wanted) in [
            ("", "it has no port"),
            ("8080", "write `127.0.0.1:8080`"),
            ("localhost", "it has no port"),
            ("127.0.0.1", "it has no port"),
            ("[::1]", "it has no port"),
            ("::1", "in brackets"),
            ("::1:8080", "in brackets"),
            (":", "'' is no port"),
            (":http", "'http' is no port"),
            (":65536", "'65536' is no port"),
            (":+80", "'+80' is no port"),
            ("http://localhost:8080", "scheme"),
            ("localhost:8080/", "path"),
            ("[::g]:80", "'::g' is no IPv6 address"),
            ("1.2.3:80", "'1.2.3' is neither"),
            ("256.0.0.1:80", "neither"),
            ("a b:80", "'a b' is neither"),
        ] {
            let error = text.parse::<Listen>().unwrap_err().to_string();
            assert!(error.contains(wanted), "{text}: {error}");
        }
    }

    #[tokio::test]
    async fn they_can_be_listened_on() {
        for text in [":0", "localhost:0", "127.0.0.1:0"] {
            let listen: Listen = text.parse().unwrap();
            let listener = listen.bind().await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let connected = tokio::net::TcpStream::connect(("127.0.0.1", port)).await;
            connected.unwrap();
        }
        let nowhere: Listen = "no-such-host.invalid:0".parse().unwrap();
        let error = nowhere.bind().await.unwrap_err();
        assert_eq!(error.to_string(), "listen on no-such-host.invalid:0");
    }
}
