//! Chain files, and links as they stand in etcd. What is read is written so that
//! it reads back as the same, and an error can be shown. Values take their places.
#![no_main]

use std::collections::BTreeMap;

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
                fill(&link.link);
            }
            if let Ok(values) = chain.values(&BTreeMap::new()) {
                for link in &chain.links {
                    // Defaults match; all together may be too long.
                    drop(link.link.fill(&values));
                }
            }
        }
        Err(error) => drop(error.to_string()),
    }
    match Link::from_yaml(text, "fuzzed") {
        Ok(link) => {
            let again = Link::from_yaml(link.to_yaml(), "written");
            assert_eq!(again.ok().as_ref(), Some(&link));
            fill(&link);
        }
        Err(error) => drop(error.to_string()),
    }
});

/// A link without parameters is left as it is, and one with parameters needs values.
fn fill(link: &Link) {
    match link.fill(&BTreeMap::new()) {
        Ok(filled) => {
            assert!(link.parameters.is_empty());
            assert_eq!(filled.arguments, link.arguments);
            assert_eq!(filled.environment, link.environment);
        }
        Err(error) => drop(error.to_string()),
    }
    let values = link.parameters.keys().map(|name| (name.clone(), "1".to_owned()));
    drop(link.fill(&values.collect()));
}
