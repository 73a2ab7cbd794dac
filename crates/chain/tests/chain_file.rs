//! A chain file means what `docs/chain-file.md` says.

use std::time::Duration;

use chain::{
    Chain, ChainLink, CpuLimit, DataSource, Deadline, Link, LinkId, LiteralFile, Network, Warm,
    Writable,
};

fn parse(text: &str) -> Chain {
    Chain::parse(text, "chain.yaml", "test").unwrap_or_else(|error| panic!("{error}"))
}

/// The only link of a chain, with these lines besides its image.
fn link(lines: &str) -> ChainLink {
    let mut chain = parse(&format!("Chain:\n- Image: busybox\n  {lines}\n"));
    assert_eq!(chain.links.len(), 1);
    chain.links.remove(0)
}

fn md5sum(text: &str) -> String {
    use md5::{Digest, Md5};
    data_encoding::HEXLOWER.encode(&Md5::digest(text))
}

fn id(lines: &str) -> LinkId {
    link(lines).id
}

#[test]
fn the_seed_chain_reads_to_the_letter() {
    let text = include_str!("../../../examples/words/chain.yaml");
    let chain = Chain::parse(text, "chain.yaml", "chain").expect("the seed chain is right");
    assert_eq!(chain.name, "chain");
    assert_eq!(chain.deadline, Deadline::Unset);
    let expected: [(&str, &[&str]); 3] =
        [("cat", &[]), ("grep", &["data"]), ("xargs", &["-n", "1"])];
    assert_eq!(chain.links.len(), expected.len());
    for (link, (name, arguments)) in chain.links.iter().zip(expected) {
        assert_eq!(link.name, name);
        assert_eq!(link.link.image, "busybox");
        assert_eq!(link.link.command, Some(format!("/bin/{name}")));
        assert_eq!(link.link.arguments, arguments);
        assert_eq!(link.deadline, None);
        assert_eq!(link.retries, None);
        assert_eq!(link.accepted_exit_codes, [0]);
        assert!(link.accepts(0) && !link.accepts(1));
    }
    // printf '["busybox","/bin/xargs","-n","1"]' | md5sum
    assert_eq!(
        chain.links[2].id.to_string(),
        "5ccbc2807a14df3b00c42b608b4d0fcc"
    );
}

#[test]
fn every_key_is_read() {
    let chain = parse(
        "\
Name: all.keys_1-2
Deadline: 5m
Chain:
- Image: localhost:5000/tool:1
  Command: tool
  Arguments: [a, '']
  Environment: {A: b, C: ''}
  WorkingDirectory: /srv
  User: 1000:1000
  Writable: true
  Network: host
  Warm: false
  Constraints: {Memory: 1.5G, CPU: 0.5, Processes: 8}
  Name: the tool
  Deadline: 500ms
  Retries: 3
  AcceptedExitCodes: [1, 0, 1]
",
    );
    assert_eq!(chain.name, "all.keys_1-2");
    assert_eq!(chain.deadline, Deadline::After(Duration::from_secs(300)));
    let used = &chain.links[0];
    assert_eq!(used.name, "the tool");
    assert_eq!(used.deadline, Some(Duration::from_millis(500)));
    assert_eq!(used.retries, Some(3));
    assert_eq!(used.accepted_exit_codes, [0, 1]);
    let link = &used.link;
    assert_eq!(link.image, "localhost:5000/tool:1");
    assert_eq!(link.command.as_deref(), Some("tool"));
    assert_eq!(link.arguments, ["a", ""]);
    assert_eq!(link.environment["A"], "b");
    assert_eq!(link.environment["C"], "");
    assert_eq!(link.working_directory.as_deref(), Some("/srv"));
    assert_eq!(link.user.as_deref(), Some("1000:1000"));
    assert_eq!(link.writable, Writable::Yes);
    assert_eq!(link.network, Network::Host);
    assert_eq!(link.warm, Warm::Late);
    assert!(!link.is_pure());
    assert_eq!(link.constraints.memory, Some(3 << 29));
    assert_eq!(link.constraints.cpu, CpuLimit::from_millicores(500));
    assert_eq!(link.constraints.processes, Some(8));
    assert_eq!(used.id, link.id());
}

