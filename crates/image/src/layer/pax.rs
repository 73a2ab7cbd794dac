//! PAX extended headers: `length key=value\n`, over and over. Pure.

use super::LayerProblem;

/// The records that matter here.
#[derive(Debug, Default)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) modified: Option<(i64, u32)>,
    pub(super) sparse_name: Option<Vec<u8>>,
    /// `major.minor`, `0.1` where only a map is there.
    pub(super) sparse_major: Option<u64>,
    pub(super) sparse_minor: Option<u64>,
    pub(super) sparse_size: Option<u64>,
    pub(super) sparse_map: Option<Vec<u8>>,
    /// Records of format 0.0, which we do not read.
    pub(super) sparse_by_records: bool,
}

/// Adds the records of one extended header.
pub(super) fn parse(mut text: &[u8], pax: &mut Pax) -> Result<(), LayerProblem> {
    while !text.is_empty() {
        let (record, rest) =
            split_record(text).ok_or_else(|| LayerProblem::damaged("a PAX header is malformed"))?;
        text = rest;
        let equals = record.iter().position(|&byte| byte == b'=');
        let equals = equals.ok_or_else(|| LayerProblem::damaged("a PAX record has no '='"))?;
        keep(&record[..equals], &record[equals + 1..], pax)?;
    }
    Ok(())
}

/// One record without its length and newline, and what follows it.
fn split_record(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let blank = text.iter().take(20).position(|&byte| byte == b' ')?;
    let length: usize = std::str::from_utf8(&text[..blank]).ok()?.parse().ok()?;
    if length <= blank + 1 || length > text.len() || text[length - 1] != b'\n' {
        return None;
    }
    Some((&text[blank + 1..length - 1], &text[length..]))
}

fn keep(key: &[u8], value: &[u8], pax: &mut Pax) -> Result<(), LayerProblem> {
    let number = || {
        let text = std::str::from_utf8(value).ok();
        let number = text.and_then(|text| text.parse::<u64>().ok());
        let key = String::from_utf8_lossy(key);
        number.ok_or_else(|| LayerProblem::damaged(format!("the PAX record '{key}' is no number")))
    };
    match key {
        b"path" => pax.path = Some(value.to_vec()),
        b"linkpath" => pax.link = Some(value.to_vec()),
        b"size" => pax.size = Some(number()?),
        // An id that is too large belongs to nobody, like every id that is not mapped.
        b"uid" => pax.uid = Some(number().unwrap_or(u64::MAX)),
        b"gid" => pax.gid = Some(number().unwrap_or(u64::MAX)),
        b"mtime" => pax.modified = parse_time(value),
        b"GNU.sparse.name" => pax.sparse_name = Some(value.to_vec()),
        b"GNU.sparse.major" => pax.sparse_major = Some(number()?),
        b"GNU.sparse.minor" => pax.sparse_minor = Some(number()?),
        b"GNU.sparse.realsize" | b"GNU.sparse.size" => pax.sparse_size = Some(number()?),
        b"GNU.sparse.map" => pax.sparse_map = Some(value.to_vec()),
        b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => pax.sparse_by_records = true,
        _ => {}
    }
    Ok(())
}

/// `seconds[.fraction]`, possibly negative; `None` if it cannot be read.
fn parse_time(value: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(value).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    let digits: String = fraction
        .chars()
        .chain("000000000".chars())
        .take(9)
        .collect();
    let nanoseconds: u32 = digits.parse().ok()?;
    if text.starts_with('-') && nanoseconds > 0 {
        return Some((seconds.checked_sub(1)?, 1_000_000_000 - nanoseconds));
    }
    Some((seconds, nanoseconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read() {
        let mut pax = Pax::default();
        parse(
            // The last value ends with a newline of its own.
            b"12 path=a b\n15 size=123456\n22 mtime=1.5000000000\n15 linkpath=c\n\n",
            &mut pax,
        )
        .unwrap();
        assert_eq!(pax.path.as_deref(), Some(&b"a b"[..]));
        assert_eq!(pax.link.as_deref(), Some(&b"c\n"[..]));
        assert_eq!(pax.size, Some(123_456));
        assert_eq!(pax.modified, Some((1, 500_000_000)));
    }

    #[test]
    fn malformed_records_are_errors() {
        for text in [
            &b"x"[..],
            b"5 a=b\n",
            b"99 a=b\n",
            b"3 =\n",
            b"6 abc\n",
            b"0 \n",
        ] {
            let read = parse(text, &mut Pax::default());
            assert!(read.is_err(), "{}", String::from_utf8_lossy(text));
        }
    }

    #[test]
    fn times_before_1970_are_read() {
        assert_eq!(parse_time(b"-1.25"), Some((-2, 750_000_000)));
        assert_eq!(parse_time(b"-3"), Some((-3, 0)));
        assert_eq!(parse_time(b"x"), None);
    }
}
