//! Parameters, and the texts with places for their values.
//!
//! In a chain that declares parameters, `Arguments` and the values of `Environment` are
//! templates. A link that uses none of them is kept with its plain texts, so that its
//! id is that of the same link in any other chain.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::diagnostic::{Diagnostic, Problems};
use super::fields::{Fields, LINK_PARAMETER, PARAMETER, Section};
use super::suggest::nearest;
use super::tree::Node;
use super::value::{self, Entries};
use crate::limits::MAX_PARAMETERS;
use crate::link::Link;
use crate::parameters::Parameter;
use crate::pattern::Pattern;
use crate::template::{OPENING, Piece, is_name, pieces, unescape};
use crate::units::quoted;

const PARAMETERS: Entries = Entries {
    what: "`Parameters`",
    name: "the name of a parameter",
    items: "parameters",
    max: MAX_PARAMETERS,
    help: "write each parameter on a line of its own, as in `width: {Pattern: '[0-9]+'}`",
};

/// The variable in which the command itself is looked up, when the link is loaded.
const PATH: &str = "PATH";

/// The parameters of a chain or link, and which of them are used.
#[derive(Default)]
pub(super) struct Templates<'n> {
    declared: BTreeMap<&'n str, Declared<'n>>,
    used: BTreeSet<&'n str>,
    /// Used by the link that is being read.
    used_by_link: BTreeSet<&'n str>,
}

struct Declared<'n> {
    key: &'n Node,
    /// `None` if there is something wrong with it.
    pattern: Option<Pattern>,
    default: Option<String>,
}

impl<'n> Templates<'n> {
    /// Reads the parameters that a chain declares.
    pub(super) fn of_chain(node: Option<&'n Node>, problems: &mut Problems) -> Self {
        Self::read(node, &PARAMETER, problems)
    }

    /// Reads the parameters that a link by itself uses.
    pub(super) fn of_link(node: Option<&'n Node>, problems: &mut Problems) -> Self {
        Self::read(node, &LINK_PARAMETER, problems)
    }

    fn read(node: Option<&'n Node>, section: &Section, problems: &mut Problems) -> Self {
        let mut templates = Self::default();
        let Some(node) = node else { return templates };
        for (name, key, value) in value::entries(node, &PARAMETERS, problems) {
            if !is_name(name) {
                problems.push(no_name("a parameter", name, key));
            }
            let declared = declared(name, key, value, section, problems);
            templates.declared.insert(name, declared);
        }
        templates
    }

    /// Checks a text of a link that may have places for values.
    pub(super) fn template(
        &mut self,
        node: &Node,
        what: &str,
        text: &str,
        problems: &mut Problems,
    ) {
        if self.declared.is_empty() {
            return;
        }
        for piece in pieces(text) {
            match piece {
                Piece::Text(_) => {}
                Piece::Value(name, span) => match self.declared.get_key_value(name) {
                    Some((name, _)) => {
                        self.used_by_link.insert(name);
                    }
                    None => {
                        let place = problems.place_of(&node.span, text, span);
                        problems.push(self.undeclared(name, place));
                    }
                },
                Piece::Broken(span) => {
                    let message = format!("{what} has a `{OPENING}` without a parameter's name");
                    let place = problems.place_of(&node.span, text, span);
                    problems.push(
                        Diagnostic::new(place, message)
                            .label("the place of a value begins so")
                            .help("write `${name}` for a parameter, `$${` for a literal `${`"),
                    );
                }
            }
        }
    }

    fn undeclared(&self, name: &str, place: Range<usize>) -> Diagnostic {
        let message = format!("no parameter is called {}", quoted(name));
        let problem = Diagnostic::new(place, message);
        let names: Vec<&str> = self.declared.keys().copied().collect();
        match nearest(name, &names) {
            Some(near) => problem.suggest(format!("${{{near}}}")),
            None => problem.label("not declared").help(format!(
                "declare it under `Parameters`, or write `$${{{name}}}` for a literal `${{{name}}}`"
            )),
        }
    }

    /// Checks the value of an environment variable.
    pub(super) fn variable(
        &mut self,
        node: &Node,
        variable: &str,
        text: &str,
        problems: &mut Problems,
    ) {
        if variable == PATH {
            let is_value = |piece: &Piece<'_>| matches!(piece, Piece::Value(..));
            if !self.declared.is_empty() && pieces(text).any(|piece| is_value(&piece)) {
                problems.push(
                    Diagnostic::new(node.span.clone(), "`PATH` takes no parameter")
                        .label("the command is looked up there before there is a request")
                        .help("write `$${` for a literal `${`"),
                );
                return;
            }
        }
        self.template(node, "an environment variable", text, problems);
    }

