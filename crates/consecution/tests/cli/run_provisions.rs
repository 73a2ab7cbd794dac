//! Files, data and secrets of links, a root that they may write to, and how much.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use crate::support::chain::{ChainFile, chain, link, shell};
use crate::support::command::{self, Finished, consecution, finish, run_on};
use crate::support::home;
use test_support::PATIENCE;

#[track_caller]
fn run_with(chain: &ChainFile, options: &[&str]) -> Finished {
    let mut run = command::run(chain.path());
    run.args(options);
    finish(run, b"", PATIENCE)
}

/// A folder of the host that all may read.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    folder
}

fn put(path: &Path, content: &str, mode: u32) {
    fs::write(path, content).unwrap();
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_link_brings_files_along() {
    let script = "cat /etc/app.conf /run/app/two; /opt/say; stat -c %a /etc/app.conf /opt/say";
    let files = "{/etc/app.conf: \"one\\n\", /run/app/two: \"two\\n\", \
         /opt/say: {Text: \"#!/bin/sh\\necho three\\n\", Mode: 0755}}";
    run_on(&chain([shell(script).with("Files", files)]), b"")
        .expect_success()
        .expect_output("one\ntwo\nthree\n644\n755\n");
    let command = link(&["/opt/say"]).with("Files", files);
    run_on(&chain([command]), b"").expect_output("three\n");
    let nowhere = shell("true").with("Files", "{/etc/passwd/x: a}");
    run_on(&chain([nowhere]), b"")
        .expect_code(125)
        .expect_stderr(&["add the link's files \"/etc/passwd/x\": not a directory"]);
}

#[test]
fn data_is_what_the_runner_has_by_that_name() {
    let folder = folder();
    put(&folder.path().join("model"), "a model\n", 0o644);
    let models = shell("cat /models/model; echo x > /models/new || echo sealed");
    let models = chain([models.with("Data", "{/models: whisper}")]);
    run_with(&models, &[])
        .expect_code(125)
        .expect_stderr(&["the data \"whisper\"", "--data NAME=PATH"]);
    let option = format!("whisper={}", folder.path().display());
    let ran = run_with(&models, &["--data", &option]);
    ran.expect_success().expect_output("a model\nsealed\n");
    // As a file, and by a relative path.
    let file = chain([shell("cat /models").with("Data", "{/models: whisper}")]);
    let mut run = command::run(file.path());
    run.args(["--data", "whisper=model"])
        .current_dir(folder.path());
    finish(run, b"", PATIENCE).expect_output("a model\n");
    // A link on the host is followed there.
    symlink(folder.path(), folder.path().join("current")).unwrap();
    let option = format!(
        "other=/nonesuch,whisper={}/current",
        folder.path().display()
    );
    let mut run = command::run(models.path());
    run.env("CONSECUTION_DATA", option);
    finish(run, b"", PATIENCE).expect_output("a model\nsealed\n");
    for (option, reason) in [
        (
            "whisper=/nonesuch",
            "open the data \"/nonesuch\": no such file",
        ),
        ("whisper=/dev/null", "it is a device"),
        ("whisper", "write a name and a path"),
    ] {
        let refused = run_with(&models, &["--data", option]);
        assert!(refused.stderr.contains(reason), "{}", refused.stderr);
    }
    if rustix::process::geteuid().is_root() {
        put(&folder.path().join("key"), "", 0o600);
        let option = format!("whisper={}", folder.path().display());
        run_with(&models, &["--data", &option])
            .expect_code(125)
            .expect_stderr(&["key\": not all users can read it: chmod o+r"]);
    }
}

#[test]
fn an_image_may_be_data() {
    let home = home::with_busybox();
    let mut import = consecution(home.path());
    import
        .args(["image", "import", "models:1"])
        .arg(home::busybox_tar());
    finish(import, b"", PATIENCE).expect_success();
    let link = shell("ls /models/bin/busybox; echo x > /models/x || echo sealed");
    let chain = chain([link.with("Data", "{/models: \"image:models:1\"}")]);
    let mut run = consecution(home.path());
    run.arg("run").arg(chain.path());
    finish(run, b"", PATIENCE)
        .expect_success()
        .expect_output("/models/bin/busybox\nsealed\n");
    let none = shell("true").with("Data", "{/models: \"image:127.0.0.1:9/none\"}");
    run_on(&crate::support::chain::chain([none]), b"")
        .expect_code(125)
        .expect_stderr(&["which is its data"]);
}

#[test]
fn a_secret_is_told_to_nobody_but_the_command() {
    let folder = folder();
    let path = folder.path().join("stripe.key");
    put(&path, "s3cret-5bd1", 0o600);
    let script = "sha256sum < /run/secrets/key; stat -c '%a %u' /run/secrets/key; env; exit 3";
    let with = |script: &str| {
        let link = shell(script).with("Secrets", "{/run/secrets/key: stripe}");
        chain([link.with("User", "\"33:33\"")])
    };
    let secret = with(script);
    run_with(&secret, &[])
        .expect_code(125)
        .expect_stderr(&["the secret \"stripe\"", "--secret NAME=FILE"]);
    let option = format!("stripe={}", path.display());
    let mut run = command::run(secret.path());
    run.args(["--secret", &option, "--log", "trace"]);
    let ran = finish(run, b"", PATIENCE).expect_code(3);
    assert!(ran.text().contains("400 33"), "{}", ran.text());
    assert!(!format!("{}{}", ran.text(), ran.stderr).contains("s3cret"));
    // Only if the command says so itself.
    run_with(&with("cat /run/secrets/key"), &["--secret", &option])
        .expect_success()
        .expect_output("s3cret-5bd1");
    // Nor in errors.
    put(&path, &"s3cret-5bd1".repeat(200_000), 0o600);
    let ran = run_with(&secret, &["--secret", &option]).expect_code(125);
    let ran = ran.expect_stderr(&["read the secret \"stripe\"", "more than 1 MiB"]);
    assert!(!ran.stderr.contains("s3cret"), "{}", ran.stderr);
}

#[test]
fn a_root_may_be_written_to_unless_a_link_says_never() {
    let script = "(echo x > /new) 2>/dev/null && cat /new || echo sealed; mkdir -p $HOME/.cache 2>/dev/null && echo home";
    for (value, output) in [
        (None, "x\nhome\n"),
        (Some("false"), "x\nhome\n"),
        (Some("true"), "x\nhome\n"),
        (Some("never"), "sealed\n"),
    ] {
        let link = shell(&format!("{script}; true"));
        let link = match value {
            Some(value) => link.with("Writable", value),
            None => link,
        };
        let ran = run_on(&chain([link]), b"").expect_success();
        assert_eq!(ran.text(), output, "{value:?}");
    }
}

#[test]
fn scratch_is_what_the_link_asks_for_up_to_what_the_runner_allows() {
    let script = "head -c 30000000 /dev/zero > /tmp/file; wc -c < /tmp/file";
    let small = chain([shell(script).with("Constraints", "{Scratch: 2M}")]);
    let ran = run_on(&small, b"");
    let held: u64 = ran.text().trim().parse().unwrap();
    // Four private folders and the root share their room.
    assert!(held <= 10 << 20, "{held}");
    let large = chain([shell(script).with("Constraints", "{Scratch: 3G}")]);
    run_on(&large, b"")
        .expect_code(125)
        .expect_stderr(&["scratch", "--scratch-max"]);
    run_with(&large, &["--scratch-max", "4G"]).expect_output("30000000\n");
}
