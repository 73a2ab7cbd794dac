//! Nodes to a chain, and to how it uses its links.
//!
//! Every function reads on after a problem, with the default in place of what
//! is wrong, so that all problems are found; the caller throws the result away
//! if there was any.

use super::diagnostic::{Diagnostic, Problems};
use super::fields::{CHAIN_LINK, Fields, TOP};
use super::link::{link_fields, what_runs};
use super::media_type::media_type;
use super::templates::Templates;
use super::tree::{Node, Value};
use super::value;
use crate::chain::{Chain, ChainLink, Deadline, is_chain_name};
use crate::limits::{MAX_LINKS, MAX_NAME_BYTES};
use crate::units::quoted;

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
    let content_type = fields.get("ContentType");
    let content_type = content_type.and_then(|node| media_type(node, problems));
    let mut templates = Templates::of_chain(fields.get("Parameters"), problems);
    let before = problems.len();
    let links = match fields.get("Chain") {
        Some(node) => links(node, &mut templates, problems),
        None => {
            if fields.lacks("Chain") {
                let start = root.span.start;
                let problem = Diagnostic::new(start..start, "the file has no `Chain`");
                problems.push(problem.help(TOP_EXAMPLE));
            }
            Vec::new()
        }
    };
    if problems.len() == before {
        templates.check_use(problems);
    }
    Some(Chain {
        name: name.flatten().unwrap_or_else(|| default_name.to_owned()),
        deadline: deadline.unwrap_or_default(),
        content_type,
        parameters: templates.into_parameters(),
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

fn links(node: &Node, templates: &mut Templates<'_>, problems: &mut Problems) -> Vec<ChainLink> {
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
        .filter_map(|item| chain_link(item, templates, problems))
        .collect()
}

/// A link in a chain.
fn chain_link(
    node: &Node,
    templates: &mut Templates<'_>,
    problems: &mut Problems,
) -> Option<ChainLink> {
    let fields = link_fields(node, &CHAIN_LINK, problems)?;
    let mut link = ChainLink::new(what_runs(node, &fields, templates, problems));
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
