//! Promise: images are pulled from a real registry, anonymously or logged in.

use std::fs;

use crate::support::*;
use image::{NoProgress, Registries};
use test_support::registry::Registry;

/// `user` with the password `secret`, by htpasswd's bcrypt.
const LOGIN: &str = "user:$2y$05$QUJDREVGR0hJSktMTU5PUOUmqR0StVzR8tG/Q/a8Lq92eNghXunP2\n";

fn push(layout: &std::path::Path, registry: &Registry, more: &[&str]) {
    let from = format!("oci:{}:1", layout.display());
    let to = format!("docker://{}/me/busybox:1", registry.address);
    let mut arguments = vec![
        "--insecure-policy",
        "copy",
        "--quiet",
        "--dest-tls-verify=false",
    ];
    arguments.extend(more);
    arguments.extend([from.as_str(), to.as_str()]);
    run("skopeo", &arguments);
}

#[tokio::test]
async fn what_skopeo_pushed_is_pulled() {
    if !have(&["umoci", "skopeo", "docker-registry", "busybox"]) {
        return;
    }
    let home = Home::new();
    let layout = busybox_layout(home.folder.path());
    let registry = Registry::start().unwrap();
    let name = reference(&format!("{}/me/busybox:1", registry.address));
    for format in ["oci", "v2s2"] {
        push(&layout, &registry, &["--format", format]);
        let image = home
            .store
            .pull(&name, &Registries::default(), &NoProgress)
            .await
            .unwrap();
        assert_busybox(&image);
        assert_eq!(image.config.command, ["/bin/cat"]);
        assert_eq!(home.items("blobs"), [""; 0]);
        let found = home.store.get(&name).unwrap().unwrap();
        assert_eq!(found.digest, image.digest);
        // By its digest it is pulled as well, and is the same.
        let pinned = reference(&format!("{}/me/busybox@{}", registry.address, image.digest));
        let again = home
            .store
            .pull(&pinned, &Registries::default(), &NoProgress)
            .await
            .unwrap();
        assert_eq!(again.root(), image.root());
    }
    let missing = reference(&format!("{}/me/busybox:2", registry.address));
    let error = home
        .store
        .pull(&missing, &Registries::default(), &NoProgress)
        .await
        .unwrap_err()
        .told();
    assert!(
        error.contains("me/busybox:2") && error.contains(&registry.address),
        "{error}"
    );
}

#[tokio::test]
async fn a_password_in_config_json_opens_a_private_registry() {
    if !have(&["umoci", "skopeo", "docker-registry", "busybox"]) {
        return;
    }
    let home = Home::new();
    let layout = busybox_layout(home.folder.path());
    let registry = Registry::start_with_login(LOGIN).unwrap();
    push(&layout, &registry, &["--dest-creds", "user:secret"]);
    let name = reference(&format!("{}/me/busybox:1", registry.address));
    let error = home
        .store
        .pull(&name, &Registries::default(), &NoProgress)
        .await
        .unwrap_err()
        .told();
    assert!(
        error.contains("401") && error.contains("docker login"),
        "{error}"
    );
    let config = |auth: &str| {
        let file = home.path("config.json");
        fs::write(
            &file,
            format!(
                r#"{{"auths":{{"{}":{{"auth":"{auth}"}}}}}}"#,
                registry.address
            ),
        )
        .unwrap();
        Registries::from_docker_config(&file).unwrap()
    };
    let wrong = config("dXNlcjp3cm9uZw==");
    let error = home
        .store
        .pull(&name, &wrong, &NoProgress)
        .await
        .unwrap_err()
        .told();
    assert!(error.contains("401"), "{error}");
    let right = config("dXNlcjpzZWNyZXQ=");
    assert_busybox(&home.store.pull(&name, &right, &NoProgress).await.unwrap());
}
