//! Networks: none, or the host's.
//!
//! A network namespace costs half a millisecond to make, so it is not made for
//! each process: each place in the zygote has one, and a place is used by one
//! process after the other, never by two at a time. Nothing stays in a namespace
//! when its processes are gone: a command may not configure it, and its loopback
//! is down. So a process has no network at all, not even one to itself, and two
//! of one link do not meet in the names of sockets or the numbers of ports.

use std::ffi::CStr;

use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::thread::UnshareFlags;

use crate::spec::Network;
use crate::sys::{Errno, MountToken, in_our_memory as call};

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

/// The networks of a zygote's places: it is in one of them at a time, and what it
/// starts is where it is.
pub(crate) struct Networks {
    kind: Network,
    token: MountToken,
    /// Of the place that it is in.
    current: usize,
    /// By the number of the place.
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

    /// Goes to the network of place `number`, which is known, or the next one.
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
        // Also if it cannot be kept: it is nobody else's.
        self.current = number;
        Ok(())
    }
}

fn own_namespace() -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let own = rustix::fs::openat(CWD, "/proc/self/ns/net", flags, Mode::empty());
    own.map_err(rustix::io::Errno::raw_os_error)
}

/// Where the kernel says how many sockets there are in the network of who opens it.
pub(crate) const SOCKETS: &CStr = c"/proc/self/net/sockstat";

/// Has that network no socket? With no process in it that has one, there may still be
/// some in messages that they hold themselves, and they keep their names and whatever
/// else was sent with them: files, and locks on files.
///
/// For init, too, by the rules of `sys.rs`.
pub(crate) fn has_no_sockets(sockets: i32) -> bool {
    const NONE: &[u8] = b"sockets: used 0\n";
    let mut beginning = [0; NONE.len()];
    let read = call::read_beginning(sockets, &mut beginning);
    read == Ok(NONE.len()) && beginning == NONE
}
