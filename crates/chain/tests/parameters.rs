//! Parameters: what is declared and used, and what becomes of values.

use std::collections::BTreeMap;

use chain::{Chain, ChainLink, Link, Parameter, ParameterError, Pattern, limits};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::string::string_regex;

fn parse(text: &str) -> Chain {
    Chain::parse(text, "chain.yaml", "test").unwrap_or_else(|error| panic!("{error}"))
}

/// A chain of links with these lines each besides its image, and one parameter.
fn with_width(links: &[&str]) -> String {
    let links: String = links
        .iter()
        .map(|lines| format!("- Image: busybox\n  {lines}\n"))
        .collect();
    format!("Parameters: {{width: {{Pattern: '[1-9][0-9]{{0,3}}'}}}}\nChain:\n{links}")
}

fn values<const N: usize>(values: [(&str, &str); N]) -> BTreeMap<String, String> {
    values
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
}

/// The only link of a chain with one parameter.
fn width_link(lines: &str) -> Link {
    let chain = parse(&with_width(&[lines]));
    Link::clone(&chain.links[0].link)
}

#[test]
fn values_take_their_places() {
    let link = width_link(
        "Arguments: ['-w${width}x${width}', '$${width}', $, '$$${', plain]\n  \
         Environment: {W: 'a${width}'}",
    );
    let filled = link.fill(&values([("width", "300"), ("of", "others")]));
    let filled = filled.expect("it matches");
    assert_eq!(
        filled.arguments,
        ["-w300x300", "${width}", "$", "$${", "plain"]
    );
    assert_eq!(filled.environment["W"], "a300");
    assert!(link.is_late());
}

#[test]
fn a_link_that_uses_no_parameter_is_the_same_as_elsewhere() {
    let chain = parse(&with_width(&[
        "Arguments: ['${width}']",
        "Arguments: ['$${width} $${', '$']",
    ]));
    let [used, unused] = &chain.links[..] else {
        panic!("it has two links");
    };
    assert_eq!(used.link.parameters.len(), 1);
    assert!(unused.link.parameters.is_empty() && !unused.link.is_late());
    assert_eq!(unused.link.arguments, ["${width} ${", "$"]);
    let elsewhere = parse("Chain: [{Image: busybox, Arguments: ['${width} ${', $]}]");
    assert_eq!(unused.id, elsewhere.links[0].id);
    assert_eq!(parse(&chain.to_yaml()), chain);
    // As it is, since it is no template.
    let filled = unused.link.fill(&values([("width", "1")]));
    assert_eq!(
        filled.expect("it needs none").arguments,
        ["${width} ${", "$"]
    );
}

#[test]
fn without_parameters_nothing_is_a_template() {
    for parameters in ["", "Parameters:\n", "Parameters: {}\n"] {
        let file =
            format!("{parameters}Chain: [{{Image: x, Arguments: ['${{HOME}} $${{a', '${{']}}]");
        let link = &parse(&file).links[0].link;
        assert_eq!(link.arguments, ["${HOME} $${a", "${"], "{parameters}");
    }
}

#[test]
fn the_pattern_is_in_the_id_and_the_default_is_not() {
    let id = |parameter: &str| {
        let file = format!(
            "Parameters: {{width: {parameter}}}\n\
             Chain: [{{Image: x, Arguments: ['${{width}}']}}]"
        );
        parse(&file).links[0].id
    };
    let bare = id("{Pattern: '[0-9]+'}");
    assert_eq!(id("{Pattern: '[0-9]+', Default: '7'}"), bare);
    assert_ne!(id("{Pattern: '[0-9]*'}"), bare);
}

#[test]
fn a_link_by_itself_brings_its_patterns() {
    let link = width_link("Arguments: ['${width}', '$${']");
    let yaml = link.to_yaml();
    assert!(
        yaml.ends_with("Parameters:\n  width:\n    Pattern: '[1-9][0-9]{0,3}'\n"),
        "{yaml}"
    );
    assert_eq!(Link::from_yaml(&yaml, "link"), Ok(link));
    for (yaml, message) in [
        (
            "Image: x\nArguments: ['${b}']\nParameters: {a: {Pattern: x}}\n",
            "no parameter is called `b`",
        ),
        (
            "Image: x\nParameters: {a: {Pattern: x}}\n",
            "no link uses the parameter `a`",
        ),
        (
            "Image: x\nArguments: ['${a}']\nParameters: {a: {Pattern: x, Default: x}}\n",
            "unknown key `Default`",
        ),
    ] {
        let error = Link::from_yaml(yaml, "link").expect_err("it is wrong");
        assert_eq!(error.diagnostics()[0].message, message, "{error}");
    }
}

