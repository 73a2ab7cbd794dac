//! Promise: whatever common tools write can be imported, told apart by content.

use std::fs;
use std::path::Path;

use crate::support::*;
use test_support::tars::entry;

fn skopeo(from: &str, to: &str) {
    run(
        "skopeo",
        &["--insecure-policy", "copy", "--quiet", from, to],
    );
}

fn compressed(path: &Path) -> [std::path::PathBuf; 2] {
    let bytes = fs::read(path).unwrap();
    let (gz, zst) = (path.with_extension("gz"), path.with_extension("zst"));
    fs::write(&gz, gzip(&bytes)).unwrap();
    fs::write(&zst, zstd::stream::encode_all(&bytes[..], 1).unwrap()).unwrap();
    [gz, zst]
}

#[test]
fn images_of_umoci_and_skopeo_in_every_form() {
    if !have(&["umoci", "skopeo", "busybox"]) {
        return;
    }
    let home = Home::new();
    let layout = busybox_layout(home.folder.path());
    let source = format!("oci:{}:1", layout.display());
    let from_layout = home.import("from-layout", &layout).unwrap();
    assert_busybox(&from_layout);
    assert_eq!(from_layout.config.environment, [("A".into(), "b".into())]);
    assert_eq!(from_layout.config.command, ["/bin/cat"]);

    let save = home.path("save.tar");
    skopeo(
        &source,
        &format!("docker-archive:{}:busybox:1", save.display()),
    );
    let oci = home.path("oci.tar");
    skopeo(&source, &format!("oci-archive:{}:1", oci.display()));
    for archive in [&save, &oci] {
        let [gz, zst] = compressed(archive);
        let image = home.import("plain", archive).unwrap();
        assert_busybox(&image);
        assert_eq!(image.config.command, ["/bin/cat"]);
        for other in [gz, zst] {
            assert_eq!(home.import("other", &other).unwrap().digest, image.digest);
        }
        let bytes = fs::read(archive).unwrap();
        assert_eq!(
            home.import_bytes("stream", &bytes).unwrap().digest,
            image.digest
        );
    }
    // An OCI image keeps its manifest's digest from folder to archive.
    assert_eq!(home.import("x", &oci).unwrap().digest, from_layout.digest);
}

#[test]
fn a_root_file_system_tar_gets_a_digest_of_its_content() {
    if !have(&["tar", "busybox"]) {
        return;
    }
    let home = Home::new();
    let root = home.path("root");
    fs::create_dir_all(root.join("bin")).unwrap();
    fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    std::os::unix::fs::symlink("busybox", root.join("bin/cat")).unwrap();
    let tar = home.path("root.tar");
    run(
        "tar",
        &[
            "-C",
            root.to_str().unwrap(),
            "--sort=name",
            "-cf",
            tar.to_str().unwrap(),
            ".",
        ],
    );
    let image = home.import("plain", &tar).unwrap();
    assert_busybox(&image);
    for other in compressed(&tar) {
        assert_eq!(home.import("other", &other).unwrap().digest, image.digest);
    }
}

#[test]
fn a_docker_save_of_today_is_read_as_the_oci_layout_it_is() {
    let home = Home::new();
    let made = image_of(&[tar_of(&[("a", b"1")])]);
    let folder = home.path("layout");
    write_layout(&folder, &[(&made, Some("latest"))]);
    let config = made.blobs.last().unwrap().0.hex().to_owned();
    let layer = made.blobs[0].0.hex().to_owned();
    let manifest = serde_json::json!([{
        "Config": format!("blobs/sha256/{config}"), "RepoTags": ["x:latest"],
        "Layers": [format!("blobs/sha256/{layer}")],
    }]);
    fs::write(folder.join("manifest.json"), manifest.to_string()).unwrap();
    let tar = home.path("save.tar");
    run(
        "tar",
        &[
            "-C",
            folder.to_str().unwrap(),
            "-cf",
            tar.to_str().unwrap(),
            ".",
        ],
    );
    let image = home.import("x", &tar).unwrap();
    assert_eq!(image.digest, made.digest);
    assert_eq!(fs::read(image.root().join("a")).unwrap(), b"1");
}

