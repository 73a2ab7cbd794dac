//! Unique names of processes: the host's name, and random digits.

use data_encoding::HEXLOWER;
use rustix::rand::{GetRandomFlags, getrandom};
use rustix::system::uname;

/// The most bytes of the host's name in a name.
const HOST_BYTES_MAX: usize = 63;

/// How many random bytes follow it: there may be several processes on a host, and several
/// hosts of one name.
const RANDOM_BYTES: usize = 4;

/// A name that no other process has. It begins with `kind` if the host's name has no allowed
/// character.
pub(crate) fn unique(kind: &str) -> String {
    let host = uname();
    let host = host_part(&host.nodename().to_string_lossy(), kind);
    format!("{host}-{}", random_digits::<RANDOM_BYTES>())
}

/// So many random bytes, as hexadecimal digits.
pub(crate) fn random_digits<const BYTES: usize>() -> String {
    let mut bytes = [0; BYTES];
    // So few bytes are never given in part, and only a kernel older than any that we run
    // on refuses; zeros would do no harm.
    let _ = getrandom(&mut bytes, GetRandomFlags::empty());
    HEXLOWER.encode(&bytes)
}

/// Whether a character is allowed in a name: one without a meaning in keys and subjects.
pub(crate) fn is_allowed(character: char) -> bool {
    character.is_ascii_graphic() && !"/.*>".contains(character)
}

/// The host's name without its domain, with only the allowed characters.
fn host_part(nodename: &str, kind: &str) -> String {
    let own = nodename.split('.').next().unwrap_or_default();
    let host: String = own
        .chars()
        .filter(|character| is_allowed(*character))
        .take(HOST_BYTES_MAX)
        .collect();
    if host.is_empty() {
        kind.to_owned()
    } else {
        host
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_gives_what_it_can() {
        assert_eq!(host_part("web1.example.com", "runner"), "web1");
        assert_eq!(host_part("a b*", "runner"), "ab");
        assert_eq!(host_part(".x", "runner"), "runner");
    }
}
