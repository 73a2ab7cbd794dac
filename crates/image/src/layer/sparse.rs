//! Sparse files in tar: which parts of a file its stored bytes are.
//!
//! Three formats are in use: GNU's own type, and GNU's PAX records 0.1 and 1.0.
//! PAX 0.0, which no tar writes by itself any more, is refused.

use super::LayerProblem;
use super::pax::Pax;
use super::tar_stream::{BLOCK_BYTES, Source, TarStream};

/// The most parts in one file, which are held in memory: 1 MiB. Each is a stretch of data
/// between two holes.
const PARTS_MAX: usize = 1 << 16;

/// A file with holes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Sparse {
    pub(crate) real_bytes: u64,
    /// Offset and length of each part that is stored, in order.
    pub(crate) parts: Vec<(u64, u64)>,
}

impl Sparse {
    /// How much larger the file looks than what is stored of it.
    pub(super) fn hole_bytes(&self) -> u64 {
        let stored = self.parts.iter().map(|&(_, length)| length).sum();
        self.real_bytes.saturating_sub(stored)
    }
}

/// Reads the map of the file whose header was just read; `None` if it is not sparse.
/// Leaves the stream at its stored bytes.
pub(super) fn read<S: Source>(
    tar: &mut TarStream<S>,
    header: &tar::Header,
    pax: &mut Pax,
    path: &[u8],
) -> Result<Option<Sparse>, LayerProblem> {
    let bad = |problem: &str| LayerProblem::bad_entry(path, problem);
    let malformed = || bad("is a sparse file with a malformed map");
    let mut stored = tar.content_left();
    let (real_bytes, parts) = if header.entry_type().is_gnu_sparse() {
        let gnu = header.as_gnu().ok_or_else(malformed)?;
        let real_bytes = gnu.real_size().map_err(|_| malformed())?;
        (real_bytes, read_gnu(tar, gnu).ok_or_else(malformed)??)
    } else if pax.sparse_major == Some(1) && pax.sparse_minor == Some(0) {
        let parts = read_pax_1(tar).ok_or_else(malformed)??;
        stored = tar.content_left();
        (pax.sparse_size.ok_or_else(malformed)?, parts)
    } else if let Some(map) = pax.sparse_map.take() {
        (
            pax.sparse_size.ok_or_else(malformed)?,
            read_pax_0_1(&map).ok_or_else(malformed)?,
        )
    } else if pax.sparse_by_records || pax.sparse_major.is_some() {
        return Err(bad(
            "is a sparse file in a format that is not supported; write it with 'tar --sparse-version=1.0', or without '--sparse'",
        ));
    } else {
        return Ok(None);
    };
    check(&parts, real_bytes, stored).ok_or_else(malformed)?;
    Ok(Some(Sparse { real_bytes, parts }))
}

/// Parts must be in order, within the file, and as long as what is stored.
fn check(parts: &[(u64, u64)], real_bytes: u64, stored: u64) -> Option<()> {
    let mut end = 0;
    let mut total = 0u64;
    for &(offset, length) in parts {
        if offset < end {
            return None;
        }
        end = offset.checked_add(length)?;
        total += length;
    }
    (end <= real_bytes && total == stored).then_some(())
}

type Parts = Vec<(u64, u64)>;

fn read_gnu<S: Source>(
    tar: &mut TarStream<S>,
    gnu: &tar::GnuHeader,
) -> Option<Result<Parts, LayerProblem>> {
    let mut parts = Parts::new();
    let add = |parts: &mut Parts, blocks: &[tar::GnuSparseHeader]| {
        for block in blocks.iter().filter(|block| !block.is_empty()) {
            parts.push((block.offset().ok()?, block.length().ok()?));
        }
        (parts.len() <= PARTS_MAX).then_some(())
    };
    add(&mut parts, &gnu.sparse)?;
    let mut more = gnu.is_extended();
    while more {
        let mut block = tar::GnuExtSparseHeader::new();
        match tar.read_block() {
            Ok(bytes) => block.as_mut_bytes().copy_from_slice(&bytes),
            Err(problem) => return Some(Err(problem)),
        }
        add(&mut parts, block.sparse())?;
        more = block.is_extended();
    }
    Some(Ok(parts))
}

/// `offset,length,offset,length…` in a PAX record.
fn read_pax_0_1(map: &[u8]) -> Option<Parts> {
    let text = std::str::from_utf8(map).ok()?;
    let numbers: Vec<u64> = text
        .split(',')
        .map(|number| number.parse().ok())
        .collect::<Option<_>>()?;
    let (pairs, rest) = numbers.as_chunks::<2>();
    (rest.is_empty() && pairs.len() <= PARTS_MAX).then(|| {
        pairs
            .iter()
            .map(|&[offset, length]| (offset, length))
            .collect()
    })
}

/// Decimal numbers, a line each, in whole blocks in front of the content.
fn read_pax_1<S: Source>(tar: &mut TarStream<S>) -> Option<Result<Parts, LayerProblem>> {
    let mut block = [0; BLOCK_BYTES];
    let mut at = block.len();
    let mut next = || {
        let mut number = 0u64;
        loop {
            if at == block.len() {
                match tar.read_content_block() {
                    Ok(bytes) => block = bytes,
                    Err(problem) => return Some(Err(problem)),
                }
                at = 0;
            }
            let byte = block[at];
            at += 1;
            match byte {
                b'\n' => return Some(Ok(number)),
                b'0'..=b'9' => {
                    number = number
                        .checked_mul(10)?
                        .checked_add(u64::from(byte - b'0'))?
                }
                _ => return None,
            }
        }
    };
    let mut numbers = Vec::new();
    let count = match next()? {
        Ok(count) if count <= PARTS_MAX as u64 => count,
        Ok(_) => return None,
        Err(problem) => return Some(Err(problem)),
    };
    for _ in 0..count * 2 {
        match next()? {
            Ok(number) => numbers.push(number),
            Err(problem) => return Some(Err(problem)),
        }
    }
    let (pairs, _) = numbers.as_chunks::<2>();
    Some(Ok(pairs
        .iter()
        .map(|&[offset, length]| (offset, length))
        .collect()))
}
