//! A registry with one image, of which the last layer never comes.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

use image::Digest;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// An image of two layers, and what must be before the second one is refused.
struct Broken {
    manifest: String,
    config: String,
    layer: Vec<u8>,
    until: Box<dyn Fn() + Send + Sync>,
}

/// Offers an image of that layer and of another one, which is refused as soon as `until`
/// returns. Gives the registry's address; it is there until the process ends.
pub(crate) fn start(layer: Vec<u8>, until: impl Fn() + Send + Sync + 'static) -> String {
    let digests = [Digest::of(&layer), Digest::of(b"it never comes")];
    let config = serde_json::json!({
        "architecture": if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" },
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": digests.each_ref().map(Digest::as_str)},
    })
    .to_string();
    let described = |kind: &str, digest: &Digest, size: usize| serde_json::json!({"mediaType": kind, "digest": digest.as_str(), "size": size});
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": described(CONFIG, &Digest::of(config.as_bytes()), config.len()),
        "layers": digests.each_ref().map(|digest| described(LAYER, digest, layer.len())),
    })
    .to_string();
    let broken = Arc::new(Broken {
        manifest,
        config,
        layer,
        until: Box::new(until),
    });
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let broken = Arc::clone(&broken);
            // Whoever asks may go away before the answer.
            std::thread::spawn(move || drop(broken.answer(stream)));
        }
    });
    address
}

impl Broken {
    /// Answers one request, and closes the connection.
    fn answer(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut lines = BufReader::new(stream.try_clone()?).lines();
        let request = lines.next().transpose()?.unwrap_or_default();
        while lines
            .next()
            .transpose()?
            .is_some_and(|line| !line.is_empty())
        {}
        let path = request.split(' ').nth(1).unwrap_or_default();
        let (kind, body) = match path.rsplit_once('/') {
            Some((_, "")) => ("application/json", &b"{}"[..]),
            Some((before, _)) if before.ends_with("/manifests") => {
                (MANIFEST, self.manifest.as_bytes())
            }
            Some((_, digest)) if digest == Digest::of(self.config.as_bytes()).as_str() => {
                (CONFIG, self.config.as_bytes())
            }
            Some((_, digest)) if digest == Digest::of(&self.layer).as_str() => {
                (LAYER, &self.layer[..])
            }
            _ => {
                (self.until)();
                return stream.write_all(
                    b"HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
                );
            }
        };
        let length = body.len();
        let head = format!(
            "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n"
        );
        stream.write_all(head.as_bytes())?;
        if !request.starts_with("HEAD") {
            stream.write_all(body)?;
        }
        Ok(())
    }
}
