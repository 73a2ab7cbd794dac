//! Landlock: a second wall, where the kernel has one. Should a command ever get
//! hold of something beyond its namespaces (a folder of the host that was left
//! open, a socket, a process), it still may not use it.
//!
//! Each process gets a domain of its own, so that even two processes of one link cannot
//! reach each other: files only below its own root, no TCP where it has no network, no
//! abstract socket and no signal out of the domain, no tracing, and no change of mounts.
//! None of this is a promise by itself: on a kernel that knows less of it, the first
//! walls stand alone, and [`check`](crate::check) says so.

use std::ffi::CStr;

use crate::spec::Network;
use crate::sys::{self, Errno, in_our_memory as call};

/// Landlock's rights, from linux/landlock.h: those of files came in the order of
/// their bits, with these versions.
mod file {
    pub(super) const MAKE_CHAR: u64 = 1 << 6;
    pub(super) const MAKE_BLOCK: u64 = 1 << 11;
    /// All rights of version 1, from executing to making a symbolic link.
    pub(super) const VERSION_1: u64 = (1 << 13) - 1;
    /// Rename between folders.
    pub(super) const REFER: u64 = 1 << 13;
    pub(super) const TRUNCATE: u64 = 1 << 14;
    pub(super) const IOCTL_DEV: u64 = 1 << 15;
}
const NET_CONNECT_TCP: u64 = 1 << 1;
const SCOPE_ABSTRACT_UNIX_SOCKET: u64 = 1 << 0;
const SCOPE_SIGNAL: u64 = 1 << 1;
const LOG_SAME_EXEC_OFF: u32 = 1 << 0;
const LOG_SUBDOMAINS_OFF: u32 = 1 << 2;

/// What a process's domain takes away, and what it gives back below its root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Domain {
    pub(crate) rules: sys::LandlockRules,
    pub(crate) below_root: u64,
    /// How the domain is entered: so that a command cannot fill the host's log
    /// with what it was denied.
    pub(crate) flags: u32,
}

/// The domain for a link with that network, as far as this kernel knows Landlock; `None`
/// if it knows too little.
pub(crate) fn plan(network: Network) -> Option<Domain> {
    domain(sys::landlock_version(), network)
}

fn domain(version: u32, network: Network) -> Option<Domain> {
    // Version 1 forbids every rename from one folder to another.
    if version < 2 {
        return None;
    }
    let mut files = file::VERSION_1 | file::REFER;
    if version >= 3 {
        files |= file::TRUNCATE;
    }
    if version >= 5 {
        files |= file::IOCTL_DEV;
    }
    let rules = sys::LandlockRules {
        files,
        net: match network {
            Network::Sealed if version >= 4 => NET_CONNECT_TCP,
            _ => 0,
        },
        scoped: if version >= 6 {
            SCOPE_ABSTRACT_UNIX_SOCKET | SCOPE_SIGNAL
        } else {
            0
        },
    };
    Some(Domain {
        rules,
        below_root: files & !(file::MAKE_CHAR | file::MAKE_BLOCK),
        flags: if version >= 7 {
            LOG_SAME_EXEC_OFF | LOG_SUBDOMAINS_OFF
        } else {
            0
        },
    })
}

/// The root, as the process sees it that enters the domain: a writable one is each
/// process's own.
const ROOT: &CStr = c"/";

/// Makes the rules for the processes of a place, once its root is mounted. Returns a
/// descriptor. Runs in init, by the rules of `sys.rs`.
pub(crate) fn open_rules(domain: &Domain) -> Result<i32, Errno> {
    let rules = call::landlock_create(&domain.rules)?;
    let root = call::open_path(ROOT)?;
    call::landlock_allow_below(rules, root, domain.below_root)?;
    call::close(root)?;
    Ok(rules)
}

/// Enters a domain of its own with those rules, for good. Each process that does so is in
/// another domain. Runs in the zygote's memory, by the rules of `sys.rs`.
pub(crate) fn enter(domain: &Domain, rules: i32) -> Result<(), Errno> {
    call::landlock_enter(rules, domain.flags)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_version_brings_what_it_knows() {
        assert_eq!(domain(0, Network::Sealed), None);
        assert_eq!(domain(1, Network::Sealed), None);
        let second = domain(2, Network::Sealed).unwrap();
        assert_eq!(second.rules.files, 0x3fff);
        assert_eq!(second.rules.net | second.rules.scoped, 0);
        let newest = domain(7, Network::Sealed).unwrap();
        assert_eq!(newest.rules.files, 0xffff);
        assert_eq!(newest.rules.net, NET_CONNECT_TCP);
        assert_eq!(newest.rules.scoped, 3);
        assert_eq!(domain(99, Network::Sealed), Some(newest));
    }

    #[test]
    fn a_network_that_is_given_is_not_taken() {
        for network in [Network::Host, Network::Loopback] {
            assert_eq!(domain(7, network).unwrap().rules.net, 0);
        }
    }

    #[test]
    fn devices_are_never_made() {
        let devices = file::MAKE_CHAR | file::MAKE_BLOCK;
        let domain = domain(7, Network::Sealed).unwrap();
        assert_eq!(domain.below_root & devices, 0);
        assert_eq!(domain.rules.files & devices, devices);
    }
}