#[test]
fn the_values_of_a_call_are_checked_by_name_and_pattern() {
    let chain = parse(
        "Parameters:\n  width: {Pattern: '[0-9]+', Default: '200'}\n  title: {Pattern: '.*'}\n\
         Chain: [{Image: x, Arguments: ['${width}', '${title}']}]",
    );
    assert_eq!(
        chain.values(&values([("title", "")])),
        Ok(values([("title", ""), ("width", "200")]))
    );
    assert_eq!(
        chain.values(&values([("title", "x"), ("width", "7")])),
        Ok(values([("title", "x"), ("width", "7")]))
    );
    let texts = [
        (
            values([("title", ""), ("wide", "7")]),
            "set the parameter `wide`: there is none of that name; there are title, width",
        ),
        (
            values([("title", ""), ("witdh", "7")]),
            "set the parameter `witdh`: there is none of that name; did you mean `width`?",
        ),
        (
            values([("width", "7")]),
            "find a value of the parameter `title`: give one that matches `.*`",
        ),
        (
            values([("title", ""), ("width", "7px")]),
            "set the parameter `width` to `7px`, which does not match `[0-9]+`",
        ),
        (
            values([("title", "a\0")]),
            "set the parameter `title`: the value holds a NUL character, \
             which no program can be given",
        ),
    ];
    for (given, text) in texts {
        let error = chain.values(&given).expect_err(text);
        assert_eq!(error.to_string(), text);
    }
    let given = values([("title", ""), ("width", "7px")]);
    let error = chain.values(&given).expect_err("it does not match");
    assert_eq!(
        (error.name(), error.value(), error.pattern()),
        (Some("width"), Some("7px"), Some("[0-9]+"))
    );
    let none = parse("Chain: [{Image: x}]");
    let error = none.values(&given).expect_err("there is none");
    assert_eq!(
        error.to_string(),
        "set the parameter `title`: there are no parameters"
    );
}

#[test]
fn what_is_filled_has_a_bound() {
    let name = || "width".to_owned();
    let link = |arguments: Vec<&str>| Link {
        arguments: arguments.into_iter().map(str::to_owned).collect(),
        environment: values([("VARIABLE", "${width}")]),
        parameters: [(name(), Pattern::new("x*").expect("a pattern"))].into(),
        ..Link::new("busybox")
    };
    let of = |length: usize| values([("width", &"x".repeat(length))]);
    let max = limits::MAX_ARGUMENT_BYTES;
    let too_long = Err(ParameterError::TooLong { name: name() });
    let plain = link(vec![]);
    assert!(plain.fill(&of(max - "VARIABLE=".len())).is_ok());
    assert_eq!(plain.fill(&of(max - "VARIABLE=".len() + 1)), too_long);
    assert_eq!(plain.fill(&of(max + 1)), too_long);
    assert_eq!(
        link(vec!["${width}${width}"]).fill(&of(max / 2 + 1)),
        too_long
    );
    let many = link(vec!["${width}"; 64]);
    assert_eq!(many.fill(&of(100_000)), Err(ParameterError::TooLarge));
    assert!(many.fill(&of(1000)).is_ok());
}

