//! The scalars and lists behind the keys.
//!
//! A scalar is taken as it is written: `1.10`, `yes` and `0x10` are these very
//! characters. Quotes make no difference, except that `null`, `~` and nothing
//! at all are no text unless quoted. Each function reports what is wrong and
//! then gives `None`.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

use super::diagnostic::{Diagnostic, Problems};
use super::faults::{duplicate, merge_key, wrong_type};
use super::suggest::nearest;
use super::tree::{Node, Value};
use crate::limits::{
    MAX_ARGUMENT_BYTES, MAX_ENVIRONMENT_NAME_BYTES, MAX_ENVIRONMENT_VARIABLES, MAX_NAME_BYTES,
};
use crate::units::quoted;

/// Text of any kind.
pub(super) fn text<'n>(
    node: &'n Node,
    what: &str,
    help: &str,
    problems: &mut Problems,
) -> Option<&'n str> {
    match &*node.value {
        Value::Scalar(text) => return Some(text),
        Value::List(_) | Value::Map(_) => {
            wrong_type(
                node,
                what,
                "text",
                "if this is the text, put it in quotes",
                problems,
            );
        }
        _ => wrong_type(node, what, "text", help, problems),
    }
    None
}

/// Text that can be handed to a process.
pub(super) fn exec_text(
    node: &Node,
    what: &str,
    help: &str,
    problems: &mut Problems,
) -> Option<String> {
    let text = text(node, what, help, problems)?;
    check_exec_text(node, what, text, 0, problems).then(|| text.to_owned())
}

/// Text that can be handed to a process, and passes a test of its own.
pub(super) fn exec_text_where(
    node: &Node,
    what: &str,
    help: &str,
    test: impl FnOnce(&str) -> Result<(), &'static str>,
    problems: &mut Problems,
) -> Option<String> {
    let text = text(node, what, help, problems)?;
    checked(node, what, text, help, test, problems)
}

/// A text, or a part of one, that can be handed to a process and passes a test.
pub(super) fn checked(
    node: &Node,
    what: &str,
    text: &str,
    help: &str,
    test: impl FnOnce(&str) -> Result<(), &'static str>,
    problems: &mut Problems,
) -> Option<String> {
    if !check_exec_text(node, what, text, 0, problems) {
        return None;
    }
    match test(text) {
        Ok(()) => Some(text.to_owned()),
        Err(fault) => {
            let message = faulty(what, fault, text);
            problems.push(Diagnostic::new(node.span.clone(), message).help(help));
            None
        }
    }
}

/// Names a fault of a text, and the text if there is any.
fn faulty(what: &str, fault: &str, text: &str) -> String {
    match text {
        "" => format!("{what} {fault}"),
        text => format!("{what} {fault}: {}", quoted(text)),
    }
}

fn check_exec_text(
    node: &Node,
    what: &str,
    text: &str,
    more_bytes: usize,
    problems: &mut Problems,
) -> bool {
    let problem = if text.contains('\0') {
        Diagnostic::new(node.span.clone(), format!("{what} holds a NUL character"))
            .label("no program can be given this")
    } else if text.len() + more_bytes > MAX_ARGUMENT_BYTES {
        Diagnostic::new(
            node.span.clone(),
            format!("{what} is longer than {MAX_ARGUMENT_BYTES} bytes"),
        )
        .label("longer than Linux passes on")
        .help("put the data into the image, or send it through stdin")
    } else {
        return true;
    };
    problems.push(problem);
    false
}

/// The items of a list; nothing behind the key is an empty list.
pub(super) fn list<'n>(
    node: &'n Node,
    what: &str,
    help: &str,
    max: usize,
    problems: &mut Problems,
) -> &'n [Node] {
    match &*node.value {
        Value::List(items) if items.len() > max => {
            let span = items.get(max).map_or(&node.span, |item| &item.span);
            problems.push(
                Diagnostic::new(span.clone(), format!("{what} has {} items", items.len()))
                    .label(format!("at most {max}")),
            );
            &[]
        }
        Value::List(items) => items,
        Value::Null => &[],
        _ => {
            wrong_type(node, what, "a list", help, problems);
            &[]
        }
    }
}

/// An amount with a unit, or another value that knows how it is read.
pub(super) fn parsed<T, E: Display>(
    node: &Node,
    what: &str,
    help: &str,
    parse: impl FnOnce(&str) -> Result<T, E>,
    problems: &mut Problems,
) -> Option<T> {
    let text = text(node, what, help, problems)?;
    match parse(text) {
        Ok(value) => Some(value),
        Err(error) => {
            problems.push(Diagnostic::new(
                node.span.clone(),
                format!("{what}: {error}"),
            ));
            None
        }
    }
}

/// A whole number within bounds, in decimal digits.
pub(super) fn number<T: FromStr + PartialOrd + Display>(
    node: &Node,
    what: &str,
    range: RangeInclusive<T>,
    problems: &mut Problems,
) -> Option<T> {
    let expected = format!("a whole number from {} to {}", range.start(), range.end());
    let Value::Scalar(text) = &*node.value else {
        wrong_type(
            node,
            what,
            &expected,
            &format!("write {expected}"),
            problems,
        );
        return None;
    };
    let is_digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text
        .parse()
        .ok()
        .filter(|number| is_digits && range.contains(number));
    if number.is_none() {
        let message = format!("{what} must be {expected}, not {}", quoted(text));
        problems.push(Diagnostic::new(node.span.clone(), message));
    }
    number
}

