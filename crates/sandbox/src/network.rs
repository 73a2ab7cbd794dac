//! Networks: none, or the host's.
//!
//! A network namespace takes half a millisecond to make, so it is not made for each
//! process: each place in the zygote has one, and one process after the other uses a
//! place, never two at a time. A process cannot change the namespace for the next one: a
//! command may not configure it, and its loopback is down. So a process has no network at
//! all, not even one to itself, and two processes of one link cannot meet by names of
//! sockets or by ports.

use std::ffi::CStr;

use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::thread::UnshareFlags;

use crate::spec::Network;
use crate::sys::{Errno, MountToken, in_our_memory as call};

/// The namespace to make for that network.
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

/// The network namespaces of a zygote's places. The zygote is in one of them at a time,
/// and what it starts is in the same.
pub(crate) struct Networks {
    kind: Network,
    token: MountToken,
    /// The number of the place whose network the zygote is in.
    current: usize,
    /// The namespaces, by the number of their place.
    made: Vec<OwnedFd>,
}

impl Networks {
    pub(crate) fn new(kind: Network, token: MountToken) -> Networks {
        Networks {
            kind,
            token,
            current: 0,
            made: Vec::new(),
        }
    }

    /// Enters the network of place `number`, which is known or the next new one. If
    /// sockets are left in it, the place gets a new network.
    pub(crate) fn enter(&mut self, number: usize) -> Result<(), Errno> {
        if self.kind == Network::Host {
            return Ok(());
        }
        if number == self.made.len() {
            // The first place has the one that came with the zygote.
            if number > 0 {
                self.enter_new(number)?;
            }
            self.made.push(own_namespace()?);
            return Ok(());
        }
        let namespace = self.made.get_mut(number).ok_or(libc::EINVAL)?;
        if number != self.current {
            call::enter_network_namespace(namespace.as_fd(), self.token)?;
            self.current = number;
        }
        let sockets = rustix::fs::open(SOCKETS, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        let sockets = sockets.map_err(rustix::io::Errno::raw_os_error)?;
        if !has_no_sockets(sockets.as_raw_fd()) {
            self.enter_new(number)?;
            self.made[number] = own_namespace()?;
        }
        Ok(())
    }

    fn enter_new(&mut self, number: usize) -> Result<(), Errno> {
        call::new_network_namespace(self.token)?;
        // Even if a later step fails, the zygote is in the new one now.
        self.current = number;
        Ok(())
    }
}

fn own_namespace() -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let own = rustix::fs::openat(CWD, "/proc/self/ns/net", flags, Mode::empty());
    own.map_err(rustix::io::Errno::raw_os_error)
}

/// The file that shows how many sockets there are in the network of the process that
/// opens it.
pub(crate) const SOCKETS: &CStr = c"/proc/self/net/sockstat";

/// Whether that network has no socket. Even if no process is left there, sockets may be
/// left that hold each other in their messages. They keep their names, and whatever else
/// was sent with them: files, and locks on files.
///
/// Init calls this too, by the rules of `sys.rs`.
pub(crate) fn has_no_sockets(sockets: i32) -> bool {
    const NONE: &[u8] = b"sockets: used 0\n";
    let mut beginning = [0; NONE.len()];
    let read = call::read_beginning(sockets, &mut beginning);
    read == Ok(NONE.len()) && beginning == NONE
}
