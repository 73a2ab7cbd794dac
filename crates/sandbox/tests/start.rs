//! Smoke.
use sandbox::*;
use std::io::{Read, Write};

#[test]
fn cat() {
    let root = std::path::PathBuf::from("/tmp/bbroot");
    let _ = std::fs::create_dir_all(root.join("bin"));
    for f in MOUNT_POINT_FOLDERS {
        std::fs::create_dir_all(root.join(f)).unwrap();
    }
    std::fs::copy("/bin/busybox", root.join("bin/cat")).unwrap();
    std::fs::copy("/bin/busybox", root.join("bin/sh")).unwrap();
    std::fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    let l = Launcher::with_program(env!("CARGO_BIN_EXE_sandbox-zygote"));
    let cmd = std::env::var("CMD").unwrap_or("cat".into());
    let t = std::time::Instant::now();
    let spec = Spec {
        root,
        command: cmd.split('|').map(Into::into).collect(),
        environment: vec![],
        working_directory: "/".into(),
        user: std::env::var("U").unwrap_or_default(),
        writable: std::env::var("W").is_ok(),
        network: Network::None,
        hostname: "abc".into(),
        ids: Ids::detect(),
    };
    let z = match l.open(
        &spec,
        Limits {
            memory_bytes: std::env::var("MEM").ok().map(|m| m.parse().unwrap()),
            ..Default::default()
        },
    ) {
        Ok(z) => z,
        Err(e) => panic!("failed to {e}"),
    };
    eprintln!("open {:?}", t.elapsed());
    for i in 0..4 {
        let t = std::time::Instant::now();
        let (r, mut w) = std::io::pipe().unwrap();
        let (mut ro, wo) = std::io::pipe().unwrap();
        let (mut re, we) = std::io::pipe().unwrap();
        let mut p = z
            .start(Stdio {
                stdin: r.into(),
                stdout: wo.into(),
                stderr: we.into(),
            })
            .unwrap();
        w.write_all(b"hello\n").unwrap();
        drop(w);
        let mut s = String::new();
        ro.read_to_string(&mut s).unwrap();
        re.read_to_string(&mut s).unwrap();
        let el = t.elapsed();
        let mut evs = vec![];
        loop {
            match p.next_event().unwrap() {
                Some(Event::Gone) => break,
                Some(Event::Failed(a, b)) => {
                    eprintln!("failed to {}", z.explain(a, b));
                    break;
                }
                Some(e) => evs.push(e),
                None => std::thread::yield_now(),
            }
        }
        eprintln!("{i} {s} {evs:?} {el:?}");
    }
    let t = std::time::Instant::now();
    drop(z);
    eprintln!("drop {:?}", t.elapsed());
}
