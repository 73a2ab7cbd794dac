//! `consecution image`: what other tools write can be imported, what a registry
//! has can be pulled, and what is no image is refused and leaves nothing.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::chain::{chain, link};
use crate::support::command::{self, Finished, consecution, finish};
use crate::support::{home, leftovers};
use test_support::PATIENCE;
use test_support::ports::free_port;
use test_support::registry::Registry;

fn image(home: &Path, arguments: &[&str]) -> Finished {
    let mut image = consecution(home);
    image.arg("image").args(arguments);
    finish(image, b"", PATIENCE)
}

fn import(home: &Path, name: &str, from: &Path) -> Finished {
    image(home, &["import", name, from.to_str().unwrap()])
}

/// What a chain of one link makes of `data\n` with that image.
fn cat(home: &Path, image: &str) -> Finished {
    let chain = chain([link(&["/bin/cat"]).image(image)]);
    let mut run = consecution(home);
    run.arg("run").arg(chain.path());
    finish(run, b"data\n", PATIENCE)
}

/// Runs another program; `false` where there is none of that name.
#[track_caller]
fn tool(line: &[&str]) -> bool {
    match Command::new(line[0])
        .args(&line[1..])
        .stdin(Stdio::null())
        .output()
    {
        Ok(ran) => {
            assert!(
                ran.status.success(),
                "{line:?}: {}",
                String::from_utf8_lossy(&ran.stderr)
            );
            true
        }
        Err(_) => false,
    }
}

/// An OCI layout folder with a busybox image, as `umoci` makes it; `None` where
/// it is not here.
fn layout(folder: &Path) -> Option<PathBuf> {
    let layout = folder.join("layout");
    let path = layout.to_str().unwrap();
    let tagged = format!("{path}:latest");
    if !tool(&["umoci", "init", "--layout", path]) {
        return None;
    }
    tool(&["umoci", "new", "--image", &tagged]);
    let root = folder.join("root");
    std::fs::create_dir(&root).unwrap();
    tool(&[
        "tar",
        "-xf",
        home::busybox_tar().to_str().unwrap(),
        "-C",
        root.to_str().unwrap(),
    ]);
    let mut insert = vec!["umoci", "insert"];
    if !rustix::process::geteuid().is_root() {
        insert.push("--rootless");
    }
    tool(
        &[
            &insert[..],
            &["--image", &tagged, root.to_str().unwrap(), "/"],
        ]
        .concat(),
    );
    tool(&[
        "umoci",
        "config",
        "--image",
        &tagged,
        "--config.cmd",
        "/bin/cat",
    ]);
    Some(layout)
}

#[test]
fn a_root_file_system_is_imported_from_a_file() {
    let home = home::empty();
    let ran = import(home.path(), "busybox", home::busybox_tar()).expect_success();
    assert!(
        ran.text().contains("busybox") && ran.text().contains("sha256:"),
        "{}",
        ran.text()
    );
    cat(home.path(), "busybox")
        .expect_success()
        .expect_output("data\n");
}

#[test]
fn an_image_is_as_large_as_image_max_says_and_no_larger() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("file"), vec![b'x'; 3 << 20]).unwrap();
    let tar = folder.path().join("image.tar");
    let (inside, tar) = (folder.path().to_str().unwrap(), tar.to_str().unwrap());
    assert!(tool(&["tar", "-C", inside, "-cf", tar, "file"]));
    let home = home::empty();
    let refused = ["more than 2097152 bytes", "--image-max"];
    image(home.path(), &["import", "large", tar, "--image-max", "2M"])
        .expect_code(125)
        .expect_stderr(&refused);
    let mut import = consecution(home.path());
    import.args(["image", "import", "large", tar]);
    import.env("CONSECUTION_IMAGE_MAX", "2M");
    finish(import, b"", PATIENCE)
        .expect_code(125)
        .expect_stderr(&refused);
    image(home.path(), &["import", "large", tar, "--image-max", "4M"]).expect_success();
}

#[test]
fn files_of_an_image_that_commands_do_not_see_are_named() {
    let (home, folder) = (home::empty(), tempfile::tempdir().unwrap());
    let tar = folder.path().join("image.tar");
    std::fs::copy(home::busybox_tar(), &tar).unwrap();
    std::fs::create_dir_all(folder.path().join("run/lock")).unwrap();
    let (inside, tar_path) = (folder.path().to_str().unwrap(), tar.to_str().unwrap());
    let append = |what: &str| assert!(tool(&["tar", "-C", inside, "-rf", tar_path, what]));
    append("run");
    import(home.path(), "folders", &tar).expect_success();
    let quiet = cat(home.path(), "folders").expect_success();
    assert_eq!(quiet.stderr, "");

    std::fs::write(folder.path().join("run/lock/nginx.pid"), "1").unwrap();
    append("run");
    import(home.path(), "files", &tar).expect_success();
    cat(home.path(), "files").expect_success().expect_stderr(&[
        "WARN",
        "/run/lock/nginx.pid",
        "image=\"files\"",
    ]);
}

