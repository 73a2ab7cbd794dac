//! How errors are put together.
//!
//! The text of an error of this project is a fragment that reads on behind "failed
//! to". It does not repeat the text of its [`source`](Error::source): printing adds
//! each cause once, as anyhow's `{:#}` and [`with_causes`] do.

use std::error::Error;
use std::fmt;

/// "failed to", and what was to be done: the same error as a sentence.
#[derive(Debug)]
pub struct FailedTo<E>(pub E);

impl<E: fmt::Display> fmt::Display for FailedTo<E> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "failed to {}", self.0)
    }
}

impl<E: Error> Error for FailedTo<E> {
    /// The text of the error itself is told already.
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source()
    }
}

/// An error, and after it each of its causes, on one line.
pub fn with_causes(error: &dyn Error) -> String {
    let causes = std::iter::successors(Some(error), |error| (*error).source());
    causes
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}
