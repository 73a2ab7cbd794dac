//! The values of parameters: checked, and put where a link has a place for them.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::chain::Chain;
use crate::file::suggest::nearest;
use crate::limits::{MAX_ARGUMENT_BYTES, MAX_FILLED_BYTES};
use crate::link::Link;
use crate::pattern::Pattern;
use crate::template::{self, Piece};
use crate::units::quoted;

/// What the value of a chain's parameter may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameter {
    /// What all of a value must match.
    pub pattern: Pattern,
    /// The value where a call gives none; `None` where each call must give one.
    pub default: Option<String>,
}

/// Arguments and variables of a link with the values of its parameters in place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filled {
    /// Arguments of the command.
    pub arguments: Vec<String>,
    /// Variables set over those of the image.
    pub environment: BTreeMap<String, String>,
}

/// Values that cannot be used. Reads well behind `failed to`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParameterError {
    /// There is no such parameter.
    #[error("set the parameter {}: {}", quoted(name), known(name, parameters))]
    Unknown {
        /// The name that was given.
        name: String,
        /// The parameters that there are, in order.
        parameters: Vec<String>,
    },
    /// A value is needed that was not given.
    #[error(
        "find a value of the parameter {}: give one that matches {}",
        quoted(name),
        quoted(pattern)
    )]
    Missing {
        /// The parameter's name.
        name: String,
        /// Its pattern.
        pattern: String,
    },
    /// A value does not match its pattern.
    #[error(
        "set the parameter {} to {}, which does not match {}",
        quoted(name),
        quoted(value),
        quoted(pattern)
    )]
    Mismatch {
        /// The parameter's name.
        name: String,
        /// The value.
        value: String,
        /// The pattern.
        pattern: String,
    },
    /// A value holds a NUL character.
    #[error(
        "set the parameter {}: the value holds a NUL character, which no program can be given",
        quoted(name)
    )]
    Nul {
        /// The parameter's name.
        name: String,
    },
    /// A value, or what it became part of, is longer than Linux passes on.
    #[error(
        "set the parameter {}: longer than {MAX_ARGUMENT_BYTES} bytes, which Linux does not pass on",
        quoted(name)
    )]
    TooLong {
        /// The parameter's name.
        name: String,
    },
    /// All arguments and variables of a link are too long together.
    #[error(
        "put the parameters in place: more than {MAX_FILLED_BYTES} bytes of arguments and variables"
    )]
    TooLarge,
}

/// What there is instead of a parameter of that name.
fn known(name: &str, parameters: &[String]) -> String {
    let names: Vec<&str> = parameters.iter().map(String::as_str).collect();
    match nearest(name, &names) {
        _ if names.is_empty() => "there are no parameters".to_owned(),
        Some(near) => format!("there is none of that name; did you mean `{near}`?"),
        None => format!("there is none of that name; there are {}", names.join(", ")),
    }
}

impl ParameterError {
    /// The name of the parameter that is to blame, if one is.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Unknown { name, .. }
            | Self::Missing { name, .. }
            | Self::Mismatch { name, .. }
            | Self::Nul { name }
            | Self::TooLong { name } => Some(name),
            Self::TooLarge => None,
        }
    }

    /// The value that does not match.
    pub fn value(&self) -> Option<&str> {
        match self {
            Self::Mismatch { value, .. } => Some(value),
            _ => None,
        }
    }

    /// The pattern that the value does not match, or that a missing one must match.
    pub fn pattern(&self) -> Option<&str> {
        match self {
            Self::Missing { pattern, .. } | Self::Mismatch { pattern, .. } => Some(pattern),
            _ => None,
        }
    }
}

