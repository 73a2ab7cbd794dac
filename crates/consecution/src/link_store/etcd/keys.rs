//! The keys in etcd, and their values.
//!
//! Anybody with the permission may write anything there, so every value is validated.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use chain::{Link, LinkId};
use serde::de::DeserializeOwned;

use crate::link_store::{PortalState, RunnerState};
use crate::text::excerpt;

/// The prefix of links' keys; the link's id follows.
pub(super) const LINKS: &str = "/consecution/links/";

/// The prefix of images' keys; the image's reference follows.
pub(super) const IMAGES: &str = "/consecution/images/";

/// The prefix of runners' keys; the runner's name follows.
pub(super) const RUNNERS: &str = "/consecution/runners/";

/// The prefix of portals' keys; the portal's name follows.
pub(super) const PORTALS: &str = "/consecution/portals/";

/// The prefix of the keys of links that no portal names; the link's id follows.
pub(super) const UNNAMED: &str = "/consecution/unnamed/";

/// The longest value of an image's key: more than any digest has.
const DIGEST_BYTES_MAX: usize = 256;

/// The longest value of a runner's key: more than any [`RunnerState`] has.
const RUNNER_BYTES_MAX: usize = 256 * 1024;

/// The longest value of a portal's key, enough for some 10,000 links. It is below etcd's own
/// default limit of 1.5 MiB for a request.
const PORTAL_BYTES_MAX: usize = 1024 * 1024;

/// The most characters of a key or a value to show in a message.
const SHOWN_CHARS_MAX: usize = 200;

/// The key of a link.
pub(super) fn link_key(id: LinkId) -> String {
    format!("{LINKS}{id}")
}

/// The key of an image.
pub(super) fn image_key(reference: &str) -> String {
    format!("{IMAGES}{reference}")
}

/// The key of a runner.
pub(super) fn runner_key(name: &str) -> String {
    format!("{RUNNERS}{name}")
}

/// The key of a portal.
pub(super) fn portal_key(name: &str) -> String {
    format!("{PORTALS}{name}")
}

/// The key for the time since when no portal names a link.
pub(super) fn unnamed_key(id: LinkId) -> String {
    format!("{UNNAMED}{id}")
}

/// The first key behind all keys with `prefix`, which must be one of the above.
pub(super) fn end_of(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1; // A slash, so there is no carry.
    }
    end
}

/// The link id in a link's key.
pub(super) fn link_id(key: &[u8]) -> Option<LinkId> {
    id_behind(LINKS, key)
}

fn id_behind(prefix: &str, key: &[u8]) -> Option<LinkId> {
    let name = key.strip_prefix(prefix.as_bytes())?;
    str::from_utf8(name).ok()?.parse().ok()
}

/// Reads the link under a key.
///
/// # Errors
/// What is wrong with it, as a lower-case fragment.
pub(super) fn link(key: &[u8], value: &[u8]) -> Result<Link, String> {
    let id = link_id(key).ok_or("the key does not end in a link id")?;
    let link = Link::from_yaml(value, "etcd").map_err(|error| {
        let message = error.diagnostics().first().map(|first| &first.message);
        let message = message.map_or("it is no link", String::as_str);
        format!("its content is no link: {}", shown(message.as_bytes()))
    })?;
    match link.id() {
        found if found == id => Ok(link),
        found => Err(format!("its content is link {found}")),
    }
}

/// Reads the digest under an image's key.
///
/// # Errors
/// What is wrong with it, as a lower-case fragment.
pub(super) fn digest(value: &[u8]) -> Result<Arc<str>, String> {
    let text = str::from_utf8(value).unwrap_or_default().trim();
    let is_one_word = text.bytes().all(|byte| byte.is_ascii_graphic());
    if text.is_empty() || text.len() > DIGEST_BYTES_MAX || !is_one_word {
        return Err(format!("its content is no digest: {}", shown(value)));
    }
    Ok(text.into())
}

