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
fn what_is_beside_the_image_is_checked() {
    insta::assert_snapshot!(error(
        "\
ContentType: png
Chain:
- Image: busybox
  Input: /srv/in
  Output: /tmp
  Files:
    etc/app.conf: x
    /etc/a: {Text: x, Base64: eA==}
    /etc/b: {Mode: 0644}
    /etc/c: {Text: x, Mode: '4755'}
    /etc/d: {Base64: '!'}
    /etc/../e: x
    /etc/f/: x
    /etc/g: [x]
  Data:
    /: whisper
    /proc/x: whisper
    /var: whisper
    /models: /srv/whisper
    /more: 'image:a b'
  Secrets:
    /run/secrets/key: sk_live 4eC39
    /run/secrets/key/: stripe
  Volumes: {}
  Mode: 0644
"
    ));
    insta::assert_snapshot!(error(
        "\
Chain:
- Image: busybox
  Input: /tmp/a/
  Output: /tmp/a/out
  Files: {//etc//app: x, /etc/app/conf: y, /tmp/a/b: z}
  Data: {/etc: whisper, /run: whisper, /srv/: ''}
  Secrets: {/run/secrets/key: stripe}
  Constraints: {CPUTime: 0.5ms, Output: 0, Scratch: 1K, OpenFiles: 8, Disk: 1G}
- Image: busybox
  Input: /dev/stdin/
  Output: /dev/stdin
- Image: busybox
  Input: /run/../etc/passwd
  Output: /dev/shm/x
  Network: Sealed
  Writable: ro
"
    ));
}

#[test]
fn parameters_are_checked() {
    insta::assert_snapshot!(error(
        "\
Parameters:
  width: {Pattern: '[1-9][0-9{0,3}', Default: '200'}
  height: {Pattern: '[0-9]+', Default: 200px}
  depth: {Default: '1'}
  2d: {Pattern: x}
  lang: '[a-z]+'
  title: {Regex: '.*'}
Chain:
- Image: busybox
  Command: resize
  Arguments:
  - |
    first line
    then ${widht} and $${HOME}
  - ${HOME}
  - 'a ${ b'
  - ${}
  Environment: {PATH: '/bin:${width}', TITLE: \"\\x24{titel}\"}
  WorkingDirectory: /srv/${width}
  Parameters: {x: {Pattern: y}}
"
    ));
    let unused = "Parameters: {width: {Pattern: '[0-9]+'}}\nChain: [{Image: busybox}]\n";
    insta::assert_snapshot!(error(unused));
}

#[test]
fn a_secret_that_stands_for_its_name_is_not_repeated() {
    let error = error(link("Secrets: {/run/key: 'sk_live_ 4eC39HqLyjWDarjtT1'}"));
    assert!(
        !error.diagnostics()[0].message.contains("sk_live"),
        "{error}"
    );
    let help = error.diagnostics()[0].help.as_deref();
    assert!(
        help.is_some_and(|help| help.contains("--secret")),
        "{error}"
    );
}

#[test]
fn what_a_link_brings_along_is_bounded() {
    let files = |count: usize, length: usize| {
        let text = "x".repeat(length);
        let files = (0..count).map(|file| format!("\n    /f/{file}: {text}"));
        link(&format!("Files:{}", files.collect::<String>()))
    };
    assert!(Chain::parse(files(15, 65536), "f", "x").is_ok());
    assert_eq!(message(files(1, 65537)), "a file has 65537 bytes");
    assert_eq!(message(files(65, 1)), "`Files` has more than 64 files");
    // An alias counts as often as it is used, so this is as much as a file may have.
    let base64 = "A".repeat(87_000);
    let shared = link(&format!(
        "Environment: {{A: &a {base64}}}\n  Files: {{/a: {{Base64: *a}}}}"
    ));
    assert!(Chain::parse(shared, "f", "x").is_ok());
    let names = |what: &str| {
        (0..65)
            .map(|n| format!("    /f/{n}: x{n}\n"))
            .fold(format!("{what}:\n"), |a, b| a + &b)
    };
    assert_eq!(
        message(link(&names("Data"))),
        "`Data` has more than 64 paths"
    );
    assert_eq!(
        message(link(&names("Secrets"))),
        "`Secrets` has more than 64 secrets"
    );
    let parameters: String = (0..65)
        .map(|n| format!("  p{n}: {{Pattern: x}}\n"))
        .collect();
    let too_many = format!("Parameters:\n{parameters}Chain: [{{Image: busybox}}]\n");
    assert_eq!(
        message(too_many),
        "`Parameters` has more than 64 parameters"
    );
    let long = format!("Files: {{/{}: x}}", "x".repeat(limits::MAX_PATH_BYTES));
    assert!(message(link(&long)).starts_with("the path of a file is longer than 255 bytes"));
    let name = "x".repeat(65);
    assert!(message(link(&format!("Data: {{/x: {name}}}"))).starts_with("data cannot be called"));
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
