//! Layers as bytes: compression, tar, PAX headers, sparse files.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "place.rs"]
mod place;

use place::Place;

fuzz_target!(|bytes: &[u8]| {
    let place = Place::new();
    image::fuzzing::unpack(&[bytes], &place.root(), &place.trash(), &place::limits());
    place.check();
});
