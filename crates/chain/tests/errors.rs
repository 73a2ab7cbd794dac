//! Every error of a chain file names file, line and column, shows the line,
//! and says what to do; independent errors are reported together.

use chain::{Chain, FileError, limits};

fn error(text: impl AsRef<[u8]>) -> FileError {
    Chain::parse(text, "chain.yaml", "test").expect_err("the file is wrong")
}

fn message(text: impl AsRef<[u8]>) -> String {
    let error = error(text);
    assert_eq!(error.diagnostics().len(), 1, "{error}");
    error.diagnostics()[0].message.clone()
}

/// A chain of one link with these lines besides its image.
fn link(lines: &str) -> String {
    format!("Chain:\n- Image: busybox\n  {lines}\n")
}

#[test]
fn all_independent_errors_are_shown_at_once() {
    insta::assert_snapshot!(error(
        "\
Deadline: soon
Chain:
- Image: 'busybox'
  Comand: \"/bin/cat\"
  Args: ['a']
- command: /bin/grep
  Memory: 20M
  Arguments: 'data'
  Retries: 1
  Retries: 2
"
    ));
}

#[test]
fn values_are_checked() {
    insta::assert_snapshot!(error(
        "\
Name: my chain
Chain:
- Image: busy box
  Command:
  Arguments: [[a-z], {b: c}, ~, \"nul\\0\"]
  Environment: {A=B: c, D: , E: [f]}
  WorkingDirectory: tmp
  User: ''
  Writable: yes
  Network: bridge
  Constraints: {Memory: 20X, CPU: 0, Processes: many, Mem: 1}
  Name: ''
  Deadline: 0s
  Retries: -1
  AcceptedExitCodes: [256]
"
    ));
}

#[test]
fn a_number_of_warm_processes_is_bounded_and_not_taken_for_true_or_false() {
    for number in ["0", "257", "2.5", "-1"] {
        let error = error(link(&format!("Warm: {number}"))).to_string();
        let expected = format!("`Warm` must be a whole number from 1 to 256, not `{number}`");
        assert!(error.contains(&expected), "{error}");
        assert!(!error.contains("did you mean"), "{error}");
    }
    let error = error(link("Warm: no")).to_string();
    assert!(error.contains("did you mean `false`?"), "{error}");
}

#[test]
fn yaml_hazards_are_explained() {
    let files: [&[u8]; 13] = [
        b"",
        b"# nothing\n",
        b"Chain:\n",
        b"- Image: busybox\n",
        b"Image: busybox\nCommand: cat\n",
        b"Chain:\n- Image: busybox\n\tCommand: cat\n",
        b"Chain:\n- Image: busybox\n---\nChain: []\n",
        b"Chain:\n- Image: busybox\n  Arguments:\n  - *.txt\n  - !x y\n  - @z\n",
        b"Chain:\n- Image: busybox\n  Arguments:\n  - *.txt\n  - !x y\n",
        b"Chain:\n- Image: busybox\n  Command: \xff\n",
        b"Chain:\r\n- Image: busybox\r\n  Env:\r\n",
        b"Chain:\n- &one\n  Image: busybox\n- <<: *one\n",
        b"Chain:\n- Image: busybox\n  Command: 'cat\n",
    ];
    let errors: Vec<String> = files.iter().map(|file| error(file).to_string()).collect();
    insta::assert_snapshot!(errors.join("\n\n--------\n\n"));
}

#[test]
fn an_error_is_data_too() {
    let error = error("Chain:\n- Image: 'b\u{e9}'\n  N\u{e4}me: x\n");
    let [diagnostic] = error.diagnostics() else {
        panic!("{error}");
    };
    assert_eq!((diagnostic.line, diagnostic.column), (3, 3));
    assert_eq!(diagnostic.span, 24..29);
    let suggestion = diagnostic.suggestion.as_ref().expect("a suggestion");
    assert_eq!(
        (suggestion.span.clone(), suggestion.replacement.as_str()),
        (24..29, "Name")
    );
    assert_eq!(error.label(), "chain.yaml");
    assert!(
        error.to_string().contains("--> chain.yaml:3:3\n"),
        "{error}"
    );
}

#[test]
fn colour_is_only_on_request() {
    let error = error("");
    assert!(error.render(true).contains('\u{1b}'));
    assert!(!error.render(false).contains('\u{1b}'));
}

#[test]
fn no_control_character_of_a_file_reaches_the_terminal() {
    let error =
        error("Chain:\n- Image: busybox\n  \"a\\e[31m\": x\n  N\u{202e}x: y\n  User: \"\\e \"\n");
    assert!(
        !error.to_string().contains(['\u{1b}', '\u{202e}']),
        "{error}"
    );
}

#[test]
fn errors_are_counted_beyond_a_bound() {
    let lines: String = (0..100).map(|n| format!("  Unknown{n}: x\n")).collect();
    let error = error(format!("Chain:\n- Image: busybox\n{lines}"));
    assert_eq!(error.diagnostics().len(), limits::MAX_REPORTED_ERRORS);
    assert_eq!(error.omitted(), 100 - limits::MAX_REPORTED_ERRORS);
    assert!(
        error
            .to_string()
            .ends_with("error: 80 more errors in chain.yaml")
    );
}

#[test]
fn bombs_are_bounded() {
    let mut nested = String::from("a: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let aliases = vec![format!("*a{}", level - 1); 10].join(", ");
        nested.push_str(&format!("b{level}: &a{level} [{aliases}]\n"));
    }
    assert_eq!(
        message(nested),
        "the file amounts to more than 1048576 bytes"
    );
    let long = format!(
        "Arguments: [&x '{}'{}]",
        "x".repeat(100_000),
        ", *x".repeat(100)
    );
    assert_eq!(
        message(link(&long)),
        "the file amounts to more than 1048576 bytes"
    );
    assert_eq!(
        message("Chain: &a [*a]"),
        "an alias stands inside what it stands for"
    );
}

#[test]
fn depth_and_size_are_bounded() {
    for open in ["[", "{a: ", "- ", "? "] {
        let deep = message(open.repeat(100_000));
        assert_eq!(deep, "lists and mappings are nested too deeply", "{open}");
    }
    let large = "#".repeat(limits::MAX_FILE_BYTES + 1);
    assert_eq!(message(large), "the file is larger than 1048576 bytes");
    let links = "- Image: busybox\n".repeat(limits::MAX_LINKS + 1);
    assert_eq!(message(format!("Chain:\n{links}")), "`Chain` has 257 items");
    let arguments = "  - x\n".repeat(limits::MAX_ARGUMENTS + 1);
    assert_eq!(
        message(link(&format!("Arguments:\n{arguments}"))),
        "`Arguments` has 4097 items"
    );
    let long = link(&format!(
        "Arguments: ['{}']",
        "x".repeat(limits::MAX_ARGUMENT_BYTES + 1)
    ));
    assert_eq!(message(long), "an argument is longer than 131071 bytes");
}

#[test]
fn an_error_far_along_a_long_line_is_still_shown() {
    let error = error(format!(
        "Chain: [{{Image: '{}', Foo: 1}}]",
        "é".repeat(50_000)
    ));
    assert_eq!(error.diagnostics()[0].column, 50_021);
    assert!(error.to_string().contains("Foo: 1"));
    assert!(error.to_string().len() < 2000);
}

#[test]
fn a_link_by_itself_has_no_use() {
    let error = chain::Link::from_yaml("Image: busybox\nRetries: 1\n", "link").unwrap_err();
    assert_eq!(error.diagnostics()[0].message, "unknown key `Retries`");
    assert!(chain::Link::from_yaml("", "link").is_err());
}
