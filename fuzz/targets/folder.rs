//! Tars that strangers send to a link whose input is a folder.
#![no_main]

use std::fs;

use libfuzzer_sys::fuzz_target;

#[path = "place.rs"]
#[expect(dead_code, reason = "limits are those of images")]
mod place;

use place::Place;

fuzz_target!(|bytes: &[u8]| {
    let place = Place::new();
    fs::create_dir(place.root()).expect("a folder");
    sandbox::fuzzing::unpack(bytes, &place.root());
    place.check();
});
