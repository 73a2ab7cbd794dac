//! References of images: what is read is written as it reads.
#![no_main]

use image::Reference;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    match text.parse::<Reference>() {
        Ok(reference) => {
            let written = reference.to_string();
            assert_eq!(
                written.parse::<Reference>().ok().as_ref(),
                Some(&reference),
                "{written}"
            );
            let familiar = reference.familiar().to_string();
            assert_eq!(
                familiar.parse::<Reference>().ok().as_ref(),
                Some(&reference),
                "{familiar}"
            );
        }
        Err(error) => drop(error.to_string()),
    }
});
