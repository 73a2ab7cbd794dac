//! Chain files, and links as they stand in etcd. What is read is written so that
//! it reads back as the same, and an error can be shown.
#![no_main]

use chain::{Chain, Link};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    match Chain::parse(text, "fuzzed.yaml", "fuzzed") {
        Ok(chain) => {
            let written = chain.to_yaml();
            let again = Chain::parse(&written, "written.yaml", "fuzzed");
            assert_eq!(again.ok().as_ref(), Some(&chain), "{written}");
            for link in &chain.links {
                assert_eq!(link.id, link.link.id());
            }
        }
        Err(error) => drop(error.to_string()),
    }
    match Link::from_yaml(text, "fuzzed") {
        Ok(link) => {
            let again = Link::from_yaml(link.to_yaml(), "written");
            assert_eq!(again.ok().as_ref(), Some(&link));
        }
        Err(error) => drop(error.to_string()),
    }
});