#[test]
fn a_root_file_system_is_imported_from_standard_input() {
    let home = home::empty();
    for program in ["cat", "gzip", "zstd"] {
        let packed = Command::new(program)
            .stdin(std::fs::File::open(home::busybox_tar()).unwrap())
            .stdout(Stdio::piped())
            .spawn();
        let Ok(mut packed) = packed else { continue };
        let mut import = consecution(home.path());
        import
            .args(["image", "import", program, "-"])
            .stdin(packed.stdout.take().unwrap());
        import.stdout(Stdio::piped()).stderr(Stdio::piped());
        command::finish_child(import.spawn().unwrap(), PATIENCE).expect_success();
        assert!(packed.wait().unwrap().success());
        cat(home.path(), program)
            .expect_success()
            .expect_output("data\n");
    }
}

#[test]
fn what_other_tools_write_is_imported() {
    let (home, folder) = (home::empty(), tempfile::tempdir().unwrap());
    let Some(layout) = layout(folder.path()) else {
        cannot_run_here!("there is no 'umoci'")
    };
    import(home.path(), "layout", &layout).expect_success();
    cat(home.path(), "layout")
        .expect_success()
        .expect_output("data\n");
    let source = format!("oci:{}:latest", layout.display());
    for kind in ["docker-archive", "oci-archive"] {
        let archive = folder.path().join(kind);
        if !tool(&[
            "skopeo",
            "copy",
            "-q",
            &source,
            &format!("{kind}:{}:some/name:1", archive.display()),
        ]) {
            cannot_run_here!("there is no 'skopeo'");
        }
        import(home.path(), kind, &archive).expect_success();
        cat(home.path(), kind)
            .expect_success()
            .expect_output("data\n");
    }
}

#[test]
fn the_command_of_an_image_is_the_default() {
    let (home, folder) = (home::empty(), tempfile::tempdir().unwrap());
    let Some(layout) = layout(folder.path()) else {
        cannot_run_here!("there is no 'umoci'")
    };
    import(home.path(), "layout", &layout).expect_success();
    let chain = chain([link::<&str>(&[]).image("layout")]);
    let mut run = consecution(home.path());
    run.arg("run").arg(chain.path());
    finish(run, b"data\n", PATIENCE)
        .expect_success()
        .expect_output("data\n");
}

#[test]
fn images_are_listed_and_removed() {
    let home = home::empty();
    let count = || {
        image(home.path(), &["list"])
            .expect_success()
            .text()
            .lines()
            .count()
    };
    assert_eq!(count(), 1, "a heading");
    for name in ["one", "example.com/two:1", "three"] {
        import(home.path(), name, home::busybox_tar()).expect_success();
    }
    let list = image(home.path(), &["list"]).expect_success();
    for part in [
        "NAME",
        "one",
        "example.com/two:1",
        "three",
        "sha256:",
        "SHARED",
        "CREATED",
    ] {
        assert!(list.text().contains(part), "no {part} in {}", list.text());
    }
    image(home.path(), &["remove", "one", "example.com/two:1"]).expect_success();
    assert_eq!(count(), 2);
    cat(home.path(), "three").expect_success();
    image(home.path(), &["remove", "three"]).expect_success();
    assert_eq!(count(), 1);
    let left = leftovers::files_in(home.path())
        .into_iter()
        .filter(|path| path.ends_with("bin/cat"));
    assert_eq!(left.collect::<Vec<_>>(), Vec::<PathBuf>::new());
}

#[test]
fn what_is_not_there_cannot_be_removed() {
    let home = home::with_busybox();
    image(home.path(), &["remove", "nonesuch"])
        .expect_code(125)
        .expect_stderr(&["nonesuch"]);
    cat(home.path(), "busybox").expect_success();
}

#[test]
fn an_image_that_is_imported_again_is_replaced() {
    let home = home::with_busybox();
    import(home.path(), "busybox", home::busybox_tar()).expect_success();
    assert_eq!(
        image(home.path(), &["list"])
            .expect_success()
            .text()
            .lines()
            .count(),
        2
    );
    cat(home.path(), "busybox").expect_success();
}

