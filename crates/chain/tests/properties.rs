//! What must hold for every chain: ids depend on exactly what runs, whatever
//! is written reads back, and no bytes do harm.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chain::units::{MAX_CPU_MILLICORES, MAX_MEMORY_BYTES, MIN_CPU_MILLICORES, MIN_MEMORY_BYTES};
use chain::{
    Chain, ChainLink, Constraints, CpuLimit, DataSource, Deadline, Link, LiteralFile, Network,
    Warm, Writable, limits,
};
use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::string::string_regex;

/// Text that a process can be given, with a liking for what YAML and templates trip
/// over.
fn short_text() -> impl Strategy<Value = String> {
    let tricky = select(vec![
        "",
        " ",
        "~",
        "null",
        "true",
        "no",
        "1",
        "-1",
        "0x1f",
        "1e3",
        ".5",
        ".inf",
        "2024-01-01",
        "-",
        "- a",
        "a: b",
        "a:",
        ":",
        "#",
        "a #b",
        "*a",
        "&a",
        "!a",
        "|",
        ">",
        "%",
        "@",
        "`",
        "{a}",
        "[a]",
        "'",
        "\"",
        "''",
        "\\",
        "\\n",
        "a'b\"c",
        " a",
        "a ",
        "\ta",
        "a\t",
        "\n",
        "a\n",
        "a\n\n",
        "\na",
        "a\nb",
        "a\nb\n",
        "a\n b\n",
        " a\nb",
        "a\n\nb",
        "a\r\nb",
        "a\rb",
        "a\n\tb\n",
        "a \nb",
        "a\n \nb",
        "---",
        "...",
        "a\n---\nb",
        "?",
        "? a",
        "<<",
        "=",
        ",",
        "\u{feff}",
        "a\u{feff}",
        "\u{85}",
        "\u{2028}",
        "\u{7f}",
        "\u{1}",
        "\u{1b}[0m",
        "\u{a0}",
        "\u{fffe}",
        "\u{e000}",
        "\u{1f600}",
        "e\u{301}",
        "\u{202e}x",
        "# a\nb",
        "$",
        "$$",
        "${",
        "$${",
        "$$${",
        "${x}",
        "$${x}",
        "a${x",
        "${}",
        "$\n${x}\n",
        "a\n# b\n",
    ])
    .prop_map(str::to_owned);
    let any =
        vec(any::<char>().prop_filter("no NUL", |c| *c != '\0'), 0..20).prop_map(String::from_iter);
    prop_oneof![
        4 => tricky,
        4 => any,
        4 => matching("[ -~]{0,20}"),
        3 => matching("([ -~]{0,12}\n){0,5}[ -~]{0,5}")
    ]
}

/// Text that a process can be given, of any length.
fn text() -> impl Strategy<Value = String> {
    let long = (1usize..3000).prop_map(|length| "lengthy ".repeat(length));
    prop_oneof![15 => short_text(), 1 => long]
}

/// Text that matches. A pattern by itself is a strategy too, but one that reads the
/// pattern again for each text.
fn matching(pattern: &str) -> impl Strategy<Value = String> + use<> {
    string_regex(pattern).expect("the pattern is right")
}

fn word() -> impl Strategy<Value = String> {
    text().prop_map(|text| {
        let blank = |c: char| c.is_whitespace() || c.is_control();
        let word: String = text.chars().filter(|c| !blank(*c)).collect();
        if word.is_empty() {
            "x".to_owned()
        } else {
            word
        }
    })
}

fn variable_name() -> impl Strategy<Value = String> {
    let whole = matching("[\u{1}-\u{ff}]{255}");
    prop_oneof![9 => text().boxed(), 1 => whole.boxed()].prop_map(|name| {
        let name = name.replace('=', "");
        let name = &name[..name.floor_char_boundary(limits::MAX_ENVIRONMENT_NAME_BYTES)];
        if name.is_empty() { "X" } else { name }.to_owned()
    })
}

