//! Decodes chunked bodies without copies.

use anyhow::{Context, bail};

/// The longest line with a chunk's size, extensions included.
const LINE_BYTES_MAX: usize = 256;

/// Removes the framing of a chunked body, however it is split into reads.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    place: In,
    /// The present line, while it is incomplete.
    line: Vec<u8>,
}

/// Which part of the body comes next.
#[derive(Debug, Default, Clone, Copy)]
enum In {
    #[default]
    Size,
    /// That many bytes are left.
    Data(u64),
    EndOfData,
    Trailers,
    Over,
}

impl Decoder {
    /// Whether the body is complete, with its trailers.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.place, In::Over)
    }

    /// Passes the data in `bytes` to `sink`.
    pub(crate) fn feed(
        &mut self,
        mut bytes: &[u8],
        mut sink: impl FnMut(&[u8]) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        while !bytes.is_empty() && !self.is_over() {
            if let In::Data(left) = self.place {
                let length = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                let (data, rest) = bytes.split_at(length);
                sink(data)?;
                bytes = rest;
                self.place = match left - length as u64 {
                    0 => In::EndOfData,
                    left => In::Data(left),
                };
                continue;
            }
            let Some(end) = bytes.iter().position(|&byte| byte == b'\n') else {
                self.line.extend_from_slice(bytes);
                if self.line.len() > LINE_BYTES_MAX {
                    bail!("a line of a chunked body does not end");
                }
                return Ok(());
            };
            self.line.extend_from_slice(&bytes[..end]);
            bytes = &bytes[end + 1..];
            self.place = self.after_line()?;
            self.line.clear();
        }
        Ok(())
    }

    fn after_line(&self) -> anyhow::Result<In> {
        let line = str::from_utf8(&self.line).context("a line of a chunked body is no text")?;
        let line = line.trim_end();
        Ok(match self.place {
            In::Size => {
                let size = line.split(';').next().unwrap_or_default();
                match u64::from_str_radix(size, 16).context("a chunk has no size")? {
                    0 => In::Trailers,
                    size => In::Data(size),
                }
            }
            In::EndOfData if line.is_empty() => In::Size,
            In::Trailers if line.is_empty() => In::Over,
            In::Trailers => In::Trailers,
            In::EndOfData | In::Data(_) | In::Over => bail!("a chunk is longer than announced"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Decoder;

    const BODY: &[u8] = b"3\r\none\r\nA;x=y\r\n0123456789\r\n0\r\nTrailer: 1\r\n\r\nmore";

    #[test]
    fn a_body_is_the_same_however_it_is_cut() {
        for size in 1..=BODY.len() {
            let (mut decoder, mut body) = (Decoder::default(), Vec::new());
            for bytes in BODY.chunks(size) {
                let keep = |data: &[u8]| {
                    body.extend_from_slice(data);
                    Ok(())
                };
                decoder.feed(bytes, keep).unwrap();
            }
            assert!(decoder.is_over(), "cut into {size}");
            assert_eq!(body, b"one0123456789", "cut into {size}");
        }
    }

    #[test]
    fn what_is_not_in_chunks_is_an_error() {
        for body in ["xyz\r\n", "1\r\nab\r\n", "-1\r\n"] {
            let mut decoder = Decoder::default();
            assert!(decoder.feed(body.as_bytes(), |_| Ok(())).is_err(), "{body}");
        }
    }
}
