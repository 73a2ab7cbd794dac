//! What is wrong with a file, as data and as text that shows the line.
//!
//! Nothing here knows what a chain is.

use std::fmt;
use std::ops::Range;
use std::rc::Rc;

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet, normalize_untrusted_str};

use crate::limits::MAX_REPORTED_ERRORS;

/// Bytes of a line that are given to the renderer behind the place of an error.
const SHOWN_LINE_BYTES: usize = 2000;

/// One thing that is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Diagnostic {
    /// What is wrong: a lower-case fragment.
    pub message: String,
    /// The line it is on, counted from 1.
    pub line: usize,
    /// The character of the line that it begins with, counted from 1.
    pub column: usize,
    /// The bytes of the file that are wrong, not counting a byte-order mark;
    /// empty where something is missing.
    pub span: Range<usize>,
    /// A few words that belong right under those bytes.
    pub label: Option<String>,
    /// What to do about it.
    pub help: Option<String>,
    /// Another place that this one is at odds with, and what stands there.
    pub related: Option<(Range<usize>, String)>,
    /// An edit that would probably put it right.
    pub suggestion: Option<Suggestion>,
}

/// An edit that would probably put an error right.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Suggestion {
    /// The bytes to replace.
    pub span: Range<usize>,
    /// What to put in their place.
    pub replacement: String,
}

impl Diagnostic {
    /// A diagnostic whose line and column are yet to be found.
    pub(super) fn new(span: Range<usize>, message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            line: 0,
            column: 0,
            span,
            label: None,
            help: None,
            related: None,
            suggestion: None,
        }
    }

    pub(super) fn label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    pub(super) fn related(mut self, span: Range<usize>, label: impl Into<String>) -> Self {
        self.related = Some((span, label.into()));
        self
    }

    /// Suggests to write something else in place of the span.
    pub(super) fn suggest(mut self, replacement: impl Into<String>) -> Self {
        let replacement = replacement.into();
        self.label = Some(format!("did you mean `{replacement}`?"));
        self.suggestion = Some(Suggestion {
            span: self.span.clone(),
            replacement,
        });
        self
    }
}

/// The problems found so far, up to a bound.
#[derive(Debug, Default)]
pub(super) struct Problems {
    found: Vec<Diagnostic>,
    omitted: usize,
    /// The text of the file.
    pub(super) text: Rc<str>,
    /// What is to be held against an image's name, besides what is here.
    pub(super) image_problem: Option<ImageProblem>,
}

/// Says what is wrong with an image's name, as a fragment, if something is.
pub(super) type ImageProblem = fn(&str) -> Option<String>;

impl Problems {
    pub(super) fn new(image_problem: Option<ImageProblem>) -> Self {
        Self {
            image_problem,
            ..Self::default()
        }
    }

    /// Adds a problem, unless it is known: a shared node is read more than
    /// once.
    pub(super) fn push(&mut self, problem: Diagnostic) {
        if self.found.contains(&problem) {
        } else if self.found.len() < MAX_REPORTED_ERRORS {
            self.found.push(problem);
        } else {
            self.omitted += 1;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.found.len() + self.omitted
    }

    /// Where a part of a scalar stands in the file: what is at `at` in its value and has
    /// the given bytes. All of the scalar, where it is written otherwise than it reads.
    pub(super) fn place_of(
        &self,
        scalar: &Range<usize>,
        value: &str,
        at: Range<usize>,
    ) -> Range<usize> {
        let (Some(source), Some(part)) = (self.text.get(scalar.clone()), value.get(at.clone()))
        else {
            return scalar.clone();
        };
        if let Some(start) = source.find(value) {
            let start = scalar.start + start;
            return start + at.start..start + at.end;
        }
        // It is as often before this in the file as in the value.
        let Some(before) = value.get(..at.start) else {
            return scalar.clone();
        };
        let count = |text: &str| text.matches(part).count();
        if part.is_empty() || count(source) != count(value) {
            return scalar.clone();
        }
        let found = source.match_indices(part).nth(count(before));
        found.map_or(scalar.clone(), |(start, _)| {
            let start = scalar.start + start;
            start..start + part.len()
        })
    }
}

/// A file that cannot be used, with everything that is wrong with it.
///
/// Its text shows each error with its line; so it stands on lines of its own
/// and needs nothing before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileError {
    label: String,
    text: String,
    diagnostics: Vec<Diagnostic>,
    omitted: usize,
}

