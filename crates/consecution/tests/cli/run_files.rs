//! Programs that want files, as they are, over `run` and `serve`.

use crate::support::chain::{ChainFile, chain, chain_with, link, shell};
use crate::support::command::run_on;
use crate::support::http::serve;

/// An archive with `hello.txt` in it. Its index is at its end.
const ZIP: &[u8] = b"PK\x03\x04\x14\x00\x00\x00\x00\x00\x00\x00!\x005\x87\x00L\x11\x00\x00\x00\x11\
    \x00\x00\x00\x09\x00\x00\x00hello.txthello from a zip\x0aPK\x01\x02\x14\x03\x14\x00\x00\x00\
    \x00\x00\x00\x00!\x005\x87\x00L\x11\x00\x00\x00\x11\x00\x00\x00\x09\x00\x00\x00\x00\x00\x00\
    \x00\x00\x00\x00\x00\xa4\x01\x00\x00\x00\x00hello.txtPK\x05\x06\x00\x00\x00\x00\x01\x00\x01\
    \x007\x00\x00\x008\x00\x00\x00\x00\x00";

fn output(chain: &ChainFile, input: &[u8]) -> Vec<u8> {
    run_on(chain, input).expect_success().stdout
}

#[test]
fn a_program_that_needs_a_name_gets_one() {
    let unzip = link(&["/bin/unzip", "-p", "/tmp/in.zip"]).with("Input", "/tmp/in.zip");
    assert_eq!(output(&chain([unzip]), ZIP), b"hello from a zip\n");
    let sum = link(&["/bin/sha256sum", "/run/words"]).with("Input", "/run/words");
    let found = output(&chain([sum]), b"words\n");
    assert_eq!(
        String::from_utf8_lossy(&found),
        "ff646650bc064e5981d37e75caf62e8551f146dff3b8967dd9cf36d263480e3a  /run/words\n"
    );
}

#[test]
fn one_that_seeks_can_and_its_neighbours_stream() {
    let links = [
        link(&["/bin/tr", "a-z", "A-Z"]),
        link(&["/bin/tail", "-c", "5"]).with("Input", "/dev/stdin"),
        shell("sort > /tmp/out")
            .with("Output", "/tmp/out")
            .with("User", "nobody"),
        link(&["/bin/cat"]),
    ];
    assert_eq!(output(&chain(links), b"one\nb\na\n"), b"\nA\nB\n");
}

#[test]
fn an_output_that_is_missing_is_told() {
    let links = [shell("echo hm").with("Output", "/tmp/a/out.pdf")];
    run_on(&chain(links), b"")
        .expect_code(1)
        .expect_output("")
        .expect_stderr(&[
            "hm\n",
            "has not written its output: there is no /tmp/a/out.pdf",
        ]);
}

#[test]
fn http_has_files_too() {
    let copy = shell("cat /tmp/in > /tmp/out")
        .with("Input", "/tmp/in")
        .with("Output", "/tmp/out");
    let missing = shell("true").with("Output", "/tmp/out");
    let copy = chain_with("Name: copy", [copy]);
    let missing = chain_with("Name: missing", [missing]);
    let served = serve(&[&copy, &missing]);
    for size in [0, 1, 100_000, 5 << 20] {
        let input = vec![b'x'; size];
        assert!(served.post("/chains/copy", &input).expect(200).body == input);
    }
    let problem = served.post("/chains/missing", b"").problem(502);
    assert_eq!(problem["title"], "a link has not written its output");
}
