//! Promise: what cannot be imported gets a clear error and does no damage.

use std::fs;

use crate::support::*;

fn refused(bytes: &[u8]) -> String {
    let home = Home::new();
    let error = home.import_bytes("x", bytes).unwrap_err().told();
    assert!(home.store.list().unwrap().is_empty());
    assert_eq!(home.items("roots"), [""; 0], "{error}");
    assert_eq!(home.items("tmp"), [""; 0], "{error}");
    error
}

fn assert_says(error: &str, parts: &[&str]) {
    for part in parts {
        assert!(error.contains(part), "'{part}' is not in: {error}");
    }
    assert!(error.starts_with(char::is_lowercase), "{error}");
}

#[test]
fn what_is_no_image_is_refused_with_what_it_is() {
    assert_says(&refused(b""), &["standard input", "empty", "docker save"]);
    assert_says(&refused(b"hello"), &["no tar"]);
    assert_says(&refused(&[b'x'; 4096]), &["no tar", "checksum"]);
    assert_says(&refused(&[0; 1024]), &["nothing in it"]);
}

#[test]
fn a_folder_must_be_a_layout() {
    let home = Home::new();
    let error = home.import("x", home.folder.path()).unwrap_err().told();
    assert_says(
        &error,
        &["oci-layout", home.folder.path().to_str().unwrap()],
    );
    let error = home.import("x", &home.path("missing")).unwrap_err().told();
    assert_says(&error, &["missing", "No such file"]);
}

#[test]
fn what_is_cut_off_is_noticed() {
    let content: Vec<u8> = (0..100_000u32)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect();
    let tar = tar_of(&[("file", &content)]);
    let gz = gzip(&tar);
    assert_says(&refused(&gz[..gz.len() / 2]), &["cut off"]);
    let zst = zstd::stream::encode_all(&tar[..], 1).unwrap();
    assert_says(&refused(&zst[..zst.len() / 2]), &["cut off"]);
    assert_says(&refused(&tar[..tar.len() / 2]), &["middle of an entry"]);
    // Between two entries nothing but the missing end marker tells.
    assert_says(&refused(&tar[..tar.len() - 1024]), &["end marker"]);
    // 400,000 bytes leave 384 of padding, without which some tools end a layer;
    // there a digest tells that it is whole.
    let unpadded = &tar[..512 + content.len()];
    assert_says(&refused(unpadded), &["end marker"]);
    let (home, folder) = layout_of(&image_of(&[unpadded.to_vec()]));
    let image = home.import("x", &folder).unwrap();
    assert!(fs::read(image.root().join("file")).unwrap() == content);
}

fn layout_of(made: &Made) -> (Home, std::path::PathBuf) {
    let home = Home::new();
    let folder = home.path("layout");
    write_layout(&folder, &[(made, None)]);
    (home, folder)
}

fn refused_layout(home: &Home, folder: &std::path::Path) -> String {
    let error = home.import("x", folder).unwrap_err().told();
    assert_eq!(home.items("roots"), [""; 0], "{error}");
    error
}

#[test]
fn every_blob_is_verified() {
    let made = image_of(&[tar_of(&[("a", b"1")])]);
    assert_eq!(made.blobs.len(), 2, "the layer and the config");
    for (digest, bytes) in &made.blobs {
        let (home, folder) = layout_of(&made);
        let blob = folder.join("blobs/sha256").join(digest.hex());
        let mut damaged = bytes.clone();
        let last = damaged.len() - 1;
        damaged[last] ^= 1;
        fs::write(&blob, &damaged).unwrap();
        let error = refused_layout(&home, &folder);
        assert_says(&error, &["verify", digest.as_str()]);
        fs::write(&blob, &bytes[..last]).unwrap();
        assert_says(&refused_layout(&home, &folder), &["bytes instead of"]);
        fs::remove_file(&blob).unwrap();
        assert_says(&refused_layout(&home, &folder), &["incomplete"]);
    }
}