#[test]
fn every_key_of_what_is_beside_the_image_is_read() {
    let chain = parse(
        "\
ContentType: text/plain; charset=utf-8
Parameters: {width: {Pattern: '[0-9]+', Default: '200'}}
Chain:
- Image: busybox
  Arguments: ['${width}']
  Writable: never
  Network: loopback
  Warm: 8
  Input: /tmp//in.docx
  Output: /var/tmp/out/
  Files:
    /etc/app.conf: |
      a: ${width}
    /bin/x: {Text: exit, Mode: 755}
    /etc/logo: {Base64: 'iVBO Rw=='}
  Data: {/models/: whisper, /srv/tool: image:registry.example.com/tool:1}
  Secrets: {/run/secrets/key: stripe}
  Constraints: {CPUTime: 1.2345s, Output: 1B, Scratch: 10G, OpenFiles: 64}
",
    );
    assert_eq!(
        chain.content_type.as_deref(),
        Some("text/plain; charset=utf-8")
    );
    let width = &chain.parameters["width"];
    assert_eq!(width.pattern.as_str(), "[0-9]+");
    assert_eq!(width.default.as_deref(), Some("200"));
    let link = &chain.links[0].link;
    assert_eq!(link.parameters["width"], width.pattern);
    assert_eq!(link.writable, Writable::Never);
    assert_eq!(link.network, Network::Loopback);
    assert_eq!(link.warm, Warm::Count(8));
    assert_eq!(link.input.as_deref(), Some("/tmp/in.docx"));
    assert_eq!(link.output.as_deref(), Some("/var/tmp/out/"));
    // A file is no template.
    assert_eq!(
        link.files["/etc/app.conf"],
        LiteralFile::new("a: ${width}\n")
    );
    assert_eq!(link.files["/bin/x"].mode, 0o755);
    assert_eq!(link.files["/etc/logo"].content, b"\x89PNG"[..]);
    assert_eq!(link.data["/models"], DataSource::Name("whisper".into()));
    let image = DataSource::Image("registry.example.com/tool:1".into());
    assert_eq!(link.data["/srv/tool"], image);
    assert_eq!(link.secrets["/run/secrets/key"], "stripe");
    let constraints = link.constraints;
    assert_eq!(constraints.cpu_time, Some(Duration::from_millis(1234)));
    assert_eq!(constraints.output, Some(1));
    assert_eq!(constraints.scratch, Some(10 << 30));
    assert_eq!(constraints.open_files, Some(64));
    assert_eq!(parse(&chain.to_yaml()), chain);
    insta::assert_snapshot!(chain.to_yaml());
    let seekable = id("Input: /dev/stdin");
    assert_ne!(seekable, id("Command: x"));
}

#[test]
fn plain_scalars_are_taken_as_they_are_written() {
    let words = [
        "-n",
        "1",
        "1.10",
        "0x10",
        "1_000",
        "true",
        "yes",
        "No",
        "2024-01-01",
        ".5",
        "1e3",
        "+1",
        "=",
        "a b",
        ".inf",
        "12:30:45",
        "~x",
        "nullable",
        "a#b",
        "--flag=x:y",
    ];
    let lines: String = words.iter().map(|word| format!("\n  - {word}")).collect();
    assert_eq!(link(&format!("Arguments:{lines}")).link.arguments, words);
    for word in words {
        assert_eq!(
            link(&format!("Environment: {{A: {word}}}"))
                .link
                .environment["A"],
            word
        );
    }
    let quoted = link("Arguments: ['null', \"~\", '', !!str null, !!str 1]");
    assert_eq!(quoted.link.arguments, ["null", "~", "", "null", "1"]);
}

#[test]
fn blocks_and_folds_are_text() {
    let link =
        link("Arguments:\n  - |\n    one\n      two\n  - >-\n    one\n    two\n  - one\n    two");
    assert_eq!(link.link.arguments, ["one\n  two\n", "one two", "one two"]);
}

#[test]
fn nothing_behind_a_key_is_nothing_in_it() {
    let bare = link("Command: x");
    for key in [
        "Arguments:",
        "Environment:",
        "Constraints:",
        "Arguments: []",
        "Environment: {}",
    ] {
        assert_eq!(link(&format!("Command: x\n  {key}")), bare, "{key}");
    }
}

#[test]
fn explicit_defaults_are_the_defaults() {
    let bare = id("Command: x");
    for line in [
        "Writable: false",
        "Network: none",
        "Warm: true",
        "Arguments: []",
        "Environment: {}",
        "Constraints: {}",
        "Files: {}",
        "Data:",
        "Secrets: {}",
        "Name: y",
        "Deadline: 1s",
        "Deadline: none",
        "Retries: 9",
        "AcceptedExitCodes: [7]",
    ] {
        assert_eq!(id(&format!("Command: x\n  {line}")), bare, "{line}");
    }
}