fn constraints() -> impl Strategy<Value = Constraints> {
    let memory = prop_oneof![
        MIN_MEMORY_BYTES..=MAX_MEMORY_BYTES,
        (1u64..4096).prop_map(|m| m << 20)
    ];
    let cpu = (MIN_CPU_MILLICORES..=MAX_CPU_MILLICORES)
        .prop_map(|cpu| CpuLimit::from_millicores(cpu).expect("in range"));
    (
        option::of(memory),
        option::of(cpu),
        option::of(1u32..=1 << 22),
        option::of((1u64..1 << 30).prop_map(Duration::from_millis)),
        option::of(prop_oneof![1u64..=MAX_MEMORY_BYTES, Just(1)]),
        option::of(MIN_MEMORY_BYTES..=MAX_MEMORY_BYTES),
        option::of(16u32..=1 << 20),
    )
        .prop_map(
            |(memory, cpu, processes, cpu_time, output, scratch, open_files)| Constraints {
                memory,
                cpu,
                processes,
                cpu_time,
                output,
                scratch,
                open_files,
            },
        )
}

/// A part of a path.
fn part() -> impl Strategy<Value = String> {
    short_text().prop_map(|text| {
        let part = text.replace('/', "");
        let part = &part[..part.floor_char_boundary(40)];
        match part {
            "" | "." | ".." => "x".to_owned(),
            part => part.to_owned(),
        }
    })
}

fn private_path() -> impl Strategy<Value = String> {
    let folder = select(vec!["/tmp", "/var/tmp", "/run", "/dev/shm"]);
    let slash = select(vec!["", "/"]);
    (folder, vec(part(), 1..3), slash)
        .prop_map(|(folder, parts, slash)| format!("{folder}/{}{slash}", parts.join("/")))
}

fn literal_file() -> impl Strategy<Value = LiteralFile> {
    let content = prop_oneof![
        text().prop_map(String::into_bytes),
        short_text().prop_map(|text| (text + "\0").into_bytes()),
        vec(any::<u8>(), 0..20),
    ];
    let mode = prop_oneof![Just(LiteralFile::DEFAULT_MODE), 0u32..=0o777];
    (content, mode).prop_map(|(content, mode)| LiteralFile { content, mode })
}

fn name() -> impl Strategy<Value = String> {
    matching("[A-Za-z_][A-Za-z0-9_-]{0,63}")
}

fn data_source() -> impl Strategy<Value = DataSource> {
    prop_oneof![
        name().prop_map(DataSource::Name),
        word().prop_map(DataSource::Image)
    ]
}

/// What a link finds beside its image, and where its input and output are; none of it
/// at or below another.
fn beside() -> impl Strategy<Value = Link> {
    let numbered = |folder: &'static str| {
        move |(index, part): (usize, String)| format!("{folder}{index}/{part}")
    };
    let paths = |folder| {
        vec(part(), 0..3).prop_map(move |parts| {
            let numbered = parts.into_iter().enumerate().map(numbered(folder));
            numbered.collect::<Vec<_>>()
        })
    };
    let input = prop_oneof![private_path(), Just("/dev/stdin".to_owned())];
    let what = (
        (paths("/etc/f"), vec(literal_file(), 3)),
        (paths("/srv/d"), vec(data_source(), 3)),
        (paths("/run/secrets"), vec(name(), 3)),
        option::of(input),
        option::of(private_path()),
    );
    let clash = |link: &Link| {
        let path = |path: &Option<String>| {
            path.clone()
                .map(|path| path.trim_end_matches('/').to_owned() + "/")
        };
        let paths = [path(&link.input), path(&link.output)]
            .into_iter()
            .flatten();
        let mut all: Vec<String> = paths
            .chain(link.secrets.keys().map(|path| format!("{path}/")))
            .collect();
        all.sort();
        all.windows(2).any(|two| two[1].starts_with(&two[0]))
    };
    what.prop_map(|(files, data, secrets, input, output)| Link {
        files: files.0.into_iter().zip(files.1).collect(),
        data: data.0.into_iter().zip(data.1).collect(),
        secrets: secrets.0.into_iter().zip(secrets.1).collect(),
        input,
        output,
        ..Link::default()
    })
    .prop_filter("paths of their own", move |link| !clash(link))
}

fn environment() -> impl Strategy<Value = BTreeMap<String, String>> {
    btree_map(variable_name(), text(), 0..4)
}