    /// Checks a text of a link that can have no place for a value, and is taken as it
    /// stands.
    pub(super) fn plain(&self, node: &Node, what: &str, text: &str, problems: &mut Problems) {
        if self.declared.is_empty() {
            return;
        }
        for piece in pieces(text) {
            if let Piece::Value(name, span) = piece
                && self.declared.contains_key(name)
            {
                let place = problems.place_of(&node.span, text, span);
                problems.push(
                    Diagnostic::new(place, format!("{what} takes no parameter"))
                        .label("would be taken as it stands")
                        .help("parameters are for `Arguments` and `Environment`"),
                );
            }
        }
    }

    /// Ends the reading of a link: gives it the parameters that it uses, or plain texts.
    pub(super) fn end_link(&mut self, link: &mut Link) {
        let used = std::mem::take(&mut self.used_by_link);
        if used.is_empty() && !self.declared.is_empty() {
            let texts = link.arguments.iter_mut();
            for text in texts.chain(link.environment.values_mut()) {
                *text = unescape(text);
            }
        }
        let pattern = |name: &&str| {
            Some((
                (*name).to_owned(),
                self.declared.get(name)?.pattern.clone()?,
            ))
        };
        link.parameters = used.iter().filter_map(pattern).collect();
        self.used.extend(used);
    }

    /// Reports what no link uses.
    pub(super) fn check_use(&self, problems: &mut Problems) {
        for (name, declared) in &self.declared {
            if !self.used.contains(name) {
                let message = format!("no link uses the parameter {}", quoted(name));
                let problem = Diagnostic::new(declared.key.span.clone(), message);
                problems.push(problem.label("not used").help(format!(
                    "write `${{{name}}}` in `Arguments` or `Environment`, or remove it"
                )));
            }
        }
    }

    /// What the chain declares.
    pub(super) fn into_parameters(self) -> BTreeMap<String, Parameter> {
        let parameter = |(name, declared): (&str, Declared<'_>)| {
            let Declared {
                pattern, default, ..
            } = declared;
            let pattern = pattern?;
            Some((name.to_owned(), Parameter { pattern, default }))
        };
        self.declared.into_iter().filter_map(parameter).collect()
    }
}

fn declared<'n>(
    name: &str,
    key: &'n Node,
    node: &Node,
    section: &Section,
    problems: &mut Problems,
) -> Declared<'n> {
    let mut declared = Declared {
        key,
        pattern: None,
        default: None,
    };
    let Some(fields) = Fields::read(node, section, problems) else {
        return declared;
    };
    declared.pattern = fields
        .get("Pattern")
        .and_then(|node| pattern(node, problems));
    if fields.lacks("Pattern") {
        let message = format!("the parameter {} has no `Pattern`", quoted(name));
        problems.push(
            Diagnostic::new(key.span.clone(), message)
                .label("could have any value")
                .help("say what its values may be, as in `Pattern: '[1-9][0-9]{0,3}'`"),
        );
    }
    if let Some(node) = fields.get("Default") {
        let help = "write '' for an empty value; without `Default` each call must give one";
        declared.default = value::exec_text(node, "`Default`", help, problems);
        if let (Some(value), Some(pattern)) = (&declared.default, &declared.pattern)
            && !pattern.is_match(value)
        {
            let problem = Diagnostic::new(node.span.clone(), "`Default` does not match `Pattern`");
            let problem = problem.label("no call could have this value");
            let problem = match fields.get("Pattern") {
                Some(pattern) => problem.related(pattern.span.clone(), "all of it must match this"),
                None => problem,
            };
            problems.push(problem);
        }
    }
    declared
}

fn pattern(node: &Node, problems: &mut Problems) -> Option<Pattern> {
    let help = "write a regular expression in quotes, as in '[1-9][0-9]{0,3}'";
    let text = value::text(node, "`Pattern`", help, problems)?;
    let error = match Pattern::new(text) {
        Ok(pattern) => return Some(pattern),
        Err(error) => error,
    };
    let place = match error.span() {
        Some(span) => problems.place_of(&node.span, text, span),
        None => node.span.clone(),
    };
    problems.push(
        Diagnostic::new(place, format!("`Pattern` cannot be used: {}", quoted(text)))
            .label(error.to_string())
            .help("it is a regular expression, as Rust's `regex` reads it with `(?-u)`"),
    );
    None
}

/// A name that a parameter, data or a secret cannot have.
pub(super) fn no_name(what: &str, name: &str, node: &Node) -> Diagnostic {
    let message = format!("{what} cannot be called {}", quoted(name));
    Diagnostic::new(node.span.clone(), message)
        .help("use 1 to 64 of A-Z a-z 0-9 _ -, the first a letter or _")
}
