//! The links that may be taken together with the one that is called, as a header
//! names them.

use std::fmt::Write;
use std::sync::Arc;

use async_nats::HeaderMap;

use super::header::{Malformed, bad, number};
use super::subject::THEN;
use crate::transport::{FOLLOWING_MAX, Following};

/// The most bytes of the header's value. The header is a hint: links that do not fit are
/// left out.
const THEN_BYTES_MAX: usize = 2 * 1024;

/// Adds the header: `0,1 <id>; 0 <id>`.
pub(crate) fn write(headers: &mut HeaderMap, following: &[Following]) {
    let mut text = String::new();
    for link in following {
        let length = text.len();
        if length > 0 {
            text.push_str("; ");
        }
        for (at, code) in link.accepted.iter().enumerate() {
            let comma = if at > 0 { "," } else { "" };
            // Writing to a string does not fail.
            let _ = write!(text, "{comma}{code}");
        }
        let _ = write!(text, " {}", link.id);
        if text.len() > THEN_BYTES_MAX {
            text.truncate(length);
            break;
        }
    }
    if !text.is_empty() {
        headers.insert(THEN.clone(), text);
    }
}

/// Reads the header's value.
///
/// # Errors
/// A part of it is malformed.
pub(crate) fn read(text: &str) -> Result<Arc<[Following]>, Malformed> {
    let links: Option<Vec<_>> = text.split("; ").map(read_link).collect();
    match links {
        Some(links) if links.len() <= FOLLOWING_MAX => Ok(links.into()),
        Some(_) => Err(bad(&THEN, text, "it names too many links")),
        None => {
            let what = "it must be exit codes and the id of a link, as in `0,1 <id>; 0 <id>`";
            Err(bad(&THEN, text, what))
        }
    }
}

fn read_link(text: &str) -> Option<Following> {
    let (codes, id) = text.split_once(' ')?;
    let codes = codes
        .split(',')
        .map(|code| u8::try_from(number(code)?).ok());
    Some(Following {
        id: id.parse().ok()?,
        accepted: codes.collect::<Option<_>>()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::conformance::fake;
    use crate::transport::nats::wire::header::value;

    fn following(accepted: &[u8]) -> Following {
        Following {
            id: fake::link_id(),
            accepted: accepted.to_vec(),
        }
    }

    fn written(links: &[Following]) -> String {
        let mut headers = HeaderMap::new();
        write(&mut headers, links);
        value(&headers, &THEN).unwrap_or_default().to_owned()
    }

    #[test]
    fn links_read_back_as_written() {
        let links = [following(&[0]), following(&[0, 1, 255]), following(&[3])];
        assert_eq!(*read(&written(&links)).unwrap(), links);
        assert_eq!(written(&[]), "");
    }

    #[test]
    fn what_does_not_fit_is_left_out() {
        let codes: Vec<u8> = (0..=255).collect();
        let links: Vec<_> = (0..FOLLOWING_MAX).map(|_| following(&codes)).collect();
        let written = written(&links);
        assert!(written.len() <= THEN_BYTES_MAX);
        let read = read(&written).unwrap();
        assert!(!read.is_empty() && links.starts_with(&read));
    }

    #[test]
    fn what_cannot_be_understood_is_refused() {
        let id = fake::link_id();
        let many = vec![format!("0 {id}"); FOLLOWING_MAX + 1].join("; ");
        for text in [
            "",
            "0",
            "0 x",
            &format!(" {id}"),
            &format!("256 {id}"),
            &format!("0, {id}"),
            &format!("0 {id};"),
            &format!("0 {id}; "),
            &many,
        ] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
