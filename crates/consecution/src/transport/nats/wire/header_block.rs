//! Headers as bytes: reads those of a request, and writes those of an answer.
//!
//! The server passes on any bytes that a client declares to be headers. Malformed ones are
//! an error of this one request, not of the connection.

use async_nats::{HeaderMap, HeaderName, HeaderValue};

use super::header::{Malformed, SET_BYTES_MAX};
use super::subject::SET;

/// The most bytes of a request's headers beside values of parameters: several times what all
/// others of the protocol take, and still quick to read.
const BLOCK_BYTES_MAX: usize = 32 * 1024;

/// The most lines of a request's headers, for the same reasons.
const LINES_MAX: usize = 256;

/// Reads a block of headers.
///
/// # Errors
/// It is malformed.
pub(crate) fn read(block: &[u8]) -> Result<HeaderMap, Malformed> {
    // Not even looked at if it is too large whatever is in it.
    if block.len() > BLOCK_BYTES_MAX + SET_BYTES_MAX {
        return Err(too_large());
    }
    let text = str::from_utf8(block).map_err(|_| malformed("its headers are not UTF-8"))?;
    let mut lines = text.lines();
    let version = lines.next().unwrap_or_default();
    if version.trim_end() != "NATS/1.0" {
        return Err(malformed("its headers do not begin with `NATS/1.0`"));
    }
    let mut headers = HeaderMap::new();
    let mut bytes_left = BLOCK_BYTES_MAX;
    for (at, line) in lines.enumerate() {
        // Bounds first: what is beyond them is not read.
        if at >= LINES_MAX {
            let what = format!("its headers have more than {LINES_MAX} lines");
            return Err(Malformed(what));
        }
        if !is_set(line) {
            let left = bytes_left.checked_sub(line.len());
            bytes_left = left.ok_or_else(too_large)?;
        }
        if line.is_empty() {
            continue;
        }
        let (name, value) = field(line).ok_or_else(|| {
            malformed("each of its headers must be a line `Name: value`, the name in visible ASCII")
        })?;
        headers.append(name, value);
    }
    Ok(headers)
}

/// Whether a line has values of parameters.
fn is_set(line: &str) -> bool {
    let set: &str = SET.as_ref();
    let rest = line.strip_prefix(set);
    rest.is_some_and(|rest| rest.starts_with(':'))
}

fn too_large() -> Malformed {
    let set: &str = SET.as_ref();
    let what = format!("its headers have more than {BLOCK_BYTES_MAX} bytes beside `{set}`");
    Malformed(what)
}

/// Writes headers as a client publishes them.
pub(crate) fn write(headers: &HeaderMap) -> Vec<u8> {
    let mut block = b"NATS/1.0\r\n".to_vec();
    for (name, values) in headers.iter() {
        for value in values {
            let name: &str = name.as_ref();
            let (name, value) = (name.as_bytes(), value.as_str().as_bytes());
            block.extend([name, b": ", value, b"\r\n"].into_iter().flatten());
        }
    }
    block.extend(b"\r\n");
    block
}

fn field(line: &str) -> Option<(HeaderName, HeaderValue)> {
    let (name, value) = line.split_once(':').filter(|(name, _)| !name.is_empty())?;
    Some((name.parse().ok()?, value.trim().parse().ok()?))
}

fn malformed(what: &str) -> Malformed {
    Malformed(what.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn headers_are_read_as_clients_write_them() {
        let block = b"NATS/1.0\r\nConsecution-Probe: 1\r\nA:\r\nA:  two words \r\nB:x:y\r\n\r\n";
        let headers = read(block).unwrap();
        let values = |name: &str| {
            let values = headers.get_all(name).map(|value| value.as_str().to_owned());
            values.collect::<Vec<_>>()
        };
        assert_eq!(values("Consecution-Probe"), ["1"]);
        assert_eq!(values("A"), ["", "two words"]);
        assert_eq!(values("B"), ["x:y"]);
        assert_eq!(read(&write(&headers)).unwrap(), headers);
        assert!(read(b"NATS/1.0\r\n\r\n").unwrap().is_empty());
        assert!(read(b"NATS/1.0").unwrap().is_empty());
    }

    #[test]
    fn values_of_parameters_may_have_more_bytes_than_all_else() {
        let block = |bytes: usize, others: usize| {
            let (set, others) = ("x".repeat(bytes), "x".repeat(others));
            let block = format!("NATS/1.0\r\nConsecution-Set: a={set}\r\nA: {others}\r\n\r\n");
            read(block.as_bytes()).map(|headers| headers.len())
        };
        assert_eq!(block(SET_BYTES_MAX - 2, 1000), Ok(2));
        assert_eq!(block(10, BLOCK_BYTES_MAX - 10), Ok(2));
        assert!(block(10, BLOCK_BYTES_MAX).is_err());
        assert!(block(SET_BYTES_MAX, BLOCK_BYTES_MAX).is_err());
    }

    #[test]
    fn what_is_no_block_of_headers_is_refused() {
        let long = [b"NATS/1.0\r\nA: ", &[b'x'; BLOCK_BYTES_MAX][..]].concat();
        let many = [b"NATS/1.0\r\n".to_vec(), b"A:\n".repeat(LINES_MAX + 1)].concat();
        for block in [
            &many[..],
            b"",
            b"\r\n\r\n",
            b"NATS/9.9\r\n\r\n",
            b"NATS/1.0 abc\r\n\r\n",
            b"NATS/1.0\r\nA: \xff\xfe\r\n\r\n",
            b"NATS/1.0\r\nA: b\rc\r\n\r\n",
            b"NATS/1.0\r\n\x01: b\r\n\r\n",
            b"NATS/1.0\r\nno colon\r\n\r\n",
            b"NATS/1.0\r\n: no name\r\n\r\n",
            "NATS/1.0\r\né: b\r\n\r\n".as_bytes(),
            &long,
        ] {
            assert!(read(block).is_err(), "{block:?}");
        }
    }

    proptest! {
        #[test]
        fn headers_read_back_as_written(
            fields in prop::collection::vec(("[!-9;-~]{1,20}", "[^\\p{Cc}]{0,40}"), 0..20),
        ) {
            let mut headers = HeaderMap::new();
            for (name, value) in &fields {
                let name: HeaderName = name.parse().unwrap();
                headers.append(name, value.trim());
            }
            prop_assert_eq!(read(&write(&headers)).unwrap(), headers);
        }

        #[test]
        fn nothing_makes_it_panic(block in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&block);
            let _ = read(&[b"NATS/1.0\r\n", &block[..]].concat());
        }

        #[test]
        fn no_text_makes_it_panic(text in any::<String>()) {
            let _ = read(format!("NATS/1.0\r\n{text}").as_bytes());
        }
    }
}
