//! YAML to nodes that know where they stand.
//!
//! Nothing here knows what a chain is. Aliases share what they stand for, and
//! what they would amount to if they were copied is bounded, so that a few
//! lines cannot stand for gigabytes.

use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;

use granit_parser::{ErrorKind, Event, Parser, ScalarStyle, ScanError, Span, Tag, options};

use super::diagnostic::{Diagnostic, Problems};
use crate::limits::MAX_NESTING_LEVELS;
use crate::units::quoted;

/// A value and where it stands; for an alias, where the alias stands.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) span: Range<usize>,
    pub(super) value: Rc<Value>,
}

#[derive(Debug)]
pub(super) enum Value {
    /// Text, as written but for quotes, escapes and folded lines.
    Scalar(String),
    /// Nothing, `~` or `null`.
    Null,
    List(Vec<Node>),
    Map(Vec<(Node, Node)>),
    /// Something that has been reported already.
    Invalid,
}

/// Parses one document. `None` if it cannot be made out, with a problem.
pub(super) fn parse(text: &str, max_weight: usize, problems: &mut Problems) -> Option<Node> {
    let options = options! {
        flow_nesting_limit: MAX_NESTING_LEVELS,
        block_nesting_limit: MAX_NESTING_LEVELS,
        emit_comments: false,
        emit_unresolved_aliases: true,
    };
    let mut builder = Builder {
        text,
        max_weight,
        weight: 0,
        anchors: HashMap::new(),
        open: Vec::new(),
        root: None,
        problems,
    };
    for event in Parser::new_from_str_with_options(text, options) {
        let result = match event {
            Ok((event, span)) => builder.event(event, &span),
            Err(error) => Err(Box::new(syntax_error(text, &error))),
        };
        if let Err(problem) = result {
            builder.problems.push(*problem);
            return None;
        }
    }
    // A file without any content has no document either.
    Some(builder.root.unwrap_or_else(|| node(0..0, Value::Null)))
}

/// A node under construction, or one that is done.
struct Weighed {
    node: Node,
    /// What it would amount to with each alias copied: its bytes, and one for
    /// each node.
    weight: usize,
}

/// A list or mapping whose end has not come yet.
struct Open {
    start: usize,
    anchor: usize,
    weight: usize,
    is_map: bool,
    /// Of a mapping, key and value in turn.
    nodes: Vec<Node>,
}

struct Builder<'t> {
    text: &'t str,
    max_weight: usize,
    /// Of all nodes so far, with each alias copied.
    weight: usize,
    anchors: HashMap<usize, (Rc<Value>, usize)>,
    open: Vec<Open>,
    root: Option<Node>,
    problems: &'t mut Problems,
}

impl Builder<'_> {
    fn event(&mut self, event: Event<'_>, span: &Span) -> Result<(), Box<Diagnostic>> {
        let range = bytes(span);
        match event {
            Event::DocumentStart(..) if self.root.is_some() => {
                return Err(Box::new(
                    Diagnostic::new(range, "the file holds more than one YAML document")
                        .label("a second document begins here")
                        .help("put each chain into a file of its own"),
                ));
            }
            Event::Scalar(text, style, anchor, tag) => {
                let is_text = self.check_tag(tag.as_deref(), span) || style != ScalarStyle::Plain;
                let weight = text.len() + 1;
                let value = if !is_text && is_null(&text) {
                    Value::Null
                } else {
                    Value::Scalar(text.into_owned())
                };
                self.add(
                    Weighed {
                        node: node(range, value),
                        weight,
                    },
                    anchor,
                )?;
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.check_tag(tag.as_deref(), span);
                self.begin(range.start, anchor, false);
            }
            Event::MappingStart(_, anchor, tag) => {
                self.check_tag(tag.as_deref(), span);
                self.begin(range.start, anchor, true);
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(range.end)?,
            Event::Alias(anchor) => self.alias(range, anchor)?,
            Event::UnresolvedAlias(name) => {
                let problem = Diagnostic::new(
                    range.clone(),
                    format!("no anchor {} comes before this", quoted(&name)),
                )
                .label("an alias, since it begins with `*`")
                .help(format!("to pass the text, put it in quotes: '*{name}'"));
                self.problems.push(problem);
                self.add(
                    Weighed {
                        node: node(range, Value::Invalid),
                        weight: 1,
                    },
                    0,
                )?;
            }
            _ => {}
        }
        Ok(())
    }

    fn begin(&mut self, start: usize, anchor: usize, is_map: bool) {
        let (weight, nodes) = (1, Vec::new());
        self.weight += weight;
        self.open.push(Open {
            start,
            anchor,
            weight,
            is_map,
            nodes,
        });
    }

    fn end(&mut self, end: usize) -> Result<(), Box<Diagnostic>> {
        let Some(open) = self.open.pop() else {
            return Ok(());
        };
        // A block ends where the next thing begins: leave out what is between.
        let content = self.text.get(open.start..end).unwrap_or_default();
        let span = open.start..open.start + content.trim_end().len();
        let value = if open.is_map {
            let mut nodes = open.nodes.into_iter();
            Value::Map(std::iter::from_fn(|| Some((nodes.next()?, nodes.next()?))).collect())
        } else {
            Value::List(open.nodes)
        };
        // Its weight and that of its parts are counted already.
        self.weight -= open.weight;
        self.add(
            Weighed {
                node: node(span, value),
                weight: open.weight,
            },
            open.anchor,
        )
    }

    fn alias(&mut self, range: Range<usize>, anchor: usize) -> Result<(), Box<Diagnostic>> {
        let Some((value, weight)) = self.anchors.get(&anchor) else {
            return Err(Box::new(
                Diagnostic::new(range, "an alias stands inside what it stands for")
                    .label("this would never end"),
            ));
        };
        let node = Node {
            span: range,
            value: Rc::clone(value),
        };
        let weight = *weight;
        self.add(Weighed { node, weight }, 0)
    }

    /// Puts a node where it belongs.
    fn add(&mut self, weighed: Weighed, anchor: usize) -> Result<(), Box<Diagnostic>> {
        let Weighed { node, weight } = weighed;
        self.weight += weight;
        if self.weight > self.max_weight {
            let message = format!("the file amounts to more than {} bytes", self.max_weight);
            return Err(Box::new(
                Diagnostic::new(node.span, message)
                    .label("too much from here on")
                    .help("an alias counts as often as it is used"),
            ));
        }
        if anchor != 0 {
            self.anchors
                .insert(anchor, (Rc::clone(&node.value), weight));
        }
        match self.open.last_mut() {
            Some(open) => {
                open.weight += weight;
                open.nodes.push(node);
            }
            None => self.root = Some(node),
        }
        Ok(())
    }

    /// Reports any tag but `!!str`, and tells whether it is that one.
    fn check_tag(&mut self, tag: Option<&Tag>, span: &Span) -> bool {
        let Some(tag) = tag else { return false };
        if tag.is_yaml_core_schema_tag("str") {
            return true;
        }
        let range = span
            .tag_span()
            .map_or_else(|| bytes(span), |span| bytes(&span));
        let text = self.text.get(range.clone()).unwrap_or_default();
        let problem = Diagnostic::new(
            range,
            format!("the tag {} has no meaning here", quoted(text)),
        )
        .label("a tag, since it begins with `!`")
        .help("to pass the text, put it in quotes");
        self.problems.push(problem);
        false
    }
}

