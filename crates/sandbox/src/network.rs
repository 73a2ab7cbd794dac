//! Networks: none, or the host's.
//!
//! A network namespace costs half a millisecond to make, so a link has one, made
//! with its zygote, and its processes share it. They must not be able to talk to
//! each other through it, so its loopback stays down: a process has no network
//! at all, not even one to itself.

use rustix::thread::UnshareFlags;

use crate::spec::Network;

/// The namespace to create for that network.
pub(crate) fn namespace(network: Network) -> UnshareFlags {
    match network {
        Network::None => UnshareFlags::NEWNET,
        Network::Host => UnshareFlags::empty(),
    }
}

/// Files of the host that a process on the host's network needs to resolve
/// names; mounted over the image's own, which know nothing of this host.
pub(crate) fn files(network: Network) -> &'static [&'static str] {
    match network {
        Network::None => &[],
        Network::Host => &["/etc/resolv.conf", "/etc/hosts"],
    }
}