/// Reads the name and state of a runner from its key and value.
///
/// # Errors
/// What is wrong with them, as a lower-case fragment.
pub(super) fn runner(key: &[u8], value: &[u8]) -> Result<(String, RunnerState), String> {
    named_state(RUNNERS, "runner", RUNNER_BYTES_MAX, key, value)
}

/// Reads the name and state of a portal from its key and value.
///
/// # Errors
/// What is wrong with them, as a lower-case fragment.
pub(super) fn portal(key: &[u8], value: &[u8]) -> Result<(String, PortalState), String> {
    named_state(PORTALS, "portal", PORTAL_BYTES_MAX, key, value)
}

fn named_state<S: DeserializeOwned>(
    prefix: &str,
    who: &str,
    bytes_max: usize,
    key: &[u8],
    value: &[u8],
) -> Result<(String, S), String> {
    let name = key.strip_prefix(prefix.as_bytes()).unwrap_or(key);
    let name = str::from_utf8(name).map_err(|_| format!("the {who}'s name is not UTF-8"))?;
    if value.len() > bytes_max {
        return Err(format!(
            "its content has {} bytes; at most {bytes_max} are allowed",
            value.len()
        ));
    }
    let state = serde_json::from_slice(value).map_err(|error| {
        let error = shown(error.to_string().as_bytes());
        format!("its content is no {who}'s state: {error}")
    })?;
    Ok((name.to_owned(), state))
}

/// Reads the id of a link that no portal names, and since when.
///
/// # Errors
/// What is wrong with them, as a lower-case fragment.
pub(super) fn unnamed(key: &[u8], value: &[u8]) -> Result<(LinkId, SystemTime), String> {
    let id = id_behind(UNNAMED, key).ok_or("the key does not end in a link id")?;
    let seconds = str::from_utf8(value)
        .ok()
        .and_then(|it| it.trim().parse().ok());
    let since = seconds
        .and_then(|seconds| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds)));
    let no_time = || format!("its content is no time in seconds: {}", shown(value));
    Ok((id, since.ok_or_else(no_time)?))
}

/// The value of the key of a link that no portal names: seconds since 1970.
pub(super) fn unnamed_value(since: SystemTime) -> String {
    let seconds = since.duration_since(SystemTime::UNIX_EPOCH);
    format!("{}\n", seconds.unwrap_or_default().as_secs())
}

/// The value of a runner's key.
pub(super) fn runner_value(state: &RunnerState) -> String {
    // A state has only texts and numbers, so this cannot fail.
    serde_json::to_string_pretty(state).unwrap_or_default() + "\n"
}

/// The value of a portal's key. If the portal offers too many links for it, the value says
/// only that it is incomplete.
pub(super) fn portal_value(state: &PortalState) -> String {
    let value = |state: &PortalState| serde_json::to_string(state).unwrap_or_default() + "\n";
    let all = value(state);
    if all.len() <= PORTAL_BYTES_MAX {
        return all;
    }
    value(&PortalState {
        version: state.version.clone(),
        is_incomplete: true,
        ..PortalState::default()
    })
}