fn node(span: Range<usize>, value: Value) -> Node {
    Node {
        span,
        value: Rc::new(value),
    }
}

fn is_null(text: &str) -> bool {
    matches!(text, "" | "~" | "null" | "Null" | "NULL")
}

fn bytes(span: &Span) -> Range<usize> {
    let start = span.start.byte_offset().unwrap_or_default();
    start..span.end.byte_offset().unwrap_or_default().max(start)
}

/// What the parser stumbled over, in the words of a user.
fn syntax_error(text: &str, error: &ScanError) -> Diagnostic {
    let place = error.marker().byte_offset().unwrap_or_default();
    if let Some(tab) = tab_in_indentation(text, place) {
        return Diagnostic::new(tab..tab + 1, "a tab in the indentation")
            .label("a tab")
            .help("YAML indents with spaces only");
    }
    let help = match error.kind() {
        ErrorKind::RecursionLimitExceeded => {
            return Diagnostic::new(place..place, "lists and mappings are nested too deeply")
                .label(format!("more than {MAX_NESTING_LEVELS} levels"));
        }
        ErrorKind::MappingValueNotAllowed => {
            Some("check the indentation; text that holds a colon and a space needs quotes")
        }
        ErrorKind::UnexpectedCharacter { character } => {
            let message = format!("text cannot begin with {}", quoted(&character.to_string()));
            return Diagnostic::new(place..place + character.len_utf8(), message)
                .label("reserved by YAML")
                .help("put the text in quotes");
        }
        ErrorKind::ExpectedBlockMappingKey
        | ErrorKind::ExpectedBlockSequenceEntry
        | ErrorKind::InvalidIndentation
        | ErrorKind::SimpleKeyExpected
        | ErrorKind::InvalidSimpleKey => {
            Some("check the indentation: keys of one link start in the same column")
        }
        ErrorKind::ExpectedFlowSequenceSeparator
        | ErrorKind::ExpectedFlowMappingSeparator
        | ErrorKind::UnclosedFlowCollection { .. }
        | ErrorKind::ExpectedNodeContent => {
            Some("text that begins with one of [ ] { } , & * ! | > needs quotes")
        }
        ErrorKind::UnclosedQuotedScalar => Some("close the quotes"),
        _ => None,
    };
    let message = format!("invalid YAML: {}", error.kind());
    let problem = Diagnostic::new(place..place, message).label("here");
    match help {
        Some(help) => problem.help(help),
        None => problem,
    }
}

/// A tab in the indentation of the line that the parser stopped at, or of the
/// next one: it may take that for more of the text before it.
fn tab_in_indentation(text: &str, place: usize) -> Option<usize> {
    let before = text.get(..place)?;
    let mut line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    for line in text.get(line_start..)?.split_inclusive('\n').take(2) {
        let indentation = line.len() - line.trim_start_matches([' ', '\t']).len();
        if let Some(tab) = line[..indentation].find('\t') {
            return Some(line_start + tab);
        }
        line_start += line.len();
    }
    None
}