#[test]
fn of_several_images_the_name_decides() {
    let home = Home::new();
    let one = image_of(&[tar_of(&[("a", b"1")])]);
    let two = image_of(&[tar_of(&[("a", b"2")])]);
    let folder = home.path("layout");
    write_layout(&folder, &[(&one, Some("one")), (&two, Some("two"))]);
    assert_eq!(home.import("x:two", &folder).unwrap().digest, two.digest);
    let error = home.import("x:three", &folder).unwrap_err().told();
    assert!(
        error.contains("one, two") && error.contains("x:three"),
        "{error}"
    );
}

#[test]
fn docker_save_of_several_images_is_chosen_by_tag() {
    let home = Home::new();
    let layers = [tar_of(&[("a", b"1")]), tar_of(&[("a", b"2")])];
    let images: Vec<_> = layers
        .iter()
        .map(|layer| image_of(std::slice::from_ref(layer)))
        .collect();
    let mut files: Vec<(String, Vec<u8>)> = Vec::new();
    let mut manifest = Vec::new();
    for (place, (image, layer)) in images.iter().zip(&layers).enumerate() {
        let (digest, config) = image.blobs.last().unwrap();
        files.push((format!("{}.json", digest.hex()), config.clone()));
        files.push((format!("{place}/layer.tar"), layer.clone()));
        manifest.push(serde_json::json!({
            "Config": format!("{}.json", digest.hex()), "RepoTags": [format!("me/x:{place}")],
            "Layers": [format!("{place}/layer.tar")],
        }));
    }
    files.push((
        "manifest.json".into(),
        serde_json::to_vec(&manifest).unwrap(),
    ));
    let list: Vec<(&str, &[u8])> = files
        .iter()
        .map(|(path, bytes)| (path.as_str(), &bytes[..]))
        .collect();
    let tar = tar_of(&list);
    let image = home.import_bytes("me/x:1", &tar).unwrap();
    assert_eq!(fs::read(image.root().join("a")).unwrap(), b"2");
    assert_eq!(image.digest, images[1].blobs.last().unwrap().0);
    let error = home.import_bytes("me/y", &tar).unwrap_err().told();
    assert!(error.contains("me/x:0, me/x:1"), "{error}");
}

/// A `docker save` archive with this `manifest.json`, a layer, and a config for no
/// layers and one for this one.
fn save_with(manifest: &str) -> Vec<u8> {
    let layer = tar_of(&[("a", b"1")]);
    let none = image_of(&[]).blobs.pop().unwrap().1;
    let null = String::from_utf8(none.clone()).unwrap();
    let null = null.replace("\"diff_ids\":[]", "\"diff_ids\":null");
    let one = image_of(std::slice::from_ref(&layer))
        .blobs
        .pop()
        .unwrap()
        .1;
    tar_of(&[
        ("none.json", &none),
        ("null.json", null.as_bytes()),
        ("one.json", &one),
        ("0/layer.tar", &layer),
        ("manifest.json", manifest.as_bytes()),
    ])
}