#[test]
fn wrong_names_are_refused() {
    let home = home::empty();
    for name in [
        "BusyBox",
        "busy box",
        "../busybox",
        "a/../b",
        "",
        "busybox:",
        "busybox@sha256:12",
    ] {
        let ran = import(home.path(), name, home::busybox_tar());
        assert_eq!(ran.code(), 125, "{name:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(name), "{name:?}: {}", ran.stderr);
        assert_eq!(image(home.path(), &["pull", name]).code(), 125, "{name:?}");
        assert_eq!(
            image(home.path(), &["remove", name]).code(),
            125,
            "{name:?}"
        );
    }
    assert_eq!(
        image(home.path(), &["list"])
            .expect_success()
            .text()
            .lines()
            .count(),
        1
    );
}

#[test]
fn what_is_no_image_is_refused_and_leaves_nothing() {
    let home = home::with_busybox();
    let before = leftovers::files_in(home.path());
    let whole = std::fs::read(home::busybox_tar()).unwrap();
    let garbage: Vec<u8> = (0..100_000_u32)
        .map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let gzipped_garbage = [&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3][..], &garbage].concat();
    for (what, bytes) in [
        ("empty", &[][..]),
        ("text", b"this is no image\n"),
        ("garbage", &garbage),
        ("gzipped garbage", &gzipped_garbage),
        ("cut off", &whole[..whole.len() / 2]),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image.tar");
        std::fs::write(&path, bytes).unwrap();
        let ran = import(home.path(), "wrong", &path);
        assert_eq!(ran.code(), 125, "{what}: {}", ran.stderr);
        assert!(
            ran.stderr.starts_with("consecution: failed to "),
            "{what}: {}",
            ran.stderr
        );
    }
    import(home.path(), "wrong", "/nonesuch".as_ref())
        .expect_code(125)
        .expect_stderr(&["/nonesuch"]);
    let nothing = tempfile::tempdir().unwrap();
    import(home.path(), "wrong", nothing.path()).expect_code(125);
    assert!(
        !image(home.path(), &["list"])
            .expect_success()
            .text()
            .contains("wrong")
    );
    let after = leftovers::files_in(home.path());
    assert_eq!(
        after.difference(&before).collect::<Vec<_>>(),
        Vec::<&PathBuf>::new()
    );
}

#[test]
fn an_image_is_pulled_by_command_and_by_chain() {
    let folder = tempfile::tempdir().unwrap();
    let Some(layout) = layout(folder.path()) else {
        cannot_run_here!("there is no 'umoci'")
    };
    let Some(registry) = Registry::start() else {
        cannot_run_here!("there is no 'docker-registry'")
    };
    let name = format!("{}/busybox", registry.address);
    let (source, target) = (
        format!("oci:{}:latest", layout.display()),
        format!("docker://{name}:latest"),
    );
    if !tool(&[
        "skopeo",
        "copy",
        "-q",
        "--dest-tls-verify=false",
        &source,
        &target,
    ]) {
        cannot_run_here!("there is no 'skopeo'");
    }
    let home = home::empty();
    let ran = image(home.path(), &["pull", &name]).expect_success();
    assert!(
        ran.text().contains(&name) && ran.text().contains("sha256:"),
        "{}",
        ran.text()
    );
    assert_eq!(ran.stderr, "", "progress is for terminals");
    cat(home.path(), &name)
        .expect_success()
        .expect_output("data\n");

    let home = home::empty();
    let large = chain([link(&["/bin/cat"]).image(&name)]);
    let mut run = consecution(home.path());
    run.args(["run", "--image-max", "1M"]).arg(large.path());
    finish(run, b"", PATIENCE)
        .expect_code(125)
        .expect_stderr(&[&name, "--image-max"]);
    cat(home.path(), &name)
        .expect_success()
        .expect_output("data\n");
    let missing = format!("{}/nonesuch:1", registry.address);
    image(home.path(), &["pull", &missing])
        .expect_code(125)
        .expect_stderr(&[&missing]);
    drop(registry);
    // It is in the store now.
    cat(home.path(), &name)
        .expect_success()
        .expect_output("data\n");
}

#[test]
fn a_registry_that_is_down_is_named() {
    let home = home::empty();
    let name = format!("localhost:{}/busybox", free_port());
    image(home.path(), &["pull", &name])
        .expect_code(125)
        .expect_stderr(&[name.trim_end_matches("/busybox")]);
}

#[test]
fn several_processes_import_at_the_same_time() {
    let home = home::empty();
    let start = |_| {
        let mut import = consecution(home.path());
        import
            .args(["image", "import", "busybox"])
            .arg(home::busybox_tar());
        import
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let children: Vec<_> = (0..4).map(start).collect();
    for child in children {
        command::finish_child(child, PATIENCE).expect_success();
    }
    cat(home.path(), "busybox")
        .expect_success()
        .expect_output("data\n");
}