#[test]
fn a_value_must_match_from_its_first_byte_to_its_last() {
    for (pattern, matching, others) in [
        (
            "[0-9]+",
            &["1", "42"][..],
            &["", "1\n", "\n1", "1 ", "-1", "\u{661}"][..],
        ),
        ("a|b", &["a", "b"], &["ab", "ac", "xb"]),
        ("(?m)^a$", &["a"], &["a\nb", "b\na"]),
        ("(?x) a # and no more", &["a"], &["a # and no more", "a\n"]),
        ("(?i)png|jpe?g", &["PNG", "JPeg"], &["gif"]),
        ("a{2,3}", &["aa", "aaa"], &["a", "aaaa"]),
        ("\\w+", &["a_1"], &["\u{e9}"]),
        (".", &["x"], &["\u{e9}", "\n", ""]),
        ("..", &["\u{e9}"], &["x"]),
        ("[^/]*", &["", "caf\u{e9}"], &["a/b"]),
        ("", &[""], &["x"]),
    ] {
        let pattern = Pattern::new(pattern).unwrap_or_else(|error| panic!("{pattern}: {error}"));
        for value in matching {
            assert!(pattern.is_match(value), "{pattern} {value:?}");
        }
        for value in others {
            assert!(!pattern.is_match(value), "{pattern} {value:?}");
        }
    }
}

#[test]
fn a_pattern_that_cannot_be_used_says_where_and_why() {
    for (pattern, problem, span) in [
        ("a(b", "unclosed group", Some(1..2)),
        ("a)|(?:b", "unopened group", Some(1..2)),
        ("x[z-a]", "invalid character class range", Some(2..5)),
        (
            "(?P<n>a)\\1",
            "backreferences are not supported",
            Some(8..10),
        ),
        ("(?=a)", "look-around", Some(0..3)),
        ("\\p{Greek}", "Unicode not allowed here", Some(0..9)),
        ("(?u)x", "Unicode is not supported", Some(2..3)),
        ("x(?u:\u{e9})", "Unicode is not supported", Some(3..4)),
        (
            "((a{100}){100}){100}",
            "compiled, it is larger than 524288 bytes: repeat less",
            None,
        ),
        (
            "(a|b{1000})*",
            "compiled, it is larger than 16384 bytes: repeat less, or let no",
            None,
        ),
        (
            "a{1001}{1001}{1001}",
            "compiled, it is larger than 524288 bytes: repeat less",
            None,
        ),
    ] {
        let error = Pattern::new(pattern).expect_err(pattern);
        assert!(error.to_string().contains(problem), "{pattern}: {error}");
        assert_eq!(error.span(), span, "{pattern}");
    }
    for large in [
        ".{0,4096}",
        "[a-z]{1,1000}",
        "([a-z]{1,63}\\.)+[a-z]{2,63}",
        "[^/]*",
    ] {
        assert!(Pattern::new(large).is_ok(), "{large}");
    }
    let deep = format!("{}a{}", "(".repeat(1000), ")".repeat(1000));
    assert!(Pattern::new(&deep).is_err());
    let long = "a".repeat(limits::MAX_PATTERN_BYTES + 1);
    assert!(Pattern::new(&long).is_err());
    assert!(Pattern::new(&long[1..]).is_ok());
}

#[test]
fn a_pattern_that_makes_others_blow_up_does_not() {
    let pattern = Pattern::new("(a+)+|(a|aa)*c|(.*)*d").expect("a pattern");
    assert!(!pattern.is_match(&("a".repeat(100_000) + "b")));
    assert!(pattern.is_match(&"a".repeat(100_000)));
}

