//! Nodes to a chain: one function for each kind of mapping.
//!
//! Every function reads on after a problem, with the default in place of what
//! is wrong, so that all problems are found; the caller throws the result away
//! if there was any.

use super::diagnostic::{Diagnostic, Problems};
use super::faults::wrong_type;
use super::fields::{CHAIN_LINK, CONSTRAINTS, Fields, LINK, Section, TOP};
use super::tree::{Node, Value};
use super::value;
use crate::chain::{Chain, ChainLink, Deadline, is_chain_name};
use crate::limits::{MAX_ARGUMENTS, MAX_LINKS, MAX_NAME_BYTES};
use crate::link::{Constraints, Link, Network};
use crate::units::{parse_memory, quoted};

/// Processes beyond which Linux has no numbers for them.
const MAX_PROCESSES: u32 = 1 << 22;

/// A chain file.
pub(super) fn chain(root: &Node, default_name: &str, problems: &mut Problems) -> Option<Chain> {
    if matches!(*root.value, Value::Null) {
        let problem = Diagnostic::new(root.span.clone(), "the file is empty");
        problems.push(problem.help(TOP_EXAMPLE));
        return None;
    }
    let fields = Fields::read(root, &TOP, problems)?;
    let name = fields.get("Name").map(|node| chain_name(node, problems));
    let deadline = fields.get("Deadline").map(|node| deadline(node, problems));
    let links = match fields.get("Chain") {
        Some(node) => links(node, problems),
        None => {
            if fields.lacks("Chain") {
                let start = root.span.start;
                let problem = Diagnostic::new(start..start, "the file has no `Chain`");
                problems.push(problem.help(TOP_EXAMPLE));
            }
            Vec::new()
        }
    };
    Some(Chain {
        name: name.flatten().unwrap_or_else(|| default_name.to_owned()),
        deadline: deadline.unwrap_or_default(),
        links,
    })
}

const TOP_EXAMPLE: &str = "the least chain file is `Chain: [{Image: busybox, Command: cat}]`";

fn chain_name(node: &Node, problems: &mut Problems) -> Option<String> {
    let help = format!(
        "use 1 to {MAX_NAME_BYTES} of A-Z a-z 0-9 . _ -, the first a letter or a digit: \
         the name is part of the URL /chains/<name>"
    );
    let name = value::text(node, "`Name`", &help, problems)?;
    if !is_chain_name(name) {
        let message = format!("a chain cannot be called {}", quoted(name));
        problems.push(Diagnostic::new(node.span.clone(), message).help(help));
    }
    Some(name.to_owned())
}

fn links(node: &Node, problems: &mut Problems) -> Vec<ChainLink> {
    let help = "list the links under it, each beginning with `- Image: `";
    let before = problems.is_empty();
    let items = value::list(node, "`Chain`", help, MAX_LINKS, problems);
    let is_list = matches!(*node.value, Value::List(_) | Value::Null);
    if items.is_empty() && is_list && (before == problems.is_empty()) {
        let problem = Diagnostic::new(node.span.clone(), "the chain is empty");
        problems.push(problem.label("no links").help(help));
    }
    items
        .iter()
        .filter_map(|item| chain_link(item, problems))
        .collect()
}

/// A link in a chain.
fn chain_link(node: &Node, problems: &mut Problems) -> Option<ChainLink> {
    let fields = link_fields(node, &CHAIN_LINK, problems)?;
    let mut link = ChainLink::new(what_runs(node, &fields, problems));
    if let Some(name) = fields
        .get("Name")
        .and_then(|node| value::link_name(node, problems))
    {
        link.name = name;
    }
    if let Some(node) = fields.get("Deadline") {
        link.deadline = deadline(node, problems).or(None);
    }
    if let Some(node) = fields.get("Retries") {
        link.retries = value::number(node, "`Retries`", 0..=u32::MAX, problems);
    }
    if let Some(node) = fields.get("AcceptedExitCodes") {
        link.accepted_exit_codes = exit_codes(node, problems);
    }
    Some(link)
}

