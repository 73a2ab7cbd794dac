//! Patterns of parameters: which values one may have.
//!
//! A pattern comes from a stranger, and so does what it is tried on. Matching takes
//! time in proportion to both, whatever they are, and both are bounded: a pattern that
//! matches values of any length must be small, and one that is large has a longest value,
//! beyond which nothing is tried. A pattern means the same in every build: there is no Unicode in it, whose
//! tables change and may be left out.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Range;
use std::sync::Arc;

use regex_automata::meta::Regex;
use regex_automata::nfa::thompson::WhichCaptures;
use regex_syntax::ast::{self, Ast, Flag, Flags};
use regex_syntax::hir::translate::TranslatorBuilder;
use regex_syntax::hir::{Hir, Look};

use crate::limits::{
    MAX_COMPILED_ENDLESS_PATTERN_BYTES, MAX_COMPILED_PATTERN_BYTES, MAX_PATTERN_BYTES,
};

/// Groups in groups; each is a call of a recursive function somewhere.
const MAX_NESTED_GROUPS: u32 = 50;

/// Memory in which states of a pattern are kept while it is tried.
const MATCH_CACHE_BYTES: usize = 1 << 20;

/// A regular expression that a whole value must match.
///
/// The syntax is that of the `regex` crate with `(?-u)`: it looks at bytes, and `\d`,
/// `\w` and `(?i)` know ASCII alone.
///
/// ```
/// let width = chain::Pattern::new("[1-9][0-9]{0,3}")?;
/// assert!(width.is_match("300") && !width.is_match("300px"));
/// # Ok::<(), chain::PatternError>(())
/// ```
#[derive(Clone)]
pub struct Pattern(Arc<Compiled>);

struct Compiled {
    text: String,
    regex: Regex,
    /// Of the longest value that matches; `None` if there is none.
    length_max: Option<usize>,
}

impl Pattern {
    /// Compiles a pattern.
    ///
    /// # Errors
    /// It is no pattern, or one that is too large.
    pub fn new(text: &str) -> Result<Self, PatternError> {
        if text.len() > MAX_PATTERN_BYTES {
            return Err(PatternError::whole(format!(
                "it is longer than {MAX_PATTERN_BYTES} bytes"
            )));
        }
        let ast = parse(text)?;
        let mut translator = TranslatorBuilder::new().unicode(false).utf8(false).build();
        let hir = translator.translate(text, &ast).map_err(|error| {
            let span = error.span();
            PatternError::new(error.kind(), span.start.offset..span.end.offset)
        })?;
        let length_max = hir.properties().maximum_len();
        let size_max = match length_max {
            Some(_) => MAX_COMPILED_PATTERN_BYTES,
            None => MAX_COMPILED_ENDLESS_PATTERN_BYTES,
        };
        // Not as text, where what is added could be part of a comment.
        let whole = Hir::concat(vec![Hir::look(Look::Start), hir, Hir::look(Look::End)]);
        let config = Regex::config()
            .utf8_empty(false)
            .which_captures(WhichCaptures::None)
            .nfa_size_limit(Some(size_max))
            .onepass_size_limit(Some(size_max))
            .hybrid_cache_capacity(MATCH_CACHE_BYTES);
        let regex = Regex::builder().configure(config).build_from_hir(&whole);
        let regex = regex.map_err(|error| {
            PatternError::whole(match (error.size_limit(), length_max) {
                (Some(limit), Some(_)) => {
                    format!("compiled, it is larger than {limit} bytes: repeat less")
                }
                (Some(limit), None) => format!(
                    "compiled, it is larger than {limit} bytes: repeat less, or let no value \
                     of any length match (no `*`, `+` or `{{1,}}`)"
                ),
                (None, _) => error.to_string(),
            })
        })?;
        Ok(Self(Arc::new(Compiled {
            text: text.to_owned(),
            regex,
            length_max,
        })))
    }

    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.0.text
    }

    /// Whether all of a value matches.
    pub fn is_match(&self, value: &str) -> bool {
        let is_too_long = self.0.length_max.is_some_and(|max| value.len() > max);
        !is_too_long && self.0.regex.is_match(value.as_bytes())
    }
}

fn parse(text: &str) -> Result<Ast, PatternError> {
    let mut parser = ast::parse::ParserBuilder::new()
        .nest_limit(MAX_NESTED_GROUPS)
        .build();
    let parsed = parser.parse(text).map_err(|error| {
        let span = error.span();
        PatternError::new(error.kind(), span.start.offset..span.end.offset)
    })?;
    ast::visit(&parsed, NoUnicode).map(|()| parsed)
}

/// Refuses what would switch Unicode on.
struct NoUnicode;

impl ast::Visitor for NoUnicode {
    type Output = ();
    type Err = PatternError;

    fn finish(self) -> Result<(), PatternError> {
        Ok(())
    }

    fn visit_pre(&mut self, ast: &Ast) -> Result<(), PatternError> {
        let flags: Option<&Flags> = match ast {
            Ast::Flags(set) => Some(&set.flags),
            Ast::Group(group) => group.flags(),
            _ => None,
        };
        match flags {
            Some(flags) if flags.flag_state(Flag::Unicode) == Some(true) => {
                let (start, end) = (flags.span.start.offset, flags.span.end.offset);
                Err(PatternError::new("Unicode is not supported", start..end))
            }
            _ => Ok(()),
        }
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Pattern {}

impl Hash for Pattern {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pattern({:?})", self.as_str())
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that is no pattern, as a fragment that says why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct PatternError {
    problem: String,
    span: Option<Range<usize>>,
}

impl PatternError {
    fn new(problem: impl fmt::Display, span: Range<usize>) -> Self {
        Self {
            problem: problem.to_string(),
            span: Some(span),
        }
    }

    fn whole(problem: String) -> Self {
        Self {
            problem,
            span: None,
        }
    }

    /// The bytes of the pattern that are wrong; `None` for all of it.
    pub fn span(&self) -> Option<Range<usize>> {
        self.span.clone()
    }
}