/// A part of a template.
#[derive(Debug, Clone)]
enum Part {
    Text(String),
    Value(&'static str),
}

const PATTERNS: [(&str, &str); 4] = [
    ("width", "[1-9][0-9]{0,3}"),
    ("title", "[ -~]{0,9}"),
    ("_x-1", "(a|b{2})+|\\$\\{title\\}"),
    ("Any", "(?s).*"),
];

/// Text and values; no text of them ends with a `$` that would be part of an escape.
fn parts() -> impl Strategy<Value = Vec<Part>> {
    let texts = [
        "$", "${", "$${", "${title}", "a", "\n", "{", "}", "$a", "\u{e9}",
    ];
    let text = vec(select(texts.to_vec()), 0..4)
        .prop_map(|texts| Part::Text(texts.concat().trim_end_matches('$').to_owned()));
    let value = select(PATTERNS.to_vec()).prop_map(|(name, _)| Part::Value(name));
    vec(prop_oneof![text, value], 0..5)
}

fn template(parts: &[Part]) -> String {
    let spelled = |part: &Part| match part {
        Part::Text(text) => text.replace("${", "$${"),
        Part::Value(name) => format!("${{{name}}}"),
    };
    parts.iter().map(spelled).collect()
}

/// A value for each parameter.
fn some_values() -> impl Strategy<Value = BTreeMap<String, String>> {
    let strategies = PATTERNS.map(|(name, pattern)| {
        let value = string_regex(pattern).expect("the pattern is right");
        value.prop_map(move |value| (name.to_owned(), value.replace('\0', "")))
    });
    let [a, b, c, d] = strategies;
    (a, b, c, d).prop_map(|(a, b, c, d)| [a, b, c, d].into())
}

/// A chain whose links have these arguments.
fn chain_of(links: &[Vec<Vec<Part>>]) -> Option<Chain> {
    let is_used = |wanted: &str| {
        let parts = links.iter().flatten().flatten();
        parts
            .into_iter()
            .any(|part| matches!(part, Part::Value(name) if *name == wanted))
    };
    let used = PATTERNS.into_iter().filter(|(name, _)| is_used(name));
    let mut yaml = String::new();
    for (name, pattern) in used {
        let start = if yaml.is_empty() { "Parameters:\n" } else { "" };
        yaml.push_str(&format!("{start}  {name}: {{Pattern: '{pattern}'}}\n"));
    }
    if yaml.is_empty() {
        return None;
    }
    let links = links.iter().map(|arguments| {
        ChainLink::new(Link {
            arguments: arguments.iter().map(|parts| template(parts)).collect(),
            ..Link::new("x")
        })
    });
    // Written as if its texts were no templates, which is what they are read as.
    let plain = Chain::new("x", links).to_yaml();
    Some(parse(&(yaml + &plain)))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_filled_is_text_and_values_in_turn(
        links in vec(vec(parts(), 0..4), 1..4),
        values in some_values(),
    ) {
        let Some(chain) = chain_of(&links) else { return Ok(()) };
        for (parts, used) in links.iter().zip(&chain.links) {
            let text = |part: &Part| match part {
                Part::Text(text) => text.clone(),
                Part::Value(name) => values[*name].clone(),
            };
            let expected: Vec<String> =
                parts.iter().map(|parts| parts.iter().map(text).collect()).collect();
            let filled = used.link.fill(&values);
            prop_assert_eq!(filled.map(|filled| filled.arguments), Ok(expected));
        }
    }

    #[test]
    fn chains_with_parameters_read_back_as_written(links in vec(vec(parts(), 0..4), 1..4)) {
        let Some(chain) = chain_of(&links) else { return Ok(()) };
        prop_assert_eq!(&parse(&chain.to_yaml()), &chain);
        for used in &chain.links {
            let read = Link::from_yaml(used.link.to_yaml(), "link");
            prop_assert_eq!(read.as_ref(), Ok(&*used.link));
            prop_assert_eq!(used.id, used.link.id());
        }
    }

    #[test]
    fn text_without_an_opening_is_never_changed(
        text in string_regex("[^{]{0,9}|[^$]{0,9}").expect("a pattern"),
        values in some_values(),
    ) {
        let text = text.replace('\0', "");
        let parameters = PATTERNS.map(|(name, pattern)| {
            (name.to_owned(), Pattern::new(pattern).expect("a pattern"))
        });
        let link = Link { arguments: vec![text.clone()], parameters: parameters.into(), ..Link::new("x") };
        prop_assert_eq!(link.fill(&values).map(|filled| filled.arguments), Ok(vec![text]));
    }

    #[test]
    fn no_pattern_and_no_value_do_harm(
        pattern in string_regex("[a-c(){}|*+?\\[\\]^$.\\\\0-9,:-]{0,40}").expect("a pattern"),
        value in ".*",
    ) {
        if let Ok(pattern) = Pattern::new(&pattern) {
            let is_match = pattern.is_match(&value);
            let parameter = Parameter { pattern: pattern.clone(), default: Some(value.clone()) };
            let chain = Chain { parameters: [("x".to_owned(), parameter)].into(), ..Chain::new("x", []) };
            prop_assert_eq!(chain.values(&BTreeMap::new()).is_ok(), is_match && !value.contains('\0'));
        }
    }
}
