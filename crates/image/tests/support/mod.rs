//! What the tests share: stores, tars, images made by other programs.

#![expect(
    clippy::unwrap_used,
    dead_code,
    unreachable_pub,
    reason = "each test uses some of it"
)]

pub mod server;

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use image::{Digest, Image, ImportError, Input, NoProgress, Reference, Store, StoreOptions};
pub use test_support::tars::tar_of;

/// The name of the test `function` in the module with that path (`module_path!()`), for a
/// test that runs its own program again with `--exact`.
pub fn test_name(module: &str, function: &str) -> String {
    let (_, module) = module.split_once("::").unwrap();
    format!("{module}::{function}")
}

/// Checks that a program that was run so has run that test, and that it passed.
pub fn expect_one_passed(output: &std::process::Output) {
    let said = |bytes| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (said(&output.stdout), said(&output.stderr));
    let has_passed = output.status.success() && stdout.contains("1 passed");
    assert!(has_passed, "{stdout}{stderr}");
}

/// What whoever prints an error says: its text, and that of each of its causes.
pub trait Told {
    fn told(&self) -> String;
}

impl<E: std::error::Error> Told for E {
    fn told(&self) -> String {
        let mut told = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            let text = error.to_string();
            assert!(!told.contains(&text), "'{text}' is told twice: {told}");
            told = format!("{told}: {text}");
            cause = error.source();
        }
        told
    }
}

/// A throw-away folder with a store in it.
pub struct Home {
    pub folder: tempfile::TempDir,
    pub store: Store,
}

pub fn options() -> StoreOptions {
    StoreOptions {
        sync: false,
        ..StoreOptions::default()
    }
}

impl Home {
    pub fn new() -> Self {
        Self::with(options())
    }

    pub fn with(options: StoreOptions) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("home"), options).unwrap();
        Self { folder, store }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn images(&self) -> PathBuf {
        self.path("home/images")
    }

    pub fn import(&self, name: &str, path: &Path) -> Result<Image, ImportError> {
        self.store
            .import(&reference(name), Input::Path(path.to_owned()), &NoProgress)
    }

    pub fn import_bytes(&self, name: &str, bytes: &[u8]) -> Result<Image, ImportError> {
        let input = Input::Read(Box::new(std::io::Cursor::new(bytes.to_vec())));
        self.store.import(&reference(name), input, &NoProgress)
    }

    /// Names in one of the store's folders.
    pub fn items(&self, folder: &str) -> Vec<String> {
        let items = fs::read_dir(self.images().join(folder)).unwrap();
        items
            .map(|item| item.unwrap().file_name().into_string().unwrap())
            .collect()
    }
}

/// Bytes of the largest download of a layer, whole or on its way.
pub fn bytes_of(home: &Home, layer: &Digest) -> Option<u64> {
    let name = layer.as_str().replace(':', "-");
    let items = fs::read_dir(home.images().join("blobs")).unwrap();
    let of_it = items.filter_map(|item| {
        let item = item.unwrap();
        let is_of_it = item.file_name().to_str().unwrap().starts_with(&name);
        // It may be gone meanwhile.
        is_of_it.then(|| item.metadata().ok()).flatten()
    });
    of_it.map(|about| about.len()).max()
}

pub fn reference(text: &str) -> Reference {
    text.parse().unwrap()
}

/// Whether these programs are there; [skips](test_support::skip) the test if not.
pub fn have(programs: &[&str]) -> bool {
    let is_missing = |program: &&&str| {
        let mut find = Command::new("sh");
        find.args(["-c", "command -v \"$0\" >/dev/null", program]);
        !find.status().unwrap().success()
    };
    let missing = programs.iter().find(is_missing);
    if let Some(program) = missing {
        test_support::skip(&format!("{program} is not installed"));
    }
    missing.is_none()
}

pub fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A layer of this many bytes that do not compress.
pub fn noise(bytes: usize) -> Vec<u8> {
    noise_of(bytes, 1)
}

/// The same, another one for each seed.
pub fn noise_of(bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let content: Vec<u8> = std::iter::repeat_with(|| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 56) as u8
    })
    .take(bytes)
    .collect();
    tar_of(&[("noise", &content)])
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// An OCI image in memory: its blobs, manifest and the manifest's digest.
pub struct Made {
    pub blobs: Vec<(Digest, Vec<u8>)>,
    pub manifest: Vec<u8>,
    pub digest: Digest,
}

pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";

pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// An image of these layers, which are uncompressed tars.
pub fn image_of(layers: &[Vec<u8>]) -> Made {
    image_for(architecture(), layers)
}

pub fn image_for(architecture: &str, layers: &[Vec<u8>]) -> Made {
    let diff_ids: Vec<Digest> = layers.iter().map(|layer| Digest::of(layer)).collect();
    let config = serde_json::json!({
        "architecture": architecture, "os": "linux",
        "config": {"Env": ["PATH=/bin"], "Cmd": ["/bin/sh"], "WorkingDir": "/", "User": "7"},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let config = config.to_string().into_bytes();
    let descriptor = |bytes: &[u8], kind: &str| serde_json::json!({"mediaType": kind, "digest": Digest::of(bytes), "size": bytes.len()});
    let compressed: Vec<Vec<u8>> = layers.iter().map(|layer| gzip(layer)).collect();
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": MANIFEST,
        "config": descriptor(&config, "application/vnd.oci.image.config.v1+json"),
        "layers": compressed.iter().map(|layer| descriptor(layer, "application/vnd.oci.image.layer.v1.tar+gzip")).collect::<Vec<_>>(),
    });
    let manifest = manifest.to_string().into_bytes();
    let blobs = compressed.into_iter().chain([config]);
    Made {
        digest: Digest::of(&manifest),
        blobs: blobs.map(|blob| (Digest::of(&blob), blob)).collect(),
        manifest,
    }
}

/// Writes images as an OCI layout folder; `names` are their ref.name annotations.
pub fn write_layout(folder: &Path, images: &[(&Made, Option<&str>)]) {
    let blobs = folder.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    fs::write(
        folder.join("oci-layout"),
        r#"{"imageLayoutVersion":"1.0.0"}"#,
    )
    .unwrap();
    let mut entries = Vec::new();
    for (image, name) in images {
        for (digest, bytes) in &image.blobs {
            fs::write(blobs.join(digest.hex()), bytes).unwrap();
        }
        fs::write(blobs.join(image.digest.hex()), &image.manifest).unwrap();
        let mut entry = serde_json::json!({"mediaType": MANIFEST, "digest": image.digest, "size": image.manifest.len()});
        if let Some(name) = name {
            entry["annotations"] = serde_json::json!({"org.opencontainers.image.ref.name": name});
        }
        entries.push(entry);
    }
    let index = serde_json::json!({"schemaVersion": 2, "manifests": entries});
    fs::write(folder.join("index.json"), index.to_string()).unwrap();
}

/// A `docker save` archive as it was: a config, and layers as they are unpacked.
pub fn docker_save_of_old(config: &[u8], layers: &[Vec<u8>]) -> Vec<u8> {
    let name = format!("{}.json", Digest::of(config).hex());
    let paths: Vec<String> = (0..layers.len())
        .map(|place| format!("{place}/layer.tar"))
        .collect();
    let manifest = serde_json::json!([{"Config": name, "RepoTags": null, "Layers": paths}]);
    let manifest = manifest.to_string();
    let mut files: Vec<(&str, &[u8])> =
        vec![(&name, config), ("manifest.json", manifest.as_bytes())];
    for (path, layer) in paths.iter().zip(layers) {
        files.push((path, layer));
    }
    tar_of(&files)
}

/// A layout folder with the image of Debian's busybox, made by umoci.
pub fn busybox_layout(folder: &Path) -> PathBuf {
    let layout = folder.join("busybox");
    let at = |tag: &str| format!("{}:{tag}", layout.display());
    let root = folder.join("busybox-root");
    fs::create_dir_all(root.join("bin")).unwrap();
    fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    std::os::unix::fs::symlink("busybox", root.join("bin/cat")).unwrap();
    run("umoci", &["init", "--layout", layout.to_str().unwrap()]);
    run("umoci", &["new", "--image", &at("1")]);
    run(
        "umoci",
        &["insert", "--image", &at("1"), root.to_str().unwrap(), "/"],
    );
    let config = [
        "config",
        "--image",
        &at("1"),
        "--config.env",
        "A=b",
        "--config.cmd",
        "/bin/cat",
        "--architecture",
        architecture(),
    ];
    run("umoci", &config);
    layout
}

/// Asserts that this is busybox.
pub fn assert_busybox(image: &Image) {
    let busybox = fs::read(image.root().join("bin/busybox")).unwrap();
    assert!(busybox == fs::read("/bin/busybox").unwrap());
    assert_eq!(
        fs::read_link(image.root().join("bin/cat")).unwrap(),
        Path::new("busybox")
    );
}
