//! Whatever else stands under our keys in etcd is skipped, said once, and
//! disturbs nothing.
use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use crate::support::etcd::Etcd as Server;
use chain::Link;
use consecution::link_store::etcd::Etcd;
use consecution::link_store::{Change, LinkStore};
use futures_util::StreamExt;
use test_support::PATIENCE;
use tokio::time::timeout;
use tracing_subscriber::fmt::MakeWriter;

/// What was logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn lines_with(&self, part: &str) -> usize {
        let log = self.0.lock().unwrap();
        let log = String::from_utf8_lossy(&log);
        log.lines().filter(|line| line.contains(part)).count()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Log;

    fn make_writer(&self) -> Log {
        self.clone()
    }
}

fn link(name: &str) -> Arc<Link> {
    Arc::new(Link::new(name))
}

fn key(link: &Link) -> String {
    format!("/consecution/links/{}", link.id())
}

// On one thread, so that all that is logged gets here.
#[tokio::test]
async fn what_is_no_link_is_skipped_and_said_once() {
    let Some(server) = Server::start() else {
        cannot_run_here!("there is no etcd; scripts/setup test gets it");
    };
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt().with_writer(log.clone()).finish();
    let _here = tracing::subscriber::set_default(subscriber);
    let store = Etcd::new(&server.options()).unwrap();
    let (good, hurt) = (link("good"), link("hurt"));
    store.put(Arc::clone(&good)).await.unwrap();
    store.put(Arc::clone(&hurt)).await.unwrap();
    let mut watcher = store.watch();
    let mut next = async || timeout(PATIENCE, watcher.next()).await.unwrap().unwrap();
    next().await;
    next().await;

    let mismatching = key(&link("other"));
    server.ctl_put(&mismatching, link("another").to_yaml().as_bytes());
    server.ctl_put("/consecution/links/words", good.to_yaml().as_bytes());
    server.ctl_put(&key(&link("large")), &vec![b'#'; 1 << 20]);
    server.ctl_put(&key(&link("binary")), b"Image: \xff\x00\xfe");
    server.ctl_put(&key(&hurt), b"Image: [");
    // A key that has no link in it any more is that of no link.
    assert_eq!(next().await, Change::Removed(hurt.id()));
    for _ in 0..3 {
        assert_eq!(store.list().await.unwrap(), [Arc::clone(&good)]);
    }
    for part in [mismatching.as_str(), "links/words", &key(&hurt)] {
        assert_eq!(log.lines_with(part), 1, "{part}");
    }
    assert_eq!(log.lines_with("skipping /consecution/links/"), 5);

    // Whoever needs the link puts it again, in place of whatever is there.
    store.put(Arc::clone(&hurt)).await.unwrap();
    assert_eq!(log.lines_with("replacing /consecution/links/"), 1);
    assert_eq!(next().await, Change::Put(hurt));
    assert!(server.ctl(["get", &mismatching]).contains("another"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_runner_or_digest_is_skipped() {
    let Some(server) = Server::start() else {
        cannot_run_here!("there is no etcd; scripts/setup test gets it");
    };
    let store = Etcd::new(&server.options()).unwrap();
    server.ctl_put("/consecution/runners/bad", b"no state");
    server.ctl_put("/consecution/runners/good", b"{\"Serving\": 2}");
    let runners = store.runners().await.unwrap();
    assert_eq!(runners.len(), 1);
    assert_eq!(runners["good"].serving, 2);

    server.ctl_put("/consecution/images/busybox", b"\xff\xfe");
    assert_eq!(store.pinned_image("busybox").await.unwrap(), None);
    let pinned = store.pin_image("busybox", "sha256:1").await.unwrap();
    assert_eq!(&*pinned, "sha256:1");
    let pinned = store.pin_image("busybox", "sha256:2").await.unwrap();
    assert_eq!(&*pinned, "sha256:1");
}
