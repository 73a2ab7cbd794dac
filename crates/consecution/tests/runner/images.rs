//! All runners run the same bytes for the name of an image, wherever each of
//! them has its images from.
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use crate::support::home;
use crate::support::runner::{join, metrics, soon};
use chain::{Link, LinkId};
use consecution::link_store::memory::Memory;
use consecution::link_store::{
    Change, LinkStore, LinkStoreError, PortalState, Registration, RunnerState,
};
use consecution::open_store;
use consecution::runner::{Images, Options, Runner};
use consecution::transport::Transport;
use consecution::transport::in_process::InProcess;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use image::{Image, Input, NoProgress};
use tempfile::TempDir;
use test_support::registry::Registry;
use tokio::sync::watch;

/// A machine: a store of images, and room for a runner.
struct Machine {
    images: Images,
    _home: TempDir,
}

impl Machine {
    fn new() -> Machine {
        let home = home::empty();
        let images = Images {
            store: open_store(home.path()).unwrap(),
            registries: Arc::new(|| Ok(image::Registries::default())),
            progress: Arc::new(NoProgress),
        };
        Machine {
            images,
            _home: home,
        }
    }

    fn import(&self, name: &str, tar: &Path) -> Image {
        let input = Input::Path(tar.to_owned());
        let imported = self
            .images
            .store
            .import(&name.parse().unwrap(), input, &NoProgress);
        imported.unwrap()
    }

    /// A runner on that machine, which serves a link of that image, and what the
    /// link says: the marker of the image that it has run.
    async fn run(&self, links: &Arc<dyn LinkStore>, link: &Link) -> (Runner, String) {
        let transport: Arc<dyn Transport> = Arc::new(InProcess::new());
        let runner = join(Options::default(), self.images.clone(), &transport, links);
        soon(runner.ready(link.id())).await.unwrap();
        let said = say(&transport, link).await;
        (runner, said)
    }
}

async fn say(transport: &Arc<dyn Transport>, link: &Link) -> String {
    let request = consecution::transport::Request::new("");
    let reply = soon(transport.call(link.id(), request)).await.unwrap();
    let said = soon(reply.body.collect()).await.unwrap();
    String::from_utf8(said.to_vec()).unwrap()
}

/// A busybox image with a file `/marker` of that content, as a tar.
fn marked(folder: &TempDir, marker: &str) -> PathBuf {
    let source = folder.path().join(format!("{marker}-files"));
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("marker"), marker).unwrap();
    let tar = folder.path().join(format!("{marker}.tar"));
    std::fs::copy(home::busybox_tar(), &tar).unwrap();
    let mut append = Command::new("tar");
    append.arg("--append").arg("--file").arg(&tar);
    append.arg("--directory").arg(&source).arg("marker");
    assert!(append.status().unwrap().success());
    tar
}

/// A link that says which image it runs.
fn saying_marker(image: &str) -> Link {
    Link {
        command: Some("/bin/cat".to_owned()),
        arguments: vec!["/marker".to_owned()],
        ..Link::new(image)
    }
}

async fn store_of(link: &Link) -> Arc<dyn LinkStore> {
    let links: Arc<dyn LinkStore> = Arc::new(Memory::new());
    links.put(Arc::new(link.clone())).await.unwrap();
    links
}

const KEY: &str = "docker.io/library/marked:latest";

#[tokio::test]
async fn what_the_first_runner_runs_all_others_run_under_whatever_name_they_have_it() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (marked(&folder, "one"), marked(&folder, "two"));
    let link = saying_marker("marked");
    let links = store_of(&link).await;

    let first = Machine::new();
    let image = first.import("marked", &one);
    let (_first, said) = first.run(&links, &link).await;
    assert_eq!(said, "one");
    let pinned = links.pinned_image(KEY).await.unwrap();
    assert_eq!(pinned.as_deref(), Some(image.digest.as_str()));

    let second = Machine::new();
    second.import("marked", &two);
    second.import("me/other:7", &one);
    let (_second, said) = second.run(&links, &link).await;
    assert_eq!(said, "one");

    // However the name is spelt; but a digest says itself what it means.
    for name in ["docker.io/library/marked:latest", "docker.io/marked"] {
        let link = saying_marker(name);
        links.put(Arc::new(link.clone())).await.unwrap();
        assert_eq!(second.run(&links, &link).await.1, "one", "{name}");
    }
    let other = second.import("marked", &two);
    let link = saying_marker(&format!("marked@{}", other.digest));
    links.put(Arc::new(link.clone())).await.unwrap();
    assert_eq!(second.run(&links, &link).await.1, "two");
}

/// An image of a registry that nobody runs.
const NOWHERE: &str = "localhost:1/marked";

