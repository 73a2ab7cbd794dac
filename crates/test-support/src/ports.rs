//! Ports for servers of our own.

use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, TcpListener};

/// Below those that the kernel gives to connections, which might be given one
/// before a server takes it, or while it is stopped for a moment.
const FIRST: u16 = 10_000;
const COUNT: u64 = 20_000;

/// A port of loopback where nobody listens now.
pub fn free_port() -> u16 {
    let [port] = free_ports();
    port
}

/// As many of them, none twice.
pub fn free_ports<const MANY: usize>() -> [u16; MANY] {
    let mut ports = [0; MANY];
    for at in 0..MANY {
        ports[at] = loop {
            let random = RandomState::new().hash_one(std::process::id()) % COUNT;
            let port = FIRST + u16::try_from(random).unwrap();
            let is_free = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
            if is_free && !ports[..at].contains(&port) {
                break port;
            }
        };
    }
    ports
}
