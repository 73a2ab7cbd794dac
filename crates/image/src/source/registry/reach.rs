//! Where the answers of a registry may lead us: by a redirect, or to its token
//! server.
//!
//! A runner can reach what strangers cannot: what listens on its machine's loopback only,
//! and the link-local addresses where clouds keep secrets. A registry elsewhere must not
//! make it talk to those, nor talk without TLS to hosts for which that was allowed.
//! Private addresses (10.0.0.0/8 and the like) are not refused: companies have their
//! registries and their storage there.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use parking_lot::Mutex;
use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::Registries;
use super::address::{address_of, authority, authority_with_port, is_loopback, may_be_plain};

/// Hosts that one endpoint may lead us to.
const HOSTS_MAX: usize = 256;

/// Where one endpoint may lead us.
pub(super) struct Reach {
    own: Url,
    /// The endpoint is on this machine, or may be spoken to without TLS: then its
    /// answers may lead to others that are, or may.
    trusted: bool,
    options: Registries,
    /// Names that the endpoint's answers mentioned, its own at another port among them.
    /// They must not resolve to this machine, which shows only when they are resolved.
    led_to: Mutex<HashSet<String>>,
}

impl Reach {
    pub(super) fn of(own: &Url, options: &Registries) -> Self {
        Self {
            own: own.clone(),
            trusted: may_be_plain(own, options),
            options: options.clone(),
            led_to: Mutex::default(),
        }
    }

    /// As if it were on another machine.
    #[cfg(test)]
    pub(super) fn elsewhere(own: &Url) -> Self {
        Self {
            trusted: false,
            ..Self::of(own, &Registries::default())
        }
    }

    /// The URL of the endpoint itself.
    pub(super) fn own(&self) -> &Url {
        &self.own
    }

    /// Whether a URL is of the endpoint itself: scheme, host and port.
    pub(super) fn is_own(&self, url: &Url) -> bool {
        self.own.origin() == url.origin()
    }

    /// Allows to go on to a URL; the error reads on after "its storage".
    pub(super) fn allow(&self, url: &Url) -> Result<(), String> {
        if self.is_own(url) {
            return Ok(());
        }
        let to = authority_with_port(url);
        let may_be_plain = self.trusted && may_be_plain(url, &self.options);
        if url.scheme() != "https" && !(url.scheme() == "http" && may_be_plain) {
            return Err(match self.trusted {
                true => format!(
                    "is at {to} without TLS; allow plain HTTP to '{}' if you trust it and the way there",
                    authority(url)
                ),
                false => format!(
                    "is at {to} without TLS, where a registry may lead only if plain HTTP to itself is allowed, and to '{}', too",
                    authority(url)
                ),
            });
        }
        if self.trusted {
            return Ok(());
        }
        if is_loopback(url) || address_of(url).is_some_and(is_of_this_machine) {
            return Err(format!(
                "is at {to}, where the registry is not: an address that each machine has for itself"
            ));
        }
        match url.domain() {
            Some(name) => self.watch(name),
            None => Ok(()),
        }
    }

    pub(super) fn watch(&self, name: &str) -> Result<(), String> {
        let mut led_to = self.led_to.lock();
        if led_to.len() >= HOSTS_MAX && !led_to.contains(name) {
            return Err(format!("is at more than {HOSTS_MAX} hosts"));
        }
        led_to.insert(name.to_owned());
        Ok(())
    }
}

/// Resolves names for requests that lead elsewhere. The endpoint itself is asked by
/// a client without this: its own name may mean this machine, but only its own port
/// is then what somebody here wrote down.
pub(super) struct LedTo(pub(super) Arc<Reach>);

