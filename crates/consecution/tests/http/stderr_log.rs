//! `--stderr-log`: what links write to standard error, in the log.

use crate::support::chain::{chain, shell};
use crate::support::http::{Served, serve, serve_with};
use test_support::eventually;

/// Writes a line while it waits for its request, one that would clear the terminal, one that does not end,
/// and as many as its input says.
const SCRIPT: &str = "echo early >&2; read -r lines; printf 'one\\n\\n\\033[2Jtwo\\n' >&2; \
                      seq \"$lines\" >&2; printf end >&2; exit 3";

fn said_of_links(served: &Served) -> Vec<String> {
    let said = served.said();
    let lines = said.lines().filter(|line| line.contains("a link writes"));
    lines.map(str::to_owned).collect()
}

#[test]
fn lines_are_logged_with_link_and_call_and_so_many_at_most() {
    let chain = chain([shell(SCRIPT)]);
    let id = chain.ids()[0].to_string();
    let served = serve_with(&[&chain], &["--stderr-log"]);
    let call = |call_id: &str, input: &[u8]| {
        let mut client = served.connect();
        let head = format!("Consecution-Call-Id: {call_id}");
        client.send_request("POST", "/", &[&head], input);
        client.reply().problem(502)
    };
    let problem = call("few", b"0\n");
    // The problem has what the log has, and more.
    assert!(problem["stderr"].as_str().unwrap().ends_with("two\nend"));
    let wanted = ["early", "one", "[2Jtwo", "end"];
    let lines = eventually("all lines", || {
        let lines = said_of_links(&served);
        (lines.len() >= wanted.len()).then_some(lines)
    });
    for (line, text) in lines.iter().zip(wanted) {
        assert!(line.contains(" INFO "), "{line}");
        assert!(line.contains("call_id=few"), "{line}");
        assert!(line.contains(&format!("link_id={id}")), "{line}");
        assert!(line.contains(&format!("{text}\"")), "{line}");
        assert!(!line.contains('\u{1b}'), "{line}");
    }
    call("many", b"1000\n");
    let line = served.await_line("are left out");
    assert!(line.contains(&id), "{line}");
    let count = said_of_links(&served).len();
    assert!((50..300).contains(&count), "{count} lines are logged");
}

#[test]
fn nothing_is_logged_unasked() {
    let chain = chain([shell(SCRIPT)]);
    let served = serve(&[&chain]);
    served.post("/", b"3\n").problem(502);
    served.await_line("a call failed");
    assert_eq!(said_of_links(&served), Vec::<String>::new());
}
