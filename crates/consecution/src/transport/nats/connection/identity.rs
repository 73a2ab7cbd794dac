//! Credentials for NATS servers. The files with secrets are read anew for each connection,
//! so a changed secret is used from the next connection on.
//!
//! Secrets must not get into errors.

use std::fs;

use async_nats::Auth;
use tokio::task::spawn_blocking;

use super::error::{NatsError, SEED_CHARS, SEED_PREFIX};
use crate::config::NatsIdentity;

/// The credentials to send to a server, with a signature of its `nonce` if the identity has
/// a key.
///
/// # Errors
/// A file cannot be read, or contains no secret of the expected kind.
pub(crate) async fn proof(identity: &NatsIdentity, nonce: &[u8]) -> Result<Auth, NatsError> {
    let (identity, nonce) = (identity.clone(), nonce.to_vec());
    match spawn_blocking(move || read(&identity, &nonce)).await {
        Ok(proof) => proof,
        // `read` does not panic, so the runtime is shutting down.
        Err(_) => Ok(Auth::new()),
    }
}

/// Checks that all files can be read now.
///
/// # Errors
/// See [`proof`].
pub(crate) fn check(identity: &NatsIdentity) -> Result<(), NatsError> {
    read(identity, b"").map(drop)
}

/// Like [`proof`]; blocks while it reads files.
fn read(identity: &NatsIdentity, nonce: &[u8]) -> Result<Auth, NatsError> {
    let mut proof = Auth::new();
    match identity {
        NatsIdentity::Anonymous => {}
        NatsIdentity::Password { user, password } => {
            proof.username = Some(user.clone());
            proof.password = Some(password.read()?);
        }
        NatsIdentity::Token(token) => proof.token = Some(token.read()?),
        NatsIdentity::NKey(seed) => {
            let seed = seed.read()?;
            let (public, signature) = sign(seed.trim(), nonce).ok_or(NatsError::Seed)?;
            proof.nkey = Some(public);
            proof.signature = Some(signature);
        }
        NatsIdentity::Credentials(path) => {
            let error = |cause: std::io::Error| NatsError::Credentials {
                path: path.clone(),
                cause,
            };
            let text = fs::read_to_string(path).map_err(error)?;
            let signed = in_credentials(&text)
                .and_then(|(jwt, seed)| Some((jwt, sign(seed, nonce)?)))
                .ok_or_else(|| {
                    let reason = "there is no JWT with the seed of a user's NKey in it";
                    error(std::io::Error::other(reason))
                })?;
            let (jwt, (_, signature)) = signed;
            proof.jwt = Some(jwt.to_owned());
            proof.signature = Some(signature);
        }
    }
    Ok(proof)
}

/// The public key of a user's seed, and the nonce signed with it; `None` if it is no seed.
fn sign(seed: &str, nonce: &[u8]) -> Option<(String, Vec<u8>)> {
    let is_base32 = |byte: u8| matches!(byte, b'A'..=b'Z' | b'2'..=b'7');
    if seed.len() != SEED_CHARS || !seed.starts_with(SEED_PREFIX) || !seed.bytes().all(is_base32) {
        return None;
    }
    let keys = nkeys::KeyPair::from_seed(seed).ok()?;
    Some((keys.public_key(), keys.sign(nonce).ok()?))
}

/// The JWT and the seed in a credentials file: the first two lines between lines of dashes.
fn in_credentials(text: &str) -> Option<(&str, &str)> {
    let is_fence = |line: &str| line.starts_with("---");
    let mut lines = text.lines().map(str::trim).peekable();
    let mut next = || {
        while let Some(line) = lines.next() {
            let Some(inner) = lines.peek() else { continue };
            if is_fence(line) && !inner.is_empty() && !is_fence(inner) {
                return lines.next();
            }
        }
        None
    };
    Some((next()?, next()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;
    use crate::error::with_causes;

    #[test]
    fn jwt_and_seed_are_found_in_credentials() {
        let text = "-----BEGIN NATS USER JWT-----\r\neyJ0.abc-_\r\n------END NATS USER JWT------\r\n\
            \r\n************* IMPORTANT *************\nKeep it.\n\n\
            -----BEGIN USER NKEY SEED-----\nSUAB\n------END USER NKEY SEED------\n";
        assert_eq!(in_credentials(text), Some(("eyJ0.abc-_", "SUAB")));
        for text in [
            "",
            "-----BEGIN-----\nonly one\n-----END-----",
            "-----BEGIN-----",
        ] {
            assert_eq!(in_credentials(text), None, "{text}");
        }
    }

    #[test]
    fn whatever_a_file_holds_is_refused_without_showing_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        let fenced = |seed: &str| format!("---\nhidden\n---\n---\n{seed}\n---\n");
        for text in [
            String::new(),
            "hidden".to_owned(),
            fenced("SUhidden"),
            fenced(&format!("SU{}", "A".repeat(SEED_CHARS - 2))),
            "\u{feff}hidden\n".repeat(100),
        ] {
            fs::write(&path, &text).unwrap();
            for identity in [
                NatsIdentity::NKey(Secret::in_file(&path)),
                NatsIdentity::Credentials(path.clone()),
            ] {
                let Err(error) = check(&identity) else {
                    panic!("{text:?} should be refused");
                };
                let error = with_causes(&error);
                assert!(!error.contains("hidden"), "{error}");
            }
        }
        fs::write(&path, b"\xff").unwrap();
        for identity in [
            NatsIdentity::Token(Secret::in_file(&path)),
            NatsIdentity::Credentials(path.clone()),
        ] {
            assert!(check(&identity).is_err());
        }
    }
}
