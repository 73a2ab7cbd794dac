//! What is remembered of entries while a layer is unpacked, in little memory: an image
//! can have millions of entries, and they cost its author nearly nothing.

use std::collections::HashSet;
use std::hash::{BuildHasher as _, RandomState};

use super::LayerProblem;

/// Places in folders, as the folder's inode and a name.
///
/// Keeps a hash of 64 bits of each, with a secret key. Among a million places, the chance
/// that two have the same hash is one in some ten million. A whiteout then spares one
/// file too many.
#[derive(Default)]
pub(super) struct Places {
    hashes: HashSet<u64>,
    key: RandomState,
}

impl Places {
    pub(super) fn insert(&mut self, inode: u64, name: &[u8]) {
        self.hashes.insert(self.key.hash_one((inode, name)));
    }

    pub(super) fn contains(&self, inode: u64, name: &[u8]) -> bool {
        self.hashes.contains(&self.key.hash_one((inode, name)))
    }

    pub(super) fn memory_bytes(&self) -> u64 {
        memory_bytes(&self.hashes)
    }
}

/// About how much memory a set has.
pub(super) fn memory_bytes(set: &HashSet<u64>) -> u64 {
    // A number and a byte for each bucket, of which seven in eight are used.
    set.capacity() as u64 * (size_of::<u64>() as u64 + 1) * 8 / 7
}

/// Times of folders by their paths, in the order of a layer's entries. Of each path, only
/// what differs from the one before is kept, since most share all but the name.
#[derive(Default)]
pub(super) struct FolderTimes {
    packed: Vec<u8>,
    last: Vec<u8>,
}

/// Bytes before the rest of a path: the lengths of both of its parts, and its time.
const HEAD_BYTES: usize = 2 + 2 + 8 + 4;

impl FolderTimes {
    /// Fails for a path of more than 65535 bytes.
    pub(super) fn push(
        &mut self,
        path: &[u8],
        (seconds, nanoseconds): (i64, u32),
    ) -> Result<(), LayerProblem> {
        let same = self.last.iter().zip(path).take_while(|(a, b)| a == b);
        let shared = same.count();
        let rest = &path[shared..];
        let length = |length: usize| {
            u16::try_from(length)
                .map(u16::to_le_bytes)
                .map_err(|_| LayerProblem::bad_entry(path, "has a path that is too long"))
        };
        let lengths = [length(shared)?, length(rest.len())?];
        self.packed.extend_from_slice(lengths.as_flattened());
        self.packed.extend_from_slice(&seconds.to_le_bytes());
        self.packed.extend_from_slice(&nanoseconds.to_le_bytes());
        self.packed.extend_from_slice(rest);
        self.last.truncate(shared);
        self.last.extend_from_slice(rest);
        Ok(())
    }

    /// Hands all of them to `set`, in order, until it fails.
    pub(super) fn each(
        &self,
        mut set: impl FnMut(&[u8], (i64, u32)) -> Result<(), LayerProblem>,
    ) -> Result<(), LayerProblem> {
        let mut path = Vec::new();
        let mut left = &self.packed[..];
        while let Some((head, behind)) = left.split_first_chunk::<HEAD_BYTES>() {
            let &[s0, s1, r0, r1, ref seconds @ .., n0, n1, n2, n3] = head;
            let rest = usize::from(u16::from_le_bytes([r0, r1]));
            let (rest, behind) = behind.split_at(rest);
            path.truncate(usize::from(u16::from_le_bytes([s0, s1])));
            path.extend_from_slice(rest);
            let time = (
                i64::from_le_bytes(*seconds),
                u32::from_le_bytes([n0, n1, n2, n3]),
            );
            set(&path, time)?;
            left = behind;
        }
        Ok(())
    }

    pub(super) fn memory_bytes(&self) -> u64 {
        (self.packed.capacity() + self.last.capacity()) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_come_back_with_their_paths() {
        let long = [b'x'; 4095];
        let all: [(&[u8], (i64, u32)); 6] = [
            (b"a", (1, 2)),
            (b"a/b", (-3, 999_999_999)),
            (b"a/b/c", (i64::MIN, 0)),
            (b"a", (i64::MAX, u32::MAX)),
            (&long, (5, 6)),
            (b"d\xff", (7, 8)),
        ];
        let mut times = FolderTimes::default();
        for (path, time) in all {
            times.push(path, time).unwrap();
        }
        let mut back = Vec::new();
        let each = |path: &[u8], time| {
            back.push((path.to_vec(), time));
            Ok(())
        };
        times.each(each).unwrap();
        let all = all.map(|(path, time)| (path.to_vec(), time));
        assert_eq!(back, all);
        assert!(times.push(&[b'x'; 1 << 16], (0, 0)).is_err());
    }

    #[test]
    fn a_million_places_take_some_twenty_megabytes() {
        let mut places = Places::default();
        for number in 0..1_000_000u64 {
            places.insert(number / 100, &number.to_le_bytes());
        }
        assert!(places.contains(0, &5u64.to_le_bytes()));
        assert!(!places.contains(1, &5u64.to_le_bytes()));
        assert!(places.memory_bytes() < 24 << 20);
    }
}
