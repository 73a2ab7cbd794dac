//! Manifests, indexes and configs. The first byte says what it was announced as.
#![no_main]

use libfuzzer_sys::fuzz_target;

const TYPES: [&str; 6] = [
    "",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/json; charset=utf-8",
];

fuzz_target!(|data: &[u8]| {
    let Some((first, bytes)) = data.split_first() else {
        return;
    };
    image::fuzzing::manifest(bytes, TYPES[usize::from(*first) % TYPES.len()]);
    image::fuzzing::config(bytes, usize::from(*first) % 4);
});
