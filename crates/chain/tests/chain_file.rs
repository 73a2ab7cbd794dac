//! A chain file means what `docs/chain-file.md` says.

use std::time::Duration;

use chain::{Chain, ChainLink, CpuLimit, Deadline, Link, LinkId, Network, Warm, Writable};

fn parse(text: &str) -> Chain {
    Chain::parse(text, "chain.yaml", "test").unwrap_or_else(|error| panic!("{error}"))
}

/// The only link of a chain, with these lines besides its image.
fn link(lines: &str) -> ChainLink {
    let mut chain = parse(&format!("Chain:\n- Image: busybox\n  {lines}\n"));
    assert_eq!(chain.links.len(), 1);
    chain.links.remove(0)
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

#[test]
fn the_errors_of_the_reference_are_right() {
    let page = include_str!("../../../docs/chain-file.md");
    let text = "Chain:\n- Image: busybox\n  Comand: /bin/cat\n  Arguments: data\n";
    let error = Chain::parse(text, "chain.yaml", "x").expect_err("it is wrong");
    assert!(page.contains(&error.to_string()), "{error}");
}
