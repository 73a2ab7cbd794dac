//! Causes of errors.
//!
//! The text of an error does not repeat that of its [`source`](Error::source): whoever
//! prints it adds each cause once.

use std::error::Error;

/// What another library has found, or what we say about it.
pub(crate) type Cause = Box<dyn Error + Send + Sync>;

/// An error, and after it each of its causes, on one line.
pub(crate) fn with_causes(error: &dyn Error) -> String {
    let causes = std::iter::successors(Some(error), |error| (*error).source());
    let texts: Vec<String> = causes.map(ToString::to_string).collect();
    texts.join(": ")
}