impl std::error::Error for FileError {}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl FileError {
    pub(super) fn new(label: &str, problems: Problems) -> Self {
        let text = String::from(&*problems.text);
        let mut diagnostics = problems.found;
        for diagnostic in &mut diagnostics {
            diagnostic.span = within(&text, &diagnostic.span);
            let before = &text[..diagnostic.span.start];
            let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
            diagnostic.line = before.matches('\n').count() + 1;
            diagnostic.column = before[line_start..].chars().count() + 1;
            if let Some((span, _)) = &mut diagnostic.related {
                *span = within(&text, span);
            }
        }
        diagnostics.sort_by_key(|diagnostic| diagnostic.span.start);
        Self {
            label: label.to_owned(),
            text,
            diagnostics,
            omitted: problems.omitted,
        }
    }

    /// What the file was called when it was read.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// What is wrong, in the order of the file; at least one thing.
    pub fn diagnostics(&self) -> &[Diagnostic] {
        &self.diagnostics
    }

    /// How many more things are wrong than [`FileError::diagnostics`] has.
    pub fn omitted(&self) -> usize {
        self.omitted
    }

    /// All errors as text for a terminal, each with its line, without a line
    /// break at the end.
    pub fn render(&self, color: bool) -> String {
        let renderer = if color {
            Renderer::styled()
        } else {
            Renderer::plain()
        };
        let mut parts: Vec<String> = self
            .diagnostics
            .iter()
            .map(|diagnostic| self.render_one(diagnostic, &renderer))
            .collect();
        if self.omitted > 0 {
            let errors = if self.omitted == 1 { "error" } else { "errors" };
            let label = normalize_untrusted_str(&self.label);
            parts.push(format!("error: {} more {errors} in {label}", self.omitted));
        }
        parts.join("\n\n")
    }

    fn render_one(&self, diagnostic: &Diagnostic, renderer: &Renderer) -> String {
        let related = diagnostic.related.as_ref();
        let related_span = related.map_or(&diagnostic.span, |(span, _)| span);
        let window = self.window(&diagnostic.span, related_span);
        let shown = &self.text[window.clone()];
        let in_window = |span: &Range<usize>| {
            let start = span.start.clamp(window.start, window.end);
            let first_line = &self.text[start..span.end.clamp(start, window.end)];
            let length = first_line.find(['\n', '\r']).unwrap_or(first_line.len());
            start - window.start..start - window.start + length
        };
        let first_line = self.text[..window.start].matches('\n').count() + 1;
        let primary = AnnotationKind::Primary
            .span(in_window(&diagnostic.span))
            .label(diagnostic.label.as_deref());
        let mut snippet = Snippet::source(shown)
            .line_start(first_line)
            .path(self.label.as_str())
            .annotation(primary);
        if let Some((span, label)) = related {
            let context = AnnotationKind::Context.span(in_window(span));
            snippet = snippet.annotation(context.label(label.as_str()));
        }
        let mut group = Level::ERROR
            .primary_title(diagnostic.message.as_str())
            .element(snippet);
        if let Some(help) = &diagnostic.help {
            group = group.element(Level::HELP.message(normalize_untrusted_str(help)));
        }
        renderer.render(&[group])
    }

    /// The lines that two places are on. A very long line is cut after the
    /// place, but never before it, so that the column stays right.
    fn window(&self, one: &Range<usize>, other: &Range<usize>) -> Range<usize> {
        let (first, last) = (one.start.min(other.start), one.start.max(other.start));
        let start = self.text[..first]
            .rfind('\n')
            .map_or(0, |newline| newline + 1);
        let rest = &self.text[last..];
        let line_end = last + rest.find('\n').unwrap_or(rest.len());
        let end = line_end.min(self.text.floor_char_boundary(last + SHOWN_LINE_BYTES));
        let shown = self.text.get(start..end).unwrap_or_default();
        start..start + shown.strip_suffix('\r').unwrap_or(shown).len()
    }
}

/// The span moved to character boundaries of the text, and out of the middle
/// of a line break, which is not shown.
fn within(text: &str, span: &Range<usize>) -> Range<usize> {
    let mut start = text.floor_char_boundary(span.start.min(text.len()));
    let (before, behind) = text.split_at(start);
    if before.ends_with('\r') && (behind.is_empty() || behind.starts_with('\n')) {
        start -= 1;
    }
    start
        ..text
            .floor_char_boundary(span.end.min(text.len()))
            .max(start)
}
