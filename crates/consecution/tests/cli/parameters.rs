//! Parameters of a chain on the command line: `--set`.

use crate::support::chain::{ChainFile, Link, chain_with, link, shell};
use crate::support::command::{self, Finished, finish};
use test_support::PATIENCE;

/// Any value at all.
const ANYTHING: &str = "{Pattern: '(?s).*'}";

#[track_caller]
fn run(chain: &ChainFile, values: &[&str]) -> Finished {
    let mut run = command::run(chain.path());
    for value in values {
        run.args(["--set", value]);
    }
    finish(run, b"input", PATIENCE)
}

/// A chain of that link whose parameter `title` may be anything.
fn titled(link: Link) -> ChainFile {
    chain_with(&format!("Parameters: {{title: {ANYTHING}}}"), [link])
}

#[test]
fn values_are_put_into_arguments_and_environment() {
    let parameters = "Parameters:\n  width: {Pattern: '[1-9][0-9]{0,3}', Default: '200'}\n  \
                      title: {Pattern: '[a-z ]*'}";
    let script = r#"printf '%s|%s|%s|%s\n' "$1" "$2" "$WIDE" "$PLAIN"; cat"#;
    let words = [
        "/bin/sh",
        "-c",
        script,
        "sh",
        "-w=${width}",
        "${title} $${width}",
    ];
    let link = link(&words).with("Environment", "{WIDE: '${width}px', PLAIN: x}");
    let chain = chain_with(parameters, [link]);
    run(&chain, &["title=a b"])
        .expect_success()
        .expect_output("-w=200|a b ${width}|200px|x\ninput");
    run(&chain, &["title=", "width=300"])
        .expect_success()
        .expect_output("-w=300| ${width}|300px|x\ninput");
}

#[test]
fn each_link_gets_its_own_also_in_the_middle_of_a_chain() {
    let parameters = format!("Parameters: {{a: {ANYTHING}, b: {ANYTHING}}}");
    let links = [
        link(&["/bin/cat"]),
        link(&["/bin/sed", "s/$/ ${a}/"]),
        link(&["/bin/sed", "s/$/ ${b}${a}/"]),
        link(&["/bin/tr", "i", "I"]),
    ];
    let chain = chain_with(&parameters, links);
    let finished = run(&chain, &["a=one", "b=two"]).expect_success();
    assert_eq!(finished.text().trim_end(), "Input one twoone");
}

#[test]
fn a_command_that_waits_for_its_input_gets_them_too() {
    let parameters = format!("Parameters: {{a: {ANYTHING}}}");
    let links = [
        link(&["/bin/sed", "s/put/${a}/"]),
        link(&["/bin/sed", "-e", "s/in/${a}/", "/tmp/in"]).with("Input", "/tmp/in"),
    ];
    let chain = chain_with(&parameters, links);
    let finished = run(&chain, &["a=x y"]).expect_success();
    assert_eq!(finished.text().trim_end(), "x yx y");
}

#[test]
fn no_value_is_anything_but_a_value() {
    let chain = titled(link(&["/bin/printf", "<%s>", "${title}", "end"]));
    let longest = "x".repeat(128 * 1024 - 1 - "title=".len());
    for value in [
        "",
        " ",
        "-n",
        "--help",
        "$HOME",
        "${title}",
        "$${title}",
        "${other}",
        "$(id)`id`",
        "'\"\\",
        "*",
        "a=b&c",
        "line\nbreak\r\n\t\x1b[31m",
        "grüße \u{202e}",
        "%s %n",
        &longest,
    ] {
        run(&chain, &[&format!("title={value}")])
            .expect_success()
            .expect_output(format!("<{value}><end>"));
    }
}

#[test]
fn what_is_wrong_with_a_value_is_a_usage_error_before_anything_is_run() {
    let parameters = "Parameters:\n  width: {Pattern: '[1-9][0-9]{0,3}'}\n  \
                      title: {Pattern: '[a-z]*', Default: x}";
    let nowhere = link(&["/bin/echo", "${width}", "${title}"]).image("127.0.0.1:9/nowhere/none");
    let chain = chain_with(parameters, [nowhere]);
    for (values, parts) in [
        (&[][..], &["`width`", "[1-9][0-9]{0,3}"][..]),
        (&["width=0"], &["`width`", "`0`", "[1-9][0-9]{0,3}"]),
        (&["width=3\n"], &["`width`", "`3\\n`"]),
        (
            &["width=3", "titel=a"],
            &["`titel`", "did you mean `title`?"],
        ),
        (&["width=3", "zoom=a"], &["`zoom`", "title, width"]),
        (&["width=3", "width=3"], &["`width`", "once"]),
        (&["width"], &["--set", "NAME=VALUE", "no `=`"]),
    ] {
        run(&chain, values)
            .expect_code(2)
            .expect_output("")
            .expect_stderr(parts);
    }
    // The value may be long, and the message may not.
    let long = run(&chain, &[&format!("width={}", "9".repeat(100_000))]).expect_code(2);
    assert!(long.stderr.len() < 1000, "{}", long.stderr.len());
    // A value that is no text cannot match.
    let mut odd = command::run(chain.path());
    let value = std::os::unix::ffi::OsStrExt::from_bytes(&b"width=\xff"[..]);
    odd.arg("--set").arg::<&std::ffi::OsStr>(value);
    finish(odd, b"", PATIENCE)
        .expect_code(2)
        .expect_stderr(&["UTF-8"]);
    let none = crate::support::chain::chain([shell("exit 3")]);
    run(&none, &["width=3"])
        .expect_code(2)
        .expect_stderr(&["`width`", "there are no parameters"]);
}

#[test]
fn the_environment_may_have_one() {
    let chain = titled(link(&["/bin/echo", "${title}"]));
    let mut run = command::run(chain.path());
    run.env("CONSECUTION_SET", "title=a,b");
    finish(run, b"", PATIENCE)
        .expect_success()
        .expect_output("a,b\n");
}

#[test]
fn check_shows_what_a_chain_takes() {
    let parameters = "ContentType: image/png\n\
                      Parameters: {width: {Pattern: '[0-9]+', Default: '200'}}";
    let chain = chain_with(parameters, [link(&["/bin/echo", "${width}"])]);
    let mut check = command::consecution(crate::support::home::shared());
    check.arg("check").arg(chain.path());
    let checked = finish(check, b"", PATIENCE).expect_success();
    for part in [
        "ContentType: image/png",
        "width:",
        "Pattern: '[0-9]+'",
        "Default: '200'",
    ] {
        assert!(checked.text().contains(part), "{}", checked.text());
    }
}