fn link() -> impl Strategy<Value = Link> {
    let command =
        option::of(text().prop_map(|text| if text.is_empty() { "x".into() } else { text }));
    let network = select(vec![
        Network::None,
        Network::Loopback,
        Network::Sealed,
        Network::Host,
    ]);
    let writable = select(vec![Writable::No, Writable::Yes, Writable::Never]);
    let warm = prop_oneof![
        Just(Warm::Default),
        Just(Warm::Late),
        (1u16..=limits::MAX_WARM).prop_map(Warm::Count)
    ];
    let directory = option::of(text().prop_map(|path| format!("/{path}")));
    let what = (word(), command, vec(text(), 0..6), environment(), directory);
    let how = (option::of(word()), writable, network, warm, constraints());
    (what, how, beside()).prop_map(
        |((image, command, arguments, environment, working_directory), how, beside)| {
            let (user, writable, network, warm, constraints) = how;
            Link {
                image,
                command,
                arguments,
                environment,
                working_directory,
                user,
                writable,
                network,
                warm,
                constraints,
                ..beside
            }
        },
    )
}

fn deadline() -> impl Strategy<Value = Duration> {
    prop_oneof![
        (1u64..100_000).prop_map(Duration::from_secs),
        (1u64..100_000).prop_map(Duration::from_millis),
        (1u64..u64::pow(10, 15)).prop_map(Duration::from_nanos),
    ]
}

fn chain_link() -> impl Strategy<Value = ChainLink> {
    let name = option::of(matching("\\PC{1,30}").prop_map(|name: String| name.trim().to_owned()));
    let codes = btree_set(any::<u8>(), 1..5);
    (
        link(),
        name,
        option::of(deadline()),
        option::of(any::<u32>()),
        codes,
    )
        .prop_map(|(link, name, deadline, retries, codes)| {
            let link = ChainLink::new(link);
            let name = name.filter(|name| !name.is_empty() && name.len() <= limits::MAX_NAME_BYTES);
            let name = name.unwrap_or_else(|| link.name.clone());
            let accepted_exit_codes = codes.into_iter().collect();
            ChainLink {
                name,
                deadline,
                retries,
                accepted_exit_codes,
                ..link
            }
        })
}

fn chain() -> impl Strategy<Value = Chain> {
    let name = matching("[A-Za-z0-9][A-Za-z0-9._-]{0,99}");
    let deadline = prop_oneof![
        Just(Deadline::Unset),
        Just(Deadline::None),
        deadline().prop_map(Deadline::After),
    ];
    (name, deadline, vec(chain_link(), 1..5)).prop_map(|(name, deadline, links)| Chain {
        deadline,
        ..Chain::new(name, links)
    })
}

/// A chain file with some of its bytes replaced, removed or repeated.
fn mutated_file() -> impl Strategy<Value = Vec<u8>> {
    let edit = (
        any::<prop::sample::Index>(),
        0usize..8,
        vec(
            select(b"\n\t -:?*&!|>'\"[]{}#,%@<~\xff\0ax1".to_vec()),
            0..4,
        ),
    );
    (chain(), vec(edit, 1..6)).prop_map(|(chain, edits)| {
        let mut file = chain.to_yaml().into_bytes();
        for (index, removed, bytes) in edits {
            let start = index.index(file.len() + 1);
            let end = (start + removed).min(file.len());
            file.splice(start..end, bytes);
        }
        file
    })
}

