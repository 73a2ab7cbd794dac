//! Archives as they are imported: what `docker save` wrote and writes, OCI
//! archives, root file systems.
#![no_main]

use image::{Input, MountPoint, NoProgress, Owners, Store, StoreOptions};
use libfuzzer_sys::fuzz_target;

#[path = "place.rs"]
mod place;

use place::Place;

fuzz_target!(|bytes: &[u8]| {
    let place = Place::new();
    let options = StoreOptions {
        owners: Owners::Mine,
        mount_points: &[MountPoint::Directory("proc"), MountPoint::File("etc/hosts")],
        limits: place::limits(),
        sync: false,
    };
    let store = Store::open(&place.root(), options).expect("a place of ours");
    let name = "fuzzed".parse().expect("a name");
    let input = Input::Read(Box::new(std::io::Cursor::new(bytes.to_vec())));
    let imported = store.import(&name, input, &NoProgress);
    if let Ok(image) = imported {
        assert!(image.root().starts_with(place.root()));
    }
    drop(store);
    place.check();
});
