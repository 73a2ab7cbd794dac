//! Parameters: patterns, the texts that they are for, and values, a line each; the value
//! is all the rest.
#![no_main]

use std::collections::BTreeMap;

use chain::{Link, ParameterError, Pattern};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &str| {
    let mut lines = input.splitn(3, '\n');
    let [Some(text), Some(template), Some(value)] = [(); 3].map(|()| lines.next()) else {
        return;
    };
    let pattern = match Pattern::new(text) {
        Ok(pattern) => pattern,
        Err(error) => {
            // What is wrong can be shown.
            assert!(error.span().is_none_or(|span| text.get(span).is_some()));
            return drop(error.to_string());
        }
    };
    let link = Link {
        arguments: vec![template.to_owned()],
        parameters: [("x".to_owned(), pattern.clone())].into(),
        ..Link::new("i")
    };
    let values = BTreeMap::from([("x".to_owned(), value.to_owned())]);
    match link.fill(&values) {
        Ok(filled) => {
            assert!(pattern.is_match(value) && !value.contains('\0'));
            if !template.contains("${") {
                assert_eq!(filled.arguments, [template]);
            }
        }
        Err(ParameterError::Mismatch { .. }) => assert!(!pattern.is_match(value)),
        Err(error) => drop(error.to_string()),
    }
});