#[test]
fn a_limit_has_one_id_however_it_is_spelled() {
    let memory = id("Constraints: {Memory: 20M}");
    for spelling in ["20", "'20'", "20480K", "20971520B", "20MiB", "20.0m"] {
        assert_eq!(
            id(&format!("Constraints: {{Memory: {spelling}}}")),
            memory,
            "{spelling}"
        );
    }
    assert_ne!(id("Constraints: {Memory: 21M}"), memory);
    assert_eq!(
        id("Constraints: {CPU: 0.5}"),
        id("Constraints: {CPU: '0.50'}")
    );
    assert_eq!(
        id("Environment: {A: 1, B: 2}"),
        id("Environment: {B: '2', A: \"1\"}")
    );
}

#[test]
fn a_file_or_a_path_has_one_id_however_it_is_spelled() {
    for (one, other) in [
        (
            "Files: {/a/b: x}",
            "Files: {//a///b: {Text: x, Mode: '0644'}}",
        ),
        ("Files: {/a/b: x}", "Files: {/a/b: {Base64: eA==}}"),
        (
            "Files: {/b: {Text: x, Mode: 755}}",
            "Files: {/b: {Mode: '0755', Text: x}}",
        ),
        ("Input: /tmp/x", "Input: /tmp//x"),
        ("Output: /tmp/x/", "Output: /tmp/x//"),
        ("Data: {/a: b}", "Data: {/a/: b}"),
        (
            "Constraints: {CPUTime: 90s}",
            "Constraints: {CPUTime: 1.5m}",
        ),
        ("Constraints: {Output: 1024}", "Constraints: {Output: 1G}"),
    ] {
        assert_eq!(id(one), id(other), "{one} {other}");
    }
    assert_ne!(id("Output: /tmp/x"), id("Output: /tmp/x/"));
}

/// The ids of all links that documents and examples have, so that none ever changes.
#[test]
fn ids_of_todays_files_are_what_they_were() {
    let ids = |lines: &str| id(lines).to_string();
    for (lines, expected) in [
        ("Command: /bin/cat", "188b0237c1423313d2eff0dbfb4d426a"),
        ("Command: cat", "32a301bf104c89ed71bec4c5330dcbeb"),
        ("User: nobody", "a50da1f73c3d28d6555ed1e995ffd5f7"),
        (
            "Command: /bin/grep\n  Arguments: [data]",
            "cc396884817904193a62988904f6fea5",
        ),
        (
            "Command: xargs\n  Arguments: [-n, 1]",
            "fb3cedbde64f6bd2f0f51cf363289e8b",
        ),
        ("Arguments: [-n, 1]", "353257221d213417112ee6c482c39b67"),
        ("Environment: {LANG: C}", "4cc7902e944554e16ec4304ea6519181"),
        ("WorkingDirectory: /srv", "8cdf4fea21c9ba88ee5106c3eaf77d8d"),
        ("User: 1000:1000", "3de18af83563bb7872d6b5c474cfc451"),
        ("Writable: true", "5d3d59b3dd79e12fc6167d969ab725c7"),
        ("Writable: false", "68aa58fb45fe4c5941a3765b5c252af5"),
        ("Network: host", "a1e37e1741f5f96be05086233a6a319b"),
        ("Network: none", "68aa58fb45fe4c5941a3765b5c252af5"),
        ("Warm: false", "176cdc25dedbc5c92109e45da3602ae8"),
        ("Warm: true", "68aa58fb45fe4c5941a3765b5c252af5"),
        (
            "Constraints: {Memory: 20M, CPU: 0.5, Processes: 8}",
            "0a710d708e659450e911f1e52428b696",
        ),
        (
            "Arguments: [\"${HOME}\"]",
            "fb275579231b0cec043e5cb119f2e6ef",
        ),
    ] {
        assert_eq!(ids(lines), expected, "{lines}");
    }
}

#[test]
fn the_examples_have_the_ids_that_they_had() {
    let text = include_str!("../../../examples/words/chain.yaml");
    let ids: Vec<String> = parse(text)
        .links
        .iter()
        .map(|link| link.id.to_string())
        .collect();
    let expected = [
        "188b0237c1423313d2eff0dbfb4d426a",
        "cc396884817904193a62988904f6fea5",
        "5ccbc2807a14df3b00c42b608b4d0fcc",
    ];
    assert_eq!(ids, expected);
}

