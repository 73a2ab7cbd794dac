//! Values of parameters, as a query over HTTP and a header over NATS have them. What is read
//! is the same when it is written and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../crates/consecution/src/parameters.rs"]
mod parameters;
#[path = "../../crates/consecution/src/text.rs"]
#[allow(dead_code, unexpected_cfgs)]
mod text;

fuzz_target!(|query: &str| {
    match parameters::read(query) {
        Ok(values) => {
            let written = parameters::write(&values);
            assert!(written.bytes().all(|byte| byte.is_ascii_graphic()));
            assert_eq!(written.len(), parameters::written_bytes(&values));
            assert_eq!(parameters::read(&written), Ok(values), "{written}");
        }
        // What is wrong can be shown.
        Err(error) => drop((error.name(), error.to_string())),
    }
});
