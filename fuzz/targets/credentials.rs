//! Docker's `config.json`, the part about registries. No helper is asked.
#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

static FILE: LazyLock<PathBuf> =
    LazyLock::new(|| std::env::temp_dir().join(format!("fuzzed-{}.json", std::process::id())));

fuzz_target!(|bytes: &[u8]| {
    std::fs::write(&*FILE, bytes).expect("a file of ours");
    for registry in ["docker.io", "registry.example.com", "localhost:5000"] {
        image::fuzzing::credentials(&FILE, registry);
    }
});