impl Chain {
    /// The values for a call of this chain: those that are given, and the defaults.
    ///
    /// # Errors
    /// A name that the chain does not have, a value that is missing, or one that does
    /// not match.
    pub fn values(
        &self,
        given: &BTreeMap<String, String>,
    ) -> Result<BTreeMap<String, String>, ParameterError> {
        if let Some(name) = given
            .keys()
            .find(|name| !self.parameters.contains_key(*name))
        {
            return Err(ParameterError::Unknown {
                name: name.clone(),
                parameters: self.parameters.keys().cloned().collect(),
            });
        }
        let value_of = |(name, parameter): (&String, &Parameter)| {
            let value = match (given.get(name), &parameter.default) {
                (Some(value), _) | (None, Some(value)) => value,
                (None, None) => return Err(missing(name, &parameter.pattern)),
            };
            check(name, value, &parameter.pattern)?;
            Ok((name.clone(), value.clone()))
        };
        self.parameters.iter().map(value_of).collect()
    }
}

impl Link {
    /// Arguments and variables with these values in place. Values of names that this
    /// link does not use are for others, and left alone.
    ///
    /// # Errors
    /// A value is missing or does not match its pattern, or the result cannot be handed
    /// to a process.
    pub fn fill(&self, values: &BTreeMap<String, String>) -> Result<Filled, ParameterError> {
        for (name, pattern) in &self.parameters {
            let value = values.get(name).ok_or_else(|| missing(name, pattern))?;
            check(name, value, pattern)?;
        }
        let mut filling = Filling {
            link: self,
            values,
            bytes: 0,
        };
        let arguments = self.arguments.iter();
        let arguments: Result<_, ParameterError> = arguments
            .map(|argument| filling.text(argument, 0))
            .collect();
        let arguments = arguments?;
        let variables = self.environment.iter();
        let environment: Result<_, ParameterError> = variables
            .map(|(name, value)| Ok((name.clone(), filling.text(value, name.len() + 1)?)))
            .collect();
        Ok(Filled {
            arguments,
            environment: environment?,
        })
    }
}

fn missing(name: &str, pattern: &Pattern) -> ParameterError {
    ParameterError::Missing {
        name: name.to_owned(),
        pattern: pattern.to_string(),
    }
}

/// Whether a parameter may have a value.
fn check(name: &str, value: &str, pattern: &Pattern) -> Result<(), ParameterError> {
    let name = || name.to_owned();
    if value.contains('\0') {
        Err(ParameterError::Nul { name: name() })
    } else if value.len() > MAX_ARGUMENT_BYTES {
        Err(ParameterError::TooLong { name: name() })
    } else if !pattern.is_match(value) {
        Err(ParameterError::Mismatch {
            name: name(),
            value: value.to_owned(),
            pattern: pattern.to_string(),
        })
    } else {
        Ok(())
    }
}

/// One link's texts on their way.
struct Filling<'a> {
    link: &'a Link,
    values: &'a BTreeMap<String, String>,
    /// Of all texts so far.
    bytes: usize,
}

impl Filling<'_> {
    /// A text with the values in place; `more_bytes` stand before it.
    fn text(&mut self, template: &str, more_bytes: usize) -> Result<String, ParameterError> {
        let filled = if self.link.parameters.is_empty() {
            Cow::Borrowed(template)
        } else {
            Cow::Owned(self.fill(template, more_bytes)?)
        };
        self.bytes += more_bytes + filled.len() + 1;
        if self.bytes > MAX_FILLED_BYTES {
            return Err(ParameterError::TooLarge);
        }
        Ok(filled.into_owned())
    }

    fn fill(&self, template: &str, more_bytes: usize) -> Result<String, ParameterError> {
        let mut filled = String::new();
        for piece in template::pieces(template) {
            match piece {
                Piece::Text(text) => filled.push_str(text),
                Piece::Broken(span) => filled.push_str(&template[span]),
                Piece::Value(name, _) => {
                    let value = self.values.get(name);
                    let value = value.filter(|_| self.link.parameters.contains_key(name));
                    // Nobody has checked what the link does not declare.
                    filled.push_str(value.ok_or_else(|| ParameterError::Unknown {
                        name: name.to_owned(),
                        parameters: self.link.parameters.keys().cloned().collect(),
                    })?);
                    if more_bytes + filled.len() > MAX_ARGUMENT_BYTES {
                        let name = name.to_owned();
                        return Err(ParameterError::TooLong { name });
                    }
                }
            }
        }
        Ok(filled)
    }
}