#[tokio::test]
async fn a_pin_that_cannot_be_had_is_told_until_it_can() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (marked(&folder, "one"), marked(&folder, "two"));
    let link = saying_marker(NOWHERE);
    let links = store_of(&link).await;
    let first = Machine::new();
    let image = first.import(NOWHERE, &one);
    drop(first.run(&links, &link).await);

    let second = Machine::new();
    second.import(NOWHERE, &two);
    let transport: Arc<dyn Transport> = Arc::new(InProcess::new());
    let images = second.images.clone();
    let runner = join(Options::default(), images, &transport, &links);
    let error = soon(runner.ready(link.id())).await.unwrap_err().to_string();
    for part in [
        image.digest.as_str(),
        "import the same image here",
        "/consecution/images/localhost:1/marked:latest",
    ] {
        assert!(error.contains(part), "{error}");
    }
    second.import("me/other:7", &one);
    let waiting = async {
        while runner.ready(link.id()).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    soon(waiting).await;
    assert_eq!(say(&transport, &link).await, "one");
}

#[tokio::test]
async fn a_pin_that_is_no_digest_is_told() {
    let link = saying_marker("marked");
    let links = store_of(&link).await;
    links.pin_image(KEY, "latest").await.unwrap();
    let transport: Arc<dyn Transport> = Arc::new(InProcess::new());
    let images = Machine::new().images;
    let runner = join(Options::default(), images, &transport, &links);
    let error = soon(runner.ready(link.id())).await.unwrap_err().to_string();
    assert!(error.contains("'latest'") && error.contains(KEY), "{error}");
}

#[tokio::test]
async fn an_image_that_cannot_be_run_is_not_pinned() {
    let folder = tempfile::tempdir().unwrap();
    let machine = Machine::new();
    machine.import("marked", &marked(&folder, "one"));
    let link = Link {
        command: Some("/nonesuch".to_owned()),
        ..Link::new("marked")
    };
    let links = store_of(&link).await;
    let transport: Arc<dyn Transport> = Arc::new(InProcess::new());
    let runner = join(
        Options::default(),
        machine.images.clone(),
        &transport,
        &links,
    );
    soon(runner.ready(link.id())).await.unwrap_err();
    assert_eq!(links.pinned_image(KEY).await.unwrap(), None);
}

/// A store that does not know at first what is pinned: as if another runner had
/// pinned it in between.
struct Late {
    store: Memory,
    is_asked: AtomicBool,
}

impl LinkStore for Late {
    fn put(&self, link: Arc<Link>) -> BoxFuture<'_, Result<bool, LinkStoreError>> {
        self.store.put(link)
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<Arc<Link>>, LinkStoreError>> {
        self.store.list()
    }

    fn remove(&self, id: LinkId) -> BoxFuture<'_, Result<bool, LinkStoreError>> {
        self.store.remove(id)
    }

    fn pin_image(
        &self,
        reference: &str,
        digest: &str,
    ) -> BoxFuture<'_, Result<Arc<str>, LinkStoreError>> {
        self.store.pin_image(reference, digest)
    }

    fn pinned_image(
        &self,
        reference: &str,
    ) -> BoxFuture<'_, Result<Option<Arc<str>>, LinkStoreError>> {
        if self.is_asked.swap(true, Ordering::Relaxed) {
            self.store.pinned_image(reference)
        } else {
            async { Ok(None) }.boxed()
        }
    }

    fn announce(&self, runner: &str, state: watch::Receiver<RunnerState>) -> Registration {
        self.store.announce(runner, state)
    }

    fn runners(&self) -> BoxFuture<'_, Result<BTreeMap<String, RunnerState>, LinkStoreError>> {
        self.store.runners()
    }

    fn missing<'a>(
        &'a self,
        ids: &'a [LinkId],
    ) -> BoxFuture<'a, Result<Vec<LinkId>, LinkStoreError>> {
        self.store.missing(ids)
    }

    fn announce_portal(&self, portal: &str, state: watch::Receiver<PortalState>) -> Registration {
        self.store.announce_portal(portal, state)
    }

    fn portals(&self) -> BoxFuture<'_, Result<BTreeMap<String, PortalState>, LinkStoreError>> {
        self.store.portals()
    }

    fn note_unnamed(
        &self,
        id: LinkId,
        since: Option<SystemTime>,
    ) -> BoxFuture<'_, Result<(), LinkStoreError>> {
        self.store.note_unnamed(id, since)
    }

    fn unnamed(&self) -> BoxFuture<'_, Result<BTreeMap<LinkId, SystemTime>, LinkStoreError>> {
        self.store.unnamed()
    }

    fn watch(&self) -> BoxStream<'static, Change> {
        self.store.watch()
    }
}