#[test]
fn an_archive_of_images_is_never_a_root_file_system_itself() {
    let home = Home::new();
    let none = home.path("home/images/roots");
    let whole = r#"{"Config":"one.json","RepoTags":["x:1"],"Layers":["0/layer.tar"]}"#;
    // Another image of it may be as it likes.
    for other in [
        r#"{"Config":"none.json","RepoTags":["y"],"Layers":null}"#,
        r#"{"Config":"none.json","RepoTags":[null],"Layers":[null]}"#,
        r#"{"Config":null,"RepoTags":null,"Layers":null}"#,
        r#"{"Config":"","Layers":[""]}"#,
        "null",
        "{}",
    ] {
        for manifest in [format!("[{other},{whole}]"), format!("[{whole},{other}]")] {
            let image = home.import_bytes("x:1", &save_with(&manifest)).unwrap();
            assert_eq!(
                fs::read(image.root().join("a")).unwrap(),
                b"1",
                "{manifest}"
            );
            assert!(!image.root().join("manifest.json").exists());
        }
    }
    // An image without layers is an empty one.
    for (config, layers) in [
        ("none", ",\"Layers\":null"),
        ("none", ",\"Layers\":[]"),
        ("none", ""),
        ("null", ",\"Layers\":null"),
    ] {
        let manifest = format!(r#"[{{"Config":"{config}.json"{layers}}}]"#);
        let image = home.import_bytes("x", &save_with(&manifest)).unwrap();
        assert_eq!(fs::read_dir(image.root()).unwrap().count(), 0, "{manifest}");
    }
    for name in ["x", "x:1"] {
        home.store.remove(&reference(name)).unwrap();
    }
    for (manifest, says) in [
        (
            r#"[{"Config":"one.json","Layers":[null]}]"#,
            "a layer without a path",
        ),
        (
            r#"[{"Config":"one.json","Layers":[""]}]"#,
            "a layer without a path",
        ),
        (
            r#"[{"Config":null,"Layers":["0/layer.tar"]}]"#,
            "a config without a path",
        ),
        (r#"[{"Layers":["0/layer.tar"]}]"#, "a config without a path"),
        (r#"[{"Config":"one.json","Layers":null}]"#, "names 1 layers"),
        (
            r#"[{"Config":"one.json","Layers":7}]"#,
            "manifest.json, which is damaged",
        ),
        (
            r#"[{"Config":"one.json","Layers":["0/la"#,
            "manifest.json, which is damaged",
        ),
        ("", "manifest.json, which is damaged"),
        ("[]", "names no image"),
    ] {
        let error = home.import_bytes("x", &save_with(manifest)).unwrap_err();
        assert!(error.told().contains(says), "{manifest}: {error}");
        assert_eq!(fs::read_dir(&none).unwrap().count(), 0, "{manifest}");
    }
    // A file of that name that lists no images is one of a root file system.
    for manifest in [r#"[{"name":"x"}]"#, r#"{"name":"x"}"#, "[1]", "no JSON"] {
        let tar = tar_of(&[("manifest.json", manifest.as_bytes()), ("a", b"2")]);
        let image = home.import_bytes("x", &tar).unwrap();
        assert_eq!(fs::read(image.root().join("a")).unwrap(), b"2");
    }
}

/// An artifact like cosign's: a manifest with the config of an image, and layers
/// that are none.
fn signature() -> Made {
    let mut made = image_of(&[tar_of(&[("payload", b"signed")])]);
    let text = String::from_utf8(made.manifest).unwrap();
    let layer = "application/vnd.oci.image.layer.v1.tar+gzip";
    assert!(text.contains(layer));
    let text = text.replace(layer, "application/vnd.dev.cosign.simplesigning.v1+json");
    made.manifest = text.into_bytes();
    made.digest = image::Digest::of(&made.manifest);
    made
}

#[test]
fn a_signature_before_the_image_is_passed_over() {
    let home = Home::new();
    let made = image_of(&[tar_of(&[("a", b"1")])]);
    let signature = signature();
    let other = image_of(&[tar_of(&[("a", b"2")])]);
    for (place, names) in [
        [None, None],
        [Some("sha256-0.sig"), Some("latest")],
        [Some("sha256-0.sig"), None],
        [None, Some("latest")],
    ]
    .into_iter()
    .enumerate()
    {
        let folder = home.path(&format!("layout{place}"));
        write_layout(&folder, &[(&signature, names[0]), (&made, names[1])]);
        assert_eq!(home.import("x:2", &folder).unwrap().digest, made.digest);
        // Two images are two, whatever is signed.
        let images = [
            (&signature, Some("sha256-0.sig")),
            (&made, Some("1")),
            (&other, Some("2")),
        ];
        write_layout(&folder, &images);
        assert_eq!(home.import("x:2", &folder).unwrap().digest, other.digest);
        let error = home.import("x:3", &folder).unwrap_err().told();
        assert!(error.contains("1, 2") && !error.contains("sig"), "{error}");
    }
    let folder = home.path("signature");
    write_layout(&folder, &[(&signature, None)]);
    let error = home.import("x", &folder).unwrap_err().told();
    assert!(error.contains("simplesigning"), "{error}");
}

#[test]
fn what_is_compressed_otherwise_is_told_how_to_get_in() {
    let tar = tar_of(&[("a", b"1")]);
    for program in ["xz", "bzip2", "lz4", "lzma"] {
        if !have(&[program]) {
            continue;
        }
        let home = Home::new();
        fs::write(home.path("root.tar"), &tar).unwrap();
        let shell = |script: &str| {
            let path = home.folder.path().display();
            run("sh", &["-c", &format!("cd {path} && {script}")]);
        };
        shell(&format!("{program} -c < root.tar > root.tar.x"));
        let file = home.import("x", &home.path("root.tar.x"));
        let bytes = fs::read(home.path("root.tar.x")).unwrap();
        let stream = home.import_bytes("x", &bytes);
        let advice = format!("{program} -cd <");
        for error in [file, stream].map(|import| import.unwrap_err().told()) {
            assert!(
                error.contains(&advice) && error.contains("import NAME -"),
                "{error}"
            );
        }
        // What it says helps.
        shell(&format!("{program} -cd < root.tar.x > again.tar"));
        home.import("x", &home.path("again.tar")).unwrap();
        // A layer says it for itself.
        let save = docker_save_of_old(
            &image_of(std::slice::from_ref(&bytes))
                .blobs
                .pop()
                .unwrap()
                .1,
            &[bytes],
        );
        let error = home.import_bytes("y", &save).unwrap_err().told();
        assert!(
            error.contains(&format!("compressed with {program}")),
            "{error}"
        );
    }
    // Files of such names are no compressed ones.
    for name in ["BZh", "BZh9", "]", "LZIP", "7zXZ"] {
        Home::new()
            .import_bytes("x", &tar_of(&[(name, b"1")]))
            .unwrap();
    }
}

#[test]
fn whatever_gnu_tar_writes_of_a_folder_is_taken() {
    if !have(&["tar"]) {
        return;
    }
    let home = Home::new();
    let root = home.path("root");
    fs::create_dir_all(root.join("some/folder")).unwrap();
    fs::write(root.join("some/folder/file"), b"1").unwrap();
    fs::write(root.join("z"), b"2").unwrap();
    let (root, tar) = (root.to_str().unwrap(), home.path("root.tar"));
    let snapshot = home.path("snapshot");
    for format in ["gnu", "oldgnu", "pax", "ustar", "v7"] {
        for more in [
            &[][..],
            &["-V", "a label"],
            &["-g", snapshot.to_str().unwrap()],
        ] {
            if matches!((format, more), ("ustar" | "v7", [_, _])) {
                continue;
            }
            let _ = fs::remove_file(&snapshot);
            let mut arguments = vec!["-C", root, "--format", format, "-cf", tar.to_str().unwrap()];
            arguments.extend(more);
            arguments.push(".");
            run("tar", &arguments);
            let image = home.import("x", &tar).unwrap();
            let file = |path| fs::read(image.root().join(path)).unwrap();
            assert_eq!(file("some/folder/file"), b"1", "{format} {more:?}");
            assert_eq!(file("z"), b"2", "{format} {more:?}");
        }
    }
}

#[test]
fn one_volume_of_several_is_refused_and_named() {
    if !have(&["tar"]) {
        return;
    }
    let home = Home::new();
    let content: Vec<u8> = (0..40_000u32).flat_map(u32::to_le_bytes).collect();
    fs::write(home.path("large"), content).unwrap();
    for format in ["gnu", "pax"] {
        let volumes = [1, 2].map(|place| home.path(&format!("{format}{place}.tar")));
        let [first, second] = volumes.each_ref().map(|path| path.to_str().unwrap());
        let folder = home.folder.path().to_str().unwrap();
        let mut arguments = vec!["-C", folder, "--format", format, "-cM", "-L", "100"];
        arguments.extend(["-f", first, "-f", second, "large"]);
        run("tar", &arguments);
        let error = home.import("x", &volumes[0]).unwrap_err().told();
        assert!(error.contains("middle of an entry"), "{error}");
        let error = home.import("x", &volumes[1]).unwrap_err().told();
        assert!(error.contains("tar -xM"), "{error}");
        assert_eq!(home.items("roots"), [""; 0]);
    }
}

#[test]
fn numbers_that_are_left_blank_are_zero() {
    for blank in [b' ', 0] {
        let home = Home::new();
        let mut header = tar::Header::new_gnu();
        header.set_path("empty").unwrap();
        header.set_entry_type(tar::EntryType::Regular);
        let old = header.as_old_mut();
        for field in [&mut old.mode, &mut old.uid, &mut old.gid] {
            field.fill(blank);
        }
        for field in [&mut old.size, &mut old.mtime] {
            field.fill(blank);
        }
        header.set_cksum();
        let mut tar = tar::Builder::new(Vec::new());
        tar.append(&header, &b""[..]).unwrap();
        entry(&mut tar, tar::EntryType::Regular, "next", "", b"1");
        let image = home.import_bytes("x", &tar.into_inner().unwrap()).unwrap();
        let empty = fs::symlink_metadata(image.root().join("empty")).unwrap();
        assert_eq!(
            (empty.len(), empty.modified().unwrap()),
            (0, std::time::UNIX_EPOCH)
        );
        assert_eq!(fs::read(image.root().join("next")).unwrap(), b"1");
    }
}