proptest! {
    // A case that fails belongs into a test of its own, not into a file of seeds.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_chain_reads_back_as_written(chain in chain()) {
        let text = chain.to_yaml();
        let read = Chain::parse(&text, "chain.yaml", "other");
        prop_assert_eq!(read.map_err(|error| error.to_string()), Ok(chain), "{}", text);
    }

    #[test]
    fn every_link_reads_back_as_written(link in link()) {
        let text = link.to_yaml();
        let read = Link::from_yaml(&text, "link");
        prop_assert_eq!(read.map_err(|error| error.to_string()), Ok(link), "{}", text);
    }

    #[test]
    fn ids_are_equal_exactly_where_links_are(one in link(), other in link()) {
        prop_assert_eq!(one == other, one.id() == other.id());
        prop_assert_eq!(one.id(), one.clone().id());
    }

    #[test]
    fn each_thing_that_runs_changes_the_id(link in link(), other in link()) {
        let mut variants = vec![link.clone(); 15];
        variants[0].image = other.image;
        variants[1].command = other.command;
        variants[2].arguments = other.arguments;
        variants[3].environment = other.environment;
        variants[4].working_directory = other.working_directory;
        variants[5].user = other.user;
        variants[6].writable = other.writable;
        variants[7].network = other.network;
        variants[8].constraints = other.constraints;
        variants[9].warm = other.warm;
        variants[10].input = other.input;
        variants[11].output = other.output;
        variants[12].files = other.files;
        variants[13].data = other.data;
        variants[14].secrets = other.secrets;
        for variant in variants {
            prop_assert_eq!(variant == link, variant.id() == link.id());
        }
    }

    #[test]
    fn how_a_chain_uses_a_link_does_not_change_the_id(used in chain_link()) {
        prop_assert_eq!(used.id, used.link.id());
        let chain = Chain::new("x", [used]);
        let read = Chain::parse(chain.to_yaml(), "chain.yaml", "x").expect("it reads back");
        prop_assert_eq!(read.links[0].id, chain.links[0].id);
        prop_assert_eq!(ChainLink::new(Arc::clone(&read.links[0].link)).id, chain.links[0].id);
    }

    #[test]
    fn boundaries_count(words in vec(text(), 2..6), at in any::<prop::sample::Index>()) {
        let at = at.index(words.len() - 1);
        let link = Link { arguments: words.clone(), ..Link::new("i") };
        let mut joined = words.clone();
        let next = joined.remove(at + 1);
        joined[at].push_str(&next);
        prop_assert_ne!(Link { arguments: joined, ..link.clone() }.id(), link.id());
        let mut shifted = words;
        let command = shifted.remove(0);
        let shifted = Link { command: Some(command), arguments: shifted, ..link.clone() };
        prop_assert_ne!(shifted.id(), link.id());
    }

    #[test]
    fn no_bytes_do_harm(bytes in vec(any::<u8>(), 0..400)) {
        harmless(&bytes);
    }

    #[test]
    fn no_text_does_harm(text in "[ \t\r\na-cChainImge:?*&!|>'\"\\[\\]{}#,%@<~\u{85}\u{feff}-]{0,200}") {
        harmless(text.as_bytes());
    }

    #[test]
    fn no_broken_file_does_harm(bytes in mutated_file()) {
        harmless(&bytes);
    }
}

/// Reads bytes; an error has a place that its text names, and shows.
fn harmless(bytes: &[u8]) {
    let _ = Link::from_yaml(bytes, "link");
    match Chain::parse(bytes, "f", "x") {
        Ok(chain) => {
            assert!(!chain.links.is_empty());
            assert_eq!(Chain::parse(chain.to_yaml(), "f", "y"), Ok(chain));
        }
        Err(error) => {
            assert!(!error.diagnostics().is_empty());
            let text = error.to_string();
            for diagnostic in error.diagnostics() {
                let place = format!("f:{}:{}", diagnostic.line, diagnostic.column);
                assert!(text.contains(&place), "{place} in\n{text}");
            }
            assert!(!error.render(true).is_empty());
        }
    }
}

#[test]
fn a_command_is_not_an_argument_and_an_argument_not_a_setting() {
    let link = |command: Option<&str>, arguments: &[&str]| Link {
        command: command.map(str::to_owned),
        arguments: arguments
            .iter()
            .map(|argument| (*argument).to_owned())
            .collect(),
        ..Link::new("i")
    };
    let writable = Link {
        writable: Writable::Yes,
        ..link(Some("a"), &[])
    };
    let late = Link {
        warm: Warm::Late,
        ..link(Some("a"), &[])
    };
    let links = [
        link(None, &[]),
        link(None, &["a"]),
        link(Some("a"), &[]),
        link(Some("null"), &["a"]),
        link(Some("a"), &["b c"]),
        link(Some("a"), &["b", "c"]),
        link(Some("a"), &[""]),
        link(Some("a"), &[r#"{"Writable":true}"#]),
        writable,
        late,
    ];
    for (index, one) in links.iter().enumerate() {
        for other in &links[index + 1..] {
            assert_ne!(one.id(), other.id(), "{one:?} {other:?}");
        }
    }
}

#[test]
fn an_error_inside_a_line_break_is_shown_before_it() {
    for text in [
        "%e\r",
        "%e\r\n",
        "%e\n",
        "\r",
        "Chain:\r\n- '\r\n",
        "[\r\r\n",
    ] {
        harmless(text.as_bytes());
    }
}