impl Resolve for LedTo {
    /// Resolves as the system does. The name of a proxy may mean this machine, since no
    /// stranger chose it.
    fn resolve(&self, name: Name) -> Resolving {
        let watched = self.0.led_to.lock().contains(name.as_str());
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let allowed: Vec<SocketAddr> = found
                .filter(|address| !watched || !is_of_this_machine(address.ip()))
                .collect();
            if allowed.is_empty() {
                let problem = format!(
                    "{} has no address but those that each machine has for itself",
                    name.as_str()
                );
                return Err(problem.into());
            }
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

/// Whether each machine means itself, or its own network segment, by this address:
/// loopback, the unspecified address (which is loopback for whoever connects to it), and
/// link-local ones.
fn is_of_this_machine(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_link_local() || v4.octets()[0] == 0,
        IpAddr::V6(v6) => match v4_within(v6) {
            Some(v4) => is_of_this_machine(v4.into()),
            None => v6.is_unicast_link_local(),
        },
    }
}

/// The address of version 4 that one of version 6 stands for: mapped, compatible
/// (of which loopback is 0.0.0.1 and the unspecified one 0.0.0.0), or behind a
/// translator (NAT64).
fn v4_within(v6: Ipv6Addr) -> Option<Ipv4Addr> {
    let [.., a, b, c, d] = v6.octets();
    let translated = v6.segments()[..6] == [0x64, 0xff9b, 0, 0, 0, 0];
    v6.to_ipv4()
        .or_else(|| translated.then(|| Ipv4Addr::new(a, b, c, d)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reach(own: &str) -> Reach {
        let mut options = Registries::default();
        options.plain_http.insert("in.house:5000".into());
        Reach::of(&own.parse().unwrap(), &options)
    }

    fn allows(reach: &Reach, url: &str) -> bool {
        reach.allow(&url.parse().unwrap()).is_ok()
    }

    const HERE: [&str; 14] = [
        "https://127.0.0.1/x",
        "https://127.1:8443/x",
        "https://2130706433/x",
        "https://localhost/x",
        "https://[::1]/x",
        "https://[::ffff:127.0.0.1]/x",
        "https://[::127.0.0.1]/x",
        "https://[::ffff:169.254.1.1]/x",
        "https://[64:ff9b::169.254.169.254]/x",
        "https://0.0.0.0/x",
        "https://0.1.2.3/x",
        "https://[::]/x",
        "https://169.254.169.254/latest",
        "https://[fe80::1]/x",
    ];

    #[test]
    fn a_registry_elsewhere_leads_neither_here_nor_to_where_there_is_no_tls() {
        let elsewhere = reach("https://registry.example.com");
        let plain = [
            "http://127.0.0.1:5000/x",
            "http://localhost/x",
            "http://in.house:5000/x",
            "http://registry.example.com/x",
            "http://10.0.0.1/x",
            "ftp://storage.example.com/x",
            "file:///etc/passwd",
        ];
        for url in HERE.into_iter().chain(plain) {
            assert!(!allows(&elsewhere, url), "{url}");
        }
        for url in [
            "https://registry.example.com/y",
            "https://registry.example.com:444/y",
            "https://storage.example.com/x",
            "https://10.0.0.1/x",
            "https://192.168.1.1:9000/x",
            "https://[fd00::1]/x",
        ] {
            assert!(allows(&elsewhere, url), "{url}");
        }
    }

    #[test]
    fn whoever_leads_to_where_there_is_no_tls_is_told_what_to_allow() {
        for (own, to, says) in [
            (
                "http://127.0.0.1:5000",
                "http://storage:9000/x",
                "allow plain HTTP to 'storage:9000'",
            ),
            (
                "http://in.house:5000",
                "http://storage/x",
                "allow plain HTTP to 'storage'",
            ),
            (
                "https://registry",
                "http://storage:9000/x",
                "and to 'storage:9000', too",
            ),
        ] {
            let problem = reach(own).allow(&to.parse().unwrap()).unwrap_err();
            assert!(problem.contains(says), "{problem}");
            assert!(problem.contains("storage") && problem.contains("plain HTTP"));
        }
    }

    #[test]
    fn a_registry_on_this_machine_or_named_for_it_leads_here() {
        for own in ["http://127.0.0.1:5000", "http://in.house:5000"] {
            let trusted = reach(own);
            for url in HERE {
                assert!(allows(&trusted, url), "{own} {url}");
            }
            assert!(allows(&trusted, "http://127.0.0.1:1/x"));
            assert!(allows(&trusted, "http://in.house:5000/x"));
            assert!(!allows(&trusted, "http://10.0.0.1/x"));
            assert!(!allows(&trusted, "http://169.254.169.254/x"));
        }
    }

    #[tokio::test]
    async fn a_name_that_means_this_machine_leads_nowhere() {
        let elsewhere = reach("https://registry.example.com");
        let led_to = LedTo(Arc::new(elsewhere));
        let resolve = || led_to.resolve("localhost".parse().unwrap());
        assert!(resolve().await.is_ok());
        led_to.0.watch("localhost").unwrap();
        let error = resolve().await.err().unwrap().to_string();
        assert!(error.contains("localhost has no address but"), "{error}");
    }

    #[test]
    fn its_own_name_is_watched_at_any_port_but_its_own() {
        let elsewhere = reach("https://registry.example.com");
        let watched = || elsewhere.led_to.lock().contains("registry.example.com");
        assert!(allows(&elsewhere, "https://registry.example.com:443/x"));
        assert!(!watched());
        assert!(allows(&elsewhere, "https://registry.example.com:6379/x"));
        assert!(watched());
    }

    #[test]
    fn hosts_are_no_more_than_so_many() {
        let elsewhere = reach("https://registry.example.com");
        let host = |number: usize| format!("https://{number}.example.com/");
        for number in 0..HOSTS_MAX {
            assert!(allows(&elsewhere, &host(number)));
        }
        assert!(!allows(&elsewhere, &host(HOSTS_MAX)));
        assert!(allows(&elsewhere, &host(0)));
    }
}
