//! What strangers say of who they are: the header `Authorization`, and the name in a
//! certificate. And key files, with the patterns in them.
#![no_main]

use chain::KeyFile;
use libfuzzer_sys::fuzz_target;

#[path = "../../crates/consecution/src/http/access/common_name.rs"]
mod common_name;
#[path = "../../crates/consecution/src/http/access/credentials.rs"]
#[allow(dead_code)]
mod credentials;

fuzz_target!(|bytes: &[u8]| {
    if let Some(name) = common_name::common_name(bytes) {
        assert!(name.len() <= bytes.len());
    }
    if let Ok(token) = credentials::token_in(bytes) {
        assert!(!token.is_empty() && token.len() <= bytes.len());
    }
    match KeyFile::parse(bytes, "fuzzed.yaml") {
        Ok(file) => {
            for key in &file.keys {
                // Whatever the pattern, it is tried in a moment.
                key.may_call("resize-resize-resize");
                for right in &key.may {
                    assert_eq!(right.to_string().parse().as_ref(), Ok(right));
                }
            }
        }
        Err(error) => drop(error.to_string()),
    }
});