#[tokio::test]
async fn a_runner_that_comes_second_with_its_pin_takes_the_first_one_s() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (marked(&folder, "one"), marked(&folder, "two"));
    let machine = Machine::new();
    let first = machine.import("me/other:7", &one);
    machine.import("marked", &two);
    let store = Memory::new();
    store.pin_image(KEY, first.digest.as_str()).await.unwrap();
    let links: Arc<dyn LinkStore> = Arc::new(Late {
        store,
        is_asked: AtomicBool::new(false),
    });
    let link = saying_marker("marked");
    links.put(Arc::new(link.clone())).await.unwrap();
    assert_eq!(machine.run(&links, &link).await.1, "one");
}

/// Runs a tool; false where it is not here.
fn tool(line: &[&str]) -> bool {
    let mut command = Command::new(line[0]);
    match command.args(&line[1..]).stdin(Stdio::null()).output() {
        Ok(ran) => {
            let stderr = String::from_utf8_lossy(&ran.stderr);
            assert!(ran.status.success(), "{line:?}: {stderr}");
            true
        }
        Err(_) => false,
    }
}

/// Pushes an image of that root to a registry, by way of an OCI layout.
fn push(tar: &Path, name: &str) -> bool {
    let files = tar.with_extension("root");
    let layout = tar.with_extension("layout");
    let (files, layout) = (files.to_str().unwrap(), layout.to_str().unwrap());
    let tagged = format!("{layout}:latest");
    std::fs::create_dir(files).unwrap();
    let rootless: &[&str] = match rustix::process::geteuid().is_root() {
        true => &[],
        false => &["--rootless"],
    };
    let tar = tar.to_str().unwrap();
    assert!(tool(&["tar", "-xf", tar, "-C", files]));
    tool(&["umoci", "init", "--layout", layout])
        && tool(&["umoci", "new", "--image", &tagged])
        && tool(
            &[
                &["umoci", "insert"],
                rootless,
                &["--image", &tagged, files, "/"],
            ]
            .concat(),
        )
        && tool(&[
            "skopeo",
            "copy",
            "-q",
            "--dest-tls-verify=false",
            &format!("oci:{tagged}"),
            &format!("docker://{name}:latest"),
        ])
}

#[tokio::test]
async fn a_tag_that_is_moved_in_its_registry_still_means_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (marked(&folder, "one"), marked(&folder, "two"));
    let Some(registry) = Registry::start() else {
        cannot_run_here!("there is no 'docker-registry'")
    };
    let name = format!("{}/marked", registry.address);
    if !push(&one, &name) {
        cannot_run_here!("there is no 'umoci' or no 'skopeo'")
    }
    let link = saying_marker(&name);
    let links = store_of(&link).await;
    let first = Machine::new();
    assert_eq!(first.run(&links, &link).await.1, "one");
    push(&two, &name);
    let second = Machine::new();
    let (second, said) = second.run(&links, &link).await;
    assert_eq!(said, "one");
    let counted = metrics(&second);
    assert!(counted.contains("consecution_runner_image_pulls_total 1\n"));
    assert!(counted.contains("consecution_runner_image_pull_failures_total 0\n"));
    assert!(counted.contains("consecution_runner_image_pull_duration_seconds_count 1\n"));
    // Without the pin, it means what it means there now.
    let links = store_of(&link).await;
    let third = Machine::new();
    assert_eq!(third.run(&links, &link).await.1, "two");
}

/// A registry that takes all questions and answers none; its address.
fn silent_registry() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        // Whoever asks is kept for as long as the test lasts.
        let _held: Vec<_> = listener.incoming().collect();
    });
    address
}

#[tokio::test]
async fn images_of_one_registry_do_not_wait_for_those_of_another() {
    let folder = tempfile::tempdir().unwrap();
    let Some(registry) = Registry::start() else {
        cannot_run_here!("there is no 'docker-registry'")
    };
    let name = format!("{}/marked", registry.address);
    if !push(&marked(&folder, "one"), &name) {
        cannot_run_here!("there is no 'umoci' or no 'skopeo'")
    }
    let silent = silent_registry();
    let links: Arc<dyn LinkStore> = Arc::new(Memory::new());
    for number in 0..8 {
        let link = saying_marker(&format!("{silent}/{number}"));
        links.put(Arc::new(link)).await.unwrap();
    }
    let transport: Arc<dyn Transport> = Arc::new(InProcess::new());
    let machine = Machine::new();
    let images = machine.images.clone();
    let runner = join(Options::default(), images, &transport, &links);
    // Once those that wait for the silent one have all the turns that they get.
    let begun = "consecution_runner_image_pulls_total 4\n";
    soon(async {
        while !metrics(&runner).contains(begun) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let link = saying_marker(&name);
    links.put(Arc::new(link.clone())).await.unwrap();
    soon(runner.ready(link.id())).await.unwrap();
    assert_eq!(say(&transport, &link).await, "one");
}