#[test]
fn a_layer_that_is_not_the_configs_is_refused() {
    let mut made = image_of(&[tar_of(&[("a", b"1")])]);
    let other = image_of(&[tar_of(&[("a", b"2")])]);
    // The manifest names another layer, correctly, but the config does not.
    let text = String::from_utf8(made.manifest.clone()).unwrap();
    let (layer, bytes) = &other.blobs[0];
    let old = &made.blobs[0];
    let text = text.replace(old.0.as_str(), layer.as_str());
    let text = text.replace(
        &format!("\"size\":{}}}]", old.1.len()),
        &format!("\"size\":{}}}]", bytes.len()),
    );
    made.manifest = text.into_bytes();
    made.digest = image::Digest::of(&made.manifest);
    made.blobs[0] = other.blobs[0].clone();
    let (home, folder) = layout_of(&made);
    assert_says(&refused_layout(&home, &folder), &["uncompressed digest"]);
}

#[test]
fn another_machines_image_is_refused() {
    let (home, folder) = layout_of(&image_for("vax", &[]));
    assert_says(
        &refused_layout(&home, &folder),
        &["linux/vax", "this machine is"],
    );
}

#[test]
fn a_store_of_a_newer_version_is_left_alone() {
    let home = Home::new();
    fs::write(home.images().join("version"), "999\n").unwrap();
    let error = image::Store::open(&home.path("home"), options())
        .unwrap_err()
        .told();
    assert_says(&error, &["version 999", "knows 1", "another folder"]);
}

fn limited(limits: image::Limits) -> Home {
    Home::with(image::StoreOptions {
        limits,
        ..options()
    })
}

fn limited_to(image_bytes_max: u64) -> Home {
    limited(image::Limits {
        image_bytes_max,
        ..Default::default()
    })
}

#[test]
fn layers_of_too_many_compressed_bytes_are_refused_unread() {
    let mut made = image_of(&[tar_of(&[("a", b"1")]), tar_of(&[("b", b"2")])]);
    let home = limited_to(1 << 20);
    let folder = home.path("layout");
    for (place, (digest, bytes)) in made.blobs[..2].iter_mut().enumerate() {
        // Skippable frames of zstd, which are nothing once decompressed.
        let mut frames = [&[0x50, 0x2a, 0x4d, 0x18][..], &600_000u32.to_le_bytes()].concat();
        frames.resize(8 + 600_000, place as u8);
        frames.extend(zstd::stream::encode_all(&b""[..], 1).unwrap());
        let text = String::from_utf8(made.manifest.clone()).unwrap();
        let new = image::Digest::of(&frames);
        let text = text.replace(digest.as_str(), new.as_str());
        let text = text.replacen(
            &format!("\"size\":{}}}", bytes.len()),
            &format!("\"size\":{}}}", frames.len()),
            1,
        );
        made.manifest = text.into_bytes();
        (*digest, *bytes) = (new, frames);
    }
    made.digest = image::Digest::of(&made.manifest);
    write_layout(&folder, &[(&made, None)]);
    let error = refused_layout(&home, &folder);
    assert_says(&error, &["compressed they have 1200034 bytes", "1048576"]);
}

#[test]
fn a_stream_that_never_ends_is_refused() {
    struct Endless(Vec<u8>, usize);
    impl std::io::Read for Endless {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            for byte in &mut *buffer {
                *byte = self.0[self.1 % self.0.len()];
                self.1 += 1;
            }
            Ok(buffer.len())
        }
    }
    let nothing = zstd::stream::encode_all(&b""[..], 1).unwrap();
    for unit in [gzip(b""), nothing, vec![0]] {
        let home = limited_to(1 << 20);
        let input = image::Input::Read(Box::new(Endless(unit, 0)));
        let import = home
            .store
            .import(&reference("x"), input, &image::NoProgress);
        assert_says(
            &import.unwrap_err().told(),
            &["standard input", "more than 1048576 bytes"],
        );
        assert_eq!(home.items("tmp"), [""; 0]);
    }
}

/// A file of nothing but a hole, as GNU tar writes one.
fn hole(bytes: u64) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_path("hole").unwrap();
    header.set_entry_type(tar::EntryType::GNUSparse);
    header.set_size(0);
    header.set_mode(0o644);
    let gnu = header.as_gnu_mut().unwrap();
    gnu.realsize
        .copy_from_slice(format!("{bytes:012o}").as_bytes());
    header.set_cksum();
    let mut tar = tar::Builder::new(Vec::new());
    tar.append(&header, &b""[..]).unwrap();
    tar.into_inner().unwrap()
}

