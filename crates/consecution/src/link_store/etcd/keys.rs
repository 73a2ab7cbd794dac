//! The keys in etcd, and what may stand in them.
//!
//! Anybody with the permission may write anything there, so nothing is
//! believed that does not read back as what it must be.

use std::sync::Arc;

use chain::{Link, LinkId};

use crate::link_store::RunnerState;

/// What the keys of links begin with; the link's id follows.
pub(super) const LINKS: &str = "/consecution/links/";

/// What the keys of images begin with; the image's reference follows.
pub(super) const IMAGES: &str = "/consecution/images/";

/// What the keys of runners begin with; the runner's name follows.
pub(super) const RUNNERS: &str = "/consecution/runners/";

/// Bytes of what an image's key holds: more than any digest has.
const DIGEST_BYTES_MAX: usize = 256;

/// Bytes of what a runner's key holds: more than any [`RunnerState`] should.
const RUNNER_BYTES_MAX: usize = 256 * 1024;

/// Characters of a key or of what is wrong with it, in a message.
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

/// The first key behind all that begin with `prefix`, which must be one of the
/// above.
pub(super) fn end_of(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1; // A slash, so there is no carry.
    }
    end
}

/// The id that a link's key is for.
pub(super) fn link_id(key: &[u8]) -> Option<LinkId> {
    let name = key.strip_prefix(LINKS.as_bytes())?;
    str::from_utf8(name).ok()?.parse().ok()
}

/// The link under a key.
///
/// # Errors
/// Why it is none, as a lower-case fragment.
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

/// The digest under an image's key.
///
/// # Errors
/// Why it is none, as a lower-case fragment.
pub(super) fn digest(value: &[u8]) -> Result<Arc<str>, String> {
    let text = str::from_utf8(value).unwrap_or_default().trim();
    let is_one_word = text.bytes().all(|byte| byte.is_ascii_graphic());
    if text.is_empty() || text.len() > DIGEST_BYTES_MAX || !is_one_word {
        return Err(format!("its content is no digest: {}", shown(value)));
    }
    Ok(text.into())
}

/// The name and state under a runner's key.
///
/// # Errors
/// Why there is none, as a lower-case fragment.
pub(super) fn runner(key: &[u8], value: &[u8]) -> Result<(String, RunnerState), String> {
    let name = key.strip_prefix(RUNNERS.as_bytes()).unwrap_or(key);
    let name = str::from_utf8(name).map_err(|_| "the runner's name is not UTF-8")?;
    if value.len() > RUNNER_BYTES_MAX {
        return Err(format!("its content has {} bytes", value.len()));
    }
    let state = serde_json::from_slice(value).map_err(|error| {
        let error = error.to_string();
        format!(
            "its content is no runner's state: {}",
            shown(error.as_bytes())
        )
    })?;
    Ok((name.to_owned(), state))
}

/// What a runner's key holds.
pub(super) fn runner_value(state: &RunnerState) -> String {
    // A state is made of texts and numbers, which JSON has.
    serde_json::to_string_pretty(state).unwrap_or_default() + "\n"
}

/// Bytes from outside, for a message: printable, on one line, not too long.
pub(super) fn shown(bytes: &[u8]) -> String {
    let bytes = bytes.get(..4 * SHOWN_CHARS_MAX).unwrap_or(bytes);
    let text = String::from_utf8_lossy(bytes);
    let printable = text.chars().flat_map(char::escape_debug);
    printable.take(SHOWN_CHARS_MAX).collect()
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
    fn a_range_ends_right_behind_its_prefix() {
        assert_eq!(end_of(LINKS), b"/consecution/links0");
    }
}