/// Makes bytes from outside fit for a message: printable, on one line, not too long.
pub(super) fn shown(bytes: &[u8]) -> String {
    let bytes = bytes.get(..4 * SHOWN_CHARS_MAX).unwrap_or(bytes);
    excerpt(&String::from_utf8_lossy(bytes), SHOWN_CHARS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_reads_back_from_its_key() {
        let link = Link::new("busybox");
        let key = link_key(link.id());
        let read = super::link(key.as_bytes(), link.to_yaml().as_bytes());
        assert_eq!(read, Ok(link));
    }

    #[test]
    fn what_is_no_link_is_told_and_shown_on_one_line() {
        let good = Link::new("busybox");
        let (key, other) = (link_key(good.id()), link_key(Link::new("other").id()));
        let yaml = good.to_yaml();
        let cases: [(&[u8], &[u8], &str); 6] = [
            (b"/consecution/links/words", yaml.as_bytes(), "link id"),
            (b"/consecution/links/\xff\xfe", yaml.as_bytes(), "link id"),
            (other.as_bytes(), yaml.as_bytes(), "its content is link "),
            (key.as_bytes(), b"", "no link"),
            (key.as_bytes(), b"\xff\x00", "no link"),
            (key.as_bytes(), b"Image: x\n\x1b[31m: 1", "no link"),
        ];
        for (key, value, wanted) in cases {
            let reason = link(key, value).unwrap_err();
            assert!(reason.contains(wanted), "{reason}");
            assert!(!reason.chars().any(char::is_control), "{reason}");
        }
    }

    #[test]
    fn a_digest_is_one_word() {
        assert_eq!(digest(b"sha256:0123\n").unwrap().as_ref(), "sha256:0123");
        for garbage in [&b""[..], b" \n", b"two words", b"\xff", &[b'a'; 257]] {
            assert!(digest(garbage).is_err(), "{garbage:?}");
        }
    }

    #[test]
    fn a_runner_reads_back_from_its_key() {
        let state = RunnerState {
            version: "1".to_owned(),
            broken: [("id".to_owned(), "why".to_owned())].into(),
            ..RunnerState::default()
        };
        let value = runner_value(&state);
        let read = runner(runner_key("a/b").as_bytes(), value.as_bytes());
        assert_eq!(read, Ok(("a/b".to_owned(), state)));
        assert!(runner(b"/consecution/runners/\xff", value.as_bytes()).is_err());
        assert!(runner(b"/consecution/runners/a", b"[").is_err());
        let long = vec![b' '; RUNNER_BYTES_MAX + 1];
        assert!(runner(b"/consecution/runners/a", &long).is_err());
    }

    #[test]
    fn a_portal_reads_back_from_its_key_and_one_that_is_too_large_says_so() {
        use crate::link_store::OfferedLink;
        let link = |name: String| OfferedLink {
            id: Link::new("busybox").id().to_string(),
            name,
        };
        let mut state = PortalState {
            version: "1".to_owned(),
            chains: [("words".to_owned(), vec![link("cat".to_owned())])].into(),
            is_incomplete: false,
        };
        let (key, value) = (portal_key("one"), portal_value(&state));
        assert_eq!(
            value,
            "{\"Version\":\"1\",\"Chains\":{\"words\":[{\"Name\":\"cat\",\
             \"Id\":\"faa4a5b2a5a7a2a6a5a4a5b2a5a7a2a6\"}]}}\n"
                .replace("faa4a5b2a5a7a2a6a5a4a5b2a5a7a2a6", &link(String::new()).id)
        );
        assert_eq!(
            portal(key.as_bytes(), value.as_bytes()),
            Ok(("one".to_owned(), state.clone()))
        );
        let many = (0..30_000).map(|number| link(number.to_string()));
        state.chains.insert("many".to_owned(), many.collect());
        let (_, read) = portal(key.as_bytes(), portal_value(&state).as_bytes()).unwrap();
        assert!(read.is_incomplete && read.chains.is_empty());
    }

    #[test]
    fn a_time_reads_back_from_its_key_to_the_second() {
        let id = Link::new("busybox").id();
        let since = SystemTime::UNIX_EPOCH + Duration::from_millis(1_234_567);
        let key = unnamed_key(id);
        let read = unnamed(key.as_bytes(), unnamed_value(since).as_bytes());
        assert_eq!(
            read,
            Ok((id, SystemTime::UNIX_EPOCH + Duration::from_secs(1_234)))
        );
        for garbage in [&b""[..], b"-1", b"soon", b"99999999999999999999", b"\xff"] {
            assert!(unnamed(key.as_bytes(), garbage).is_err(), "{garbage:?}");
        }
        assert!(unnamed(b"/consecution/unnamed/x", b"1").is_err());
    }

    #[test]
    fn a_range_ends_right_behind_its_prefix() {
        assert_eq!(end_of(LINKS), b"/consecution/links0");
    }
}