/// A link that stands by itself.
pub(super) fn link(root: &Node, problems: &mut Problems) -> Option<Link> {
    let fields = link_fields(root, &LINK, problems)?;
    Some(what_runs(root, &fields, problems))
}

/// The fields of a link, which cannot be nothing at all.
fn link_fields<'n>(
    node: &'n Node,
    section: &Section,
    problems: &mut Problems,
) -> Option<Fields<'n>> {
    if matches!(*node.value, Value::Null) {
        let problem = Diagnostic::new(node.span.clone(), "a link is empty");
        problems.push(
            problem
                .label("no link here")
                .help("a link has at least an `Image`"),
        );
        return None;
    }
    Fields::read(node, section, problems)
}

/// What a link runs.
fn what_runs(node: &Node, fields: &Fields<'_>, problems: &mut Problems) -> Link {
    if fields.lacks("Image") {
        let problem = Diagnostic::new(node.span.clone(), "a link has no `Image`");
        problems.push(
            problem
                .label("this link")
                .help("add a line such as `Image: busybox`"),
        );
    }
    Link {
        image: fields
            .get("Image")
            .and_then(|node| image(node, problems))
            .unwrap_or_default(),
        command: fields
            .get("Command")
            .and_then(|node| command(node, problems)),
        arguments: fields
            .get("Arguments")
            .map(|node| arguments(node, problems))
            .unwrap_or_default(),
        environment: fields
            .get("Environment")
            .map(|node| value::environment(node, problems))
            .unwrap_or_default(),
        working_directory: fields
            .get("WorkingDirectory")
            .and_then(|node| working_directory(node, problems)),
        user: fields.get("User").and_then(|node| user(node, problems)),
        writable: fields
            .get("Writable")
            .and_then(|node| writable(node, problems))
            .unwrap_or_default(),
        network: fields
            .get("Network")
            .and_then(|node| network(node, problems))
            .unwrap_or_default(),
        late: fields
            .get("Warm")
            .and_then(|node| warm(node, problems))
            .is_some_and(|warm| !warm),
        constraints: fields
            .get("Constraints")
            .and_then(|node| constraints(node, problems))
            .unwrap_or_default(),
    }
}

fn image(node: &Node, problems: &mut Problems) -> Option<String> {
    let help = "write an image's reference, as in `Image: busybox`";
    let test = |image: &str| {
        if image.is_empty() {
            Err("is empty")
        } else if image.contains(|c: char| c.is_whitespace() || c.is_control()) {
            Err("holds white space or control characters")
        } else {
            Ok(())
        }
    };
    let image = value::exec_text_where(node, "`Image`", help, test, problems)?;
    match problems.image_problem.and_then(|problem| problem(&image)) {
        None => Some(image),
        Some(problem) => {
            let message = format!(
                "`Image` is no image's name: {}",
                crate::units::quoted(&image)
            );
            let problem = Diagnostic::new(node.span.clone(), message).label(problem);
            problems.push(problem.help(help));
            None
        }
    }
}

fn command(node: &Node, problems: &mut Problems) -> Option<String> {
    let help = "leave `Command` out to run the image's own command";
    if let Value::List(_) = &*node.value {
        let help = "put the program behind `Command`, the rest in a list under `Arguments`";
        wrong_type(node, "`Command`", "text", help, problems);
        return None;
    }
    let test = |command: &str| {
        if command.is_empty() {
            Err("is empty")
        } else {
            Ok(())
        }
    };
    value::exec_text_where(node, "`Command`", help, test, problems)
}

fn arguments(node: &Node, problems: &mut Problems) -> Vec<String> {
    let help = "write each argument on a line of its own, as in `- 'data'`";
    let items = value::list(node, "`Arguments`", help, MAX_ARGUMENTS, problems);
    let help = "write '' for an empty argument; put a word such as null in quotes";
    items
        .iter()
        .filter_map(|item| value::exec_text(item, "an argument", help, problems))
        .collect()
}

