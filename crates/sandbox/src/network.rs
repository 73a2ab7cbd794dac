//! Networks: none, a loopback, or the host's.
//!
//! A network namespace takes half a millisecond to make, so it is not made for each
//! process: each place in the zygote has one, and one process after the other uses a
//! place, never two at a time. A command may not configure it.
//!
//! A *sealed* process has no internet sockets at all. With a *loopback*, a process reaches
//! itself over TCP and UDP, and nothing else; two processes of one link cannot meet by
//! ports or by names of sockets.
//!
//! An internet socket leaves much behind in its namespace, even if it never sent a packet:
//! counters, routes, closed connections that linger, keys. That is too much to look for
//! afterwards. So the system call filter asks the zygote before a command gets an internet
//! socket (`SECCOMP_RET_USER_NOTIF`), and the zygote marks the network as used: neither it
//! nor the place is for another process. A process without such a socket pays nothing.

use std::ffi::CStr;
use std::sync::atomic::Ordering;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::thread::UnshareFlags;

use crate::init::Place;
use crate::spec::Network;
use crate::sys::{self, Errno, MountToken, in_our_memory as call};

/// The namespace to make for that network.
pub(crate) fn namespace(network: Network) -> UnshareFlags {
    match network {
        Network::Sealed | Network::Loopback => UnshareFlags::NEWNET,
        Network::Host => UnshareFlags::empty(),
    }
}

/// Files of the host that a process on the host's network needs to resolve
/// names; mounted over the image's own, which know nothing of this host.
pub(crate) fn files(network: Network) -> &'static [&'static str] {
    match network {
        Network::Sealed | Network::Loopback => &[],
        Network::Host => &["/etc/resolv.conf", "/etc/hosts"],
    }
}

/// The network namespaces of a zygote's places. The zygote is in one of them at a time,
/// and what it starts is in the same.
pub(crate) struct Networks {
    kind: Network,
    /// On which the filter asks for sockets of the internet's. `None` if it does not: there
    /// are none, or nobody knows of them.
    listener: Option<OwnedFd>,
    token: MountToken,
    /// The number of the place whose network the zygote is in.
    current: usize,
    /// The namespaces, by the number of their place.
    made: Vec<Namespace>,
}

struct Namespace {
    file: OwnedFd,
    /// The inode, which tells this namespace from all others while the file is open.
    inode: u64,
}

impl Networks {
    pub(crate) fn new(kind: Network, listener: Option<OwnedFd>, token: MountToken) -> Networks {
        Networks {
            kind,
            listener,
            token,
            current: 0,
            made: Vec::new(),
        }
    }

    /// Enters the network of a place, whose number is known or the next new one. If the
    /// last process there has used it, or has left sockets, the place gets a new network.
    pub(crate) fn enter(&mut self, number: usize, place: &Place) -> Result<(), Errno> {
        if self.kind == Network::Host {
            return Ok(());
        }
        if number == self.made.len() {
            // The first place has the one that came with the zygote.
            let is_new = number > 0;
            let namespace = self.prepare(number, is_new)?;
            self.made.push(namespace);
            return Ok(());
        }
        let namespace = self.made.get(number).ok_or(libc::EINVAL)?;
        let is_unknown = self.kind == Network::Loopback && self.listener.is_none();
        let mut is_used = is_unknown || place.network_is_used.load(Ordering::Acquire);
        if !is_used {
            if number != self.current {
                call::enter_network_namespace(namespace.file.as_fd(), self.token)?;
                self.current = number;
            }
            let sockets =
                rustix::fs::open(SOCKETS, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
            let sockets = sockets.map_err(rustix::io::Errno::raw_os_error)?;
            is_used = !has_no_sockets(sockets.as_raw_fd());
        }
        if is_used {
            self.made[number] = self.prepare(number, true)?;
            place.network_is_used.store(false, Ordering::Release);
        }
        Ok(())
    }

    /// Makes this process's network, or a new one, what the place with that number needs.
    fn prepare(&mut self, number: usize, is_new: bool) -> Result<Namespace, Errno> {
        if is_new {
            call::new_network_namespace(self.token)?;
            // Also if it cannot be kept: it is nobody else's.
            self.current = number;
        }
        if self.kind == Network::Loopback {
            sys::bring_up_loopback(self.token)?;
            // What lingers of closed connections no cgroup counts. Where the network has no
            // bound of its own, there is that of the host.
            let _ = std::fs::write(LINGERING, LINGERING_MAX);
            // Servers listen on port 80. Here it is nobody else's, so as in a container of
            // Docker's this needs no capability. Where it cannot be set, it does.
            let _ = std::fs::write(FIRST_FREE_PORT, "0");
        }
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let own = rustix::fs::openat(CWD, "/proc/self/ns/net", flags, Mode::empty());
        let found = own.and_then(|file| Ok((rustix::fs::fstat(&file)?.st_ino, file)));
        let (inode, file) = found.map_err(rustix::io::Errno::raw_os_error)?;
        Ok(Namespace { file, inode })
    }

    /// Answers commands that want internet sockets, until the zygote's own socket can be
    /// read. That one goes first, so a start waits for one answer at most.
    pub(crate) fn hear_until_readable(&self, socket: &OwnedFd, places: &[&Place]) {
        let Some(listener) = &self.listener else {
            return;
        };
        loop {
            let mut wanted = [socket, listener].map(|file| PollFd::new(file, PollFlags::IN));
            // If waiting fails, reading the socket says why.
            let waited = rustix::io::retry_on_intr(|| poll(&mut wanted, None));
            let [is_readable, is_asked] = wanted.map(|file| !file.revents().is_empty());
            if waited.is_err() || is_readable {
                return;
            }
            if is_asked {
                self.hear(listener, places);
            }
        }
    }

    /// Lets a command have the internet socket that it asks for, and marks its network as
    /// used before.
    fn hear(&self, listener: &OwnedFd, places: &[&Place]) {
        // An error means that the process was killed meanwhile.
        let Ok(call) = sys::receive_waiting_call(listener.as_fd()) else {
            return;
        };
        let namespace = rustix::fs::stat(format!("/proc/{}/ns/net", call.process));
        let inode = namespace.ok().map(|found| found.st_ino);
        let number = self.made.iter().position(|made| Some(made.inode) == inode);
        // If the kernel does not say which network the process is in, it may be any.
        let used = number.map_or(0..places.len(), |number| number..number + 1);
        for place in places.get(used).into_iter().flatten() {
            place.network_is_used.store(true, Ordering::Release);
        }
        let _ = sys::let_call_go_on(listener.as_fd(), call);
    }
}

/// How many connections of a network may linger when they are closed, each with some 250
/// bytes of the kernel's memory.
const LINGERING: &str = "/proc/sys/net/ipv4/tcp_max_tw_buckets";
const LINGERING_MAX: &str = "4096";

/// The first port that any user may listen on.
const FIRST_FREE_PORT: &str = "/proc/sys/net/ipv4/ip_unprivileged_port_start";

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
