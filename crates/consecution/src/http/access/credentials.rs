//! Reads the header `Authorization`, which may be anything.

use axum::http::header::{AUTHORIZATION, HeaderMap};
use data_encoding::{BASE64, BASE64_NOPAD};

/// The most bytes of a token.
const TOKEN_BYTES_MAX: usize = 512;

/// The most bytes of the header: user and password in Base64.
const HEADER_BYTES_MAX: usize = 2048;

/// A header that names no token. Its text repeats nothing of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Odd {
    #[error("there are several `Authorization` headers")]
    Several,
    #[error("`Authorization` is neither `Bearer TOKEN` nor `Basic`, or is too long")]
    Scheme,
    #[error("`Authorization: Basic` has no user and password in Base64")]
    Basic,
}

/// The token in the headers, if there is any: that of `Bearer`, or the password of `Basic`.
pub(super) fn token(headers: &HeaderMap) -> Result<Option<Vec<u8>>, Odd> {
    let mut given = headers.get_all(AUTHORIZATION).iter();
    match (given.next(), given.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => token_in(value.as_bytes()).map(Some),
        (Some(_), Some(_)) => Err(Odd::Several),
    }
}

pub(super) fn token_in(value: &[u8]) -> Result<Vec<u8>, Odd> {
    let value = value.trim_ascii();
    let blank = value.iter().position(|byte| *byte == b' ');
    let Some(blank) = blank.filter(|_| value.len() <= HEADER_BYTES_MAX) else {
        return Err(Odd::Scheme);
    };
    let (scheme, rest) = value.split_at(blank);
    let rest = rest.trim_ascii_start();
    let token = if scheme.eq_ignore_ascii_case(b"Bearer") {
        rest.to_vec()
    } else if scheme.eq_ignore_ascii_case(b"Basic") {
        let pair = BASE64.decode(rest).or_else(|_| BASE64_NOPAD.decode(rest));
        let pair = pair.map_err(|_| Odd::Basic)?;
        let colon = pair.iter().position(|byte| *byte == b':');
        pair[colon.ok_or(Odd::Basic)? + 1..].to_vec()
    } else {
        return Err(Odd::Scheme);
    };
    match token.len() {
        1..=TOKEN_BYTES_MAX => Ok(token),
        _ => Err(Odd::Scheme),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;
    use proptest::prelude::*;

    #[test]
    fn a_token_is_a_bearers_or_a_password() {
        for (value, token) in [
            ("Bearer abc", Ok("abc")),
            ("bearer   abc ", Ok("abc")),
            // `user:abc`, with and without its padding.
            ("Basic dXNlcjphYmM=", Ok("abc")),
            ("BASIC dXNlcjphYmM", Ok("abc")),
            // `:a:b`.
            ("Basic OmE6Yg==", Ok("a:b")),
            ("", Err(Odd::Scheme)),
            ("Bearer", Err(Odd::Scheme)),
            ("Bearer ", Err(Odd::Scheme)),
            ("abc", Err(Odd::Scheme)),
            ("Digest username=\"a\"", Err(Odd::Scheme)),
            ("Basic abc", Err(Odd::Basic)),
            ("Basic dXNlcg==", Err(Odd::Basic)),
            ("Basic dXNlcjo=", Err(Odd::Scheme)),
            ("Basic !!!!", Err(Odd::Basic)),
        ] {
            let found = token_in(value.as_bytes());
            let wanted = token.map(|token| token.as_bytes().to_vec());
            assert_eq!(found, wanted, "{value}");
        }
        let longest = "x".repeat(TOKEN_BYTES_MAX);
        assert!(token_in(format!("Bearer {longest}").as_bytes()).is_ok());
        assert!(token_in(format!("Bearer {longest}x").as_bytes()).is_err());
    }

    #[test]
    fn two_of_them_are_no_key() {
        let mut headers = HeaderMap::new();
        assert_eq!(token(&headers), Ok(None));
        headers.append(AUTHORIZATION, HeaderValue::from_static("Bearer a"));
        assert_eq!(token(&headers), Ok(Some(b"a".to_vec())));
        headers.append(AUTHORIZATION, HeaderValue::from_static("Bearer a"));
        assert_eq!(token(&headers), Err(Odd::Several));
    }

    proptest! {
        #[test]
        fn a_password_comes_through(user in "[^:]{0,20}", password in prop::collection::vec(any::<u8>(), 1..100)) {
            let pair = [user.as_bytes(), b":", &password].concat();
            let value = format!("Basic {}", BASE64.encode(&pair));
            prop_assert_eq!(token_in(value.as_bytes()), Ok(password));
        }

        #[test]
        fn no_header_is_too_odd(value in prop::collection::vec(any::<u8>(), 0..200)) {
            for value in [value.clone(), [b"Basic ", &value[..]].concat(), [b"Bearer ", &value[..]].concat()] {
                if let Ok(token) = token_in(&value) {
                    prop_assert!((1..=TOKEN_BYTES_MAX).contains(&token.len()));
                }
            }
        }
    }
}