/// One of a few words.
pub(super) fn word<T: Copy, const N: usize>(
    node: &Node,
    what: &str,
    words: [(&str, T); N],
    help: &str,
    problems: &mut Problems,
) -> Option<T> {
    let text = text(node, what, help, problems)?;
    let found = words.iter().find(|(word, _)| *word == text);
    if found.is_none() {
        let words = words.map(|(word, _)| word);
        let message = format!("{what} must be {}, not {}", one_of(&words), quoted(text));
        let problem = Diagnostic::new(node.span.clone(), message);
        let meant = match text.to_ascii_lowercase().as_str() {
            "yes" | "y" | "on" | "1" => Some("true"),
            "no" | "n" | "off" | "0" => Some("false"),
            text => nearest(text, &words),
        };
        problems.push(match meant.filter(|meant| words.contains(meant)) {
            Some(meant) => problem.suggest(meant),
            None => problem.help(help),
        });
    }
    found.map(|(_, value)| *value)
}

/// Words as a sentence has them that leaves the choice.
fn one_of(words: &[&str]) -> String {
    match words {
        [rest @ .., last] if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        words => words.concat(),
    }
}

/// What messages call a link.
pub(super) fn link_name(node: &Node, problems: &mut Problems) -> Option<String> {
    let help = "leave `Name` out to use the command's name";
    let name = text(node, "`Name`", help, problems)?;
    let fault = if name.trim().is_empty() {
        "is empty"
    } else if name.trim() != name {
        "has blanks around it"
    } else if name.len() > MAX_NAME_BYTES {
        "is longer than 100 bytes"
    } else if name.chars().any(char::is_control) {
        "holds control characters"
    } else {
        return Some(name.to_owned());
    };
    let message = faulty("`Name`", fault, name);
    problems.push(Diagnostic::new(node.span.clone(), message).help(help));
    None
}

/// The entries of a mapping whose keys are for the author to choose, without those whose
/// key stands there already; nothing behind the mapping's own key is an empty one.
pub(super) fn entries<'n>(
    node: &'n Node,
    kind: &Entries,
    problems: &mut Problems,
) -> Vec<(&'n str, &'n Node, &'n Node)> {
    let mut named = Vec::new();
    let entries = match &*node.value {
        Value::Map(entries) => entries,
        Value::Null => return named,
        _ => {
            wrong_type(node, kind.what, "a mapping", kind.help, problems);
            return named;
        }
    };
    if let Some((key, _)) = entries.get(kind.max) {
        let message = format!("{} has more than {} {}", kind.what, kind.max, kind.items);
        problems.push(Diagnostic::new(key.span.clone(), message).label("one too many"));
        return named;
    }
    let mut keys: BTreeMap<&str, &Node> = BTreeMap::new();
    for (key, value) in entries {
        let help = "put a name that YAML takes for something else in quotes";
        let Some(name) = text(key, kind.name, help, problems) else {
            continue;
        };
        if name == "<<" && matches!(*value.value, Value::Map(_) | Value::List(_)) {
            problems.push(merge_key(key));
            continue;
        }
        if let Some(first) = keys.get(name) {
            problems.push(duplicate(name, first, key));
            continue;
        }
        keys.insert(name, key);
        named.push((name, key, value));
    }
    named
}

/// A mapping whose keys are for the author to choose.
pub(super) struct Entries {
    /// The key in front of it.
    pub(super) what: &'static str,
    /// What a key of it is.
    pub(super) name: &'static str,
    /// What its entries are called, in the error that there are more than `max`.
    pub(super) items: &'static str,
    pub(super) max: usize,
    /// How it is written.
    pub(super) help: &'static str,
}

const ENVIRONMENT: Entries = Entries {
    what: "`Environment`",
    name: "the name of an environment variable",
    items: "variables",
    max: MAX_ENVIRONMENT_VARIABLES,
    help: "write each variable on a line of its own, as in `LANG: C`",
};

/// Environment variables by name. What else is to be held against a text is for `test`
/// to say.
pub(super) fn environment(
    node: &Node,
    mut test: impl FnMut(&Node, &str, &str, &mut Problems),
    problems: &mut Problems,
) -> BTreeMap<String, String> {
    let mut variables = BTreeMap::new();
    for (name, key, value) in entries(node, &ENVIRONMENT, problems) {
        let is_name = variable_name(key, name, problems);
        let what = format!("the environment variable {}", quoted(name));
        let help = "write '' for an empty value; the host's own value is never passed on";
        if let Some(text) = text(value, &what, help, problems)
            && check_exec_text(value, &what, text, name.len() + 1, problems)
        {
            test(value, name, text, problems);
            if is_name {
                variables.insert(name.to_owned(), text.to_owned());
            }
        }
    }
    variables
}

fn variable_name(node: &Node, name: &str, problems: &mut Problems) -> bool {
    let fault = if name.is_empty() {
        "is empty"
    } else if name.contains('=') {
        "holds a `=`"
    } else if name.contains('\0') {
        "holds a NUL character"
    } else if name.len() > MAX_ENVIRONMENT_NAME_BYTES {
        "is longer than 255 bytes"
    } else {
        return true;
    };
    let message = faulty("the name of an environment variable", fault, name);
    problems.push(
        Diagnostic::new(node.span.clone(), message).help("write it as in `LANG: C`, without `=`"),
    );
    false
}