fn working_directory(node: &Node, problems: &mut Problems) -> Option<String> {
    let help = "write an absolute path, as in `/tmp`";
    let test = |path: &str| {
        if path.starts_with('/') {
            Ok(())
        } else {
            Err("is not absolute")
        }
    };
    value::exec_text_where(node, "`WorkingDirectory`", help, test, problems)
}

fn user(node: &Node, problems: &mut Problems) -> Option<String> {
    let help = "write a name or a number, and perhaps a group, as in `nobody` or `1000:1000`";
    let test = |user: &str| {
        if user.is_empty() {
            Err("is empty")
        } else if user.contains(|c: char| c.is_whitespace() || c.is_control()) {
            Err("holds white space or control characters")
        } else {
            Ok(())
        }
    };
    value::exec_text_where(node, "`User`", help, test, problems)
}

fn writable(node: &Node, problems: &mut Problems) -> Option<bool> {
    let help = "`true` gives the link a writable root that is thrown away with the process";
    value::word(
        node,
        "`Writable`",
        [("true", true), ("false", false)],
        help,
        problems,
    )
}

fn network(node: &Node, problems: &mut Problems) -> Option<Network> {
    let help = "`none` shuts the network out, `host` gives the link the host's own";
    let words = [("none", Network::None), ("host", Network::Host)];
    value::word(node, "`Network`", words, help, problems)
}

fn warm(node: &Node, problems: &mut Problems) -> Option<bool> {
    let help =
        "`false` starts each process with its request; without `Warm`, some are started ahead";
    let words = [("true", true), ("false", false)];
    // Not the true or false that others write as 1 and 0.
    if let Value::Scalar(text) = &*node.value
        && text.parse::<f64>().is_ok()
    {
        let message = format!("`Warm` must be true or false, not {}", quoted(text));
        let problem = Diagnostic::new(node.span.clone(), message);
        problems.push(
            problem
                .label("how many are started ahead cannot be chosen")
                .help(help),
        );
        return None;
    }
    value::word(node, "`Warm`", words, help, problems)
}

fn constraints(node: &Node, problems: &mut Problems) -> Option<Constraints> {
    let fields = Fields::read(node, &CONSTRAINTS, problems)?;
    Some(Constraints {
        memory: fields.get("Memory").and_then(|node| {
            value::parsed(node, "`Memory`", "as in `20M`", parse_memory, problems)
        }),
        cpu: fields
            .get("CPU")
            .and_then(|node| value::parsed(node, "`CPU`", "as in `0.5`", str::parse, problems)),
        processes: fields
            .get("Processes")
            .and_then(|node| value::number(node, "`Processes`", 1..=MAX_PROCESSES, problems)),
    })
}

/// A deadline; `none` switches it off.
fn deadline(node: &Node, problems: &mut Problems) -> Deadline {
    let help = "write a time such as `30s`, or `none`";
    value::parsed(node, "`Deadline`", help, str::parse, problems).unwrap_or_default()
}

fn exit_codes(node: &Node, problems: &mut Problems) -> Vec<u8> {
    let what = "`AcceptedExitCodes`";
    let help = "write a list of numbers, as in `[0, 1]`";
    let items = value::list(node, what, help, 256, problems);
    if items.is_empty() && matches!(*node.value, Value::List(_) | Value::Null) {
        let problem = Diagnostic::new(node.span.clone(), format!("{what} is empty"));
        problems.push(problem.label("no exit code would be success").help(help));
    }
    let what = "an exit code";
    let mut codes: Vec<u8> = items
        .iter()
        .filter_map(|item| value::number(item, what, 0..=u8::MAX, problems))
        .collect();
    codes.sort_unstable();
    codes.dedup();
    codes
}
