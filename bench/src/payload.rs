//! Bytes to send through pipes, and their receivers.
//!
//! They are in memory, and the kernel moves them, so that neither a disk nor the bench itself
//! is measured.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileExt;

use anyhow::{Context, ensure};
use rustix::fs::{MemfdFlags, memfd_create, sendfile};
use rustix::pipe::{SpliceFlags, splice};

/// How many bytes to move at a time.
const MOVE_BYTES: usize = 1 << 20;

/// A file in memory.
pub(crate) struct Payload {
    file: File,
    pub(crate) bytes: u64,
}

impl Payload {
    /// Makes so many bytes, of which no two blocks are alike.
    pub(crate) fn make(bytes: u64) -> anyhow::Result<Payload> {
        let mut file = File::from(memfd_create("payload", MemfdFlags::CLOEXEC)?);
        let (mut random, mut left) = (Random(0x9E37_79B9_7F4A_7C15), bytes);
        let mut block = vec![0; MOVE_BYTES];
        while left > 0 {
            for word in block.chunks_exact_mut(8) {
                word.copy_from_slice(&random.next().to_le_bytes());
            }
            let length = left.min(MOVE_BYTES as u64);
            (file.write_all(&block[..length as usize])).context("failed to fill the memory")?;
            left -= length;
        }
        Ok(Payload { file, bytes })
    }

    /// Opens the payload for reading from its beginning.
    pub(crate) fn open(&self) -> anyhow::Result<File> {
        let path = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        Ok(OpenOptions::new().read(true).open(path)?)
    }

    /// Sends the first `bytes` bytes; returns how many were sent.
    pub(crate) fn send(&self, socket: &TcpStream, bytes: u64) -> (u64, anyhow::Result<()>) {
        let mut offset = 0;
        while offset < bytes {
            let most = (bytes - offset).min(MOVE_BYTES as u64) as usize;
            match sendfile(socket, &self.file, Some(&mut offset), most) {
                Ok(0) => return (offset, Err(anyhow::anyhow!("the payload is too short"))),
                Ok(_) => {}
                Err(error) => return (offset, Err(error.into())),
            }
        }
        (offset, Ok(()))
    }

    /// Something to hand pieces to, in order, that fails where they differ from
    /// its beginning.
    pub(crate) fn comparing(&self) -> impl FnMut(&[u8]) -> anyhow::Result<()> {
        let (mut offset, mut wanted) = (0, Vec::new());
        move |found: &[u8]| {
            wanted.resize(found.len(), 0);
            (self.file.read_exact_at(&mut wanted, offset)).context("there are too many bytes")?;
            ensure!(wanted == found, "the bytes differ after the first {offset}");
            offset += found.len() as u64;
            Ok(())
        }
    }
}

/// As random as it must be; from Marsaglia's "Xorshift RNGs".
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// Discards the bytes from a pipe; returns how many there were.
pub(crate) fn discard(pipe: impl AsFd) -> anyhow::Result<u64> {
    let nowhere = OpenOptions::new().write(true).open("/dev/null")?;
    let mut bytes = 0;
    loop {
        match splice(&pipe, None, &nowhere, None, MOVE_BYTES, SpliceFlags::MOVE)? {
            0 => return Ok(bytes),
            length => bytes += length as u64,
        }
    }
}

/// Passes the bytes from a pipe to `sink`; returns how many there were.
pub(crate) fn read_all(
    mut pipe: impl Read,
    mut sink: impl FnMut(&[u8]) -> anyhow::Result<()>,
) -> anyhow::Result<u64> {
    let (mut buffer, mut bytes) = (vec![0; MOVE_BYTES], 0);
    loop {
        match pipe.read(&mut buffer)? {
            0 => return Ok(bytes),
            length => {
                sink(&buffer[..length])?;
                bytes += length as u64;
            }
        }
    }
}
