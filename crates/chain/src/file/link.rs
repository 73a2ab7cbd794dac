//! Nodes to a link: what it runs.
//!
//! Every function reads on after a problem, with the default in place of what is
//! wrong, so that all problems are found; the caller throws the result away if there
//! was any.

use std::time::Duration;

use super::diagnostic::{Diagnostic, Problems};
use super::faults::wrong_type;
use super::fields::{CONSTRAINTS, Fields, LINK, Section};
use super::files;
use super::path;
use super::templates::Templates;
use super::tree::{Node, Value};
use super::value;
use crate::limits::{MAX_ARGUMENTS, MAX_WARM};
use crate::link::{Constraints, Link, Network, Warm, Writable};
use crate::units::{UnitError, parse_duration, parse_mebibytes, parse_memory, quoted};

/// Processes beyond which Linux has no numbers for them.
const MAX_PROCESSES: u32 = 1 << 22;

/// Open files of a process: fewer than a program needs to start and to be given its
/// input and output make no sense, and Linux gives no more unless it is told to.
const OPEN_FILES: std::ops::RangeInclusive<u32> = 16..=1 << 20;

/// A link that stands by itself.
pub(super) fn link(root: &Node, problems: &mut Problems) -> Option<Link> {
    let fields = link_fields(root, &LINK, problems)?;
    let mut templates = Templates::of_link(fields.get("Parameters"), problems);
    let before = problems.len();
    let link = what_runs(root, &fields, &mut templates, problems);
    if problems.len() == before {
        templates.check_use(problems);
    }
    Some(link)
}

/// The fields of a link, which cannot be nothing at all.
pub(super) fn link_fields<'n>(
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
pub(super) fn what_runs(
    node: &Node,
    fields: &Fields<'_>,
    templates: &mut Templates<'_>,
    problems: &mut Problems,
) -> Link {
    if fields.lacks("Image") {
        let problem = Diagnostic::new(node.span.clone(), "a link has no `Image`");
        problems.push(
            problem
                .label("this link")
                .help("add a line such as `Image: busybox`"),
        );
    }
    let mut link = Link::default();
    read_program(&mut link, fields, templates, problems);
    read_settings(&mut link, fields, problems);
    files::read(&mut link, fields, problems);
    for (key, texts) in [
        ("Image", Some(&link.image)),
        ("Command", link.command.as_ref()),
        ("WorkingDirectory", link.working_directory.as_ref()),
        ("User", link.user.as_ref()),
        ("Input", link.input.as_ref()),
        ("Output", link.output.as_ref()),
    ] {
        if let (Some(node), Some(text)) = (fields.get(key), texts) {
            templates.plain(node, &format!("`{key}`"), text, problems);
        }
    }
    templates.end_link(&mut link);
    link
}

/// What is executed.
fn read_program(
    link: &mut Link,
    fields: &Fields<'_>,
    templates: &mut Templates<'_>,
    problems: &mut Problems,
) {
    if let Some(node) = fields.get("Image") {
        link.image = image(node, problems).unwrap_or_default();
    }
    if let Some(node) = fields.get("Command") {
        link.command = command(node, problems);
    }
    if let Some(node) = fields.get("Arguments") {
        link.arguments = arguments(node, templates, problems);
    }
    if let Some(node) = fields.get("Environment") {
        let test = |node: &Node, name: &str, text: &str, problems: &mut Problems| {
            templates.variable(node, name, text, problems);
        };
        link.environment = value::environment(node, test, problems);
    }
    if let Some(node) = fields.get("WorkingDirectory") {
        link.working_directory = working_directory(node, problems);
    }
    if let Some(node) = fields.get("User") {
        link.user = user(node, problems);
    }
}

/// What it may do, and where its input and output are.
fn read_settings(link: &mut Link, fields: &Fields<'_>, problems: &mut Problems) {
    if let Some(node) = fields.get("Writable") {
        link.writable = writable(node, problems).unwrap_or_default();
    }
    if let Some(node) = fields.get("Network") {
        link.network = network(node, problems).unwrap_or_default();
    }
    if let Some(node) = fields.get("Warm") {
        link.warm = warm(node, problems).unwrap_or_default();
    }
    if let Some(node) = fields.get("Input") {
        link.input = path::input(node, problems);
    }
    if let Some(node) = fields.get("Output") {
        link.output = path::output(node, problems);
    }
    if let Some(node) = fields.get("Constraints") {
        link.constraints = constraints(node, problems).unwrap_or_default();
    }
}

