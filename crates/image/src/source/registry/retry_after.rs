//! `Retry-After`: not asking a server again before it says.
//!
//! Kept for the whole process and by server, since many pulls, of several links and
//! over and over, ask the same one: a registry that counts requests counts those
//! that it refuses, too.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{StatusCode, Url};

/// The longest time for which a server is not asked, whatever it says.
const LEFT_ALONE_MAX: Duration = Duration::from_secs(3600);
/// Servers that are remembered. If there are more, the one that may be asked soonest is
/// forgotten.
const SERVERS_MAX: usize = 256;

/// A server's answer that it wants to be left alone for some time.
#[derive(Debug, Clone)]
pub(super) struct LeftAlone {
    until: Instant,
    pub(super) status: StatusCode,
    pub(super) reason: String,
}

impl LeftAlone {
    /// How long it is to be left alone from now on.
    pub(super) fn left(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }
}

static SERVERS: Mutex<BTreeMap<String, LeftAlone>> = Mutex::new(BTreeMap::new());

/// The answer of a server that must not be asked now; `None` for others.
pub(super) fn left_alone(url: &Url) -> Option<LeftAlone> {
    let mut servers = SERVERS.lock();
    let server = url.origin().ascii_serialization();
    let said = servers.get(&server)?.clone();
    if said.left().is_zero() {
        servers.remove(&server);
        return None;
    }
    Some(said)
}

/// Remembers that a server wants to be left alone for so long.
pub(super) fn leave_alone(url: &Url, after: Duration, status: StatusCode, reason: &str) {
    let mut servers = SERVERS.lock();
    let said = LeftAlone {
        until: Instant::now() + after,
        status,
        reason: reason.to_owned(),
    };
    servers.insert(url.origin().ascii_serialization(), said);
    if servers.len() > SERVERS_MAX {
        let soonest = servers.iter().min_by_key(|(_, said)| said.until);
        if let Some(server) = soonest.map(|(server, _)| server.clone()) {
            servers.remove(&server);
        }
    }
}

/// How long a server wants to be left alone, by the headers of its answer.
pub(super) fn after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?;
    read(text, SystemTime::now())
}

/// Seconds, or a date.
fn read(text: &str, now: SystemTime) -> Option<Duration> {
    let text = text.trim();
    let after = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) if text.bytes().all(|byte| byte.is_ascii_digit()) && !text.is_empty() => {
            LEFT_ALONE_MAX
        }
        Err(_) => {
            let date = httpdate::parse_http_date(text).ok()?;
            date.duration_since(now).unwrap_or_default()
        }
    };
    Some(after.min(LEFT_ALONE_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_and_dates_are_read_and_bounded() {
        let now = httpdate::parse_http_date("Sun, 29 Nov 2026 12:00:00 GMT").unwrap();
        for (text, seconds) in [
            ("0", Some(0)),
            (" 120 ", Some(120)),
            ("86400", Some(3600)),
            ("99999999999999999999999", Some(3600)),
            ("Sun, 29 Nov 2026 12:00:30 GMT", Some(30)),
            ("Sunday, 29-Nov-26 12:01:00 GMT", Some(60)),
            ("Sun Nov 29 12:02:00 2026", Some(120)),
            ("Sun, 29 Nov 2026 11:00:00 GMT", Some(0)),
            ("Tue, 01 Dec 2026 12:00:00 GMT", Some(3600)),
            ("", None),
            ("soon", None),
            ("-1", None),
            ("1.5", None),
        ] {
            let read = read(text, now).map(|after| after.as_secs());
            assert_eq!(read, seconds, "{text}");
        }
    }

    #[test]
    fn a_server_is_left_alone_for_as_long_as_it_says_and_no_other_is() {
        let url = |text: &str| text.parse::<Url>().unwrap();
        let alone = |text| left_alone(&url(text)).is_some();
        let busy = StatusCode::TOO_MANY_REQUESTS;
        leave_alone(&url("https://a/v2/"), LEFT_ALONE_MAX, busy, "");
        assert!(alone("https://a/x") && alone("https://a:443/"));
        assert!(!alone("https://a:444/") && !alone("https://b/") && !alone("http://a/"));
        leave_alone(&url("https://a/v2/"), Duration::ZERO, busy, "");
        assert!(!alone("https://a/x"));
        for server in 0..2 * SERVERS_MAX {
            leave_alone(
                &url(&format!("https://{server}/")),
                LEFT_ALONE_MAX,
                busy,
                "",
            );
        }
        assert_eq!(SERVERS.lock().len(), SERVERS_MAX);
    }
}