#[test]
fn the_identities_of_the_reference_are_right() {
    let page = include_str!("../../../docs/chain-file.md");
    for (lines, json) in [
        (
            "Command: /bin/cat\n  Network: host\n  Constraints: {CPU: 0.5, Memory: 20M}",
            r#"["busybox","/bin/cat",{"Constraints":{"CPU":500,"Memory":20971520},"Network":"host"}]"#,
        ),
        (
            "Command: /bin/cat\n  Input: /tmp/in\n  Files: {/etc/a: 'x', /etc/b: {Text: y, Mode: 0755}}\n  \
             Data: {/m: whisper}",
            r#"["busybox","/bin/cat",{"Data":{"/m":"whisper"},"Files":{"/etc/a":"x","/etc/b":{"Mode":493,"Text":"y"}},"Input":"/tmp/in"}]"#,
        ),
        (
            "Command: echo\n  Arguments: ['${width}']\n  Parameters: {width: {Pattern: '[0-9]+'}}",
            r#"["busybox","echo","${width}",{"Parameters":{"width":"[0-9]+"}}]"#,
        ),
    ] {
        assert!(page.contains(json), "{json}");
        let file = format!("Image: busybox\n{}", lines.replace("\n  ", "\n"));
        let link = Link::from_yaml(&file, "link").unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(md5sum(json), link.id().to_string(), "{lines}");
    }
}

#[test]
fn deadlines_can_be_switched_off() {
    assert_eq!(
        parse("Deadline: none\nChain: [{Image: x}]").deadline,
        Deadline::None
    );
    assert_eq!(link("Deadline: none").deadline, None);
}

#[test]
fn aliases_share_values() {
    let chain = parse(
        "Chain:\n- &a\n  Image: busybox\n  Arguments: &b [x]\n- *a\n- Image: y\n  Arguments: *b\n",
    );
    assert_eq!(chain.links[0], chain.links[1]);
    assert_eq!(chain.links[2].link.arguments, ["x"]);
}

#[test]
fn byte_order_marks_line_ends_and_document_marks_do_not_matter() {
    let plain = parse("Chain:\n- Image: busybox\n  Command: cat\n");
    for text in [
        "\u{feff}Chain:\n- Image: busybox\n  Command: cat\n",
        "Chain:\r\n- Image: busybox\r\n  Command: cat\r\n",
        "%YAML 1.2\n---\nChain:\n- Image: busybox\n  Command: cat\n...\n",
        "{\"Chain\": [{\"Image\": \"busybox\", \"Command\": \"cat\"}]}",
        "# a comment\nChain: # another\n- Image: busybox\n  Command: cat",
    ] {
        assert_eq!(parse(text), plain, "{text:?}");
    }
}

#[test]
fn a_chain_is_written_for_people() {
    let chain = parse(
        "\
Deadline: 90s
Chain:
- {Image: busybox, Command: /bin/cat, Name: cat}
- Image: busybox
  Command: awk
  Name: sum
  Arguments: ['{print $1}', '-n', yes, it's, \"tab\\t\", \"BEGIN {\\n\\n  x\\n}\\n\", ' ']
  Environment: {LANG: C, PATH: '/bin:/usr/bin', X: 'on'}
  WorkingDirectory: /tmp
  User: 1000
  Writable: true
  Network: host
  Warm: false
  Constraints: {Memory: 20, CPU: 1.50, Processes: 3}
  Deadline: 1500ms
  Retries: 0
  AcceptedExitCodes: [1, 0]
",
    );
    insta::assert_snapshot!(chain.to_yaml());
    assert_eq!(parse(&chain.to_yaml()), chain);
    insta::assert_snapshot!(chain.links[1].link.to_yaml());
    assert_eq!(
        Link::from_yaml(chain.links[0].link.to_yaml(), "link").as_ref(),
        Ok(&*chain.links[0].link)
    );
}

#[test]
fn the_example_of_the_reference_is_right() {
    let page = include_str!("../../../docs/chain-file.md");
    let example = page
        .split("```yaml\n")
        .nth(1)
        .and_then(|rest| rest.split("```").next());
    let chain = parse(example.expect("the page has an example"));
    assert_eq!(chain.links[1].link.arguments, ["-n", "1"]);
    assert!(page.contains(&id("Command: /bin/cat").to_string()));
}

/// The examples behind the first one, each a chain or a part of a link.
#[test]
fn the_other_examples_of_the_reference_are_right() {
    let page = include_str!("../../../docs/chain-file.md");
    let examples = page.split("```yaml\n").skip(2);
    let examples = examples.filter_map(|rest| rest.split("```").next());
    let mut read = 0;
    for example in examples {
        if example.contains("Chain:\n") {
            parse(example);
        } else {
            link(&example.trim_end().replace('\n', "\n  "));
        }
        read += 1;
    }
    assert_eq!(read, 3);
}

#[test]
fn the_errors_of_the_reference_are_right() {
    let page = include_str!("../../../docs/chain-file.md");
    let text = "Chain:\n- Image: busybox\n  Comand: /bin/cat\n  Arguments: data\n";
    let error = Chain::parse(text, "chain.yaml", "x").expect_err("it is wrong");
    assert!(page.contains(&error.to_string()), "{error}");
}