#[test]
fn the_holes_of_sparse_files_count() {
    let home = limited_to(1 << 20);
    let image = home.import_bytes("x", &hole(1 << 19)).unwrap();
    let file = fs::metadata(image.root().join("hole")).unwrap();
    assert_eq!(file.len(), 1 << 19);
    for bytes in [1 << 20, 1 << 35] {
        assert_says(
            &home.import_bytes("y", &hole(bytes)).unwrap_err().told(),
            &["more than 1048576 bytes"],
        );
    }
}

#[test]
fn folders_that_no_entry_describes_count() {
    let home = limited(image::Limits {
        entries_max: 50,
        ..Default::default()
    });
    let deep = |name: &str| format!("{name}/{}file", "d/".repeat(20));
    let (a, b, c) = (deep("a"), deep("b"), deep("c"));
    home.import_bytes("x", &tar_of(&[(&a, b""), (&b, b"")]))
        .unwrap();
    let tar = tar_of(&[(&a, b""), (&b, b""), (&c, b"")]);
    assert_says(
        &home.import_bytes("y", &tar).unwrap_err().told(),
        &["more than 50 entries"],
    );
}

#[test]
fn bounds_on_bytes_entries_and_paths_are_kept() {
    let bomb = gzip(&tar_of(&[("bomb", &vec![0; 3 << 20])]));
    let home = limited(image::Limits {
        image_bytes_max: 1 << 20,
        ..Default::default()
    });
    let made = image_of(&[tar_of(&[("bomb", &vec![0; 3 << 20])])]);
    write_layout(&home.path("layout"), &[(&made, None)]);
    assert_says(
        &home.import("x", &home.path("layout")).unwrap_err().told(),
        &["more than 1048576 bytes"],
    );
    assert_says(
        &home.import_bytes("x", &bomb).unwrap_err().told(),
        &["more than 1048576 bytes"],
    );
    let home = limited(image::Limits {
        entries_max: 2,
        ..Default::default()
    });
    let tar = tar_of(&[("a", b""), ("b", b""), ("c", b"")]);
    assert_says(
        &home.import_bytes("x", &tar).unwrap_err().told(),
        &["more than 2 entries"],
    );
    let home = limited(image::Limits {
        paths_bytes_max: 10,
        ..Default::default()
    });
    let tar = tar_of(&[("abcdef", b""), ("ghijkl", b"")]);
    assert_says(
        &home.import_bytes("x", &tar).unwrap_err().told(),
        &["more than 10 bytes in its paths"],
    );
    let home = limited(image::Limits {
        path_bytes_max: 5,
        ..Default::default()
    });
    assert_says(
        &home
            .import_bytes("x", &tar_of(&[("abcdef", b"")]))
            .unwrap_err()
            .told(),
        &["path of 6 bytes"],
    );
}

#[test]
fn what_is_too_large_is_named_with_its_size() {
    let large = vec![7; 2 << 20];
    let tar = tar_of(&[("small", b"1"), ("some/large", &large), ("next", b"2")]);
    let says = ["entry 'some/large', which has 2097152", "1048576"];
    // As a root file system, read from a stream, compressed, and from a file.
    let home = limited_to(1 << 20);
    let file = home.path("root.tar");
    fs::write(&file, &tar).unwrap();
    for import in [
        home.import_bytes("x", &tar),
        home.import_bytes("x", &gzip(&tar)),
        home.import("x", &file),
    ] {
        assert_says(&import.unwrap_err().told(), &says);
    }
    // As a layer, of an archive and of a layout.
    let made = image_of(&[tar_of(&[("a", b"1")]), tar.clone()]);
    let folder = home.path("layout");
    write_layout(&folder, &[(&made, None)]);
    assert_says(&refused_layout(&home, &folder), &says);
    // A hole is as large as it says.
    let hole = home.import_bytes("x", &hole(1 << 35)).unwrap_err();
    let says = ["entry 'hole', which has 34359738368"];
    assert_says(&hole.told(), &says);
    // Many small ones: the one that had no room any more.
    let names: Vec<String> = (0..40).map(|place| format!("file{place:02}")).collect();
    let part = [7; 32 << 10];
    let files: Vec<_> = names
        .iter()
        .map(|name| (name.as_str(), &part[..]))
        .collect();
    let error = home.import_bytes("x", &tar_of(&files)).unwrap_err();
    assert_says(&error.told(), &["entry 'file31', which has 32768"]);
}
