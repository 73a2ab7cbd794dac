//! Faults that a node can have whatever it stands for: a wrong type, a key twice, a
//! merge key.

use super::diagnostic::{Diagnostic, Problems};
use super::tree::{Node, Value};
use crate::units::quoted;

/// Reports that something is not what it must be. `what` names it.
pub(super) fn wrong_type(
    node: &Node,
    what: &str,
    expected: &str,
    help: &str,
    problems: &mut Problems,
) {
    let message = match &*node.value {
        Value::Invalid => return,
        Value::Null => format!("{what} is empty"),
        Value::Scalar(_) => format!("{what} must be {expected}, not text"),
        Value::List(_) => format!("{what} must be {expected}, not a list"),
        Value::Map(_) => format!("{what} must be {expected}, not a mapping"),
    };
    problems.push(
        Diagnostic::new(node.span.clone(), message)
            .label(format!("expected {expected}"))
            .help(help),
    );
}

/// A key that stands twice in a mapping.
pub(super) fn duplicate(word: &str, first: &Node, second: &Node) -> Diagnostic {
    Diagnostic::new(
        second.span.clone(),
        format!("duplicate key {}", quoted(word)),
    )
    .label("given again")
    .related(first.span.clone(), "first given here")
}

/// A merge key: an addition to YAML that YAML 1.2 does not have.
pub(super) fn merge_key(key: &Node) -> Diagnostic {
    Diagnostic::new(key.span.clone(), "merge keys (`<<`) are not supported")
        .label("a merge key")
        .help("use an alias for a whole value, as in `Environment: *name`, or repeat the keys")
}
