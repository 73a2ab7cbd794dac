//! JWTs for a NATS server in operator mode, as `nsc` makes them.

use std::path::Path;

use data_encoding::BASE64URL_NOPAD;
use nkeys::KeyPair;
use serde_json::{Value, json};

/// An account, and the configuration of a server that knows it.
pub(crate) fn server() -> (KeyPair, String) {
    let (operator, account) = (KeyPair::new_operator(), KeyPair::new_account());
    let config = format!(
        "operator: {}\nresolver: MEMORY\nresolver_preload: {{ {}: {} }}",
        jwt(&operator, &operator, "operator", None),
        account.public_key(),
        jwt(&operator, &account, "account", None),
    );
    (account, config)
}

/// A user of that account, until then, in seconds since 1970.
pub(crate) fn user(account: &KeyPair, user: &KeyPair, expires: Option<u64>) -> String {
    jwt(account, user, "user", expires)
}

/// Writes a credentials file.
pub(crate) fn write_credentials(path: &Path, user: &KeyPair, jwt: &str) {
    let text = format!(
        "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
        user.seed().unwrap()
    );
    std::fs::write(path, text).unwrap();
}

/// What `issuer` says of `subject`.
fn jwt(issuer: &KeyPair, subject: &KeyPair, kind: &str, expires: Option<u64>) -> String {
    let part = |value: Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    let head = part(json!({ "typ": "JWT", "alg": "ed25519-nkey" }));
    let mut claims = json!({
        "jti": "TEST",
        "iat": 1_700_000_000,
        "iss": issuer.public_key(),
        "sub": subject.public_key(),
        "name": kind,
        "nats": {
            "type": kind,
            "version": 2,
            // Of an account, and of a user.
            "limits": { "conn": -1, "subs": -1, "data": -1, "payload": -1, "wildcards": true },
            "subs": -1,
            "data": -1,
            "payload": -1,
        },
    });
    if let Some(expires) = expires {
        claims["exp"] = expires.into();
    }
    let signed = format!("{head}.{}", part(claims));
    let signature = BASE64URL_NOPAD.encode(&issuer.sign(signed.as_bytes()).unwrap());
    format!("{signed}.{signature}")
}