fn image(node: &Node, problems: &mut Problems) -> Option<String> {
    let help = "write an image's reference, as in `Image: busybox`";
    let name = value::text(node, "`Image`", help, problems)?;
    image_name(node, "`Image`", name, help, problems)
}

/// The reference of an image.
pub(super) fn image_name(
    node: &Node,
    what: &str,
    name: &str,
    help: &str,
    problems: &mut Problems,
) -> Option<String> {
    let test = |image: &str| {
        if image.is_empty() {
            Err("is empty")
        } else if image.contains(|c: char| c.is_whitespace() || c.is_control()) {
            Err("holds white space or control characters")
        } else {
            Ok(())
        }
    };
    let image = value::checked(node, what, name, help, test, problems)?;
    let problem = problems.image_problem.and_then(|problem| problem(&image));
    let Some(problem) = problem else {
        return Some(image);
    };
    let message = format!("{what} is no image's name: {}", quoted(&image));
    let problem = Diagnostic::new(node.span.clone(), message).label(problem);
    problems.push(problem.help(help));
    None
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

fn arguments(node: &Node, templates: &mut Templates<'_>, problems: &mut Problems) -> Vec<String> {
    let help = "write each argument on a line of its own, as in `- 'data'`";
    let items = value::list(node, "`Arguments`", help, MAX_ARGUMENTS, problems);
    let help = "write '' for an empty argument; put a word such as null in quotes";
    let mut argument = |item| {
        let text = value::exec_text(item, "an argument", help, problems)?;
        templates.template(item, "an argument", &text, problems);
        Some(text)
    };
    items.iter().filter_map(&mut argument).collect()
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

fn writable(node: &Node, problems: &mut Problems) -> Option<Writable> {
    let help = "`true` gives the link a writable root that is thrown away with the process, \
                `never` one that is read-only whatever the default is";
    let words = [
        ("true", Writable::Yes),
        ("false", Writable::No),
        ("never", Writable::Never),
    ];
    value::word(node, "`Writable`", words, help, problems)
}

fn network(node: &Node, problems: &mut Problems) -> Option<Network> {
    let help = "`none` shuts the network out, `loopback` leaves the link one of its own, \
                `sealed` not even that, `host` gives it the host's own";
    let words = [
        ("none", Network::None),
        ("loopback", Network::Loopback),
        ("sealed", Network::Sealed),
        ("host", Network::Host),
    ];
    value::word(node, "`Network`", words, help, problems)
}

fn warm(node: &Node, problems: &mut Problems) -> Option<Warm> {
    let help = "`false` starts each process with its request, a number keeps so many in \
                reserve; without `Warm`, some are started ahead";
    // Not the true or false that others write as 1 and 0.
    if let Value::Scalar(text) = &*node.value
        && text.parse::<f64>().is_ok()
    {
        let range = 1..=MAX_WARM;
        let count = value::number(node, "`Warm`", range, problems)?;
        return Some(Warm::Count(count));
    }
    let words = [("true", Warm::Default), ("false", Warm::Late)];
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
        cpu_time: fields
            .get("CPUTime")
            .and_then(|node| value::parsed(node, "`CPUTime`", "as in `10s`", cpu_time, problems)),
        output: fields.get("Output").and_then(|node| {
            value::parsed(node, "`Output`", "as in `20M`", parse_mebibytes, problems)
        }),
        scratch: fields.get("Scratch").and_then(|node| {
            value::parsed(node, "`Scratch`", "as in `10G`", parse_memory, problems)
        }),
        open_files: fields
            .get("OpenFiles")
            .and_then(|node| value::number(node, "`OpenFiles`", OPEN_FILES, problems)),
    })
}

/// A time in whole milliseconds; what is finer is cut off.
fn cpu_time(text: &str) -> Result<Duration, UnitError> {
    let milliseconds = parse_duration(text)?.as_millis();
    match u64::try_from(milliseconds) {
        Ok(milliseconds @ 1..) => Ok(Duration::from_millis(milliseconds)),
        _ => Err(UnitError::TooSmall {
            text: quoted(text),
            least: "at least 1ms",
        }),
    }
}
